//! The database of the simulated world: the sink of SQLite, in a file, with faults around its
//! calls. It survives crashes of the engine. A second connection is that of other programs, of the
//! operator and of the audit.
//!
//! A call runs to its end while the runtime waits, so that the virtual clock does not go on in
//! between and a seed repeats the order of all events.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use async_trait::async_trait;
use lemonade_task::batch::{Batch, provenance, row_id};
use lemonade_task::dataset::Datasets;
use lemonade_task::fault::{Fault, Origin};
use lemonade_task::sink::sqlite::SqliteSink;
use lemonade_task::sink::{
    Begun, Committed, NewFile, Registered, Removed, Schema, Settled, Sink, WaitingFile,
};

use super::files;
use super::world::{Broken, World};

/// Why a table does not take the rows of a file.
const REASON: &str = "the table is full";

/// The value of a row that another program stores.
pub const FOREIGN: &str = "foreign";

/// Ids above those of all files that a seed has.
const ARRIVAL_IDS: u64 = 1 << 60;

/// The sink, and a connection beside it.
pub struct Database {
    sink: SqliteSink,
    beside: Mutex<rusqlite::Connection>,
    /// The files whose rows the table did not take.
    waiting: Mutex<BTreeSet<u32>>,
}

impl Database {
    pub fn open(path: &Path) -> Self {
        let sink = at_once(SqliteSink::open(path.to_str().unwrap())).unwrap();
        let beside = rusqlite::Connection::open(path).unwrap();
        // The file is in memory, and no test cuts the power.
        beside.pragma_update(None, "synchronous", "OFF").unwrap();
        Self {
            sink,
            beside: Mutex::new(beside),
            waiting: Mutex::default(),
        }
    }

    /// What every start of an engine does first.
    pub fn migrate(&self, datasets: &Datasets) -> Result<(), Fault> {
        at_once(self.sink.migrate(datasets))
    }

    /// Runs statements beside the engine.
    pub fn run(&self, sql: &str) {
        let db = self.beside.lock().unwrap();
        db.execute_batch(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs a statement beside the engine. Returns the number of rows that it changed.
    pub fn change(&self, sql: &str) -> usize {
        self.beside.lock().unwrap().execute(sql, []).unwrap()
    }

    /// The rows of a query with one column.
    pub fn column<T: rusqlite::types::FromSql>(&self, sql: &str) -> Vec<T> {
        self.rows(sql, |row| row.get(0))
    }

    /// The rows of a query with two columns.
    pub fn pairs<A: rusqlite::types::FromSql, B: rusqlite::types::FromSql>(
        &self,
        sql: &str,
    ) -> Vec<(A, B)> {
        self.rows(sql, |row| Ok((row.get(0)?, row.get(1)?)))
    }

    fn rows<T>(
        &self,
        sql: &str,
        read: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Vec<T> {
        let db = self.beside.lock().unwrap();
        let mut statement = db
            .prepare_cached(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let rows = statement.query_map([], read).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    /// The value of a query with one row.
    pub fn number(&self, sql: &str) -> u64 {
        self.column(sql)[0]
    }
}

/// Runs a future that another thread ends, and blocks this thread until then.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    // Without the budget of the task that calls, which would let the future wait for no event.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// The sink as the engine of one run has it.
pub struct SimSink(pub Arc<World>);

impl SimSink {
    fn database(&self) -> &Database {
        &self.0.database
    }

    fn is_broken(&self, rule: Broken) -> bool {
        self.0.broken == Some(rule)
    }

    /// A call that may fail before it has an effect.
    async fn call(&self) -> Result<(), Fault> {
        self.0.takes_time().await;
        if self.0.chance("a call to the database fails before", 12) {
            Err(World::fault(Origin::Sink))
        } else {
            Ok(())
        }
    }

    /// A call that may fail after it had its effect: the reply is lost.
    fn answer<T>(&self, value: T) -> Result<T, Fault> {
        if self.0.chance("the database's answer is lost", 12) {
            Err(World::fault(Origin::Sink))
        } else {
            Ok(value)
        }
    }

    /// Another program stores a row with an id of the file of a batch, or of a coming file.
    fn intrude(&self, batch: &Batch) {
        if batch.dataset.name != "vehicle_events" {
            return;
        }
        let database = self.database();
        let file_no = batch.span.file_no;
        let last = database.number("SELECT COALESCE(MAX(file_no), 0) FROM ingest_files");
        let is_coming = self.0.below(8) == 0;
        let span = batch.span.ordinals();
        let (file_no, ordinal) = if is_coming {
            (last as u32 + 1 + self.0.below(2) as u32, self.0.below(20))
        } else if self.0.below(2) == 0 && !span.is_empty() {
            (file_no, span.start + self.0.below(span.end - span.start))
        } else {
            let sql = format!("SELECT records FROM ingest_files WHERE file_no = {file_no}");
            let records = database.column::<u64>(&sql).pop().unwrap_or_default();
            (file_no, self.0.below(records + 3))
        };
        let id = row_id(file_no, ordinal as u32);
        let stored = database.change(&format!(
            "INSERT OR IGNORE INTO vehicle_events (id, vehicle_id, event_time, event_source, \
             event_type, event_value, event_extra_data) VALUES ({id}, 'v', '2024-01-01 \
             00:00:00.000000', 's', 't', '{FOREIGN}', '{{}}')"
        ));
        if stored == 1 {
            self.0.note(
                match (is_coming, batch.span.ordinals().contains(&ordinal)) {
                    (true, _) => "another program takes an id of a coming file",
                    (false, true) => "another program takes an id before its commit",
                    (false, false) => "another program takes an id between commits",
                },
            );
        }
    }

    /// Breaks a rule after a commit, or not.
    fn spoil(&self, batches: &[Batch]) {
        let database = self.database();
        match self.0.broken {
            Some(Broken::RejectsDropped) => database.run("DELETE FROM ingest_rejects"),
            Some(Broken::EveryRowIsOurs) => {
                database.run("DELETE FROM ingest_rejects WHERE code = 'id_taken'");
            }
            Some(rule @ (Broken::LedgerWithoutRows | Broken::IdsByArrival)) => {
                let ids = batches
                    .iter()
                    .flat_map(|batch| batch.rows.column(0).as_primitive::<UInt64Type>().values());
                for (at, id) in ids.enumerate() {
                    if rule == Broken::IdsByArrival {
                        let sql = "SELECT COUNT(*) FROM vehicle_events";
                        let other = ARRIVAL_IDS + (database.number(sql) << 32) + at as u64;
                        let sql = "UPDATE OR IGNORE vehicle_events SET id =";
                        database.run(&format!("{sql} {other} WHERE id = {id}"));
                    } else if self.0.chance("broken: row not written", 50) {
                        database.run(&format!("DELETE FROM vehicle_events WHERE id = {id}"));
                    }
                }
            }
            _ => {}
        }
    }

    /// Covers files as a whole in the ledger, if that rule is broken.
    fn cover(&self, file_nos: &[u32]) {
        for file_no in file_nos
            .iter()
            .filter(|_| self.is_broken(Broken::SettleTooEarly))
        {
            self.database().run(&format!(
                "INSERT OR IGNORE INTO ingest_frames SELECT file_no, 0, records FROM ingest_files \
                 WHERE file_no = {file_no} AND state = 'pending'"
            ));
        }
    }
}

#[async_trait]
impl Sink for SimSink {
    fn writers(&self) -> usize {
        3
    }

    async fn register(
        &self,
        files: &[NewFile],
        datasets: &Datasets,
    ) -> Result<Vec<Registered>, Fault> {
        self.call().await?;
        if self.is_broken(Broken::DefinitionsMixed) {
            let sql = "UPDATE ingest_files SET definition = NULL WHERE state = 'pending'";
            self.database().run(sql);
        }
        let registered = at_once(self.database().sink.register(files, datasets))?;
        for file in &registered {
            self.database()
                .waiting
                .lock()
                .unwrap()
                .remove(&file.file_no);
        }
        self.answer(registered)
    }

    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault> {
        self.call().await?;
        let (mut taken, mut waiting) = (Vec::new(), Vec::new());
        for batch in batches {
            if self.0.chance("a table refuses a file", 40) {
                let file = batch.file();
                self.database().waiting.lock().unwrap().insert(file.file_no);
                let reason = REASON.to_owned();
                waiting.push(WaitingFile { file, reason });
            } else {
                taken.push(batch.clone());
            }
        }
        for batch in &taken {
            if self.0.happens(200) {
                self.intrude(batch);
            }
        }
        let mut committed = at_once(self.database().sink.commit(&taken))?;
        committed.waiting = waiting;
        self.spoil(&taken);
        for batch in &taken {
            if self.0.happens(200) {
                self.intrude(batch);
            }
            if self.0.happens(60) {
                files::grow_number(&self.0, batch.span.file_no);
            }
        }
        self.answer(committed)
    }

    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault> {
        self.call().await?;
        self.cover(file_nos);
        at_once(self.database().sink.coverage(file_nos))
    }

    async fn waiting(&self, file_nos: &[u32]) -> Result<Vec<(u32, String)>, Fault> {
        self.call().await?;
        let waiting = self.database().waiting.lock().unwrap();
        let waits = file_nos.iter().filter(|file_no| waiting.contains(file_no));
        Ok(waits.map(|file_no| (*file_no, REASON.to_owned())).collect())
    }

    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault> {
        self.call().await?;
        self.0.queries.fetch_add(1, Relaxed);
        tokio::time::sleep(self.0.query_time).await;
        self.cover(file_nos);
        let settled = at_once(self.database().sink.settle(file_nos))?;
        for file in &settled {
            if self.0.happens(60) {
                files::grow_number(&self.0, file.file_no);
            }
        }
        self.answer(settled)
    }

    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault> {
        self.call().await?;
        at_once(self.database().sink.quarantine(file, reason))?;
        self.answer(())
    }

    async fn lacking(&self, file_nos: &[u32], datasets: &Datasets) -> Result<Vec<u32>, Fault> {
        self.call().await?;
        at_once(self.database().sink.lacking(file_nos, datasets))
    }

    async fn begun(&self, max: usize) -> Result<Vec<Begun>, Fault> {
        self.call().await?;
        at_once(self.database().sink.begun(max))
    }

    async fn remove(&self, file_no: u32, datasets: &Datasets) -> Result<Removed, Fault> {
        self.call().await?;
        let removed = at_once(self.database().sink.remove(file_no, datasets))?;
        self.answer(removed)
    }

    async fn end_removal(&self, file_no: u32) -> Result<(), Fault> {
        self.call().await?;
        at_once(self.database().sink.end_removal(file_no))?;
        self.answer(())
    }
}

/// The number of the file of a row, by its id.
pub fn file_of(id: u64) -> u32 {
    provenance(id).0
}
