//! The daily summary at the seam, and what both dialects share: which candidate is the last of its
//! key and day (their statements have the same rule), and how a file is marked.

use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use crate::batch::{Batch, RejectCode, provenance};
use crate::dataset::Dataset;
use crate::fault::Fault;
use crate::timestamp;

/// The stored summaries: the last event of each key on each UTC day. Contract and errors: see
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

    /// Merges candidates into the summary: of two for the same key and day the one with the later
    /// time, then the larger id, stays. Then, in the same transaction, marks the files as
    /// summarised, except those whose mark has changed since it was read. Merging is idempotent and
    /// its result does not depend on order.
    async fn summary_merge(
        &self,
        dataset: &Arc<Dataset>,
        candidates: &[LastEvent],
        files: &[Unsummarised],
    ) -> Result<(), Fault>;

    /// Empties the summary of a dataset and marks all of its files, settled or not, as to be read
    /// from the table: what a process remembers of their rows may have been in the summary already.
    async fn summary_reset(&self, dataset: &Arc<Dataset>) -> Result<(), Fault>;

    /// The first `max` entries of the summary, newest day first, then by key.
    async fn summary_head(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault>;
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

/// SQL for a new mark of a file: it says that the rows must be read, and always differs from the
/// present one, so a merge that read the old mark matches no file. The step comes from the clock, so
/// an earlier mark is unlikely to return.
pub(super) fn other_mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // A step of 98 would leave a mark as it is. A mark is a signed byte.
    let step = 1 + now.unwrap_or_default().as_micros() % 97;
    format!("2 + (summarised + {step}) % 100")
}

/// A query that returns a row if other writers' rows have ids of this range; the same in both dialects.
/// Such a row is in no summary.
pub(super) fn taken_ids(ids: &Range<u64>) -> String {
    format!(
        "SELECT 1 FROM ingest_rejects WHERE file_no BETWEEN {} AND {} AND code = '{}' LIMIT 1",
        provenance(ids.start).0,
        provenance(ids.end.saturating_sub(1)).0,
        RejectCode::IdTaken.as_str()
    )
}

/// The condition that leaves such rows out. Asked of each row, so only where there are any.
pub(super) fn not_taken() -> String {
    format!(
        " AND NOT EXISTS (SELECT 1 FROM ingest_rejects r WHERE r.file_no = `id` >> 32 AND r.ordinal = \
         `id` & {} AND r.code = '{}')",
        u32::MAX,
        RejectCode::IdTaken.as_str()
    )
}

/// The rows of a batch as candidates; empty if its dataset has no summary.
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

/// The one candidate that stays for each key and day: the later time, then the larger id. Sorted by
/// key and day, as the tables are, so that two mergers lock their rows in one order.
pub(super) fn reduce(candidates: &[LastEvent]) -> Vec<&LastEvent> {
    let day_of = |event: &LastEvent| timestamp::day(event.time_us);
    let mut last: Vec<&LastEvent> = candidates.iter().collect();
    // They mostly come in this order, which a stable sort notices in one pass.
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
