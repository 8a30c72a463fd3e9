//! The triggers of a SQLite database that change rows, for `doctor`.

use rusqlite::Transaction;

use crate::dataset::Datasets;
use crate::finding::Finding;
use crate::sink::triggers::{finding, updates};

use super::errors::Failure;

/// The triggers that change the values of rows after they were stored, as findings of `doctor`.
pub(super) fn changing(db: &Transaction<'_>, datasets: &Datasets) -> Result<Vec<Finding>, Failure> {
    let mut find = db.prepare(
        "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name",
    )?;
    let found = find.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut findings = Vec::new();
    for trigger in found {
        let (name, table, sql): (String, String, String) = trigger?;
        let is_of_dataset = |of: &str| of.eq_ignore_ascii_case(&table);
        if datasets.iter().any(|dataset| is_of_dataset(&dataset.table)) && updates(&sql, &table) {
            findings.push(finding(&name, &table));
        }
    }
    Ok(findings)
}
