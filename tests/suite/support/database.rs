//! MariaDB and MySQL for tests: small, fast to start, and as durable as in production.
//!
//! Making a data folder takes seconds, so one is made per server version and kept under `target/`;
//! each server starts from a copy of it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use super::server::{AnyKind, Kind, Private, Server, free_port, program};

/// Timeout of an attempt to connect, which is then repeated.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Two nodes find each other in a second or two.
const JOINED_WITHIN: Duration = Duration::from_secs(60);

/// Options of both servers: little memory and small files, because many run at once on a small
/// machine, but durable commits, because the tests depend on them.
const OPTIONS: [&str; 7] = [
    "--bind-address=127.0.0.1",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=1",
    "--performance-schema=OFF",
    "--skip-log-bin",
    "--max-connections=500",
    "--character-set-server=utf8mb4",
];

/// A database server that all tests share.
pub struct Database {
    /// Its port on 127.0.0.1.
    pub port: u16,
    next: AtomicU32,
    _server: Server,
}

impl Database {
    /// Creates an empty database and returns its URL: `mysql://root@127.0.0.1:PORT/test_N`.
    pub async fn fresh(&self) -> String {
        let name = format!("test_{}", self.next.fetch_add(1, Ordering::Relaxed));
        create(self.port, &name).await;
        url(self.port, &name)
    }

    fn new(server: Server) -> Self {
        Self {
            port: server.port(),
            next: AtomicU32::new(1),
            _server: server,
        }
    }
}

pub async fn start_mariadb() -> Database {
    Database::new(Server::start(&MariadbKind::default()).await)
}

pub async fn start_mysql9(local_infile: bool) -> Database {
    let kind = Mysql9Kind {
        home: mysql9_home(),
        local_infile,
    };
    Database::new(Server::start(&kind).await)
}

/// Makes the statements of this connection wait until its node has applied the commits of other
/// nodes.
pub const SYNC_WAIT: &str = "SET SESSION wsrep_sync_wait = 15";

/// Two nodes of a Galera cluster. Each of them takes writes.
pub struct Galera {
    nodes: [Server; 2],
    next: AtomicU32,
}

impl Galera {
    /// Creates an empty database and returns its URL on the first node.
    pub async fn fresh(&self) -> String {
        let name = format!("test_{}", self.next.fetch_add(1, Ordering::Relaxed));
        let [first, second] = self.nodes.each_ref().map(Server::port);
        create(first, &name).await;
        let mut conn = connect(second).await.expect("the node answered before");
        for statement in [SYNC_WAIT, &format!("SHOW CREATE DATABASE {name}")] {
            let done = conn.query_drop(statement).await;
            done.expect("both nodes have it");
        }
        conn.disconnect().await.expect("the node is up");
        url(first, &name)
    }

    /// The same database on the second node.
    pub fn on_second(&self, url: &str) -> String {
        let [first, second] = self
            .nodes
            .each_ref()
            .map(|node| format!(":{}/", node.port()));
        url.replace(&first, &second)
    }
}

pub async fn start_galera() -> Galera {
    let port = free_port();
    let first = Server::start(&galera_node(port, "")).await;
    let deadline = Instant::now() + JOINED_WITHIN;
    let joined = async |node: &Server, size: &str| {
        loop {
            let status = wsrep_status(node.port()).await;
            let is = |name: &str, value: &str| status.get(name).is_some_and(|now| now == value);
            // The first view of the cluster is its first transaction. A node can be ready a moment
            // before that counts as committed. A state with the number 0 is older than the cluster,
            // so the second node would need a copy.
            if is("size", size) && is("ready", "ON") && !is("seqno", "0") {
                return status;
            }
            assert!(Instant::now() < deadline, "no cluster: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut second = galera_node(free_port(), &format!("127.0.0.1:{port}"));
    // No data is written yet, so both nodes have equal data. This setting makes the second node
    // join without a copy.
    let status = joined(&first, "1").await;
    second.galera_state = format!(
        "version: 2.1\nuuid: {}\nseqno: {}\nsafe_to_bootstrap: 0\n",
        status["uuid"], status["seqno"]
    );
    let nodes = [first, Server::start(&second).await];
    for node in &nodes {
        joined(node, "2").await;
    }
    Galera {
        nodes,
        next: AtomicU32::new(1),
    }
}

/// The state of the cluster as a node reports it; empty while it does not answer.
async fn wsrep_status(port: u16) -> HashMap<&'static str, String> {
    const NAMES: [(&str, &str); 4] = [
        ("wsrep_cluster_size", "size"),
        ("wsrep_ready", "ready"),
        ("wsrep_cluster_state_uuid", "uuid"),
        ("wsrep_last_committed", "seqno"),
    ];
    let asked = async {
        let mut conn = connect(port).await.ok()?;
        let status = conn.query("SHOW STATUS LIKE 'wsrep%'").await.ok()?;
        conn.disconnect().await.ok()?;
        Some(status)
    };
    let status: HashMap<String, String> =
        asked.await.unwrap_or_else(Vec::new).into_iter().collect();
    let known = |(name, short)| Some((short, status.get(name)?.clone()));
    NAMES.into_iter().filter_map(known).collect()
}

/// A node that listens to the others on a port, and joins the cluster of another one; with none, it
/// is the first of a new cluster.
fn galera_node(port: u16, other: &str) -> MariadbKind {
    let ist = free_port();
    let options = [
        "--wsrep-on=ON".to_owned(),
        "--wsrep-provider=/usr/lib/galera/libgalera_smm.so".to_owned(),
        format!("--wsrep-cluster-address=gcomm://{other}"),
        format!("--wsrep-node-address=127.0.0.1:{port}"),
        format!(
            "--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{port};\
             ist.recv_addr=127.0.0.1:{ist};gcache.size=16M"
        ),
        // Without it, the rows of a failed statement are replicated nevertheless, and the other
        // node leaves the cluster (measured with MariaDB 10.11).
        "--log-bin=binlog".to_owned(),
        "--log-slave-updates".to_owned(),
        "--binlog-format=ROW".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
    ];
    MariadbKind {
        options: options.to_vec(),
        ..MariadbKind::default()
    }
}

/// A MariaDB with options beyond those of all tests.
pub async fn start_private_mariadb(options: &[String]) -> Private {
    let kind = MariadbKind {
        options: options.to_vec(),
        ..MariadbKind::default()
    };
    let server = Server::start(&kind).await;
    create(server.port(), "test_1").await;
    let url = url(server.port(), "test_1");
    Private::new(server, AnyKind::Mariadb(kind), url)
}

pub async fn start_private_mysql9() -> Private {
    let kind = Mysql9Kind {
        home: mysql9_home(),
        local_infile: false,
    };
    let server = Server::start(&kind).await;
    create(server.port(), "test_1").await;
    let url = url(server.port(), "test_1");
    Private::new(server, AnyKind::Mysql9(kind), url)
}

/// Makes the data of a MariaDB in an empty folder.
pub fn fill_mariadb(folder: &Path) {
    MariadbKind::default().fill(folder);
}

/// The command that runs a MariaDB with the data of this folder, and the socket file `sock` in it. The
/// options come last, and so replace those of all tests.
pub fn mariadb_command(folder: &Path, port: u16, options: &[String]) -> Vec<OsString> {
    let kind = MariadbKind {
        options: options.to_vec(),
        ..MariadbKind::default()
    };
    kind.command(folder, port)
}

/// Runs MariaDB.
#[derive(Default)]
pub struct MariadbKind {
    /// Options beyond those of all tests.
    options: Vec<String>,
    /// The saved state of a Galera cluster in the data folder; empty for none.
    galera_state: String,
}

impl Kind for MariadbKind {
    fn fill(&self, folder: &Path) {
        let version = run(Command::new(program("mariadbd")).arg("--version"));
        copy_template("mariadb", &version, &folder.join("data"), |data| {
            let mut install = Command::new(program("mariadb-install-db"));
            install
                .arg("--no-defaults")
                .arg("--auth-root-authentication-method=normal")
                .arg("--skip-test-db")
                .arg("--innodb-log-file-size=16M")
                .arg(prefixed("--tmpdir=", folder))
                .arg(prefixed("--datadir=", data));
            if owned_by_root(folder) {
                install.arg("--user=root");
            }
            run(&mut install);
        });
        if !self.galera_state.is_empty() {
            let state = folder.join("data/grastate.dat");
            fs::write(state, &self.galera_state).expect("the folder takes a file");
        }
    }

    fn command(&self, folder: &Path, port: u16) -> Vec<OsString> {
        let mut command = vec![program("mariadbd").into(), "--no-defaults".into()];
        command.extend(options(folder, port));
        command.push("--innodb-log-file-size=16M".into());
        command.push("--skip-name-resolve".into());
        command.extend(self.options.iter().map(OsString::from));
        command
    }

    async fn answers(&self, server: &Server) -> bool {
        serves_folder(server).await
    }
}

/// Runs the unpacked MySQL 9.
pub struct Mysql9Kind {
    home: PathBuf,
    local_infile: bool,
}

impl Mysql9Kind {
    /// Runs the server with its own loader and libraries, because it was built for a newer system.
    fn mysqld(&self) -> Vec<OsString> {
        let root = self.home.join("root");
        let libraries = root
            .join("usr/lib")
            .join(format!("{}-linux-gnu", std::env::consts::ARCH));
        let loader = fs::read_dir(&libraries)
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(is_loader))
            .unwrap_or_else(|| panic!("no MySQL in {}: run scripts/mysql9", self.home.display()));
        let mut search = libraries.into_os_string();
        search.push(":");
        search.push(root.join("usr/lib/mysql/private"));
        let usr = root.join("usr");
        vec![
            loader.into(),
            "--library-path".into(),
            search,
            usr.join("sbin/mysqld").into(),
            "--no-defaults".into(),
            prefixed("--basedir=", &usr),
            prefixed("--lc-messages-dir=", &usr.join("share/mysql")),
            prefixed("--character-sets-dir=", &usr.join("share/mysql/charsets")),
            prefixed("--plugin-dir=", &usr.join("lib/mysql/plugin")),
        ]
    }
}

impl Kind for Mysql9Kind {
    fn fill(&self, folder: &Path) {
        let mysqld = self.mysqld();
        let version = run(Command::new(&mysqld[0]).args(&mysqld[1..]).arg("--version"));
        copy_template("mysql9", &version, &folder.join("data"), |data| {
            // Without this, root may connect only from the name `localhost`.
            let grants = folder.join("grants.sql");
            fs::write(
                &grants,
                "CREATE USER 'root'@'127.0.0.1';\n\
                 GRANT ALL ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n",
            )
            .expect("the folder takes a file");
            let mut initialize = Command::new(&mysqld[0]);
            initialize
                .args(&mysqld[1..])
                .arg("--initialize-insecure")
                .arg("--innodb-redo-log-capacity=16M")
                .arg(prefixed("--tmpdir=", folder))
                .arg(prefixed("--init-file=", &grants))
                .arg(prefixed("--datadir=", data));
            if owned_by_root(folder) {
                initialize.arg("--user=root");
            }
            run(&mut initialize);
        });
    }

    fn command(&self, folder: &Path, port: u16) -> Vec<OsString> {
        let mut command = self.mysqld();
        command.extend(options(folder, port));
        command.extend(
            [
                "--innodb-redo-log-capacity=16M",
                "--skip-name-resolve",
                "--mysqlx=OFF",
            ]
            .map(Into::into),
        );
        command.push(format!("--local-infile={}", u8::from(self.local_infile)).into());
        command
    }

    async fn answers(&self, server: &Server) -> bool {
        serves_folder(server).await
    }
}

/// Where `scripts/mysql9` unpacks the server.
fn mysql9_home() -> PathBuf {
    std::env::var_os("LEMONADE_MYSQL9_HOME").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/mysql9"),
        PathBuf::from,
    )
}

fn is_loader(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with("ld-linux-") && name.contains(".so"))
}

fn options(folder: &Path, port: u16) -> Vec<OsString> {
    let mut options: Vec<OsString> = OPTIONS.map(OsString::from).to_vec();
    options.push(format!("--port={port}").into());
    options.push(prefixed("--datadir=", &folder.join("data")));
    options.push(prefixed("--socket=", &folder.join("sock")));
    options.push(prefixed("--pid-file=", &folder.join("pid")));
    // A starting server deletes all temporary tables in its tmpdir, also those of another server.
    options.push(prefixed("--tmpdir=", folder));
    options.push("--secure-file-priv=".into());
    if owned_by_root(folder) {
        options.push("--user=root".into());
    }
    options
}

/// Both servers refuse to run as root without this option.
fn owned_by_root(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.uid() == 0)
}

/// Copies the data folder of this server version. Creates it if it does not exist.
///
/// Safe if several test runs do this at once: the folder is created under another name and renamed,
/// and the second run finds an equal folder.
fn copy_template(name: &str, version: &str, data: &Path, make: impl FnOnce(&Path)) {
    let mut hasher = DefaultHasher::new();
    (version, OPTIONS).hash(&mut hasher);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{name}-data-{:016x}", hasher.finish()));
    if !kept.exists() {
        let aside = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("the target directory takes new folders");
        let data_aside = aside.path().join("data");
        make(&data_aside);
        if let Err(error) = fs::rename(&data_aside, &kept) {
            assert!(kept.exists(), "the data folder cannot be kept: {error}");
        }
    }
    run(Command::new("cp")
        .args(["-a", "--reflink=auto", "--sparse=always"])
        .arg(&kept)
        .arg(data));
}

/// Runs a program to its end and returns what it printed.
///
/// # Panics
/// If the program fails, with its output.
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn prefixed(option: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(option);
    argument.push(path);
    argument
}

fn url(port: u16, database: &str) -> String {
    format!("mysql://root@127.0.0.1:{port}/{database}")
}

async fn connect(port: u16) -> mysql_async::Result<Conn> {
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(port)
        .user(Some("root"))
        // Otherwise the driver switches to the socket file and bypasses a proxy in front of the
        // port.
        .prefer_socket(false);
    Conn::new(options).await
}

async fn create(port: u16, database: &str) {
    let mut conn = connect(port).await.expect("the server answered before");
    conn.query_drop(format!("CREATE DATABASE {database}"))
        .await
        .expect("the name is new");
    conn.disconnect().await.expect("the server is up");
}

/// Whether the server on this port uses the data of this folder: another server may have taken the
/// port.
async fn serves_folder(server: &Server) -> bool {
    let asked = async {
        let mut conn = connect(server.port()).await.ok()?;
        let folder: Option<String> = conn.query_first("SELECT @@datadir").await.ok()?;
        conn.disconnect().await.ok()?;
        folder
    };
    let folder = tokio::time::timeout(CONNECT_WITHIN, asked)
        .await
        .ok()
        .flatten();
    folder.is_some_and(|folder| Path::new(&folder) == server.folder().join("data"))
}
