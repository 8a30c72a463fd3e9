//! A record whose key another row of the table has: which of the two is the row. One row at a time,
//! since SQLite has one writer.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::batch::{Batch, provenance, row_id};
use crate::dataset::OnConflict;
use crate::sink::cells::{RefusedRow, Row, Rows};
use crate::sink::conflict::{Rank, StoredRow, is_key, owners, select_keys, superseded_sql};

use super::errors::Failure;
use super::now::now;

/// What is decided about a row that a unique key of the table refused.
pub(super) enum Decided {
    /// It is in the table, in the place of another row.
    Stored,
    /// It is superseded by a row of the table.
    Superseded,
    /// The row with this id has its key, and stays.
    Taken(u64),
    /// The INSERT in the place of another row, which stays, gave this result.
    NotStored(Result<usize, rusqlite::Error>),
    /// Another unique key refused it, or the row is its own.
    OfAnotherKey,
}

/// Decides about the row at index `at`, which `insert` did not store because of a unique key. `refused`
/// has the rejects of this commit.
pub(super) fn decide(
    db: &Transaction<'_>,
    rows: &Rows<'_>,
    at: usize,
    refused: &[RefusedRow],
    mut insert: impl FnMut(Row<'_>) -> Result<usize, rusqlite::Error>,
) -> Result<Decided, Failure> {
    let (dataset, row) = (rows.dataset, rows.row(at));
    let Some(conflict) = dataset.conflict() else {
        return Ok(Decided::OfAnotherKey);
    };
    let Some(stored) = row_of_key(db, rows, at)?.filter(|stored| stored.id != row.id()) else {
        return Ok(Decided::OfAnotherKey);
    };
    // The row with the id of a refused record is that of another program.
    let is_refused =
        |refused: &RefusedRow| row_id(refused.file_no, refused.reject.ordinal) == stored.id;
    let theirs = Rank::of_stored(dataset, &stored).filter(|_| !refused.iter().any(is_refused));
    let Some(theirs) = theirs.filter(|_| conflict != OnConflict::Reject) else {
        return Ok(Decided::Taken(stored.id));
    };
    if !Rank::of_row(dataset, row, rows.hash(at)).wins(dataset, &theirs) {
        supersede(db, row.id(), stored.id)?;
        return Ok(Decided::Superseded);
    }
    db.execute_batch("SAVEPOINT replaced")?;
    let delete = format!("DELETE FROM `{}` WHERE `id` = ?", dataset.table);
    // The table may refuse the removal as well: a trigger, or rows that refer to the row.
    let deleted = db.prepare_cached(&delete)?.execute([stored.id]);
    let result = deleted.and_then(|_| insert(row));
    if !matches!(result, Ok(1)) {
        db.execute_batch("ROLLBACK TO replaced; RELEASE replaced")?;
        return Ok(Decided::NotStored(result));
    }
    db.execute_batch("RELEASE replaced")?;
    // Records that earlier commits superseded point to the row that has their key now.
    db.prepare_cached("UPDATE ingest_superseded SET winner = ? WHERE winner = ?")?
        .execute([row.id(), stored.id])?;
    supersede(db, stored.id, row.id())?;
    Ok(Decided::Stored)
}

/// The row of the table that has the key of the row at index `at`.
fn row_of_key(
    db: &Transaction<'_>,
    rows: &Rows<'_>,
    at: usize,
) -> Result<Option<StoredRow>, Failure> {
    let (dataset, row) = (rows.dataset, rows.row(at));
    let (select, condition) = (select_keys(dataset, "TEXT"), is_key(dataset));
    let mut find = db.prepare_cached(&format!("{select} WHERE {condition}"))?;
    for (parameter, column) in dataset.key_columns().enumerate() {
        find.raw_bind_parameter(parameter + 1, row.cell(column + 1))?;
    }
    let mut found = find.raw_query();
    let Some(found) = found.next()? else {
        return Ok(None);
    };
    let id: u64 = found.get(0)?;
    // The rows are stored one by one.
    let is_of_commit = |id| rows.has(id, at);
    let hash = db
        .query_row(&owners(&[id], is_of_commit), [], |row| row.get(1))
        .optional()?;
    Ok(Some(StoredRow {
        id,
        by: found.get(1)?,
        hash,
    }))
}

fn supersede(db: &Transaction<'_>, id: u64, winner: u64) -> Result<(), Failure> {
    let (file_no, ordinal) = provenance(id);
    db.prepare_cached(
        "INSERT INTO ingest_superseded (file_no, ordinal, winner, superseded_at) VALUES (?1, ?2, ?3, \
         ?4) ON CONFLICT (file_no, ordinal) DO UPDATE SET winner = ?3",
    )?
    .execute(params![file_no, ordinal, winner, now()])?;
    Ok(())
}

/// The ids of the records of a batch that are superseded by a row of the table. Removes the entries of
/// those whose row is gone: they are decided about again.
pub(super) fn superseded(db: &Transaction<'_>, batch: &Batch) -> Result<Vec<u64>, Failure> {
    if !batch.dataset.supersedes() {
        return Ok(Vec::new());
    }
    let file_no = batch.span.file_no;
    let found: Vec<(u32, bool)> = db
        .prepare_cached(&superseded_sql(&batch.dataset.table, batch.span))?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut remove =
        db.prepare_cached("DELETE FROM ingest_superseded WHERE file_no = ? AND ordinal = ?")?;
    let mut valid = Vec::new();
    for (ordinal, is_valid) in found {
        if is_valid {
            valid.push(row_id(file_no, ordinal));
        } else {
            remove.execute([file_no, ordinal])?;
        }
    }
    Ok(valid)
}
