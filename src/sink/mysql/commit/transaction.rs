//! An open transaction of a commit, and why it did not reach its COMMIT.

use std::fmt::Display;

use crate::batch::{RejectCode, SourceFile};
use crate::dataset::Fingerprint;
use crate::sink::Committed;
use crate::sink::cells::cut_message;
use crate::sink::mysql::errors::{Class, Failure};
use crate::sink::mysql::session::Session;

/// How a transaction writes its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strategy {
    LoadData,
    Plain,
    Idempotent,
}

/// A file of the batches of a commit, with the fingerprint of its definition.
pub(super) type LoadedFile = (SourceFile, Fingerprint);

/// Why a transaction did not reach its COMMIT. It is still open and must be rolled back.
pub(super) enum Unfinished {
    /// Some rows may be stored already, or the database refuses some. Only the idempotent form can
    /// handle both, and it never returns this.
    NeedsIdempotent,
    /// The ledger does not have these files of the batches with this content and definition. Only
    /// the idempotent form returns it.
    Foreign(Vec<LoadedFile>),
    /// A statement failed.
    Failed(Failure),
}

/// A row that the table does not take.
pub(super) struct Refusal {
    /// The index among the rows of its dataset.
    pub(super) at: usize,
    pub(super) code: RejectCode,
    /// The message of the database. `None` if it has none.
    pub(super) message: Option<String>,
}

impl Refusal {
    pub(super) fn new(at: usize, code: RejectCode, message: Option<&dyn Display>) -> Self {
        let message = message.map(cut_message);
        Self { at, code, message }
    }
}

/// An open transaction.
pub(super) struct Transaction<'a> {
    pub(super) session: &'a mut Session,
    pub(super) rows_per_statement: usize,
    pub(super) strategy: Strategy,
    /// See [`never_taken`](crate::sink::mysql::retired::never_taken), for the tables of the commit.
    pub(super) never_taken: &'a str,
    pub(super) committed: Committed,
}

impl Unfinished {
    /// The strategy to try after `strategy`. The failure if no other strategy would succeed.
    pub(super) fn fall_back(self, strategy: Strategy) -> Result<Strategy, Failure> {
        match self {
            Self::NeedsIdempotent => {
                assert!(
                    strategy != Strategy::Idempotent,
                    "the idempotent form has nothing to fall back to"
                );
                Ok(Strategy::Idempotent)
            }
            Self::Foreign(_) => Ok(strategy),
            Self::Failed(failure) => match (failure.class(), strategy) {
                // A refused row may be stored: a trigger refuses it before its key is compared.
                (Class::Duplicate | Class::Data, Strategy::LoadData | Strategy::Plain) => {
                    Ok(Strategy::Idempotent)
                }
                (Class::LocalRefused, Strategy::LoadData) => Ok(Strategy::Plain),
                _ => Err(failure),
            },
        }
    }
}

impl From<Failure> for Unfinished {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
