//! A Redis is replaced by its replica, which lags behind: entries that the old server had
//! acknowledged are lost.

use std::time::Duration;

use super::faults::{ended, is_loaded_once};
use super::generate;
use crate::broker::raw;
use crate::support;
use crate::support::proxy::{Manner, Proxy};
use crate::support::{Pair, Service, names, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A number in the reply to `INFO`.
fn info(port: u16, name: &str) -> u64 {
    let info = raw(port, &["INFO replication"]);
    let value = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == name).then(|| value.trim().parse().unwrap())
    });
    value.unwrap_or_else(|| panic!("{name}: {info}"))
}

/// The reply of a command as an integer.
fn count(port: u16, command: &str) -> u64 {
    let reply = raw(port, &[command]);
    let number = reply.lines().next().and_then(|line| line.strip_prefix(':'));
    number
        .unwrap_or_else(|| panic!("{command}: {reply}"))
        .parse()
        .unwrap()
}

const LENGTH: &str = "XLEN lemonade:{vehicle_events}:frames";

/// Published frames and acks exist only on the server that dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_fails_over_to_a_lagging_replica_costs_a_load_nothing() {
    let mut master = support::private_redis().await;
    let replica = support::private_redis().await;
    let link = Proxy::start(master.port).await;
    raw(
        replica.port,
        &[&format!("REPLICAOF 127.0.0.1 {}", link.port)],
    );
    until("the replica", LIMIT, async || {
        raw(replica.port, &["INFO replication"]).contains("master_link_status:up")
    })
    .await;
    let queue = Proxy::start(master.port).await;
    let mut pair = Pair::new("redis+mysql").await;
    pair.redis_url = Some(format!("redis://127.0.0.1:{}/0", queue.port));
    generate(&pair, &["--files", "120", "--records", "2000"]);
    let mut load = Service::start(&pair, &["load"]);
    let done = |files| {
        let history = pair.at("history");
        async move || names(&history).len() >= files
    };
    until("some files in history", LIMIT, done(10)).await;

    // From here on the replica receives no updates.
    link.set(Manner::Blackhole);
    until("more files in history", LIMIT, done(30)).await;
    until("frames in the queue", LIMIT, async || {
        count(master.port, LENGTH) > 0
    })
    .await;
    let lag = info(master.port, "master_repl_offset") - info(replica.port, "slave_repl_offset");
    assert!(load.0.try_wait().unwrap().is_none(), "the load is running");
    master.kill();
    link.cut();
    raw(replica.port, &["REPLICAOF NO ONE"]);
    assert!(lag > 100_000, "the replica lacks only {lag} bytes");
    queue.lead_to(replica.port);
    queue.cut();

    assert_eq!(ended(&mut load).await, Some(0));
    is_loaded_once(&pair, 240_000, 120, "failover").await;
    assert_eq!(count(replica.port, LENGTH), 0);
}
