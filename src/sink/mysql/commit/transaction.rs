//! An open transaction of a commit, and why it did not reach its COMMIT.

use std::collections::HashMap;
use std::ops::Range;

use crate::batch::SourceFile;
use crate::dataset::Fingerprint;
use crate::sink::Committed;
use crate::sink::cells::RefusedRow;
use crate::sink::mysql::errors::{Class, Failure};
use crate::sink::mysql::session::Session;

/// How a transaction writes its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink::mysql) enum Strategy {
    LoadData,
    Plain,
    Idempotent,
}

/// A file of the batches of a commit, with the fingerprint of its definition.
pub(super) type LoadedFile = (SourceFile, Fingerprint);

/// Why a transaction did not reach its COMMIT. It is still open and must be rolled back.
pub(super) enum Unfinished {
    /// Some rows may be stored already, which only the idempotent form can handle. The idempotent
    /// form never returns it.
    NeedsIdempotent,
    /// The ledger does not have these files of the batches with this content and definition. Only
    /// the idempotent form returns it.
    Foreign(Vec<LoadedFile>),
    /// A statement failed.
    Failed(Failure),
}

/// An open transaction.
pub(super) struct Transaction<'a> {
    pub(super) session: &'a mut Session,
    pub(super) rows_per_statement: usize,
    pub(super) strategy: Strategy,
    pub(super) committed: Committed,
    pub(super) refused: Vec<RefusedRow>,
    /// The coverage of the files that have been looked up.
    pub(super) covered: HashMap<u32, Vec<Range<u64>>>,
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
                (Class::Duplicate, Strategy::LoadData | Strategy::Plain) => {
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
