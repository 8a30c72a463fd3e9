//! Commands that store records keep the limits that spare a database.

use std::fs;
use std::time::{Duration, Instant};

use super::lines;
use crate::support::Pair;

/// The limit of the tests. The first transaction begins at once.
const LIMIT: [&str; 2] = ["--max-records-per-second", "400"];

/// Runs a command with the limit. Returns how long it takes.
fn timed(pair: &Pair, args: &[&str]) -> Duration {
    let began = Instant::now();
    pair.expect(0, &[args, &LIMIT].concat());
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_keeps_the_limit_of_records_a_second() {
    let pair = Pair::new("memory+sqlite").await;
    fs::write(
        pair.at("inbound").join("vehicle_events_1.ndjson"),
        lines(1_500),
    )
    .unwrap();
    pair.expect(2, &["load"]);
    pair.execute("DELETE FROM vehicle_events").await;
    // 1,470 rows in three transactions.
    let took = timed(&pair, &["files", "restore", "--all"]);
    assert!(took >= Duration::from_millis(2_400), "{took:?}");
    let rows = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert_eq!(rows, 1_470);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_keeps_the_limit_of_records_a_second() {
    let pair = Pair::new("memory+sqlite").await;
    let record = r#"{"vehicle_id":"v","event_time":"2026-03-01T10:00:00Z","event_source":"s"}"#;
    let text = format!("{record}\n").repeat(1_000);
    fs::write(pair.at("inbound").join("vehicle_events_1.ndjson"), text).unwrap();
    pair.expect(2, &["load"]);
    let set = ["--set", "event_type=t", "--set", "event_value=1"];
    // Ten transactions.
    let took = timed(&pair, &[&["rejects", "replay", "--all"][..], &set].concat());
    assert!(took >= Duration::from_millis(2_200), "{took:?}");
    let rows = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert_eq!(rows, 1_000);
}
