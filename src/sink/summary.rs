//! Which candidate of a summary is the last of its key and day. Pure; the databases keep the same
//! rule in their statements.

use std::collections::BTreeMap;

use super::LastEvent;
use crate::timestamp;

/// The one candidate that stays for each key and day: the later time, then the larger id. Sorted by
/// key and day, as the tables are, so that two mergers lock their rows in one order.
pub(super) fn reduce(candidates: &[LastEvent]) -> Vec<&LastEvent> {
    let mut last: BTreeMap<(&str, i32), &LastEvent> = BTreeMap::new();
    for candidate in candidates {
        let entry = last
            .entry((&candidate.key, timestamp::day(candidate.time_us)))
            .or_insert(candidate);
        if (candidate.time_us, candidate.id) > (entry.time_us, entry.id) {
            *entry = candidate;
        }
    }
    last.into_values().collect()
}
