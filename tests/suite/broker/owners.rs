//! A prefix belongs to one ledger.

use std::sync::Arc;

use lemonade_task::broker::{Broker, BrokerOptions, Claim};
use lemonade_task::fault::{Class, Fault};

use super::{address, events, open_as, publish, raw};
use crate::support;

async fn open_for(url: &str, ledger: &str) -> Result<Arc<dyn Broker>, Fault> {
    let claim = Claim {
        ledger: ledger.to_owned(),
        database: format!("mysql://{ledger}/v"),
    };
    let claim = Some(claim);
    open_as(
        url,
        BrokerOptions {
            claim,
            ..BrokerOptions::default()
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_ledgers_that_start_at_once_one_has_the_prefix() {
    for _ in 0..10 {
        let url = support::redis().await.fresh();
        let opening = (0..6).map(|n| {
            let url = url.clone();
            tokio::spawn(async move { (n / 2, open_for(&url, &format!("l{}", n / 2)).await) })
        });
        let opening: Vec<_> = opening.collect();
        let (mut winners, mut refused) = (Vec::new(), 0);
        for opened in opening {
            match opened.await.unwrap() {
                (ledger, Ok(_)) => winners.push(ledger),
                (_, Err(fault)) => {
                    assert_eq!(fault.class, Class::Fatal, "{fault}");
                    refused += 1;
                }
            }
        }
        assert!(
            winners.len() == 2 && winners[0] == winners[1],
            "{winners:?}"
        );
        assert_eq!(refused, 4);
    }
}

/// Redis was emptied, and another ledger was faster: this one stops, and does not disturb it.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_lost_the_prefix_stops() {
    let redis = support::private_redis().await;
    let mine = open_for(&redis.url, "mine").await.unwrap();
    let mut consumer = mine.consumer("one").await.unwrap();
    raw(redis.port, &["FLUSHALL"]);
    let other = open_for(&redis.url, "other").await.unwrap();
    // Its group is gone, so it claims the prefix again.
    let fault = consumer
        .receive(1)
        .await
        .expect_err("the prefix is of another ledger");
    assert_eq!(fault.class, Class::Fatal, "{fault}");
    assert!(fault.to_string().contains("mysql://other/v"), "{fault}");

    // A publisher notices it once it has connected again.
    raw(redis.port, &["CLIENT KILL TYPE normal"]);
    let until = tokio::time::Instant::now() + super::AT_MOST;
    loop {
        match mine.publish(&[events(0, 10)]).await {
            Err(fault) if fault.class == Class::Fatal => break,
            _ => assert!(tokio::time::Instant::now() < until, "it goes on"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    publish(&*other, &[events(1, 10)]).await;
}

/// A key that is no claim is replaced, as the keys of streams are.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_claim_is_replaced() {
    for harm in [
        "SET lemonade:owner x",
        "XADD lemonade:owner 5-1 some thing",
        "XGROUP CREATE lemonade:owner g 0 MKSTREAM",
    ] {
        let url = support::redis().await.fresh();
        let (port, select) = address(&url);
        raw(port, &[&select, harm]);
        open_for(&url, "one").await.expect(harm);
        open_for(&url, "one").await.expect(harm);
        assert!(open_for(&url, "two").await.is_err(), "{harm}");
    }
    // The entry was deleted, and the stream is left.
    let url = support::redis().await.fresh();
    let (port, select) = address(&url);
    open_for(&url, "one").await.unwrap();
    raw(port, &[&select, "XDEL lemonade:owner 1-1"]);
    open_for(&url, "two").await.unwrap();
    assert!(open_for(&url, "one").await.is_err());
}
