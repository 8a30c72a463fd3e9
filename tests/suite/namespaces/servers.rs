//! The servers on their hosts: a Redis Cluster and a Galera cluster, and how the test asks them. It
//! asks through their socket files, so a host that is cut off answers as well.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, OptsBuilder};

use super::machine::{Machine, TICK};
use super::network::{Host, Network};
use crate::chaos::process::log_end;
use crate::support;

/// Time in which a cluster is whole after its start.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);

/// How long a server may take to answer the test.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The database and the account of the engine.
pub const DATABASE: &str = "test_1";
pub const ACCOUNT: &str = "engine:secret";

/// Starts a node of Galera. One that was killed finds first how far it has come, as the scripts of a
/// distribution do: without that, it would copy all data from another node.
const START_DATABASE: &str = r#"
data=$1
shift
if grep -qs 'seqno: *-1' "$data/grastate.dat"; then
    position=$("$@" --wsrep-recover 2>&1 | sed -n 's/.*Recovered position: *//p' | tail -n 1)
    set -- "$@" --wsrep-start-position="$position"
elif [ ! -e "$data/grastate.dat" ]; then
    set -- "$@" --wsrep-new-cluster
fi
exec "$@"
"#;

/// The socket files of the servers.
#[derive(Clone)]
pub struct Servers {
    queues: Vec<PathBuf>,
    databases: Vec<PathBuf>,
}

impl Servers {
    pub fn new(queues: &[Machine], databases: &[Machine]) -> Self {
        let sockets = |machines: &[Machine]| {
            let socket = |machine: &Machine| machine.folder.join("sock");
            machines.iter().map(socket).collect()
        };
        Self {
            queues: sockets(queues),
            databases: sockets(databases),
        }
    }

    /// The answer of a node of Redis to one command.
    pub fn ask_queue(&self, node: usize, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.queues[node]).ok()?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
        write!(stream, "{command}\r\nQUIT\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        Some(reply.strip_suffix("+OK\r\n")?.trim_end().to_owned())
    }

    pub fn is_master(&self, node: usize) -> bool {
        let role = self.ask_queue(node, "INFO replication");
        role.is_some_and(|role| role.contains("role:master"))
    }

    /// Whether each master has a replica that has its data.
    pub fn queue_is_whole(&self) -> bool {
        let nodes = self.queues.len();
        let is_whole = |node| {
            let state = self.ask_queue(node, "CLUSTER INFO").unwrap_or_default();
            let links = self.ask_queue(node, "INFO replication").unwrap_or_default();
            let linked = links.contains("master_link_status:up")
                || links.contains("role:master") && links.contains("connected_slaves:1");
            let known = format!("cluster_known_nodes:{nodes}\r\n");
            state.contains("cluster_state:ok") && state.contains(&known) && linked
        };
        (0..nodes).all(is_whole)
    }

    /// What is still in the queue.
    pub fn queued(&self) -> Vec<String> {
        let mut left = Vec::new();
        for node in (0..self.queues.len()).filter(|node| self.is_master(*node)) {
            let streams = self.ask_queue(node, "KEYS lemonade:*:frames");
            let streams = streams.unwrap_or_else(|| "no answer".to_owned());
            for stream in streams.lines().filter(|line| !line.starts_with(['*', '$'])) {
                let length = self.ask_queue(node, &format!("XLEN {stream}"));
                let pending = self.ask_queue(node, &format!("XPENDING {stream} workers - + 10"));
                let is_empty = length.as_deref() == Some(":0")
                    && pending
                        .as_deref()
                        .is_some_and(|pending| pending == "*0" || pending.starts_with("-NOGROUP"));
                if !is_empty {
                    left.push(format!("{stream}: {length:?} entries, pending {pending:?}"));
                }
            }
        }
        left
    }

    /// A connection of an administrator to a node, which has all commits of the other nodes.
    pub async fn connect(&self, node: usize) -> mysql_async::Result<Conn> {
        let opts = OptsBuilder::default()
            .socket(self.databases[node].to_str())
            .user(Some("root"))
            .db_name(Some(DATABASE))
            .setup(vec![support::SYNC_WAIT]);
        Conn::new(opts).await
    }

    /// The rows of a query, from the first node that answers. Empty if none does.
    pub async fn ask_database<T: FromRow + Send + 'static>(&self, sql: &str) -> Vec<T> {
        for node in 0..self.databases.len() {
            let ask = async {
                let mut conn = self.connect(node).await.ok()?;
                let rows = conn.query(sql).await.ok()?;
                conn.disconnect().await.ok()?;
                Some(rows)
            };
            if let Ok(Some(rows)) = tokio::time::timeout(ANSWER_WITHIN, ask).await {
                return rows;
            }
        }
        Vec::new()
    }

    /// Whether each node takes writes and has all of the others in its cluster.
    pub async fn database_is_whole(&self) -> bool {
        let nodes = self.databases.len();
        for node in 0..nodes {
            let status = self.status_of(node).await.unwrap_or_default();
            let is =
                |name: &str, value: &str| status.contains(&(name.to_owned(), value.to_owned()));
            let whole = is("wsrep_cluster_size", &nodes.to_string())
                && is("wsrep_local_state_comment", "Synced")
                && is("wsrep_ready", "ON");
            if !whole {
                return false;
            }
        }
        true
    }

    /// The state of the cluster as a node reports it.
    async fn status_of(&self, node: usize) -> Option<Vec<(String, String)>> {
        let opts = OptsBuilder::default()
            .socket(self.databases[node].to_str())
            .user(Some("root"));
        let ask = async {
            let mut conn = Conn::new(opts).await.ok()?;
            let status = conn.query("SHOW STATUS LIKE 'wsrep%'").await.ok()?;
            conn.disconnect().await.ok()?;
            Some(status)
        };
        tokio::time::timeout(ANSWER_WITHIN, ask).await.ok()?
    }
}

/// Waits until the check returns true.
///
/// # Panics
/// If it takes too long. The message has the ends of the logs.
async fn until_whole(machines: &[Machine], mut is_whole: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WHOLE_WITHIN;
    while !is_whole().await {
        let logs = || {
            let log = |machine: &Machine| format!("{}\n", log_end(&machine.log, 15));
            machines.iter().map(log).collect::<String>()
        };
        assert!(Instant::now() < deadline, "no cluster:\n{}", logs());
        tokio::time::sleep(TICK).await;
    }
}

/// Starts the nodes of a Redis Cluster, each master with a replica.
pub async fn start_queues(network: &mut Network, operator: &Host) -> Vec<Machine> {
    let machines: Vec<Machine> = (1..=6).map(|number| queue(network, number)).collect();
    let servers = Servers::new(&machines, &[]);
    until_whole(&machines, async || {
        (0..machines.len()).all(|node| servers.ask_queue(node, "PING").is_some())
    })
    .await;
    let mut create = operator.command("redis-cli");
    create
        .args(["--cluster", "create"])
        .args(addresses(&machines, 6379));
    create.args(["--cluster-replicas", "1", "--cluster-yes"]);
    let said = create.output().unwrap();
    assert!(said.status.success(), "{said:?}");
    until_whole(&machines, async || servers.queue_is_whole()).await;
    machines
}

fn queue(network: &mut Network, number: u8) -> Machine {
    Machine::start(network, &format!("redis{number}"), |host, folder, log| {
        let (host, folder, log) = (host.clone(), folder.to_owned(), log.to_owned());
        move || {
            let mut command = host.command(support::program("redis-server"));
            command
                .args([
                    "--bind",
                    "0.0.0.0",
                    "--port",
                    "6379",
                    "--protected-mode",
                    "no",
                ])
                .args(["--save", "", "--appendonly", "no", "--unixsocket", "sock"])
                .args([
                    "--maxmemory-policy",
                    "noeviction",
                    "--repl-diskless-sync-delay",
                    "0",
                ])
                .args([
                    "--cluster-enabled",
                    "yes",
                    "--cluster-announce-ip",
                    &host.address,
                ])
                .args(["--cluster-node-timeout", "1500"])
                // The masters keep their replicas, so that each node has one role at a time.
                .args(["--cluster-allow-replica-migration", "no"])
                .arg("--logfile")
                .arg(&log)
                .current_dir(&folder);
            command
        }
    })
}

/// Starts the nodes of a Galera cluster, with the database and the account of the engine.
pub async fn start_databases(network: &mut Network) -> Vec<Machine> {
    let hosts: Vec<(String, Host)> = (1..=3)
        .map(|number| format!("galera{number}"))
        .map(|name| (name.clone(), network.host(&name)))
        .collect();
    let all: Vec<&str> = hosts.iter().map(|(_, host)| &*host.address).collect();
    let all = all.join(",");
    let mut machines: Vec<Machine> = Vec::new();
    for (name, host) in hosts {
        let folder = network.folder().join(&name);
        fs::create_dir(&folder).unwrap();
        support::fill_mariadb(&folder);
        // A node that comes back is told by rsync that it gets what it missed, and the rsync of root
        // writes as the user nobody.
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.join("data"), open).unwrap();
        let servers = Servers::new(&[], &machines);
        if !machines.is_empty() {
            // No data is written yet, so all nodes have equal data. With this setting, a node joins
            // without a copy.
            let status = servers.status_of(0).await.unwrap();
            let value = |name: &str| &status.iter().find(|(is, _)| is == name).unwrap().1;
            let state = format!(
                "version: 2.1\nuuid: {}\nseqno: {}\nsafe_to_bootstrap: 0\n",
                value("wsrep_cluster_state_uuid"),
                value("wsrep_last_committed")
            );
            fs::write(folder.join("data/grastate.dat"), state).unwrap();
        }
        machines.push(database(host, &name, &folder, &all));
        let servers = Servers::new(&[], &machines);
        until_whole(&machines, async || {
            // A state with the number 0 is older than the cluster.
            let first = servers.status_of(0).await.unwrap_or_default();
            let zero = ("wsrep_last_committed".to_owned(), "0".to_owned());
            !first.contains(&zero) && servers.database_is_whole().await
        })
        .await;
    }
    let socket = machines[0].folder.join("sock");
    let opts = OptsBuilder::default()
        .socket(socket.to_str())
        .user(Some("root"));
    let mut conn = Conn::new(opts).await.unwrap();
    let (user, password) = ACCOUNT.split_once(':').unwrap();
    for sql in [
        format!("CREATE DATABASE {DATABASE}"),
        format!("CREATE USER '{user}'@'%' IDENTIFIED BY '{password}'"),
        format!("GRANT ALL ON {DATABASE}.* TO '{user}'@'%'"),
    ] {
        conn.query_drop(sql).await.unwrap();
    }
    conn.disconnect().await.unwrap();
    machines
}

fn database(host: Host, name: &str, folder: &Path, all: &str) -> Machine {
    let options = [
        "--bind-address=0.0.0.0".to_owned(),
        "--wsrep-on=ON".to_owned(),
        "--wsrep-provider=/usr/lib/galera/libgalera_smm.so".to_owned(),
        format!("--wsrep-cluster-address=gcomm://{all}"),
        format!("--wsrep-node-address={}", host.address),
        format!("--wsrep-node-name={name}"),
        // What the cluster writes while a node is away.
        "--wsrep-provider-options=gcache.size=256M".to_owned(),
        "--log-bin=binlog".to_owned(),
        "--log-slave-updates".to_owned(),
        "--binlog-format=ROW".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
        // Nobody reads it: less of the disk.
        "--max-binlog-size=16M".to_owned(),
        "--binlog-expire-logs-seconds=60".to_owned(),
    ];
    let server = support::mariadb_command(folder, 3306, &options);
    Machine::of(host, name, folder, |host, folder, _| {
        let (host, data) = (host.clone(), folder.join("data"));
        move || {
            let mut command = host.command("sh");
            command
                .args(["-c", START_DATABASE, "sh"])
                .arg(&data)
                .args(&server);
            command
        }
    })
}

/// Where machines listen: `ADDRESS:PORT`.
pub fn addresses(machines: &[Machine], port: u16) -> Vec<String> {
    let address = |machine: &Machine| format!("{}:{port}", machine.host.address);
    machines.iter().map(address).collect()
}
