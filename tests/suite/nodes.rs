//! Several processes of the service over one database and one Redis: who lives, and who leads.

use std::fs;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use rustix::process::Signal;
use serde_json::Value;

use crate::end_to_end::generate;
use crate::support::{Pair, Service, free_addr, names, page, until};

const WITHIN: Duration = Duration::from_secs(30);

/// A process that leads has lost its lease after this long without a sign of life. A test that waits
/// for less shows nothing.
const TAKEN_OVER: Duration = Duration::from_secs(20);

/// Starts a process with a work directory of its own.
fn start(pair: &Pair, role: &str, work: &str) -> (Service, String) {
    let (addr, work) = (free_addr(), pair.at(work));
    let args = ["run", "--role", role, "--work", work.to_str().unwrap()];
    (Service::start_with_http(pair, &args, &addr), addr)
}

fn status(addr: &str) -> Option<Value> {
    serde_json::from_str(&page(addr, "/api/status")?.1).ok()
}

/// The name of the process that leads, as this process sees it.
fn leader(addr: &str) -> Option<String> {
    let status = status(addr)?;
    let nodes = status["nodes"].as_array()?;
    let leader = nodes.iter().find(|node| node["leads_summary"] == true)?;
    Some(leader["name"].as_str()?.to_owned())
}

/// Whether this process leads, by its own metrics.
fn leads(addr: &str) -> bool {
    let metrics = page(addr, "/metrics").map(|(_, metrics)| metrics);
    metrics.is_some_and(|metrics| metrics.contains("\nlemonade_leader 1\n"))
}

fn deliver(pair: &Pair, vehicle: &str) {
    let event = format!(
        r#"{{"vehicle_id":"{vehicle}","event_time":"2024-01-01T00:00:00Z","event_source":"s","event_type":"t","event_value":"1"}}"#
    );
    let name = format!("vehicle_events_{vehicle}.json");
    fs::write(pair.at("inbound").join(name), event).unwrap();
}

async fn summarised(pair: &Pair, entries: u64) {
    until("the summary", WITHIN, async || {
        pair.number("SELECT COUNT(*) FROM daily_summary").await == entries
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_is_replaced_and_waits_once_it_is_resumed() {
    for name in ["redis+mysql", "redis+sqlite"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        fs::write(pair.at("lemonade.toml"), "summary_every = \"200ms\"\n").unwrap();
        let (mut ingest, at_ingest) = start(&pair, "ingest,work", "work");
        let (mut first, at_first) = start(&pair, "summary", "first");
        until("the first one leads", WITHIN, async || leads(&at_first)).await;
        let (mut second, at_second) = start(&pair, "summary", "second");
        deliver(&pair, "a");
        summarised(&pair, 1).await;
        until("all see three processes", WITHIN, async || {
            [&at_ingest, &at_first, &at_second].into_iter().all(|addr| {
                status(addr).is_some_and(|status| status["nodes"].as_array().unwrap().len() == 3)
            })
        })
        .await;
        assert!(!leads(&at_second), "{name}: one process leads");
        let first_name = leader(&at_second).expect("the other one leads");

        first.stop();
        let stopped = Instant::now();
        until("the second one leads", TAKEN_OVER, async || {
            leads(&at_second)
        })
        .await;
        assert!(stopped.elapsed() < TAKEN_OVER, "{name}");
        deliver(&pair, "b");
        summarised(&pair, 2).await;
        let text = pair.expect(0, &["status"]);
        assert!(
            text.contains("2 of 3 alive") && text.contains("DEAD, no beat for"),
            "{text}"
        );

        first.signal(Signal::CONT);
        until("the first one waits", WITHIN, async || !leads(&at_first)).await;
        until("it lives again", WITHIN, async || {
            let text = pair.expect(0, &["status"]);
            text.contains("3 of 3 alive")
        })
        .await;
        assert!(leads(&at_second), "{name}");

        // A process that ends in order hands over at once, and leaves no row.
        assert_eq!(second.terminate(), Some(0), "{name}");
        let ended = Instant::now();
        until("the first one leads again", WITHIN, async || {
            leads(&at_first)
        })
        .await;
        assert!(
            ended.elapsed() < Duration::from_secs(8),
            "{name}: {:?}",
            ended.elapsed()
        );
        assert_eq!(leader(&at_first), Some(first_name), "{name}");
        deliver(&pair, "c");
        summarised(&pair, 3).await;
        until("all files in history", WITHIN, async || {
            names(&pair.at("history")).len() == 3
        })
        .await;
        assert_eq!(first.terminate(), Some(0), "{name}");
        assert_eq!(ingest.terminate(), Some(0), "{name}");
        let left = pair.number("SELECT COUNT(*) FROM ingest_nodes").await;
        assert_eq!(left, 0, "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

/// The clock of the database was set back, or a failover has led to a server whose clock is behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_process_whose_last_beat_is_of_the_future_is_replaced() {
    for name in ["redis+mysql", "redis+sqlite"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        let start = |node: &str, role: &str| {
            let addr = free_addr();
            let args = ["run", "--role", role, "--node", node];
            (Service::start_with_http(&pair, &args, &addr), addr)
        };
        // Nobody commits, so all files stay in work.
        let (mut dead, at_dead) = start("dead", "ingest,summary");
        generate(&pair, &["--files", "9", "--records", "5"]);
        until("it leads, and has files", WITHIN, async || {
            leads(&at_dead) && names(&pair.at("work")).len() == 9
        })
        .await;
        dead.0.kill().unwrap();
        dead.0.wait().unwrap();
        for sql in [
            "UPDATE ingest_nodes SET beat_at = '2100-01-01 00:00:00'",
            "UPDATE ingest_leases SET renewed_at = '2100-01-01 00:00:00'",
        ] {
            pair.execute(sql).await;
        }
        let text = pair.expect(0, &["status"]);
        assert!(text.contains("0 of 1 alive"), "{name}: {text}");
        let (mut heir, at_heir) = start("heir", "ingest,work,summary");
        until(
            "the heir has loaded all files, and leads",
            WITHIN,
            async || leads(&at_heir) && names(&pair.at("history")).len() == 9,
        )
        .await;
        assert_eq!(heir.terminate(), Some(0), "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

/// The name of the consumer of each frame in the queue, and how often it was delivered.
fn owners(pair: &Pair) -> Vec<(String, u64)> {
    let shown = pair.expect(0, &["queue", "peek", "--json", "--limit", "100"]);
    let owner = |line: &str| {
        let frame: Value = serde_json::from_str(line).unwrap();
        let consumer = frame["consumer"].as_str().unwrap_or_default().to_owned();
        (consumer, frame["deliveries"].as_u64().unwrap())
    };
    shown.lines().map(owner).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_commit_is_not_taken_over_and_that_of_a_killed_worker_is_within_seconds() {
    let pair = Pair::new("redis+mysql").await;
    pair.expect(0, &["migrate"]);
    let (_ingest, _) = start(&pair, "ingest", "work");
    generate(&pair, &["--files", "4", "--records", "1500"]);
    until("four frames in the queue", WITHIN, async || {
        owners(&pair).len() == 4
    })
    .await;
    // The commits take long: another session has locked the ledger.
    let mut holder = Conn::from_url(&pair.database_url).await.unwrap();
    for sql in ["START TRANSACTION", "SELECT * FROM ingest_files FOR UPDATE"] {
        holder.query_drop(sql).await.unwrap();
    }
    let (mut doomed, _) = start(&pair, "work", "doomed");
    until("a worker has frames", WITHIN, async || {
        owners(&pair).iter().any(|(_, deliveries)| *deliveries > 0)
    })
    .await;
    let (_heir, _) = start(&pair, "work", "heir");
    until("each frame has a worker", WITHIN, async || {
        owners(&pair).iter().all(|(_, deliveries)| *deliveries > 0)
    })
    .await;
    let before = owners(&pair);
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(owners(&pair), before, "each commit is left to its worker");

    doomed.0.kill().unwrap();
    let killed = Instant::now();
    holder.query_drop("ROLLBACK").await.unwrap();
    until("all records are rows", WITHIN, async || {
        pair.number("SELECT COUNT(*) FROM vehicle_events").await == 6_000
    })
    .await;
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "{:?}",
        killed.elapsed()
    );
    until("all files in history", WITHIN, async || {
        names(&pair.at("history")).len() == 4
    })
    .await;
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_process_that_takes_files_the_others_are_not_ready() {
    let pair = Pair::new("redis+mysql").await;
    pair.expect(0, &["migrate"]);
    let (_worker, addr) = start(&pair, "work", "worker");
    let is = async |code: u16, part: &'static str| {
        let addr = addr.clone();
        until(part, Duration::from_secs(90), async || {
            page(&addr, "/readyz").is_some_and(|(is, body)| is == code && body.contains(part))
        })
        .await;
    };
    is(200, "").await;
    is(503, "no process with the role `ingest` has lived for").await;
    let status = status(&addr).unwrap();
    assert_eq!(status["headline"], "No process takes files");
    assert!(
        status["next"].as_str().unwrap().contains("role `ingest`"),
        "{status}"
    );
    let metrics = page(&addr, "/metrics").unwrap().1;
    let none = "lemonade_nodes{role=\"ingest\",state=\"alive\"} 0";
    assert!(metrics.contains(none), "{metrics}");
    let _ingest = start(&pair, "ingest", "work");
    is(200, "").await;
}
