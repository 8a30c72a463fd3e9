//! Several seeds of a cluster, and a password that is replaced.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use lemonade_task::broker::BrokerOptions;
use lemonade_task::reread::Reread;

use super::{cluster, events, open, publish, raw};
use crate::support;

/// One seed refuses connections, and one accepts them and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_found_while_one_of_its_seeds_answers() {
    let node = cluster::Node::start().await;
    let refuses = support::free_addr();
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hangs = hangs.local_addr().map(|addr| (hangs, addr)).unwrap();
    for seeds in [
        format!("{refuses},127.0.0.1:{}", node.port),
        format!("127.0.0.1:{},{refuses}", node.port),
        format!("{},{refuses},127.0.0.1:{}", hangs.1, node.port),
    ] {
        raw(node.port, &["FLUSHALL"]);
        let broker = open(
            &format!("redis-cluster://{seeds}"),
            BrokerOptions::default(),
        )
        .await;
        publish(&*broker, &[events(0, 1000)]).await;
        assert_eq!(broker.depth().await.unwrap().frames, 1, "{seeds}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_password_is_read_again() {
    let redis = support::private_redis().await;
    let url = |password: &str| {
        redis
            .url
            .replace("redis://", &format!("redis://:{password}@"))
    };
    let file = Arc::new(Mutex::new(url("secret1")));
    let content = file.clone();
    let options = BrokerOptions {
        reread: Some(Reread::new(move || Some(content.lock().unwrap().clone()))),
        ..BrokerOptions::default()
    };
    raw(redis.port, &["CONFIG SET requirepass secret1"]);
    let broker = open(&url("secret1"), options).await;
    publish(&*broker, &[events(0, 1000)]).await;
    let login = "AUTH secret1";
    raw(
        redis.port,
        &[
            login,
            "CONFIG SET requirepass secret2",
            "CLIENT KILL TYPE normal",
        ],
    );
    // The client notices the lost connection, and then that it is refused.
    let limit = std::time::Instant::now() + super::AT_MOST;
    loop {
        if let Err(fault) = broker.depth().await {
            assert!(fault.is_transient(), "{fault}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
            if fault.to_string().contains("a new password") {
                break;
            }
        }
        assert!(std::time::Instant::now() < limit, "it is never refused");
    }
    *file.lock().unwrap() = url("secret2");
    let depth = broker.depth().await.expect("the password is read again");
    assert_eq!(depth.frames, 1);
}
