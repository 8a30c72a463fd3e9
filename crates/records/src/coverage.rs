//! Sets of ordinals, as disjoint ascending half-open ranges that do not touch.
//!
//! The ledger's entries of one file may overlap if the file was cut in different ways at different
//! times. The stored records are the union of the entries.

use std::ops::Range;

/// Adds a range to a set. Cheap at the end of the set, where most ranges are added.
pub fn insert(set: &mut Vec<Range<u64>>, new: Range<u64>) {
    if new.is_empty() {
        return;
    }
    let first = set.partition_point(|range| range.end < new.start);
    let after = first + set[first..].partition_point(|range| range.start <= new.end);
    let merged = match set[first..after] {
        [] => new,
        [ref low, ..] => low.start.min(new.start)..set[after - 1].end.max(new.end),
    };
    set.splice(first..after, [merged]);
}

/// The union of ranges, which may overlap and have any order.
pub fn union(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = ranges.into_iter().collect();
    // Sorted, so that each insert is at the end of the set.
    ranges.sort_unstable_by_key(|range| range.start);
    let mut set = Vec::new();
    for range in ranges {
        insert(&mut set, range);
    }
    set
}

/// Whether a set holds all of `0..records`.
#[must_use]
pub fn is_whole(set: &[Range<u64>], records: u64) -> bool {
    holds(set, &(0..records))
}

/// Whether a set holds all of `ordinals`.
#[must_use]
pub fn holds(set: &[Range<u64>], ordinals: &Range<u64>) -> bool {
    let at = set.partition_point(|range| range.end < ordinals.end);
    ordinals.is_empty()
        || set
            .get(at)
            .is_some_and(|range| range.start <= ordinals.start)
}

/// How many ordinals a set holds.
#[must_use]
pub fn len(set: &[Range<u64>]) -> u64 {
    set.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_the_union_of_its_ranges(
            ranges in prop::collection::vec((0u64..60, 0u64..12), 0..20),
            probe in (0u64..60, 0u64..12),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let oracle: BTreeSet<u64> = ranges.iter().cloned().flatten().collect();
            let set = union(ranges);
            prop_assert_eq!(set.iter().cloned().flatten().collect::<BTreeSet<_>>(), oracle.clone());
            prop_assert_eq!(len(&set), oracle.len() as u64);
            for pair in set.windows(2) {
                prop_assert!(pair[0].end < pair[1].start, "ranges touch: {:?}", set);
            }
            let probe = probe.0..probe.0 + probe.1;
            prop_assert_eq!(holds(&set, &probe), probe.clone().all(|at| oracle.contains(&at)));
            prop_assert_eq!(is_whole(&set, probe.end), (0..probe.end).all(|at| oracle.contains(&at)));
        }
    }
}
