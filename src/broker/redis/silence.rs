//! The searches of a process for silent consumers: when the next one is due, and which consumers the
//! last ones have found silent. Pure except for the clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A consumer counts as dead once this many searches in a row have found it without a sign. Redis may
/// have paused, or be a promoted replica, which knows of no sign: the consumers need a moment for
/// one.
const SEARCHES: u32 = 3;

/// The searches for dead consumers, which all consumers of a process share.
#[derive(Debug, Default)]
pub(super) struct Searches(Mutex<Search>);

#[derive(Debug, Default)]
struct Search {
    /// When the next one is due.
    due: Option<Instant>,
    /// When the next one for entries without a consumer is due.
    orphans_due: Option<Instant>,
    /// Consumers without a sign of life, by stream and name, and how many searches have found them so.
    silent: HashMap<Held, u32>,
}

/// The entries that a consumer has of a stream: its key and the consumer's name.
pub(super) type Held = (Arc<str>, String);

impl Searches {
    /// Whether a search for dead consumers is due. The next one is due after `pause`.
    pub(super) fn begin(&self, pause: Duration) -> bool {
        is_due(&mut self.0.lock().due, pause)
    }

    /// The same for a search for entries without a consumer.
    pub(super) fn begin_for_orphans(&self, pause: Duration) -> bool {
        is_due(&mut self.0.lock().orphans_due, pause)
    }

    /// Those of the silent consumers that the last searches have found silent as well.
    pub(super) fn dead(&self, silent: Vec<Held>) -> Vec<Held> {
        let mut search = self.0.lock();
        let before = std::mem::take(&mut search.silent);
        for held in silent {
            let searches = before.get(&held).copied().unwrap_or_default() + 1;
            search.silent.insert(held, searches);
        }
        let dead = search
            .silent
            .iter()
            .filter(|(_, found)| **found >= SEARCHES);
        dead.map(|(held, _)| held.clone()).collect()
    }
}

/// Whether something is due that is done again after `pause`.
pub(super) fn is_due(due: &mut Option<Instant>, pause: Duration) -> bool {
    let now = Instant::now();
    if due.is_some_and(|due| now < due) {
        return false;
    }
    *due = Some(now + pause);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_is_dead_after_several_searches_in_a_row() {
        let searches = Searches::default();
        let held = |name: &str| (Arc::from("stream"), name.to_owned());
        let dead = |names: &[&str]| {
            let mut dead = searches.dead(names.iter().map(|name| held(name)).collect());
            dead.sort();
            dead
        };
        assert_eq!(dead(&["a"]), []);
        assert_eq!(dead(&["a", "b"]), []);
        // `b` gave a sign.
        assert_eq!(dead(&["a"]), [held("a")]);
        assert_eq!(dead(&["a", "b"]), [held("a")]);
        assert_eq!(dead(&["b"]), []);
        assert_eq!(dead(&["b"]), [held("b")]);
        assert_eq!(searches.0.lock().silent.len(), 1);
    }
}
