//! Seam 2: the database, which holds rows, rejects and the ledger. The ledger is the truth.
//!
//! The seam has nine traits, one for each caller. [`Sink`] is the contract of exactly-once; ingest
//! and workers call nothing else. [`SummaryStore`] keeps the daily summary, [`Schema`] creates and
//! checks the tables, [`Operators`] serves commands and the status page, [`Contents`] compares rows
//! with their records, [`Erasures`] erases single records, [`Indexes`] defers secondary indexes,
//! [`Retention`] keeps partitions, [`Nodes`] knows the processes of the service. A [`Database`]
//! implements all nine.
//!
//! # Contract of every method
//! A method may be called again after any error. After an error whose outcome is unknown (the
//! connection was lost during COMMIT), the caller must call it again. No method bases a write on an
//! earlier read that holds no lock.
//!
//! # Errors of every method
//! Transient: the server cannot be reached, does not answer in time, or cannot run the statement
//! now (a deadlock, a full disk). Fatal: the account lacks a right, or the tables are not as the
//! engine expects them. The documentation of a method adds only its particular errors.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::batch::{Batch, ContentHash, RejectCode, SourceFile};
use crate::dataset::{Datasets, Fingerprint, PathValues};
use crate::fault::Fault;
use crate::finding::Finding;
use crate::frame::FrameKey;
use crate::reread::Reread;
use crate::telemetry;

mod audit;
mod cells;
mod conflict;
mod contents;
mod definitions;
mod elsewhere;
mod erasures;
mod identities;
mod indexes;
mod keys;
mod lost;
mod migrations;
mod mismatch;
pub mod mysql;
mod nodes;
mod open;
mod operators;
mod partitions;
mod removal;
mod retention;
mod same;
pub mod sqlite;
mod stored;
mod summary;
mod table;
mod triggers;
mod view;

pub use audit::{Audit, Standing};
pub use cells::rows_as_json;
pub use contents::{Change, Contents, Difference, DifferenceKind, KeptReplay, ProblemDigest};
pub use erasures::{Blank, ErasedBytes, Erasure, Erasures, KnownBytes};
pub use indexes::{Charge, IndexedTable, Indexes, KeptIndex};
pub use mysql::{Lag, Replicas};
pub use nodes::{Beat, NewNode, NodeEntry, NodeId, Nodes, TakenOver};
pub use open::{Database, open};
pub use operators::{
    Acknowledged, FieldCount, FileEntry, FileState, LedgerFile, OpenReject, Operators, Purge,
    REASON_MESSAGE_CHARS, RejectEntry, RejectQuery, RejectReason, Replay, Replayed, Totals,
};
pub use partitions::without_partitions;
pub use retention::{Kept, PARTITIONS_FULL, ROWS_MOVED_MAX, Retention, RetiredPartition};
pub use summary::{LastEvent, Merged, SummaryStore, Unsummarised};

/// Rows of one INSERT, on servers where a statement takes any number. All values of a statement are
/// in memory at once: with more rows, they do not fit the cache of a core. Fewer rows cost more
/// packets.
const ROWS_PER_STATEMENT: usize = 1_000;

/// Connections for commits: one more than the cores of a small machine. More connections wait for
/// each other: with eight, a load is a quarter slower than with three.
const CONNECTIONS: usize = 3;

/// The next step if the ledger has no file number left. An id has 31 bits for the number.
const NUMBERS_USED_UP: &str = "if the highest file_no of ingest_files is below 2147483647, the last \
    number, set its counter back (MySQL: ALTER TABLE ingest_files AUTO_INCREMENT = 1; SQLite: DELETE \
    FROM sqlite_sequence WHERE name = 'ingest_files'); else load into another database";

/// How a database is used. SQLite, which has one writer and no login, ignores all options.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    /// Most commits at a time, each on its own connection. At least one.
    pub connections: usize,
    /// Most rows of one INSERT statement. At least one.
    pub rows_per_statement: usize,
    /// Where the URL is read again if the server refuses the login. `None` if it is in no file.
    pub reread: Option<Reread>,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            rows_per_statement: ROWS_PER_STATEMENT,
            reread: None,
        }
    }
}

/// Counts a fault of the database in the metrics. Both dialects call it where they create a fault,
/// so the stages do not count.
fn counted(fault: Fault) -> Fault {
    telemetry::sink_error(if fault.is_transient() {
        "transient"
    } else {
        "fatal"
    });
    fault
}

/// The contract of exactly-once: how the stages write and read rows, rejects and the ledger.
#[async_trait]
pub trait Sink: Send + Sync {
    /// How many commits can run at a time.
    fn writers(&self) -> usize;

    /// Enters files into the ledger, many in one round trip, and returns their numbers in the order
    /// of `files`. A number belongs to one content in one dataset. A file that was quarantined
    /// becomes pending again, unless some of its records are stored by another definition. If the
    /// same content is in quarantine for another dataset, and `files` does not have it for that
    /// dataset, that entry becomes the entry of the file. If a file is given with a path, the
    /// ledger holds this path from then on. After an error, some of the files may be registered.
    ///
    /// `files` has all parts of a file. If the ledger has a file with the same name and content for a
    /// dataset that is no part of it, the settings have changed: `datasets` are those of now. What
    /// was begun for the other dataset is not loaded beside it, as with another definition, and what
    /// was settled for a dataset that no longer exists, in the table of the file's dataset, is
    /// settled: the dataset was renamed. The same holds if the definition of the file's dataset took
    /// other values from its path, or none: the entry of the same content, name and path is the
    /// file's.
    async fn register(
        &self,
        files: &[NewFile],
        datasets: &Datasets,
    ) -> Result<Vec<Registered>, Fault>;

    /// Stores rows and rejects and, after them in the same transaction, the ledger entries of the
    /// spans. Rows and rejects that are already stored do not change. A row whose values the
    /// database refuses becomes a reject with the same id, and its neighbours are stored.
    ///
    /// A row of the table counts as already stored if the ledger covers its record, or if it equals
    /// the record in every column. Any other row with the id belongs to another program: it stays,
    /// and the record becomes a reject ([`RejectCode::IdTaken`]).
    ///
    /// If the dataset has a key, and a row of another record has the key of a record: with
    /// `on_conflict = "reject"`, the row stays, and the record becomes a reject
    /// ([`RejectCode::KeyTaken`]). Else the better of the two is the row, and the other one is
    /// superseded: it has no row, and the ledger has the id of the row that has its key. The result
    /// does not depend on the order of the calls.
    ///
    /// If one call stores all records of a pending file, it may settle the file.
    ///
    /// Stores nothing of a batch if the ledger does not have its file with this number, this hash
    /// and this definition.
    ///
    /// Stores nothing of a batch if the table refuses its rows whatever they hold, for example
    /// because a partition is missing. The ledger holds the reason until the file is registered
    /// again ([`waiting`](Self::waiting)).
    ///
    /// After an error, each batch is stored as a whole or not at all; which of the two is unknown.
    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault>;

    /// The stored ordinals of these files: for each file, in the order of `file_nos`, disjoint
    /// ascending ranges. A settled file is covered from 0 to its number of records.
    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault>;

    /// Those of these files that wait because the table refuses their rows, each with the reason.
    async fn waiting(&self, file_nos: &[u32]) -> Result<Vec<(u32, String)>, Fault>;

    /// Settles those files whose ledger entries cover all of their records: replaces the entries by
    /// the state and the number of rejects in `ingest_files`. A settled file does not change.
    /// Returns the files that are settled after the call, in the order of `file_nos`.
    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault>;

    /// Records in the ledger that a file is in quarantine, and the reason. A settled file stays
    /// settled.
    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault>;

    /// Whether the limits of its dataset do not hold back a file: the ledger has it in another state
    /// than quarantined, or covers a part of it, or an operator has [released](Operators::release) it.
    /// A sink that keeps nothing holds back each file that is beyond a limit.
    async fn is_past_limits(&self, _file: &NewFile) -> Result<bool, Fault> {
        Ok(false)
    }

    /// Keeps in the ledger that files of archives are stored, as they lie on the disk. Replaces what
    /// it has of the same paths. A sink that keeps nothing recognises nothing, which is safe.
    async fn remember(&self, _files: &[SeenFile]) -> Result<(), Fault> {
        Ok(())
    }

    /// What [`remember`](Self::remember) has kept of these paths: for each settled file, the state,
    /// and the hash of the content that the ledger has under its number.
    async fn remembered(&self, _paths: &[Digest]) -> Result<Remembered, Fault> {
        Ok(Remembered::new())
    }

    /// Those of these settled files of which rows or rejects are missing from the tables. A record whose
    /// superseding row belongs to a file that is being removed is not missing: the end of the removal
    /// decides about it again. Of a file with more than 1,000 records, only the first and the last are looked up. Without files whose table is
    /// missing, and without those whose problems an operator has accepted. A sink that finds none counts
    /// their content as stored.
    async fn lacking(&self, _file_nos: &[u32], _datasets: &Datasets) -> Result<Vec<u32>, Fault> {
        Ok(Vec::new())
    }

    /// What the ledger knows of bytes with these hashes because records were erased: an entry for each
    /// content that has one of them, or for which bytes with one of them stand. A sink that erases
    /// nothing knows nothing.
    async fn known_bytes(&self, _hashes: &[ContentHash]) -> Result<Vec<KnownBytes>, Fault> {
        Ok(Vec::new())
    }

    /// The files that were begun and not ended: pending or quarantined, with some records stored.
    /// Newest first, at most `max`. Without those that were quarantined because they changed: their
    /// reason says what is stored. A sink that finds none lets a file be loaded beside the remains of
    /// its former content.
    async fn begun(&self, _max: usize) -> Result<Vec<Begun>, Fault> {
        Ok(Vec::new())
    }

    /// Removes what the database holds of a file, except its number: its rows, its entries in the
    /// summary and its rejects. Rows of other programs with its ids stay.
    ///
    /// It may be killed at any point. From its first step on, the file has the state `removing`:
    /// none of its records is stored again, and another call continues. It keeps this state until
    /// [`end_removal`](Self::end_removal), so that the caller can make other files whole first.
    ///
    /// Fatal if the file was loaded by a definition that neither the ledger nor `datasets` has, if
    /// the table with its rows is missing, or if a table does not let its rows be removed. If the
    /// table is missing, and the dataset of this name now has another table with rows of the file,
    /// they are removed from that one: the table was renamed. A missing table that the dataset still
    /// has was dropped.
    async fn remove(&self, file_no: u32, datasets: &Datasets) -> Result<Removed, Fault>;

    /// Removes the number of a file of which [`remove`](Self::remove) has removed the rest. Its content
    /// counts as new from then on.
    async fn end_removal(&self, file_no: u32) -> Result<(), Fault>;
}

/// The tables: of the ledger, of the datasets, of their summaries.
#[async_trait]
pub trait Schema: Send + Sync {
    /// Creates missing tables, and runs the migrations of the ledger. Several processes may call it
    /// at once. Forward only.
    ///
    /// Fatal if the schema is newer than this binary, or if an existing table does not fit its
    /// dataset; the message names the columns and the statements that change them.
    ///
    /// Fatal if the ledger and a table contradict each other: the table is missing or has no row of
    /// the newest file that has rows by the ledger, or it has rows of files that are not in the
    /// ledger.
    async fn migrate(&self, datasets: &Datasets) -> Result<(), Fault>;

    /// As [`migrate`](Self::migrate), and does what the user asks for.
    async fn migrate_as(&self, datasets: &Datasets, asked: Migration) -> Result<(), Fault>;

    /// The key of the checksums of frames: random, made by the first call, the same for all
    /// processes. Needs the tables.
    async fn frame_key(&self) -> Result<FrameKey, Fault>;

    /// The same key. `None` if it is not made yet, also without tables.
    async fn stored_frame_key(&self) -> Result<Option<FrameKey>, Fault>;

    /// The statements, in order, that `migrate` runs in an empty database on this server.
    async fn schema(&self, datasets: &Datasets) -> Result<Vec<String>, Fault>;

    /// The findings of `doctor` about the server's settings, the account's rights and the tables.
    async fn inspect(&self, datasets: &Datasets) -> Result<Vec<Finding>, Fault>;
}

/// The first half of a BLAKE3 hash.
pub type Digest = [u8; 16];

/// The entries of each path: its state, and the hash of the content.
pub type Remembered = HashMap<Digest, Vec<(Digest, ContentHash)>>;

/// A file of an archive whose records are all stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFile {
    /// A digest of its path.
    pub path: Digest,
    /// A digest of all that must be equal for the file to be recognised.
    pub state: Digest,
    /// The numbers under which its records are stored: one for each dataset.
    pub file_nos: Vec<u32>,
}

/// What was removed of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Its rows.
    pub rows: u64,
    /// Records of other files that its rows superseded, by file: they are missing until they are stored
    /// again. Another call returns those that are still missing.
    pub superseded: Vec<(u32, u64)>,
}

/// A file that was begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The number of the file.
    pub file_no: u32,
    /// The hash of the file's bytes.
    pub content: ContentHash,
    /// The file's dataset.
    pub dataset: String,
    /// The file's name.
    pub name: String,
    /// The path of the file in an archive. `None` for a file of inbound.
    pub path: Option<PathBuf>,
    /// Size of the file on the disk, in bytes.
    pub bytes: u64,
}

/// The codes of files that are beyond a limit of their dataset. An operator may release them.
pub const LIMIT_CODES: [&str; 2] = ["too_many_rejects", "too_few_records"];

/// The reason in the ledger of a file that an operator has released.
const RELEASED: &str = "released: the next load of it ignores the limits of its dataset";

/// The query for [`Sink::is_past_limits`], the same in both dialects.
fn past_limits() -> String {
    format!(
        "SELECT COUNT(*) FROM ingest_files WHERE hash = ? AND dataset = ? AND (state <> 'quarantined' OR \
         reason = '{RELEASED}' OR EXISTS (SELECT 1 FROM ingest_frames e WHERE e.file_no = \
         ingest_files.file_no))"
    )
}

/// The query for [`Sink::begun`], the same in both dialects.
fn begun(max: usize) -> String {
    format!(
        "SELECT f.file_no, COALESCE(i.content, f.hash), f.dataset, f.name, f.path, f.bytes FROM (SELECT \
         DISTINCT file_no FROM ingest_frames) e JOIN ingest_files f ON f.file_no = e.file_no LEFT JOIN \
         ingest_identities i ON i.hash = f.hash WHERE f.state IN ('pending', 'quarantined') AND \
         COALESCE(f.reason, '') NOT LIKE 'changed:%' ORDER BY f.file_no DESC LIMIT {max}"
    )
}

/// What a migration does only if the user asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a wish by itself")]
pub struct Migration {
    /// Keeps rows of files that are not in the ledger: new files get higher numbers.
    pub keep_rows: bool,
    /// Adds the columns and the secondary indexes that a definition has and its existing table
    /// lacks. Rows that exist have NULL in a new column.
    pub add: bool,
    /// Ends after the tables of the ledger: compares neither them nor the tables of the datasets.
    pub ledger_only: bool,
    /// Accepts a summary whose days are those of another time zone than its definition has: the
    /// caller computes them again.
    pub any_zone: bool,
}

/// A file to be entered into the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// The identity of the file.
    pub hash: ContentHash,
    /// What the identity consists of. `None` if it is the hash of the file's bytes.
    pub taken: Option<Taken>,
    /// The dataset's name. Empty for a quarantined file that no dataset takes.
    pub dataset: String,
    /// The file's name, as text: bytes that are not UTF-8 are replaced. At most 255 bytes.
    pub name: String,
    /// The absolute path of a file of an archive, which stays there. `None` for a file of inbound.
    pub path: Option<PathBuf>,
    /// Size of the file on the disk, in bytes.
    pub bytes: u64,
    /// How many records the file holds. 0 for a file that goes to quarantine.
    pub records: u32,
    /// The [mark](crate::content::mark) of the file as it was read. `None` if it was not read.
    pub mark: Option<u64>,
    /// What its dataset's definition means; `None` without a dataset.
    pub definition: Option<Fingerprint>,
}

/// The identity of a file whose definition takes values from its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The hash of the file's bytes.
    pub content: ContentHash,
    /// The values.
    pub values: PathValues,
}

/// The result of `register` for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// The number of the file, from 1.
    pub file_no: u32,
    /// The state of the file before this call made it pending.
    pub earlier: EarlierState,
    /// When the file was entered into the ledger for the first time, in microseconds since the
    /// epoch.
    pub registered_at_us: i64,
}

/// The state of a file in the ledger before `register`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierState {
    /// Not in the ledger, or in quarantine.
    New,
    /// Registered and not settled: a run ended early, or another process is loading the file.
    Pending,
    /// All records are stored: the file is a duplicate, or has not been moved to history yet.
    Settled,
    /// Pending, and registered by another definition, for another dataset or with another number of
    /// records: its ordinals or rows have another meaning. Some of its records may be stored.
    /// `register` changes nothing, except that an entry of another dataset goes to quarantine.
    OtherDefinition,
    /// Quarantined after some of its records were stored by another definition, or being removed.
    /// `register` changes nothing: the file has to be [removed](Sink::remove) first.
    BegunOtherwise,
}

/// The result of a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Committed {
    /// How many rows this call stored.
    pub rows: u64,
    /// How many rows were already stored.
    pub duplicates: u64,
    /// How many records of the batches this call superseded: they have no row.
    pub superseded: u64,
    /// How many rows that were stored this call superseded: each has a row in its place.
    pub replaced: u64,
    /// The code of each row that became a reject in this call.
    pub refused: Vec<RejectCode>,
    /// The files of batches that were left out because the table refuses their rows now.
    pub waiting: Vec<WaitingFile>,
    /// The files of batches that were left out, because the ledger does not have the file.
    pub foreign: Vec<SourceFile>,
}

impl Committed {
    /// Adds the result of another commit.
    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.duplicates += other.duplicates;
        self.superseded += other.superseded;
        self.replaced += other.replaced;
        self.refused.extend(other.refused);
        self.waiting.extend(other.waiting);
        self.foreign.extend(other.foreign);
    }
}

/// A file whose rows the table refuses now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingFile {
    /// The file.
    pub file: SourceFile,
    /// The database's message, and the next step for the operator.
    pub reason: String,
}

/// A settled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The number of the file.
    pub file_no: u32,
    /// The identity of the file. The caller compares it with the file that it asked about.
    pub hash: ContentHash,
    /// How many records the file has.
    pub records: u32,
    /// How many of the records are rejects. The others are rows.
    pub rejects: u32,
}
