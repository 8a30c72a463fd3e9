//! The real binary over real servers, with one fault at a chosen step: a kill, or a lost reply.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::generate;
use super::queue::{peek, published};
use crate::broker::{address, raw};
use crate::sink::faults::COMMIT;
use crate::support;
use crate::support::proxy::{Proxy, Strike};
use crate::support::{Pair, Service, names, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A frame that is published, and not the claim of the prefix.
const PUBLISH: &str = "XADD\r\n$32\r\nlemonade:{vehicle_events}:frames";

/// Redis and MariaDB with a proxy in front of each.
struct Behind {
    pair: Pair,
    redis: Proxy,
    database: Proxy,
}

impl Behind {
    async fn new() -> Self {
        let pair = Pair::new("redis+mysql").await;
        let (redis, _) = address(pair.redis_url.as_ref().unwrap());
        let (database, _) = address(&pair.database_url);
        Self {
            redis: Proxy::start(redis).await,
            database: Proxy::start(database).await,
            pair,
        }
    }

    fn proxy(&self, in_redis: bool) -> &Proxy {
        if in_redis {
            &self.redis
        } else {
            &self.database
        }
    }

    /// A load that connects through the proxies.
    fn load(&self) -> Command {
        let through = |url: &str, proxy: &Proxy| {
            let (port, _) = address(url);
            url.replace(&format!(":{port}/"), &format!(":{}/", proxy.port))
        };
        let redis_url = self.pair.redis_url.as_ref().unwrap();
        let mut command = self.pair.command(&["load"]);
        command
            .env("REDIS_URL", through(redis_url, &self.redis))
            .env(
                "DATABASE_URL",
                through(&self.pair.database_url, &self.database),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    async fn is_loaded_once(&self, records: u64, files: usize, when: &str) {
        is_loaded_once(&self.pair, records, files, when).await;
    }
}

pub(super) async fn is_loaded_once(pair: &Pair, records: u64, files: usize, when: &str) {
    for sql in [
        "SELECT COUNT(*) FROM vehicle_events",
        "SELECT COUNT(DISTINCT vehicle_id, event_time, event_value, id & 4294967295) FROM \
         vehicle_events",
        "SELECT CAST(SUM(records) AS UNSIGNED) FROM ingest_files WHERE state = 'settled'",
    ] {
        assert_eq!(pair.number(sql).await, records, "{when}: {sql}");
    }
    let entries = "SELECT COUNT(*) FROM ingest_frames";
    assert_eq!(pair.number(entries).await, 0, "{when}");
    assert_eq!(names(&pair.at("history")).len(), files, "{when}");
    for dir in ["inbound", "work"] {
        assert_eq!(names(&pair.at(dir)), [""; 0], "{when}: {dir}");
    }
    pair.expect(0, &["verify"]);
}

/// Sends SIGKILL and ends its connections, as the kernel would do without a proxy.
fn kill(mut load: Child, behind: &Behind) {
    load.kill().unwrap();
    load.wait().unwrap();
    behind.redis.cut();
    behind.database.cut();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_the_next_load_finishes() {
    const IN_REDIS: bool = true;
    const IN_DATABASE: bool = false;
    // A kill before and after each step takes effect. For a prepared statement, the kill comes when
    // it is prepared.
    let steps = [
        (IN_DATABASE, "INSERT INTO ingest_files", Strike::HoldRequest),
        (IN_REDIS, PUBLISH, Strike::HoldRequest),
        (IN_REDIS, PUBLISH, Strike::HoldReply),
        (IN_REDIS, "XREADGROUP", Strike::HoldReply),
        (
            IN_DATABASE,
            "INSERT INTO `vehicle_events`",
            Strike::HoldRequest,
        ),
        (
            IN_DATABASE,
            "INSERT INTO ingest_frames",
            Strike::HoldRequest,
        ),
        (IN_DATABASE, "INSERT INTO ingest_frames", Strike::HoldReply),
        (IN_DATABASE, COMMIT, Strike::HoldRequest),
        (IN_DATABASE, COMMIT, Strike::HoldReply),
        (IN_REDIS, "XDEL", Strike::HoldRequest),
        (IN_REDIS, "XDEL", Strike::HoldReply),
        (
            IN_DATABASE,
            "UPDATE ingest_files f SET",
            Strike::HoldRequest,
        ),
        (IN_DATABASE, "DELETE FROM ingest_frames", Strike::HoldReply),
    ];
    for (in_redis, step, strike) in steps {
        let when = format!("{step:?} {strike:?}");
        let behind = Behind::new().await;
        generate(&behind.pair, &["--files", "3", "--records", "3000"]);
        killed_at(&behind, in_redis, step, strike, &when).await;
        behind.pair.expect(0, &["load"]);
        behind.is_loaded_once(9_000, 3, &when).await;
    }
    // A file that is one frame is settled by its commit.
    for strike in [Strike::HoldRequest, Strike::HoldReply] {
        let when = format!("settled by its commit, {strike:?}");
        let behind = Behind::new().await;
        generate(&behind.pair, &["--files", "3", "--records", "1000"]);
        let step = "UPDATE ingest_files f SET rejects";
        killed_at(&behind, IN_DATABASE, step, strike, &when).await;
        behind.pair.expect(0, &["load"]);
        behind.is_loaded_once(3_000, 3, &when).await;
    }
}

/// A load of some files that is killed at a step.
async fn killed_at(
    behind: &Behind,
    in_redis: bool,
    step: &'static str,
    strike: Strike,
    when: &str,
) {
    let proxy = behind.proxy(in_redis);
    proxy.strike(step, strike);
    let load = behind.load().spawn().unwrap();
    let struck = tokio::time::timeout(LIMIT, proxy.struck(1)).await;
    assert!(struck.is_ok(), "{when}: the step never came");
    kill(load, behind);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_killed_load_are_drained_and_the_next_load_publishes_only_the_rest() {
    // Some frames are delivered but not committed, some committed but not acked, and others wait.
    for (in_redis, step, strike) in [
        (false, COMMIT, Strike::HoldRequest),
        (true, "XDEL", Strike::HoldRequest),
    ] {
        let when = format!("{step:?} {strike:?}");
        let mut behind = Behind::new().await;
        let redis = support::private_redis().await;
        behind.pair.redis_url = Some(redis.url.clone());
        behind.redis = Proxy::start(redis.port).await;
        generate(&behind.pair, &["--files", "3", "--records", "3000"]);
        killed_at(&behind, in_redis, step, strike, &when).await;
        let held = peek(&behind.pair);
        assert!(
            held.iter().any(|frame| frame["deliveries"] == 1),
            "{held:?}"
        );

        let drain = ["queue", "drain", "--take-over-after", "1s"];
        behind.pair.expect(0, &drain);
        behind.pair.expect(0, &["load"]);
        behind.is_loaded_once(9_000, 3, &when).await;
        assert_eq!(published(redis.port), 6, "{when}: published again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_requests_and_replies_cost_a_load_nothing() {
    for strike in [Strike::LoseRequest, Strike::LoseReply] {
        for (in_redis, request) in [
            (true, "XADD"),
            (true, PUBLISH),
            (true, "XDEL"),
            (false, "INSERT INTO ingest_files"),
            (false, COMMIT),
        ] {
            let when = format!("{request:?} {strike:?}");
            let behind = Behind::new().await;
            generate(&behind.pair, &["--files", "3", "--records", "3000"]);
            let proxy = behind.proxy(in_redis);
            proxy.strike(request, strike);
            let mut load = behind.load().spawn().unwrap();
            let ended = tokio::task::spawn_blocking(move || load.wait().unwrap());
            let code = tokio::time::timeout(LIMIT, ended).await.expect("it ends");
            assert_eq!(code.unwrap().code(), Some(0), "{when}");
            assert_eq!(proxy.strikes(), 1, "{when}: the step never came");
            behind.is_loaded_once(9_000, 3, &when).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_outlives_restarts_of_its_servers() {
    let mut database = support::private_mariadb().await;
    let mut redis = support::private_redis().await;
    let mut pair = Pair::new("redis+mysql").await;
    pair.database_url.clone_from(&database.url);
    pair.redis_url = Some(redis.url.clone());
    generate(&pair, &["--files", "60", "--records", "2000"]);
    let mut load = Service::start(&pair, &["load"]);
    for round in 1..=2 {
        until("some files in history", LIMIT, async || {
            names(&pair.at("history")).len() >= 10 * round
        })
        .await;
        assert!(load.0.try_wait().unwrap().is_none(), "the load is running");
        // The database returns with its data, Redis without any.
        database.restart().await;
        redis.restart().await;
    }
    assert_eq!(ended(&mut load).await, Some(0));
    is_loaded_once(&pair, 120_000, 60, "restarts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_harmed_again_and_again_costs_a_load_nothing() {
    let redis = support::private_redis().await;
    let mut pair = Pair::new("redis+mysql").await;
    pair.redis_url = Some(redis.url.clone());
    generate(&pair, &["--files", "60", "--records", "2000"]);
    let mut load = Service::start(&pair, &["load"]);
    let mut harms = 0;
    for harm in [
        "CLIENT KILL TYPE normal",
        "FLUSHALL",
        "CLIENT PAUSE 100 ALL",
    ]
    .iter()
    .cycle()
    {
        if load.0.try_wait().unwrap().is_some() {
            break;
        }
        raw(redis.port, &[harm]);
        harms += 1;
        assert!(harms < 200, "the load does not end");
        // The first three pauses are short: a load on a fast machine must have each fault as well.
        let pause = if harms < 3 { 50 } else { 300 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    assert!(harms >= 3, "it was harmed {harms} times");
    assert_eq!(ended(&mut load).await, Some(0));
    is_loaded_once(&pair, 120_000, 60, "harmed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_while_its_connections_ended_continues() {
    let behind = Behind::new().await;
    generate(&behind.pair, &["--files", "40", "--records", "2000"]);
    let mut load = Service(behind.load().spawn().unwrap());
    until("a first file in history", LIMIT, async || {
        !names(&behind.pair.at("history")).is_empty()
    })
    .await;
    load.stop();
    behind.redis.cut();
    behind.database.cut();
    load.signal(Signal::CONT);
    assert_eq!(ended(&mut load).await, Some(0));
    behind.is_loaded_once(80_000, 40, "stood still").await;
}

/// The exit code of a load that ends by itself.
pub(super) async fn ended(load: &mut Service) -> Option<i32> {
    let mut code = None;
    until("the end of the load", LIMIT * 2, async || {
        code = load.0.try_wait().unwrap();
        code.is_some()
    })
    .await;
    code.unwrap().code()
}
