//! One connection in the state that every statement of ours relies on, and the pool of them.
//!
//! Invariants. Every wait for the server has a limit: the driver has none, and a connection into a
//! black hole would hang for ever. A connection goes back into the pool only when its user says
//! that it is good; one whose future was dropped half-way, or that failed, is thrown away, and the
//! server rolls back what was open on it. Prepared statements are kept per connection and counted
//! by their placeholders, since these are what costs the server memory.

use std::borrow::Cow;
use std::future::Future;
use std::io::ErrorKind::InvalidData;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, DriverError, IoError, Opts, OptsBuilder, Params, Statement, Value};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::fault::Fault;
use crate::tls::split_ca;

use super::errors::{Class, Failure};

/// Longest wait for a connection. A server that accepts nothing for so long is down.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Longest wait for a statement that touches a bounded number of rows. Well above the lock wait
/// below, so that the server speaks first; a slow disk needs seconds for a statement, not minutes.
const STATEMENT_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for a statement over a whole table: an operator's count, or emptying a summary.
const SCAN_WAIT: Duration = Duration::from_secs(900);

/// A connection that lay idle for so long is replaced: firewalls and `wait_timeout` cut such ones
/// without a word, and after a failover it may lead to yesterday's primary.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// Most placeholders of the prepared statements that a connection keeps. One of 1,000 rows of 8
/// columns has 8,000 and costs the server a few MiB; its tail shapes double that. 64 Ki hold the
/// shapes of four such datasets. More costs the server memory, fewer would prepare again and again.
const KEPT_PLACEHOLDERS_MAX: usize = 64 * 1024;

const UNTRUSTED: &str = "the server's certificate is not trusted: name its authority with `ca=FILE` \
                         in the database URL, and the server by a name that stands in the \
                         certificate";

/// What every session is set to. Times are UTC; a value that does not fit is an error, never a
/// warning; no gap locks; a lock is waited for less long than a statement; and a statement outside a
/// transaction is one, which a server may be set not to do. The text mode `NO_BACKSLASH_ESCAPES`
/// stays off, which LOAD DATA relies on.
const SETUP: [&str; 3] = [
    "SET NAMES utf8mb4",
    "SET SESSION time_zone = '+00:00', autocommit = 1, innodb_lock_wait_timeout = 5, sql_mode = \
     'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO,\
     NO_ENGINE_SUBSTITUTION'",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
];

/// The connection options of a URL, with what we rely on.
pub(super) fn options(url: &str) -> Result<Opts, Failure> {
    let (url, authority) = split_ca(url).map_err(|error| Failure::Found {
        advice: "check the `ca` of the database URL",
        problem: error.to_string(),
    })?;
    let opts = Opts::from_url(&url).map_err(mysql_async::Error::from)?;
    let mut tls = opts.ssl_opts().cloned();
    if let Some(certificates) = authority {
        let trusting = tls
            .unwrap_or_default()
            .with_disable_built_in_roots(true)
            .with_root_certs(vec![certificates.into()]);
        tls = Some(trusting);
    }
    let opts = OptsBuilder::from_opts(opts)
        .ssl_opts(tls)
        // On the loopback the driver would go round a proxy, through the server's socket.
        .prefer_socket(false)
        // Affected rows must tell stored rows from those that were there.
        .client_found_rows(false)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        // We keep our own statements: the driver's cache would parse 20 KiB of text to find one.
        .stmt_cache_size(0)
        .setup(SETUP.to_vec());
    Ok(opts.into())
}

/// Connections to one database.
#[derive(Debug)]
pub(super) struct Pool {
    opts: Opts,
    idle: Mutex<Vec<Session>>,
    permits: Semaphore,
}

/// A session out of the pool. Dropped, it is thrown away; see [`Lease::finish`].
pub(super) struct Lease<'a> {
    pub(super) session: Session,
    pool: &'a Pool,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    /// At most `max` connections at once; whoever needs one more waits.
    pub(super) fn new(opts: Opts, max: usize) -> Self {
        Self {
            opts,
            idle: Mutex::default(),
            permits: Semaphore::new(max),
        }
    }

    /// A session, an idle one or a new one.
    pub(super) async fn session(&self) -> Result<Lease<'_>, Failure> {
        let permit = self
            .permits
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let idle = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|session| session.idle_since.elapsed() < IDLE_MAX);
            idle.pop()
        };
        let session = match idle {
            Some(session) => session,
            None => Session::connect(&self.opts).await?,
        };
        Ok(Lease {
            session,
            pool: self,
            _permit: permit,
        })
    }
}

impl Lease<'_> {
    /// Puts the session back: nothing is open on it, and it answered to the last.
    fn keep(self) {
        let Self {
            mut session,
            pool,
            _permit,
        } = self;
        session.idle_since = Instant::now();
        pool.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(session);
    }

    /// Ends the use of the session for `doing`, and puts it back where the outcome leaves it usable.
    pub(super) async fn finish<T>(
        mut self,
        doing: &str,
        outcome: Result<T, Failure>,
    ) -> Result<T, Fault> {
        match outcome {
            Ok(value) => {
                self.keep();
                Ok(value)
            }
            Err(failure) => {
                let usable = !matches!(failure.class(), Class::Reconnect);
                // After a lock wait the transaction is still open, with its earlier rows.
                if usable && self.session.rollback().await.is_ok() {
                    self.keep();
                }
                Err(failure.into_fault(doing))
            }
        }
    }
}

/// What the server is and takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    pub(super) mariadb: bool,
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
    /// How many placeholders a group has.
    pub(super) columns: usize,
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
    conn: Conn,
    pub(super) server: Server,
    /// The least recently used first.
    prepared: Vec<Prepared>,
    idle_since: Instant,
}

impl Session {
    async fn connect(opts: &Opts) -> Result<Self, Failure> {
        let mut conn = within(CONNECT_WAIT, Conn::new(opts.clone()))
            .await
            .map_err(or_untrusted)?;
        let asked = conn.query_first::<(String, bool, usize), _>(
            "SELECT VERSION(), @@GLOBAL.local_infile, @@max_allowed_packet",
        );
        let (version, local_infile, packet_bytes_max) = within(CONNECT_WAIT, asked)
            .await?
            .ok_or_else(|| Failure::Found {
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
            load_data: local_infile && !mariadb && !other,
            packet_bytes_max,
        };
        Ok(Self {
            conn,
            server,
            prepared: Vec::new(),
            idle_since: Instant::now(),
        })
    }

    /// Runs a statement of text; returns the number of affected rows.
    pub(super) async fn run(&mut self, sql: &str) -> Result<u64, Failure> {
        self.run_within(STATEMENT_WAIT, sql).await
    }

    /// The same for a statement over a whole table.
    pub(super) async fn run_scan(&mut self, sql: &str) -> Result<u64, Failure> {
        self.run_within(SCAN_WAIT, sql).await
    }

    async fn run_within(&mut self, limit: Duration, sql: &str) -> Result<u64, Failure> {
        within(limit, self.conn.query_drop(sql)).await?;
        Ok(self.conn.affected_rows())
    }

    /// Runs a statement with parameters, prepared for this once.
    pub(super) async fn run_with(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<u64, Failure> {
        let statement = within(STATEMENT_WAIT, self.conn.prep(sql)).await?;
        let params: Params = params.into();
        within(STATEMENT_WAIT, self.conn.exec_drop(&statement, params)).await?;
        let affected = self.conn.affected_rows();
        within(STATEMENT_WAIT, self.conn.close(statement)).await?;
        Ok(affected)
    }

    /// Rows of a query of text.
    pub(super) async fn rows<T>(&mut self, sql: &str) -> Result<Vec<T>, Failure>
    where
        T: FromRow + Send + 'static,
    {
        within(SCAN_WAIT, self.conn.query(sql)).await
    }

    /// Rows of a query with parameters, prepared for this once.
    pub(super) async fn rows_with<T>(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<Vec<T>, Failure>
    where
        T: FromRow + Send + 'static,
    {
        let statement = within(STATEMENT_WAIT, self.conn.prep(sql)).await?;
        let params: Params = params.into();
        let rows = within(SCAN_WAIT, self.conn.exec(&statement, params)).await?;
        within(STATEMENT_WAIT, self.conn.close(statement)).await?;
        Ok(rows)
    }

    /// Runs an [`Insert`] of `count` rows, each a value for each column; returns the number of
    /// affected rows.
    pub(super) async fn insert(
        &mut self,
        insert: &Insert,
        count: usize,
        rows: impl Iterator<Item = Vec<Value>> + Send,
    ) -> Result<u64, Failure> {
        if self.server.mariadb {
            return self.insert_in_bulk(insert, rows).await;
        }
        let statement = self.prepared(insert, count).await?;
        let mut values = Vec::with_capacity(count * insert.columns);
        values.extend(rows.flatten());
        debug_assert_eq!(values.len(), count * insert.columns);
        within(
            STATEMENT_WAIT,
            self.conn.exec_drop(&statement, Params::Positional(values)),
        )
        .await?;
        Ok(self.conn.affected_rows())
    }

    /// MariaDB takes a statement of one row with the values of many (`COM_STMT_BULK_EXECUTE`), and
    /// runs it as one statement: all of them or none. It costs the server a fourth less than as many
    /// groups of placeholders, each of which it would have to resolve anew. Through a proxy that does
    /// not know the command, the driver sends row by row: slow, and right all the same.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one server where it is one statement"
    )]
    async fn insert_in_bulk(
        &mut self,
        insert: &Insert,
        rows: impl Iterator<Item = Vec<Value>> + Send,
    ) -> Result<u64, Failure> {
        let statement = self.prepared(insert, 1).await?;
        let rows = rows.map(Params::Positional);
        within(STATEMENT_WAIT, self.conn.exec_batch(&statement, rows)).await?;
        Ok(self.conn.affected_rows())
    }

    async fn prepared(&mut self, insert: &Insert, rows: usize) -> Result<Statement, Failure> {
        let same = |kept: &Prepared| kept.rows == rows && kept.insert == *insert;
        if let Some(at) = self.prepared.iter().position(same) {
            let kept = self.prepared.remove(at);
            let statement = kept.statement.clone();
            self.prepared.push(kept);
            return Ok(statement);
        }
        let needed = rows * insert.columns;
        while self.placeholders() + needed > KEPT_PLACEHOLDERS_MAX && !self.prepared.is_empty() {
            let oldest = self.prepared.remove(0);
            within(STATEMENT_WAIT, self.conn.close(oldest.statement)).await?;
        }
        let statement = within(STATEMENT_WAIT, self.conn.prep(insert.sql(rows))).await?;
        let kept = Prepared {
            insert: insert.clone(),
            rows,
            statement: statement.clone(),
        };
        self.prepared.push(kept);
        Ok(statement)
    }

    fn placeholders(&self) -> usize {
        self.prepared
            .iter()
            .map(|kept| kept.rows * kept.insert.columns)
            .sum()
    }

    /// Runs LOAD DATA LOCAL with `data` as its file; returns affected rows and warnings.
    pub(super) async fn load_data(
        &mut self,
        sql: &str,
        data: Vec<Bytes>,
    ) -> Result<(u64, u16), Failure> {
        self.conn.set_infile_handler(async move {
            let data = futures_util::stream::iter(data.into_iter().map(Ok));
            Ok(Box::pin(data) as mysql_async::InfileData)
        });
        within(STATEMENT_WAIT, self.conn.query_drop(sql)).await?;
        Ok((self.conn.affected_rows(), self.conn.get_warnings()))
    }

    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.run("START TRANSACTION").await.map(drop)
    }

    /// Commits. After an error nobody knows whether it did.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.run("COMMIT").await.map(drop)
    }

    pub(super) async fn rollback(&mut self) -> Result<(), Failure> {
        self.run("ROLLBACK").await.map(drop)
    }
}

/// A server that cannot be trusted, told from one that cannot be reached. While a connection is made
/// over TLS, the driver calls nothing but a handshake that failed invalid data.
fn or_untrusted(failure: Failure) -> Failure {
    use mysql_async::Error;
    let advice = match &failure {
        Failure::Driver(Error::Io(IoError::Tls(_))) => UNTRUSTED,
        Failure::Driver(Error::Io(IoError::Io(error))) if error.kind() == InvalidData => UNTRUSTED,
        Failure::Driver(Error::Driver(DriverError::NoClientSslFlagFromServer)) => {
            "the server offers no TLS: give it a certificate, or take `require_ssl` and `ca` out of \
             the database URL"
        }
        _ => return failure,
    };
    let problem = failure.to_string();
    Failure::Found { advice, problem }
}

/// Waits for the driver, but not longer than `limit`.
async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = mysql_async::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Timeout(limit)),
    }
}
