//! Finds the dataset by whose definition a file was loaded, in SQLite.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Transaction};

use crate::dataset::{Dataset, Datasets};
use crate::sink::NewFile;
use crate::sink::definitions::{dataset_of, tables_of};

use super::errors::Failure;

/// See [`Contents::loaded_by`](crate::sink::Contents::loaded_by).
pub(super) fn loaded_by(
    db: &Transaction<'_>,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Option<Arc<Dataset>>, Failure> {
    let file: Option<(String, Option<String>)> = db
        .query_row(
            "SELECT f.dataset, d.text FROM ingest_files f LEFT JOIN ingest_definitions d ON \
             d.definition = f.definition WHERE f.file_no = ?",
            [file_no],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let Some((name, text)) = file else {
        return Ok(None);
    };
    dataset_of(&name, text.as_deref(), datasets)
        .map(Some)
        .map_err(|(next_step, problem)| Failure::Found {
            next_step: next_step.to_owned(),
            problem,
        })
}

/// Whether a file of the ledger is in the table that the dataset of `file` has now. `false` if the
/// definition of the former is not known.
pub(super) fn has_table_of(
    db: &Transaction<'_>,
    file_no: u32,
    file: &NewFile,
    datasets: &Datasets,
) -> Result<bool, Failure> {
    let now = datasets.by_name(&file.dataset);
    match loaded_by(db, file_no, datasets) {
        Ok(former) => {
            Ok(former.is_some_and(|former| now.is_some_and(|now| now.table == former.table)))
        }
        Err(Failure::Found { .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// See [`Contents::tables`](crate::sink::Contents::tables).
pub(super) fn tables(db: &Transaction<'_>) -> Result<Vec<(String, String)>, Failure> {
    let mut find = db.prepare("SELECT text FROM ingest_definitions")?;
    let texts = find.query_map([], |row| row.get(0))?;
    Ok(tables_of(&texts.collect::<Result<Vec<_>, _>>()?))
}
