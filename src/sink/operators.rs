//! What operators ask of the database, and the two things that they may change in it: a corrected
//! record takes the place of its reject, and rejects are removed for good.
//!
//! A part of seam 2, kept apart from [`Sink`] because the engine needs none of it; each dialect
//! has it in its own `operators.rs`. The contract common to all methods of [`Sink`] holds here as
//! well: each is safe to call again.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use super::{FileEntry, FileState, RejectEntry, Sink};
use crate::batch::{Batch, ContentHash, RejectCode};
use crate::dataset::Dataset;
use crate::fault::Fault;
use crate::timestamp;

/// The reads and repairs of operators.
#[async_trait]
pub trait Ledger: Sink {
    /// Files of the ledger with a number in `file_nos`, in this state where one is given; newest
    /// first, at most `max`. To page, ask again for the numbers below the last.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn ledger_files(
        &self,
        file_nos: Range<u32>,
        state: Option<FileState>,
        max: usize,
    ) -> Result<Vec<LedgerFile>, Fault>;

    /// What is stored of the records of settled files of one dataset, in the order given; all of
    /// it seen at one moment. Reads every id between the least and the largest number, so that
    /// neighbours are asked about together.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn audit(&self, dataset: &Arc<Dataset>, file_nos: &[u32]) -> Result<Vec<Audit>, Fault>;

    /// Ids of rows of a dataset in this range, ascending, at most `max`.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn row_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<u64>, Fault>;

    /// What became of a record. Where there is both a row and a reject, the row counts.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn standing(&self, dataset: &Arc<Dataset>, id: u64) -> Result<Standing, Fault>;

    /// The rejects that fit, newest first (by file, then ordinal), at most `max`.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn find_rejects(&self, query: &RejectQuery, max: usize)
    -> Result<Vec<OpenReject>, Fault>;

    /// Puts corrected records in the place of their rejects. Each batch is one record, which is a
    /// row: it is stored under its own id, its reject (also a purged one) is removed, and the summary
    /// takes it in, all in one transaction. A row that is there already stays as it is. What the
    /// database refuses stays a reject. Returns what became of each, in the order given.
    ///
    /// # Errors
    /// A fault of the connection: nothing or everything of the call is done, and which is unknown.
    ///
    /// # Panics
    /// Where a batch is anything but one row.
    async fn replay(&self, records: &[Batch]) -> Result<Vec<Replayed>, Fault>;

    /// How many rejects a purge would remove.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn count_purge(&self, purge: &Purge) -> Result<u64, Fault>;

    /// Removes rejects of settled files for good, at most `max` of them, and keeps their places
    /// for the audit. Returns how many; call again until there are none.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn purge(&self, purge: &Purge, max: usize) -> Result<u64, Fault>;
}

/// All that the ledger has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerFile {
    /// Number, name, dataset, state and counts.
    pub entry: FileEntry,
    /// Its identity, by which the file itself is known again.
    pub hash: ContentHash,
    /// When it was first met, in UTC.
    pub registered_at: String,
    /// When all of it was stored, in UTC.
    pub settled_at: Option<String>,
}

/// What is stored of the records of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audit {
    /// The file.
    pub file_no: u32,
    /// Rows whose id is of this file.
    pub rows: u64,
    /// Rejects.
    pub rejects: u64,
    /// Purged rejects that are not there again.
    pub purged: u64,
    /// Records that are more than one of these.
    pub doubled: u64,
    /// The largest ordinal of any of these.
    pub last_ordinal: Option<u32>,
    /// Entries of the ledger, of which a settled file has none.
    pub entries: u64,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A row of its dataset's table.
    Row,
    /// A reject.
    Reject,
    /// A reject that was purged.
    Purged,
    /// None of these: not stored yet, or lost.
    Absent,
}

/// Which rejects are asked for; what is `None` does not narrow the choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RejectQuery {
    /// Of this file.
    pub file_no: Option<u32>,
    /// With this reason.
    pub code: Option<RejectCode>,
    /// Only this ordinal.
    pub ordinal: Option<u32>,
    /// Older than this one (file, ordinal): how one pages.
    pub before: Option<(u32, u32)>,
}

impl RejectQuery {
    /// The conditions as SQL, the same in both dialects: numbers, and codes of a closed set.
    pub(super) fn condition(&self) -> String {
        let mut all = vec!["1 = 1".to_owned()];
        all.extend(self.file_no.map(|file_no| format!("file_no = {file_no}")));
        all.extend(self.ordinal.map(|ordinal| format!("ordinal = {ordinal}")));
        all.extend(self.code.map(|code| format!("code = '{}'", code.as_str())));
        all.extend(self.before.map(|(file_no, ordinal)| {
            format!("file_no <= {file_no} AND (file_no < {file_no} OR ordinal < {ordinal})")
        }));
        all.join(" AND ")
    }
}

/// A reject, and when it became one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReject {
    /// The reject.
    pub entry: RejectEntry,
    /// When it was stored, in UTC.
    pub rejected_at: String,
}

/// What became of a corrected record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// It is a row now, and a reject no more.
    Stored,
    /// It was a row already.
    AlreadyThere,
    /// The database refuses it; it stays a reject.
    Refused(RejectCode),
    /// The record was neither row nor reject: nothing was done.
    NoReject,
}

/// Which rejects are removed. Those of files that are not settled never are: they may come again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purge {
    /// Of this file only.
    pub file_no: Option<u32>,
    /// Only those stored before this moment, in microseconds since the epoch, UTC.
    pub before_us: Option<i64>,
}

impl Purge {
    /// The rejects meant, as SQL from FROM on, the same in both dialects: numbers, and a time of
    /// our own writing.
    pub(super) fn rejects(&self) -> String {
        const WRITES: &str = "writing to a string does not fail";
        let mut sql = String::from(
            "FROM ingest_rejects r JOIN ingest_files f ON f.file_no = r.file_no WHERE f.state = \
             'settled'",
        );
        if let Some(file_no) = self.file_no {
            write!(sql, " AND r.file_no = {file_no}").expect(WRITES);
        }
        if let Some(before_us) = self.before_us {
            let before = timestamp::text(before_us);
            write!(sql, " AND r.rejected_at < '{before}'").expect(WRITES);
        }
        sql
    }
}

/// Holds a replay to its contract: one record, which is a row.
pub(super) fn assert_one_row(record: &Batch) {
    assert!(
        record.rows.num_rows() == 1 && record.span.records == 1 && record.rejects.is_empty(),
        "a replay is of one row each"
    );
}
