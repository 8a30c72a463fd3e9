//! Accidents of a queue in Redis, and how the broker recovers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lemonade_task::broker::{self, BrokerOptions, Depth};
use lemonade_task::dataset::Datasets;
use lemonade_task::frame::Frame;
use lemonade_task::frame::FrameKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{
    A_WHILE, AT_MOST, EVENTS_KEY, address, depth_in_the_end, events, open, ordinals, publish,
    publish_in_the_end, raw, receive, receive_in_the_end, until,
};
use crate::support;
use crate::support::proxy::{Manner, Proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_queue_is_created_again_under_a_blocked_receiver() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &[events(0, 10)]).await;
    let held = receive(&mut *consumer, 1).await;
    for round in 1..4 {
        let flushed = AtomicBool::new(false);
        let receiving = async {
            while !flushed.load(Ordering::Relaxed) {
                assert!(
                    consumer
                        .receive(1)
                        .await
                        .expect("receiving returns no error")
                        .is_empty()
                );
            }
        };
        let flushing = async {
            // Flushed while a read waits at the server.
            until(|| raw(redis.port, &["INFO clients"]).contains("blocked_clients:1")).await;
            raw(redis.port, &["FLUSHALL"]);
            flushed.store(true, Ordering::Relaxed);
        };
        tokio::join!(receiving, flushing);
        publish(&*broker, &[events(round, 10)]).await;
        let new = receive(&mut *consumer, 1).await;
        assert_eq!(ordinals(&new), [round]);
        consumer.ack(&new).await.unwrap();
    }
    consumer
        .ack(&held)
        .await
        .expect("the ack of a deleted entry is harmless");
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
    // Flushed while no consumer receives: frames published before the group exists are not lost.
    raw(redis.port, &["FLUSHALL"]);
    publish(&*broker, &[events(9, 10)]).await;
    assert_eq!(broker.depth().await.unwrap().frames, 1);
    assert_eq!(ordinals(&receive(&mut *consumer, 1).await), [9]);
}

/// A program that may write into the queue, but lacks the key, makes no rows: the engine deletes
/// the entry, and ingest publishes its records again.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_were_made_without_the_key_are_deleted() {
    let url = support::redis().await.fresh();
    let broker = open(&url, BrokerOptions::default()).await;
    let options = BrokerOptions {
        key: Some(FrameKey::new([9; FrameKey::BYTES])),
        ..BrokerOptions::default()
    };
    let datasets = Datasets::new(Vec::new()).unwrap();
    let other = broker::open(&url, &options, &datasets).await.unwrap();
    publish(&*other, &[events(0, 10), events(1, 10)]).await;
    publish(&*broker, &[events(2, 10)]).await;
    let seen = broker.peek(9).await.unwrap();
    let frames = seen.iter().map(|queued| queued.frame.is_some());
    assert_eq!(frames.collect::<Vec<_>>(), [false, false, true]);

    let mut consumer = broker.consumer("one").await.unwrap();
    let received = receive(&mut *consumer, 3).await;
    assert_eq!(ordinals(&received), [2]);
    consumer.ack(&received).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_deleted_or_are_not_frames_are_dropped() {
    let url = support::redis().await.fresh();
    let (port, select) = address(&url);
    let broker = open(&url, BrokerOptions::default()).await;
    publish(&*broker, &[events(0, 10), events(1, 10), events(2, 10)]).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let held = receive(&mut *consumer, 3).await;
    drop(consumer);
    raw(
        port,
        &[&select, &format!("XDEL {EVENTS_KEY} {}", held[1].tag.entry)],
    );
    raw(
        port,
        &[
            &select,
            &format!("XADD {EVENTS_KEY} * h junk rows junk"),
            &format!("XADD {EVENTS_KEY} * some thing"),
        ],
    );
    publish(&*broker, &[events(3, 10)]).await;
    let seen = broker.peek(9).await.unwrap();
    let frames = seen.iter().map(|queued| queued.frame.is_some());
    assert_eq!(
        frames.collect::<Vec<_>>(),
        [true, true, false, false, true],
        "peeking reports an entry that is not a frame"
    );

    let mut consumer = broker.consumer("one").await.unwrap();
    let mut received = receive(&mut *consumer, 3).await;
    assert_eq!(ordinals(&received), [0, 2]);
    while received.len() < 3 {
        received.extend(receive(&mut *consumer, 3).await);
    }
    assert_eq!(ordinals(&received), [0, 2, 3]);
    consumer.ack(&received).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_deleted_consumer_are_delivered_again() {
    let url = support::redis().await.fresh();
    let (port, select) = address(&url);
    let dead_after = Duration::from_millis(100);
    let broker = open(
        &url,
        BrokerOptions {
            dead_after,
            ..BrokerOptions::default()
        },
    )
    .await;
    publish(&*broker, &[events(0, 10), events(1, 10)]).await;
    let mut deleted = broker.consumer("deleted").await.unwrap();
    assert_eq!(ordinals(&receive(&mut *deleted, 2).await), [0, 1]);
    drop(deleted);
    raw(
        port,
        &[
            &select,
            &format!("XGROUP DELCONSUMER {EVENTS_KEY} workers deleted"),
        ],
    );
    assert_eq!(broker.depth().await.unwrap().frames, 2);
    let mut heir = broker.consumer("heir").await.unwrap();
    let received = receive(&mut *heir, 2).await;
    assert_eq!(ordinals(&received), [0, 1]);
    heir.ack(&received).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

/// With the settings of a service. A consumer that was long gone is no longer listed.
#[tokio::test(flavor = "multi_thread")]
async fn frames_of_a_dead_consumer_wait_for_less_than_ten_seconds() {
    let url = support::redis().await.fresh();
    let broker = open(&url, BrokerOptions::default()).await;
    publish(&*broker, &[events(0, 10), events(1, 10)]).await;
    let mut dead = broker.consumer("dead").await.unwrap();
    assert_eq!(ordinals(&receive(&mut *dead, 2).await), [0, 1]);
    let mut heir = broker.consumer("heir").await.unwrap();
    assert!(heir.receive(2).await.unwrap().is_empty());
    drop(dead);
    let died = Instant::now();
    let received = receive_in_the_end(&mut *heir, 2).await;
    let waited = died.elapsed();
    assert_eq!(ordinals(&received), [0, 1]);
    assert!(
        waited > Duration::from_secs(3) && waited < Duration::from_secs(10),
        "{waited:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_restart_ends_neither_publisher_nor_consumer() {
    let mut redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &[events(0, 10)]).await;
    let held = receive(&mut *consumer, 1).await;
    redis.kill();
    let fault = consumer.receive(1).await.expect_err("no server runs");
    assert!(fault.is_transient(), "{fault}");
    redis.restart().await;
    publish_in_the_end(&*broker, &[events(1, 10)]).await;
    let received = receive_in_the_end(&mut *consumer, 1).await;
    assert_eq!(ordinals(&received), [1]);
    consumer.ack(&received).await.unwrap();
    consumer.ack(&held).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_is_a_transient_fault_and_comes_back() {
    let mut redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    redis.pause();
    // More bytes than the buffers of the socket hold, so that a write hangs as well.
    let many: Vec<Frame> = (0..200).map(|n| events(n, 100_000)).collect();
    let (published, received) = timeout(AT_MOST, async {
        tokio::join!(broker.publish(&many), consumer.receive(1))
    })
    .await
    .expect("publisher and receiver end the wait themselves");
    assert!(published.expect_err("no reply came").is_transient());
    assert!(received.expect_err("no reply came").is_transient());
    redis.resume();
    publish_in_the_end(&*broker, &many).await;
    // Frames may arrive twice, but none may be missing.
    let mut spans = BTreeSet::new();
    while spans.len() < many.len() {
        let received = receive_in_the_end(&mut *consumer, 50).await;
        consumer.ack(&received).await.unwrap();
        spans.extend(received.into_iter().map(|delivery| delivery.frame.span));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_hang_for_ever_are_replaced() {
    let redis = support::private_redis().await;
    let (port, freeze) = freezing_proxy(redis.port).await;
    let url = format!("redis://127.0.0.1:{port}");
    let broker = open(&url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &[events(0, 10)]).await;
    assert_eq!(ordinals(&receive(&mut *consumer, 1).await), [0]);
    // Like a router that has lost its connections: no call fails, and no byte ever arrives.
    freeze.send_modify(|frozen| *frozen += 1);
    publish_in_the_end(&*broker, &[events(1, 10)]).await;
    let mut ordinals = BTreeSet::new();
    while !ordinals.contains(&1) {
        let received = receive_in_the_end(&mut *consumer, 4).await;
        ordinals.extend(
            received
                .iter()
                .map(|delivery| delivery.frame.span.first_ordinal),
        );
    }
}

/// Forwards bytes to the server, until it freezes the connections that exist at that time.
async fn freezing_proxy(server: u16) -> (u16, watch::Sender<u32>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let freeze = watch::Sender::new(0);
    let told = freeze.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut told = told.subscribe();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    // The connection stays open and is not read.
                    _ = told.changed() => std::future::pending().await,
                }
            });
        }
    });
    (port, freeze)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_connections_lose_nothing() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    let mut spans = BTreeSet::new();
    for n in 0..20 {
        publish_in_the_end(&*broker, &[events(n, 10)]).await;
        raw(redis.port, &["CLIENT KILL TYPE normal"]);
        while !spans.contains(&n) {
            let received = receive_in_the_end(&mut *consumer, 4).await;
            let _ = consumer.ack(&received).await;
            spans.extend(
                received
                    .iter()
                    .map(|delivery| delivery.frame.span.first_ordinal),
            );
        }
    }
    // Entries whose ack was lost are delivered again.
    while depth_in_the_end(&*broker).await.frames > 0 {
        let received = receive_in_the_end(&mut *consumer, 4).await;
        let _ = consumer.ack(&received).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory_is_waited_for() {
    let redis = support::private_redis().await;
    let broker = open(&redis.url, BrokerOptions::default()).await;
    raw(redis.port, &["CONFIG SET maxmemory 1"]);
    let frames: Vec<Frame> = (0..5).map(|n| events(n, 1000)).collect();
    let mut publishing = broker.publish(&frames);
    assert!(timeout(A_WHILE, &mut publishing).await.is_err());
    raw(redis.port, &["CONFIG SET maxmemory 0"]);
    timeout(AT_MOST, publishing)
        .await
        .expect("the server has memory again")
        .unwrap();
    assert_eq!(broker.depth().await.unwrap().frames, 5);
}

/// A consumer that is busy while its connection ends gets no error: the client reconnects by
/// itself. If it reaches a promoted replica, acked entries may be pending again.
#[tokio::test(flavor = "multi_thread")]
async fn pending_entries_of_a_promoted_replica_are_delivered_again() {
    let mut master = support::private_redis().await;
    let replica = support::private_redis().await;
    let link = Proxy::start(master.port).await;
    raw(
        replica.port,
        &[&format!("REPLICAOF 127.0.0.1 {}", link.port)],
    );
    until(|| raw(replica.port, &["INFO replication"]).contains("master_link_status:up")).await;
    let proxy = Proxy::start(master.port).await;
    let url = format!("redis://127.0.0.1:{}/0", proxy.port);
    let broker = open(&url, BrokerOptions::default()).await;
    let mut consumer = broker.consumer("one").await.unwrap();
    publish(&*broker, &[events(0, 10), events(1, 10)]).await;
    let received = receive(&mut *consumer, 2).await;
    let on_replica = |command: &str| raw(replica.port, &[&format!("{command} {EVENTS_KEY}")]);
    until(|| on_replica("XLEN").starts_with(":2")).await;
    until(|| on_replica("XINFO GROUPS").contains("$7\r\npending\r\n:2\r\n")).await;
    link.set(Manner::Blackhole);
    consumer.ack(&received).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());

    master.kill();
    link.cut();
    raw(replica.port, &["REPLICAOF NO ONE"]);
    proxy.lead_to(replica.port);
    let before = proxy.accepted();
    proxy.cut();
    // Publisher and consumer have a connection each. Both reconnect while they are idle.
    until(|| proxy.accepted() >= before + 2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = receive_in_the_end(&mut *consumer, 2).await;
    assert_eq!(ordinals(&again), ordinals(&received));
    assert!(again.iter().all(|delivery| delivery.redelivered));
    consumer.ack(&again).await.unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

/// A key of another type, or a stream whose last id is the greatest possible one: made before the
/// broker connects, and while it is connected.
#[tokio::test]
async fn a_key_that_takes_no_entry_is_replaced() {
    let last = "18446744073709551615-18446744073709551615";
    for harm in [
        format!("SET {EVENTS_KEY} x"),
        format!("RPUSH {EVENTS_KEY} x"),
        format!("XADD {EVENTS_KEY} {last} some thing"),
    ] {
        for before in [true, false] {
            let url = support::redis().await.fresh();
            let (port, select) = address(&url);
            let delete = format!("DEL {EVENTS_KEY}");
            let harm = [&*select, &*delete, &*harm];
            if before {
                raw(port, &harm);
            }
            let broker = open(&url, BrokerOptions::default()).await;
            let mut consumer = broker.consumer("one").await.unwrap();
            if !before {
                raw(port, &harm);
            }
            publish(&*broker, &[events(0, 10), events(1, 10)]).await;
            let mut received = Vec::new();
            while received.len() < 2 {
                received.extend(receive(&mut *consumer, 2).await);
            }
            assert_eq!(ordinals(&received), [0, 1], "{harm:?} {before}");
            consumer.ack(&received).await.unwrap();
            assert_eq!(broker.depth().await.unwrap(), Depth::default());

            // The consumer reads the key before a publisher does.
            raw(port, &harm);
            timeout(AT_MOST, async {
                while !receive_or_none(&mut *consumer).await {}
            })
            .await
            .unwrap_or_else(|_| panic!("{harm:?}: the consumer continues"));
            publish(&*broker, &[events(2, 10)]).await;
            assert_eq!(ordinals(&receive(&mut *consumer, 1).await), [2], "{harm:?}");
        }
    }
}

/// Whether a read is no error.
async fn receive_or_none(consumer: &mut dyn lemonade_task::broker::Consumer) -> bool {
    consumer.receive(1).await.is_ok()
}
