//! Seam 1: each clause of the contract, over each broker, and the faults that only Redis can have.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lemonade_task::batch::Span;
use lemonade_task::broker::{self, Broker, BrokerOptions, Consumer, Delivery, Depth, Queued};
use lemonade_task::dataset::{Datasets, Fingerprint};
use lemonade_task::fault::Class;
use lemonade_task::frame::{Frame, FrameKey};
use tokio::time::{Instant, timeout};

use crate::support;

mod accidents;
pub mod cluster;
mod hosts;
mod faults;
mod owners;
mod shards;
mod taking_over;

/// Longest wait for an expected event: reconnecting takes seconds, and the machine may be busy.
const AT_MOST: Duration = Duration::from_secs(40);

/// How long a test waits for an event that must not happen.
const A_WHILE: Duration = Duration::from_millis(300);

/// The stream of `vehicle_events`.
const EVENTS_KEY: &str = "lemonade:{vehicle_events}:frames";

// ---------------------------------------------------------------------------------------------
// The contract, over every broker
// ---------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_in_this_process_keeps_the_contract() {
    contract(|| "memory:".to_owned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract() {
    let redis = support::redis().await;
    contract(|| redis.fresh()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_keeps_the_contract() {
    let node = cluster::Node::start().await;
    contract(|| {
        // A cluster has only one database, so it is flushed: each clause begins with an empty
        // queue.
        raw(node.port, &["FLUSHALL"]);
        format!("redis-cluster://127.0.0.1:{}", node.port)
    })
    .await;
}

/// Each clause of the contract, on an empty queue of its own.
async fn contract(fresh: impl Fn() -> String) {
    every_frame_comes_once_and_in_order(&fresh()).await;
    a_receiver_gets_no_more_than_it_asks_for(&fresh()).await;
    an_idle_queue_gives_nothing_after_a_while(&fresh()).await;
    a_full_queue_makes_publishers_wait(&fresh()).await;
    a_frame_larger_than_the_queue_passes_alone(&fresh()).await;
    taking_over::frames_of_a_dead_consumer_come_to_another(&fresh()).await;
    taking_over::frames_of_a_living_consumer_stay_with_it(&fresh()).await;
    a_consumer_of_the_same_name_begins_with_what_was_left(&fresh()).await;
    a_dropped_receive_loses_nothing(&fresh()).await;
    delivered_frames_are_not_delivered_again_and_acks_may_be_repeated(&fresh()).await;
    the_oldest_frame_grows_older_until_it_is_acked(&fresh()).await;
    peeking_shows_the_queue_and_takes_nothing(&fresh()).await;
}

async fn every_frame_comes_once_and_in_order(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    let frames: Vec<Frame> = (0..50).map(|n| frame(dataset_of(n), n, 1000)).collect();
    publish(&*broker, &frames).await;
    let depth = broker.depth().await.unwrap();
    assert_eq!((depth.frames, depth.pending), (50, 0));
    let weight: usize = frames.iter().map(Frame::weight).sum();
    assert_eq!(depth.bytes, weight as u64);

    let mut consumers = [
        broker.consumer("one").await.unwrap(),
        broker.consumer("two").await.unwrap(),
    ];
    let mut received: Vec<Delivery> = Vec::new();
    for turn in (0..2).cycle() {
        let deliveries = receive(&mut *consumers[turn], 7).await;
        for dataset in ["vehicle_events", "vehicle_status"] {
            let of = deliveries
                .iter()
                .filter(|delivery| *delivery.frame.dataset == *dataset);
            assert!(of.map(|delivery| delivery.frame.span).is_sorted());
        }
        received.extend(deliveries);
        if received.len() >= 50 {
            break;
        }
    }
    assert!(received.iter().all(|delivery| !delivery.redelivered));
    received.sort_by_key(|delivery| delivery.frame.span);
    let same: Vec<&Frame> = received.iter().map(|delivery| &delivery.frame).collect();
    assert_eq!(same, frames.iter().collect::<Vec<_>>());

    assert_eq!(broker.depth().await.unwrap().pending, 50);
    // Any consumer may ack what another received.
    consumers[0].ack(&received).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

async fn a_receiver_gets_no_more_than_it_asks_for(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(
        &*broker,
        &(0..10)
            .map(|n| frame(dataset_of(n), n, 10))
            .collect::<Vec<_>>(),
    )
    .await;
    let mut received = 0;
    while received < 10 {
        let deliveries = receive(&mut *consumer, 3).await;
        assert!(deliveries.len() <= 3);
        received += deliveries.len();
    }
    assert!(consumer.receive(0).await.unwrap().is_empty());
}

async fn an_idle_queue_gives_nothing_after_a_while(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let received = timeout(AT_MOST, consumer.receive(10))
        .await
        .expect("it returns")
        .unwrap();
    assert!(received.is_empty());
}

async fn a_full_queue_makes_publishers_wait(url: &str) {
    let broker = open(url, with_queue_of(100_000)).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &[events(0, 40_000), events(1, 40_000)]).await;
    let third = [events(2, 40_000)];
    let mut publishing = broker.publish(&third);
    assert!(
        timeout(A_WHILE, &mut publishing).await.is_err(),
        "80,000 + 40,000 > 100,000"
    );
    // Received frames still count: they may be delivered again.
    let mut received = Vec::new();
    while received.len() < 2 {
        received.extend(receive(&mut *consumer, 2).await);
    }
    assert!(
        timeout(A_WHILE, &mut publishing).await.is_err(),
        "pending entries count with the same weight"
    );
    consumer.ack(&received).await.unwrap();
    timeout(AT_MOST, publishing)
        .await
        .expect("the queue has room now")
        .unwrap();
    assert_eq!(broker.depth().await.unwrap().frames, 1);
}

async fn the_oldest_frame_grows_older_until_it_is_acked(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let oldest = async || {
        let ages = broker.oldest().await.unwrap().into_iter();
        ages.map(|(_, age)| age).max().unwrap()
    };
    assert_eq!(oldest().await, Duration::ZERO);
    publish(&*broker, &[events(0, 100)]).await;
    tokio::time::sleep(A_WHILE).await;
    let waiting = oldest().await;
    assert!(waiting >= A_WHILE, "{waiting:?}");
    publish(&*broker, &[events(1, 100)]).await;
    let received = receive(&mut *consumer, 1).await;
    let held = oldest().await;
    assert!(held >= waiting, "{held:?} delivered");
    consumer.ack(&received).await.unwrap();
    let younger = oldest().await;
    assert!(younger > Duration::ZERO && younger < held, "{younger:?}");
    let received = receive(&mut *consumer, 1).await;
    consumer.ack(&received).await.unwrap();
    assert_eq!(oldest().await, Duration::ZERO);
}

async fn peeking_shows_the_queue_and_takes_nothing(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    assert_eq!(broker.peek(10).await.unwrap(), []);
    // More frames than one round trip reads, and no consumer exists yet.
    let frames: Vec<Frame> = (0..40).map(|n| events(n, 1000)).collect();
    publish(&*broker, &frames).await;
    tokio::time::sleep(A_WHILE).await;
    let peek = async |max| broker.peek(max).await.unwrap();
    let all = peek(100).await;
    let seen = |queued: &Queued| (queued.frame.unwrap(), queued.dataset.clone());
    let expected = frames
        .iter()
        .map(|frame| ((frame.span, 1000), frame.dataset.clone()));
    assert!(all.iter().map(seen).eq(expected), "{all:?}");
    for queued in &all {
        assert_eq!(queued.owner, None);
        assert!(queued.age >= A_WHILE && queued.age < AT_MOST, "{queued:?}");
    }
    assert_eq!(entries(&peek(33).await), entries(&all[..33]));

    let mut dead = broker.consumer("dead").await.unwrap();
    assert_eq!(ordinals(&receive(&mut *dead, 2).await), [0, 1]);
    tokio::time::sleep(A_WHILE).await;
    let looked = peek(3).await;
    assert_eq!(entries(&looked), entries(&all[..3]), "the order stays");
    for queued in &looked[..2] {
        let owner = queued.owner.as_ref().unwrap();
        assert_eq!((&*owner.consumer, owner.deliveries), ("dead", 1));
        assert!(owner.held_for >= A_WHILE && owner.held_for < queued.age);
    }
    assert_eq!(looked[2].owner, None);
    // Delivered again to a new consumer of the same name. Peeking did not count as a delivery.
    drop(dead);
    let mut next = broker.consumer("dead").await.unwrap();
    let again = receive(&mut *next, 1).await;
    assert_eq!(ordinals(&again), [0]);
    let looked = peek(1).await;
    assert_eq!(looked[0].owner.as_ref().unwrap().deliveries, 2);
    next.ack(&again).await.unwrap();
    assert_eq!(entries(&peek(1).await), entries(&all[1..2]));
    // Stream by stream.
    publish(&*broker, &[frame("vehicle_status", 99, 500)]).await;
    let last = peek(100).await.pop().unwrap();
    assert_eq!(
        (&*last.dataset, last.frame.unwrap().1),
        ("vehicle_status", 500)
    );
    assert_eq!(broker.depth().await.unwrap().frames, 40);
}

async fn a_frame_larger_than_the_queue_passes_alone(url: &str) {
    let broker = open(url, with_queue_of(10_000)).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let frames = [events(0, 40_000), events(1, 40_000)];
    let mut publishing = broker.publish(&frames);
    assert!(
        timeout(A_WHILE, &mut publishing).await.is_err(),
        "the large frame is alone in the queue"
    );
    assert_eq!(broker.depth().await.unwrap().frames, 1);
    let received = receive(&mut *consumer, 2).await;
    consumer.ack(&received).await.unwrap();
    timeout(AT_MOST, publishing)
        .await
        .expect("the queue is empty")
        .unwrap();
    assert_eq!(ordinals(&receive(&mut *consumer, 2).await), [1]);
}

async fn a_consumer_of_the_same_name_begins_with_what_was_left(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    publish(&*broker, &[events(0, 10), events(1, 10), events(2, 10)]).await;
    let mut first = broker.consumer("worker").await.unwrap();
    let received = receive(&mut *first, 3).await;
    first.ack(&received[1..2]).await.unwrap();
    drop(first);
    publish(&*broker, &[events(3, 10)]).await;
    let mut second = broker.consumer("worker").await.unwrap();
    let left = receive(&mut *second, 2).await;
    assert_eq!(ordinals(&left), [0, 2]);
    assert!(left.iter().all(|delivery| delivery.redelivered));
    let new = receive(&mut *second, 2).await;
    assert_eq!(ordinals(&new), [3]);
    assert!(!new[0].redelivered);
}

async fn a_dropped_receive_loses_nothing(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let mut received: BTreeMap<Span, Delivery> = BTreeMap::new();
    let mut keep = |deliveries: Vec<Delivery>| {
        received.extend(
            deliveries
                .into_iter()
                .map(|delivery| (delivery.frame.span, delivery)),
        );
        received.len()
    };
    for n in 0..40 {
        // The receiver stops at about the time at which the frame arrives.
        let give_up = Duration::from_micros(u64::from(n) * 50);
        let one = [events(n, 10)];
        let (until_then, published) =
            tokio::join!(timeout(give_up, consumer.receive(4)), broker.publish(&one));
        published.unwrap();
        keep(until_then.map(Result::unwrap).unwrap_or_default());
    }
    while keep(Vec::new()) < 40 {
        keep(receive(&mut *consumer, 4).await);
    }
    consumer
        .ack(&received.into_values().collect::<Vec<_>>())
        .await
        .unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

async fn delivered_frames_are_not_delivered_again_and_acks_may_be_repeated(url: &str) {
    let broker = open(url, BrokerOptions::default()).await;
    publish(&*broker, &[events(0, 10), events(1, 10)]).await;
    let mut one = broker.consumer("one").await.unwrap();
    let mut two = broker.consumer("two").await.unwrap();
    let held = receive(&mut *one, 2).await;
    assert_eq!(ordinals(&held), [0, 1]);
    assert!(one.receive(2).await.unwrap().is_empty());
    assert!(two.receive(2).await.unwrap().is_empty());
    // The same holds if a dropped receive makes the consumer search for entries that it may have
    // missed.
    let dropped = timeout(Duration::from_millis(20), one.receive(2)).await;
    assert!(dropped.is_err());
    assert!(one.receive(2).await.unwrap().is_empty());
    one.ack(&held).await.unwrap();
    one.ack(&held).await.unwrap();
    two.ack(&[]).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

// ---------------------------------------------------------------------------------------------
// Opening
// ---------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_an_unknown_kind_is_refused_and_lists_the_known_ones() {
    for url in ["kafka://user:secret@host", "nonsense", ""] {
        let fault = refused(url).await;
        assert_eq!(fault.class, Class::Fatal);
        assert!(fault.to_string().contains("`redis://host:6379`"), "{fault}");
        assert!(!fault.to_string().contains("secret"), "{fault}");
    }
    let namespace = BrokerOptions {
        namespace: "a{b}".to_owned(),
        ..BrokerOptions::default()
    };
    let datasets = Datasets::new(Vec::new()).unwrap();
    let opened = broker::open("redis://127.0.0.1", &namespace, &datasets).await;
    assert!(opened.is_err_and(|fault| {
        fault
            .to_string()
            .contains("`a{b}` is not a valid namespace")
    }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_fatal_and_an_absent_server_is_not() {
    let mut redis = support::private_redis().await;
    let port = redis.port;
    raw(
        port,
        &[
            "ACL SETUSER loader on >pass@word:/1 ~lemonade:* +@stream +@connection +info \
             +memory|usage +del",
            "CONFIG SET requirepass s3cret",
        ],
    );
    for url in [
        format!("redis://127.0.0.1:{port}"),
        format!("redis://:wr0ng@127.0.0.1:{port}"),
        format!("redis://loader:wr0ng@127.0.0.1:{port}"),
    ] {
        let fault = refused(&url).await;
        assert_eq!(fault.class, Class::Fatal, "{fault}");
        assert!(fault.to_string().contains("password"), "{fault}");
        assert!(!fault.to_string().contains("wr0ng"), "{fault}");
    }
    open(
        &format!("redis://:s3cret@127.0.0.1:{port}"),
        BrokerOptions::default(),
    )
    .await;

    // A user with only the rights that the engine needs, and a password that a URL has to escape.
    let url = format!("redis://loader:pass%40word%3A%2F1@127.0.0.1:{port}");
    taking_over::frames_of_a_dead_consumer_come_to_another(&url).await;
    let broker = open(&url, BrokerOptions::default()).await;
    publish(&*broker, &[events(0, 1000)]).await;
    let other = open(&url, BrokerOptions::default()).await;
    assert_eq!(other.peek(9).await.unwrap().len(), 1);
    let depth = other.depth().await.unwrap();
    assert_eq!(depth.frames, 1);
    assert!(
        depth.bytes > 900,
        "the engine has seen no frame, but asks Redis: {depth:?}"
    );

    redis.kill();
    let fault = refused(&format!("redis://:s3cret@127.0.0.1:{port}")).await;
    assert_eq!(fault.class, Class::Transient, "{fault}");
    assert!(!fault.to_string().contains("s3cret"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_is_not_taken_for_a_server() {
    let node = cluster::Node::start().await;
    let fault = refused(&format!("redis://127.0.0.1:{}", node.port)).await;
    assert_eq!(fault.class, Class::Fatal, "{fault}");
    assert!(fault.to_string().contains("`redis-cluster://`"), "{fault}");
}

// ---------------------------------------------------------------------------------------------
// Steps
// ---------------------------------------------------------------------------------------------

async fn open(url: &str, options: BrokerOptions) -> Arc<dyn Broker> {
    open_as(url, options).await.expect("the server answers")
}

async fn open_as(
    url: &str,
    options: BrokerOptions,
) -> Result<Arc<dyn Broker>, lemonade_task::fault::Fault> {
    let key = Some(FrameKey::new([1; FrameKey::BYTES]));
    let options = BrokerOptions { key, ..options };
    let datasets = Datasets::new(Vec::new()).unwrap();
    broker::open(url, &options, &datasets).await
}

async fn refused(url: &str) -> lemonade_task::fault::Fault {
    let datasets = Datasets::new(Vec::new()).unwrap();
    let opened = broker::open(url, &BrokerOptions::default(), &datasets).await;
    opened.map(drop).expect_err("the broker cannot be opened")
}

fn with_queue_of(queue_bytes_max: u64) -> BrokerOptions {
    BrokerOptions {
        queue_bytes_max,
        ..BrokerOptions::default()
    }
}

fn dataset_of(n: u32) -> &'static str {
    if n.is_multiple_of(2) {
        "vehicle_events"
    } else {
        "vehicle_status"
    }
}

fn events(n: u32, bytes: usize) -> Frame {
    frame("vehicle_events", n, bytes)
}

/// A frame of record `n` with this weight. The broker does not read its bytes, which are not UTF-8.
fn frame(dataset: &str, n: u32, bytes: usize) -> Frame {
    let rejects = if n.is_multiple_of(3) { bytes / 10 } else { 0 };
    let payload = |bytes: usize| Bytes::from(vec![u8::try_from(n % 100).unwrap() | 0x80; bytes]);
    Frame {
        dataset: dataset.into(),
        definition: Fingerprint::default(),
        span: Span {
            file_no: 7,
            first_ordinal: n,
            records: 1,
        },
        hash: [7; 16],
        rows: payload(bytes - rejects),
        rejects: payload(rejects),
    }
}

async fn publish(broker: &dyn Broker, frames: &[Frame]) {
    timeout(AT_MOST, broker.publish(frames))
        .await
        .expect("the call does not hang")
        .unwrap();
}

async fn publish_in_the_end(broker: &dyn Broker, frames: &[Frame]) {
    let until = Instant::now() + AT_MOST;
    while let Err(fault) = broker.publish(frames).await {
        assert!(fault.is_transient() && Instant::now() < until, "{fault}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits for at least one delivery.
async fn receive(consumer: &mut dyn Consumer, max: usize) -> Vec<Delivery> {
    let until = Instant::now() + AT_MOST;
    loop {
        let received = consumer.receive(max).await.unwrap();
        if !received.is_empty() {
            return received;
        }
        assert!(Instant::now() < until, "nothing comes");
    }
}

async fn receive_in_the_end(consumer: &mut dyn Consumer, max: usize) -> Vec<Delivery> {
    let until = Instant::now() + AT_MOST;
    loop {
        match consumer.receive(max).await {
            Ok(received) if !received.is_empty() => return received,
            Ok(_) => {}
            Err(fault) => {
                assert!(fault.is_transient(), "{fault}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert!(Instant::now() < until, "nothing comes");
    }
}

async fn depth_in_the_end(broker: &dyn Broker) -> Depth {
    let until = Instant::now() + AT_MOST;
    loop {
        match broker.depth().await {
            Ok(depth) => return depth,
            Err(fault) => assert!(fault.is_transient() && Instant::now() < until, "{fault}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(reached: impl Fn() -> bool) {
    let until = Instant::now() + AT_MOST;
    while !reached() {
        assert!(Instant::now() < until, "the server cannot be reached");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ordinals(deliveries: &[Delivery]) -> Vec<u32> {
    deliveries
        .iter()
        .map(|delivery| delivery.frame.span.first_ordinal)
        .collect()
}

/// The broker's names of the entries.
fn entries(queued: &[Queued]) -> Vec<&str> {
    queued.iter().map(|queued| &*queued.entry).collect()
}

/// The port of the URL and the command that selects its database.
pub fn address(url: &str) -> (u16, String) {
    let (_, rest) = url.rsplit_once(':').unwrap();
    let (port, database) = rest.split_once('/').unwrap();
    (port.parse().unwrap(), format!("SELECT {database}"))
}

/// Sends these commands as an operator would, and returns the raw replies.
pub fn raw(port: u16, commands: &[&str]) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(AT_MOST)).unwrap();
    write!(stream, "{}\r\nQUIT\r\n", commands.join("\r\n")).unwrap();
    let mut reply = Vec::new();
    // A test may kill this connection.
    let _ = stream.read_to_end(&mut reply);
    let reply = String::from_utf8_lossy(&reply).into_owned();
    assert!(
        !reply.starts_with('-') && !reply.contains("\n-"),
        "{commands:?}: {reply}"
    );
    reply
}
