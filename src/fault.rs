//! Errors from the outside, classified once, where they are met, by kind and never by message.
//!
//! A [`Fault`] is what a broker, a sink or the file system could not do. Bad *data* is never a
//! fault: a bad record is a [`Reject`](crate::batch::Reject), a bad file goes to quarantine.

use std::error::Error;

/// What the caller may do about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It passes by itself: wait with backoff and try again, for ever. The wait is backpressure.
    Transient,
    /// It does not pass by itself: stop, with an exit code and a next step for the operator.
    Fatal,
}

/// Which part of the outside failed; it decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The queue between ingest and workers.
    Broker,
    /// The database.
    Sink,
    /// A file or directory.
    Files,
}

/// Something outside the process that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct Fault {
    /// What the caller may do.
    pub class: Class,
    /// Who failed.
    pub origin: Origin,
    /// What was being done, and for a fatal fault the next step: lower case, no full stop.
    pub doing: String,
    /// The error underneath. Its text is a part of that of the fault, so it is no source of it.
    pub cause: Box<dyn Error + Send + Sync>,
}

impl Fault {
    /// A fault that passes by itself.
    pub fn transient(
        origin: Origin,
        doing: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            class: Class::Transient,
            origin,
            doing: doing.into(),
            cause: cause.into(),
        }
    }

    /// A fault that an operator has to end. `doing` names the next step.
    pub fn fatal(
        origin: Origin,
        doing: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self {
            class: Class::Fatal,
            origin,
            doing: doing.into(),
            cause: cause.into(),
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.class == Class::Transient
    }
}
