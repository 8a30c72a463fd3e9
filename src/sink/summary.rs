//! What both databases have of the summary in common: which candidate is the last of its key and day
//! (the rule is in their statements as well), and how a file is marked. Pure.

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMicrosecondType, UInt64Type};

use super::LastEvent;
use super::table::summary_of;
use crate::batch::Batch;
use crate::timestamp;

/// In SQL, a mark of a file that says "to be read" and is not the one that it has: whoever read that
/// one and merges what it knew of the file finds it changed. Marks have a byte with a sign.
pub(super) const OTHER_MARK: &str = "2 + (summarised + 1) % 100";

/// The rows of a batch as candidates.
pub(super) fn candidates(batch: &Batch) -> Vec<LastEvent> {
    let summary = summary_of(&batch.dataset);
    let column = |name: &str| {
        batch
            .rows
            .column_by_name(name)
            .expect("a batch has the columns of its dataset")
    };
    let ids = batch.rows.column(0).as_primitive::<UInt64Type>();
    let keys = column(&summary.key).as_string::<i32>();
    let times = column(&summary.time).as_primitive::<TimestampMicrosecondType>();
    let values = column(&summary.value).as_string::<i32>();
    let candidate = |row| LastEvent {
        key: keys.value(row).to_owned(),
        time_us: times.value(row),
        value: values.value(row).to_owned(),
        id: ids.value(row),
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
