//! A database URL with two hosts: a load follows the writes from the first to the second.

use std::process::Stdio;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::faults::{ended, is_loaded_once};
use super::generate;
use crate::support::{self, Pair, Private, Service, names, until};

const LIMIT: Duration = Duration::from_secs(60);

/// What happens to the first server, and the longest time from the moment at which the second takes
/// writes until it has some. On a busy machine it is longer than in operation, where it is less than a
/// second, unless the first hangs.
const ACCIDENTS: [(Accident, Duration); 3] = [
    (Accident::ReadOnly, Duration::from_secs(5)),
    (Accident::Killed, Duration::from_secs(5)),
    (Accident::Hangs, Duration::from_secs(20)),
];

/// An account that a server refuses while it is read only, unlike root.
const ACCOUNT: &str = "service";

#[derive(Debug, Clone, Copy)]
enum Accident {
    ReadOnly,
    Killed,
    Hangs,
}

/// Two MariaDB servers. The second has each commit of the first before it is acknowledged, and is
/// read only.
struct Replicated {
    first: Private,
    second: Private,
}

async fn run(server: &Private, statements: &[&str]) {
    let mut conn = Conn::from_url(&server.url).await.unwrap();
    for sql in statements {
        conn.query_drop(*sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    conn.disconnect().await.unwrap();
}

async fn text(server: &Private, sql: &str) -> String {
    let mut conn = Conn::from_url(&server.url).await.unwrap();
    let value: Option<String> = conn.query_first(sql).await.unwrap();
    conn.disconnect().await.unwrap();
    value.unwrap_or_default()
}

impl Replicated {
    async fn start() -> Self {
        let options = |id: u8| {
            ["--log-bin=binlog", "--binlog-format=ROW"]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("--server-id={id}")])
                .chain(
                    [
                        "--rpl-semi-sync-master-enabled=ON",
                        "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
                        "--rpl-semi-sync-master-timeout=600000",
                        "--rpl-semi-sync-master-wait-no-slave=OFF",
                        "--rpl-semi-sync-slave-enabled=ON",
                    ]
                    .map(str::to_owned),
                )
                .collect::<Vec<_>>()
        };
        let second = support::private_mariadb_with(&options(2)).await;
        let first = support::private_mariadb_with(&options(1)).await;
        let position = text(&first, "SELECT @@GLOBAL.gtid_binlog_pos").await;
        let source = format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'root', \
             MASTER_USE_GTID = slave_pos",
            first.port
        );
        let position = format!("SET GLOBAL gtid_slave_pos = '{position}'");
        run(
            &second,
            &[
                "RESET MASTER",
                &position,
                &source,
                "SET GLOBAL read_only = 1",
                "START SLAVE",
            ],
        )
        .await;
        let servers = Self { first, second };
        servers
            .has_status("Rpl_semi_sync_master_clients", "1")
            .await;
        let account = format!("CREATE USER '{ACCOUNT}'@'%'");
        let grant = format!("GRANT ALL ON test_1.* TO '{ACCOUNT}'@'%'");
        run(&servers.first, &[&account, &grant]).await;
        servers
            .has_status("Rpl_semi_sync_master_status", "ON")
            .await;
        servers
    }

    /// Waits until the first server reports this.
    async fn has_status(&self, name: &str, value: &str) {
        let sql = format!("SHOW STATUS WHERE Variable_name = '{name}' AND Value = '{value}'");
        until(name, LIMIT, async || {
            let mut conn = Conn::from_url(&self.first.url).await.unwrap();
            let row: Option<Row> = conn.query_first(&sql).await.unwrap();
            conn.disconnect().await.unwrap();
            row.is_some()
        })
        .await;
    }

    /// Both servers, the second first: the load has to find the one that takes writes.
    fn url(&self) -> String {
        let (first, second) = (self.first.port, self.second.port);
        format!("mysql://{ACCOUNT}@127.0.0.1:{second},127.0.0.1:{first}/test_1")
    }

    /// Lets the second server take the writes, once it has applied all that it has received.
    async fn promote(&self) {
        run(&self.second, &["STOP SLAVE IO_THREAD"]).await;
        let mut conn = Conn::from_url(&self.second.url).await.unwrap();
        let status: Option<Row> = conn.query_first("SHOW SLAVE STATUS").await.unwrap();
        let received: Option<String> = status.unwrap().get("Gtid_IO_Pos");
        let wait = format!("SELECT MASTER_GTID_WAIT('{}', 60)", received.unwrap());
        assert_eq!(conn.query_first(wait).await.unwrap(), Some(0));
        conn.disconnect().await.unwrap();
        run(&self.second, &["STOP SLAVE", "SET GLOBAL read_only = 0"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_follows_the_writes_to_the_other_host() {
    for (accident, stall) in ACCIDENTS {
        let when = &format!("the first: {accident:?}");
        let mut servers = Replicated::start().await;
        let mut pair = Pair::new("memory+mysql").await;
        pair.database_url = servers.url();
        generate(&pair, &["--files", "80", "--records", "2000"]);
        let mut load = Service::start(&pair, &["load"]);
        until("some files in history", LIMIT, async || {
            names(&pair.at("history")).len() >= 10
        })
        .await;
        assert!(
            load.0.try_wait().unwrap().is_none(),
            "{when}: the load is running"
        );
        match accident {
            Accident::ReadOnly => run(&servers.first, &["SET GLOBAL read_only = 1"]).await,
            Accident::Killed => servers.first.kill(),
            Accident::Hangs => servers.first.pause(),
        }
        servers.promote().await;
        let began = Instant::now();
        let own = "SELECT @@GLOBAL.gtid_binlog_pos LIKE '%-2-%'";
        until("a commit on the second server", LIMIT, async || {
            text(&servers.second, own).await == "1"
        })
        .await;
        let took = began.elapsed();
        eprintln!("{when}: the load went on {took:?} after the second took writes");
        assert!(took < stall, "{when}: {took:?}");
        assert_eq!(ended(&mut load).await, Some(0), "{when}");
        pair.database_url.clone_from(&servers.second.url);
        is_loaded_once(&pair, 160_000, 80, when).await;
    }
}

/// A page, a log and a message name both hosts and no password.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_do_not_answer_are_all_named() {
    let mut pair = Pair::new("memory+sqlite").await;
    let [one, two] = [support::free_addr(), support::free_addr()];
    pair.database_url = format!("mysql://u:secret@{one},{two}/v");
    let output = pair.run(&["migrate"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(69), "{said}");
    let shown = format!("mysql://u:***@{one},{two}/v does not answer");
    assert!(said.contains(&shown), "{said}");
    for host in [&one, &two] {
        assert!(said.contains(&format!("{host}: ")), "{said}");
    }
    assert!(!said.contains("secret"), "{said}");
}

/// The password is replaced on the server and in the file while the service runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_needs_no_restart() {
    let server = support::private_mariadb().await;
    let account = format!("CREATE USER '{ACCOUNT}'@'%' IDENTIFIED BY 'secret1'");
    let grant = format!("GRANT ALL ON test_1.* TO '{ACCOUNT}'@'%'");
    run(&server, &[&account, &grant]).await;
    let mut pair = Pair::new("memory+mysql").await;
    let file = pair.at("url");
    let write = |password: &str| {
        let url = server
            .url
            .replace("root@", &format!("{ACCOUNT}:{password}@"));
        std::fs::write(&file, url).unwrap();
    };
    write("secret1");
    let loaded = |files| {
        let history = pair.at("history");
        async move || names(&history).len() == files
    };
    let mut command = pair.command(&["run"]);
    command
        .env_remove("DATABASE_URL")
        .env("DATABASE_URL_FILE", &file)
        .env("LEMONADE_HTTP_ADDR", "off")
        .env("LEMONADE_SCAN_INTERVAL", "200ms")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut service = Service(command.spawn().unwrap());
    generate(&pair, &["--files", "2", "--records", "100"]);
    until("the first files", LIMIT, loaded(2)).await;

    let change = format!("ALTER USER '{ACCOUNT}'@'%' IDENTIFIED BY 'secret2'");
    run(&server, &[&change, &format!("KILL USER {ACCOUNT}")]).await;
    generate(&pair, &["--files", "2", "--records", "100", "--seed", "7"]);
    write("secret2");
    until("the other files", LIMIT, loaded(4)).await;
    assert_eq!(service.terminate(), Some(0));
    pair.database_url.clone_from(&server.url);
    is_loaded_once(&pair, 400, 4, "rotated").await;
}
