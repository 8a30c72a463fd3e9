//! Removes the rows, rejects and entries of a file, in the transaction of the caller.

use std::ops::Range;
use std::sync::Arc;

use rusqlite::{Transaction, params};

use crate::batch::row_id;
use crate::dataset::{Dataset, Datasets};
use crate::sink::Removed;
use crate::sink::mismatch::has_row_of;
use crate::sink::removal::{self, Instead};
use crate::sink::summary::not_taken;
use crate::sink::table::SummaryNames;

use super::definitions::loaded_by;
use super::errors::{Class, Failure, classify};
use super::schema::has_table;
use super::{files, summary};

/// What the database holds of a file whose removal has begun.
pub(super) struct Held {
    /// The dataset by whose definition the file was loaded.
    dataset: Arc<Dataset>,
    /// The table that has the file's rows. `None` if it was dropped, or the file has no rows.
    table: Option<String>,
}

/// See [`Sink::remove`](crate::sink::Sink::remove).
pub(super) fn remove(
    db: &Transaction<'_>,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Removed, Failure> {
    let held = begin(db, file_no, datasets)?;
    let mut rows = 0;
    if let Some(Held { dataset, table }) = held {
        let ids = [row_id(file_no, 0), row_id(file_no, u32::MAX)];
        remove_from_summary(db, file_no, ids, &dataset)?;
        let covered = files::coverage(db, &[file_no])?.remove(0);
        for (range, table) in covered.iter().zip(table.iter().cycle()) {
            let ours = not_taken();
            let sql = format!("DELETE FROM `{table}` WHERE `id` >= ? AND `id` < ?{ours}");
            let base = row_id(file_no, 0);
            let done = db.execute(&sql, params![base + range.start, base + range.end]);
            rows += done.map_err(|error| refused(error, file_no, table))? as u64;
        }
    }
    for table in [
        "ingest_rejects",
        "ingest_purged",
        "ingest_erased",
        "ingest_superseded",
        "ingest_replays",
        "ingest_seen",
        "ingest_frames",
    ] {
        let sql = format!("DELETE FROM {table} WHERE file_no = ?");
        db.execute(&sql, [file_no])?;
    }
    let mut find = db.prepare_cached(&removal::superseded_by(file_no))?;
    let superseded = find.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let superseded = superseded.collect::<Result<_, _>>()?;
    Ok(Removed { rows, superseded })
}

/// Removes the entries of a file's rows from the first to the last of these ids from the summary of its
/// dataset.
pub(super) fn remove_from_summary(
    db: &Transaction<'_>,
    file_no: u32,
    ids: [u64; 2],
    dataset: &Dataset,
) -> Result<(), Failure> {
    let Some(of) = &dataset.summary else {
        return Ok(());
    };
    if !has_table(db, &of.table)? {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM `{}` WHERE `{}` BETWEEN ? AND ?",
        of.table,
        SummaryNames::of(of).id
    );
    let done = db.execute(&sql, ids);
    if done.map_err(|error| refused(error, file_no, &of.table))? > 0 {
        // Now, the last record of a day may belong to another file.
        summary::mark(db, &dataset.name)?;
    }
    Ok(())
}

/// The failure of removing rows from a table, with the name of the table if a repetition would
/// fail as well.
pub(super) fn refused(error: rusqlite::Error, file_no: u32, table: &str) -> Failure {
    match classify(&error) {
        Class::Transient => Failure::Sqlite(error),
        _ => Failure::Found {
            next_step: removal::REFUSED.to_owned(),
            problem: removal::refused(file_no, table, error),
        },
    }
}

/// Sets the state of the file to `removing`, unless the table with its rows is missing. A settled
/// file gets an entry again, which has the stored ordinals. Returns what the database holds of the
/// file. `None` if none of its records is stored.
pub(super) fn begin(
    db: &Transaction<'_>,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Option<Held>, Failure> {
    let covered = files::coverage(db, &[file_no])?.remove(0);
    let mut held = None;
    if !covered.is_empty()
        && let Some(dataset) = loaded_by(db, file_no, datasets)?
    {
        let table = table_of(db, file_no, &covered, &dataset, datasets)?;
        held = Some(Held { dataset, table });
    }
    db.execute(
        "INSERT INTO ingest_frames (file_no, first_ordinal, records) SELECT file_no, 0, records FROM \
         ingest_files WHERE file_no = ? AND state = 'settled' AND records > 0 ON CONFLICT DO NOTHING",
        [file_no],
    )?;
    db.execute(
        "UPDATE ingest_files SET state = 'removing', reason = NULL WHERE file_no = ?",
        [file_no],
    )?;
    Ok(held)
}

/// The table that has the rows of a file. `None` if it was dropped, or the file has no rows.
pub(super) fn table_of(
    db: &Transaction<'_>,
    file_no: u32,
    covered: &[Range<u64>],
    dataset: &Dataset,
    datasets: &Datasets,
) -> Result<Option<String>, Failure> {
    if has_table(db, &dataset.table)? {
        return Ok(Some(dataset.table.clone()));
    }
    let records: u64 = covered.iter().map(|range| range.end - range.start).sum();
    let no_rows: u64 = db.query_row(&removal::no_rows(file_no), [], |row| row.get(0))?;
    if records <= no_rows {
        return Ok(None);
    }
    let instead = removal::instead(dataset, datasets);
    match &instead {
        Instead::Dropped => return Ok(None),
        Instead::Present(table)
            if has_table(db, table)? && db.prepare(&has_row_of(table, file_no))?.exists([])? =>
        {
            return Ok(Some((*table).to_owned()));
        }
        Instead::Present(_) | Instead::Nowhere => {}
    }
    Err(Failure::Found {
        next_step: removal::MISSING.to_owned(),
        problem: removal::missing(file_no, dataset, &instead),
    })
}
