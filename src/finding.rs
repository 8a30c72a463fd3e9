//! The findings of `doctor`.

use crate::fault::Fault;

/// The severity of a finding, in ascending order. It follows from what a start does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No problem.
    Ok,
    /// It works, but may fail later.
    Warn,
    /// It does not work, and a start goes on.
    Fail,
    /// A server does not answer: a service waits for it, and a load ends (exit code 69).
    Unavailable,
    /// A directory does not exist, and each start ends for it (exit code 66).
    NoInput,
    /// The operating system denies access, and each start ends for it (exit code 77).
    NotPermitted,
    /// Each start is refused for it (exit code 78).
    Refused,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How serious it is. The worst level decides the exit code of `doctor`.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// How to fix it; empty if there is no problem.
    pub fix: String,
}

impl Finding {
    /// A finding of this level, and how to fix it.
    pub fn new(level: Level, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// A check without a problem.
    pub fn ok(what: impl Into<String>) -> Self {
        Self::new(Level::Ok, what, "")
    }

    /// A check that found a risk, and how to remove it.
    pub fn warn(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Level::Warn, what, fix)
    }

    /// A failed check, and how to fix it.
    pub fn fail(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(Level::Fail, what, fix)
    }

    /// The fault for which each start is refused.
    #[must_use]
    pub fn refused(fault: Fault) -> Self {
        let what = format!("{}: {}", fault.doing, fault.cause);
        Self::new(Level::Refused, what, fault.next_step.unwrap_or_default())
    }

    /// A warning unless `right`.
    pub fn expect(right: bool, what: impl Into<String>, fix: impl Into<String>) -> Self {
        if right {
            Self::ok(what)
        } else {
            Self::warn(what, fix)
        }
    }
}
