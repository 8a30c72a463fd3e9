//! A queue whose datasets have several streams each, over real Redis and Redis Cluster.

use std::time::Duration;

use super::faults::is_loaded_once;
use super::generate;
use super::queue::{peek, published};
use crate::broker::cluster::Cluster;
use crate::support;
use crate::support::{Pair, Service, names, until};

const LIMIT: Duration = Duration::from_secs(120);

/// A master is killed while frames are on it. Those that its replica lacks are published again.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_loads_each_record_once_while_a_master_of_a_cluster_dies_and_slots_move() {
    let mut cluster = Cluster::start(3).await;
    let mut pair = Pair::new("redis+mysql").await;
    pair.redis_url = Some(cluster.url());
    generate(&pair, &["--files", "120", "--records", "2000"]);
    let mut service = Service::start(&pair, &["run", "--queue-shards", "3"]);
    let history = || names(&pair.at("history")).len();
    until("some files in history", LIMIT, async || history() > 5).await;
    cluster.reshard(2_000).await;
    cluster.fail_over().await;
    generate(
        &pair,
        &["--files", "40", "--records", "2000", "--seed", "2"],
    );
    until("all files in history", LIMIT, async || history() == 160).await;
    assert_eq!(service.terminate(), Some(0));
    is_loaded_once(&pair, 320_000, 160, "after a failover").await;
    assert_eq!(cluster.masters().count(), 3);
}

/// Each process has another number, and finds the frames of the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_number_of_shards_loses_nothing_and_publishes_nothing_again() {
    let redis = support::private_redis().await;
    let mut pair = Pair::new("redis+mysql").await;
    pair.redis_url = Some(redis.url.clone());
    generate(&pair, &["--files", "3", "--records", "3000"]);
    let args = ["run", "--role", "ingest", "--queue-shards", "4"];
    let mut service = Service::start(&pair, &args);
    until("the frames in Redis", LIMIT, async || {
        published(redis.port) == 6
    })
    .await;
    service.0.kill().unwrap();
    service.0.wait().unwrap();
    let shown = peek(&pair);
    assert_eq!(shown.len(), 6, "with one shard: {shown:?}");
    pair.expect(0, &["queue", "drain", "--queue-shards", "2"]);
    pair.expect(0, &["load"]);
    is_loaded_once(&pair, 9_000, 3, "with other numbers of shards").await;
    assert_eq!(published(redis.port), 6, "published again");
}
