//! Seam 2: the sink is the database: rows, rejects and the ledger, which is the truth.
//!
//! Contract common to all methods: each is safe to call again after any error, and after an error
//! whose outcome is unknown (a lost connection during COMMIT) calling again is the only right
//! thing. None reads first and then decides what to write.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, ContentHash, RejectCode, SourceFile};
use crate::dataset::{Dataset, Datasets};
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::telemetry;

mod cells;
mod migrations;
pub mod mysql;
mod operators;
pub mod sqlite;
mod summary;
mod table;

pub use operators::{
    Audit, Ledger, LedgerFile, OpenReject, Purge, RejectQuery, Replayed, Standing,
};

/// Rows of one statement into MySQL, where a statement takes any number. With more, a core's cache
/// does not hold the values, which are in memory all at once; fewer cost more packets.
const ROWS_PER_STATEMENT: usize = 1_000;

/// Connections for commits. One more than the cores of a small machine: beyond that they only wait
/// for each other, and eight are a quarter slower than three.
const CONNECTIONS: usize = 3;

/// How a sink is used. Each sink takes from it what concerns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkOptions {
    /// Commits at once, each on its own connection, at least one. SQLite has one writer.
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

/// The sink of a URL: `mysql://USER:PASSWORD@HOST:PORT/DATABASE` or `sqlite:PATH`. The tables are
/// not touched: that is [`Sink::migrate`].
///
/// # Errors
/// Fatal for any other URL, and where the database refuses us; transient where it is not there.
pub async fn open(url: &str, options: &SinkOptions) -> Result<Arc<dyn Sink>, Fault> {
    Ok(open_ledger(url, options).await?)
}

/// The same with what operators ask of it.
///
/// # Errors
/// As [`open`].
pub async fn open_ledger(url: &str, options: &SinkOptions) -> Result<Arc<dyn Ledger>, Fault> {
    if url.starts_with("mysql://") {
        return Ok(Arc::new(mysql::MysqlSink::open(url, options).await?));
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        return Ok(Arc::new(sqlite::SqliteSink::open(path).await?));
    }
    // The URL may hold a password, so no more than its scheme is shown.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    Err(Fault::fatal(
        Origin::Sink,
        "the database URL must begin with `mysql://` or `sqlite:`",
        format!("its scheme is `{scheme}`"),
    ))
}

/// The fault of a database, counted: where it is made, so that whoever waits it out need not.
fn counted(fault: Fault) -> Fault {
    telemetry::sink_error(if fault.is_transient() {
        "transient"
    } else {
        "fatal"
    });
    fault
}

/// A settled file that the summary of its dataset lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsummarised {
    /// Its number.
    pub file_no: u32,
    /// Its records.
    pub records: u64,
    /// Its mark in the ledger when it was read: 0 since it was registered; 2 or more since the summary
    /// was emptied. A file with the mark 1 is in the summary.
    pub mark: u8,
}

impl Unsummarised {
    /// Whether its rows have to be read, even by a process that committed them itself: the summary was
    /// emptied since.
    #[must_use]
    pub fn must_be_read(&self) -> bool {
        self.mark > 0
    }
}

/// Rows, rejects and ledger of one database.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Brings the ledger and the tables of the datasets into being, or up to date; does nothing
    /// where they are. Safe with several processes at once. Forward only.
    ///
    /// # Errors
    /// Fatal where the schema is newer than this binary, or an existing table does not fit its
    /// dataset; the message says which column, and what would mend it.
    async fn migrate(&self, datasets: &Datasets) -> Result<(), Fault>;

    /// How many commits can be under way at once.
    fn writers(&self) -> usize;

    /// What matters of the server's settings, the account's rights and the tables, for `doctor`.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn inspect(&self, datasets: &Datasets) -> Result<Vec<Finding>, Fault>;

    /// The statements by which `migrate` makes the ledger and the tables of the datasets on this
    /// server from nothing, in order.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn schema(&self, datasets: &Datasets) -> Result<Vec<String>, Fault>;

    /// Enters files into the ledger, many in one round trip, and tells what it knows of them; in
    /// the order given. A file that was quarantined before becomes pending again, unless some of it
    /// is stored by another definition.
    ///
    /// # Errors
    /// A fault of the connection; some of the files may be registered.
    async fn register(&self, files: &[NewFile]) -> Result<Vec<Registered>, Fault>;

    /// Stores rows, rejects and, after them in the same transaction, the ledger entries of the
    /// spans. Rows and rejects that are there already are left as they are. A row that the database
    /// refuses for its values becomes a reject under its own id, and its neighbours are stored.
    /// A pending file of which nothing was stored before and all is now may be settled at once.
    ///
    /// Of a batch whose file is not in the ledger under this number, or with another content,
    /// nothing is stored.
    ///
    /// # Errors
    /// Nothing or everything of the call is stored, and which of the two is unknown.
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault>;

    /// Which ordinals of these files are stored: for each, in the order given, disjoint ascending
    /// ranges. A settled file is covered from 0 to its number of records.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault>;

    /// Folds the ledger entries of those files that they cover into the files' rows of
    /// `ingest_files`, with the number of rejects. A settled file stays as it is. Returns those of
    /// the files that are settled now, in the order given.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault>;

    /// Notes in the ledger that a file is set aside, and why.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault>;

    /// Settled files of a dataset that its summary does not contain yet, at most `max` of them.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn summary_pending(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<Unsummarised>, Fault>;

    /// The summarised columns of the rows with an id in `ids`, by ascending id, at most `max`.
    ///
    /// # Errors
    /// A fault of the connection.
    ///
    /// # Panics
    /// Where the dataset has no summary.
    async fn summary_scan(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault>;

    /// Merges candidates into the summary: of two for the same key and day the one with the later
    /// time, then the larger id, stays. Then, in the same transaction, marks the files as
    /// summarised, but for those whose mark has changed since it was read. Merging is idempotent and
    /// does not depend on order.
    ///
    /// # Errors
    /// A fault of the connection.
    ///
    /// # Panics
    /// Where the dataset has no summary.
    async fn summary_merge(
        &self,
        dataset: &Arc<Dataset>,
        candidates: &[LastEvent],
        files: &[Unsummarised],
    ) -> Result<(), Fault>;

    /// Empties the summary of a dataset and marks all of its files, settled or not, as to be read: what
    /// a process knows of their rows may have been in the summary already.
    ///
    /// # Errors
    /// A fault of the connection.
    ///
    /// # Panics
    /// Where the dataset has no summary.
    async fn summary_reset(&self, dataset: &Arc<Dataset>) -> Result<(), Fault>;

    /// The last `max` entries of the summary by day and key, newest day first.
    ///
    /// # Errors
    /// A fault of the connection.
    ///
    /// # Panics
    /// Where the dataset has no summary.
    async fn summary_head(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault>;

    /// What the ledger says in sum, for operators.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn totals(&self) -> Result<Totals, Fault>;

    /// The last `max` files of the ledger, newest first, for operators.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn files(&self, max: usize) -> Result<Vec<FileEntry>, Fault>;

    /// The reasons of the last `max` rejects, newest first, for operators. Not the rejects: each may
    /// hold 8 KiB of its record.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn reject_codes(&self, max: usize) -> Result<Vec<RejectCode>, Fault>;

    /// How many rows the table of a dataset holds.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn count_rows(&self, dataset: &Arc<Dataset>) -> Result<u64, Fault>;
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
}

/// What the ledger knows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Its number, from 1.
    pub file_no: u32,
    /// Its state before this call made it pending.
    pub before: Before,
}

/// The state in which `register` met a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Not in the ledger, or in quarantine.
    New,
    /// Registered, and not settled: a run that ended early, or another process at work.
    Pending,
    /// All of it is stored: this is a duplicate, or its move to history is still due.
    Settled,
    /// Not settled, and entered for another dataset or with another number of records: by another
    /// definition, whose ordinals stand for other records. Some of it may be stored. The ledger is
    /// left as it is.
    Otherwise,
}

/// What a commit did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// Rows stored by this call.
    pub rows: u64,
    /// Rows that were there already.
    pub duplicates: u64,
    /// Rows that the database refused, now rejects.
    pub refused: u64,
    /// The batches that were left out, since their files are not in this ledger.
    pub foreign: Vec<SourceFile>,
}

/// What became of a file's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The file.
    pub file_no: u32,
    /// Its identity: whether it is still the file that was asked about is for the caller to see.
    pub hash: ContentHash,
    /// Its records.
    pub records: u32,
    /// Of these, the rejects. The others are rows.
    pub rejects: u32,
}

/// One row of a summary, or a candidate for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastEvent {
    /// The key: a vehicle.
    pub key: String,
    /// When: microseconds since the epoch, UTC. The day follows from it.
    pub time_us: i64,
    /// The kept value: an event type.
    pub value: String,
    /// The row it came from.
    pub id: u64,
}

/// Sums over the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Files registered and not settled.
    pub pending: u64,
    /// Files settled.
    pub settled: u64,
    /// Files in quarantine.
    pub quarantined: u64,
    /// Records of settled files.
    pub records: u64,
    /// Rejects, all of them.
    pub rejects: u64,
}

/// The states of a file in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Registered; some of its records are still to be stored.
    Pending,
    /// All of it is stored.
    Settled,
    /// Set aside, with a reason.
    Quarantined,
}

impl FileState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Settled, Self::Quarantined];

    /// The state as it stands in the ledger, in messages and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Settled => "settled",
            Self::Quarantined => "quarantined",
        }
    }

    /// The state that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A file as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its number.
    pub file_no: u32,
    /// Its name.
    pub name: String,
    /// Its dataset; empty where none matched.
    pub dataset: String,
    /// Its state.
    pub state: FileState,
    /// Stored bytes.
    pub bytes: u64,
    /// Records.
    pub records: u32,
    /// Rejects; known when settled.
    pub rejects: u32,
    /// Why it is in quarantine.
    pub reason: Option<String>,
}

/// A reject as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectEntry {
    /// The file.
    pub file_no: u32,
    /// The record.
    pub ordinal: u32,
    /// The reason.
    pub code: RejectCode,
    /// The field at fault.
    pub field: Option<String>,
    /// Where the record begins in the file, as [`Reject::byte_offset`](crate::batch::Reject) has it.
    pub byte_offset: u64,
    /// The record as it stood in the file, as [`Reject::raw`](crate::batch::Reject) has it.
    pub raw: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_as_they_are_written() {
        for state in FileState::ALL {
            assert_eq!(FileState::parse(state.as_str()), Some(state));
            let json = serde_json::to_value(state).unwrap();
            assert_eq!(json, state.as_str());
            assert_eq!(format!("{state:<12}|").len(), 13);
        }
        assert_eq!(FileState::parse("other"), None);
    }
}
