//! Finds settled files of which records are missing from the tables, in the transaction of the caller.

use std::collections::{BTreeMap, HashMap};
use std::slice;

use rusqlite::{OptionalExtension, Transaction};

use crate::dataset::Datasets;
use crate::sink::contents::digest_name;
use crate::sink::stored::{FILES_PER_QUERY, counts, lacks};

use super::contents::kept;
use super::definitions::loaded_by;
use super::errors::Failure;
use super::schema::has_table;

/// See [`Sink::lacking`](crate::sink::Sink::lacking).
pub(super) fn lacking(
    db: &Transaction<'_>,
    file_nos: &[u32],
    datasets: &Datasets,
) -> Result<Vec<u32>, Failure> {
    let mut lacking = Vec::new();
    for (table, files) in by_table(db, file_nos, datasets)? {
        let records: HashMap<u32, u32> = files.iter().copied().collect();
        for files in files.chunks(FILES_PER_QUERY) {
            let mut find = db.prepare(&counts(files, slice::from_ref(&table)))?;
            let mut rows = find.query([])?;
            while let Some(row) = rows.next()? {
                let (file_no, stored): (u32, u64) = (row.get(0)?, row.get(1)?);
                if lacks(records[&file_no], stored) && kept(db, &digest_name(file_no))?.is_none() {
                    lacking.push(file_no);
                }
            }
        }
    }
    Ok(lacking)
}

/// The settled files that have records, each with their number, by the table that has their rows.
fn by_table(
    db: &Transaction<'_>,
    file_nos: &[u32],
    datasets: &Datasets,
) -> Result<BTreeMap<String, Vec<(u32, u32)>>, Failure> {
    type Key = (String, Option<Vec<u8>>);
    let mut find = db.prepare_cached(
        "SELECT records, dataset, definition FROM ingest_files WHERE file_no = ? AND state = 'settled' \
         AND records > 0",
    )?;
    // Most files have one definition, whose text is read and parsed once.
    let mut tables: HashMap<Key, Option<String>> = HashMap::new();
    let mut files: BTreeMap<String, Vec<(u32, u32)>> = BTreeMap::new();
    for &file_no in file_nos {
        let found: Option<(u32, Key)> = find
            .query_row([file_no], |row| {
                Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))
            })
            .optional()?;
        let Some((records, key)) = found else {
            continue;
        };
        if !tables.contains_key(&key) {
            tables.insert(key.clone(), table_of(db, file_no, datasets)?);
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
fn table_of(
    db: &Transaction<'_>,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Option<String>, Failure> {
    match loaded_by(db, file_no, datasets) {
        Ok(Some(dataset)) if has_table(db, &dataset.table)? => Ok(Some(dataset.table.clone())),
        Ok(_) | Err(Failure::Found { .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}
