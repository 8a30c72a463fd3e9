//! What `doctor` reports of a SQLite database: what a start refuses, and what it goes on with. Writes
//! nothing.

use rusqlite::Transaction;

use crate::dataset::Datasets;
use crate::finding::Finding;
use crate::sink::mismatch::Mismatch;
use crate::sink::partitions::without_partitions;
use crate::sink::table::{missing_index, tables};

use super::errors::Failure;
use super::{schema, summary, triggers};

/// See [`Schema::inspect`](crate::sink::Schema::inspect).
pub(super) fn inspect(db: &Transaction<'_>, datasets: &Datasets) -> Result<Vec<Finding>, Failure> {
    let mut findings = vec![Finding::ok("SQLite answers")];
    let of_ledger = schema::missing_of_ledger(db)?;
    findings.extend(of_ledger.findings());
    if of_ledger.fault().is_some() {
        // The other checks read these tables.
        return Ok(findings);
    }
    if let Some(refusal) = schema::refusal_of_ledger(db)? {
        // Another release may have changed what the other checks read.
        findings.push(Finding::refused(refusal));
        return Ok(findings);
    }
    let partitions = without_partitions(datasets);
    findings.extend(partitions.err().map(Finding::refused));
    let mismatches = schema::mismatches(db, datasets)?;
    findings.extend(mismatches.iter().map(Mismatch::finding));
    findings.extend(refusal(summary::check_zones(db, datasets))?);
    for table in tables(datasets) {
        if schema::has_table(db, &table.name)? {
            findings.extend(refusal(schema::check(db, &table))?);
        }
    }
    findings.extend(triggers::changing(db, datasets)?);
    let missing = schema::missing_indexes(db, datasets)?.into_iter();
    findings.extend(missing.map(|(what, sql)| missing_index(what, &sql)));
    Ok(findings)
}

/// The finding for a problem that a check of each start has found. `None` if it found none.
fn refusal(checked: Result<(), Failure>) -> Result<Option<Finding>, Failure> {
    match checked {
        Err(failure @ Failure::Found { .. }) => {
            let fault = failure.into_fault("comparing the tables with their datasets");
            Ok(Some(Finding::refused(fault)))
        }
        checked => checked.map(|()| None),
    }
}
