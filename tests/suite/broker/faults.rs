//! Errors that Redis may return, and the loss of its data: the rows of the failure table that
//! concern the server and not the queue.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use lemonade_task::broker::{Broker, BrokerOptions, Depth};
use lemonade_task::fault::Fault;
use lemonade_task::frame::Frame;

use super::{
    AT_MOST, EVENTS_KEY, events, open, ordinals, publish, publish_in_the_end, raw, receive,
    receive_in_the_end, until,
};
use crate::support;
use crate::support::proxy::{Proxy, Strike};

#[tokio::test(flavor = "multi_thread")]
async fn the_client_repeats_no_request() {
    let redis = support::private_redis().await;
    let proxy = Proxy::start(redis.port).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let broker = open(&url, BrokerOptions::default()).await;
    let length = || raw(redis.port, &[&format!("XLEN {EVENTS_KEY}")]);
    proxy.strike("XADD", Strike::LoseReply);
    let fault = refused(&*broker, 0).await;
    assert_eq!(proxy.strikes(), 1, "{fault}");
    assert!(
        length().starts_with(":1\r"),
        "the entry is stored once, although the client got no reply"
    );
    connected(&*broker).await;
    proxy.strike("XADD", Strike::LoseRequest);
    let fault = refused(&*broker, 1).await;
    assert_eq!(proxy.strikes(), 2, "{fault}");
    // If the client repeated it, it would have done so by now: it is connected and has received a
    // reply.
    connected(&*broker).await;
    assert!(length().starts_with(":1\r"), "it never arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_is_waited_for_without_an_error() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let began = Instant::now();
    raw(redis.port, &["CLIENT PAUSE 1000 ALL"]);
    publish(&*broker, &[events(0, 10)]).await;
    let received = receive(&mut *consumer, 1).await;
    consumer.ack(&received).await.unwrap();
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "it stood still"
    );
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_with_a_script_is_waited_for() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    raw(redis.port, &["CONFIG SET busy-reply-threshold 100"]);
    let mut script = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port)).unwrap();
    script
        .write_all(b"EVAL \"while true do end\" 0\r\n")
        .unwrap();
    let says_busy = || {
        let mut other = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port)).unwrap();
        other.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 5];
        other.read_exact(&mut reply).unwrap();
        reply == *b"-BUSY"
    };
    until(says_busy).await;
    let fault = refused(&*broker, 0).await;
    assert!(fault.to_string().contains("BUSY"), "{fault}");
    raw(redis.port, &["SCRIPT KILL"]);
    publish_in_the_end(&*broker, &[events(0, 10)]).await;
    assert_eq!(broker.depth().await.unwrap().frames, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_still_loading_is_waited_for() {
    // Loading a key takes a millisecond, and the server answers between two keys.
    let slowly = [
        "--key-load-delay",
        "1000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let mut redis = support::private_redis_with(&slowly).await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &[events(0, 10), events(1, 10)]).await;
    let keys = "EVAL \"for i = 1, 3000 do redis.call('SET', 'other:' .. i, i) end\" 0";
    raw(redis.port, &[keys, "SAVE"]);
    redis.restart().await;
    let is_loading = || raw(redis.port, &["INFO persistence"]).contains("\nloading:1");
    assert!(is_loading(), "3,000 keys take three seconds");
    // The client may report the error or wait for the server. In both cases no frame is accepted
    // before.
    while let Err(fault) = broker.publish(&[events(2, 10)]).await {
        assert!(fault.is_transient(), "{fault}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!is_loading());
    let mut all = BTreeSet::new();
    while all.len() < 3 {
        let received = receive_in_the_end(&mut *consumer, 4).await;
        all.extend(ordinals(&received));
        consumer.ack(&received).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_a_replica_is_waited_for() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &[events(0, 10)]).await;
    let held = receive(&mut *consumer, 1).await;
    // A replica of a master that does not exist keeps its data.
    raw(redis.port, &["REPLICAOF 127.0.0.1 1"]);
    refused(&*broker, 1).await;
    let fault = consumer.receive(1).await.expect_err("reading is writing");
    assert!(fault.is_transient(), "{fault}");
    let fault = consumer
        .ack(&held)
        .await
        .expect_err("an ack is refused as well");
    assert!(fault.is_transient(), "{fault}");
    raw(redis.port, &["REPLICAOF NO ONE"]);
    publish_in_the_end(&*broker, &[events(1, 10)]).await;
    let mut all = BTreeSet::new();
    while all.len() < 2 {
        let received = receive_in_the_end(&mut *consumer, 4).await;
        all.extend(ordinals(&received));
        consumer.ack(&received).await.unwrap();
    }
    consumer.ack(&held).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_save_is_waited_for() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    raw(redis.port, &["CONFIG SET save \"3600 1\""]);
    // A directory in the place of the snapshot makes saving fail, without missing rights or a full
    // disk.
    let snapshot = redis.folder().join("dump.rdb");
    std::fs::create_dir(&snapshot).unwrap();
    let saved = |how: &str| {
        raw(redis.port, &["INFO persistence"]).contains(&format!("rdb_last_bgsave_status:{how}"))
    };
    raw(redis.port, &["BGSAVE"]);
    until(|| saved("err")).await;
    let fault = refused(&*broker, 0).await;
    assert!(fault.to_string().contains("MISCONF"), "{fault}");
    std::fs::remove_dir(&snapshot).unwrap();
    raw(redis.port, &["BGSAVE"]);
    until(|| saved("ok")).await;
    publish_in_the_end(&*broker, &[events(0, 10)]).await;
    assert_eq!(broker.depth().await.unwrap().frames, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_was_used_can_be_saved_and_loaded() {
    let mut redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let frames: Vec<Frame> = (0..40).map(|n| events(n, 2_000)).collect();
    publish(&*broker, &frames).await;
    let mut done = BTreeSet::new();
    while done.len() < 25 {
        let received = receive(&mut *consumer, 5).await;
        done.extend(ordinals(&received));
        consumer.ack(&received).await.unwrap();
    }
    let held = receive(&mut *consumer, 3).await;
    raw(redis.port, &["SAVE"]);
    redis.restart().await;
    // Frames without an ack are delivered again, and acked ones are not.
    let mut left = BTreeSet::new();
    while left.len() < 15 - held.len() {
        let received = receive_in_the_end(&mut *consumer, 5).await;
        left.extend(ordinals(&received));
        consumer.ack(&received).await.unwrap();
    }
    consumer.ack(&held).await.unwrap();
    left.extend(ordinals(&held));
    assert_eq!(left, (25..40).collect());
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_acked_frames_is_free_again() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let used = || {
        let info = raw(redis.port, &["INFO memory"]);
        let used = info
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        used.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = used();
    for round in 0..4 {
        let frames: Vec<Frame> = (0..100).map(|n| events(round * 100 + n, 100_000)).collect();
        publish(&*broker, &frames).await;
        assert!(used() > before + 9_000_000, "they lie there");
        let mut acked = 0;
        while acked < frames.len() {
            let received = receive(&mut *consumer, 16).await;
            consumer.ack(&received).await.unwrap();
            acked += received.len();
        }
    }
    let after = used();
    assert!(after < before + (2 << 20), "{before} before, {after} after");
}

/// Waits until the client is connected again.
async fn connected(broker: &dyn Broker) {
    let until = Instant::now() + AT_MOST;
    while let Err(fault) = broker.depth().await {
        assert!(fault.is_transient() && Instant::now() < until, "{fault}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes a frame that the server refuses, and expects a transient fault.
async fn refused(broker: &dyn Broker, n: u32) -> Fault {
    let fault = broker
        .publish(&[events(n, 10)])
        .await
        .expect_err("the server refuses the frame");
    assert!(fault.is_transient(), "{fault}");
    fault
}
