//! The daily summary at the seam, and the rules that both dialects share: which candidate is the
//! last of its key and day, and how a file is marked. The SQL of the dialects has the first rule as
//! well.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use crate::batch::{Batch, RejectCode, provenance};
use crate::dataset::{Dataset, Datasets, Summary};
use crate::fault::Fault;
use crate::zone::Zone;

use super::NodeId;

/// The next step if the table of a summary refuses values.
pub(super) const REFUSED: &str = "correct the trigger or constraint that was added to it; all rows are \
    stored, and the next refresh of the summary includes them";

/// The error of a summary's table that refuses values.
pub(super) fn refused(table: &str, cause: impl std::fmt::Display) -> String {
    format!("the table `{table}` refuses its values: {cause}")
}

/// The next step if the days of a stored summary are those of another time zone.
pub(super) const OTHER_ZONE: &str = "stop every process of the engine and run `task_runner summary \
    --rebuild`, which computes all days again, or set `time_zone` of the summary back";

/// The name in `ingest_settings` under which the time zone of a summary's days is kept. For UTC, it
/// may be missing. A table may have a longer name than a setting.
pub(super) fn zone_setting(table: &str) -> String {
    let hash = blake3::hash(table.as_bytes()).to_hex();
    format!("summary_zone_{}", &hash[..32])
}

/// The problem if the days of the stored summary are those of another time zone than its definition
/// has. `kept` is the value of [`zone_setting`].
pub(super) fn other_zone(summary: &Summary, kept: Option<&[u8]>) -> Option<String> {
    let utc = Zone::default();
    let kept = kept.map_or(utc.name().into(), String::from_utf8_lossy);
    let wanted = summary.time_zone.name();
    (kept != wanted).then(|| {
        format!(
            "the table `{}` has the days of the time zone {kept}, and its definition has {wanted}",
            summary.table
        )
    })
}

/// The statements that keep the time zones of new summaries.
pub(super) fn zone_statements(datasets: &Datasets) -> impl Iterator<Item = String> {
    let summaries = datasets.iter().filter_map(|it| it.summary.as_ref());
    let zoned = summaries.filter(|summary| !summary.time_zone.is_utc());
    zoned.map(|summary| {
        let mut name = String::new();
        for byte in summary.time_zone.name().bytes() {
            let _ = write!(name, "{byte:02x}");
        }
        format!(
            "INSERT INTO ingest_settings (name, value) VALUES ('{}', X'{name}')",
            zone_setting(&summary.table)
        )
    })
}

/// The stored summaries: the last event of each key on each day. Contract and errors: see
/// [`sink`](super).
///
/// # Panics
/// Every method, if the dataset has no summary.
#[async_trait]
pub trait SummaryStore: Send + Sync {
    /// Settled files of a dataset that its summary does not contain yet, at most `max` of them.
    async fn summary_pending(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<Unsummarised>, Fault>;

    /// The summarised columns of the rows with an id in `ids`, by ascending id, at most `max`.
    async fn summary_scan(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault>;

    /// Merges candidates into the summary. Of two for the same key and day, the one with the later
    /// time stays, and with equal times the one with the larger id. Then, in the same transaction,
    /// marks the files as summarised, except those whose mark has changed since it was read.
    /// Merging is idempotent, and its result does not depend on the order.
    ///
    /// Candidates whose record was erased or whose file was removed since are left out, and then all
    /// files of the dataset are marked, so that the next event of each pair is found.
    ///
    /// If `leader` is given, and another process has the lease of the summary, nothing is written.
    async fn summary_merge(
        &self,
        dataset: &Arc<Dataset>,
        candidates: &[LastEvent],
        files: &[Unsummarised],
        leader: Option<&NodeId>,
    ) -> Result<Merged, Fault>;

    /// Empties the summary of a dataset, and marks all of its files, settled or not, so that their
    /// rows are read from the table again. Otherwise entries would be missing that a process has
    /// already merged and no longer has in memory.
    async fn summary_reset(&self, dataset: &Arc<Dataset>) -> Result<(), Fault>;

    /// The first `max` entries of the summary, newest day first, then by key.
    async fn summary_head(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault>;
}

/// A settled file whose rows are not in the summary of its dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsummarised {
    /// The number of the file.
    pub file_no: u32,
    /// How many records the file has.
    pub records: u64,
    /// The file's mark in the ledger when it was read: 0 if the summary was not emptied since the
    /// file was registered, 2 or more if it was. A file with the mark 1 is in the summary.
    pub mark: u8,
}

impl Unsummarised {
    /// Whether the rows must be read from the table, even by a process that committed them: the
    /// summary was emptied since.
    #[must_use]
    pub fn must_be_read(&self) -> bool {
        self.mark > 0
    }
}

/// What became of candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// All of them are merged.
    All,
    /// Some were left out, and all files of the dataset are marked.
    InPart,
    /// Another process leads: nothing was written.
    Deposed,
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
    /// The id of the row.
    pub id: u64,
}

impl LastEvent {
    /// The number of the row's file.
    #[must_use]
    pub fn file_no(&self) -> u32 {
        provenance(self.id).0
    }
}

/// The candidates of files that are there, whose records were not erased.
pub(super) fn present<'a>(
    candidates: &'a [LastEvent],
    files: &HashSet<u32>,
    erased: &HashSet<u64>,
) -> Cow<'a, [LastEvent]> {
    let is_present =
        |event: &&LastEvent| files.contains(&event.file_no()) && !erased.contains(&event.id);
    if candidates.iter().all(|event| is_present(&event)) {
        return Cow::Borrowed(candidates);
    }
    candidates.iter().filter(is_present).cloned().collect()
}

/// SQL for a new mark of a file: 2 or more, and always different from the current one, so that a
/// merge which read the current mark does not mark the file. The step comes from the clock, so that
/// an earlier mark is unlikely to be used again.
pub(super) fn other_mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // A step of 98 could produce the current mark. A mark is a signed byte.
    let step = 1 + now.unwrap_or_default().as_micros() % 97;
    format!("2 + (summarised + {step}) % 100")
}

/// A query, for both dialects, that returns a row if the table may have rows with ids of this range that
/// no summary includes: those of other programs, and those of erased records.
pub(super) fn taken_ids(ids: &Range<u64>) -> String {
    let [first, last] = [ids.start, ids.end.saturating_sub(1)].map(|id| provenance(id).0);
    let of_files = format!("file_no BETWEEN {first} AND {last}");
    format!(
        "SELECT 1 FROM (SELECT 1) o WHERE EXISTS (SELECT 1 FROM ingest_rejects WHERE {of_files} AND code \
         = '{}') OR EXISTS (SELECT 1 FROM ingest_erased WHERE {of_files})",
        RejectCode::IdTaken.as_str()
    )
}

/// The condition that excludes rows of other programs: those with the id of a reject, purged or not, or
/// of an erased record.
/// The database evaluates it for each row, so a query of the summary has it only if [`taken_ids`]
/// returned a row.
pub(super) fn not_taken() -> String {
    let of_row = format!("o.file_no = `id` >> 32 AND o.ordinal = `id` & {}", u32::MAX);
    format!(
        " AND NOT EXISTS (SELECT 1 FROM ingest_rejects o WHERE {of_row}) AND NOT EXISTS (SELECT 1 FROM \
         ingest_purged o WHERE {of_row}) AND NOT EXISTS (SELECT 1 FROM ingest_erased o WHERE {of_row})"
    )
}

/// The rows of a batch as candidates. Empty if its dataset has no summary.
pub(super) fn candidates(batch: &Batch) -> Vec<LastEvent> {
    let Some(columns) = batch.summary_columns() else {
        return Vec::new();
    };
    let candidate = |row| LastEvent {
        key: columns.keys.value(row).to_owned(),
        time_us: columns.times.value(row),
        value: columns.values.value(row).to_owned(),
        id: columns.ids.value(row),
    };
    (0..batch.rows.num_rows()).map(candidate).collect()
}

/// The candidate of each key and day that stays: the one with the latest time, and with equal times
/// the one with the largest id. Sorted by key and day, as the tables are, so that two processes
/// that merge lock rows in the same order.
pub(super) fn reduce<'a>(candidates: &'a [LastEvent], zone: &Zone) -> Vec<&'a LastEvent> {
    let day_of = |event: &LastEvent| zone.day(event.time_us);
    let mut last: Vec<&LastEvent> = candidates.iter().collect();
    // Candidates mostly arrive in this order, which a stable sort detects in one pass.
    last.sort_by(|a, b| (&a.key, a.time_us, a.id).cmp(&(&b.key, b.time_us, b.id)));
    last.dedup_by(|later, kept| {
        let same = later.key == kept.key && day_of(later) == day_of(kept);
        if same {
            *kept = *later;
        }
        same
    });
    last
}
