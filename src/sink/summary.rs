//! Which candidate of a summary is the last of its key and day. Pure; the databases keep the same
//! rule in their statements.

use super::LastEvent;
use crate::timestamp;

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
