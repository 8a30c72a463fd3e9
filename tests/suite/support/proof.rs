//! Tests of the test servers: a crash test whose kill has no effect would prove nothing.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use mysql_async::Opts;
use mysql_async::prelude::Queryable;

/// One inline command, one line back.
fn ask_redis(port: u16, command: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(stream, "{command}\r\nQUIT\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply.lines().next().unwrap().to_owned()
}

async fn ask_database(url: &str, statement: &str) -> Option<String> {
    let mut conn = mysql_async::Conn::new(Opts::from_url(url).unwrap())
        .await
        .unwrap();
    let answer = conn.query_first(statement).await.unwrap();
    conn.disconnect().await.unwrap();
    answer
}

#[tokio::test]
async fn fresh_databases_differ() {
    let redis = super::redis().await;
    assert_ne!(redis.fresh(), redis.fresh());
    assert_eq!(ask_redis(redis.port, "PING"), "+PONG");

    let mariadb = super::mariadb().await;
    let (one, other) = (mariadb.fresh().await, mariadb.fresh().await);
    assert_ne!(one, other);
    ask_database(&one, "CREATE TABLE t (a INT)").await;
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE()";
    assert_eq!(ask_database(&one, tables).await.as_deref(), Some("1"));
    assert_eq!(ask_database(&other, tables).await.as_deref(), Some("0"));
}

#[tokio::test]
async fn mysql9_is_mysql_and_has_the_requested_local_infile() {
    for local_infile in [false, true] {
        let url = super::mysql9(local_infile).await.fresh().await;
        let version = ask_database(&url, "SELECT VERSION()").await.unwrap();
        assert!(version.starts_with("9."), "{version}");
        let set = ask_database(&url, "SELECT @@local_infile").await.unwrap();
        assert_eq!(set, u8::from(local_infile).to_string());
    }
}

#[tokio::test]
async fn a_killed_redis_is_gone_and_comes_back_empty() {
    let mut redis = super::private_redis().await;
    assert_eq!(ask_redis(redis.port, "SET here 1"), "+OK");
    redis.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port)).is_err());
    redis.restart().await;
    assert_eq!(ask_redis(redis.port, "EXISTS here"), ":0");
}

#[tokio::test]
async fn a_killed_mariadb_comes_back_with_what_was_committed() {
    let mut mariadb = super::private_mariadb().await;
    ask_database(&mariadb.url, "CREATE TABLE t AS SELECT 7 AS a").await;
    mariadb.kill();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, mariadb.port)).is_err());
    mariadb.restart().await;
    assert_eq!(
        ask_database(&mariadb.url, "SELECT a FROM t")
            .await
            .as_deref(),
        Some("7")
    );
}

#[tokio::test]
async fn a_paused_server_answers_only_when_resumed() {
    let mut redis = super::private_redis().await;
    redis.pause();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, redis.port)).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    stream.set_nonblocking(true).unwrap();
    assert!(
        stream.read(&mut [0; 16]).is_err(),
        "a paused server must not answer"
    );
    redis.resume();
    stream.set_nonblocking(false).unwrap();
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+PONG\r\n");
}

#[tokio::test]
async fn a_dropped_server_is_ended_and_its_folder_removed() {
    let redis = super::private_redis().await;
    let (port, folder) = (redis.port, redis.folder().to_owned());
    assert!(folder.exists());
    drop(redis);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    assert!(!folder.exists());
}
