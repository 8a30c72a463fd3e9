//! A release takes over from its former one: `former/` is what that one left when it was killed with
//! frames in Redis (`scripts/former` made it with the real binary).
//!
//! Two programs do not run here. That the former one goes on while the newer one migrates is shown
//! by the order in which its statements run: its tables, the migration, then its rows.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::{Pair, names};

const TABLES: &str = include_str!("former/tables.sql");
const ROWS: &str = include_str!("former/rows.sql");
const QUEUE: &str = include_str!("former/queue.redis");
const WORK: &str = "vehicle_events_20220605_2_000000.json.gz";

/// Records of the file that was stored, and of the one whose frames are in the queue.
const STORED: u64 = 30;
const QUEUED: u64 = 120;

const RECORDS: &str =
    "SELECT (SELECT COUNT(*) FROM vehicle_events) + (SELECT COUNT(*) FROM ingest_rejects)";
const SETTLED: &str = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";

/// A database, a Redis and directories as the former release left them. If `migrates_first`, the
/// tables were migrated before the former release wrote its rows into them.
async fn left_by_the_former_release(migrates_first: bool) -> Pair {
    let pair = Pair::new("redis+mysql").await;
    pair.execute(TABLES).await;
    // What the former release writes when it starts, and what it writes for each file.
    let at_its_start = ["migrations", "settings", "definitions"];
    let (start, rows): (Vec<&str>, Vec<&str>) = ROWS.lines().partition(|line| {
        at_its_start
            .iter()
            .any(|table| line.contains(&format!("INTO `ingest_{table}`")))
    });
    pair.execute(&start.concat()).await;
    if migrates_first {
        pair.expect(0, &["migrate"]);
    }
    pair.execute(&rows.concat()).await;
    tell_redis(pair.redis_url.as_ref().unwrap(), QUEUE);
    let work = pair.at("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(
        work.join(WORK),
        include_bytes!("former/vehicle_events_20220605_2_000000.json.gz"),
    )
    .unwrap();
    pair
}

/// Runs commands of Redis, one a line.
fn tell_redis(url: &str, commands: &str) {
    let (addr, database) = url
        .strip_prefix("redis://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut redis = TcpStream::connect(addr).unwrap();
    let commands = commands.replace('\n', "\r\n");
    write!(redis, "SELECT {database}\r\n{commands}QUIT\r\n").unwrap();
    let mut replies = String::new();
    redis.read_to_string(&mut replies).unwrap();
    assert!(!replies.contains("-ERR"), "{replies}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_frames_and_the_ledger_of_the_former_release_are_taken_over() {
    for migrates_first in [false, true] {
        let pair = left_by_the_former_release(migrates_first).await;
        // All records are of frames: this command opens no file.
        let drained = pair.expect(0, &["queue", "drain"]);
        let of = |name: &str| {
            let line = drained.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim).map(str::to_owned)
        };
        assert_eq!(of("records"), Some(QUEUED.to_string()), "{drained}");
        assert_eq!(of("duplicates"), Some("0".to_owned()), "{drained}");
        assert_eq!(pair.number(RECORDS).await, STORED + QUEUED);

        pair.run(&["load"]);
        assert_eq!(pair.number(SETTLED).await, 2);
        assert_eq!(pair.number(RECORDS).await, STORED + QUEUED);
        assert_eq!(names(&pair.at("history")), [WORK]);
        pair.expect(0, &["verify"]);
    }
}

/// Of the files alone, if an upgrade loses the queue.
#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_the_former_release_are_continued_without_its_queue() {
    let pair = left_by_the_former_release(false).await;
    tell_redis(pair.redis_url.as_ref().unwrap(), "FLUSHDB\n");
    pair.expect(2, &["load"]);
    assert_eq!(pair.number(SETTLED).await, 2);
    assert_eq!(pair.number(RECORDS).await, STORED + QUEUED);
    pair.expect(0, &["verify"]);
}

/// As the former release does when a newer one has migrated its database.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_refuses_the_database_of_a_newer_one_and_changes_nothing() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        let newer = "INSERT INTO ingest_migrations (number, name, checksum, applied_at) SELECT 999, \
                     'later', checksum, applied_at FROM ingest_migrations WHERE number = 1";
        pair.execute(newer).await;
        std::fs::write(pair.at("inbound").join("vehicle_events_1.json"), "[]").unwrap();
        for command in ["load", "run", "migrate"] {
            let refused = pair.run(&[command]);
            let message = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(78), "{message}");
            assert!(message.contains("newer than this binary"), "{message}");
            assert!(message.contains("install the newer release"), "{message}");
        }
        let found = pair.expect(78, &["doctor"]);
        let refusal = "FAIL  database: checking the migrations of the database: the schema of the \
                       database is newer than this binary: the database has migration 999";
        assert!(found.contains(refusal), "{found}");
        assert!(
            found.contains("\n      install the newer release\n"),
            "{found}"
        );
        assert_eq!(names(&pair.at("inbound")), ["vehicle_events_1.json"]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_files").await, 0);
    }
}
