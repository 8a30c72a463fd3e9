//! The counts of `verify` in MySQL, and where a record is stored.

use std::collections::HashMap;

use crate::batch::provenance;
use crate::coverage::holds;
use crate::dataset::Dataset;
use crate::sink::conflict::{span_of, superseded_sql};
use crate::sink::{Audit, Standing};

use super::errors::Failure;
use super::files::{coverage, list};
use super::retired::{Moment, rows_of_files};
use super::session::Session;

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
        // All counts are of the same moment: a record that is being replayed must not count as row and
        // as reject.
        let moment = Moment::begin(session, &dataset.table).await?;
        let found = counts(session, &moment.tables, file_nos).await;
        if let Some(found) = moment.end(session, found).await? {
            return Ok(file_nos.iter().map(|file_no| found[file_no]).collect());
        }
    }
}

/// The counts of files in these tables, of which the first is that of their dataset.
async fn counts(
    session: &mut Session,
    tables: &[String],
    file_nos: &[u32],
) -> Result<HashMap<u32, Audit>, Failure> {
    let nothing = |&file_no: &u32| {
        let audit = Audit {
            file_no,
            ..Audit::default()
        };
        (file_no, audit)
    };
    let mut found: HashMap<u32, Audit> = file_nos.iter().map(nothing).collect();
    for table in tables {
        rows(session, table, file_nos, &mut found).await?;
        superseded(session, table, &list(file_nos), &mut found).await?;
    }
    audit_others(session, &tables[0], file_nos, &mut found).await?;
    Ok(found)
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

/// The counts of an audit except those of rows and of the records that they supersede.
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
    let sql = format!(
        "SELECT file_no, COUNT(*), MAX(ordinal) FROM ingest_erased WHERE file_no IN ({numbers}) GROUP BY \
         file_no"
    );
    for (file_no, erased, last) in session.rows::<(u32, u64, u32)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.erased = erased;
            audit.last_ordinal = audit.last_ordinal.max(Some(last));
        }
    }
    let sql = format!("SELECT file_no, records FROM ingest_retired WHERE file_no IN ({numbers})");
    for (file_no, retired) in session.rows::<(u32, u64)>(&sql).await? {
        if let Some(audit) = found.get_mut(&file_no) {
            audit.retired = retired;
        }
    }
    let sql = format!(
        "SELECT e.file_no, COUNT(*) FROM (SELECT file_no, ordinal FROM ingest_rejects WHERE file_no \
         IN ({numbers}) UNION SELECT file_no, ordinal FROM ingest_purged WHERE file_no IN ({numbers}) \
         UNION SELECT file_no, ordinal FROM ingest_erased WHERE file_no IN ({numbers}) UNION SELECT s.file_no, s.ordinal FROM ingest_superseded s JOIN `{table}` w ON w.`id` = s.winner \
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
        "SELECT EXISTS (SELECT 1 FROM `{}` WHERE `id` = {id}), {}, {}, {}",
        dataset.table,
        there("ingest_rejects"),
        there("ingest_purged"),
        there("ingest_erased")
    );
    Ok(match session.one(&sql).await? {
        // A row of another program may have the id of a reject.
        (_, true, _, _) => Standing::Reject,
        (_, false, _, true) => Standing::Erased,
        (true, false, _, false) => Standing::Row,
        (false, false, true, false) => Standing::Purged,
        (false, false, false, false) => {
            let sql = superseded_sql(&dataset.table, span_of(id));
            match session.rows::<(u32, bool, u64)>(&sql).await?.as_slice() {
                [(_, true, winner)] => Standing::Superseded(*winner),
                _ if is_retired(session, dataset, id).await? => Standing::Retired,
                _ => Standing::Absent,
            }
        }
    })
}

/// Whether a record that is not stored is retired: its row is on its way out of the table; or it is one
/// of the covered records of its file, and as many of these are retired as are not stored.
async fn is_retired(session: &mut Session, dataset: &Dataset, id: u64) -> Result<bool, Failure> {
    let (file_no, ordinal) = provenance(id);
    let covered = coverage(session, &[file_no]).await?.remove(0);
    let ordinal = u64::from(ordinal);
    if !holds(&covered, &(ordinal..ordinal + 1)) {
        return Ok(false);
    }
    loop {
        let moment = Moment::begin(session, &dataset.table).await?;
        let has_row = has_row(session, &moment.tables, id).await;
        match moment.end(session, has_row).await? {
            Some(true) => return Ok(true),
            Some(false) => break,
            None => {}
        }
    }
    let records: u64 = covered.iter().map(|range| range.end - range.start).sum();
    let counted = audit(session, dataset, &[file_no]).await?;
    let is_all = |audit: &Audit| audit.retired > 0 && audit.stored() >= records;
    Ok(counted.iter().all(is_all))
}

async fn has_row(session: &mut Session, tables: &[String], id: u64) -> Result<bool, Failure> {
    let of_table = |table: &String| format!("SELECT 1 FROM `{table}` WHERE `id` = {id}");
    let of_tables: Vec<String> = tables.iter().map(of_table).collect();
    let rows = session.rows::<u64>(&of_tables.join(" UNION ALL ")).await?;
    Ok(!rows.is_empty())
}
