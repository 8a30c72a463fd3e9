//! One server process in a temporary folder, under a supervisor that outlives a killed test run.
//!
//! The supervisor (`supervise.sh`) holds a pipe from this process. Dropping a [`Server`] closes the
//! pipe, and so does the kernel when this process ends, however it ends: the supervisor then kills
//! the server by its pid and removes the folder. Ports are found by binding to port 0; one that is
//! lost between finding and using it costs another attempt.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that has not answered for so long will not. A start takes 0.1 to 4 s on an idle machine;
/// the rest is for one that builds and tests on every core.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks at whether a server is ready.
const POLL: Duration = Duration::from_millis(20);

/// A lost port is rare and another one is one more start away; a server that dies for another
/// reason dies every time, and then its log should be seen soon.
const PORT_ATTEMPTS: usize = 4;

/// A running server of some kind.
pub struct Server {
    supervisor: Child,
    /// `None` only while dropping: closing it is what ends the server.
    verbs: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    folder: PathBuf,
    port: u16,
    pid: u32,
}

/// What differs between kinds of server.
pub trait Kind {
    /// Fills the empty folder with what the server needs before its first start.
    fn fill(&self, folder: &Path);
    /// The command that runs the server in the foreground.
    fn command(&self, folder: &Path, port: u16) -> Vec<OsString>;
    /// Whether this very server, and no other that took its port, answers a real connection.
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
            // Ctrl-C in a terminal goes to the whole group: it must end the tests, not the
            // supervisor, which has work to do afterwards.
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

    /// Sends one verb and waits for its answer.
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

    /// Waits until the server answers; an error is the end of the log of a server that died.
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
        // After this the port is free and the folder gone. A failure has nobody to be told to.
        let _ = self.supervisor.wait();
    }
}

/// A server that one test owns and may harm. It ends with the value.
pub struct Private {
    /// Where it listens on 127.0.0.1; the same after a restart.
    pub port: u16,
    /// What `REDIS_URL` or `DATABASE_URL` would be.
    pub url: String,
    server: Server,
    kind: AnyKind,
}

/// The kinds that a test may own.
pub enum AnyKind {
    /// Keeps nothing: empty after a restart.
    Redis(super::redis::RedisKind),
    /// Keeps what was committed.
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

    /// SIGKILL, and waits for the process to be gone. Its data folder stays for [`restart`].
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

    /// SIGSTOP: connections stay open and nothing answers, until [`resume`](Self::resume).
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

/// The full path of a server's program. Not everyone has the `sbin` folders on their path.
///
/// # Panics
/// Where it is not installed, naming the command that installs it.
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
    // The state follows the name, which stands in parentheses and may hold anything.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A port on 127.0.0.1 that nobody uses at this moment.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("127.0.0.1 has a free port")
        .port()
}
