//! `queue peek` and `queue drain` over a real Redis: peeking takes no frame, and a drain commits
//! the frames of a dead or a running process once, without reading a directory.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use lemonade_task::broker::{self, BrokerOptions, Consumer};
use lemonade_task::dataset::Datasets;
use lemonade_task::sink::{self, SinkOptions};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::faults::{ended, is_loaded_once};
use super::generate;
use crate::broker::raw;
use crate::support;
use crate::support::Private;
use crate::support::{Pair, Service, free_addr, names, page, until};

const LIMIT: Duration = Duration::from_secs(60);

/// The stream of `vehicle_events`.
const KEY: &str = "lemonade:{vehicle_events}:frames";

/// A pair with its own Redis, so that the counters of the server are its own.
async fn pair_with_redis(name: &'static str) -> (Pair, Private) {
    let redis = support::private_redis().await;
    let mut pair = Pair::new(name).await;
    pair.redis_url = Some(redis.url.clone());
    (pair, redis)
}

/// Three files of 3,000 records, which are six frames of 1,500.
fn six_frames(pair: &Pair) {
    generate(pair, &["--files", "3", "--records", "3000"]);
}

/// Starts a service that only ingests, and waits until it has published this many frames.
async fn ingest(pair: &Pair, port: u16, frames: u64) -> Service {
    let service = Service::start(pair, &["run", "--role", "ingest"]);
    is_published(port, frames).await;
    service
}

async fn is_published(port: u16, frames: u64) {
    until("the frames in Redis", LIMIT, async || {
        published(port) == frames
    })
    .await;
}

/// Delivers this many frames to a consumer that does nothing with them. It lives until it is dropped.
async fn hold(pair: &Pair, url: &str, frames: usize) -> Box<dyn Consumer> {
    let datasets = Datasets::new(Vec::new()).unwrap();
    let sink_options = SinkOptions::default();
    let database = sink::open(&pair.database_url, &sink_options).await.unwrap();
    let options = BrokerOptions {
        key: Some(database.frame_key().await.unwrap()),
        ..BrokerOptions::default()
    };
    let broker = broker::open(url, &options, &datasets).await.unwrap();
    let mut consumer = broker.consumer("other").await.unwrap();
    let mut held = 0;
    while held < frames {
        held += consumer.receive(frames - held).await.unwrap().len();
    }
    consumer
}

/// The entries that are no frames: the claim of the prefix.
const CLAIMS: u64 = 1;

/// The number of frames published so far.
pub(super) fn published(port: u16) -> u64 {
    let info = raw(port, &["INFO commandstats"]);
    let calls = info.split_once("cmdstat_xadd:calls=");
    let calls: u64 = calls.map_or(0, |(_, after)| {
        after.split_once(',').unwrap().0.parse().unwrap()
    });
    // One is the claim of the prefix.
    calls.saturating_sub(CLAIMS)
}

/// The output of `queue peek --json`.
pub(super) fn peek(pair: &Pair) -> Vec<Value> {
    let shown = pair.expect(0, &["queue", "peek", "--json", "--limit", "100"]);
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    shown.lines().map(parse).collect()
}

/// Checks that the report has these lines.
fn reports(report: &str, lines: &[(&str, &str)]) {
    for (name, number) in lines {
        let line = format!("{name:<12} {number}");
        assert!(report.lines().any(|is| is == line), "{line}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_dead_service_are_drained_and_the_next_load_publishes_none_of_them_again() {
    let (pair, redis) = pair_with_redis("redis+mysql").await;
    six_frames(&pair);
    let mut service = ingest(&pair, redis.port, 6).await;
    service.0.kill().unwrap();
    service.0.wait().unwrap();
    assert_eq!(names(&pair.at("work")).len(), 3);

    let report = pair.expect(0, &["queue", "drain"]);
    let all = [
        ("files", "3"),
        ("frames", "6"),
        ("records", "9,000"),
        ("rows", "9,000"),
        ("rejects", "0"),
        ("duplicates", "0"),
    ];
    reports(&report, &all);
    assert_eq!(peek(&pair), [Value::Null; 0]);
    assert_eq!(names(&pair.at("work")).len(), 3, "no file is touched");

    pair.expect(0, &["load"]);
    is_loaded_once(&pair, 9_000, 3, "drained").await;
    assert_eq!(published(redis.port), 6, "published again");
    // The drain does not settle files, so the summary is from the load, whose refresh read the rows
    // from the table.
    let pairs = "SELECT COUNT(DISTINCT vehicle_id, DATE(event_time)) FROM vehicle_events";
    let summary = "SELECT COUNT(*) FROM daily_summary";
    assert_eq!(pair.number(summary).await, pair.number(pairs).await);
    // An empty queue is reported as empty.
    let report = pair.expect(0, &["queue", "drain"]);
    reports(&report, &[("frames", "0"), ("rows", "0")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_keeps_the_limit_of_records_a_second() {
    let (pair, redis) = pair_with_redis("redis+mysql").await;
    six_frames(&pair);
    let mut service = ingest(&pair, redis.port, 6).await;
    service.0.kill().unwrap();
    service.0.wait().unwrap();
    let report = pair.expect(0, &["queue", "drain", "--max-records-per-second", "1000"]);
    reports(&report, &[("frames", "6"), ("records", "9,000")]);
    let took = report.lines().find_map(|line| line.strip_prefix("seconds"));
    let took: f64 = took.unwrap().trim().parse().unwrap();
    // The first transaction, of up to 4,000 records, begins at once.
    assert!(took >= 4.0, "9,000 records in {took} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_only_ingests_settles_what_a_drain_beside_it_commits() {
    let (pair, redis) = pair_with_redis("redis+mysql").await;
    six_frames(&pair);
    let mut service = ingest(&pair, redis.port, 6).await;
    let report = pair.expect(0, &["queue", "drain"]);
    reports(&report, &[("frames", "6"), ("rows", "9,000")]);
    until("all files in history", LIMIT, async || {
        names(&pair.at("history")).len() == 3
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
    is_loaded_once(&pair, 9_000, 3, "beside a service").await;
    assert_eq!(published(redis.port), 6, "published again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_beside_a_service_with_workers_stores_every_record_once() {
    let (pair, redis) = pair_with_redis("redis+mysql").await;
    generate(&pair, &["--files", "40", "--records", "2000"]);
    let mut service = Service::start(&pair, &["run"]);
    until("a first frame", LIMIT, async || published(redis.port) > 0).await;
    pair.expect(0, &["queue", "drain"]);
    until("all files in history", LIMIT, async || {
        names(&pair.at("history")).len() == 40
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
    is_loaded_once(&pair, 80_000, 40, "beside workers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_what_others_hold_says_who_publishes_and_is_stopped_by_a_signal() {
    let (pair, redis) = pair_with_redis("redis+mysql").await;
    six_frames(&pair);
    let _service = ingest(&pair, redis.port, 6).await;
    let other = hold(&pair, &redis.url, 2).await;
    let mut command = pair.command(&["queue", "drain"]);
    let errors = pair.at("errors");
    command.stdout(Stdio::null());
    command.stderr(std::fs::File::create(&errors).unwrap());
    let mut drain = Service(command.spawn().unwrap());
    // Two frames of 1,500 records each are delivered to other consumers.
    let left = |rows: u64| {
        let pair = &pair;
        async move || {
            let stored = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
            (stored, peek(pair).len()) == (rows, 2)
        }
    };
    until(
        "only frames of other consumers are left",
        LIMIT,
        left(6_000),
    )
    .await;
    let said = || std::fs::read_to_string(&errors).unwrap();
    assert!(!said().contains("still being published"), "{}", said());

    generate(
        &pair,
        &["--files", "1", "--records", "18000", "--seed", "2"],
    );
    is_published(redis.port, 15).await;
    until("the new ones are committed, too", LIMIT, left(24_000)).await;
    until("it reports a publisher", LIMIT, async || {
        said().contains("still being published")
    })
    .await;
    assert!(
        drain.0.try_wait().unwrap().is_none(),
        "the queue is not empty"
    );
    drain.signal(Signal::TERM);
    let code = drain.0.wait().unwrap().code();
    assert_eq!(code, Some(75), "{}", said());
    assert!(said().contains("run it again"), "{}", said());
    for entry in peek(&pair) {
        assert_eq!(entry["consumer"], "other");
    }

    drop(other);
    pair.expect(0, &["queue", "drain", "--take-over-after", "1s"]);
    until("all files in history", LIMIT, async || {
        names(&pair.at("history")).len() == 4
    })
    .await;
    is_loaded_once(&pair, 27_000, 4, "taken over").await;
    assert_eq!(published(redis.port), 15, "published again");
}

#[tokio::test(flavor = "multi_thread")]
async fn queue_peek_shows_each_frame_its_consumer_and_damaged_entries() {
    let (pair, redis) = pair_with_redis("redis+sqlite").await;
    let empty = pair.run(&["queue", "peek"]);
    assert_eq!(empty.status.code(), Some(0));
    assert_eq!(empty.stdout, b"");
    assert_eq!(empty.stderr, b"the queue is empty\n");

    six_frames(&pair);
    let mut service = ingest(&pair, redis.port, 6).await;
    service.0.kill().unwrap();
    service.0.wait().unwrap();
    let _other = hold(&pair, &redis.url, 1).await;
    raw(redis.port, &[&format!("XADD {KEY} * h junk rows junk")]);
    let before = raw(redis.port, &[&format!("XPENDING {KEY} workers - + 9")]);
    let shown = peek(&pair);
    let mut spans: Vec<(u64, u64, u64)> = shown[..6]
        .iter()
        .map(|frame| {
            let number = |name: &str| frame[name].as_u64().unwrap();
            assert!(number("bytes") > 1_000, "{frame}");
            (
                number("file_no"),
                number("first_ordinal"),
                number("records"),
            )
        })
        .collect();
    spans.sort_unstable();
    let expected = [1, 2, 3].map(|file_no| [(file_no, 0, 2_000), (file_no, 2_000, 1_000)]);
    assert_eq!(spans, expected.concat());
    assert!(shown[0]["held_seconds"].as_f64() <= shown[0]["age_seconds"].as_f64());
    let hands: Vec<Value> = shown
        .iter()
        .map(|frame| json!([frame["consumer"], frame["deliveries"], frame["damaged"]]))
        .collect();
    let waits = json!([null, 0, false]);
    let mut expected = vec![waits; 7];
    expected[0] = json!(["other", 1, false]);
    expected[6] = json!([null, 0, true]);
    assert_eq!(hands, expected);
    assert_eq!(shown[6]["file_no"], Value::Null);

    let text = pair.expect(0, &["queue", "peek"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 8, "{text}");
    assert!(
        lines[1].contains("with other for ") && lines[1].ends_with("delivered once"),
        "{text}"
    );
    assert!(lines[2].ends_with("  waits"), "{text}");
    assert!(lines[7].ends_with("damaged; waits"), "{text}");
    let some = pair.run(&["queue", "peek", "--limit", "2"]);
    assert_eq!(
        some.stderr,
        b"showing 2 of 7 frames; raise --limit to see more\n"
    );

    // Neither deliveries nor consumers have changed; only the time has.
    let after = raw(redis.port, &[&format!("XPENDING {KEY} workers - + 9")]);
    let but_idle = |reply: &str| {
        let mut lines: Vec<String> = reply.lines().map(str::to_owned).collect();
        assert!(lines[6].starts_with(':'), "{reply}");
        lines.remove(6);
        lines
    };
    assert_eq!(but_idle(&before), but_idle(&after));
    let groups = raw(redis.port, &[&format!("XINFO CONSUMERS {KEY} workers")]);
    assert!(groups.starts_with("*1\r\n"), "{groups}");
}

/// Two databases with one prefix, which is an easy mistake: the second engine does not start.
#[tokio::test(flavor = "multi_thread")]
async fn another_database_with_the_same_prefix_is_refused() {
    let (one, redis) = pair_with_redis("redis+mysql").await;
    let mut other = Pair::new("redis+sqlite").await;
    other.redis_url = Some(redis.url.clone());
    for pair in [&one, &other] {
        generate(pair, &["--files", "8", "--records", "3000"]);
    }
    let mut service = Service::start(&one, &["run"]);
    let owner = async || raw(redis.port, &["EXISTS lemonade:owner"]).starts_with(":1");
    until("the prefix is claimed", LIMIT, owner).await;
    let refused = |args: &[&str]| {
        let output = other.run(args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(78), "{args:?}: {said}");
        let (_, place) = one.database_url.rsplit_once('@').unwrap();
        for part in [
            "redis_prefix `lemonade`",
            &format!("in mysql://{place},"),
            &format!("this one is in {}", other.database_url),
            "a redis_prefix of its own",
            "`redis-cli -c DEL lemonade:owner`",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        said
    };
    let exists = || Path::new(other.database_url.strip_prefix("sqlite:").unwrap()).exists();
    let as_found = "FAIL  queue: claiming the redis_prefix `lemonade`: it is of the ledger in";
    assert!(refused(&["doctor"]).contains(as_found), "before a ledger");
    assert!(!exists(), "doctor makes no database");
    refused(&["load"]);
    assert!(refused(&["doctor"]).contains(as_found), "with a ledger");
    refused(&["run"]);
    refused(&["queue", "drain"]);
    assert_eq!(names(&other.at("inbound")).len(), 8, "no file was taken");

    // Redis loses everything: the service, which reads the queue, claims it again at once.
    raw(redis.port, &["FLUSHALL"]);
    until("the prefix is claimed again", LIMIT, owner).await;
    refused(&["load"]);
    let shown = one.expect(0, &["doctor"]);
    assert!(
        shown.contains("redis_prefix `lemonade` is of the ledger in mysql://"),
        "{shown}"
    );
    other.expect(0, &["load", "--redis-prefix", "other"]);
    let rows = "SELECT COUNT(*) FROM vehicle_events";
    assert_eq!(other.number(rows).await, 24_000, "with a prefix of its own");
    other.expect(0, &["verify"]);
    until("all files in history", LIMIT, async || {
        names(&one.at("history")).len() == 8
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
    is_loaded_once(&one, 24_000, 8, "beside a refused one").await;
}

/// A process without workers reports that frames wait and no other process reads them.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_no_worker_reads_is_reported() {
    let (pair, redis) = pair_with_redis("redis+mysql").await;
    // An entry that has waited for long. It is no frame: a worker deletes it.
    raw(redis.port, &[&format!("XADD {KEY} 1000-1 not aframe")]);
    let addr = free_addr();
    let _ingest = Service::start_with_http(&pair, &["run", "--role", "ingest"], &addr);
    let is = |code: u16, part: &'static str| {
        let addr = addr.clone();
        async move || {
            page(&addr, "/readyz").is_some_and(|(now, why)| now == code && why.contains(part))
        }
    };
    until(
        "not ready, and why",
        LIMIT,
        is(503, "no worker reads the queue"),
    )
    .await;
    let status = page(&addr, "/api/status").unwrap().1;
    assert!(
        status.contains("start a process with the role `work`"),
        "{status}"
    );
    let metrics = page(&addr, "/metrics").unwrap().1;
    let unread = metrics
        .lines()
        .find(|line| line.starts_with("lemonade_queue_unread_seconds "));
    let seconds = unread.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds > 75.0), "{unread:?}");

    let work = pair.at("work-of-worker");
    let work = ["run", "--role", "work", "--work", work.to_str().unwrap()];
    let _work = Service::start(&pair, &work);
    until("ready again", LIMIT, is(200, "")).await;
}

/// With prefixes of their own, two engines share a Redis and see nothing of each other.
#[tokio::test(flavor = "multi_thread")]
async fn engines_with_prefixes_share_a_redis() {
    let (one, redis) = pair_with_redis("redis+mysql").await;
    let mut other = Pair::new("redis+mysql").await;
    other.redis_url = Some(redis.url.clone());
    let mut loads = Vec::new();
    for (pair, prefix) in [(&one, "one"), (&other, "two:b")] {
        generate(pair, &["--files", "8", "--records", "3000"]);
        let mut load = pair.command(&["load", "--redis-prefix", prefix]);
        load.stdout(Stdio::null()).stderr(Stdio::null());
        loads.push(Service(load.spawn().unwrap()));
    }
    for load in &mut loads {
        assert_eq!(ended(load).await, Some(0));
    }
    for (pair, prefix) in [(&one, "one"), (&other, "two:b")] {
        is_loaded_once(pair, 24_000, 8, prefix).await;
        let stream = format!("XINFO STREAM {prefix}:{{vehicle_events}}:frames");
        assert!(
            raw(redis.port, &[&stream]).contains("entries-added"),
            "{prefix}"
        );
        pair.expect(0, &["queue", "peek", "--redis-prefix", prefix]);
    }
    // Each frame was published once: no engine dropped one of the other.
    assert_eq!(published(redis.port), 2 * 16 + 1, "and one more claim");
    assert_eq!(
        raw(redis.port, &[&format!("EXISTS {KEY}")]).lines().next(),
        Some(":0")
    );
}

/// Frames in Redis for a deleted database belong to no file of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn frames_for_a_database_that_was_created_again_are_dropped() {
    let (pair, redis) = pair_with_redis("redis+sqlite").await;
    six_frames(&pair);
    let mut service = ingest(&pair, redis.port, 6).await;
    service.signal(Signal::KILL);
    service.0.wait().unwrap();
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(pair.at(&format!("test.db{ending}")));
    }
    for name in names(&pair.at("work")) {
        std::fs::remove_file(support::in_work(&pair.at("work"), &name)).unwrap();
    }
    let new = ["--files", "3", "--records", "3000", "--seed", "2"];
    generate(&pair, &[&new[..], &["--vehicles", "7"]].concat());
    let refused = pair.run(&["load"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("database of the same name"), "{said}");
    let (_, command) = said.split_once("`redis-cli -c ").expect(&said);
    let (command, _) = command.split_once('`').unwrap();
    raw(redis.port, &[command]);
    pair.expect(0, &["load"]);
    assert_eq!(published(redis.port), 12 + 1, "each once, and a claim");
    let vehicles = "SELECT COUNT(DISTINCT vehicle_id) FROM vehicle_events";
    assert_eq!(pair.number(vehicles).await, 7);
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM vehicle_events").await,
        9_000
    );
    pair.expect(0, &["verify"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_for_the_queue_of_another_process_are_refused() {
    let pair = Pair::new("memory+sqlite").await;
    for what in ["peek", "drain"] {
        let refused = pair.run(&["queue", what]);
        assert_eq!(refused.status.code(), Some(64));
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(message.contains("`task_runner status`"), "{message}");
        assert!(names(&pair.at("work")).is_empty());
    }
    pair.expect(64, &["queue", "drain", "--take-over-after", "10ms"]);
}
