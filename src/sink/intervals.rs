//! Which ordinals a file's ledger entries cover. Pure.

use std::ops::Range;

/// The union of ranges in any order, overlapping or not: disjoint, ascending, none empty and none
/// beginning where another ends.
pub(super) fn union(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Whether these ranges, as [`union`] returns them, hold every ordinal of a file.
pub(super) fn cover(ranges: &[Range<u64>], records: u64) -> bool {
    records == 0
        || ranges
            .iter()
            .any(|range| range.start == 0 && range.end >= records)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_union_holds_what_its_ranges_hold(
            ranges in proptest::collection::vec((0_u64..60, 0_u64..12), 0..12)
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(at, len)| at..at + len).collect();
            let expected: BTreeSet<u64> = ranges.iter().cloned().flatten().collect();
            let merged = union(ranges);
            prop_assert!(merged.windows(2).all(|pair| pair[0].end < pair[1].start));
            let held: BTreeSet<u64> = merged.iter().cloned().flatten().collect();
            for records in 0..70 {
                let whole = (0..records).all(|ordinal| expected.contains(&ordinal));
                prop_assert_eq!(cover(&merged, records), whole);
            }
            prop_assert_eq!(held, expected);
        }
    }
}
