//! `verify` recognises the files of history without reading them, and names one that was replaced.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lemonade_task::inbox::{Directories, HistoryLimits, Inbox, Patience};

use crate::broker::address;
use crate::end_to_end::indexes::through;
use crate::support::Pair;
use crate::support::proxy::{Proxy, Strike};

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

/// The limits of history are applied after `files reload` has found a file there, and before the file is
/// in inbound again.
#[tokio::test(flavor = "multi_thread")]
async fn the_limits_of_history_remove_no_file_that_is_being_reloaded() {
    let pair = Pair::new("memory+mysql").await;
    let event = "{\"vehicle_id\":\"v\",\"event_time\":\"2026-03-01T10:00:00Z\",\"event_source\":\"s\",\
                 \"event_type\":\"t\",\"event_value\":\"1\"}\n";
    let file = "vehicle_events.ndjson";
    fs::write(pair.at("inbound").join(file), event).unwrap();
    pair.expect(0, &["load"]);
    let proxy = Proxy::start(address(&pair.database_url).0).await;
    proxy.strike("SET reason = NULL WHERE file_no", Strike::WaitRequest);
    let mut reload = through(&pair, &proxy, &["files", "reload", "1", "--yes"])
        .spawn()
        .unwrap();
    proxy.struck(1).await;
    let directories = Directories {
        inbound: pair.at("inbound"),
        work: pair.at("work"),
        history: pair.at("history"),
        quarantine: pair.at("quarantine"),
    };
    let patience = Patience {
        quiet_time: Duration::ZERO,
        incomplete_after: Duration::ZERO,
        one_name: false,
    };
    // As a service that starts now.
    let inbox = Inbox::open(directories, patience, "a").unwrap();
    let limits = HistoryLimits {
        age: Some(Duration::ZERO),
        bytes: Some(0),
    };
    let pruned = inbox.prune_history(limits, SystemTime::now()).unwrap();
    drop(inbox);
    assert!(pruned.failed.is_none(), "{pruned:?}");
    proxy.release();
    let code = tokio::task::spawn_blocking(move || reload.wait().unwrap().code());
    assert_eq!(code.await.unwrap(), Some(0));
    assert_eq!(
        fs::read(pair.at("inbound").join(file)).unwrap(),
        event.as_bytes()
    );
    pair.expect(0, &["load"]);
    pair.expect(0, &["verify", "--content"]);
    assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_events").await, 1);
}
