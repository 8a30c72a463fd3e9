//! One connection with the settings that the statements of this sink rely on.
//!
//! Invariants:
//! * Every wait for the server has a limit. The driver has none, so a connection to a host that
//!   drops packets would hang for ever.
//! * Each connection keeps prepared statements up to a number of placeholders, since placeholders
//!   cost the server memory.

use std::borrow::Cow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use mysql_async::prelude::{FromRow, Protocol, Queryable};
use mysql_async::{
    Conn, DriverError, InfileData, LocalInfileError, Params, QueryResult, Statement, Value,
};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::contained::contained;

use super::errors::Failure;
use super::login;
use super::options::{Endpoint, KEEPALIVE, PACKET_BYTES_MAX};

/// Longest wait for a connection. A server that accepts none for this long is down.
pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Longest wait for a statement over a bounded number of rows. Well above the server's lock wait (5
/// s), so that the server reports that first. Even on a slow disk, such a statement takes seconds
/// and not minutes.
const STATEMENT_WAIT: Duration = Duration::from_secs(60);

/// Longest wait for a statement over a whole table: an operator's count, or emptying a summary.
const SCAN_WAIT: Duration = Duration::from_secs(900);

/// Longest wait for a change of a table: the build of an index over a billion rows takes hours.
/// Keepalives of the connection notice a server that is gone much earlier.
const BUILD_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// Most placeholders of all prepared statements of a connection. A full statement has 1,000
/// placeholders, which cost the server a few hundred KiB. The smaller statements for the last rows
/// together have as many. So this limit holds the statements of sixteen datasets. A higher one
/// costs the server memory; with a lower one, statements would be prepared again and again.
const KEPT_PLACEHOLDERS_MAX: usize = 32 * 1024;

/// Bytes of one packet of a LOAD DATA LOCAL: below 1 MiB, the smallest usual `max_allowed_packet`,
/// and so large that the number of packets costs nothing noticeable.
const FILE_PACKET_BYTES: usize = 256 * 1024;

/// The number of the server's error for a statement that bulk execution does not support.
const UNSUPPORTED_PS: u16 = 1295;

/// The number of the server's error if a table does not exist.
pub(super) const NO_TABLE: u16 = 1146;

/// The kind of the server, and what it supports.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact about the server"
)]
pub(super) struct Server {
    pub(super) mariadb: bool,
    /// Whether it is neither MariaDB nor MySQL, but has their protocol.
    pub(super) is_other: bool,
    /// Whether one execution of a statement may have many rows of values (`COM_STMT_BULK_EXECUTE`).
    /// True for MariaDB, but not for every proxy in front of it.
    pub(super) bulk: bool,
    /// Whether LOAD DATA LOCAL may be tried.
    pub(super) load_data: bool,
    /// Largest packet that the server accepts, in bytes.
    pub(super) packet_bytes_max: usize,
}

/// An INSERT of any number of rows: `head` up to VALUES, a `group` for each row, `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Insert {
    pub(super) head: String,
    pub(super) group: Cow<'static, str>,
    /// Placeholders of one group, which is one row.
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

/// A prepared [`Insert`] for a number of rows.
#[derive(Debug)]
struct Prepared {
    insert: Insert,
    rows: usize,
    statement: Statement,
}

/// Since when a session waits for an answer. Another task reads it while a statement runs.
#[derive(Debug, Default)]
pub(super) struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    /// The time at which the wait began. `None` if the session does not wait, or waits for a change
    /// of a table, which may take hours.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        *self.0.lock()
    }

    /// As the function `within`; meanwhile the session waits.
    async fn within<T, E>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure>
    where
        Failure: From<E>,
    {
        *self.0.lock() = (limit < BUILD_WAIT).then(Instant::now);
        let answer = within(limit, answer).await;
        *self.0.lock() = None;
        answer
    }
}

/// A thread of a server, which runs the statements of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerThread {
    /// Which server, and for whom it runs: the server's host name, port and data directory, and the
    /// account. The threads of another account may be hidden.
    pub(super) server: String,
    pub(super) id: u32,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    conn: Conn,
    pub(super) server: Server,
    /// The index of its server among those of the URL.
    pub(super) place: usize,
    /// `None` if the server does not tell, or a proxy answers in its place.
    pub(super) thread: Option<Arc<ServerThread>>,
    pub(super) pulse: Arc<Pulse>,
    /// The least recently used statement is the first.
    prepared: Vec<Prepared>,
    /// When it returned to the pool.
    pub(super) idle_since: Instant,
}

impl Session {
    /// Connects to a server of the URL, and queries what it supports.
    pub(super) async fn connect(endpoint: &Endpoint, place: usize) -> Result<Self, Failure> {
        let opts = &endpoint.opts;
        let conn = if endpoint.is_watched {
            within(CONNECT_WAIT, login::connect(opts, KEEPALIVE)).await
        } else {
            within(CONNECT_WAIT, Conn::new(opts.clone())).await
        };
        let mut session = Self {
            conn: conn.map_err(Failure::of_connecting)?,
            server: Server {
                mariadb: false,
                is_other: false,
                bulk: false,
                load_data: false,
                packet_bytes_max: 0,
            },
            place,
            thread: None,
            pulse: Arc::default(),
            prepared: Vec::new(),
            idle_since: Instant::now(),
        };
        match within(CONNECT_WAIT, session.learn()).await {
            Ok(()) => {}
            Err(failure) => {
                session.abandon();
                return Err(failure);
            }
        }
        Ok(session)
    }

    /// Queries the kind of the server, and what it supports.
    async fn learn(&mut self) -> Result<(), Failure> {
        type Facts = (String, bool, usize);
        let sql = "SELECT VERSION(), @@GLOBAL.local_infile, @@max_allowed_packet";
        let (version, local_infile, packet_bytes_max) = self.one::<Facts>(sql).await?;
        let mariadb = version.contains("MariaDB");
        // Only on MySQL: MariaDB is faster with prepared statements, and other servers treat LOAD
        // DATA differently in transactions or in their semantics.
        let is_other = ["TiDB", "vitess", "Vitess"]
            .iter()
            .any(|name| version.contains(name));
        self.server = Server {
            mariadb,
            is_other,
            bulk: mariadb && self.takes_bulk().await?,
            load_data: local_infile && !mariadb && !is_other,
            packet_bytes_max: packet_bytes_max.min(PACKET_BYTES_MAX),
        };
        if !is_other {
            let sql = "SELECT CONCAT_WS(' ', @@hostname, @@port, @@datadir, CURRENT_USER()), \
                       CONNECTION_ID()";
            let (server, id) = self.one::<(String, u64)>(sql).await?;
            // A proxy has numbers of its own.
            let is_direct = id == u64::from(self.conn.id());
            let id = self.conn.id();
            self.thread = is_direct.then(|| Arc::new(ServerThread { server, id }));
        }
        // Another node may have made the tables a moment ago.
        self.catch_up().await;
        Ok(())
    }

    /// Closes a connection whose server may send anything. If it were dropped on a thread of the
    /// runtime, the driver would continue to read in a separate task, and a panic there would end
    /// the process.
    pub(super) fn abandon(self) {
        // If there is no thread for it, the connection is dropped here.
        let _ = thread::Builder::new().spawn(move || drop(self));
    }

    /// Ends the connection in the background with `COM_QUIT`. The driver sends none if its
    /// connection is dropped, and the server would count and log the connection as aborted.
    pub(super) fn close(self) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(CONNECT_WAIT, self.conn.disconnect()));
        }
    }

    /// Whether a batch is sent as one bulk execution, and not row by row: the driver, and a proxy
    /// before the server, must support it. The driver does not report this, so the test is a batch
    /// of a SELECT: the server refuses it in bulk, and accepts it row by row.
    #[expect(
        clippy::disallowed_methods,
        reason = "one row is one statement in either form"
    )]
    async fn takes_bulk(&mut self) -> Result<bool, Failure> {
        let statement = within(CONNECT_WAIT, self.conn.prep("SELECT ?")).await?;
        let batch = self.conn.exec_batch(&statement, [(1,)]);
        let takes_bulk = match within(CONNECT_WAIT, batch).await {
            Ok(()) => false,
            Err(failure) if failure.code() == Some(UNSUPPORTED_PS) => true,
            Err(failure) => return Err(failure),
        };
        within(CONNECT_WAIT, self.conn.close(statement)).await?;
        Ok(takes_bulk)
    }

    /// Runs a statement as text. Returns the number of affected rows.
    pub(super) async fn run(&mut self, sql: &str) -> Result<u64, Failure> {
        self.pulse
            .within(STATEMENT_WAIT, self.conn.query_drop(sql))
            .await?;
        Ok(self.conn.affected_rows())
    }

    /// As [`run`](Self::run), for a statement over a whole table.
    pub(super) async fn run_scan(&mut self, sql: &str) -> Result<u64, Failure> {
        self.pulse
            .within(SCAN_WAIT, self.conn.query_drop(sql))
            .await?;
        Ok(self.conn.affected_rows())
    }

    /// As [`run`](Self::run), for a change of a table that reads all of its rows.
    pub(super) async fn run_build(&mut self, sql: &str) -> Result<(), Failure> {
        self.pulse
            .within(BUILD_WAIT, self.conn.query_drop(sql))
            .await
    }

    /// Runs a statement with parameters. Prepares it for this execution only.
    pub(super) async fn run_with(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<u64, Failure> {
        let statement = self
            .pulse
            .within(STATEMENT_WAIT, self.conn.prep(sql))
            .await?;
        let params: Params = params.into();
        self.pulse
            .within(STATEMENT_WAIT, self.conn.exec_drop(&statement, params))
            .await?;
        let affected = self.conn.affected_rows();
        self.pulse
            .within(STATEMENT_WAIT, self.conn.close(statement))
            .await?;
        Ok(affected)
    }

    /// The rows of a query, sent as text.
    pub(super) async fn rows<T: FromRow>(&mut self, sql: &str) -> Result<Vec<T>, Failure> {
        self.pulse
            .within(SCAN_WAIT, async {
                collect(self.conn.query_iter(sql).await?).await
            })
            .await
    }

    /// The row of a query that always returns one, sent as text.
    pub(super) async fn one<T: FromRow>(&mut self, sql: &str) -> Result<T, Failure> {
        let rows = self.rows(sql).await?;
        rows.into_iter().next().ok_or_else(|| Failure::Found {
            next_step: "use a server of MySQL or MariaDB",
            problem: format!("`{sql}` returned no row"),
        })
    }

    /// Whether the database has a table of this name. Waits for a session that is changing it:
    /// `information_schema.TABLES` of MariaDB leaves such a table out if this session holds locks.
    pub(super) async fn has_table(&mut self, name: &str) -> Result<bool, Failure> {
        match self
            .rows::<u64>(&format!("SELECT 1 FROM `{name}` LIMIT 0"))
            .await
        {
            Ok(_) => Ok(true),
            Err(failure) if failure.code() == Some(NO_TABLE) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The result of a query that counts the rows of a table of any size.
    pub(super) async fn count_all(&mut self, sql: &str) -> Result<u64, Failure> {
        let count = self.pulse.within(BUILD_WAIT, self.conn.query_first(sql));
        Ok(count.await?.unwrap_or_default())
    }

    /// The rows of a query with parameters. Prepares it for this execution only.
    pub(super) async fn rows_with<T: FromRow>(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<Vec<T>, Failure> {
        let statement = self
            .pulse
            .within(STATEMENT_WAIT, self.conn.prep(sql))
            .await?;
        let params: Params = params.into();
        let rows = self
            .pulse
            .within(SCAN_WAIT, async {
                collect(self.conn.exec_iter(&statement, params).await?).await
            })
            .await?;
        self.pulse
            .within(STATEMENT_WAIT, self.conn.close(statement))
            .await?;
        Ok(rows)
    }

    /// Runs an [`Insert`] of `count` rows. Each row has a value for each placeholder of a group.
    /// Returns the number of affected rows.
    ///
    /// A bulk execution is one statement as well: it stores all rows or none. It costs the server a
    /// quarter less than a statement with a group of placeholders for each row.
    pub(super) async fn insert<R>(
        &mut self,
        insert: &Insert,
        count: usize,
        rows: impl Iterator<Item = R> + Send,
    ) -> Result<u64, Failure>
    where
        R: Iterator<Item = Value>,
    {
        if self.server.bulk {
            return self.insert_in_bulk(insert, rows).await;
        }
        let statement = self.prepared(insert, count).await?;
        let mut values = Vec::with_capacity(count * insert.columns);
        rows.for_each(|row| values.extend(row));
        let params = Params::Positional(values);
        self.pulse
            .within(STATEMENT_WAIT, self.conn.exec_drop(&statement, params))
            .await?;
        Ok(self.conn.affected_rows())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "only on servers where it is one statement"
    )]
    async fn insert_in_bulk<R>(
        &mut self,
        insert: &Insert,
        rows: impl Iterator<Item = R> + Send,
    ) -> Result<u64, Failure>
    where
        R: Iterator<Item = Value>,
    {
        let statement = self.prepared(insert, 1).await?;
        let columns = insert.columns;
        let rows = rows.map(|row| {
            let mut values = Vec::with_capacity(columns);
            values.extend(row);
            Params::Positional(values)
        });
        self.pulse
            .within(STATEMENT_WAIT, self.conn.exec_batch(&statement, rows))
            .await?;
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
            self.pulse
                .within(STATEMENT_WAIT, self.conn.close(oldest.statement))
                .await?;
        }
        let statement = self
            .pulse
            .within(STATEMENT_WAIT, self.conn.prep(insert.sql(rows)))
            .await?;
        self.prepared.push(Prepared {
            insert: insert.clone(),
            rows,
            statement: statement.clone(),
        });
        Ok(statement)
    }

    fn placeholders(&self) -> usize {
        self.prepared
            .iter()
            .map(|kept| kept.rows * kept.insert.columns)
            .sum()
    }

    /// Runs LOAD DATA LOCAL with `data` as its file. Returns the numbers of affected rows and of
    /// warnings.
    pub(super) async fn load_data(
        &mut self,
        sql: &str,
        data: Vec<u8>,
    ) -> Result<(u64, u16), Failure> {
        let mut data = Bytes::from(data);
        self.conn.set_infile_handler(async move {
            let packets = std::iter::from_fn(move || {
                let length = data.len().min(FILE_PACKET_BYTES);
                (length > 0).then(|| Ok(data.split_to(length)))
            });
            Ok(Box::pin(stream::iter(packets)) as InfileData)
        });
        let ran = self
            .pulse
            .within(STATEMENT_WAIT, self.conn.query_drop(sql))
            .await;
        // If the server did not ask for the file, no later request may get it.
        let nothing = async { Err(LocalInfileError::NoHandler.into()) };
        self.conn.set_infile_handler(nothing);
        ran?;
        Ok((self.conn.affected_rows(), self.conn.get_warnings()))
    }

    pub(super) async fn begin(&mut self) -> Result<(), Failure> {
        self.run("START TRANSACTION").await.map(drop)
    }

    /// Commits. After an error, it is unknown whether the transaction was committed.
    pub(super) async fn commit(&mut self) -> Result<(), Failure> {
        self.run("COMMIT").await.map(drop)
    }

    /// Waits until a node of a Galera cluster has applied the commits and changes of tables of the
    /// other nodes. Must be called outside of a transaction. On any other server, an error or no
    /// wait, neither of which changes anything.
    pub(super) async fn catch_up(&mut self) {
        if self.server.mariadb {
            let sql = "SET STATEMENT wsrep_sync_wait = 1 FOR SELECT 1";
            if let Err(failure) = self.rows::<u64>(sql).await {
                tracing::debug!(?failure, "the server is not a node of a Galera cluster");
            }
        }
    }

    pub(super) async fn rollback(&mut self) -> Result<(), Failure> {
        self.run("ROLLBACK").await.map(drop)
    }
}

/// All rows of a result, converted. If a row cannot be converted, the error is returned only after
/// the last row has been read, so that the connection stays usable.
async fn collect<T: FromRow, P: Protocol>(
    mut result: QueryResult<'_, '_, P>,
) -> Result<Vec<T>, mysql_async::Error> {
    let mut rows = Vec::new();
    let mut unfit = None;
    while let Some(row) = result.next().await? {
        match T::from_row_opt(row) {
            Ok(row) => rows.push(row),
            Err(error) => unfit = Some(error),
        }
    }
    result.drop_result().await?;
    match unfit {
        Some(error) => Err(DriverError::FromRow { row: error.0 }.into()),
        None => Ok(rows),
    }
}

/// Waits for the driver, at most for `limit`. A panic of the driver is a failure.
async fn within<T, E>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure>
where
    Failure: From<E>,
{
    match timeout(limit, contained(answer)).await {
        Ok(answer) => Ok(answer??),
        Err(_) => Err(Failure::Timeout(limit)),
    }
}
