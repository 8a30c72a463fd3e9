//! A cluster of one node. It has all slots, but refuses a command whose keys are in different
//! slots.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use super::{raw, until};
use crate::support;

pub(super) struct Node {
    pub(super) port: u16,
    server: Child,
    _folder: tempfile::TempDir,
}

impl Node {
    pub(super) async fn start() -> Self {
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
        raw(port, &["CLUSTER ADDSLOTSRANGE 0 16383"]);
        until(|| raw(port, &["CLUSTER INFO"]).contains("cluster_state:ok")).await;
        node
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
