//! Removes what is stored of a file, in the caller's one transaction.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::batch::row_id;
use crate::dataset::Datasets;
use crate::sink::definitions::dataset_of;
use crate::sink::summary::not_taken;
use crate::sink::table::SummaryNames;

use super::errors::Failure;
use super::schema::has_table;
use super::{files, summary};

/// See [`Sink::remove`](crate::sink::Sink::remove).
pub(super) fn remove(
    db: &Transaction<'_>,
    file_no: u32,
    datasets: &Datasets,
) -> Result<u64, Failure> {
    let file: Option<(String, Option<String>)> = db
        .query_row(
            "SELECT f.dataset, d.text FROM ingest_files f LEFT JOIN ingest_definitions d ON \
             d.definition = f.definition WHERE f.file_no = ?",
            [file_no],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((name, text)) = file else {
        return Ok(0);
    };
    let mut removed = 0;
    let covered = files::coverage(db, &[file_no])?.remove(0);
    if !covered.is_empty() {
        let dataset =
            dataset_of(&name, text.as_deref(), datasets).map_err(|(next_step, problem)| {
                Failure::Found {
                    next_step: next_step.to_owned(),
                    problem,
                }
            })?;
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
                // Another file may have the record that is last of its day now.
                summary::mark(db, &name)?;
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
        "ingest_frames",
        "ingest_files",
    ] {
        let sql = format!("DELETE FROM {table} WHERE file_no = ?");
        db.execute(&sql, [file_no])?;
    }
    Ok(removed)
}
