//! One server process in a temporary folder, under a supervisor that outlives a killed test run.
//!
//! The supervisor (`supervise.sh`) has the end of a pipe from this process. Dropping a [`Server`]
//! closes the pipe, and the kernel closes it when this process ends in any way. The supervisor then
//! kills the server by its pid and removes the folder. Ports are found by binding to port 0. If
//! another process takes the port before the server uses it, the start is repeated.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Timeout of a start. It takes 0.1 to 4 s on an idle machine, and longer on one that builds and
/// tests on every core.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Interval of checking whether a server is ready.
const POLL: Duration = Duration::from_millis(20);

/// Attempts to start. A lost port is rare, so few are enough. A server that fails for another
/// reason fails every time, and its log should be printed soon.
const PORT_ATTEMPTS: usize = 4;

/// A running server of some kind.
pub struct Server {
    supervisor: Child,
    /// `None` only while dropping: closing it ends the server.
    verbs: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    folder: PathBuf,
    port: u16,
    pid: u32,
}

/// The differences between kinds of server.
pub trait Kind {
    /// Prepares the empty folder before the first start of the server.
    fn fill(&self, folder: &Path);
    /// The command that runs the server in the foreground.
    fn command(&self, folder: &Path, port: u16) -> Vec<OsString>;
    /// Whether this server answers a connection, and not another one that took its port.
    async fn answers(&self, server: &Server) -> bool;
}

impl Server {
    /// Starts a server of this kind on a free port and waits until it answers.
    pub async fn start(kind: &impl Kind) -> Self {
        let mut log = String::new();
        for _ in 0..PORT_ATTEMPTS {
            let mut server = Self::supervise(kind);
            kind.fill(&server.folder);
            server.launch();
            match server.ready(kind).await {
                Ok(()) => return server,
                Err(died) => log = died,
            }
        }
        panic!("the server did not start in {PORT_ATTEMPTS} attempts; its log ends:\n{log}");
    }

    /// The server's temporary folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Spawns the supervisor only, so that the folder has an owner before anything is in it.
    fn supervise(kind: &impl Kind) -> Self {
        let folder = super::folder();
        let port = free_port();
        let mut supervisor = Command::new("sh")
            .arg("-c")
            .arg(include_str!("supervise.sh"))
            .arg("supervise.sh")
            .arg(folder.path())
            .args(kind.command(folder.path(), port))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal goes to the whole process group. It must end the tests, but not
            // the supervisor, which cleans up afterwards.
            .process_group(0)
            .spawn()
            .expect("sh can be run");
        Self {
            verbs: supervisor.stdin.take(),
            replies: BufReader::new(supervisor.stdout.take().expect("stdout is piped")),
            supervisor,
            folder: folder.keep(),
            port,
            pid: 0,
        }
    }

    fn launch(&mut self) {
        self.pid = self
            .tell("start")
            .parse()
            .expect("the supervisor answers with a pid");
    }

    /// Sends one command to the supervisor and waits for its reply.
    fn tell(&mut self, verb: &str) -> String {
        let verbs = self
            .verbs
            .as_mut()
            .expect("the pipe is open until the value is dropped");
        writeln!(verbs, "{verb}").expect("the supervisor reads its pipe");
        let mut reply = String::new();
        self.replies
            .read_line(&mut reply)
            .expect("the supervisor answers");
        reply.trim_end().to_owned()
    }

    /// Waits until the server answers. The error is the end of the log of a server that exited.
    async fn ready(&self, kind: &impl Kind) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if kind.answers(self).await {
                return Ok(());
            }
            if !alive(self.pid) {
                return Err(self.log_end());
            }
            assert!(
                Instant::now() < deadline,
                "the server does not answer after {READY_WITHIN:?}; its log ends:\n{}",
                self.log_end()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.verbs.take());
        // After this, the port is free and the folder removed. An error cannot be reported here.
        let _ = self.supervisor.wait();
    }
}

/// A server of one test, which may kill or stop it. Dropping the value ends it.
pub struct Private {
    /// Its port on 127.0.0.1; the same after a restart.
    pub port: u16,
    /// The value for `REDIS_URL` or `DATABASE_URL`.
    pub url: String,
    server: Server,
    kind: AnyKind,
}

/// The kinds of server that a test can own.
pub enum AnyKind {
    /// Redis, without persistence: empty after a restart.
    Redis(super::redis::RedisKind),
    /// Durable: keeps committed data.
    Mariadb(super::database::MariadbKind),
    /// The same.
    Mysql9(super::database::Mysql9Kind),
}

impl Private {
    /// Wraps a started server.
    pub fn new(server: Server, kind: AnyKind, url: String) -> Self {
        Self {
            port: server.port(),
            url,
            server,
            kind,
        }
    }

    /// Sends SIGKILL and waits until the process has ended. Keeps its data folder for [`restart`].
    ///
    /// [`restart`]: Self::restart
    pub fn kill(&mut self) {
        assert_eq!(self.server.tell("kill"), "killed");
    }

    /// Kills it if it runs, starts it on the same port and folder, and waits until it answers.
    pub async fn restart(&mut self) {
        self.kill();
        self.server.launch();
        let ready = match &self.kind {
            AnyKind::Redis(kind) => self.server.ready(kind).await,
            AnyKind::Mariadb(kind) => self.server.ready(kind).await,
            AnyKind::Mysql9(kind) => self.server.ready(kind).await,
        };
        if let Err(log) = ready {
            panic!("the server did not start again; its log ends:\n{log}");
        }
    }

    /// Sends SIGSTOP: connections stay open without an answer until [`resume`](Self::resume).
    pub fn pause(&mut self) {
        assert_eq!(self.server.tell("pause"), "paused");
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        assert_eq!(self.server.tell("resume"), "resumed");
    }

    /// The server's temporary folder.
    pub fn folder(&self) -> &Path {
        self.server.folder()
    }
}

/// The full path of a server's program. Also searches the `sbin` folders, which may not be on the
/// path.
///
/// # Panics
/// If it is not installed. The message names the command that installs it.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run scripts/test, which installs it"))
}

/// A process that has ended but was not waited for yet counts as dead.
fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may contain any character.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// An unused port on 127.0.0.1.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("127.0.0.1 has a free port")
        .port()
}
