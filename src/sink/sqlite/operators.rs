//! The reads and repairs of operators in SQLite: [`Operators`](crate::sink::Operators).

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt as _;
use std::slice;

use rusqlite::{OptionalExtension, Row, Transaction, params};

use crate::batch::{Batch, RejectCode, provenance, row_id};
use crate::dataset::Dataset;
use crate::sink::cells::by_dataset;
use crate::sink::conflict::{span_of, superseded_sql};
use crate::sink::erasures;
use crate::sink::mismatch::{is_file, last_kept};
use crate::sink::operators::{assert_one_row, by_field, further_parts};
use crate::sink::summary::candidates;
use crate::sink::{
    Audit, ErasedBytes, FieldCount, FileEntry, FileState, LedgerFile, OpenReject, Purge,
    RejectEntry, RejectQuery, Replay, Replayed, Standing, Taken, Totals,
};

use super::commit::{IGNORED, equals, insert_row, row_insert};
use super::errors::{Class, Failure};
use super::files::{NEWER, file_state};
use super::now::now;
use super::summary;
use super::waits::{Refusal, refusal};

/// See [`Operators::totals`](crate::sink::Operators::totals).
pub(super) fn totals(db: &Transaction<'_>) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let mut sums = db.prepare_cached(&format!(
        "SELECT state, COUNT(*), SUM(records) FROM ingest_files WHERE {} GROUP BY state",
        is_file()
    ))?;
    let sums = sums.query_map([], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, u64>(1)?,
            row.get::<_, u64>(2)?,
        ))
    })?;
    for sum in sums {
        let (state, files, records) = sum?;
        match file_state(&state)? {
            FileState::Pending => totals.pending = files,
            FileState::Settled => (totals.settled, totals.records) = (files, records),
            FileState::Quarantined => totals.quarantined = files,
            FileState::Removing => totals.removing = files,
        }
    }
    // A file of several datasets has an entry for each of them.
    let file = "hex(COALESCE(i.content, f.hash)) || COALESCE(f.path, f.name)";
    let mut parts = db.prepare_cached(&further_parts(file))?;
    let parts = parts.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?))
    })?;
    for part in parts {
        let (state, more) = part?;
        totals.count_once(file_state(&state)?, more);
    }
    let count = |table: &str| {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        db.query_row(&sql, [], |row| row.get(0))
    };
    totals.rejects = count("ingest_rejects")?;
    totals.superseded = count("ingest_superseded")?;
    Ok(totals)
}

/// See [`Operators::kept_below`](crate::sink::Operators::kept_below).
pub(super) fn kept_below(db: &Transaction<'_>) -> Result<u32, Failure> {
    Ok(db.query_row(&last_kept(), [], |row| row.get(0))?)
}

/// See [`Operators::files`](crate::sink::Operators::files).
pub(super) fn files(
    db: &Transaction<'_>,
    file_nos: &Range<u32>,
    state: Option<FileState>,
    max: usize,
) -> Result<Vec<LedgerFile>, Failure> {
    let mut find = db.prepare_cached(&format!(
        "SELECT file_no, name, dataset, state, bytes, records, rejects, reason, f.hash, path, \
         registered_at, settled_at, content, path_values, mark, {} FROM ingest_files f LEFT JOIN \
         ingest_identities i ON i.hash = f.hash WHERE file_no >= ?1 AND file_no < ?2 AND (?3 IS NULL \
         OR state = ?3) AND {} ORDER BY file_no DESC LIMIT ?4",
        erasures::columns("hex(c.hash) || ':' || c.bytes"),
        is_file()
    ))?;
    let state = state.map(FileState::as_str);
    find.query_and_then(params![file_nos.start, file_nos.end, state, max], file)?
        .collect()
}

/// A time of the tables, as [`now`] writes it, by RFC 3339.
fn rfc3339(text: &str) -> String {
    format!("{}Z", text.replace(' ', "T"))
}

fn file(row: &Row<'_>) -> Result<LedgerFile, Failure> {
    let entry = FileEntry {
        file_no: row.get(0)?,
        name: row.get(1)?,
        dataset: row.get(2)?,
        state: file_state(&row.get::<_, String>(3)?)?,
        bytes: row.get(4)?,
        records: row.get(5)?,
        rejects: row.get(6)?,
        reason: row.get(7)?,
    };
    let values: Option<String> = row.get(13)?;
    let stand_ins: Option<String> = row.get(15)?;
    Ok(LedgerFile {
        entry,
        hash: row.get(8)?,
        taken: Taken::from_columns(row.get(12)?, values.as_deref()),
        erased: ErasedBytes::from_columns(stand_ins.as_deref(), row.get(16)?),
        path: row
            .get::<_, Option<Vec<u8>>>(9)?
            .map(|path| OsString::from_vec(path).into()),
        registered_at: rfc3339(&row.get::<_, String>(10)?),
        settled_at: row
            .get::<_, Option<String>>(11)?
            .map(|settled_at| rfc3339(&settled_at)),
        mark: row.get::<_, Option<i64>>(14)?.map(i64::cast_unsigned),
    })
}

/// See [`Operators::count_rows`](crate::sink::Operators::count_rows).
pub(super) fn count_rows(db: &Transaction<'_>, dataset: &Dataset) -> Result<u64, Failure> {
    let sql = format!("SELECT COUNT(*) FROM `{}`", dataset.table);
    Ok(db.query_row(&sql, [], |row| row.get(0))?)
}

/// See [`Operators::audit`](crate::sink::Operators::audit).
pub(super) fn audit(
    db: &Transaction<'_>,
    dataset: &Dataset,
    file_nos: &[u32],
) -> Result<Vec<Audit>, Failure> {
    let table = &dataset.table;
    let mut rows = db.prepare_cached(&format!(
        "SELECT COUNT(*), MAX(`id`) FROM `{table}` WHERE `id` BETWEEN ?1 AND ?2"
    ))?;
    let mut rejects =
        db.prepare_cached("SELECT COUNT(*), MAX(ordinal) FROM ingest_rejects WHERE file_no = ?")?;
    let mut purged = db.prepare_cached(
        "SELECT COUNT(*), MAX(ordinal) FROM ingest_purged p WHERE file_no = ? AND NOT EXISTS \
         (SELECT 1 FROM ingest_rejects r WHERE r.file_no = p.file_no AND r.ordinal = p.ordinal)",
    )?;
    let mut erased =
        db.prepare_cached("SELECT COUNT(*), MAX(ordinal) FROM ingest_erased WHERE file_no = ?")?;
    let mut doubled = db.prepare_cached(&format!(
        "SELECT COUNT(*) FROM (SELECT file_no, ordinal FROM ingest_rejects WHERE file_no = ?1 \
         UNION SELECT file_no, ordinal FROM ingest_purged WHERE file_no = ?1 UNION SELECT file_no, \
         ordinal FROM ingest_erased WHERE file_no = ?1 UNION SELECT \
         s.file_no, s.ordinal FROM ingest_superseded s JOIN `{table}` w ON w.`id` = s.winner WHERE \
         s.file_no = ?1) r JOIN `{table}` t ON t.`id` = (r.file_no << 32 | r.ordinal)"
    ))?;
    let mut superseded = db.prepare_cached(&format!(
        "SELECT COUNT(*), MAX(s.ordinal) FROM ingest_superseded s JOIN `{table}` w ON w.`id` = \
         s.winner WHERE s.file_no = ?"
    ))?;
    let mut entries = db.prepare_cached("SELECT COUNT(*) FROM ingest_frames WHERE file_no = ?")?;
    let counted = |row: &Row<'_>| Ok((row.get::<_, u64>(0)?, row.get::<_, Option<u64>>(1)?));
    let mut audits = Vec::with_capacity(file_nos.len());
    for &file_no in file_nos {
        let (first, last) = (row_id(file_no, 0), row_id(file_no, u32::MAX));
        let (row_count, row_last) = rows.query_row([first, last], counted)?;
        let (reject_count, reject_last) = rejects.query_row([file_no], counted)?;
        let (purged_count, purged_last) = purged.query_row([file_no], counted)?;
        let row_last = row_last.map(|id| provenance(id).1);
        let (superseded_count, superseded_last) = superseded.query_row([file_no], counted)?;
        let (erased_count, erased_last) = erased.query_row([file_no], counted)?;
        let others = [reject_last, purged_last, superseded_last, erased_last]
            .into_iter()
            .flatten();
        let other_last = others.max().map(|ordinal| ordinal as u32);
        audits.push(Audit {
            file_no,
            rows: row_count,
            rejects: reject_count,
            purged: purged_count,
            superseded: superseded_count,
            erased: erased_count,
            retired: 0,
            doubled: doubled.query_row([file_no], |row| row.get(0))?,
            last_ordinal: row_last.max(other_last),
            entries: entries.query_row([file_no], |row| row.get(0))?,
        });
    }
    Ok(audits)
}

/// See [`Operators::row_ids`](crate::sink::Operators::row_ids).
pub(super) fn row_ids(
    db: &Transaction<'_>,
    dataset: &Dataset,
    ids: &Range<u64>,
    max: usize,
) -> Result<Vec<u64>, Failure> {
    let mut find = db.prepare_cached(&format!(
        "SELECT `id` FROM `{}` WHERE `id` >= ? AND `id` < ? ORDER BY `id` LIMIT ?",
        dataset.table
    ))?;
    let found = find.query_map(params![ids.start, ids.end, max], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// See [`Operators::count_ids`](crate::sink::Operators::count_ids).
pub(super) fn count_ids(
    db: &Transaction<'_>,
    dataset: &Dataset,
    ids: &[Range<u64>],
) -> Result<Vec<u64>, Failure> {
    let mut count = db.prepare_cached(&format!(
        "SELECT COUNT(*) FROM `{}` WHERE `id` >= ? AND `id` < ?",
        dataset.table
    ))?;
    let counts = ids
        .iter()
        .map(|ids| count.query_row([ids.start, ids.end], |row| row.get(0)));
    Ok(counts.collect::<Result<_, _>>()?)
}

/// See [`Operators::standing`](crate::sink::Operators::standing).
pub(super) fn standing(
    db: &Transaction<'_>,
    dataset: &Dataset,
    id: u64,
) -> Result<Standing, Failure> {
    let (file_no, ordinal) = provenance(id);
    let there = |table: &str| -> Result<bool, rusqlite::Error> {
        db.prepare_cached(&format!(
            "SELECT 1 FROM {table} WHERE file_no = ? AND ordinal = ?"
        ))?
        .exists([file_no, ordinal])
    };
    // A row of another program may have the id of a reject.
    Ok(if there("ingest_rejects")? {
        Standing::Reject
    } else if there("ingest_erased")? {
        Standing::Erased
    } else if is_row(db, dataset, id)? {
        Standing::Row
    } else if there("ingest_purged")? {
        Standing::Purged
    } else {
        let sql = superseded_sql(&dataset.table, span_of(id));
        let winner = db.query_row(&sql, [], |row| Ok((row.get(1)?, row.get(2)?)));
        match winner.optional()? {
            Some((true, winner)) => Standing::Superseded(winner),
            _ => Standing::Absent,
        }
    })
}

/// See [`Operators::reject_counts`](crate::sink::Operators::reject_counts).
pub(super) fn reject_counts(db: &Transaction<'_>) -> Result<Vec<(RejectCode, u64)>, Failure> {
    let mut by_code =
        db.prepare_cached("SELECT code, COUNT(*) FROM ingest_rejects GROUP BY code ORDER BY code")?;
    let mut rows = by_code.query([])?;
    let mut counts = Vec::new();
    while let Some(row) = rows.next()? {
        counts.push((reject_code(&row.get::<_, String>(0)?)?, row.get(1)?));
    }
    Ok(counts)
}

/// See [`Operators::newest_rejects_by_field`](crate::sink::Operators::newest_rejects_by_field).
pub(super) fn newest_rejects_by_field(
    db: &Transaction<'_>,
    newest: usize,
    max: usize,
) -> Result<Vec<FieldCount>, Failure> {
    let mut counts = db.prepare(&by_field(newest, max))?;
    let count = |row: &Row<'_>| {
        Ok(FieldCount {
            code: reject_code(&row.get::<_, String>(0)?)?,
            field: row.get(1)?,
            rejects: row.get(2)?,
        })
    };
    counts.query_and_then([], count)?.collect()
}

/// See [`Operators::find_rejects`](crate::sink::Operators::find_rejects).
pub(super) fn rejects(
    db: &Transaction<'_>,
    query: &RejectQuery,
    max: usize,
) -> Result<Vec<OpenReject>, Failure> {
    let mut find = db.prepare(&format!(
        "SELECT code, file_no, ordinal, field, byte_offset, raw, message, rejected_at FROM \
         ingest_rejects WHERE {} ORDER BY file_no DESC, ordinal DESC LIMIT ?",
        query.condition()
    ))?;
    let mut rows = find.query([max])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let entry = RejectEntry {
            code: reject_code(&row.get::<_, String>(0)?)?,
            file_no: row.get(1)?,
            ordinal: row.get(2)?,
            field: row.get(3)?,
            byte_offset: row.get(4)?,
            raw: row.get(5)?,
            message: row.get(6)?,
        };
        found.push(OpenReject {
            entry,
            rejected_at: rfc3339(&row.get::<_, String>(7)?),
        });
    }
    Ok(found)
}

/// See [`Operators::replay`](crate::sink::Operators::replay).
pub(super) fn replay(db: &Transaction<'_>, records: &[Replay]) -> Result<Vec<Replayed>, Failure> {
    records
        .iter()
        .map(|record| replay_one(db, record))
        .collect()
}

fn replay_one(db: &Transaction<'_>, replay: &Replay) -> Result<Replayed, Failure> {
    let record = &replay.record;
    assert_one_row(record);
    let place = (record.span.file_no, record.span.first_ordinal);
    let id = row_id(place.0, place.1);
    // If the database refuses the row, the reject must stay.
    db.execute_batch("SAVEPOINT replay")?;
    let mut removed = 0;
    for table in ["ingest_rejects", "ingest_purged"] {
        removed += db
            .prepare_cached(&format!(
                "DELETE FROM {table} WHERE file_no = ? AND ordinal = ?"
            ))?
            .execute(params![place.0, place.1])?;
    }
    let replayed = if is_row(db, &record.dataset, id)? {
        let groups = by_dataset(slice::from_ref(record));
        let rows = groups.first().expect("a replay is of one row");
        if removed == 0 || equals(db, rows, rows.row(0))? {
            Replayed::AlreadyThere
        } else {
            Replayed::refused(RejectCode::IdTaken, None)
        }
    } else if removed == 0 {
        Replayed::NoReject
    } else {
        insert(db, record)?
    };
    // Added to the summary here, since a refresh would miss this row: a process that committed the
    // whole file does not read it again.
    let candidates = candidates(record);
    if replayed == Replayed::Stored && !candidates.is_empty() {
        summary::upsert(db, &record.dataset, &candidates)?;
    }
    match replayed {
        Replayed::Refused { .. } => db.execute_batch("ROLLBACK TO replay")?,
        Replayed::Stored | Replayed::AlreadyThere if removed > 0 => {
            db.prepare_cached(
                "UPDATE ingest_files SET rejects = MAX(rejects, 1) - 1 WHERE file_no = ? AND state = \
                 'settled'",
            )?
            .execute([place.0])?;
            db.prepare_cached(
                "INSERT INTO ingest_replays (file_no, ordinal, text, definition, replayed_at) VALUES \
                 (?1, ?2, ?3, ?4, ?5) ON CONFLICT (file_no, ordinal) DO UPDATE SET text = ?3, \
                 definition = ?4, replayed_at = ?5",
            )?
            .execute(params![
                place.0,
                place.1,
                replay.text.as_bytes(),
                record.dataset.fingerprint.to_bytes(),
                now()
            ])?;
        }
        _ => {}
    }
    db.execute_batch("RELEASE replay")?;
    Ok(replayed)
}

fn insert(db: &Transaction<'_>, record: &Batch) -> Result<Replayed, Failure> {
    let groups = by_dataset(slice::from_ref(record));
    let rows = groups.first().expect("a replay is of one row");
    let sql = row_insert(rows);
    let stored = db
        .prepare_cached(&sql)
        .and_then(|mut insert| insert_row(&mut insert, rows.row(0)));
    match stored {
        Ok(1) => Ok(Replayed::Stored),
        // The table was searched before.
        Ok(_) => Ok(Replayed::refused(
            RejectCode::RefusedByDatabase,
            Some(&IGNORED),
        )),
        Err(error) => match refusal(db, rows, &sql, error) {
            Refusal::Row(Class::Duplicate, error) => {
                let code = RejectCode::DuplicateKeyInTable;
                Ok(Replayed::refused(code, Some(&error)))
            }
            Refusal::Row(_, error) => Ok(Replayed::refused(
                RejectCode::RefusedByDatabase,
                Some(&error),
            )),
            Refusal::Failure(failure) => Err(failure),
        },
    }
}

fn is_row(db: &Transaction<'_>, dataset: &Dataset, id: u64) -> Result<bool, rusqlite::Error> {
    db.prepare_cached(&format!("SELECT 1 FROM `{}` WHERE `id` = ?", dataset.table))?
        .exists([id])
}

/// See [`Operators::count_purge`](crate::sink::Operators::count_purge).
pub(super) fn count_purge(db: &Transaction<'_>, purge: &Purge) -> Result<u64, Failure> {
    let sql = format!("SELECT COUNT(*) {}", purge.rejects());
    Ok(db.query_row(&sql, [], |row| row.get(0))?)
}

/// See [`Operators::purge`](crate::sink::Operators::purge).
pub(super) fn purge(db: &Transaction<'_>, purge: &Purge, max: usize) -> Result<u64, Failure> {
    let places: Vec<(u32, u32)> = db
        .prepare(&format!(
            "SELECT r.file_no, r.ordinal {} ORDER BY r.file_no, r.ordinal LIMIT ?",
            purge.rejects()
        ))?
        .query_map([max], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut keep = db.prepare_cached(
        "INSERT INTO ingest_purged (file_no, ordinal, purged_at) VALUES (?, ?, ?) ON CONFLICT DO \
         NOTHING",
    )?;
    let mut remove =
        db.prepare_cached("DELETE FROM ingest_rejects WHERE file_no = ? AND ordinal = ?")?;
    let now = now();
    for (file_no, ordinal) in &places {
        keep.execute(params![file_no, ordinal, now])?;
        remove.execute(params![file_no, ordinal])?;
    }
    Ok(places.len() as u64)
}

/// Parses the code of a reject in `ingest_rejects`.
fn reject_code(code: &str) -> Result<RejectCode, Failure> {
    RejectCode::parse(code).ok_or_else(|| Failure::Found {
        next_step: NEWER.to_owned(),
        problem: format!("`{code}` is not a reject code"),
    })
}
