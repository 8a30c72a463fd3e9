//! The reads of commands and the status page, and the two changes that operators make: a corrected
//! record replaces its reject, and rejects are removed for good.

use std::fmt;
use std::fmt::Write as _;
use std::iter;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, ContentHash, RejectCode};
use crate::dataset::{Dataset, FileValues};
use crate::fault::Fault;
use crate::sink::cells::cut_message;
use crate::sink::{Audit, ErasedBytes, LIMIT_CODES, RELEASED, Standing, Taken};
use crate::timestamp;

/// The reads and repairs of operators. Contract and errors: see [`sink`](super).
#[async_trait]
pub trait Operators: Send + Sync {
    /// Sums over the ledger.
    async fn totals(&self) -> Result<Totals, Fault>;

    /// Files of the ledger with a number in `file_nos` and, if `state` is given, in this state.
    /// Newest first, at most `max`. To page, call again with the numbers below the last one.
    async fn files(
        &self,
        file_nos: Range<u32>,
        state: Option<FileState>,
        max: usize,
    ) -> Result<Vec<LedgerFile>, Fault>;

    /// Rows with a lower file number than this are kept, though the ledger does not have their files:
    /// [`Migration::keep_rows`](super::Migration::keep_rows). 0 if none are. The entry that holds the
    /// number is no file: no other method returns or counts it.
    async fn kept_below(&self) -> Result<u32, Fault>;

    /// The newest time at which a file of each dataset was settled, in seconds since the epoch. Without
    /// datasets that have no such file. Reads the entry of every file.
    async fn last_settled(&self) -> Result<Vec<(String, i64)>, Fault>;

    /// The numbers of files and rejects that an operator has acknowledged.
    async fn acknowledged_totals(&self) -> Result<Acknowledged, Fault>;

    /// Keeps the numbers of files and rejects that an operator acknowledges.
    async fn acknowledge_totals(&self, totals: Acknowledged) -> Result<(), Fault>;

    /// Replaces the acknowledged numbers `from` by the lower ones `to`. Does nothing if they are no
    /// longer `from`: an operator has acknowledged others.
    async fn lower_acknowledged(&self, from: Acknowledged, to: Acknowledged) -> Result<(), Fault>;

    /// Lets a file of quarantine be loaded although it is beyond the limits of its dataset, until it
    /// is settled or quarantined for another reason. A file in another state does not change.
    async fn release(&self, file_no: u32) -> Result<(), Fault>;

    /// The last `max` files of the ledger, newest first.
    async fn last_files(&self, max: usize) -> Result<Vec<FileEntry>, Fault> {
        let files = self.files(0..u32::MAX, None, max).await?;
        Ok(files.into_iter().map(|file| file.entry).collect())
    }

    /// How many rows the table of a dataset has.
    async fn count_rows(&self, dataset: &Arc<Dataset>) -> Result<u64, Fault>;

    /// Counts the stored records of settled files of one dataset, in the order of `file_nos`. All
    /// counts are of the same moment. Reads every id between the lowest and the highest number, so
    /// the numbers should be close to each other.
    async fn audit(&self, dataset: &Arc<Dataset>, file_nos: &[u32]) -> Result<Vec<Audit>, Fault>;

    /// Ids of rows of a dataset in this range, ascending, at most `max`.
    async fn row_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<u64>, Fault>;

    /// How many rows of a dataset have an id in each of these ranges, in their order.
    async fn count_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: &[Range<u64>],
    ) -> Result<Vec<u64>, Fault>;

    /// Whether a record is a row, a reject, superseded or none of these. If the table has a row with
    /// the id of a reject, the record is a reject, and the row belongs to another program.
    async fn standing(&self, dataset: &Arc<Dataset>, id: u64) -> Result<Standing, Fault>;

    /// The number of rejects by reason. Reads all rejects.
    async fn reject_counts(&self) -> Result<Vec<(RejectCode, u64)>, Fault>;

    /// The newest `newest` rejects by reason and field, most frequent first, at most `max` groups.
    async fn newest_rejects_by_field(
        &self,
        newest: usize,
        max: usize,
    ) -> Result<Vec<FieldCount>, Fault>;

    /// The number of rejects by reason. A reason of the database has the message of its newest reject,
    /// with at most [`REASON_MESSAGE_CHARS`] characters.
    async fn reject_reasons(&self) -> Result<Vec<RejectReason>, Fault> {
        let mut reasons = Vec::new();
        for (code, records) in self.reject_counts().await? {
            let query = RejectQuery {
                code: Some(code),
                ..RejectQuery::default()
            };
            let newest = if code.is_of_database() {
                self.find_rejects(&query, 1).await?.pop()
            } else {
                None
            };
            let message = newest.and_then(|newest| newest.entry.message);
            reasons.push(RejectReason {
                code,
                records,
                message: message.map(|text| text.chars().take(REASON_MESSAGE_CHARS).collect()),
            });
        }
        Ok(reasons)
    }

    /// The rejects that match the query, newest first (by file, then ordinal), at most `max`.
    async fn find_rejects(&self, query: &RejectQuery, max: usize)
    -> Result<Vec<OpenReject>, Fault>;

    /// Replaces rejects by records. One transaction stores each row with its id, removes its reject
    /// (even a purged one), keeps its text in the ledger, and adds it to the summary. A row that is
    /// already stored does not change; if it does not equal the record, the reject stays as well. A
    /// record that the database refuses stays a reject. Returns the result for each record, in the
    /// order of `records`.
    ///
    /// After an error, either nothing or everything of the call is done; which of the two is
    /// unknown.
    ///
    /// # Panics
    /// If a batch does not have exactly one row.
    async fn replay(&self, records: &[Replay]) -> Result<Vec<Replayed>, Fault>;

    /// How many rejects a purge would remove.
    async fn count_purge(&self, purge: &Purge) -> Result<u64, Fault>;

    /// Removes at most `max` rejects of settled files for good, and keeps their ids for the audit.
    /// Returns how many were removed. Call again until it returns 0.
    async fn purge(&self, purge: &Purge, max: usize) -> Result<u64, Fault>;
}

/// Most characters of a message that [`Operators::reject_reasons`] returns: two lines of a page.
pub const REASON_MESSAGE_CHARS: usize = 200;

/// A reason of rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectReason {
    /// The reason.
    pub code: RejectCode,
    /// The number of rejects.
    pub records: u64,
    /// The database's message about the newest of them. `None` if the database did not refuse a row.
    pub message: Option<String>,
}

/// Sums over the ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Files registered and not settled. A file of several datasets counts once in each state that one
    /// of its parts has.
    pub pending: u64,
    /// Files settled.
    pub settled: u64,
    /// Files in quarantine.
    pub quarantined: u64,
    /// Files whose rows and rejects are being removed.
    #[serde(default)]
    pub removing: u64,
    /// Records of settled files.
    pub records: u64,
    /// Rejects, all of them.
    pub rejects: u64,
    /// Records that are superseded by the row of another record with the same key.
    #[serde(default)]
    pub superseded: u64,
}

/// What of the totals an operator has acknowledged: status asks to look only at what is above these
/// numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Acknowledged {
    /// Files in quarantine.
    pub quarantined: u64,
    /// Rejects.
    pub rejects: u64,
}

/// The name of [`Acknowledged`] in `ingest_settings`.
pub(super) const ACKNOWLEDGED: &str = "acknowledged_totals";

impl Acknowledged {
    /// Everything that there is now.
    #[must_use]
    pub fn all_of(totals: Totals) -> Self {
        Self {
            quarantined: totals.quarantined,
            rejects: totals.rejects,
        }
    }

    /// At most what there is now. If a file left quarantine, the next one that goes there is new.
    #[must_use]
    pub fn at_most(self, totals: Totals) -> Self {
        Self {
            quarantined: self.quarantined.min(totals.quarantined),
            rejects: self.rejects.min(totals.rejects),
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("its keys are texts")
    }

    /// Nothing if the value is missing or unreadable.
    pub(super) fn from_bytes(value: Option<&[u8]>) -> Self {
        let parsed = value.and_then(|value| serde_json::from_slice(value).ok());
        parsed.unwrap_or_default()
    }
}

/// The query, in a dialect in which `file` is one file of the aliases `f` and `i`, for the entries of
/// each state that are further parts of files of several datasets. Reads the index of the hashes, and
/// the entries of such files.
pub(super) fn further_parts(file: &str) -> String {
    format!(
        "SELECT f.state, COUNT(*) - COUNT(DISTINCT {file}) FROM (SELECT hash FROM ingest_files GROUP BY \
         hash HAVING COUNT(*) > 1 UNION SELECT hash FROM ingest_identities UNION SELECT content FROM \
         ingest_identities) p JOIN ingest_files f ON f.hash = p.hash LEFT JOIN ingest_identities i ON \
         i.hash = f.hash GROUP BY f.state"
    )
}

impl Totals {
    /// Takes the further entries of files of several datasets away from a state.
    pub(super) fn count_once(&mut self, state: FileState, more: u64) {
        let files = match state {
            FileState::Pending => &mut self.pending,
            FileState::Settled => &mut self.settled,
            FileState::Quarantined => &mut self.quarantined,
            FileState::Removing => &mut self.removing,
        };
        *files = files.saturating_sub(more);
    }
}

/// The states of a file in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Registered. Some of its records are not stored yet.
    Pending,
    /// All of its records are stored.
    Settled,
    /// In quarantine, with a reason.
    Quarantined,
    /// Its rows and rejects are being removed.
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

    /// The state as the ledger, messages and JSON hold it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Settled => "settled",
            Self::Quarantined => "quarantined",
            Self::Removing => "removing",
        }
    }

    /// The state with this text; the way back from [`as_str`](Self::as_str).
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
    /// The number of the file.
    pub file_no: u32,
    /// The file's name.
    pub name: String,
    /// The file's dataset. Empty if no dataset takes it.
    pub dataset: String,
    /// The file's state.
    pub state: FileState,
    /// Size of the file on the disk, in bytes.
    pub bytes: u64,
    /// How many records the file has.
    pub records: u32,
    /// How many of the records are rejects. 0 if the file is not settled.
    pub rejects: u32,
    /// Why the file is in quarantine.
    pub reason: Option<String>,
}

impl FileEntry {
    /// Whether the file is in quarantine because it is beyond a limit of its dataset, or was released
    /// and is not loaded yet.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let reason = self.reason.as_deref().unwrap_or_default();
        let code = reason.split(':').next().unwrap_or_default();
        self.state == FileState::Quarantined && (LIMIT_CODES.contains(&code) || reason == RELEASED)
    }
}

/// A reject in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectEntry {
    /// The number of the file.
    pub file_no: u32,
    /// The ordinal of the record.
    pub ordinal: u32,
    /// The reason.
    pub code: RejectCode,
    /// The field that has the problem.
    pub field: Option<String>,
    /// Where the record begins in the file: [`Reject::byte_offset`](crate::batch::Reject).
    pub byte_offset: u64,
    /// The beginning of the record, or the refused row: [`Reject::raw`](crate::batch::Reject).
    pub raw: Vec<u8>,
    /// The message of the database about the row. `None` if the database did not refuse a row.
    pub message: Option<String>,
}

/// A file in the ledger, with its identity and times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerFile {
    /// Number, name, dataset, state and counts.
    pub entry: FileEntry,
    /// The identity of the file.
    pub hash: ContentHash,
    /// What the identity consists of. `None` if it is the hash of the file's bytes.
    pub taken: Option<Taken>,
    /// What stands for its bytes, if records of it were erased.
    pub erased: ErasedBytes,
    /// The path of the file in an archive. `None` for a file of inbound.
    pub path: Option<PathBuf>,
    /// The [mark](crate::content::mark) of the file as it was read. `None` for a file of an earlier
    /// release.
    pub mark: Option<u64>,
    /// When the file was registered for the first time, in UTC, by RFC 3339.
    pub registered_at: String,
    /// When the file was settled, in UTC, by RFC 3339.
    pub settled_at: Option<String>,
}

impl LedgerFile {
    /// The hash of the file's bytes.
    #[must_use]
    pub fn content(&self) -> ContentHash {
        self.taken.as_ref().map_or(self.hash, |taken| taken.content)
    }

    /// Whether bytes with this hash are those of the file: as delivered, or with records blank that were
    /// erased.
    #[must_use]
    pub fn has_bytes(&self, hash: ContentHash) -> bool {
        let stand_ins = || self.erased.stand_ins.iter();
        hash == self.content() || stand_ins().any(|(stand_in, _)| *stand_in == hash)
    }

    /// The sizes on the disk that its bytes may have.
    #[must_use]
    pub fn sizes(&self) -> Vec<u64> {
        let stand_ins = self.erased.stand_ins.iter().map(|(_, bytes)| *bytes);
        iter::once(self.entry.bytes).chain(stand_ins).collect()
    }

    /// The values that the columns of `dataset` take from the file besides its bytes: those of its
    /// load. A part of the path that its load did not take is that of the path in the ledger. `None`
    /// if no column takes a value.
    #[must_use]
    pub fn values(&self, dataset: &Dataset) -> Option<Arc<FileValues>> {
        if !dataset.takes_of_file() {
            return None;
        }
        let path = match &self.path {
            Some(path) => path.as_os_str().as_encoded_bytes(),
            None => self.entry.name.as_bytes(),
        };
        let mut values = dataset.path_values(path);
        if let Some(taken) = &self.taken {
            values.update(&taken.values);
        }
        let loaded_at_us = timestamp::parse(&self.registered_at);
        Some(Arc::new(FileValues {
            path: values,
            loaded_at_us: loaded_at_us.filter(|_| dataset.takes_time()),
        }))
    }
}

/// Selects rejects. A field that is `None` excludes no reject.
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
    /// When the reject was stored, in UTC, by RFC 3339.
    pub rejected_at: String,
}

/// The number of rejects with one reason and one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldCount {
    /// The reason.
    pub code: RejectCode,
    /// The field that has the problem.
    pub field: Option<String>,
    /// Their number.
    pub rejects: u64,
}

/// The statement of [`Operators::newest_rejects_by_field`], the same in both dialects.
pub(super) fn by_field(newest: usize, max: usize) -> String {
    format!(
        "SELECT code, field, COUNT(*) FROM (SELECT code, field FROM ingest_rejects ORDER BY file_no \
         DESC, ordinal DESC LIMIT {newest}) newest GROUP BY code, field ORDER BY COUNT(*) DESC, code, \
         field LIMIT {max}"
    )
}

/// A corrected record that replaces its reject.
#[derive(Debug, Clone, PartialEq)]
pub struct Replay {
    /// The record as one row.
    pub record: Batch,
    /// The text of the record. The ledger keeps it, since the file does not have it.
    pub text: String,
}

/// The result for a replayed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// The record is a row now, and no longer a reject.
    Stored,
    /// The record was already a row.
    AlreadyThere,
    /// The database refuses the row, and the record stays a reject.
    Refused {
        /// Why.
        code: RejectCode,
        /// The database's message. `None` if it has none.
        message: Option<String>,
    },
    /// The record was neither row nor reject: nothing was changed.
    NoReject,
}

/// Selects the rejects that are removed. Only rejects of settled files are removed, since those of
/// other files may be stored again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purge {
    /// Of this file only.
    pub file_no: Option<u32>,
    /// Only those stored before this moment, in microseconds since the epoch, UTC.
    pub before_us: Option<i64>,
}

impl Purge {
    /// The rejects of this purge as SQL from FROM on, the same in both dialects: numbers, and a
    /// time that this module formats.
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

/// Panics if a record to be replayed is not exactly one row.
pub(super) fn assert_one_row(record: &Batch) {
    assert!(
        record.rows.num_rows() == 1 && record.span.records == 1 && record.rejects.is_empty(),
        "a replayed record is exactly one row"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_is_parsed_from_its_text() {
        for state in FileState::ALL {
            assert_eq!(FileState::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(format!("{state:<12}|").len(), 13);
        }
        assert_eq!(FileState::parse("other"), None);
    }
}
