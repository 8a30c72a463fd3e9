//! What is reduced in memory, against a plain computation.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DAY_US: i64 = 86_400_000_000;

proptest! {
    /// Days that follow each other, and others far away, in any order of arrival.
    #[test]
    fn the_last_event_of_each_key_and_day_is_kept(
        events in prop::collection::vec(
            ("[a-c]", prop_oneof![4 => -4_i64..8, 1 => -9_000_i64..9_000], 0..3_i64, "[x-z]"),
            0..200,
        ),
    ) {
        let mut reduced = Reduced::default();
        let mut expected: BTreeMap<(String, i64), (i64, u64, String)> = BTreeMap::new();
        for (id, (key, day, time, value)) in (0_u64..).zip(events) {
            let time_us = day * DAY_US + time;
            let event = LastEvent { key: key.clone(), time_us, value: value.clone(), id };
            reduced.add(&event, &Zone::default());
            let last = expected.entry((key, day)).or_insert((time_us, id, value.clone()));
            if (time_us, id) > (last.0, last.1) {
                *last = (time_us, id, value);
            }
        }
        prop_assert_eq!(reduced.pairs.len(), expected.len());
        let parts: Vec<LastEvent> = reduced.into_parts().flatten().collect();
        let expected = expected.into_iter().map(|((key, _), (time_us, id, value))| LastEvent {
            key,
            time_us,
            value,
            id,
        });
        prop_assert_eq!(parts, expected.collect::<Vec<_>>());
    }
}
