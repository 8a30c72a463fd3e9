//! Exit codes: how a command reports its outcome to other programs. The help lists them.

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use crate::config::{ConfigError, UnknownDataset};
use crate::fault::{Fault, Origin};
use crate::finding::Level;
use crate::inbox::Overlap;
use crate::sink::TakenOver;
use crate::telemetry::logging::BadDirectives;

/// The outcome of a command that returned no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is done.
    Complete,
    /// Finished, and something was rejected or quarantined.
    Rejected,
    /// Finished, and a check failed.
    Failed,
    /// Finished, and this is the worst that was found.
    Found(Level),
    /// Stopped before the end. Running the command again continues the work.
    Stopped,
}

/// The exit codes. Those from 64 on come from `sysexits.h`: a supervisor can tell whether a restart
/// may help (69, 75) or a person has to act (77, 78).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All loaded.
    Complete = 0,
    /// Failed for a reason without a code of its own.
    Failed = 1,
    /// Finished, and some records were rejected or files quarantined.
    Rejected = 2,
    /// The command line is wrong.
    Usage = 64,
    /// A path on the command line does not exist.
    NoInput = 66,
    /// Redis or the database cannot be reached.
    Unavailable = 69,
    /// A bug.
    Internal = 70,
    /// Stopped before the end. Run the command again.
    Stopped = 75,
    /// The operating system denied access.
    Permission = 77,
    /// A setting is wrong, or the login, table or schema that it names does not fit.
    Config = 78,
}

/// A path on the command line that does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}: no such file or directory; nothing was done")]
pub struct NoInput(pub String);

/// A command line that cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl Exit {
    /// The exit code of an error: the code of the first cause in its chain that has one.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(|cause| {
                if let Some(fault) = cause.downcast_ref::<Fault>() {
                    Some(Self::of_fault(fault))
                } else if cause.is::<ConfigError>() || cause.is::<BadDirectives>() {
                    Some(Self::Config)
                } else if cause.is::<UsageError>() || cause.is::<UnknownDataset>() {
                    Some(Self::Usage)
                } else if cause.is::<NoInput>() {
                    Some(Self::NoInput)
                } else {
                    cause.downcast_ref::<io::Error>().and_then(Self::of_io)
                }
            })
            .unwrap_or(Self::Failed)
    }

    /// A server that does not answer may answer at the next start. A refused login stays refused.
    pub(super) fn of_fault(fault: &Fault) -> Self {
        match fault.origin {
            _ if fault.cause.is::<TakenOver>() => Self::Stopped,
            Origin::Broker | Origin::Sink if fault.is_transient() => Self::Unavailable,
            Origin::Broker | Origin::Sink => Self::Config,
            Origin::Files if fault.cause.is::<Overlap>() => Self::Config,
            Origin::Files => fault
                .cause
                .downcast_ref::<io::Error>()
                .and_then(Self::of_io)
                .unwrap_or(Self::Failed),
        }
    }

    fn of_io(error: &io::Error) -> Option<Self> {
        match error.kind() {
            ErrorKind::NotFound => Some(Self::NoInput),
            ErrorKind::PermissionDenied => Some(Self::Permission),
            _ => None,
        }
    }

    /// The level of a finding for which a start ends with this code.
    pub(super) fn level(self) -> Level {
        match self {
            Self::Unavailable => Level::Unavailable,
            Self::NoInput => Level::NoInput,
            Self::Permission => Level::NotPermitted,
            Self::Config => Level::Refused,
            _ => Level::Fail,
        }
    }
}

/// The code with which a start ends for a finding of this level.
impl From<Level> for Exit {
    fn from(level: Level) -> Self {
        match level {
            Level::Ok | Level::Warn => Self::Complete,
            Level::Fail => Self::Failed,
            Level::Unavailable => Self::Unavailable,
            Level::NoInput => Self::NoInput,
            Level::NotPermitted => Self::Permission,
            Level::Refused => Self::Config,
        }
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete => Self::Complete,
            Outcome::Rejected => Self::Rejected,
            Outcome::Failed => Self::Failed,
            Outcome::Found(worst) => worst.into(),
            Outcome::Stopped => Self::Stopped,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn an_error_has_the_code_of_its_cause() {
        let io = |kind| anyhow::Error::new(io::Error::from(kind));
        let fault = |fault: Fault| anyhow::Error::new(fault);
        let refused = || io::Error::from(ErrorKind::ConnectionRefused);
        let denied = || io::Error::from(ErrorKind::PermissionDenied);
        let cases = [
            (
                fault(Fault::transient(Origin::Sink, "connecting", refused())),
                Exit::Unavailable,
            ),
            (
                fault(Fault::transient(Origin::Broker, "connecting", refused())),
                Exit::Unavailable,
            ),
            (
                fault(Fault::fatal(Origin::Sink, "wrong password", "1045")),
                Exit::Config,
            ),
            (
                fault(Fault::fatal(Origin::Files, "opening work", denied())),
                Exit::Permission,
            ),
            (io(ErrorKind::NotFound).context("reading"), Exit::NoInput),
            (io(ErrorKind::PermissionDenied), Exit::Permission),
            (anyhow::Error::new(NoInput("x".to_owned())), Exit::NoInput),
            (anyhow::Error::new(UsageError("x".to_owned())), Exit::Usage),
            (
                anyhow::Error::new(UnknownDataset::new("x".to_owned())),
                Exit::Usage,
            ),
            (anyhow::anyhow!("something else"), Exit::Failed),
        ];
        for (error, exit) in cases {
            assert_eq!(Exit::of(&error), exit, "{error:#}");
        }
        let wrapped = Err::<(), _>(Fault::transient(Origin::Sink, "x", "y")).context("status");
        assert_eq!(Exit::of(&wrapped.unwrap_err()), Exit::Unavailable);
    }

    #[test]
    fn the_worst_finding_has_the_code_of_a_start() {
        let ascending = [
            (Level::Fail, Exit::Failed),
            (Level::Unavailable, Exit::Unavailable),
            (Level::NoInput, Exit::NoInput),
            (Level::NotPermitted, Exit::Permission),
            (Level::Refused, Exit::Config),
        ];
        assert!(ascending.is_sorted_by_key(|(level, _)| *level));
        for (level, exit) in ascending {
            assert_eq!(Exit::from(Outcome::Found(level)), exit);
            assert_eq!(exit.level(), level);
        }
        for level in [Level::Ok, Level::Warn] {
            assert_eq!(Exit::from(Outcome::Found(level)), Exit::Complete);
        }
    }
}
