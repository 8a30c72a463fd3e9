//! Two processes of the engine, their servers, and the faults that a test can cause.
//!
//! Each fault has a subject, and a subject has one fault at a time, so that no fault hides another:
//! a stopped server executes no statement. Faults of different subjects overlap. The engine knows
//! only the ports of the proxies, and its account is limited to 127.0.0.1, so that it cannot bypass
//! them. It has no rights beyond its database, so that `read_only` applies to it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder};

use super::audit::FOREIGN;
use super::disk::Disk;
use super::files::{Dice, Growth};
use super::process::Process;
use crate::support::proxy::{Manner, Proxy};
use crate::support::{self, Private};

/// The streams and the group of the engine in Redis.
pub const STREAMS: [&str; 2] = [
    "lemonade:{vehicle_events}:frames",
    "lemonade:{vehicle_status}:frames",
];
pub const GROUP: &str = "workers";

/// The file of the settings with another definition.
const REDEFINED: &str = "redefined.toml";

/// A definition with another fingerprint, and the same outcome for every record of a run.
const DEFINITION: &str = r#"
[[datasets]]
name = "vehicle_status"

[[datasets.columns]]
name = "vehicle_id"
type = "text"

[[datasets.columns]]
name = "report_time"
type = "timestamp"

[[datasets.columns]]
name = "status_source"
type = "text"
max_chars = 250

[[datasets.columns]]
name = "status"
type = "text"
"#;

/// How long an administrator waits for a reply. Without a reply, the fault did not take effect; the
/// test does not fail.
const ADMIN_WAIT: Duration = Duration::from_secs(3);

/// The limit of the server without a fault.
const CONNECTIONS_MAX: u32 = 500;

/// The faults of connections in a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnLink {
    Cut,
    Blackhole,
    DropReply,
    Delay,
    Trickle,
}

/// The faults of a process of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnProcess {
    Kill,
    Pause,
    Terminate,
}

/// The faults of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnRedis {
    FlushAll,
    KillAndRestartEmpty,
    KillClients,
    OutOfMemory,
    DestroyGroup,
    DeleteStream,
    Pause,
}

/// The faults of MariaDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OnDatabase {
    KillAndRestart,
    KillConnection,
    ReadOnly,
    FewConnections,
    ReadLock,
    /// A transaction locks the rows of the ledger for longer than the engine waits for a lock.
    HeldRows,
    Pause,
    /// Another program stores a row with an id of a file that is being loaded.
    ForeignRow,
}

/// All faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Service(OnProcess),
    Worker(OnProcess),
    Redis(OnRedis),
    RedisLink(OnLink),
    Database(OnDatabase),
    DatabaseLink(OnLink),
    /// The file system of history is full.
    HistoryFull,
    /// A file in work becomes longer.
    FileGrows,
}

impl Fault {
    /// All possible faults: history can be full only on a separate file system.
    pub fn all(own_history: bool) -> Vec<Self> {
        let mut all = Vec::new();
        let processes = [OnProcess::Kill, OnProcess::Pause, OnProcess::Terminate];
        all.extend(processes.map(Self::Service));
        all.extend(processes.map(Self::Worker));
        all.extend(
            [
                OnRedis::FlushAll,
                OnRedis::KillAndRestartEmpty,
                OnRedis::KillClients,
                OnRedis::OutOfMemory,
                OnRedis::DestroyGroup,
                OnRedis::DeleteStream,
                OnRedis::Pause,
            ]
            .map(Self::Redis),
        );
        all.extend(
            [
                OnDatabase::KillAndRestart,
                OnDatabase::KillConnection,
                OnDatabase::ReadOnly,
                OnDatabase::FewConnections,
                OnDatabase::ReadLock,
                OnDatabase::HeldRows,
                OnDatabase::Pause,
                OnDatabase::ForeignRow,
            ]
            .map(Self::Database),
        );
        let links = [
            OnLink::Cut,
            OnLink::Blackhole,
            OnLink::DropReply,
            OnLink::Delay,
            OnLink::Trickle,
        ];
        all.extend(links.map(Self::RedisLink));
        all.extend(links.map(Self::DatabaseLink));
        all.push(Self::FileGrows);
        all.extend(own_history.then_some(Self::HistoryFull));
        all
    }

    /// Whether both have the same subject.
    pub fn shares_subject(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// The processes, the servers, and the proxies between them.
pub struct World {
    pub service: Process,
    pub worker: Process,
    pub redis: Private,
    pub database: Private,
    pub redis_link: Proxy,
    pub database_link: Proxy,
    /// The file system of history, if it is a separate one.
    history_disk: Option<Arc<Disk>>,
    /// A connection of the administrator that has locks or limits until it ends.
    held: Option<Conn>,
    /// The files that have grown, in order.
    pub grown: Vec<Growth>,
    /// The environment of the engine, for commands that end.
    engine: Engine,
}

/// The environment of the engine.
#[derive(Clone)]
struct Engine {
    folder: PathBuf,
    history: PathBuf,
    redis_url: String,
    database_url: String,
    /// Whether the definition is in effect that is not built in.
    is_redefined: Arc<AtomicBool>,
}

impl Engine {
    fn command(&self, data_dir: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_task_runner"));
        command
            .args(args)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", &self.database_url)
            .env("REDIS_URL", &self.redis_url)
            .env("LEMONADE_DATA_DIR", self.folder.join(data_dir))
            .env("LEMONADE_HTTP_ADDR", "off")
            .env("LEMONADE_WORKERS", "5")
            .env("LEMONADE_SCAN_INTERVAL", "500ms")
            .env("LEMONADE_INCOMPLETE_AFTER", "2s")
            .env("LEMONADE_SUMMARY_EVERY", "2s")
            .env("LEMONADE_DRAIN_TIMEOUT", "3s")
            .env("LEMONADE_FRAME_RECORDS", "250");
        if data_dir == SERVICE {
            command.env("LEMONADE_HISTORY", &self.history);
        }
        if self.is_redefined.load(Relaxed) {
            command.env("LEMONADE_CONFIG", self.folder.join(REDEFINED));
        }
        command
    }
}

/// The data directories of the two processes, and their names.
pub const SERVICE: &str = "service";
pub const WORKER: &str = "worker";

impl World {
    /// Starts the servers, not yet the processes. Everything of the engine is below `folder`, but
    /// for `history`, which may be on a file system of its own.
    pub async fn new(folder: &Path, history: &Path, history_disk: Option<Arc<Disk>>) -> Self {
        let redis = support::private_redis().await;
        let database = support::private_mariadb().await;
        let redis_link = Proxy::start(redis.port).await;
        let database_link = Proxy::start(database.port).await;
        let engine = Engine {
            folder: folder.to_owned(),
            history: history.to_owned(),
            redis_url: format!("redis://127.0.0.1:{}/0", redis_link.port),
            database_url: format!(
                "mysql://engine:secret@127.0.0.1:{}/test_1",
                database_link.port
            ),
            is_redefined: Arc::default(),
        };
        fs::write(folder.join(REDEFINED), DEFINITION).unwrap();
        let process = |name: &'static str, args: &'static [&'static str]| {
            let engine = engine.clone();
            let log = folder.join(format!("{name}.log"));
            Process::new(name, log, move || engine.command(name, args))
        };
        let service = process(SERVICE, &["run"]);
        let worker = process(WORKER, &["run", "--role", "work"]);
        let mut world = Self {
            service,
            worker,
            redis,
            database,
            redis_link,
            database_link,
            history_disk,
            held: None,
            grown: Vec::new(),
            engine,
        };
        let account = "CREATE USER 'engine'@'127.0.0.1' IDENTIFIED BY 'secret'";
        world.admin(account).await.unwrap();
        let grant = "GRANT ALL ON test_1.* TO 'engine'@'127.0.0.1'";
        world.admin(grant).await.unwrap();
        world
    }

    /// A command of the engine that ends, over the same servers.
    pub fn command(&self, args: &[&str]) -> Command {
        self.engine.command(SERVICE, args)
    }

    /// Runs a command of the engine that ends.
    pub fn run(&self, args: &[&str]) -> std::process::Output {
        self.command(args).output().unwrap()
    }

    /// Changes the definition by which the next processes load files, and back.
    pub fn redefine(&self) {
        self.engine.is_redefined.fetch_xor(true, Relaxed);
    }

    pub fn history(&self) -> String {
        self.engine.history.to_str().unwrap().to_owned()
    }

    pub fn quarantine(&self) -> PathBuf {
        self.engine.folder.join(SERVICE).join("quarantine")
    }

    /// An administrator's connection, past the proxy.
    pub async fn connect(&self) -> mysql_async::Result<Conn> {
        let opts = Opts::from_url(&self.database.url).expect("the URL is ours");
        let setup = "SET SESSION lock_wait_timeout = 2, innodb_lock_wait_timeout = 1";
        let opts = OptsBuilder::from_opts(opts)
            .prefer_socket(false)
            .setup(vec![setup]);
        Conn::new(opts).await
    }

    async fn admin(&mut self, statement: &str) -> Option<()> {
        self.hold(&[statement]).await?;
        self.held = None;
        Some(())
    }

    /// Runs statements on a connection that stays.
    async fn hold(&mut self, statements: &[&str]) -> Option<()> {
        self.held = None;
        let run = async {
            let mut conn = self.connect().await?;
            for statement in statements {
                conn.query_drop(*statement).await?;
            }
            mysql_async::Result::Ok(conn)
        };
        self.held = Some(tokio::time::timeout(ADMIN_WAIT, run).await.ok()?.ok()?);
        Some(())
    }

    /// Causes the fault. Returns its duration; `None` if it did not take effect.
    pub async fn begin(&mut self, fault: Fault, dice: &mut Dice) -> Option<Duration> {
        let mut millis =
            |first: u64, last: u64| Some(Duration::from_millis(dice.between(first, last)));
        match fault {
            Fault::Service(what) | Fault::Worker(what) => {
                let process = self.process(fault);
                if !process.is_running() {
                    return None;
                }
                match what {
                    OnProcess::Kill => {
                        process.kill();
                        millis(0, 800)
                    }
                    OnProcess::Pause => {
                        process.pause();
                        millis(200, 3_000)
                    }
                    OnProcess::Terminate => {
                        process.terminate();
                        millis(0, 300)
                    }
                }
            }
            Fault::RedisLink(what) => begin_link(&self.redis_link, what, dice),
            Fault::DatabaseLink(what) => begin_link(&self.database_link, what, dice),
            Fault::Redis(what) => {
                let stream = dice.pick(&STREAMS);
                self.begin_redis(what, stream, dice).await
            }
            Fault::Database(what) => self.begin_database(what, dice).await,
            Fault::HistoryFull => {
                let full = self.history_disk.as_ref()?.fill();
                millis(300, 3_000).filter(|_| full)
            }
            Fault::FileGrows => {
                let work = self.engine.folder.join(SERVICE).join("work");
                self.grown.push(Growth::cause(&work, dice)?);
                Some(Duration::ZERO)
            }
        }
    }

    /// Stores a row with an id of a pending file, or one beyond its end. `None` if there is no such
    /// file, or if the id has a row already.
    async fn store_foreign_row(&self, dice: &mut Dice) -> Option<()> {
        let pending = "SELECT CONCAT_WS(' ', file_no, records, dataset) FROM ingest_files WHERE state \
                       = 'pending' AND records > 0 ORDER BY RAND() LIMIT 1";
        let pending = self.ask_database(pending).await?;
        let mut parts = pending.split(' ');
        let file_no: u64 = parts.next()?.parse().ok()?;
        let records: u64 = parts.next()?.parse().ok()?;
        let id = (file_no << 32) + dice.below(records + 3);
        let (table, columns, values) = match parts.next()? {
            "vehicle_events" => (
                "vehicle_events",
                "event_time, event_source, event_type, event_value, event_extra_data",
                "'2024-01-01', '', '', '', '{}'",
            ),
            _ => (
                "vehicle_status",
                "report_time, status_source, status",
                "'2024-01-01', '', ''",
            ),
        };
        let insert = format!(
            "INSERT IGNORE INTO {table} (id, vehicle_id, {columns}) VALUES ({id}, '{FOREIGN}', {values})"
        );
        let run = async {
            let mut conn = self.connect().await?;
            conn.query_drop(insert).await?;
            mysql_async::Result::Ok(conn.affected_rows())
        };
        let stored = tokio::time::timeout(ADMIN_WAIT, run).await.ok()?.ok()?;
        (stored == 1).then_some(())
    }

    async fn begin_redis(
        &mut self,
        what: OnRedis,
        stream: &str,
        dice: &mut Dice,
    ) -> Option<Duration> {
        let at_once = |done: bool| done.then_some(Duration::ZERO);
        let mut millis =
            |first: u64, last: u64| Some(Duration::from_millis(dice.between(first, last)));
        match what {
            OnRedis::FlushAll => at_once(self.ask_redis("FLUSHALL")? == "+OK"),
            OnRedis::KillAndRestartEmpty => {
                self.redis.restart().await;
                millis(0, 0)
            }
            OnRedis::KillClients => at_once(self.ask_redis("CLIENT KILL TYPE normal")? != ":0"),
            OnRedis::OutOfMemory => {
                self.ask_redis("CONFIG SET maxmemory 1")?;
                millis(300, 2_000)
            }
            OnRedis::DestroyGroup => {
                at_once(self.ask_redis(&format!("XGROUP DESTROY {stream} {GROUP}"))? == ":1")
            }
            OnRedis::DeleteStream => at_once(self.ask_redis(&format!("DEL {stream}"))? == ":1"),
            OnRedis::Pause => {
                self.redis.pause();
                millis(300, 7_000)
            }
        }
    }

    async fn begin_database(&mut self, what: OnDatabase, dice: &mut Dice) -> Option<Duration> {
        let mut millis =
            |first: u64, last: u64| Some(Duration::from_millis(dice.between(first, last)));
        match what {
            OnDatabase::KillAndRestart => {
                self.database.restart().await;
                millis(0, 0)
            }
            OnDatabase::KillConnection => {
                let ids = "SELECT CONCAT('KILL ', ID) FROM information_schema.PROCESSLIST \
                           WHERE USER = 'engine' ORDER BY RAND() LIMIT 1";
                let kill = self.ask_database(ids).await?;
                self.admin(&kill).await?;
                millis(0, 0)
            }
            OnDatabase::ReadOnly => {
                self.admin("SET GLOBAL read_only = 1").await?;
                millis(300, 2_000)
            }
            OnDatabase::FewConnections => {
                // The smallest value that the server accepts; the two processes need more
                // connections.
                self.admin("SET GLOBAL max_connections = 10").await?;
                self.database_link.cut();
                millis(300, 2_000)
            }
            OnDatabase::ReadLock => {
                self.hold(&["FLUSH TABLES WITH READ LOCK"]).await?;
                millis(1_000, 2_000)
            }
            OnDatabase::HeldRows => {
                // Longer than the engine's own `innodb_lock_wait_timeout`.
                self.hold(&["BEGIN", "SELECT * FROM ingest_files FOR UPDATE"])
                    .await?;
                millis(5_500, 7_000)
            }
            OnDatabase::Pause => {
                self.database.pause();
                millis(300, 3_000)
            }
            OnDatabase::ForeignRow => {
                self.store_foreign_row(dice).await?;
                Some(Duration::ZERO)
            }
        }
    }

    /// Ends the fault. Returns `false` if it is not over yet.
    pub async fn end(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::Service(_) | Fault::Worker(_) => {
                let process = self.process(fault);
                process.resume();
                if fault == Fault::Service(OnProcess::Terminate)
                    || fault == Fault::Worker(OnProcess::Terminate)
                {
                    process.note_end();
                    if !process.is_down() {
                        return false;
                    }
                }
                process.start();
            }
            Fault::RedisLink(_) => self.redis_link.set(Manner::Pass),
            Fault::DatabaseLink(_) => self.database_link.set(Manner::Pass),
            Fault::Redis(OnRedis::OutOfMemory) => {
                return self.ask_redis("CONFIG SET maxmemory 0").is_some();
            }
            Fault::Redis(OnRedis::Pause) => self.redis.resume(),
            Fault::Database(OnDatabase::ReadOnly) => {
                return self.admin("SET GLOBAL read_only = 0").await.is_some();
            }
            Fault::Database(OnDatabase::FewConnections) => {
                let many = format!("SET GLOBAL max_connections = {CONNECTIONS_MAX}");
                return self.admin(&many).await.is_some();
            }
            Fault::Database(OnDatabase::ReadLock | OnDatabase::HeldRows) => self.held = None,
            Fault::Database(OnDatabase::Pause) => self.database.resume(),
            Fault::HistoryFull => {
                return self.history_disk.as_ref().is_none_or(|disk| disk.relieve());
            }
            Fault::Redis(_) | Fault::Database(_) | Fault::FileGrows => {}
        }
        true
    }

    fn process(&mut self, fault: Fault) -> &mut Process {
        match fault {
            Fault::Worker(_) => &mut self.worker,
            _ => &mut self.service,
        }
    }

    /// The first line of the answer to one command.
    pub fn ask_redis(&self, command: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.redis.port)).ok()?;
        stream.set_read_timeout(Some(ADMIN_WAIT)).ok()?;
        write!(stream, "{command}\r\nQUIT\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        Some(reply.lines().next()?.to_owned())
    }

    /// The first value of the first row.
    pub async fn ask_database(&self, query: &str) -> Option<String> {
        let ask = async { self.connect().await?.query_first(query).await };
        tokio::time::timeout(ADMIN_WAIT, ask).await.ok()?.ok()?
    }
}

fn begin_link(link: &Proxy, what: OnLink, dice: &mut Dice) -> Option<Duration> {
    let mut millis = |first: u64, last: u64| Some(Duration::from_millis(dice.between(first, last)));
    match what {
        OnLink::Cut => {
            link.cut();
            millis(0, 0)
        }
        OnLink::Blackhole => {
            link.set(Manner::Blackhole);
            // From shorter to longer than the engine waits for Redis.
            millis(300, 7_000)
        }
        OnLink::DropReply => {
            link.drop_next_reply();
            millis(0, 0)
        }
        OnLink::Delay => {
            let pause = Duration::from_millis(dice.between(5, 150));
            link.set(Manner::Delay(pause));
            Some(Duration::from_millis(dice.between(500, 3_000)))
        }
        OnLink::Trickle => {
            link.set(Manner::Trickle);
            millis(500, 2_000)
        }
    }
}
