//! Removes the rows, rejects and entries of a file in steps. The process may be killed after each
//! step.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::row_id;
use crate::dataset::{Dataset, Datasets};
use crate::sink::Removed;
use crate::sink::mismatch::has_row_of;
use crate::sink::removal::{self, Instead};
use crate::sink::summary::not_taken;
use crate::sink::table::SummaryNames;

use super::definitions::loaded_by;
use super::errors::{Class, Failure};
use super::files::{coverage, entries};
use super::session::Session;
use super::{doubled, summary};

/// Most rows of one DELETE. With more, its locks and its undo log would delay other transactions.
const ROWS_PER_STATEMENT: u64 = 5_000;

/// What the database holds of a file whose removal has begun.
pub(super) struct Held {
    /// The dataset by whose definition the file was loaded.
    dataset: Arc<Dataset>,
    /// The table that has the file's rows. `None` if it was dropped, or the file has no rows.
    table: Option<String>,
}

/// See [`Sink::remove`](crate::sink::Sink::remove).
pub(super) async fn remove(
    session: &mut Session,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Removed, Failure> {
    let mut held = begin(session, file_no, datasets).await?;
    let covered = entries(session, &[file_no]).await?.remove(&file_no);
    if covered.is_some() && held.is_none() {
        // A commit has stored the first records in between. Now no other can.
        held = begin(session, file_no, datasets).await?;
    }
    let mut rows = 0;
    if let (Some(covered), Some(Held { dataset, table })) = (covered, held) {
        if let Some(table) = &table {
            let ordinals = doubled::in_table(session, file_no, table).await?;
            if !ordinals.is_empty() {
                return Err(Failure::Found {
                    next_step: removal::DOUBLED,
                    problem: removal::doubled(file_no, table, &ordinals),
                });
            }
        }
        let ids = [row_id(file_no, 0), row_id(file_no, u32::MAX)];
        session.begin().await?;
        remove_from_summary(session, file_no, ids, &dataset).await?;
        session.commit().await?;
        for (range, table) in covered.iter().zip(table.iter().cycle()) {
            let sql = format!(
                "DELETE FROM `{table}` WHERE `id` >= {} AND `id` < {}{} LIMIT {ROWS_PER_STATEMENT}",
                row_id(file_no, 0) + range.start,
                row_id(file_no, 0) + range.end,
                not_taken(),
            );
            let done = all(session, &sql).await;
            rows += done.map_err(|failure| refused(failure, file_no, table))?;
        }
    }
    for table in [
        "ingest_rejects",
        "ingest_purged",
        "ingest_erased",
        "ingest_superseded",
        "ingest_replays",
        "ingest_seen",
    ] {
        let sql =
            format!("DELETE FROM {table} WHERE file_no = {file_no} LIMIT {ROWS_PER_STATEMENT}");
        all(session, &sql).await?;
    }
    session.begin().await?;
    for table in ["ingest_retired", "ingest_frames"] {
        session
            .run(&format!("DELETE FROM {table} WHERE file_no = {file_no}"))
            .await?;
    }
    session.commit().await?;
    // After the removal, since a commit may let a row of the file supersede others until then.
    let superseded = session.rows(&removal::superseded_by(file_no)).await?;
    Ok(Removed { rows, superseded })
}

/// See [`Sink::end_removal`](crate::sink::Sink::end_removal).
pub(super) async fn end(session: &mut Session, file_no: u32) -> Result<(), Failure> {
    session.run(&removal::end(file_no)).await.map(drop)
}

/// Removes the entries of a file's rows from the first to the last of these ids from the summary of its
/// dataset, in the transaction of the caller.
pub(super) async fn remove_from_summary(
    session: &mut Session,
    file_no: u32,
    [first, last]: [u64; 2],
    dataset: &Dataset,
) -> Result<(), Failure> {
    let Some(of) = &dataset.summary else {
        return Ok(());
    };
    if !session.has_table(&of.table).await? {
        return Ok(());
    }
    let sql = format!(
        "DELETE FROM `{}` WHERE `{}` BETWEEN {first} AND {last}",
        of.table,
        SummaryNames::of(of).id,
    );
    let done = session.run(&sql).await;
    if done.map_err(|failure| refused(failure, file_no, &of.table))? > 0 {
        // Now, the last record of a day may belong to another file.
        summary::mark(session, &dataset.name).await?;
    }
    Ok(())
}

/// The failure of removing rows from a table, with the name of the table if a repetition would
/// fail as well.
pub(super) fn refused(failure: Failure, file_no: u32, table: &str) -> Failure {
    match failure.class() {
        Class::Retry | Class::Reconnect => failure,
        _ => Failure::Found {
            next_step: removal::REFUSED,
            problem: removal::refused(file_no, table, failure),
        },
    }
}

/// Sets the state of the file to `removing`, unless the table with its rows is missing. Returns what
/// the database holds of the file. `None` if none of its records is stored.
pub(super) async fn begin(
    session: &mut Session,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Option<Held>, Failure> {
    let covered = coverage(session, &[file_no]).await?.remove(0);
    let mut held = None;
    if !covered.is_empty()
        && let Some(dataset) = loaded_by(session, file_no, datasets).await?
    {
        let table = table_of(session, file_no, &covered, &dataset, datasets).await?;
        held = Some(Held { dataset, table });
    }
    set_removing(session, file_no).await?;
    Ok(held)
}

/// The table that has the rows of a file. `None` if it was dropped, or the file has no rows.
pub(super) async fn table_of(
    session: &mut Session,
    file_no: u32,
    covered: &[Range<u64>],
    dataset: &Dataset,
    datasets: &Datasets,
) -> Result<Option<String>, Failure> {
    if session.has_table(&dataset.table).await? {
        return Ok(Some(dataset.table.clone()));
    }
    let records: u64 = covered.iter().map(|range| range.end - range.start).sum();
    if records <= session.one::<u64>(&removal::no_rows(file_no)).await? {
        return Ok(None);
    }
    let instead = removal::instead(dataset, datasets);
    match &instead {
        Instead::Dropped => return Ok(None),
        Instead::Present(table) if session.has_table(table).await? => {
            // A removal that was killed may have removed all rows.
            let sql = format!(
                "SELECT 1 FROM ingest_files WHERE file_no = {file_no} AND state = 'removing'"
            );
            if !session
                .rows::<u64>(&has_row_of(table, file_no))
                .await?
                .is_empty()
                || !session.rows::<u64>(&sql).await?.is_empty()
            {
                return Ok(Some((*table).to_owned()));
            }
        }
        Instead::Present(_) | Instead::Nowhere => {}
    }
    Err(Failure::Found {
        next_step: removal::MISSING,
        problem: removal::missing(file_no, dataset, &instead),
    })
}

/// Sets the state of the file to `removing`. The lock waits for running commits, and later commits
/// find the state. A settled file gets a ledger entry again: if this attempt is killed, the next
/// one reads from it which records were stored.
async fn set_removing(session: &mut Session, file_no: u32) -> Result<(), Failure> {
    session.begin().await?;
    session
        .run(&format!(
            "UPDATE ingest_files SET reason = NULL WHERE file_no = {file_no}"
        ))
        .await?;
    session
        .run(&format!(
            "INSERT INTO ingest_frames (file_no, first_ordinal, records) SELECT file_no, 0, records \
             FROM ingest_files WHERE file_no = {file_no} AND state = 'settled' AND records > 0 ON \
             DUPLICATE KEY UPDATE records = ingest_frames.records"
        ))
        .await?;
    session
        .run(&format!(
            "UPDATE ingest_files SET state = 'removing' WHERE file_no = {file_no}"
        ))
        .await?;
    session.commit().await
}

/// Repeats a statement with a LIMIT until it finds no row. Returns the number of rows of all runs.
async fn all(session: &mut Session, sql: &str) -> Result<u64, Failure> {
    let mut sum = 0;
    loop {
        let affected = session.run(sql).await?;
        sum += affected;
        if affected < ROWS_PER_STATEMENT {
            return Ok(sum);
        }
    }
}
