//! One connection in the state that every statement of ours relies on, and the pool of them.
//!
//! Invariants. Every wait for the server has a limit: the client has none, and a connection into a
//! black hole would hang for ever. A connection goes back into the pool only when its user says
//! that it is good; one whose future was dropped half-way, or that failed, is thrown away, and the
//! server rolls back what was open on it. Prepared statements are kept per connection and counted
//! by their placeholders, since these are what costs the server memory.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use mysql_common::params::Params;
use mysql_common::prelude::FromRow;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::fault::Fault;

use super::client::{Address, Client, Done, Error, Statement, Type, Values};
use super::errors::{Class, Failure};

/// Longest wait for a connection. A server that accepts nothing for so long is down.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Longest wait for a statement that touches a bounded number of rows. Well above the lock wait
/// below, so that the server speaks first; a slow disk needs seconds for a statement, not minutes.
const STATEMENT_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for a statement over a whole table: an operator's count, or emptying a summary.
const SCAN_WAIT: Duration = Duration::from_secs(900);

/// A connection that has been idle for so long is replaced: firewalls and `wait_timeout` cut such ones
/// without a word, and after a failover it may lead to yesterday's primary.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// Most placeholders of the prepared statements that a connection keeps. A full one has 1,000, which
/// cost the server a few hundred KiB, and its tail shapes double that: this holds the shapes of
/// sixteen datasets. More costs the server memory, fewer would prepare again and again.
const KEPT_PLACEHOLDERS_MAX: usize = 32 * 1024;

/// Bytes of one packet of a LOAD DATA LOCAL: below the smallest `max_allowed_packet` in use (1 MiB),
/// and large enough that the number of packets does not matter.
const FILE_PACKET_BYTES: usize = 256 * 1024;

/// What every session is set to. Times are UTC; a value that does not fit is an error, never a
/// warning; no gap locks; the wait for a lock is shorter than that for a statement. The text mode
/// `NO_BACKSLASH_ESCAPES` stays off, which LOAD DATA relies on.
const SETUP: [&str; 3] = [
    "SET NAMES utf8mb4",
    "SET SESSION time_zone = '+00:00', innodb_lock_wait_timeout = 5, sql_mode = \
     'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,\
     NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
];

/// When a statement counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// At once, where no transaction was begun; a server may be set to something else.
    AutoCommit,
    /// Never before COMMIT. Where a statement fails and takes the transaction with it, those that were
    /// sent behind it begin another one, which is rolled back as well.
    Transactions,
}

/// Connections to one database.
#[derive(Debug)]
pub(super) struct Pool {
    address: Address,
    mode: Mode,
    idle: Mutex<Vec<Session>>,
    permits: Semaphore,
}

impl Pool {
    /// A pool of at most `max` connections at once; a caller that needs one more waits.
    pub(super) fn new(address: Address, mode: Mode, max: usize) -> Self {
        Self {
            address,
            mode,
            idle: Mutex::default(),
            permits: Semaphore::new(max),
        }
    }

    /// Does something on a session, an idle one or a new one, and puts it back if the outcome leaves
    /// it usable: nothing is open on it, and the server answered to the last. If the future is
    /// dropped, so is the session.
    pub(super) async fn on_session<T>(
        &self,
        doing: &str,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Fault> {
        let _permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let mut session = match self.take_idle() {
            Some(session) => session,
            None => Session::connect(&self.address, self.mode)
                .await
                .map_err(|failure| failure.into_fault(doing))?,
        };
        match work(&mut session).await {
            Ok(value) => {
                self.put_back(session);
                Ok(value)
            }
            Err(failure) => {
                let is_usable = !matches!(failure.class(), Class::Reconnect);
                // After a lock wait the transaction is still open, with its earlier rows.
                if is_usable && session.rollback().await.is_ok() {
                    self.put_back(session);
                }
                Err(failure.into_fault(doing))
            }
        }
    }

    fn take_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock();
        idle.retain(|session| session.idle_since.elapsed() < IDLE_MAX);
        idle.pop()
    }

    fn put_back(&self, mut session: Session) {
        session.idle_since = Instant::now();
        self.idle.lock().push(session);
    }
}

/// What the server is and takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    pub(super) mariadb: bool,
    /// A statement with placeholders for one row takes many (`COM_STMT_BULK_EXECUTE`): MariaDB, but
    /// not each proxy before it.
    pub(super) bulk: bool,
    /// LOAD DATA LOCAL may be tried.
    pub(super) load_data: bool,
    /// Largest packet that the server takes, in bytes.
    pub(super) packet_bytes_max: usize,
}

/// An INSERT of any number of rows: `head` up to VALUES, a `group` for each row, `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Insert {
    pub(super) head: String,
    pub(super) group: Cow<'static, str>,
    /// Of each placeholder of a group.
    pub(super) types: Cow<'static, [Type]>,
    pub(super) tail: Cow<'static, str>,
}

impl Insert {
    fn sql(&self, rows: usize) -> String {
        let around = self.head.len() + self.tail.len() + 16;
        let mut sql = String::with_capacity(around + rows * (self.group.len() + 1));
        sql.push_str(&self.head);
        sql.push_str(" VALUES ");
        for at in 0..rows {
            if at > 0 {
                sql.push(',');
            }
            sql.push_str(&self.group);
        }
        sql.push_str(&self.tail);
        sql
    }
}

/// A prepared [`Insert`] of so many rows.
#[derive(Debug)]
struct Prepared {
    insert: Insert,
    rows: usize,
    statement: Statement,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    pub(super) server: Server,
    /// The least recently used first.
    prepared: Vec<Prepared>,
    idle_since: Instant,
}

impl Session {
    async fn connect(address: &Address, mode: Mode) -> Result<Self, Failure> {
        type Told = (String, bool, usize);
        let mut client = within(CONNECT_WAIT, Client::connect(address)).await?;
        let autocommit = match mode {
            Mode::AutoCommit => "SET SESSION autocommit = 1",
            Mode::Transactions => "SET SESSION autocommit = 0",
        };
        for sql in SETUP.into_iter().chain([autocommit]) {
            within(CONNECT_WAIT, client.run(sql)).await?;
        }
        let asked =
            client.query::<Told>("SELECT VERSION(), @@GLOBAL.local_infile, @@max_allowed_packet");
        let told = within(CONNECT_WAIT, asked).await?;
        let (version, local_infile, packet_bytes_max) =
            told.into_iter().next().ok_or_else(|| Failure::Found {
                advice: "this is no MySQL server: check the database URL",
                problem: "no version was told".to_owned(),
            })?;
        let mariadb = version.contains("MariaDB");
        // MariaDB is faster with prepared statements, and the others that speak the protocol have
        // transactions or semantics of their own for LOAD DATA.
        let other = ["TiDB", "vitess", "Vitess"]
            .iter()
            .any(|name| version.contains(name));
        let server = Server {
            mariadb,
            bulk: client.takes_bulk(),
            load_data: local_infile && !mariadb && !other,
            packet_bytes_max,
        };
        Ok(Self {
            client,
            server,
            prepared: Vec::new(),
            idle_since: Instant::now(),
        })
    }

    /// Runs a statement of text; returns the number of affected rows.
    pub(super) async fn run(&mut self, sql: &str) -> Result<u64, Failure> {
        Ok(within(STATEMENT_WAIT, self.client.run(sql)).await?.affected)
    }

    /// The same for a statement over a whole table.
    pub(super) async fn run_scan(&mut self, sql: &str) -> Result<u64, Failure> {
        Ok(within(SCAN_WAIT, self.client.run(sql)).await?.affected)
    }

    /// Runs a statement with parameters, prepared for this once.
    pub(super) async fn run_with(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<u64, Failure> {
        let statement = within(STATEMENT_WAIT, self.client.prepare(sql)).await?;
        let ran = within(STATEMENT_WAIT, self.client.execute(statement, params)).await?;
        within(STATEMENT_WAIT, self.client.close(statement)).await?;
        Ok(ran.affected)
    }

    /// Rows of a query of text.
    pub(super) async fn rows<T: FromRow>(&mut self, sql: &str) -> Result<Vec<T>, Failure> {
        within(SCAN_WAIT, self.client.query(sql)).await
    }

    /// The one row of a query of text that always gives one.
    pub(super) async fn one<T: FromRow>(&mut self, sql: &str) -> Result<T, Failure> {
        let rows = self.rows(sql).await?;
        rows.into_iter().next().ok_or_else(|| Failure::Found {
            advice: "this is no MySQL or MariaDB server that is known here",
            problem: format!("`{sql}` gave nothing"),
        })
    }

    /// Rows of a query with parameters, prepared for this once.
    pub(super) async fn rows_with<T: FromRow>(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<Vec<T>, Failure> {
        let statement = within(STATEMENT_WAIT, self.client.prepare(sql)).await?;
        let rows = within(SCAN_WAIT, self.client.execute_query(statement, params)).await?;
        within(STATEMENT_WAIT, self.client.close(statement)).await?;
        Ok(rows)
    }

    /// Runs an [`Insert`] of `rows` rows, whose values `write` writes; returns the number of
    /// affected rows.
    pub(super) async fn insert(
        &mut self,
        insert: &Insert,
        rows: usize,
        write: impl FnOnce(&mut Values<'_>),
    ) -> Result<u64, Failure> {
        self.send(insert, rows, write).await?;
        self.outcome().await
    }

    /// Sends an [`Insert`] without waiting for what becomes of it; see [`Session::outcome`].
    ///
    /// In bulk it is one statement all the same: all rows or none. It costs the server a quarter less
    /// than as many groups of placeholders, each of which it would have to resolve anew.
    pub(super) async fn send(
        &mut self,
        insert: &Insert,
        rows: usize,
        write: impl FnOnce(&mut Values<'_>),
    ) -> Result<(), Failure> {
        let groups = if self.server.bulk { 1 } else { rows };
        let statement = self.prepared(insert, groups).await?;
        let sent = self.client.send(statement, &insert.types, rows, write);
        within(STATEMENT_WAIT, sent).await
    }

    /// The number of rows affected by the oldest statement that was sent and not yet asked about.
    pub(super) async fn outcome(&mut self) -> Result<u64, Failure> {
        Ok(within(STATEMENT_WAIT, self.client.outcome())
            .await?
            .affected)
    }

    async fn prepared(&mut self, insert: &Insert, rows: usize) -> Result<Statement, Failure> {
        let same = |kept: &Prepared| kept.rows == rows && kept.insert == *insert;
        if let Some(at) = self.prepared.iter().position(same) {
            let kept = self.prepared.remove(at);
            let statement = kept.statement;
            self.prepared.push(kept);
            return Ok(statement);
        }
        let needed = rows * insert.types.len();
        while self.placeholders() + needed > KEPT_PLACEHOLDERS_MAX && !self.prepared.is_empty() {
            let oldest = self.prepared.remove(0);
            within(STATEMENT_WAIT, self.client.close(oldest.statement)).await?;
        }
        let statement = within(STATEMENT_WAIT, self.client.prepare(&insert.sql(rows))).await?;
        self.prepared.push(Prepared {
            insert: insert.clone(),
            rows,
            statement,
        });
        Ok(statement)
    }

    fn placeholders(&self) -> usize {
        self.prepared
            .iter()
            .map(|kept| kept.rows * kept.insert.types.len())
            .sum()
    }

    /// Runs LOAD DATA LOCAL with `data` as its file.
    pub(super) async fn load_data(&mut self, sql: &str, data: &[u8]) -> Result<Done, Failure> {
        let ran = self.client.load_data(sql, data, FILE_PACKET_BYTES);
        within(STATEMENT_WAIT, ran).await
    }

    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.run("START TRANSACTION").await.map(drop)
    }

    /// Commits. After an error nobody knows whether it did.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.run("COMMIT").await.map(drop)
    }

    /// Lets a node of a Galera cluster apply what the others have committed; outside of a
    /// transaction. Of no effect, or an error that says nothing, on any other server.
    pub(super) async fn catch_up(&mut self) {
        if self.server.bulk {
            let sql =
                "SET STATEMENT wsrep_sync_wait = 1 FOR SELECT COUNT(*) FROM ingest_migrations";
            if let Err(failure) = self.rows::<u64>(sql).await {
                tracing::debug!(?failure, "the server knows nothing of a cluster");
            }
        }
    }

    /// Rolls back all that was sent.
    pub(super) async fn rollback(&mut self) -> Result<(), Failure> {
        within(STATEMENT_WAIT, self.client.forget()).await?;
        self.run("ROLLBACK").await.map(drop)
    }
}

/// Waits for the server, but not longer than `limit`.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Timeout(limit)),
    }
}
