//! Removes the rows, rejects and entries of a file, in the transaction of the caller.

use rusqlite::{Transaction, params};

use crate::batch::row_id;
use crate::dataset::Datasets;
use crate::sink::summary::not_taken;
use crate::sink::table::SummaryNames;

use super::contents::loaded_by;
use super::errors::Failure;
use super::schema::has_table;
use super::{files, summary};

/// See [`Sink::remove`](crate::sink::Sink::remove).
pub(super) fn remove(
    db: &Transaction<'_>,
    file_no: u32,
    datasets: &Datasets,
) -> Result<u64, Failure> {
    begin(db, file_no)?;
    let mut removed = 0;
    let covered = files::coverage(db, &[file_no])?.remove(0);
    if !covered.is_empty() {
        let Some(dataset) = loaded_by(db, file_no, datasets)? else {
            return Ok(0);
        };
        if let Some(of) = &dataset.summary
            && has_table(db, &of.table)?
        {
            let sql = format!(
                "DELETE FROM `{}` WHERE `{}` BETWEEN ? AND ?",
                of.table,
                SummaryNames::of(of).id
            );
            let ids = params![row_id(file_no, 0), row_id(file_no, u32::MAX)];
            if db.execute(&sql, ids)? > 0 {
                // Now, the last record of a day may belong to another file.
                summary::mark(db, &dataset.name)?;
            }
        }
        if has_table(db, &dataset.table)? {
            let (table, ours) = (&dataset.table, not_taken());
            let sql = format!("DELETE FROM `{table}` WHERE `id` >= ? AND `id` < ?{ours}");
            for range in covered {
                let (first, end) = (range.start, range.end);
                let base = row_id(file_no, 0);
                removed += db.execute(&sql, params![base + first, base + end])? as u64;
            }
        }
    }
    for table in [
        "ingest_rejects",
        "ingest_purged",
        "ingest_replays",
        "ingest_seen",
        "ingest_frames",
        "ingest_files",
    ] {
        let sql = format!("DELETE FROM {table} WHERE file_no = ?");
        db.execute(&sql, [file_no])?;
    }
    Ok(removed)
}

/// Puts the file into the state `removing`. A settled file gets an entry again, which has the
/// stored ordinals.
pub(super) fn begin(db: &Transaction<'_>, file_no: u32) -> Result<(), Failure> {
    db.execute(
        "INSERT INTO ingest_frames (file_no, first_ordinal, records) SELECT file_no, 0, records FROM \
         ingest_files WHERE file_no = ? AND state = 'settled' AND records > 0 ON CONFLICT DO NOTHING",
        [file_no],
    )?;
    db.execute(
        "UPDATE ingest_files SET state = 'removing', reason = NULL WHERE file_no = ?",
        [file_no],
    )?;
    Ok(())
}
