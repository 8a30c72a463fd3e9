//! Each fault of a commit, caused once on purpose: the repeated call stores the same rows.
//!
//! Faults of one transaction occur on the servers that all tests share. A test that changes a whole
//! server starts its own.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use lemonade_task::batch::{Batch, row_id};
use lemonade_task::fault::Fault;
use lemonade_task::sink::{Committed, Database, SinkOptions, open};
use lemonade_task::timestamp;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::fixture::{Fixture, SOME_TIME_US, Target, Val, batch, event, events, span, text};
use super::rows::stored;
use super::served::Served;
use crate::support;
use crate::support::proxy::{Proxy, Strike};

/// Longest wait for an expected event; after it the test fails.
const AT_MOST: Duration = Duration::from_secs(60);

/// The bytes of the request. The word alone would also match the statements that set up a session.
pub const COMMIT: &str = "\x03COMMIT";

// The answer to COMMIT.

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_to_commit_leaves_rows_that_the_repetition_finds() {
    for target in [Target::Mariadb, Target::Mysql, Target::MysqlLoadData] {
        let fixture = Fixture::new(target).await;
        let (proxy, sink) = through_proxy(&fixture).await;
        let batch = frame(&fixture).await;
        proxy.strike(COMMIT, Strike::LoseReply);
        let fault = refused(sink.commit(slice::from_ref(&batch)).await);
        assert_eq!(proxy.strikes(), 1, "{fault}");
        assert_eq!(rows(&fixture).await, 600, "committed, but no reply came");
        let again = sink.commit(&[batch]).await.unwrap();
        assert_eq!(again, stored(0, 600, 0));
        stored_once(&fixture).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_commit_stores_nothing_and_is_repeated() {
    for target in [Target::Mariadb, Target::Mysql, Target::MysqlLoadData] {
        let fixture = Fixture::new(target).await;
        let (proxy, sink) = through_proxy(&fixture).await;
        let batch = frame(&fixture).await;
        proxy.strike(COMMIT, Strike::LoseRequest);
        let fault = refused(sink.commit(slice::from_ref(&batch)).await);
        assert_eq!(proxy.strikes(), 1, "{fault}");
        assert_eq!(rows(&fixture).await, 0, "it never arrived");
        let again = sink.commit(&[batch]).await.unwrap();
        assert_eq!(again, stored(600, 0, 0));
        stored_once(&fixture).await;
    }
}

// ---------------------------------------------------------------------------------------------
// Locks
// ---------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_with_the_same_frame_waits_for_the_first() {
    for target in [Target::Mariadb, Target::Mysql] {
        // The first worker dies before its COMMIT: the second stores all rows.
        let fixture = Fixture::new(target).await;
        let (proxy, first) = through_proxy(&fixture).await;
        let batch = frame(&fixture).await;
        proxy.strike(COMMIT, Strike::HoldRequest);
        let dying = commit(&first, &batch);
        proxy.struck(1).await;
        let second = commit(&fixture.sink, &batch);
        blocked(&fixture).await;
        proxy.cut();
        assert_eq!(second.await.unwrap().unwrap(), stored(600, 0, 0));
        refused(dying.await.unwrap());
        stored_once(&fixture).await;

        // The first worker commits: the second finds the rows already stored.
        let fixture = Fixture::new(target).await;
        let batch = frame(&fixture).await;
        let mut first = holding(&fixture, &batch, 300).await;
        let second = commit(&fixture.sink, &batch);
        blocked(&fixture).await;
        first.query_drop("COMMIT").await.unwrap();
        assert_eq!(second.await.unwrap().unwrap(), stored(599, 1, 0));
        stored_once(&fixture).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_too_long_for_a_lock_is_repeated() {
    // Each case takes as long as the engine's sessions wait for a lock.
    tokio::join!(lock_wait(Target::Mariadb), lock_wait(Target::Mysql));
}

/// Error 1205, after which the transaction stays open with its earlier rows.
async fn lock_wait(target: Target) {
    let fixture = Fixture::new(target).await;
    let batch = frame(&fixture).await;
    let mut holder = holding(&fixture, &batch, 599).await;
    let fault = refused(commit(&fixture.sink, &batch).await.unwrap());
    assert!(fault.to_string().contains("1205"), "{fault}");
    assert_eq!(rows(&fixture).await, 0);
    // The failed transaction is rolled back: other sessions may write these rows.
    let others = statement_with(&batch, 0);
    holder.query_drop(others).await.expect("no lock is left");
    holder.query_drop("ROLLBACK").await.unwrap();
    let again = fixture.commit(&[batch]).await;
    assert_eq!(again, stored(600, 0, 0));
    stored_once(&fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_is_tried_again() {
    for target in [Target::Mariadb, Target::Mysql] {
        let fixture = Fixture::new(target).await;
        let batch = frame(&fixture).await;
        let mut other = holding(&fixture, &batch, 599).await;
        outweigh(&mut other).await;
        let committing = commit(&fixture.sink, &batch);
        blocked(&fixture).await;
        // The batch has row 0 and waits for row 599; this session has row 599 and asks for row 0.
        other
            .query_drop(statement_with(&batch, 0))
            .await
            .expect("the server ends the smaller transaction");
        let fault = refused(committing.await.unwrap());
        assert!(fault.to_string().contains("1213"), "{fault}");
        assert_eq!(rows(&fixture).await, 0);
        other.query_drop("ROLLBACK").await.unwrap();
        let again = fixture.commit(&[batch]).await;
        assert_eq!(again, stored(600, 0, 0));
        stored_once(&fixture).await;
    }
}

/// A deadlock in the second of six statements.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_undoes_the_earlier_statements_of_its_transaction() {
    for target in [Target::Mariadb, Target::Mysql] {
        let fixture = Fixture::new(target).await;
        let batch = frame(&fixture).await;
        let options = SinkOptions {
            rows_per_statement: 100,
            ..SinkOptions::default()
        };
        let sink = open(&fixture.url, &options).await.unwrap();
        // The second of six statements waits for this session, which then asks for a row of the
        // first.
        let mut other = holding(&fixture, &batch, 150).await;
        outweigh(&mut other).await;
        let committing = commit(&sink, &batch);
        blocked(&fixture).await;
        other
            .query_drop(statement_with(&batch, 0))
            .await
            .expect("the server ends the smaller transaction");
        let fault = refused(committing.await.unwrap());
        assert!(fault.to_string().contains("1213"), "{fault}");
        other.query_drop("ROLLBACK").await.unwrap();
        assert_eq!(rows(&fixture).await, 0);
        let again = sink.commit(&[batch]).await;
        assert_eq!(again.unwrap(), stored(600, 0, 0));
        stored_once(&fixture).await;
    }
}

// ---------------------------------------------------------------------------------------------
// KILL
// ---------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_statement_is_tried_again_on_its_connection() {
    for target in [Target::Mariadb, Target::Mysql] {
        let fixture = Fixture::new(target).await;
        let batch = frame(&fixture).await;
        let mut holder = holding(&fixture, &batch, 599).await;
        let committing = commit(&fixture.sink, &batch);
        let id = blocked(&fixture).await;
        fixture.run(&format!("KILL QUERY {id}")).await;
        let fault = refused(committing.await.unwrap());
        assert!(fault.to_string().contains("1317"), "{fault}");
        holder.query_drop("ROLLBACK").await.unwrap();
        let again = fixture.commit(&[batch]).await;
        assert_eq!(again, stored(600, 0, 0));
        assert!(fixture.connections().await.contains(&id), "it was good");
        stored_once(&fixture).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_killed_in_a_commit_is_replaced() {
    for target in [Target::Mariadb, Target::Mysql] {
        let fixture = Fixture::new(target).await;
        let batch = frame(&fixture).await;
        let mut holder = holding(&fixture, &batch, 599).await;
        let committing = commit(&fixture.sink, &batch);
        let id = blocked(&fixture).await;
        fixture.run(&format!("KILL {id}")).await;
        refused(committing.await.unwrap());
        holder.query_drop("ROLLBACK").await.unwrap();
        let again = fixture.commit(&[batch]).await;
        assert_eq!(again, stored(600, 0, 0));
        assert!(!fixture.connections().await.contains(&id));
        stored_once(&fixture).await;
    }
}

// ---------------------------------------------------------------------------------------------
// The server as a whole
// ---------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_free_connections_is_waited_for() {
    for target in [Target::Mariadb, Target::Mysql] {
        let server = Served::start(target).await;
        let sink = server.service().await;
        let batch = frame(&server.fixture).await;
        let mut watcher = server.fixture.session().await;
        // The watcher, and one idle connection of each of the two sinks.
        only(&mut watcher, 3).await;
        let limit = "SET GLOBAL max_connections = 10";
        watcher.query_drop(limit).await.unwrap();
        // By default, the driver connects again through a socket, and ends the first connection later.
        let url = format!("{}?prefer_socket=false", server.service_url);
        let mut taken = Vec::new();
        let full = loop {
            match Conn::from_url(&url).await {
                Ok(conn) => taken.push(conn),
                Err(error) => break error,
            }
        };
        assert!(full.to_string().contains("1040"), "{full}");
        let fault = refused(sink.commit(slice::from_ref(&batch)).await);
        assert!(fault.to_string().contains("1040"), "{fault}");
        let opened = open(&server.service_url, &SinkOptions::default()).await;
        let fault = opened.err().expect("no connection is free");
        assert!(fault.is_transient(), "{fault}");
        drop(taken);
        assert_eq!(in_the_end(&sink, &batch).await, stored(600, 0, 0));
        stored_once(&server.fixture).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_not_needed_any_more_end_with_a_goodbye() {
    for target in [Target::Mariadb, Target::Mysql] {
        let server = Served::start(target).await;
        let mut conn = Conn::from_url(&server.service_url).await.unwrap();
        let sink = server.service().await;
        sink.commit(&[frame(&server.fixture).await]).await.unwrap();
        let mut of_clients = async |what: &str| {
            let sql = format!("SHOW GLOBAL STATUS LIKE '{what}'");
            let found: Option<(String, u64)> = conn.query_first(sql).await.unwrap();
            found.expect("both servers count it").1
        };
        let lost = of_clients("Aborted_clients").await;
        let before = of_clients("Threads_connected").await;
        let until = Instant::now() + AT_MOST;
        drop(sink);
        while of_clients("Threads_connected").await + 2 > before {
            assert!(Instant::now() < until, "the connections stay open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(of_clients("Aborted_clients").await, lost);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_read_only_is_left_for_a_new_connection() {
    for target in [Target::Mariadb, Target::Mysql] {
        let server = Served::start(target).await;
        let fixture = &server.fixture;
        let sink = server.service().await;
        let batch = frame(fixture).await;
        let file_no = batch.span.file_no;
        sink.commit(&[events(fixture, file_no, 0..5)])
            .await
            .unwrap();
        let before = fixture.connections().await;
        fixture.run("SET GLOBAL read_only = 1").await;
        let fault = refused(sink.commit(slice::from_ref(&batch)).await);
        assert!(fault.to_string().contains("1290"), "{fault}");
        fixture.run("SET GLOBAL read_only = 0").await;
        assert_eq!(
            sink.commit(slice::from_ref(&batch)).await.unwrap(),
            stored(595, 5, 0)
        );
        // After a failover, the address leads elsewhere.
        let after = fixture.connections().await;
        assert!(after.iter().any(|id| !before.contains(id)), "{after:?}");
        stored_once(fixture).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_above_a_small_packet_limit_is_a_reject_and_its_neighbours_are_rows() {
    for target in [Target::Mariadb, Target::Mysql] {
        let server = Served::start(target).await;
        let fixture = &server.fixture;
        fixture.run("SET GLOBAL max_allowed_packet = 1048576").await;
        let sink = server.service().await;
        let file_no = fixture.file("vehicle_events", 600).await;
        let mut rows_of_all: BTreeMap<u32, Vec<Val>> = (0..600).map(|at| (at, event(at))).collect();
        rows_of_all.get_mut(&300).unwrap()[5] = text(format!("[\"{}\"]", "x".repeat(2 << 20)));
        // The largest row that the packet limit allows, in a statement with few other rows.
        rows_of_all.get_mut(&301).unwrap()[5] = text(format!("[\"{}\"]", "x".repeat(900_000)));
        let dataset = fixture.dataset("vehicle_events");
        let batch = batch(dataset, span(file_no, 0, 600), &rows_of_all, vec![]);
        let committed = sink.commit(slice::from_ref(&batch)).await.unwrap();
        assert_eq!(committed, stored(599, 0, 1));
        assert_eq!(fixture.rejects(10).await[0].ordinal, 300);
        assert_eq!(rows(fixture).await, 599);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_server_do_not_change_stored_rows() {
    for target in [Target::Mariadb, Target::Mysql] {
        let server = Served::start(target).await;
        let fixture = &server.fixture;
        let isolation = match target {
            Target::Mysql => "transaction_isolation",
            _ => "tx_isolation",
        };
        for setting in [
            "sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES,NO_UNSIGNED_SUBTRACTION'",
            "time_zone = '-11:00'",
            "autocommit = 0",
            "sql_safe_updates = 1",
            "innodb_lock_wait_timeout = 1000",
            "character_set_server = 'latin1'",
            "character_set_client = 'latin1'",
            "character_set_connection = 'latin1'",
            "character_set_results = 'latin1'",
            &format!("{isolation} = 'SERIALIZABLE'"),
        ] {
            fixture.run(&format!("SET GLOBAL {setting}")).await;
        }
        fixture
            .run("ALTER TABLE vehicle_events MODIFY event_source VARCHAR(8) NOT NULL")
            .await;
        let sink = server.service().await;
        let file_no = fixture.file_by(&sink, "vehicle_events", 3).await;
        let mut three: BTreeMap<u32, Vec<Val>> = (0..3).map(|at| (at, event(at))).collect();
        three.get_mut(&1).unwrap()[2] = text("longer than the column allows");
        three.get_mut(&2).unwrap()[4] = text("\\ \"é\" 😀");
        let batch = batch(
            fixture.dataset("vehicle_events"),
            span(file_no, 0, 3),
            &three,
            vec![],
        );
        for expected in [stored(2, 0, 1), stored(0, 3, 0)] {
            let committed = sink.commit(slice::from_ref(&batch)).await.unwrap();
            assert_eq!(committed, expected);
        }
        let settled = sink.settle(&[file_no]).await.unwrap();
        assert_eq!((settled[0].records, settled[0].rejects), (3, 1));
        let what = "SELECT CAST(event_time AS CHAR), HEX(event_value) FROM vehicle_events ORDER \
                    BY id";
        let hex = |text: &str| {
            let digits: Vec<String> = text.bytes().map(|byte| format!("{byte:02X}")).collect();
            digits.concat()
        };
        assert_eq!(
            fixture.query(what).await,
            [
                [text("2022-06-05 21:02:34.000000"), text(hex("value 0"))],
                [text("2022-06-05 21:02:34.000002"), text(hex("\\ \"é\" 😀"))],
            ]
        );
        let entries = fixture.number("SELECT COUNT(*) FROM ingest_frames").await;
        assert_eq!(entries, 0, "all sessions see the settled file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for() {
    // A tablespace that may not grow behaves like a full disk, and needs no right to mount one.
    let options = [
        "--innodb-data-file-path=ibdata1:12M:autoextend:max:28M",
        "--innodb-file-per-table=0",
    ];
    let server = support::private_mariadb_with(&options.map(str::to_owned)).await;
    let fixture = Fixture::at(Target::Mariadb, &server.url).await;
    let file_no = fixture.file("vehicle_events", 100_000).await;
    fixture
        .run("CREATE TABLE ballast (id INT PRIMARY KEY, t LONGTEXT) ENGINE = InnoDB")
        .await;
    for id in 0..4 {
        fixture
            .run(&format!(
                "INSERT INTO ballast VALUES ({id}, REPEAT('x', 2 << 20))"
            ))
            .await;
    }
    let mut stored_rows = 0;
    let full = loop {
        let batch = events(&fixture, file_no, stored_rows..stored_rows + 4_000);
        match fixture.sink.commit(slice::from_ref(&batch)).await {
            Ok(committed) => assert_eq!(committed, stored(4_000, 0, 0)),
            Err(fault) => {
                assert!(fault.is_transient(), "{fault}");
                assert!(fault.to_string().contains("1114"), "{fault}");
                break batch;
            }
        }
        stored_rows += 4_000;
        assert!(stored_rows < 100_000, "the tablespace does not fill up");
    };
    assert_eq!(rows(&fixture).await, i64::from(stored_rows));
    fixture.run("DROP TABLE ballast").await;
    assert_eq!(in_the_end(&fixture.sink, &full).await, stored(4_000, 0, 0));
    assert_eq!(rows(&fixture).await, i64::from(stored_rows + 4_000));
    assert_eq!(
        fixture.sink.coverage(&[file_no]).await.unwrap(),
        [vec![0..u64::from(stored_rows) + 4_000]]
    );
}

// ---------------------------------------------------------------------------------------------
// Steps
// ---------------------------------------------------------------------------------------------

/// Waits until this many connections are left: a connection that was closed counts until the server
/// has ended it.
async fn only(conn: &mut Conn, left: usize) {
    let until = Instant::now() + AT_MOST;
    loop {
        let counted: Option<(String, usize)> = conn
            .query_first("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
            .await
            .unwrap();
        let counted = counted.expect("both servers count it").1;
        if counted == left {
            return;
        }
        assert!(
            Instant::now() < until,
            "{counted} connections, and not {left}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A sink that speaks to the fixture's database through a proxy.
pub async fn through_proxy(fixture: &Fixture) -> (Proxy, Arc<dyn Database>) {
    let (_, rest) = fixture.url.rsplit_once(':').unwrap();
    let (port, database) = rest.split_once('/').unwrap();
    let proxy = Proxy::start(port.parse().unwrap()).await;
    let url = format!("mysql://root@127.0.0.1:{}/{database}", proxy.port);
    let sink = open(&url, &SinkOptions::default()).await.unwrap();
    (proxy, sink)
}

/// A batch of a new file, with enough rows for LOAD DATA.
pub async fn frame(fixture: &Fixture) -> Batch {
    let file_no = fixture.file("vehicle_events", 600).await;
    let ballast = "CREATE TABLE IF NOT EXISTS ballast (id INT PRIMARY KEY) ENGINE = InnoDB";
    fixture.run(ballast).await;
    events(fixture, file_no, 0..600)
}

fn commit(sink: &Arc<dyn Database>, batch: &Batch) -> JoinHandle<Result<Committed, Fault>> {
    let (sink, batch) = (Arc::clone(sink), batch.clone());
    tokio::spawn(async move {
        let committing = sink.commit(slice::from_ref(&batch));
        timeout(AT_MOST, committing)
            .await
            .expect("the commit does not hang")
    })
}

/// Repeats the commit until it succeeds, as a worker does.
async fn in_the_end(sink: &Arc<dyn Database>, batch: &Batch) -> Committed {
    let until = Instant::now() + AT_MOST;
    loop {
        match sink.commit(slice::from_ref(batch)).await {
            Ok(committed) => return committed,
            Err(fault) => assert!(fault.is_transient() && Instant::now() < until, "{fault}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[track_caller]
pub fn refused(outcome: Result<Committed, Fault>) -> Fault {
    let fault = outcome.expect_err("the fault has struck");
    assert!(fault.is_transient(), "{fault}");
    fault
}

/// The statement that stores one row with the same values as the batch.
fn statement_with(batch: &Batch, ordinal: u32) -> String {
    format!(
        "INSERT INTO vehicle_events (id, vehicle_id, event_time, event_source, event_type, \
         event_value, event_extra_data) VALUES ({}, 'vehicle-{}', '{}', 'a source', 'type', 'value \
         {ordinal}', '{{\"note\": \"n\"}}')",
        row_id(batch.span.file_no, ordinal),
        ordinal % 7,
        timestamp::text(SOME_TIME_US + i64::from(ordinal)),
    )
}

/// A connection in a transaction that has written one of the batch's rows.
async fn holding(fixture: &Fixture, batch: &Batch, ordinal: u32) -> Conn {
    let mut conn = Conn::from_url(&fixture.url).await.unwrap();
    conn.query_drop("START TRANSACTION").await.unwrap();
    conn.query_drop(statement_with(batch, ordinal))
        .await
        .unwrap();
    conn
}

/// Changes many rows: of two transactions in a deadlock, the server ends the smaller one.
async fn outweigh(conn: &mut Conn) {
    let mut rows = 1;
    conn.query_drop("INSERT INTO ballast VALUES (1)")
        .await
        .unwrap();
    while rows < 2_000 {
        let again = format!("INSERT INTO ballast SELECT id + {rows} FROM ballast");
        conn.query_drop(again).await.unwrap();
        rows *= 2;
    }
}

/// Waits until a connection to this database waits for a lock; returns its id.
async fn blocked(fixture: &Fixture) -> u64 {
    let until = Instant::now() + AT_MOST;
    let mut conn = Conn::from_url(&fixture.url).await.unwrap();
    loop {
        let ours = fixture.connections().await;
        // Not `information_schema.innodb_trx`, which is stale while other sessions read it.
        let monitor = "SHOW ENGINE INNODB STATUS";
        let (_, _, status): (String, String, String) =
            conn.query_first(monitor).await.unwrap().unwrap();
        let waiting = status
            .split("---TRANSACTION")
            .filter(|transaction| transaction.contains("\nLOCK WAIT "))
            .filter_map(|transaction| {
                let (_, rest) = transaction.split_once(" thread id ")?;
                rest.split(',').next()?.parse::<u64>().ok()
            });
        if let Some(id) = waiting.into_iter().find(|id| ours.contains(id)) {
            return id;
        }
        assert!(Instant::now() < until, "no session waits for a lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn rows(fixture: &Fixture) -> i64 {
    let count = "SELECT COUNT(*) FROM vehicle_events";
    fixture.number(count).await
}

/// Checks that each record of the file of [`frame`] is one row under its own id.
async fn stored_once(fixture: &Fixture) {
    let own = "SELECT COUNT(*) FROM vehicle_events WHERE event_value = CONCAT('value ', id & \
               4294967295)";
    assert_eq!(fixture.number(own).await, 600);
    assert_eq!(rows(fixture).await, 600);
    let file_no = fixture
        .number("SELECT MAX(file_no) FROM ingest_files")
        .await;
    let file_no = u32::try_from(file_no).unwrap();
    let covered = fixture.sink.coverage(&[file_no]).await.unwrap();
    assert_eq!(covered, [vec![0..600]]);
}
