//! What commands and the status page ask of the database, and the two changes that operators make in
//! it: a corrected record replaces its reject, and rejects are removed for good.

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, ContentHash, RejectCode};
use crate::dataset::Dataset;
use crate::fault::Fault;
use crate::sink::cells::cut_message;
use crate::timestamp;

/// The reads and repairs of operators. Contract and errors: see [`sink`](super).
#[async_trait]
pub trait Operators: Send + Sync {
    /// Sums over the ledger.
    async fn totals(&self) -> Result<Totals, Fault>;

    /// Files of the ledger with a number in `file_nos`, only those in `state` if one is given;
    /// newest first, at most `max`. To page, ask again for the numbers below the last.
    async fn files(
        &self,
        file_nos: Range<u32>,
        state: Option<FileState>,
        max: usize,
    ) -> Result<Vec<LedgerFile>, Fault>;

    /// The last `max` files of the ledger, newest first.
    async fn last_files(&self, max: usize) -> Result<Vec<FileEntry>, Fault> {
        let files = self.files(0..u32::MAX, None, max).await?;
        Ok(files.into_iter().map(|file| file.entry).collect())
    }

    /// How many rows the table of a dataset holds.
    async fn count_rows(&self, dataset: &Arc<Dataset>) -> Result<u64, Fault>;

    /// What is stored of the records of settled files of one dataset, in the order given; all of
    /// it seen at one moment. Reads every id between the least and the largest number, so the files
    /// should be neighbours.
    async fn audit(&self, dataset: &Arc<Dataset>, file_nos: &[u32]) -> Result<Vec<Audit>, Fault>;

    /// Ids of rows of a dataset in this range, ascending, at most `max`.
    async fn row_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<u64>, Fault>;

    /// What became of a record. If the table has a row under the id of a reject, the reject counts:
    /// the row is another writer's.
    async fn standing(&self, dataset: &Arc<Dataset>, id: u64) -> Result<Standing, Fault>;

    /// How many rejects there are of each reason. Reads all rejects.
    async fn reject_counts(&self) -> Result<Vec<(RejectCode, u64)>, Fault>;

    /// The rejects that fit, newest first (by file, then ordinal), at most `max`.
    async fn find_rejects(&self, query: &RejectQuery, max: usize)
    -> Result<Vec<OpenReject>, Fault>;

    /// Replaces rejects by records. Each is stored under its own id, its reject (also a purged one) is
    /// removed, its text is kept in the ledger, and the summary takes it in, all in one transaction. A
    /// row that is stored already stays as it is; if it does not equal the record, the reject stays,
    /// too. A record that the database refuses stays a reject. Returns what became of each, in the
    /// order given.
    ///
    /// After an error either nothing or everything of the call is done, and which is unknown.
    ///
    /// # Panics
    /// If a batch is anything but one row.
    async fn replay(&self, records: &[Replay]) -> Result<Vec<Replayed>, Fault>;

    /// How many rejects a purge would remove.
    async fn count_purge(&self, purge: &Purge) -> Result<u64, Fault>;

    /// Removes rejects of settled files for good, at most `max` of them, and keeps their places
    /// for the audit. Returns how many; call again until it returns 0.
    async fn purge(&self, purge: &Purge, max: usize) -> Result<u64, Fault>;
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
    /// Files that are being removed, with all that is stored of them.
    #[serde(default)]
    pub removing: u64,
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
    /// About to be removed, with all that is stored of it.
    Removing,
}

impl FileState {
    /// Every state.
    pub const ALL: [Self; 4] = [
        Self::Pending,
        Self::Settled,
        Self::Quarantined,
        Self::Removing,
    ];

    /// The state as the ledger, messages and JSON spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Settled => "settled",
            Self::Quarantined => "quarantined",
            Self::Removing => "removing",
        }
    }

    /// The state of this spelling; `None` if there is none.
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

/// A file in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its number.
    pub file_no: u32,
    /// Its name.
    pub name: String,
    /// Its dataset; empty if none matched.
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

/// A reject in the database.
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
    /// The record as it is in the file, as [`Reject::raw`](crate::batch::Reject) has it.
    pub raw: Vec<u8>,
    /// What the database said of the row. `None` if it said nothing, or was not asked.
    pub message: Option<String>,
}

/// A file in the ledger, with its identity and times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerFile {
    /// Number, name, dataset, state and counts.
    pub entry: FileEntry,
    /// Its identity: the hash of the file's bytes.
    pub hash: ContentHash,
    /// Where it was in an archive. `None` for a file of inbound.
    pub path: Option<PathBuf>,
    /// When it was registered first, in UTC.
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
    /// Purged rejects that did not become rejects again.
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

/// Which rejects are asked for. A field that is `None` excludes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RejectQuery {
    /// Of this file.
    pub file_no: Option<u32>,
    /// With this reason.
    pub code: Option<RejectCode>,
    /// Only this ordinal.
    pub ordinal: Option<u32>,
    /// Older than this one (file, ordinal), to page.
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

/// A reject, and when it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReject {
    /// The reject.
    pub entry: RejectEntry,
    /// When it was stored, in UTC.
    pub rejected_at: String,
}

/// A record that is to take the place of its reject.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// The record as one row.
    pub record: Batch,
    /// Its text. The ledger keeps it, since the row is not made of the file any more.
    pub text: String,
}

/// What became of a replayed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// It is a row now, and no longer a reject.
    Stored,
    /// It was a row already.
    AlreadyThere,
    /// The database refuses it; it stays a reject.
    Refused {
        /// Why.
        code: RejectCode,
        /// What the database said. `None` if it said nothing.
        message: Option<String>,
    },
    /// The record was neither row nor reject: nothing was done.
    NoReject,
}

/// Which rejects are removed. Only those of settled files are: those of others may be stored again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purge {
    /// Of this file only.
    pub file_no: Option<u32>,
    /// Only those stored before this moment, in microseconds since the epoch, UTC.
    pub before_us: Option<i64>,
}

impl Purge {
    /// The rejects of this purge as SQL from FROM on, the same in both dialects: numbers, and a time
    /// that this module formats.
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

impl Replayed {
    pub(super) fn refused(code: RejectCode, message: Option<&dyn fmt::Display>) -> Self {
        Self::Refused {
            code,
            message: message.map(cut_message),
        }
    }
}

/// Panics unless a record to be replayed is one row.
pub(super) fn assert_one_row(record: &Batch) {
    assert!(
        record.rows.num_rows() == 1 && record.span.records == 1 && record.rejects.is_empty(),
        "a replay is of one row each"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_parsed_from_its_text() {
        for state in FileState::ALL {
            assert_eq!(FileState::parse(state.as_str()), Some(state));
            let json = serde_json::to_value(state).unwrap();
            assert_eq!(json, state.as_str());
            assert_eq!(format!("{state:<12}|").len(), 13);
        }
        assert_eq!(FileState::parse("other"), None);
    }
}
