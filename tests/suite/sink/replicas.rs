//! How far replicas of the database are behind it, by real replication.

use std::time::Duration;

use lemonade_task::sink::{Lag, Replicas};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::support::{self, Pair, Private, Service, until};

const LIMIT: Duration = Duration::from_secs(60);

/// The only replica of a URL.
async fn lag(url: &str) -> Result<Lag, String> {
    let replicas = Replicas::new(url).unwrap();
    let mut lags = replicas.lags().await;
    assert_eq!(lags.len(), 1);
    lags.remove(0).1.map_err(|fault| fault.to_string())
}

async fn run(conn: &mut Conn, statements: &[&str]) {
    for sql in statements {
        conn.query_drop(*sql).await.unwrap();
    }
}

/// A MariaDB and its replica, which has all that the first one has.
async fn replicated() -> [Private; 2] {
    let with = async |id: u32| {
        let options = [format!("--server-id={id}"), "--log-bin=binlog".to_owned()];
        support::private_mariadb_with(&options).await
    };
    let [source, replica] = [with(1).await, with(2).await];
    let mut conn = Conn::from_url(&source.url).await.unwrap();
    let position: Option<String> = conn.query_first("SELECT @@gtid_binlog_pos").await.unwrap();
    let mut conn = Conn::from_url(&replica.url).await.unwrap();
    let (position, port) = (position.unwrap(), source.port);
    let follow = format!(
        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root', \
         MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos"
    );
    let from = format!("SET GLOBAL gtid_slave_pos = '{position}'");
    run(&mut conn, &["RESET MASTER", &from, &follow, "START SLAVE"]).await;
    [source, replica]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_tells_how_far_it_is_behind() {
    let [source, replica] = replicated().await;
    assert!(
        lag(&source.url)
            .await
            .unwrap_err()
            .contains("not a replica")
    );
    let follows = async || lag(&replica.url).await == Ok(Lag::Behind(Duration::ZERO));
    until("the replica follows", LIMIT, follows).await;
    let mut conn = Conn::from_url(&replica.url).await.unwrap();
    let delay = "CHANGE MASTER TO MASTER_DELAY = 600";
    run(&mut conn, &["STOP SLAVE", delay]).await;
    assert_eq!(lag(&replica.url).await, Ok(Lag::Stopped));
    run(&mut conn, &["START SLAVE"]).await;
    let mut conn = Conn::from_url(&source.url).await.unwrap();
    run(&mut conn, &["CREATE TABLE t (a INT)"]).await;
    let is_behind = async || match lag(&replica.url).await {
        Ok(Lag::Behind(time)) => (1..600).contains(&time.as_secs()),
        _ => false,
    };
    until("the delay is told", LIMIT, is_behind).await;
    // Two of them, of which one is gone.
    let nothing = support::free_addr();
    let both = replica
        .url
        .replace("127.0.0.1", &format!("{nothing},127.0.0.1"));
    let replicas = Replicas::new(&both).unwrap();
    let lags = replicas.lags().await;
    assert!(lags[0].1.is_err() && lags[1].1.is_ok(), "{lags:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_mysql_that_does_not_replicate_is_noticed() {
    let server = support::private_mysql9().await;
    assert!(
        lag(&server.url)
            .await
            .unwrap_err()
            .contains("not a replica")
    );
    let mut conn = Conn::from_url(&server.url).await.unwrap();
    let nothing = support::free_addr();
    let (_, port) = nothing.rsplit_once(':').unwrap();
    let follow = format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, \
         SOURCE_USER = 'root'"
    );
    run(&mut conn, &[&follow]).await;
    assert_eq!(lag(&server.url).await, Ok(Lag::Stopped));
}

/// The replica is stopped before the load and the service begin, and follows again later.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_while_a_replica_is_too_far_behind() {
    let [source, replica] = replicated().await;
    let mut pair = Pair::new("memory+mysql").await;
    pair.database_url = source.url.clone();
    pair.expect(0, &["migrate"]);
    let mut conn = Conn::from_url(&replica.url).await.unwrap();
    let rows = async || pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    let settings = format!("replica_url = '{}'\n", replica.url);
    std::fs::write(pair.at("lemonade.toml"), settings).unwrap();
    for round in 1..=2_u64 {
        run(&mut conn, &["STOP SLAVE"]).await;
        let told = pair.expect(0, &["doctor"]);
        assert!(told.contains("its replication is stopped"), "{told}");
        let seed = round.to_string();
        pair.at("inbound");
        pair.expect(
            0,
            &[
                "generate",
                "--files",
                "1",
                "--records",
                "500",
                "--seed",
                &seed,
            ],
        );
        let mut load = (round == 1).then(|| pair.command(&["load"]).spawn().unwrap());
        let mut service = (round == 2).then(|| Service::start(&pair, &[]));
        let mut registered = async || {
            let sql = "SELECT COUNT(*) FROM ingest_files WHERE state = 'pending'";
            pair.number(sql).await == 1
        };
        until("the file is registered", LIMIT, &mut registered).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(
            rows().await,
            (round - 1) * 500,
            "committed in round {round}"
        );
        run(&mut conn, &["START SLAVE"]).await;
        until("the rows are stored", LIMIT, async || {
            rows().await == round * 500
        })
        .await;
        if let Some(load) = &mut load {
            assert_eq!(load.wait().unwrap().code(), Some(0));
        }
        if let Some(service) = &mut service {
            assert_eq!(service.terminate(), Some(0));
        }
    }
    let told = pair.expect(0, &["doctor"]);
    assert!(
        told.contains("replicas: ") && told.contains(" s behind"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_commits_nothing_while_a_replica_is_too_far_behind() {
    let [source, replica] = replicated().await;
    let mut pair = Pair::new("redis+mysql").await;
    pair.database_url = source.url.clone();
    pair.expect(0, &["migrate"]);
    pair.expect(0, &["generate", "--files", "1", "--records", "500"]);
    let mut ingest = Service::start(&pair, &["run", "--role", "ingest"]);
    let registered = "SELECT COUNT(*) FROM ingest_files WHERE state = 'pending'";
    until("the file is registered", LIMIT, async || {
        pair.number(registered).await == 1
    })
    .await;
    let settings = format!("replica_url = '{}'\n", replica.url);
    std::fs::write(pair.at("lemonade.toml"), settings).unwrap();
    let mut conn = Conn::from_url(&replica.url).await.unwrap();
    run(&mut conn, &["STOP SLAVE"]).await;
    let mut drain = pair.command(&["queue", "drain"]).spawn().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rows = async || pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert_eq!(rows().await, 0, "committed");
    assert!(drain.try_wait().unwrap().is_none(), "it waits");
    run(&mut conn, &["START SLAVE"]).await;
    until("the rows are stored", LIMIT, async || rows().await == 500).await;
    assert_eq!(drain.wait().unwrap().code(), Some(0));
    assert_eq!(ingest.terminate(), Some(0));
}
