//! Finds settled files of which records are missing from the tables.

use std::collections::{BTreeMap, HashMap};

use crate::dataset::Datasets;
use crate::sink::contents::digest_name;
use crate::sink::stored::{FILES_PER_QUERY, counts, lacks};

use super::contents::kept;
use super::definitions::loaded_by;
use super::errors::Failure;
use super::files::{FILES_PER_STATEMENT, list};
use super::retired::Moment;
use super::session::Session;

/// See [`Sink::lacking`](crate::sink::Sink::lacking).
pub(super) async fn lacking(
    session: &mut Session,
    file_nos: &[u32],
    datasets: &Datasets,
) -> Result<Vec<u32>, Failure> {
    let mut lacking = Vec::new();
    for file_nos in file_nos.chunks(FILES_PER_STATEMENT) {
        for (table, files) in by_table(session, file_nos, datasets).await? {
            let records: HashMap<u32, u32> = files.iter().copied().collect();
            for files in files.chunks(FILES_PER_QUERY) {
                for (file_no, stored) in counted(session, files, &table).await? {
                    if lacks(records[&file_no], stored)
                        && kept(session, &digest_name(file_no)).await?.is_none()
                    {
                        lacking.push(file_no);
                    }
                }
            }
        }
    }
    Ok(lacking)
}

/// How many of the records that are asked about are stored, for each file.
async fn counted(
    session: &mut Session,
    files: &[(u32, u32)],
    table: &str,
) -> Result<Vec<(u32, u64)>, Failure> {
    loop {
        let moment = Moment::begin(session, table).await?;
        let counted = session.rows(&counts(files, &moment.tables)).await;
        if let Some(counted) = moment.end(session, counted).await? {
            return Ok(counted);
        }
    }
}

/// The settled files that have records, each with their number, by the table that has their rows.
async fn by_table(
    session: &mut Session,
    file_nos: &[u32],
    datasets: &Datasets,
) -> Result<BTreeMap<String, Vec<(u32, u32)>>, Failure> {
    type Found = (u32, u32, String, Option<Vec<u8>>);
    let sql = format!(
        "SELECT file_no, records, dataset, definition FROM ingest_files WHERE file_no IN ({}) AND state \
         = 'settled' AND records > 0",
        list(file_nos)
    );
    // Most files have one definition, whose text is read and parsed once.
    let mut tables: HashMap<(String, Option<Vec<u8>>), Option<String>> = HashMap::new();
    let mut files: BTreeMap<String, Vec<(u32, u32)>> = BTreeMap::new();
    for (file_no, records, dataset, definition) in session.rows::<Found>(&sql).await? {
        let key = (dataset, definition);
        if !tables.contains_key(&key) {
            let table = table_of(session, file_no, datasets).await?;
            tables.insert(key.clone(), table);
        }
        if let Some(table) = &tables[&key] {
            files
                .entry(table.clone())
                .or_default()
                .push((file_no, records));
        }
    }
    Ok(files)
}

/// The table with the rows of a file. `None` if it is missing or not known.
async fn table_of(
    session: &mut Session,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Option<String>, Failure> {
    match loaded_by(session, file_no, datasets).await {
        Ok(Some(dataset)) if session.has_table(&dataset.table).await? => {
            Ok(Some(dataset.table.clone()))
        }
        Ok(_) | Err(Failure::Found { .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}
