//! The real binary as a service, and how a test waits for it and asks it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::Pair;

/// A running service. Dropping it kills the process.
pub struct Service(pub Child);

impl Service {
    pub fn start(pair: &Pair, args: &[&str]) -> Self {
        Self::start_with_http(pair, args, "off")
    }

    pub fn start_with_http(pair: &Pair, args: &[&str], addr: &str) -> Self {
        let mut command = pair.command(args);
        command
            .env("LEMONADE_HTTP_ADDR", addr)
            .env("LEMONADE_SCAN_INTERVAL", "200ms");
        Self(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Sends SIGSTOP, and returns once no thread of the process runs. Before that, one may still take a
    /// lock.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
        let threads = format!("/proc/{}/task", self.0.id());
        let stopped = |stat: String| {
            // The state follows the name, which is in brackets.
            let after = stat.rsplit_once(") ").expect("a name");
            after.1.starts_with('T')
        };
        loop {
            let stats = fs::read_dir(&threads).unwrap();
            let stats = stats.map(|thread| fs::read_to_string(thread.unwrap().path().join("stat")));
            if stats.flatten().all(stopped) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.0.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `check` returns true.
pub async fn until(what: &str, limit: Duration, mut check: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < limit, "waited {limit:?} for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A page of a service: its status code and body. `None` if no server answers.
pub fn page(addr: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = std::net::TcpStream::connect(addr).ok()?;
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    Some((code, body.to_owned()))
}

/// An address on this machine that no server uses.
pub fn free_addr() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
