//! The findings of `doctor`.

use crate::fault::Fault;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No problem.
    Ok,
    /// It works, but may fail later.
    Warn,
    /// It does not work.
    Fail,
    /// It does not work, and each start is refused for it (exit code 78).
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
    /// A check without a problem.
    pub fn ok(what: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            fix: String::new(),
        }
    }

    /// A check that found a risk, and how to remove it.
    pub fn warn(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// A failed check, and how to fix it.
    pub fn fail(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// The fault for which each start is refused.
    #[must_use]
    pub fn refused(fault: Fault) -> Self {
        Self {
            level: Level::Refused,
            what: format!("{}: {}", fault.doing, fault.cause),
            fix: fault.next_step.unwrap_or_default().into_owned(),
        }
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
