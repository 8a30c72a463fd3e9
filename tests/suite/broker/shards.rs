//! A dataset whose frames are spread over several streams, in one server and in a cluster of three
//! masters.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lemonade_task::broker::{Broker, BrokerOptions, Consumer, Depth};
use lemonade_task::frame::Frame;
use tokio::time::timeout;

use super::cluster::Cluster;
use super::{
    A_WHILE, AT_MOST, EVENTS_KEY, address, depth_in_the_end, entries, events, frame, open, publish,
    publish_in_the_end, raw, receive, receive_in_the_end,
};
use crate::support;

async fn open_with(url: &str, shards: u16) -> Arc<dyn Broker> {
    let options = BrokerOptions {
        shards,
        dead_after: Duration::from_secs(1),
        ..BrokerOptions::default()
    };
    open(url, options).await
}

/// Receives and acks until it has these records, each at least once.
async fn take(consumer: &mut dyn Consumer, expected: impl Iterator<Item = u32>) {
    let expected: BTreeSet<u32> = expected.collect();
    let mut taken = BTreeSet::new();
    while taken != expected {
        let received = receive_in_the_end(consumer, 5).await;
        taken.extend(received.iter().map(|it| it.frame.span.first_ordinal));
        let _ = consumer.ack(&received).await;
        assert!(taken.is_subset(&expected), "{taken:?}");
    }
}

fn some_events(ordinals: std::ops::Range<u32>) -> Vec<Frame> {
    ordinals.map(|n| events(n, 1_000)).collect()
}

fn keys(url: &str) -> usize {
    let (port, select) = address(url);
    let listed = raw(port, &[&select, "KEYS lemonade:{vehicle_events*"]);
    let keys = listed.lines().filter(|line| line.starts_with("lemonade"));
    keys.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_carry_each_frame_once_within_one_bound() {
    let url = support::redis().await.fresh();
    let broker = open_with(&url, 5).await;
    let mut consumers = [
        broker.consumer("one").await.unwrap(),
        broker.consumer("two").await.unwrap(),
    ];
    let frames: Vec<Frame> = (0..200)
        .map(|n| frame(super::dataset_of(n), n, 500))
        .collect();
    publish(&*broker, &frames).await;
    assert_eq!(keys(&url), 5);
    let depth = broker.depth().await.unwrap();
    assert_eq!((depth.frames, depth.bytes), (200, 200 * 500));
    let ages = broker.oldest().await.unwrap();
    let names: Vec<&str> = ages.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["vehicle_events", "vehicle_status"]);
    let seen = broker.peek(7).await.unwrap();
    assert_eq!(seen.len(), 14);
    assert_eq!(entries(&seen).len(), 14);
    let streams: BTreeSet<&str> = seen.iter().map(|it| &*it.stream).collect();
    assert!(streams.len() > 2, "{streams:?}");

    let mut received = BTreeSet::new();
    for turn in (0..2).cycle() {
        let deliveries = receive(&mut *consumers[turn], 10).await;
        assert!(deliveries.len() <= 10);
        let spans = deliveries.iter().map(|it| it.frame.span.first_ordinal);
        let before = received.len();
        received.extend(spans);
        assert_eq!(received.len(), before + deliveries.len(), "one came twice");
        consumers[turn].ack(&deliveries).await.unwrap();
        if received.len() == 200 {
            break;
        }
    }
    assert_eq!(broker.depth().await.unwrap(), Depth::default());

    let options = BrokerOptions {
        shards: 5,
        queue_bytes_max: 100_000,
        ..BrokerOptions::default()
    };
    let small = open(&url, options).await;
    publish(&*small, &[events(0, 40_000), events(1, 40_000)]).await;
    let third = [events(2, 40_000)];
    let mut publishing = small.publish(&third);
    let waits = timeout(A_WHILE, &mut publishing).await.is_err();
    assert!(
        waits,
        "80,000 + 40,000 > 100,000, though they are in two streams"
    );
    take(&mut *consumers[0], 0..2).await;
    timeout(AT_MOST, publishing)
        .await
        .expect("there is room")
        .unwrap();
}

/// A number that was changed loses nothing: neither frames that wait, nor those that a consumer of
/// the same name or a dead one has.
#[tokio::test(flavor = "multi_thread")]
async fn frames_of_another_number_of_shards_are_received() {
    let url = support::redis().await.fresh();
    let four = open_with(&url, 4).await;
    publish(&*four, &some_events(0..40)).await;
    let mut same = four.consumer("same").await.unwrap();
    let mut dead = four.consumer("dead").await.unwrap();
    let [by_same, by_dead] = [receive(&mut *same, 8).await, receive(&mut *dead, 8).await];
    assert!(!by_same.is_empty() && !by_dead.is_empty());
    drop((same, dead, four));

    let two = open_with(&url, 2).await;
    assert_eq!(depth_in_the_end(&*two).await.frames, 40);
    publish(&*two, &some_events(40..60)).await;
    let mut same = two.consumer("same").await.unwrap();
    let again = receive(&mut *same, 1).await;
    assert!(again[0].redelivered, "it begins with what was left");
    drop((same, two));

    let one = open_with(&url, 1).await;
    publish(&*one, &some_events(60..70)).await;
    let depth = depth_in_the_end(&*one).await;
    assert_eq!(depth.frames, 70);
    assert_eq!(one.peek(100).await.unwrap().len(), 70);
    let mut last = one.consumer("last").await.unwrap();
    take(&mut *last, 0..70).await;
    assert_eq!(one.depth().await.unwrap(), Depth::default());

    // From now on, only today's stream is used.
    publish(&*one, &some_events(70..80)).await;
    let (port, select) = address(&url);
    let length = raw(port, &[&select, &format!("XLEN {EVENTS_KEY}")]);
    assert!(length.contains(":10\r\n"), "{length}");
    take(&mut *last, 70..80).await;
}

/// As in a restart of one process after the other with another number.
#[tokio::test(flavor = "multi_thread")]
async fn processes_with_different_numbers_of_shards_share_a_queue() {
    let url = support::redis().await.fresh();
    let [one, six] = [open_with(&url, 1).await, open_with(&url, 6).await];
    let mut of_one = one.consumer("one").await.unwrap();
    assert!(of_one.receive(5).await.unwrap().is_empty());
    publish(&*six, &some_events(0..30)).await;
    take(&mut *of_one, 0..30).await;
    drop(of_one);
    let mut of_six = six.consumer("six").await.unwrap();
    publish(&*one, &some_events(30..40)).await;
    take(&mut *of_six, 30..40).await;
    // One that publishes without reading counts the other's frames, too.
    publish(&*six, &some_events(40..50)).await;
    let until = tokio::time::Instant::now() + AT_MOST;
    while one.depth().await.unwrap().frames != 10 {
        assert!(tokio::time::Instant::now() < until, "it never counts them");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    take(&mut *of_six, 40..50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_master_of_a_cluster_has_its_part_of_a_dataset_through_failover_and_resharding() {
    let mut cluster = Cluster::start(3).await;
    // The rights that the docs name.
    let rights = "+@stream +@connection +info +memory|usage +del +cluster|slots +cluster|info";
    let url = cluster.url_of(rights);
    for shards in [3, 6] {
        let broker = open_with(&url, shards).await;
        let frames: Vec<Frame> = (0..300)
            .map(|n| events(n, 2_000 + n as usize % 11 * 1_700))
            .collect();
        for frames in frames.chunks(13) {
            publish(&*broker, frames).await;
        }
        let bytes = cluster.bytes("lemonade:{vehicle_events*");
        let sum: u64 = bytes.iter().sum();
        let parts: Vec<u64> = bytes.iter().map(|bytes| bytes * 100 / sum).collect();
        eprintln!("{shards} shards: {bytes:?} bytes, {parts:?} %");
        assert_eq!(parts.len(), 3);
        assert!(
            parts.iter().all(|part| (25..=42).contains(part)),
            "{parts:?}"
        );
        let findings = broker.inspect(None).await.unwrap();
        let of_masters = |what: &str| what.contains("on 3 of 3 masters");
        assert!(
            findings.iter().any(|it| of_masters(&it.what)),
            "{findings:?}"
        );
        let mut consumer = broker.consumer("one").await.unwrap();
        take(&mut *consumer, 0..300).await;
        assert_eq!(broker.depth().await.unwrap(), Depth::default());
    }

    let broker = open_with(&cluster.url(), 3).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &some_events(0..60)).await;
    let held = receive(&mut *consumer, 5).await;
    cluster.reshard(3_000).await;
    publish_in_the_end(&*broker, &some_events(60..90)).await;
    cluster.fail_over().await;
    // What the dead master had not passed on is lost, as after FLUSHALL: ingest publishes it again.
    publish_in_the_end(&*broker, &some_events(0..120)).await;
    let _ = consumer.ack(&held).await;
    let mut taken: BTreeSet<u32> = held.iter().map(|it| it.frame.span.first_ordinal).collect();
    while taken.len() < 120 {
        let received = receive_in_the_end(&mut *consumer, 5).await;
        taken.extend(received.iter().map(|it| it.frame.span.first_ordinal));
        let _ = consumer.ack(&received).await;
    }
    while depth_in_the_end(&*broker).await.frames > 0 {
        if let Ok(received) = consumer.receive(5).await {
            let _ = consumer.ack(&received).await;
        }
    }
}
