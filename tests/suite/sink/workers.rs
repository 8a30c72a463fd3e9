//! Two workers that have the same frame, over a real queue and database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lemonade_task::broker::{self, BrokerOptions, Depth};
use lemonade_task::frame;
use lemonade_task::summary::{self, Accumulator};
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
        key: Some(fixture.sink.frame_key().await.unwrap()),
        ..BrokerOptions::default()
    };
    let hasty = BrokerOptions {
        // The others give a sign of life less often.
        dead_after: Duration::from_millis(50),
        ..options.clone()
    };
    let redis = support::redis().await.fresh();
    let broker = broker::open(&redis, &options, &fixture.datasets)
        .await
        .unwrap();
    let hasty = broker::open(&redis, &hasty, &fixture.datasets)
        .await
        .unwrap();
    let file_no = fixture.file("vehicle_events", 800).await;
    let frames: Vec<_> = (0..4)
        .map(|at| events(&fixture, file_no, at * 200..(at + 1) * 200))
        .map(|batch| frame::Encoder::default().encode(&batch, broker.codec()))
        .collect();
    // The database is slow: another session has locked the ledger.
    let mut holder = Conn::from_url(&fixture.url).await.unwrap();
    for sql in ["START TRANSACTION", "SELECT * FROM ingest_files FOR UPDATE"] {
        holder.query_drop(sql).await.unwrap();
    }
    let (quiet, now) = (CancellationToken::new(), CancellationToken::new());
    let workers: Vec<_> = [("one", &broker), ("two", &broker), ("three", &hasty)]
        .map(|(name, broker)| {
            let worker = Worker {
                name: name.to_owned(),
                broker: Arc::clone(broker),
                sink: fixture.sink.clone(),
                datasets: fixture.datasets.clone(),
                progress: Arc::default(),
                pace: Arc::default(),
                summaries: None,
            };
            tokio::spawn(worker.run(quiet.clone(), now.clone()))
        })
        .into();
    broker.publish(&frames).await.unwrap();
    // Waits until another worker has taken over each frame.
    let taken_over = Instant::now() + Duration::from_secs(20);
    let (port, select) = address(&redis);
    let ask = "XPENDING lemonade:{vehicle_events}:frames workers - + 10";
    loop {
        let pending = raw(port, &[&select, ask]);
        // The last number of an entry is the number of its deliveries.
        if pending.lines().any(|line| line.starts_with(":2")) {
            break;
        }
        assert!(
            Instant::now() < taken_over,
            "no frame was taken over: {pending}"
        );
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

/// At the second delivery the row is a reject already, so the database does not refuse it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_in_no_summary_however_often_its_frame_is_delivered() {
    let fixture = Fixture::new(Target::Mariadb).await;
    let picky = "ALTER TABLE vehicle_events ADD CONSTRAINT picky CHECK (event_value <> 'value 3')";
    fixture.run(picky).await;
    let broker = broker::open("memory:", &BrokerOptions::default(), &fixture.datasets)
        .await
        .unwrap();
    let file_no = fixture.file("vehicle_events", 5).await;
    let batch = events(&fixture, file_no, 0..5);
    let summaries = Arc::new(Accumulator::new(fixture.sink.clone()));
    let worker = Worker {
        name: "one".to_owned(),
        broker: Arc::clone(&broker),
        sink: fixture.sink.clone(),
        datasets: fixture.datasets.clone(),
        progress: Arc::default(),
        pace: Arc::default(),
        summaries: Some(summaries.clone()),
    };
    let (quiet, now) = (CancellationToken::new(), CancellationToken::new());
    let running = tokio::spawn(worker.clone().run(quiet.clone(), now));
    let until = Instant::now() + Duration::from_secs(40);
    for delivered in 1..=2 {
        let frame = frame::Encoder::default().encode(&batch, broker.codec());
        broker.publish(&[frame]).await.unwrap();
        while worker.progress.frames() < delivered {
            assert!(Instant::now() < until, "it is not committed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    quiet.cancel();
    running.await.unwrap().unwrap();

    fixture.sink.settle(&[file_no]).await.unwrap();
    let stop = CancellationToken::new();
    let done = summary::refresh(&summaries, &fixture.datasets, None, &stop).await;
    let done = done.map_err(drop).expect("the database answers");
    assert_eq!((done.files, done.rows_read), (1, 4));
    let rows = "SELECT COUNT(*) FROM daily_summary s JOIN vehicle_events e ON e.id = s.last_id";
    assert_eq!(fixture.number(rows).await, 4);
    let entries = "SELECT COUNT(*) FROM daily_summary";
    assert_eq!(fixture.number(entries).await, 4);
}
