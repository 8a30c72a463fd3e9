//! Clusters: of one node, which has all slots, but refuses a command whose keys are in different
//! slots; and of several masters with a replica each, made as an operator makes one.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::{raw, until};
use crate::support;

/// How long a node must be silent until its replica takes its place: short, since tests wait for it.
const NODE_TIMEOUT_MS: &str = "1500";

pub struct Node {
    pub port: u16,
    server: Child,
    _folder: tempfile::TempDir,
}

impl Node {
    pub async fn start() -> Self {
        let node = Self::alone().await;
        raw(node.port, &["CLUSTER ADDSLOTSRANGE 0 16383"]);
        until(|| raw(node.port, &["CLUSTER INFO"]).contains("cluster_state:ok")).await;
        node
    }

    /// A node without slots.
    async fn alone() -> Self {
        let folder = support::folder();
        // The node's bus uses the port number plus 10,000.
        let port = std::iter::repeat_with(|| {
            TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port()
        })
        .find(|port| *port < 55_000)
        .unwrap();
        let server = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ])
            .args([
                "--cluster-announce-ip",
                "127.0.0.1",
                "--cluster-enabled",
                "yes",
                "--appendonly",
                "no",
            ])
            .args(["--cluster-node-timeout", NODE_TIMEOUT_MS])
            .args(["--repl-diskless-sync-delay", "0"])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed: scripts/test brings it");
        let node = Self {
            port,
            server,
            _folder: folder,
        };
        until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        node
    }

    fn kill(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }

    /// The node's own line of CLUSTER NODES.
    fn myself(&self) -> String {
        let nodes = raw(self.port, &["CLUSTER NODES"]);
        let line = nodes.lines().find(|line| line.contains("myself"));
        line.expect("a node lists itself").to_owned()
    }

    fn id(&self) -> String {
        self.myself().split(' ').next().unwrap().to_owned()
    }

    fn is_master(&self) -> bool {
        self.myself().contains("myself,master")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Masters with a replica each.
pub struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    pub async fn start(masters: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..masters * 2 {
            nodes.push(Node::alone().await);
        }
        let cluster = Self { nodes };
        let nodes: Vec<String> = cluster.addresses();
        let create = [
            &["create"],
            &nodes.iter().map(|it| &**it).collect::<Vec<_>>()[..],
        ]
        .concat();
        Self::operate(&[&create[..], &["--cluster-replicas", "1"]].concat());
        let is_whole = |node: &Node| {
            let info = raw(node.port, &["CLUSTER INFO"]);
            let slaves = raw(node.port, &["CLUSTER NODES"]).matches("slave").count();
            let linked = node.is_master()
                || raw(node.port, &["INFO replication"]).contains("master_link_status:up");
            info.contains("cluster_state:ok") && slaves == masters && linked
        };
        until(|| cluster.nodes.iter().all(is_whole)).await;
        cluster
    }

    /// The URL, with each node as a seed.
    pub fn url(&self) -> String {
        format!("redis-cluster://{}", self.addresses().join(","))
    }

    /// The URL for an account with these rights.
    pub fn url_of(&self, rights: &str) -> String {
        for node in &self.nodes {
            let user = format!("ACL SETUSER loader on >pw ~lemonade:* {rights}");
            raw(node.port, &[&user]);
        }
        format!("redis-cluster://loader:pw@{}", self.addresses().join(","))
    }

    fn addresses(&self) -> Vec<String> {
        let address = |node: &Node| format!("127.0.0.1:{}", node.port);
        self.nodes.iter().map(address).collect()
    }

    fn operate(args: &[&str]) {
        let (done, said) = Self::said(&[args, &["--cluster-yes"]].concat());
        assert!(done, "{args:?}: {said}");
    }

    /// Whether `redis-cli --cluster` succeeded, and what it said.
    fn said(args: &[&str]) -> (bool, String) {
        let done = Command::new("redis-cli")
            .arg("--cluster")
            .args(args)
            .output()
            .expect("redis-cli is installed: scripts/test brings it");
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.status.success() && !said.contains("[ERR]"), said)
    }

    pub fn masters(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_master())
    }

    /// The bytes of the keys on each master whose names begin so.
    pub fn bytes(&self, prefix: &str) -> Vec<u64> {
        let of = |node: &Node| {
            let keys = raw(node.port, &[&format!("KEYS {prefix}")]);
            let keys = keys.lines().filter(|line| line.starts_with("lemonade"));
            keys.map(|key| {
                let usage = raw(node.port, &[&format!("MEMORY USAGE {key} SAMPLES 0")]);
                let bytes = usage.lines().next().unwrap().trim_start_matches(':');
                bytes.parse::<u64>().unwrap()
            })
            .sum()
        };
        self.masters().map(of).collect()
    }

    /// Kills a master with slots, and waits until its replica has taken its place.
    pub async fn fail_over(&mut self) {
        let masters = self.masters().count();
        let at = self.nodes.iter().position(Node::is_master).unwrap();
        let mut dead = self.nodes.remove(at);
        dead.kill();
        until(|| self.masters().count() == masters).await;
        let is_ok = |node: &Node| raw(node.port, &["CLUSTER INFO"]).contains("cluster_state:ok");
        until(|| self.nodes.iter().all(is_ok)).await;
    }

    /// Moves this many slots, with their keys, from each other master to the first one.
    pub async fn reshard(&self, slots: usize) {
        let masters: Vec<&Node> = self.masters().collect();
        let to = masters[0].id();
        for from in &masters[1..] {
            let address = format!("127.0.0.1:{}", from.port);
            let slots = slots.to_string();
            // The nodes learn from each other where the slots are.
            until(|| Self::said(&["check", &address]).0).await;
            Self::operate(&[
                "reshard",
                &address,
                "--cluster-from",
                &from.id(),
                "--cluster-to",
                &to,
                "--cluster-slots",
                &slots,
            ]);
        }
    }
}
