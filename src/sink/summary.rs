//! What both databases have of the summary in common: which candidate is the last of its key and day
//! (the rule is in their statements as well), and how a file is marked.

use std::time::{SystemTime, UNIX_EPOCH};

use super::LastEvent;
use crate::batch::Batch;
use crate::timestamp;

/// In SQL, a mark of a file that says "to be read" and is not the one that it has: who read that one,
/// and merges what it knew of the file, finds it changed. It goes on by another step each time, so that
/// a file that was brought in since, and is to be read again, is not likely to have the same one.
pub(super) fn other_mark() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // With 98 or more a mark could become itself. A mark is a byte with a sign.
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
