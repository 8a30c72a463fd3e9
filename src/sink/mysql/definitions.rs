//! Finds the dataset by whose definition a file was loaded, in MySQL.

use std::sync::Arc;

use crate::dataset::{Dataset, Datasets};
use crate::sink::NewFile;
use crate::sink::definitions::{dataset_of, tables_of};

use super::errors::Failure;
use super::session::Session;

/// See [`Contents::loaded_by`](crate::sink::Contents::loaded_by).
pub(super) async fn loaded_by(
    session: &mut Session,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Option<Arc<Dataset>>, Failure> {
    let sql = format!(
        "SELECT f.dataset, d.text FROM ingest_files f LEFT JOIN ingest_definitions d ON d.definition \
         = f.definition WHERE f.file_no = {file_no}"
    );
    let file = session.rows::<(String, Option<String>)>(&sql).await?;
    let Some((name, text)) = file.into_iter().next() else {
        return Ok(None);
    };
    dataset_of(&name, text.as_deref(), datasets)
        .map(Some)
        .map_err(|(next_step, problem)| Failure::Found { next_step, problem })
}

/// Whether a file of the ledger is in the table that the dataset of `file` has now. `false` if the
/// definition of the former is not known.
pub(super) async fn has_table_of(
    session: &mut Session,
    file_no: u32,
    file: &NewFile,
    datasets: &Datasets,
) -> Result<bool, Failure> {
    let now = datasets.by_name(&file.dataset);
    match loaded_by(session, file_no, datasets).await {
        Ok(former) => {
            Ok(former.is_some_and(|former| now.is_some_and(|now| now.table == former.table)))
        }
        Err(Failure::Found { .. }) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// See [`Contents::tables`](crate::sink::Contents::tables).
pub(super) async fn tables(session: &mut Session) -> Result<Vec<(String, String)>, Failure> {
    let texts = session
        .rows::<String>("SELECT text FROM ingest_definitions")
        .await?;
    Ok(tables_of(&texts))
}
