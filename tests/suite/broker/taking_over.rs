//! Clauses about the frames of dead and of living consumers.

use std::collections::BTreeMap;
use std::time::Duration;

use lemonade_task::batch::Span;
use lemonade_task::broker::{BrokerOptions, Delivery, Depth};
use tokio::time::Instant;

use super::{events, open, ordinals, publish, receive};

pub(super) async fn frames_of_a_dead_consumer_come_to_another(url: &str) {
    let options = BrokerOptions {
        dead_after: Duration::from_millis(100),
        ..BrokerOptions::default()
    };
    let broker = open(url, options).await;
    publish(&*broker, &[events(0, 10), events(1, 10), events(2, 10)]).await;
    let mut dead = broker.consumer("dead").await.unwrap();
    let lost = receive(&mut *dead, 3).await;
    assert_eq!(ordinals(&lost), [0, 1, 2]);
    drop(dead);
    let mut heir = broker.consumer("heir").await.unwrap();
    let mut inherited: BTreeMap<Span, Delivery> = BTreeMap::new();
    while inherited.len() < 3 {
        for delivery in receive(&mut *heir, 2).await {
            assert!(delivery.redelivered);
            inherited.insert(delivery.frame.span, delivery);
        }
    }
    heir.ack(&inherited.into_values().collect::<Vec<_>>())
        .await
        .unwrap();
    assert_eq!(broker.depth().await.unwrap(), Depth::default());
}

/// However long it works on them.
pub(super) async fn frames_of_a_living_consumer_stay_with_it(url: &str) {
    let options = BrokerOptions {
        dead_after: Duration::from_millis(500),
        ..BrokerOptions::default()
    };
    let (mine, others) = (open(url, options.clone()).await, open(url, options).await);
    // The in-process queue of another broker is another queue.
    let others = if url.starts_with("memory:") {
        &mine
    } else {
        &others
    };
    publish(&*mine, &[events(0, 10), events(1, 10)]).await;
    let mut slow = mine.consumer("slow").await.unwrap();
    let mut held = receive(&mut *slow, 1).await;
    let mut eager = others.consumer("eager").await.unwrap();
    assert_eq!(ordinals(&receive(&mut *eager, 2).await), [1]);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let received = eager.receive(2).await.unwrap();
        assert!(received.is_empty(), "{received:?}");
    }
    slow.ack(&held).await.unwrap();
    publish(&*mine, &[events(2, 10)]).await;
    held = receive(&mut *slow, 1).await;
    assert_eq!(ordinals(&held), [2]);
    drop(slow);
    let inherited = receive(&mut *eager, 2).await;
    assert_eq!(ordinals(&inherited), [2]);
    assert!(inherited[0].redelivered);
}
