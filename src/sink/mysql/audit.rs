//! The counts of `verify` in MySQL, and where a record is stored.

use std::collections::HashMap;
use std::time::Duration;

use crate::batch::provenance;
use crate::coverage::holds;
use crate::dataset::Dataset;
use crate::sink::conflict::{span_of, superseded_sql};
use crate::sink::{Audit, Standing};

use super::errors::Failure;
use super::files::{coverage, list};
use super::retired::{Taken, bound, rows_of_files};
use super::schema::has_table;
use super::session::Session;

/// The server's errors if a table was dropped, or made after the transaction began, or if a partition
/// is being swapped by a session that waits for this one.
const CHANGED: [u16; 3] = [1146, 1412, 1213];

/// Pause before an audit is repeated.
const REPEAT_AFTER: Duration = Duration::from_millis(100);

/// See [`Operators::audit`](crate::sink::Operators::audit).
pub(super) async fn audit(
    session: &mut Session,
    dataset: &Dataset,
    file_nos: &[u32],
) -> Result<Vec<Audit>, Failure> {
    if file_nos.is_empty() {
        return Ok(Vec::new());
    }
    loop {
        if let Some(found) = at_one_moment(session, &dataset.table, file_nos).await? {
            return Ok(file_nos.iter().map(|file_no| found[file_no]).collect());
        }
        session.rollback().await?;
        tokio::time::sleep(REPEAT_AFTER).await;
    }
}

/// The counts of files. `None` if a partition was taken out of the table meanwhile.
async fn at_one_moment(
    session: &mut Session,
    table: &str,
    file_nos: &[u32],
) -> Result<Option<HashMap<u32, Audit>>, Failure> {
    let nothing = |&file_no: &u32| {
        let audit = Audit {
            file_no,
            ..Audit::default()
        };
        (file_no, audit)
    };
    let mut found: HashMap<u32, Audit> = file_nos.iter().map(nothing).collect();
    // All counts are of the same moment: a record that is being replayed must not count as row and
    // as reject. The moment is that of the first query, which also keeps the table's partitions as
    // they are until the end.
    session
        .run("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .await?;
    session.begin().await?;
    rows(session, table, file_nos, &mut found).await?;
    audit_others(session, table, file_nos, &mut found).await?;
    let bound = bound(session, table).await?;
    if let Some(Taken { side, .. }) = bound.and_then(|bound| bound.taken) {
        // They are in this table until they are counted as retired, or still in the other one.
        if !has_table(session, &side).await? {
            let is_begun = is_taken(session, table).await?;
            session.commit().await?;
            return Ok(is_begun.then_some(found));
        }
        let counted = async {
            rows(session, &side, file_nos, &mut found).await?;
            superseded(session, &side, &list(file_nos), &mut found).await
        };
        match counted.await {
            Err(failure) if failure.code().is_some_and(|code| CHANGED.contains(&code)) => {
                return Ok(None);
            }
            counted => counted?,
        }
    }
    session.commit().await?;
    Ok(Some(found))
}

/// Whether a partition is being taken out of a table now, and not at the moment of the transaction.
async fn is_taken(session: &mut Session, table: &str) -> Result<bool, Failure> {
    let sql = format!(
        "SELECT 1 FROM ingest_retentions WHERE table_name = '{table}' AND taken IS NOT NULL LOCK IN \
         SHARE MODE"
    );
    Ok(!session.rows::<u64>(&sql).await?.is_empty())
}

/// Adds the rows of files in a table. A range of the primary key instead of a list of files: the table
/// has only rows of files of this dataset.
async fn rows(
    session: &mut Session,
    table: &str,
    file_nos: &[u32],
    found: &mut HashMap<u32, Audit>,
) -> Result<(), Failure> {
    let first = file_nos.iter().min().copied().unwrap_or_default();
    let last = file_nos.iter().max().copied().unwrap_or_default();
    let sql = rows_of_files(table, first, last);
    for (file_no, rows, last) in session.rows::<(u32, u64, u64)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.rows += rows;
            audit.last_ordinal = audit.last_ordinal.max(Some(provenance(last).1));
        }
    }
    Ok(())
}

/// Adds the records that rows of a table supersede.
async fn superseded(
    session: &mut Session,
    table: &str,
    numbers: &str,
    found: &mut HashMap<u32, Audit>,
) -> Result<(), Failure> {
    let sql = format!(
        "SELECT s.file_no, COUNT(*), MAX(s.ordinal) FROM ingest_superseded s JOIN `{table}` w ON \
         w.`id` = s.winner WHERE s.file_no IN ({numbers}) GROUP BY s.file_no"
    );
    for (file_no, superseded, last) in session.rows::<(u32, u64, u32)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.superseded += superseded;
            audit.last_ordinal = audit.last_ordinal.max(Some(last));
        }
    }
    Ok(())
}

/// The counts of an audit except those of rows.
async fn audit_others(
    session: &mut Session,
    table: &str,
    file_nos: &[u32],
    found: &mut HashMap<u32, Audit>,
) -> Result<(), Failure> {
    let numbers = list(file_nos);
    let sql = format!(
        "SELECT file_no, COUNT(*), MAX(ordinal) FROM ingest_rejects WHERE file_no IN ({numbers}) GROUP \
         BY file_no"
    );
    for (file_no, rejects, last) in session.rows::<(u32, u64, u32)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.rejects = rejects;
            audit.last_ordinal = audit.last_ordinal.max(Some(last));
        }
    }
    let sql = format!(
        "SELECT p.file_no, COUNT(*), MAX(p.ordinal) FROM ingest_purged p LEFT JOIN ingest_rejects r \
         ON r.file_no = p.file_no AND r.ordinal = p.ordinal WHERE p.file_no IN ({numbers}) AND \
         r.file_no IS NULL GROUP BY p.file_no"
    );
    for (file_no, purged, last) in session.rows::<(u32, u64, u32)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.purged = purged;
            audit.last_ordinal = audit.last_ordinal.max(Some(last));
        }
    }
    superseded(session, table, &numbers, found).await?;
    let sql = format!("SELECT file_no, records FROM ingest_retired WHERE file_no IN ({numbers})");
    for (file_no, retired) in session.rows::<(u32, u64)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.retired = retired;
        }
    }
    let sql = format!(
        "SELECT e.file_no, COUNT(*) FROM (SELECT file_no, ordinal FROM ingest_rejects WHERE file_no \
         IN ({numbers}) UNION SELECT file_no, ordinal FROM ingest_purged WHERE file_no IN ({numbers}) \
         UNION SELECT s.file_no, s.ordinal FROM ingest_superseded s JOIN `{table}` w ON w.`id` = s.winner \
         WHERE s.file_no IN ({numbers})) e JOIN `{table}` t ON t.`id` = (e.file_no << 32 | e.ordinal) \
         GROUP BY e.file_no"
    );
    for (file_no, doubled) in session.rows::<(u32, u64)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.doubled = doubled;
        }
    }
    let sql = format!(
        "SELECT file_no, COUNT(*) FROM ingest_frames WHERE file_no IN ({numbers}) GROUP BY file_no"
    );
    for (file_no, entries) in session.rows::<(u32, u64)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.entries = entries;
        }
    }
    Ok(())
}

/// See [`Operators::standing`](crate::sink::Operators::standing).
pub(super) async fn standing(
    session: &mut Session,
    dataset: &Dataset,
    id: u64,
) -> Result<Standing, Failure> {
    let (file_no, ordinal) = provenance(id);
    let there = |table: &str| {
        format!("EXISTS (SELECT 1 FROM {table} WHERE file_no = {file_no} AND ordinal = {ordinal})")
    };
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM `{}` WHERE `id` = {id}), {}, {}",
        dataset.table,
        there("ingest_rejects"),
        there("ingest_purged")
    );
    Ok(match session.one(&sql).await? {
        // A row of another program may have the id of a reject.
        (_, true, _) => Standing::Reject,
        (true, false, _) => Standing::Row,
        (false, false, true) => Standing::Purged,
        (false, false, false) => {
            let sql = superseded_sql(&dataset.table, span_of(id));
            match session.rows::<(u32, bool, u64)>(&sql).await?.as_slice() {
                [(_, true, winner)] => Standing::Superseded(*winner),
                _ if is_retired(session, dataset, file_no, ordinal).await? => Standing::Retired,
                _ => Standing::Absent,
            }
        }
    })
}

/// Whether a record that is not stored is retired: it is one of the covered records of its file, and as
/// many of these are retired as are not stored.
async fn is_retired(
    session: &mut Session,
    dataset: &Dataset,
    file_no: u32,
    ordinal: u32,
) -> Result<bool, Failure> {
    let covered = coverage(session, &[file_no]).await?.remove(0);
    let ordinal = u64::from(ordinal);
    if !holds(&covered, &(ordinal..ordinal + 1)) {
        return Ok(false);
    }
    let records: u64 = covered.iter().map(|range| range.end - range.start).sum();
    let counted = audit(session, dataset, &[file_no]).await?;
    let is_all = |audit: &Audit| audit.retired > 0 && audit.stored() >= records;
    Ok(counted.iter().all(is_all))
}
