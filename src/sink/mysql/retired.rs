//! What the ledger knows of rows that are no longer kept, for the readers and writers of rows.
//!
//! The ledger has the bound of a table before a row is taken from it. A transaction that has read or
//! written the table keeps its partitions as they are until its end. So whoever reads the table first,
//! and the bound after it, in one transaction, sees the row, or the bound.

use std::collections::HashSet;
use std::time::Duration;

use crate::batch::row_id;
use crate::dataset::{Dataset, Datasets, Summary};
use crate::sink::cells::{Cell, Rare, Row};
use crate::sink::definitions::{DEFINITIONS, tables_of};
use crate::sink::table::SummaryNames;

use super::errors::Failure;
use super::files::list;
use super::session::{NO_TABLE, Session};

/// Microseconds of a day.
const DAY_US: i64 = 86_400_000_000;

/// Whether an error says that a table was dropped, or made after the transaction began, or that a
/// partition is being swapped by a session that waits for this one.
fn is_changed(code: u16) -> bool {
    [NO_TABLE, 1412, 1213].contains(&code)
}

/// Pause before tables are read again.
const REPEAT_AFTER: Duration = Duration::from_millis(100);

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

/// A transaction in which a table, and the rows that are on their way out of it, are read as they are at
/// one moment.
pub(super) struct Moment {
    /// The tables with the rows: the table and, while a partition is taken out of it, the other one.
    pub(super) tables: Vec<String>,
}

impl Moment {
    pub(super) async fn begin(session: &mut Session, table: &str) -> Result<Self, Failure> {
        loop {
            // The moment is that of the first query, which also keeps the table's partitions as they
            // are until the end.
            session
                .run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                .await?;
            session.begin().await?;
            let sql = format!("SELECT 1 FROM `{table}` LIMIT 1");
            session.rows::<u64>(&sql).await?;
            let mut tables = vec![table.to_owned()];
            let Some(taken) = bound(session, table).await?.and_then(|it| it.taken) else {
                return Ok(Self { tables });
            };
            match session.has_table(&taken.side).await {
                Ok(true) => {
                    tables.push(taken.side);
                    return Ok(Self { tables });
                }
                Ok(false) => {}
                Err(failure) if failure.code().is_some_and(is_changed) => {
                    session.rollback().await?;
                    tokio::time::sleep(REPEAT_AFTER).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            // It is not made yet, or was dropped. The answer of a locking read is of now.
            let sql = format!(
                "SELECT side FROM ingest_retentions WHERE table_name = '{table}' AND taken IS NOT NULL \
                 LOCK IN SHARE MODE"
            );
            let now = session.rows::<u32>(&sql).await?;
            if now.iter().any(|now| side(table, *now) == taken.side) {
                return Ok(Self { tables });
            }
            session.rollback().await?;
            tokio::time::sleep(REPEAT_AFTER).await;
        }
    }

    /// Ends the transaction. `None` if rows were counted as retired meanwhile, so that the tables have
    /// to be read again.
    pub(super) async fn end<T>(
        self,
        session: &mut Session,
        found: Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        let has_two = self.tables.len() > 1;
        match found {
            Err(failure) if has_two && failure.code().is_some_and(is_changed) => {
                session.rollback().await?;
                tokio::time::sleep(REPEAT_AFTER).await;
                Ok(None)
            }
            found => {
                let found = found?;
                session.commit().await.map(|()| Some(found))
            }
        }
    }
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

/// Gives what the ledger knows of the retired rows of a table to the table's new name: the table of a
/// dataset was renamed, in the database and in the settings.
pub(super) async fn follow_renames(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<(), Failure> {
    let known = "SELECT table_name, side FROM ingest_retentions";
    let known = session.rows::<(String, u32)>(known).await?;
    let has = |table: &str| known.iter().any(|(name, _)| name == table);
    for (former, number) in &known {
        if session.has_table(former).await? {
            continue;
        }
        for dataset in datasets.iter().filter(|it| !has(&it.table)) {
            let definitions: Vec<(Vec<u8>, String)> =
                session.rows_with(DEFINITIONS, (&dataset.name,)).await?;
            let (table, texts) = (
                &dataset.table,
                definitions.into_iter().map(|(_, text)| text),
            );
            let tables = tables_of(&texts.collect::<Vec<_>>());
            if !tables.iter().any(|(_, table)| table == former) || !session.has_table(table).await?
            {
                continue;
            }
            let (from, to) = (side(former, *number), side(table, *number));
            if session.has_table(&from).await? {
                let sql = format!("RENAME TABLE `{from}` TO `{to}`");
                session.run(&sql).await?;
            }
            let sql = format!(
                "UPDATE ingest_retentions SET table_name = '{table}' WHERE table_name = '{former}'"
            );
            session.run(&sql).await?;
            break;
        }
    }
    Ok(())
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
    pub(super) fn kept_days(&self, summary: &Summary) -> Option<String> {
        // The first day that begins at the bound or later.
        let first = summary.time_zone.day(self.before_us - 1) + 1;
        let day = SummaryNames::of(summary).day;
        (self.column == summary.time)
            .then(|| format!("`{day}` >= DATE_ADD('1970-01-01', INTERVAL {first} DAY)"))
    }
}

/// A condition, as SQL, for a file `f` of which a commit to these tables may store records without a
/// comparison with them: none of its rows were ever taken from one of them, or are being taken now.
pub(super) fn never_taken<'a>(tables: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = tables.map(|table| format!("'{table}'")).collect();
    format!(
        "f.file_no > (SELECT COALESCE(MAX(IF(t.taken IS NULL, t.last_file, 4294967295)), 0) FROM \
         ingest_retentions t WHERE t.table_name IN ({}))",
        names.join(",")
    )
}

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
