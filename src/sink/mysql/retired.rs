//! What the ledger knows of rows that are no longer kept, for the readers and writers of rows.
//!
//! The ledger has the bound of a table before a row is taken from it. A transaction that has read or
//! written the table keeps its partitions as they are until its end. So whoever reads the table first,
//! and the bound after it, in one transaction, sees the row, or the bound.

use std::collections::HashSet;

use crate::batch::row_id;
use crate::dataset::Dataset;
use crate::sink::cells::{Cell, Rare, Row};

use super::errors::Failure;
use super::files::list;
use super::session::Session;

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// The bound of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    column: String,
    /// Microseconds since the epoch.
    before_us: i64,
    /// The partition whose rows are being taken, and the table that they are taken to. `None` if none
    /// is.
    pub(super) taken: Option<Taken>,
}

/// Rows on their way out of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    /// The partition.
    pub(super) partition: String,
    /// The table that has its rows, or does not exist yet.
    pub(super) side: String,
}

/// The name of the table that the rows of a partition are taken to.
pub(super) fn side(table: &str, number: u32) -> String {
    let hash = blake3::hash(table.as_bytes()).to_hex();
    format!("ingest_retiring_{}_{number}", &hash[..16])
}

/// The bound of a table. `None` if no row was taken from it.
pub(super) async fn bound(session: &mut Session, table: &str) -> Result<Option<Bound>, Failure> {
    type Found = (String, i64, Option<String>, u32);
    let sql = format!(
        "SELECT time_column, TIMESTAMPDIFF(MICROSECOND, '1970-01-01', rows_before), taken, side FROM \
         ingest_retentions WHERE table_name = '{table}'"
    );
    let found = session.rows::<Found>(&sql).await?.into_iter().next();
    Ok(found.map(|(column, before_us, taken, number)| Bound {
        column,
        before_us,
        taken: taken.map(|partition| Taken {
            partition,
            side: side(table, number),
        }),
    }))
}

impl Bound {
    /// Whether the time of a row of this dataset is before the bound.
    pub(super) fn is_before(&self, dataset: &Dataset, row: Row<'_>) -> bool {
        let Some((at, _)) = dataset.column(&self.column) else {
            return false;
        };
        // The first cell is the id.
        let time_us = match row.cells().nth(at + 1) {
            Some(Cell::Timestamp(time_us)) => time_us,
            Some(Cell::Rare(Rare::Date(days))) => i64::from(days) * DAY_US,
            _ => return false,
        };
        time_us < self.before_us
    }

    /// The condition, as SQL, for the days of a summary whose rows are all kept, if the summary is by
    /// the column of the bound.
    pub(super) fn kept_days(&self, time: &str, day: &str) -> Option<String> {
        let days = self.before_us.div_euclid(DAY_US);
        (self.column == time)
            .then(|| format!("`{day}` >= DATE_ADD('1970-01-01', INTERVAL {days} DAY)"))
    }
}

/// A condition, as SQL, for a file `f` of which a commit may store records without a comparison with
/// the table: none of its rows were ever taken from a table, or are being taken now.
pub(super) const NEVER_TAKEN: &str = "f.file_no > (SELECT COALESCE(MAX(IF(t.taken IS NULL, t.last_file, \
    4294967295)), 0) FROM ingest_retentions t)";

/// Which of these files have retired rows, or may have: while a partition is being taken out, all of them.
/// Read after the table and its bound.
pub(super) async fn with_retired(
    session: &mut Session,
    bound: &Bound,
    files: &[u32],
) -> Result<HashSet<u32>, Failure> {
    if bound.taken.is_some() || files.is_empty() {
        return Ok(files.iter().copied().collect());
    }
    let sql = format!(
        "SELECT file_no FROM ingest_retired WHERE file_no IN ({})",
        list(files)
    );
    Ok(session.rows::<u32>(&sql).await?.into_iter().collect())
}

/// A query for the number of rows of each of these files in a table: number, rows, largest id.
pub(super) fn rows_of_files(table: &str, first: u32, last: u32) -> String {
    format!(
        "SELECT `id` >> 32, COUNT(*), MAX(`id`) FROM `{table}` WHERE `id` BETWEEN {} AND {} GROUP BY 1",
        row_id(first, 0),
        row_id(last, u32::MAX)
    )
}
