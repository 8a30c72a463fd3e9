//! Several hosts in a database URL, and connections that are lost without a message.

use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lemonade_task::dataset::Datasets;
use lemonade_task::fault::Fault;
use lemonade_task::finding::{Finding, Level};
use lemonade_task::reread::Reread;
use lemonade_task::sink::{Charge, Database, SinkOptions, open};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use super::faults::{COMMIT, frame, refused, through_proxy};
use super::fixture::{Fixture, Target, events, new_file};
use super::rows::stored;
use crate::broker::address;
use crate::support::proxy::{Manner, Proxy, Strike};
use crate::support::{self, Pair, Private, Service, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A URL with two hosts: nothing listens on the first.
fn beside_nothing(server: &Private) -> String {
    let nothing = support::free_addr();
    server
        .url
        .replace("127.0.0.1", &format!("{nothing},127.0.0.1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_writes_is_found_and_one_that_does_not_is_waited_for() {
    for server in [
        support::private_mariadb().await,
        support::private_mysql9().await,
    ] {
        let open = async |url: &str| open(url, &SinkOptions::default()).await;
        let url = beside_nothing(&server);
        let sink = open(&url).await.unwrap();
        let findings = sink
            .inspect(&Datasets::new(Vec::new()).unwrap())
            .await
            .unwrap();
        let level = |what: &str| {
            let mut found = findings
                .iter()
                .filter(|finding| finding.what.contains(what));
            found.next().map(|finding| finding.level)
        };
        let port = server.port;
        assert_eq!(
            level(&format!("127.0.0.1:{port}: it takes writes")),
            Some(Level::Ok)
        );
        assert_eq!(level("refused"), Some(Level::Warn), "{findings:?}");
        let mut conn = Conn::from_url(&server.url).await.unwrap();
        conn.query_drop("SET GLOBAL read_only = 1").await.unwrap();
        let fault = open(&url).await.err().unwrap();
        assert!(fault.is_transient(), "{fault}");
        let text = fault.to_string();
        assert!(
            text.contains("it is read only") && text.contains("refused"),
            "{text}"
        );
        conn.query_drop("SET GLOBAL read_only = 0").await.unwrap();
        open(&url).await.unwrap();
        conn.disconnect().await.unwrap();

        // The login is wrong, whether all hosts refuse it or some do not answer.
        let host = format!("127.0.0.1:{}", server.port);
        for wrong in [
            url.replace("root@", "stranger:secret@"),
            format!("mysql://stranger:secret@{host},{host}/test_1"),
        ] {
            let fault = open(&wrong).await.err().unwrap();
            assert!(!fault.is_transient(), "{fault}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
        }
    }
}

/// The URL of two servers with the same login and database.
fn both(first: &str, second: &str) -> String {
    let (port, _) = address(second);
    let (before, database) = first.rsplit_once('/').unwrap();
    format!("{before},127.0.0.1:{port}/{database}")
}

/// The number of a query's only row.
async fn number(server: &Private, sql: &str) -> u64 {
    let mut conn = Conn::from_url(&server.url).await.unwrap();
    let found: Option<Option<u64>> = conn.query_first(sql).await.unwrap();
    conn.disconnect().await.unwrap();
    found.flatten().unwrap_or_default()
}

async fn run(server: &Private, sql: &str) {
    let mut conn = Conn::from_url(&server.url).await.unwrap();
    conn.query_drop(sql).await.unwrap();
    conn.disconnect().await.unwrap();
}

/// Logins that a MariaDB has refused so far.
async fn refusals(server: &Private) -> u64 {
    let sql = "SELECT CAST(VARIABLE_VALUE AS UNSIGNED) FROM information_schema.GLOBAL_STATUS WHERE \
               VARIABLE_NAME = 'ACCESS_DENIED_ERRORS'";
    number(server, sql).await
}

/// The first host is busy for a moment, and the second takes writes as well. The session on the
/// second is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_slow_keeps_the_writes() {
    let (first, second) = tokio::join!(support::private_mariadb(), support::private_mariadb());
    let slow = Proxy::start(first.port).await;
    let other = Proxy::start(second.port).await;
    slow.set(Manner::Blackhole);
    let url = format!(
        "mysql://root@127.0.0.1:{},127.0.0.1:{}/test_1",
        slow.port, other.port
    );
    let opening = tokio::spawn(async move { open(&url, &SinkOptions::default()).await });
    until("the second host is asked", LIMIT, async || {
        other.accepted() > 0
    })
    .await;
    slow.set(Manner::Pass);
    let sink = opening.await.unwrap().unwrap();
    let sessions = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = 'test_1' AND ID <> \
                    CONNECTION_ID()";
    assert!(number(&first, sessions).await > 0, "it is used");
    until("the session of the second ends", LIMIT, async || {
        number(&second, sessions).await == 0
    })
    .await;
    let aborted = "SELECT CAST(VARIABLE_VALUE AS UNSIGNED) FROM information_schema.GLOBAL_STATUS WHERE \
                   VARIABLE_NAME = 'ABORTED_CLIENTS'";
    assert_eq!(number(&second, aborted).await, 0);
    drop(sink);
}

/// One host lacks the account, and the other is read only: the login may be accepted later.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_the_login_is_asked_every_two_seconds() {
    let (first, second) = tokio::join!(support::private_mariadb(), support::private_mariadb());
    let account = "CREATE USER 'lonely'@'%' IDENTIFIED BY 'secret'";
    run(&first, account).await;
    run(&first, "GRANT ALL ON test_1.* TO 'lonely'@'%'").await;
    let url = both(&first.url, &second.url).replace("root@", "lonely:secret@");
    let sink = open(&url, &SinkOptions::default()).await.unwrap();
    sink.migrate(&Datasets::new(Vec::new()).unwrap())
        .await
        .unwrap();
    run(&first, "SET GLOBAL read_only = 1").await;
    run(&first, "KILL USER lonely").await;
    let before = refusals(&second).await;
    let began = Instant::now();
    let limit = began + Duration::from_secs(7);
    while Instant::now() < limit {
        if let Err(fault) = sink.totals().await {
            assert!(fault.is_transient(), "{fault}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = refusals(&second).await - before;
    let most = began.elapsed().as_secs() / 2 + 1;
    assert!((2..=most).contains(&refused), "{refused} of {most}");
    run(&first, "SET GLOBAL read_only = 0").await;
    until("the first is found again", LIMIT, async || {
        sink.totals().await.is_ok()
    })
    .await;
}

/// The reservation of the deferred indexes is a lock of one server.
#[tokio::test(flavor = "multi_thread")]
async fn the_charge_of_the_indexes_follows_the_writes() {
    let (first, second) = tokio::join!(support::private_mariadb(), support::private_mariadb());
    let datasets = Datasets::new(Vec::new()).unwrap();
    let sink = open(&second.url, &SinkOptions::default()).await.unwrap();
    sink.migrate(&datasets).await.unwrap();
    let url = both(&first.url, &second.url);
    let sink = open(&url, &SinkOptions::default()).await.unwrap();
    sink.migrate(&datasets).await.unwrap();
    let hash = blake3::hash(b"test_1").to_hex();
    let holder = format!("SELECT IS_USED_LOCK('lemonade-indexes-{}')", &hash[..32]);
    assert_eq!(sink.take_indexes().await.unwrap(), Charge::Taken);
    let charged = number(&first, &holder).await;
    assert_ne!(charged, 0);
    assert_eq!(sink.take_indexes().await.unwrap(), Charge::Taken);
    assert_eq!(number(&first, &holder).await, charged, "it is kept");

    run(&first, "SET GLOBAL read_only = 1").await;
    let mut admin = Conn::from_url(&first.url).await.unwrap();
    let others = format!(
        "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = 'test_1' AND ID NOT IN \
         (CONNECTION_ID(), {charged})"
    );
    for id in admin.query::<u64, _>(others).await.unwrap() {
        let killed = admin.query_drop(format!("KILL {id}")).await;
        // A connection of this test may have ended meanwhile.
        let is_gone = matches!(&killed, Err(Error::Server(error)) if error.code == 1094);
        assert!(killed.is_ok() || is_gone, "{killed:?}");
    }
    until("the second host is used", LIMIT, async || {
        sink.totals().await.is_ok()
    })
    .await;
    assert_eq!(number(&first, &holder).await, charged, "it is still open");
    assert_eq!(sink.take_indexes().await.unwrap(), Charge::Taken);
    assert_ne!(number(&second, &holder).await, 0);
    until("the first is released", LIMIT, async || {
        number(&first, &holder).await == 0
    })
    .await;
    admin.disconnect().await.unwrap();
}

/// As a balancer does that forgot the connection: it stays open, and no byte passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_lost_without_a_message_costs_seconds() {
    let lost = async |strike| {
        let fixture = Fixture::new(Target::Mariadb).await;
        let (proxy, sink) = through_proxy(&fixture).await;
        let batch = frame(&fixture).await;
        proxy.strike(COMMIT, strike);
        let began = Instant::now();
        let fault = refused(sink.commit(slice::from_ref(&batch)).await);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(30), "{strike:?}: {took:?}");
        let why = "its server does not run the statement";
        assert!(fault.to_string().contains(why), "{fault}");
        let (new, old) = if strike == Strike::HoldReply {
            (0, 600)
        } else {
            (600, 0)
        };
        proxy.cut();
        assert_eq!(sink.commit(&[batch]).await.unwrap(), stored(new, old, 0));
    };
    tokio::join!(lost(Strike::HoldRequest), lost(Strike::HoldReply));
}

/// A statement that runs for longer than it takes to notice a lost connection is not given up.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_runs_for_long_is_waited_for() {
    let fixture = Fixture::new(Target::Mariadb).await;
    // Each row waits: 15 s together.
    fixture
        .run(
            "CREATE TRIGGER slow BEFORE INSERT ON vehicle_events FOR EACH ROW SET NEW.event_type = \
             IF(SLEEP(0.025) = 0, NEW.event_type, '')",
        )
        .await;
    let batch = frame(&fixture).await;
    let began = Instant::now();
    assert_eq!(fixture.commit(&[batch]).await, stored(600, 0, 0));
    assert!(began.elapsed() > Duration::from_secs(13), "it was slow");
}

/// The lock of a migration belongs to one node of a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn processes_on_two_nodes_of_a_cluster_may_migrate_at_once() {
    for _ in 0..6 {
        let fixture = Fixture::empty(Target::Galera).await;
        let other: Arc<dyn Database> = fixture.another().await;
        let (one, two) = tokio::join!(
            fixture.sink.migrate(&fixture.datasets),
            other.migrate(&fixture.datasets)
        );
        one.unwrap();
        two.unwrap();
    }
}

/// As one node of a cluster does while others come and go: the number that it gives to a new file is
/// that of another file.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_another_node_has_given_is_not_the_last_one() {
    let fixture = Fixture::new(Target::Mariadb).await;
    let taken = fixture.file("vehicle_events", 1).await;
    let trigger = format!(
        "CREATE TRIGGER collides BEFORE INSERT ON ingest_files FOR EACH ROW BEGIN IF EXISTS (SELECT 1 \
         FROM collisions) THEN DELETE FROM collisions; SET NEW.file_no = {taken}; END IF; END"
    );
    for sql in [
        "CREATE TABLE collisions (id INT)",
        "INSERT INTO collisions VALUES (1)",
        &trigger,
    ] {
        fixture.run(sql).await;
    }
    let next = fixture.file("vehicle_events", 2).await;
    assert!(next > taken, "{next}, {taken}");
    assert_eq!(fixture.number("SELECT COUNT(*) FROM collisions").await, 0);

    // A file that goes to quarantine leaves the other one as it is.
    fixture.run("INSERT INTO collisions VALUES (1)").await;
    let damaged = new_file("vehicle_events", 3);
    fixture.sink.quarantine(&damaged, "damaged").await.unwrap();
    let files = "SELECT COUNT(*) FROM ingest_files WHERE state = ";
    assert_eq!(fixture.number(&format!("{files}'pending'")).await, 2);
    assert_eq!(fixture.number(&format!("{files}'quarantined'")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_cluster_that_are_synced_take_writes() {
    let fixture = Fixture::new(Target::Galera).await;
    let second = support::galera().await.on_second(&fixture.url);
    let (first, second) = (address(&fixture.url).0, address(&second).0);
    let both = format!(":{first},127.0.0.1:{second}/");
    let url = fixture.url.replace(&format!(":{first}/"), &both);
    let sink = open(&url, &SinkOptions::default()).await.unwrap();
    let findings = sink.inspect(&fixture.datasets).await.unwrap();
    let takes_writes = |finding: &&Finding| finding.what.ends_with(": it takes writes");
    assert_eq!(
        findings.iter().filter(takes_writes).count(),
        2,
        "{findings:?}"
    );
}

/// A node of a cluster applies the statements of the other nodes later. Here it applies none until
/// it is unlocked, and meanwhile does not count as synced.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_is_used_once_it_has_the_tables() {
    let cluster = support::private_galera().await;
    let first = cluster.fresh().await;
    let second = cluster.on_second(&first);
    let mut behind = Conn::from_url(&second).await.unwrap();
    let lock = "FLUSH TABLES WITH READ LOCK";
    behind.query_drop(lock).await.unwrap();
    let fixture = Fixture::at(Target::Galera, &first).await;
    let file_no = fixture.file("vehicle_events", 10).await;
    let tables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()";
    let there: Option<u64> = behind.query_first(tables).await.unwrap();
    assert_eq!(there, Some(0), "the node is behind");
    let unlock = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        behind.query_drop("UNLOCK TABLES").await.unwrap();
        behind.disconnect().await.unwrap();
    });
    let sink = open(&second, &SinkOptions::default()).await.unwrap();
    let batches = [events(&fixture, file_no, 0..10)];
    assert_eq!(sink.commit(&batches).await.unwrap(), stored(10, 0, 0));
    unlock.await.unwrap();
}

/// An account whose password can be replaced, and the URL in a file.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_password_is_read_again() {
    let server = support::private_mariadb().await;
    let mut admin = Conn::from_url(&server.url).await.unwrap();
    for sql in [
        "CREATE USER 'rotating'@'%' IDENTIFIED BY 'secret1'",
        "GRANT ALL ON test_1.* TO 'rotating'@'%'",
    ] {
        admin.query_drop(sql).await.unwrap();
    }
    let with = |password: &str| {
        server
            .url
            .replace("root@", &format!("rotating:{password}@"))
    };
    let file = support::folder();
    let file = file.path().join("url");
    let write = |password: &str| std::fs::write(&file, with(password)).unwrap();
    write("secret1");
    let path = file.clone();
    let options = SinkOptions {
        reread: Some(Reread::new(move || std::fs::read_to_string(&path).ok())),
        ..SinkOptions::default()
    };
    // The settings were read before the file had the password.
    let stale = with("secret0");
    let sink = open(&stale, &options).await.unwrap();
    let datasets = Datasets::new(Vec::new()).unwrap();
    sink.migrate(&datasets).await.unwrap();

    let change = "ALTER USER 'rotating'@'%' IDENTIFIED BY 'secret2'";
    admin.query_drop(change).await.unwrap();
    admin.query_drop("KILL USER rotating").await.unwrap();
    // The first call may have one of the ended connections.
    let waits = until_fault(&*sink, |text| text.contains("a new password")).await;
    assert!(waits.is_transient(), "{waits}");
    assert!(!waits.to_string().contains("secret"), "{waits}");
    write("secret2");
    sink.totals().await.expect("the login is read again");

    // The file stays the same.
    admin
        .query_drop(change.replace("secret2", "secret3"))
        .await
        .unwrap();
    admin.query_drop("KILL USER rotating").await.unwrap();
    let refused = refusals(&server).await;
    let began = Instant::now();
    let ends = until_fault(&*sink, |text| text.contains("check the user")).await;
    assert!(!ends.is_transient(), "{ends}");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(30), "{took:?}");
    // Many could make the server lock the account.
    let refused = refusals(&server).await - refused;
    let most = took.as_secs() / 2 + 2;
    assert!((2..=most).contains(&refused), "{refused} of {most}");

    // A login that never worked is reported at once.
    let fault = open(&stale, &options).await.err().unwrap();
    assert!(!fault.is_transient(), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_work_ends_once_its_login_is_refused() {
    let server = support::private_mariadb().await;
    let mut admin = Conn::from_url(&server.url).await.unwrap();
    let mut pair = Pair::new("redis+mysql").await;
    pair.database_url = server.url.replace("root@", "idle:secret1@");
    for sql in [
        "CREATE USER 'idle'@'%' IDENTIFIED BY 'secret1'",
        "GRANT ALL ON test_1.* TO 'idle'@'%'",
    ] {
        admin.query_drop(sql).await.unwrap();
    }
    let mut service = Service::start(&pair, &["run", "--role", "work"]);
    let joined = "SELECT COUNT(*) FROM test_1.ingest_nodes";
    until("it has joined", Duration::from_secs(30), async || {
        let rows = admin.query_first::<u64, _>(joined).await;
        rows.is_ok_and(|rows| rows == Some(1))
    })
    .await;
    let change = "ALTER USER 'idle'@'%' IDENTIFIED BY 'secret2'";
    admin.query_drop(change).await.unwrap();
    admin.query_drop("KILL USER idle").await.unwrap();
    let began = Instant::now();
    let mut ended = None;
    until("its end", Duration::from_secs(120), async || {
        ended = service.0.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    assert_eq!(ended.unwrap().code(), Some(78));
    assert!(
        began.elapsed() >= Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
}

/// Calls the sink until it fails with a text that fits.
async fn until_fault(sink: &dyn Database, fits: impl Fn(&str) -> bool) -> Fault {
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        if let Err(fault) = sink.totals().await
            && fits(&fault.to_string())
        {
            return fault;
        }
        assert!(Instant::now() < limit, "no such fault");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
