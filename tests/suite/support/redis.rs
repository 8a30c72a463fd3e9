//! Redis for tests: nothing on disk, no eviction, many databases.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::server::{AnyKind, Kind, Private, Server, program};

/// Number of databases: more than tests. An unused one costs a few hundred bytes.
const DATABASES: u32 = 4096;

/// The Redis that all tests share.
pub struct Redis {
    /// Its port on 127.0.0.1.
    pub port: u16,
    next: AtomicU32,
    _server: Server,
}

impl Redis {
    /// The URL of an unused database: `redis://127.0.0.1:PORT/N`.
    pub fn fresh(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(
            number < DATABASES,
            "all {DATABASES} databases are taken: raise DATABASES"
        );
        format!("redis://127.0.0.1:{}/{number}", self.port)
    }
}

/// Runs Redis.
#[derive(Default)]
pub struct RedisKind {
    /// Options beyond those of all tests.
    options: Vec<String>,
}

impl Kind for RedisKind {
    fn fill(&self, _folder: &Path) {}

    fn command(&self, folder: &Path, port: u16) -> Vec<OsString> {
        let port = port.to_string();
        let databases = DATABASES.to_string();
        let options = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--databases", &databases],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--maxmemory-policy", "noeviction"],
        ];
        let mut command = vec![program("redis-server").into()];
        command.extend(options.as_flattened().iter().map(OsString::from));
        command.extend(["--dir".into(), folder.into()]);
        command.extend(self.options.iter().map(OsString::from));
        command
    }

    async fn answers(&self, server: &Server) -> bool {
        process_id(server.port()) == Some(server.pid())
    }
}

pub async fn start() -> Redis {
    let server = Server::start(&RedisKind::default()).await;
    // Database 0 is never used, so that code that ignores the number in a URL fails.
    Redis {
        port: server.port(),
        next: AtomicU32::new(1),
        _server: server,
    }
}

pub async fn start_private(options: &[&str]) -> Private {
    let kind = RedisKind {
        options: options.iter().map(ToString::to_string).collect(),
    };
    let server = Server::start(&kind).await;
    let url = format!("redis://127.0.0.1:{}/0", server.port());
    Private::new(server, AnyKind::Redis(kind), url)
}

/// The identity that the server on this port reports. `None` if no server is ready.
fn process_id(port: u16) -> Option<u32> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"INFO server\r\nQUIT\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    reply
        .lines()
        .find_map(|line| line.strip_prefix("process_id:"))?
        .parse()
        .ok()
}
