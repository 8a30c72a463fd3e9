//! What the summary has in common in both databases: which candidate is the last of its key and day
//! (the rule is in their statements as well), and how a file is marked.

use std::time::{SystemTime, UNIX_EPOCH};

use super::LastEvent;
use crate::batch::Batch;
use crate::timestamp;

/// SQL for a new mark of a file: it says that the rows must be read, and always differs from the
/// present one, so a merge that read the old mark matches no file. The step comes from the clock, so
/// an earlier mark is unlikely to return.
pub(super) fn other_mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // A step of 98 would leave a mark as it is. A mark is a signed byte.
    let step = 1 + now.unwrap_or_default().as_micros() % 97;
    format!("2 + (summarised + {step}) % 100")
}

/// The rows of a batch as candidates; none where its dataset has no summary.
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
