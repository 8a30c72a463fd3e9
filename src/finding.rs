//! What an inspection of the surroundings found: for `doctor`.

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and will hurt some day.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// What mends it; empty where all is well.
    pub fix: String,
}

impl Finding {
    /// All is well.
    pub fn ok(what: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            fix: String::new(),
        }
    }

    /// It works, and will hurt some day.
    pub fn warn(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Warn,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// It does not work.
    pub fn fail(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            level: Level::Fail,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// Well if `right`, else a warning.
    pub fn expect(right: bool, what: impl Into<String>, fix: impl Into<String>) -> Self {
        if right {
            Self::ok(what)
        } else {
            Self::warn(what, fix)
        }
    }
}
