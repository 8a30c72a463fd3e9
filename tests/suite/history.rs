//! `verify` recognises the files of history without reading them, and names one that was replaced.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use crate::support::Pair;

/// The ctime of a file in history shows when it was moved there. An older file of the same size that
/// replaces it in the same second has another inode and another mtime.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_at_once_is_named() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        let file = "vehicle_events.ndjson";
        let event = |value: u32| {
            format!(
                "{{\"vehicle_id\":\"v\",\"event_time\":\"2026-03-01T10:00:00Z\",\"event_source\":\"s\",\
                 \"event_type\":\"t\",\"event_value\":\"{value}\"}}\n"
            )
        };
        let old = pair.at("old");
        fs::write(&old, event(9)).unwrap();
        let long_ago = UNIX_EPOCH + Duration::from_secs(1);
        let opened = fs::File::open(&old).unwrap();
        opened.set_modified(long_ago).unwrap();
        fs::write(pair.at("inbound").join(file), event(1)).unwrap();
        pair.expect(0, &["load"]);
        pair.expect(0, &["verify"]);
        fs::rename(&old, pair.at("history").join(file)).unwrap();
        // The move is that of the settling, however slow this machine is.
        let now = if name.ends_with("sqlite") {
            "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"
        } else {
            "UTC_TIMESTAMP(6)"
        };
        pair.execute(&format!("UPDATE ingest_files SET settled_at = {now}"))
            .await;
        let said = pair.expect(1, &["verify"]);
        assert!(said.contains("does not have the bytes"), "{said}");
        // A file of an earlier release has no mark, and its time decides.
        pair.execute("UPDATE ingest_files SET mark = NULL").await;
        pair.expect(0, &["verify"]);
    }
}
