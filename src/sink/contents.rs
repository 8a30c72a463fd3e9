//! The part of the seam that compares rows with their records, and repairs a file.

use std::sync::Arc;

use async_trait::async_trait;

use crate::batch::{Batch, RejectCode, Span};
use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;

use super::table::quoted;

/// The operations for `verify --content` and the repairs of `files`. Contract and errors: see
/// [`sink`](super).
#[async_trait]
pub trait Contents: Send + Sync {
    /// The differences between the tables and a batch of a settled file, by ascending ordinal. A
    /// record does not differ if it is a row that equals it in every column, a reject with a code
    /// of the database, a purged reject, erased, or superseded by a row of the table. Nor does a record without a row whose time is before the bound of what is kept: whether such rows
    /// are retired, [`audit`](super::Operators::audit) counts. Reads the rows by the primary key.
    async fn differences(&self, batch: &Batch) -> Result<Vec<Difference>, Fault>;

    /// The ordinals of the records of a span that were replayed, ascending.
    async fn replayed(&self, span: Span) -> Result<Vec<u32>, Fault>;

    /// The replay of a record. `None` if the record was not replayed.
    ///
    /// Fatal if this release cannot read the definition in the ledger.
    async fn replay_of(&self, file_no: u32, ordinal: u32) -> Result<Option<KeptReplay>, Fault>;

    /// The ordinals of the records of a span that were superseded by a row which the table no longer
    /// has, ascending: they are missing.
    async fn unsuperseded(&self, dataset: &Dataset, span: Span) -> Result<Vec<u32>, Fault>;

    /// The dataset by whose definition a file was loaded. `None` if the ledger does not have the
    /// file. A file of an earlier release counts as loaded by the definition in `datasets`.
    ///
    /// Fatal if neither the ledger nor `datasets` has the definition.
    async fn loaded_by(
        &self,
        file_no: u32,
        datasets: &Datasets,
    ) -> Result<Option<Arc<Dataset>>, Fault>;

    /// The tables that datasets have or had, by the definitions of the ledger: each with the name of
    /// its dataset.
    async fn tables(&self) -> Result<Vec<(String, String)>, Fault>;

    /// Keeps the digest of the problems of a file that an operator accepts, in the place of an
    /// earlier one.
    async fn acknowledge(&self, file_no: u32, digest: ProblemDigest) -> Result<(), Fault>;

    /// The digest of the problems of a file that an operator accepts. `None` if there is none.
    async fn acknowledged(&self, file_no: u32) -> Result<Option<ProblemDigest>, Fault>;

    /// The ordinals of a file's records whose ids several rows of its table have, ascending, at most
    /// 1,000. Without rejects, which have no row of their own.
    async fn doubled(&self, file_no: u32, datasets: &Datasets) -> Result<Vec<u32>, Fault>;

    /// If several rows have the id of this record: removes the one that equals the record, and makes
    /// the record a reject `id_taken`, in one transaction. Returns whether it did.
    async fn separate(&self, record: &Batch) -> Result<bool, Fault>;

    /// Sets the state of a file to `removing`: none of its records is stored again with its number,
    /// and when its content is registered, its rows and rejects are [removed](super::Sink::remove).
    ///
    /// Changes nothing, and is fatal, if the table with the file's rows is missing, as for `remove`.
    async fn begin_removal(&self, file_no: u32, datasets: &Datasets) -> Result<(), Fault>;
}

/// A replay as the ledger keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptReplay {
    /// The text that the record was stored from.
    pub text: Vec<u8>,
    /// The dataset by whose definition the text became a row. `None` for a replay of an earlier
    /// release, which did not record it.
    pub dataset: Option<Arc<Dataset>>,
}

/// A digest of the problems that `verify` finds in a file: 16 bytes of its counts, and 16 bytes of
/// its counts and content.
pub type ProblemDigest = [u8; 32];

/// The name of a [`ProblemDigest`] in `ingest_settings`.
pub(super) fn digest_name(file_no: u32) -> String {
    format!("acknowledged_{file_no}")
}

/// A record whose row differs from the file or is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The ordinal of the record.
    pub ordinal: u32,
    /// How it differs.
    pub kind: DifferenceKind,
}

/// How the tables differ from a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DifferenceKind {
    /// The row has other values in these columns.
    Changed(Vec<Change>),
    /// The record is neither a row nor a reject, nor superseded by a row.
    Missing,
    /// Another program's row has the id of the record, which is a reject or has a row of its own.
    Foreign,
}

/// A column in which a row differs from its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The name of the column.
    pub column: String,
    /// A hash of the value in the table: another value there is another change.
    pub stored: [u8; 16],
}

impl Change {
    /// The change of a column in which the table has this value, as text.
    pub(super) fn new(column: &str, stored: &str) -> Self {
        let hash = blake3::hash(stored.as_bytes());
        Self {
            column: column.to_owned(),
            stored: hash.as_bytes()[..16].try_into().expect("16 bytes are cut"),
        }
    }
}

/// The rows and rejects that are stored for the records of a span.
pub(super) struct Stored<R> {
    /// Rows by ascending ordinal. A table that is partitioned by time may hold an ordinal twice.
    pub(super) rows: Vec<(u32, R)>,
    /// Rejects, purged rejects, erased and superseded records, by ascending ordinal. The flag says whether a
    /// row of another program has the record's id.
    pub(super) rejects: Vec<(u32, bool)>,
}

/// Compares a batch with the stored rows and rejects. `changed` returns the columns in which
/// a stored row differs from the row of the batch at an index.
pub(super) fn differences<R>(
    batch: &Batch,
    stored: Stored<R>,
    changed: impl Fn(usize, &R) -> Vec<Change>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut no_rows = batch.rejects.iter().map(|reject| reject.ordinal).peekable();
    let mut rows = stored.rows.into_iter().peekable();
    let mut rejects = stored.rejects.into_iter().peekable();
    let mut place = 0;
    for ordinal in batch.span.ordinals() {
        let ordinal = u32::try_from(ordinal).expect("an ordinal has 32 bits");
        let is_row = no_rows.next_if_eq(&ordinal).is_none();
        let reject = rejects.next_if(|(at, _)| *at == ordinal);
        let (mut is_stored, mut is_doubled, mut is_equal) = (false, false, false);
        let mut columns = Vec::new();
        while let Some((_, row)) = rows.next_if(|(at, _)| *at == ordinal) {
            is_doubled = is_stored;
            is_stored = true;
            if is_row {
                let changed = changed(place, &row);
                is_equal |= changed.is_empty();
                columns.extend(changed);
            }
        }
        place += usize::from(is_row);
        let kind = match (is_stored, reject) {
            // The record is a reject, and a row with its id belongs to another program.
            (true, Some((_, true))) | (false, Some(_)) => continue,
            (false, None) => DifferenceKind::Missing,
            (true, reject) if reject.is_some() || !is_row => DifferenceKind::Foreign,
            // One row is that of the record, and another one has its id.
            (true, _) if is_doubled && is_equal => DifferenceKind::Foreign,
            (true, _) if columns.is_empty() => continue,
            (true, _) => DifferenceKind::Changed(columns),
        };
        found.push(Difference { ordinal, kind });
    }
    found
}

/// The query, for both dialects, for the rows of a dataset in a range of ids. Its parameters are the
/// first id, and the id after the last.
pub(super) fn rows_sql(dataset: &Dataset) -> String {
    let schema = dataset.schema();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    format!(
        "SELECT {} FROM `{}` WHERE `id` >= ? AND `id` < ? ORDER BY `id`",
        quoted(names),
        dataset.table
    )
}

/// The query, for both dialects, for the replayed records of a span.
pub(super) fn replayed_sql(span: Span) -> String {
    let (file_no, ordinals) = (span.file_no, span.ordinals());
    format!(
        "SELECT ordinal FROM ingest_replays WHERE file_no = {file_no} AND ordinal >= {} AND ordinal < \
         {} ORDER BY ordinal",
        ordinals.start, ordinals.end
    )
}

/// The query, for both dialects, for the replay of a record: its text, and that of its definition.
pub(super) fn replay_sql(file_no: u32, ordinal: u32) -> String {
    format!(
        "SELECT r.text, d.text FROM ingest_replays r LEFT JOIN ingest_definitions d ON d.definition = \
         r.definition WHERE r.file_no = {file_no} AND r.ordinal = {ordinal}"
    )
}

/// The query, for both dialects, for the rejects, purged rejects, erased and superseded records of a
/// span, each with whether another program's row has its id.
pub(super) fn rejects_sql(table: &str, span: Span) -> String {
    let (file_no, ordinals) = (span.file_no, span.ordinals());
    let of_span = format!(
        "file_no = {file_no} AND ordinal >= {} AND ordinal < {}",
        ordinals.start, ordinals.end
    );
    let taken = RejectCode::IdTaken.as_str();
    format!(
        "SELECT ordinal, MAX(taken) FROM (SELECT ordinal, code = '{taken}' AS taken FROM \
         ingest_rejects WHERE {of_span} UNION ALL SELECT ordinal, 0 FROM ingest_purged WHERE \
         {of_span} UNION ALL SELECT ordinal, 0 FROM ingest_erased WHERE {of_span} UNION ALL SELECT \
         ordinal, 0 FROM ingest_superseded s WHERE {of_span} AND EXISTS (SELECT \
         1 FROM `{table}` w WHERE w.`id` = s.winner)) r GROUP BY ordinal ORDER BY ordinal"
    )
}
