//! Workers over both seams, where a frame is in the hands of two of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lemonade_task::broker::{self, BrokerOptions, Depth};
use lemonade_task::frame;
use lemonade_task::worker::Worker;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, Target, events};
use crate::broker::{address, raw};
use crate::support;

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_taken_over_from_a_slow_worker_is_stored_once() {
    let fixture = Fixture::new(Target::Mariadb).await;
    let options = BrokerOptions {
        claim_idle: Duration::from_millis(50),
        ..BrokerOptions::default()
    };
    let redis = support::redis().await.fresh();
    let broker = broker::open(&redis, &options, &fixture.datasets)
        .await
        .unwrap();
    let file_no = fixture.file("vehicle_events", 800).await;
    let frames: Vec<_> = (0..4)
        .map(|at| events(&fixture, file_no, at * 200..(at + 1) * 200))
        .map(|batch| frame::Encoder::default().encode(&batch, broker.codec()))
        .collect();
    // The database takes its time: somebody holds its ledger.
    let mut holder = Conn::from_url(&fixture.url).await.unwrap();
    for sql in ["START TRANSACTION", "SELECT * FROM ingest_files FOR UPDATE"] {
        holder.query_drop(sql).await.unwrap();
    }
    let (quiet, now) = (CancellationToken::new(), CancellationToken::new());
    let workers: Vec<_> = ["one", "two", "three"]
        .map(|name| {
            let worker = Worker {
                name: name.to_owned(),
                broker: Arc::clone(&broker),
                sink: fixture.sink.clone(),
                datasets: fixture.datasets.clone(),
                progress: Arc::default(),
                summaries: Arc::default(),
            };
            tokio::spawn(worker.run(quiet.clone(), now.clone()))
        })
        .into();
    broker.publish(&frames).await.unwrap();
    // Long enough that each of the frames was taken over by somebody.
    let taken_over = Instant::now() + Duration::from_secs(20);
    let (port, select) = address(&redis);
    let ask = "XPENDING lemonade:{vehicle_events}:frames workers - + 10";
    loop {
        let pending = raw(port, &[&select, ask]);
        // The last number of an entry: how often it was delivered.
        if pending.lines().any(|line| line.starts_with(":2")) {
            break;
        }
        assert!(Instant::now() < taken_over, "nobody took over: {pending}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    holder.query_drop("ROLLBACK").await.unwrap();
    let until = Instant::now() + Duration::from_secs(40);
    while broker.depth().await.unwrap() != Depth::default() {
        assert!(Instant::now() < until, "the queue does not empty");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    quiet.cancel();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    let own = "SELECT COUNT(*) FROM vehicle_events WHERE event_value = CONCAT('value ', id & \
               4294967295)";
    assert_eq!(fixture.number(own).await, 800);
    let all = "SELECT COUNT(*) FROM vehicle_events";
    assert_eq!(fixture.number(all).await, 800);
    let covered = fixture.sink.coverage(&[file_no]).await.unwrap();
    assert_eq!(covered, [vec![0..800]]);
}
