//! Tables that refuse rows whatever they hold, since a trigger names a missing object, or an index a
//! missing function: the batches are left out of the commit, and their files wait.

use rusqlite::Transaction;

use crate::batch::Batch;
use crate::sink::cells::Rows;
use crate::sink::table::dataset_table;
use crate::sink::{Committed, WaitingFile};

use super::errors::{Class, Failure, classify};
use super::schema;

/// Most characters of a reason that the ledger holds.
const REASON_CHARS_MAX: usize = 1_000;

/// What an error of an INSERT of rows means.
pub(super) enum Refusal {
    /// The row has a key that exists, or values that the table refuses.
    Row(Class, rusqlite::Error),
    /// Any other.
    Failure(Failure),
}

/// What an error of this INSERT into the table of `rows` means. SQLite gives an error of a trigger that
/// computes with the values of a row, and one of a trigger that cannot be compiled, the same code.
pub(super) fn refusal(
    db: &Transaction<'_>,
    rows: &Rows<'_>,
    insert: &str,
    error: rusqlite::Error,
) -> Refusal {
    let class = classify(&error);
    match class {
        Class::Duplicate | Class::Data => Refusal::Row(class, error),
        Class::Schema => match db.prepare(insert) {
            Ok(_) => Refusal::Row(Class::Data, error),
            // A table that fits its dataset takes the statement, without its triggers and indexes.
            Err(error) if schema::check(db, &dataset_table(rows.dataset)).is_ok() => {
                Refusal::Failure(Failure::Table(error))
            }
            Err(error) => Refusal::Failure(error.into()),
        },
        Class::Transient | Class::Fatal(_) => Refusal::Failure(error.into()),
    }
}

/// Leaves a batch out, and writes into the ledger why its file waits.
pub(super) fn leave_out(
    db: &Transaction<'_>,
    batch: &Batch,
    error: &rusqlite::Error,
) -> Result<Committed, Failure> {
    let table = &batch.dataset.table;
    let reason = format!(
        "the table `{table}` refuses its rows: {error}; correct what `{table}` depends on: its trigger \
         or index"
    );
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let file = batch.file();
    db.prepare_cached(
        "UPDATE ingest_files SET reason = ? WHERE file_no = ? AND hash = ? AND state = 'pending'",
    )?
    .execute(rusqlite::params![reason, file.file_no, file.hash])?;
    Ok(Committed {
        waiting: vec![WaitingFile { file, reason }],
        ..Committed::default()
    })
}

/// See [`Sink::waiting`](crate::sink::Sink::waiting).
pub(super) fn waiting(
    db: &Transaction<'_>,
    file_nos: &[u32],
) -> Result<Vec<(u32, String)>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT reason FROM ingest_files WHERE file_no = ? AND state = 'pending' AND reason IS NOT NULL",
    )?;
    let mut waiting = Vec::new();
    for file_no in file_nos {
        let reasons = find.query_map([file_no], |row| row.get(0))?;
        for reason in reasons {
            waiting.push((*file_no, reason?));
        }
    }
    Ok(waiting)
}
