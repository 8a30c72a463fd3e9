//! The names of the streams of a dataset. Pure.
//!
//! The slots of a cluster are divided into [`PARTS`] equal parts, and each part has one name: its tag,
//! the part in braces, leads to a slot in it. Shard `i` of `n` has the name of the part in the middle
//! of the `i`th of `n` equal ranges of slots. So the names for all numbers of shards are few, and each
//! process can look for those that another number has left. See docs/decisions/queue-shards.md.

use fred::util::redis_keyslot;

/// Most shards of a dataset: half as many as there are parts, so that a part is never at the border
/// of two shards.
pub const SHARDS_MAX: u16 = PARTS / 2;

/// Equal parts of the slots. More would let a process look for more keys.
const PARTS: u16 = 128;

/// The slots of each cluster.
const SLOTS: u16 = 16_384;

/// The names of the streams of a dataset.
pub(super) struct Names {
    /// The name of the only stream, if there is one shard.
    only: String,
    /// The name of each part.
    parts: Vec<String>,
}

impl Names {
    pub(super) fn new(prefix: &str, dataset: &str) -> Self {
        let name = |tag: &str| format!("{prefix}:{{{tag}}}:frames");
        let mut tags = vec![None; usize::from(PARTS)];
        let mut left = PARTS;
        // A few hundred tags are tried. The dot is in the name of no dataset.
        for number in 0_u32.. {
            let tag = format!("{dataset}.{number}");
            let part = redis_keyslot(tag.as_bytes()) / (SLOTS / PARTS);
            let of_part = &mut tags[usize::from(part)];
            if of_part.is_none() {
                *of_part = Some(name(&tag));
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        Self {
            only: name(dataset),
            parts: tags.into_iter().flatten().collect(),
        }
    }

    /// The names of the streams if there are this many shards.
    pub(super) fn of(&self, shards: u16) -> Vec<&str> {
        if shards == 1 {
            return vec![&self.only];
        }
        let of_shard = |shard| &*self.parts[usize::from(part_of(shard, shards))];
        (0..shards).map(of_shard).collect()
    }

    /// All names that any number of shards has.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.only)
            .chain(&self.parts)
            .map(String::as_str)
    }
}

/// The part in the middle of a shard's range.
fn part_of(shard: u16, shards: u16) -> u16 {
    (2 * shard + 1) * (PARTS / 2) / shards
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_slot_of_each_shard_is_in_its_part_of_the_slots() {
        for dataset in ["vehicle_events", "vehicle_status", "a"] {
            let names = Names::new("lemonade", dataset);
            let all: BTreeSet<&str> = names.all().collect();
            assert_eq!(all.len(), usize::from(PARTS) + 1);
            for shards in 2..=SHARDS_MAX {
                let of = names.of(shards);
                assert_eq!(of.len(), usize::from(shards));
                for (shard, name) in (0_u32..).zip(of) {
                    assert!(all.contains(name));
                    let (slots, shards) = (u32::from(SLOTS), u32::from(shards));
                    let slot = u32::from(redis_keyslot(name.as_bytes()));
                    let place = format!("{name}: shard {shard} of {shards}: slot {slot}");
                    assert!(slot * shards >= shard * slots, "{place}");
                    assert!(slot * shards < (shard + 1) * slots, "{place}");
                }
            }
        }
    }

    /// Another name would hide the frames that an earlier release has published.
    #[test]
    fn names_stay_the_same() {
        let names = Names::new("lemonade", "vehicle_events");
        assert_eq!(names.of(1), ["lemonade:{vehicle_events}:frames"]);
        assert_eq!(
            names.of(3),
            [
                "lemonade:{vehicle_events.33}:frames",
                "lemonade:{vehicle_events.53}:frames",
                "lemonade:{vehicle_events.63}:frames",
            ]
        );
    }
}
