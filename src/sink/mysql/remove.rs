//! Removes the rows, rejects and entries of a file in steps. The process may be killed after each
//! step.

use crate::batch::row_id;
use crate::dataset::Datasets;
use crate::sink::summary::not_taken;
use crate::sink::table::SummaryNames;

use super::contents::loaded_by;
use super::errors::Failure;
use super::files::entries;
use super::schema::has_table;
use super::session::Session;
use super::summary;

/// Most rows of one DELETE. With more, its locks and its undo log would delay other transactions.
const ROWS_PER_STATEMENT: u64 = 5_000;

/// See [`Sink::remove`](crate::sink::Sink::remove).
pub(super) async fn remove(
    session: &mut Session,
    file_no: u32,
    datasets: &Datasets,
) -> Result<u64, Failure> {
    begin(session, file_no).await?;
    let covered = entries(session, &[file_no]).await?.remove(&file_no);
    let mut removed = 0;
    if let Some(covered) = covered {
        let Some(dataset) = loaded_by(session, file_no, datasets).await? else {
            return Ok(0);
        };
        if let Some(of) = &dataset.summary
            && has_table(session, &of.table).await?
        {
            let sql = format!(
                "DELETE FROM `{}` WHERE `{}` BETWEEN {} AND {}",
                of.table,
                SummaryNames::of(of).id,
                row_id(file_no, 0),
                row_id(file_no, u32::MAX)
            );
            session.begin().await?;
            if session.run(&sql).await? > 0 {
                // Now, the last record of a day may belong to another file.
                summary::mark(session, &dataset.name).await?;
            }
            session.commit().await?;
        }
        if has_table(session, &dataset.table).await? {
            for range in covered {
                let sql = format!(
                    "DELETE FROM `{}` WHERE `id` >= {} AND `id` < {}{} LIMIT {ROWS_PER_STATEMENT}",
                    dataset.table,
                    row_id(file_no, 0) + range.start,
                    row_id(file_no, 0) + range.end,
                    not_taken(),
                );
                removed += all(session, &sql).await?;
            }
        }
    }
    for table in [
        "ingest_rejects",
        "ingest_purged",
        "ingest_replays",
        "ingest_seen",
    ] {
        let sql =
            format!("DELETE FROM {table} WHERE file_no = {file_no} LIMIT {ROWS_PER_STATEMENT}");
        all(session, &sql).await?;
    }
    session.begin().await?;
    for table in ["ingest_frames", "ingest_files"] {
        session
            .run(&format!("DELETE FROM {table} WHERE file_no = {file_no}"))
            .await?;
    }
    session.commit().await?;
    Ok(removed)
}

/// Sets the state of the file to `removing`. The lock waits for running commits, and later commits
/// find the state. A settled file gets a ledger entry again: if this attempt is killed, the next
/// one reads from it which records were stored.
pub(super) async fn begin(session: &mut Session, file_no: u32) -> Result<(), Failure> {
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
