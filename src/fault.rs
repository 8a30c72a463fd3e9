//! Errors from outside, classified once, where they occur, by kind and never by message.
//!
//! A [`Fault`] is an operation of a broker, a sink or the file system that failed. Bad *data* is
//! never a fault: a bad record is a [`Reject`](crate::batch::Reject), and a bad file goes to
//! quarantine.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// What the caller may do about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The operation may succeed later: repeat it with backoff, without limit. The wait is
    /// backpressure.
    Transient,
    /// A repetition would fail as well: stop, with an exit code and a next step for the operator.
    Fatal,
}

/// The part of the outside that failed. Decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The queue between ingest and workers.
    Broker,
    /// The database.
    Sink,
    /// A file or directory.
    Files,
}

/// An operation outside of the process that failed.
///
/// Its text has the operation, the cause, and the next step.
#[derive(Debug)]
pub struct Fault {
    /// What the caller may do.
    pub class: Class,
    /// Which part failed.
    pub origin: Origin,
    /// The operation that failed: lower case, no full stop.
    pub doing: String,
    /// What the operator should do: lower case, no full stop. `None` for a transient fault, and if
    /// the cause contains it.
    pub next_step: Option<Cow<'static, str>>,
    /// The error itself. The fault's text contains its text, so `source` does not return it.
    pub cause: Box<dyn Error + Send + Sync>,
}

impl Fault {
    /// A fault whose operation may succeed later.
    pub fn transient(
        origin: Origin,
        doing: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            class: Class::Transient,
            origin,
            doing: doing.into(),
            next_step: None,
            cause: cause.into(),
        }
    }

    /// A fault that an operator must end. Add what to do by
    /// [`with_next_step`](Self::with_next_step).
    pub fn fatal(
        origin: Origin,
        doing: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            class: Class::Fatal,
            origin,
            doing: doing.into(),
            next_step: None,
            cause: cause.into(),
        }
    }

    /// This fault with a next step for the operator.
    #[must_use]
    pub fn with_next_step(mut self, next_step: impl Into<Cow<'static, str>>) -> Self {
        self.next_step = Some(next_step.into());
        self
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.class == Class::Transient
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            doing,
            next_step,
            cause,
            ..
        } = self;
        write!(f, "{doing}: {cause}")?;
        next_step
            .as_ref()
            .map_or(Ok(()), |step| write!(f, "; {step}"))
    }
}

impl Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_was_done_the_cause_and_the_next_step() {
        let fault = Fault::fatal(Origin::Files, "locking work", "EPERM");
        assert_eq!(fault.to_string(), "locking work: EPERM");
        let fault = fault.with_next_step("use another directory");
        assert_eq!(
            fault.to_string(),
            "locking work: EPERM; use another directory"
        );
    }
}
