//! Seam 2: the database, which holds rows, rejects and the ledger. The ledger is the truth.
//!
//! The seam is four traits, cut by who calls them. [`Sink`] is the contract of exactly-once, and all
//! that ingest and workers call. [`SummaryStore`] keeps the daily summary, [`Schema`] makes the
//! tables, [`Operators`] answers commands and the status page. A [`Database`] is all four.
//!
//! # Contract of every method
//! A method may be called again after any error. After an error whose outcome is unknown (the
//! connection was lost during COMMIT), calling it again is the only right thing to do. No method
//! bases a write on an earlier read that holds no lock.
//!
//! # Errors of every method
//! Transient: the server cannot be reached, does not answer in time, or cannot do it now (a
//! deadlock, a full disk). Fatal: the account may not do it, or the tables are not as the engine
//! expects them. A method's own text adds only what is particular to it.

use std::ops::Range;

use async_trait::async_trait;

use crate::batch::{Batch, ContentHash, RejectCode, SourceFile};
use crate::dataset::{Datasets, Fingerprint};
use crate::fault::Fault;
use crate::finding::Finding;
use crate::telemetry;

mod cells;
mod definitions;
mod migrations;
mod mismatch;
pub mod mysql;
mod open;
mod operators;
pub mod sqlite;
mod summary;
mod table;

pub use open::{Database, open};
pub use operators::{
    Audit, FileEntry, FileState, LedgerFile, OpenReject, Operators, Purge, RejectEntry,
    RejectQuery, Replayed, Standing, Totals,
};
pub use summary::{LastEvent, SummaryStore, Unsummarised};

/// Rows of one statement into MySQL, where a statement takes any number. With more, a core's cache
/// does not hold the values, which are in memory all at once; fewer cost more packets.
const ROWS_PER_STATEMENT: usize = 1_000;

/// Connections for commits. One more than the cores of a small machine: beyond that they only wait
/// for each other, and eight are a quarter slower than three.
const CONNECTIONS: usize = 3;

/// The next step once the ledger has no file number left: ids have 31 bits for it.
const NUMBERS_USED_UP: &str = "if the highest file_no of ingest_files is below 2147483647, the last \
    number, set its counter back (MySQL: ALTER TABLE ingest_files AUTO_INCREMENT = 1; SQLite: DELETE \
    FROM sqlite_sequence WHERE name = 'ingest_files'); else load into another database";

/// How a database is used. SQLite, which has one writer, ignores both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkOptions {
    /// Commits at once, each on its own connection, at least one.
    pub connections: usize,
    /// Most rows of one INSERT statement, at least one.
    pub rows_per_statement: usize,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            rows_per_statement: ROWS_PER_STATEMENT,
        }
    }
}

/// Counts a fault of the database in the metrics. Both dialects call it where they make one, so the
/// stages, which retry, need not.
fn counted(fault: Fault) -> Fault {
    telemetry::sink_error(if fault.is_transient() {
        "transient"
    } else {
        "fatal"
    });
    fault
}

/// Rows, rejects and ledger, as the stages write and read them: the contract of exactly-once.
#[async_trait]
pub trait Sink: Send + Sync {
    /// How many commits can be under way at once.
    fn writers(&self) -> usize;

    /// Enters files into the ledger, many in one round trip, and returns their numbers in the order
    /// given. A number stands for one content in one dataset. A file that was quarantined becomes
    /// pending again, unless some of it is stored by another definition. After an error some of the
    /// files may be registered.
    async fn register(&self, files: &[NewFile]) -> Result<Vec<Registered>, Fault>;

    /// Stores rows, rejects and, after them in the same transaction, the ledger entries of the
    /// spans. Rows and rejects that are stored already stay as they are. A row that the database
    /// refuses for its values becomes a reject under its own id, and its neighbours are stored.
    ///
    /// A row counts as there already if the ledger covers its record, or if it equals the record in
    /// every column. Any other row under the id is another writer's: it stays, and the record becomes
    /// a reject ([`RejectCode::IdTaken`]).
    ///
    /// A pending file of which nothing was stored before and all is now may be settled at once.
    ///
    /// Stores nothing of a batch whose file the ledger does not have under this number with this
    /// content and this definition.
    ///
    /// After an error either nothing or everything of the call is stored, and which is unknown.
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault>;

    /// Which ordinals of these files are stored: for each, in the order given, disjoint ascending
    /// ranges. A settled file is covered from 0 to its number of records.
    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault>;

    /// Folds the ledger entries of those files that they cover into the files' rows of
    /// `ingest_files`, with the number of rejects. A settled file stays as it is. Returns those of
    /// the files that are settled now, in the order given.
    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault>;

    /// Notes in the ledger that a file is in quarantine, and why. A settled file stays settled.
    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault>;

    /// Removes what is stored of a file: its rows, its entries in the summary, its rejects, and at
    /// last its number. Rows of other writers under its ids stay. Returns the number of rows.
    ///
    /// It may be killed at any point: from its first step on the file is in the state `removing`, in
    /// which nothing of it is stored again, and another call goes on.
    ///
    /// Fatal if the file was loaded by a definition that neither the ledger nor `datasets` has.
    async fn remove(&self, file_no: u32, datasets: &Datasets) -> Result<u64, Fault>;
}

/// The tables: of the ledger, of the datasets, of their summaries.
#[async_trait]
pub trait Schema: Send + Sync {
    /// Creates the tables that are missing and brings those of the ledger up to date. Several
    /// processes may do it at once. Forward only.
    ///
    /// Fatal if the schema is newer than this binary, or if an existing table does not fit its
    /// dataset; the message names the columns and the statements that change them.
    ///
    /// Fatal, too, if the ledger and a table contradict each other: the table lacks rows that the
    /// ledger has, or has rows of files that the ledger does not know.
    async fn migrate(&self, datasets: &Datasets) -> Result<(), Fault>;

    /// The same, but keeps rows of files that the ledger does not know: new files get numbers above
    /// theirs.
    async fn migrate_keeping_rows(&self, datasets: &Datasets) -> Result<(), Fault>;

    /// The statements by which `migrate` makes all tables in an empty database on this server, in
    /// order.
    async fn schema(&self, datasets: &Datasets) -> Result<Vec<String>, Fault>;

    /// What `doctor` reports of the server's settings, the account's rights and the tables.
    async fn inspect(&self, datasets: &Datasets) -> Result<Vec<Finding>, Fault>;
}

/// A file on its way into the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// Its identity.
    pub hash: ContentHash,
    /// The dataset's name; empty for a quarantined file that no dataset matches.
    pub dataset: String,
    /// Its name, as text: bytes that are not UTF-8 are replaced. At most 255 bytes.
    pub name: String,
    /// Stored bytes.
    pub bytes: u64,
    /// How many records it holds; 0 for a file that goes to quarantine.
    pub records: u32,
    /// What its dataset's definition means; `None` without a dataset.
    pub definition: Option<Fingerprint>,
}

/// The answer of `register` for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Its number, from 1.
    pub file_no: u32,
    /// Its state before this call made it pending.
    pub earlier: EarlierState,
}

/// The state of a file in the ledger before `register`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierState {
    /// Not in the ledger, or in quarantine.
    New,
    /// Registered and not settled: a run ended early, or another process is loading it.
    Pending,
    /// All of it is stored: the file is a duplicate, or its move to history is still due.
    Settled,
    /// Pending, and registered by another definition or with another number of records: its ordinals
    /// or its rows mean something else. Some of it may be stored. `register` changes nothing.
    OtherDefinition,
    /// Quarantined after some of it was stored by another definition, or about to be removed.
    /// `register` changes nothing: what is stored of it has to be [removed](Sink::remove) first.
    BegunOtherwise,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows stored by this call.
    pub rows: u64,
    /// Rows that were stored already.
    pub duplicates: u64,
    /// Why rows were refused, once for each of them; they are rejects now.
    pub refused: Vec<RejectCode>,
    /// The files of the batches that were left out because this ledger does not have them.
    pub foreign: Vec<SourceFile>,
}

/// A settled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The file.
    pub file_no: u32,
    /// Its identity. The caller checks that it is that of the file it asked about.
    pub hash: ContentHash,
    /// Its records.
    pub records: u32,
    /// How many of them are rejects. The others are rows.
    pub rejects: u32,
}
