//! The classes of SQLite's errors: by result code, never by the message.

use rusqlite::ErrorCode;

use crate::fault::{Fault, Origin};
use crate::sink::counted;

/// Extended result codes for a key that exists: UNIQUE, PRIMARYKEY, ROWID.
const KEY_TAKEN: [i32; 3] = [2067, 1555, 2579];

const SCHEMA: &str = "run `task_runner migrate`, which checks the tables";
const REFUSED: &str = "check the ledger's tables (ingest_*) for a constraint or trigger that was \
                       added to them: the database refuses a value of the ledger";

/// What to do about a failed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A row with the same value of a unique key exists.
    Duplicate,
    /// SQLite refuses the values of the row.
    Data,
    /// Fatal, unless it is of a table that refuses rows: SQLite does not know an object of the
    /// statement, or cannot compute a value.
    Schema,
    /// Transient: the statement may succeed later.
    Transient,
    /// Fatal. Holds the next step.
    Fatal(&'static str),
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// SQLite refuses every row of a table that fits its dataset.
    #[error("{0}")]
    Table(rusqlite::Error),
    /// The engine found a problem in the values that the database returned.
    #[error("{problem}")]
    Found { next_step: String, problem: String },
    /// An error that was classified before.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The class of an error.
pub(super) fn classify(error: &rusqlite::Error) -> Class {
    let rusqlite::Error::SqliteFailure(error, _) = error else {
        return Class::Schema;
    };
    match error.code {
        ErrorCode::ConstraintViolation if KEY_TAKEN.contains(&error.extended_code) => {
            Class::Duplicate
        }
        ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Class::Data,
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::OutOfMemory
        | ErrorCode::OperationInterrupted
        | ErrorCode::OperationAborted
        | ErrorCode::SystemIoFailure
        | ErrorCode::DiskFull
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::SchemaChanged => Class::Transient,
        ErrorCode::PermissionDenied
        | ErrorCode::ReadOnly
        | ErrorCode::CannotOpen
        | ErrorCode::AuthorizationForStatementDenied => {
            Class::Fatal("make the database file and its directory writable")
        }
        ErrorCode::DatabaseCorrupt => {
            Class::Fatal("restore the damaged database file, or name a new one")
        }
        ErrorCode::NotADatabase => {
            Class::Fatal("name another file, or a new one: this one is not a SQLite database")
        }
        _ => Class::Schema,
    }
}

impl Failure {
    /// The fault for the caller. `doing` is the operation that failed.
    pub(super) fn into_fault(self, doing: &str) -> Fault {
        counted(match self {
            Self::Fault(fault) => fault,
            Self::Found { next_step, problem } => {
                Fault::fatal(Origin::Sink, doing, problem).with_next_step(next_step)
            }
            // Of a replay: a commit leaves the rows out.
            Self::Table(error) => Fault::transient(Origin::Sink, doing, error),
            Self::Sqlite(error) => match classify(&error) {
                Class::Transient => Fault::transient(Origin::Sink, doing, error),
                Class::Schema => Fault::fatal(Origin::Sink, doing, error).with_next_step(SCHEMA),
                Class::Fatal(next_step) => {
                    Fault::fatal(Origin::Sink, doing, error).with_next_step(next_step)
                }
                Class::Duplicate | Class::Data => {
                    Fault::fatal(Origin::Sink, doing, error).with_next_step(REFUSED)
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn errors_are_classified_by_code() {
        let class = |code| classify(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
        for code in [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_LOCKED,
        ] {
            assert_eq!(class(code), Class::Transient, "{code}");
        }
        for code in [
            ffi::SQLITE_CONSTRAINT_UNIQUE,
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
        ] {
            assert_eq!(class(code), Class::Duplicate, "{code}");
        }
        for code in [
            ffi::SQLITE_CONSTRAINT_CHECK,
            ffi::SQLITE_CONSTRAINT_NOTNULL,
            ffi::SQLITE_TOOBIG,
        ] {
            assert_eq!(class(code), Class::Data, "{code}");
        }
        assert_eq!(class(ffi::SQLITE_ERROR), Class::Schema);
        for code in [
            ffi::SQLITE_READONLY,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_NOTADB,
        ] {
            assert!(matches!(class(code), Class::Fatal(_)), "{code}");
        }
    }
}
