//! What came of the latest actions, for the pages that follow them.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Outcomes that are kept. An operator looks at one right after the action.
const OUTCOMES_KEPT: usize = 32;

/// What came of an action.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    /// The command that does the same.
    pub(super) command: String,
    /// What the command prints; as an error if it failed.
    pub(super) said: Result<String, String>,
}

/// The latest outcomes, by number.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    kept: Mutex<(u64, VecDeque<Outcome>)>,
}

impl Outcomes {
    /// Keeps an outcome, and returns its number.
    pub(super) fn keep(&self, outcome: Outcome) -> u64 {
        let (next, kept) = &mut *self.kept.lock();
        if kept.len() == OUTCOMES_KEPT {
            kept.pop_front();
        }
        kept.push_back(outcome);
        *next += 1;
        *next
    }

    /// The outcome with this number. `None` if it is no longer kept.
    pub(super) fn get(&self, number: u64) -> Option<Outcome> {
        let (last, kept) = &*self.kept.lock();
        let back = usize::try_from(last.checked_sub(number)?).ok()?;
        let at = kept.len().checked_sub(back + 1)?;
        kept.get(at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_outcomes_are_kept() {
        let outcomes = Outcomes::default();
        let outcome = |number: usize| Outcome {
            command: number.to_string(),
            said: Ok(String::new()),
        };
        for number in 1..=OUTCOMES_KEPT + 2 {
            assert_eq!(outcomes.keep(outcome(number)), number as u64);
        }
        let command = |number| outcomes.get(number).map(|outcome| outcome.command);
        assert_eq!(command(34), Some("34".to_owned()));
        assert_eq!(command(3), Some("3".to_owned()));
        assert_eq!((command(2), command(0), command(35)), (None, None, None));
    }
}
