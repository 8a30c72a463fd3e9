//! Real servers and folders for tests, private to this run.
//!
//! Shared servers are started once per run, by the first test that needs them. `fresh()` gives each
//! test a Redis database number or a SQL database of its own. A test that kills, floods or flushes
//! its server uses a private one instead.
//!
//! All servers listen on free ports of 127.0.0.1 and use temporary folders. The test runner has no
//! hook at the end of a run and may be killed, so no server depends on clean-up code here:
//! [`server`] explains how they end.
//!
//! Each `#[tokio::test]` has a runtime of its own, so the statics below hold processes, ports and
//! counters, never a connection or a task.

pub mod browser;
pub mod collector;
mod database;
mod pair;
pub mod prometheus;
mod proof;
pub mod proxy;
mod redis;
mod server;
mod service;

use tokio::sync::OnceCell;

pub use database::{Database, Galera, SYNC_WAIT, fill_mariadb, mariadb_command};
pub use pair::{Pair, files_below, in_work, names};
pub use redis::Redis;
pub use server::{Private, program};
pub use service::{Service, free_addr, page, until};

/// The tables of the ledger.
pub const LEDGER: [&str; 11] = [
    "ingest_files",
    "ingest_frames",
    "ingest_rejects",
    "ingest_purged",
    "ingest_erased",
    "ingest_erased_contents",
    "ingest_superseded",
    "ingest_replays",
    "ingest_definitions",
    "ingest_settings",
    "ingest_identities",
];

/// The Redis that all tests share; take a database of your own with [`Redis::fresh`].
pub async fn redis() -> &'static Redis {
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    SHARED.get_or_init(redis::start).await
}

/// The MariaDB that all tests share; take a database of your own with [`Database::fresh`].
pub async fn mariadb() -> &'static Database {
    static SHARED: OnceCell<Database> = OnceCell::const_new();
    SHARED.get_or_init(database::start_mariadb).await
}

/// The MySQL 9 that all tests share: one that takes `LOAD DATA LOCAL`, and one that refuses it.
pub async fn mysql9(local_infile: bool) -> &'static Database {
    static TAKES: OnceCell<Database> = OnceCell::const_new();
    static REFUSES: OnceCell<Database> = OnceCell::const_new();
    let shared = if local_infile { &TAKES } else { &REFUSES };
    shared
        .get_or_init(|| database::start_mysql9(local_infile))
        .await
}

/// The Galera cluster that all tests share.
pub async fn galera() -> &'static Galera {
    static SHARED: OnceCell<Galera> = OnceCell::const_new();
    SHARED.get_or_init(database::start_galera).await
}

/// A Galera cluster for one test, which may stop its nodes. It ends with the value.
pub async fn private_galera() -> Galera {
    database::start_galera().await
}

/// A Redis for one test, which may kill, flush or stop it. It ends with the value.
pub async fn private_redis() -> Private {
    redis::start_private(&[]).await
}

/// The same with these options.
pub async fn private_redis_with(options: &[&str]) -> Private {
    redis::start_private(options).await
}

/// A MariaDB for one test, with an empty database at its `url`. It ends with the value.
pub async fn private_mariadb() -> Private {
    database::start_private_mariadb(&[]).await
}

/// The same with these options.
pub async fn private_mariadb_with(options: &[String]) -> Private {
    database::start_private_mariadb(options).await
}

/// A MySQL 9 for one test, with an empty database at its `url`. It ends with the value.
pub async fn private_mysql9() -> Private {
    database::start_private_mysql9().await
}

/// An empty folder that is removed with the value.
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("lemonade-test-")
        .tempdir()
        .expect("the temporary directory takes new folders")
}
