//! The reads and repairs of operators in MySQL: [`Operators`](crate::sink::Operators).
//!
//! Statements contain numbers, reject codes, states and times as text. This module formats them, so
//! they cannot change the meaning of a statement. All values from outside are bound as parameters.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt as _;
use std::slice;

use mysql_async::prelude::FromValue;

use crate::batch::{Batch, RejectCode, row_id};
use crate::dataset::Dataset;
use crate::sink::cells::{RECORD_TOO_LARGE, by_dataset};
use crate::sink::erasures;
use crate::sink::mismatch::{is_file, last_kept};
use crate::sink::operators::{assert_one_row, by_field, further_parts};
use crate::sink::summary::candidates;
use crate::sink::{
    ErasedBytes, FieldCount, FileEntry, FileState, LastEvent, LedgerFile, OpenReject, Purge,
    RejectEntry, RejectQuery, Replay, Replayed, Taken, Totals,
};

use super::bind::{self, limits};
use super::commit::{Found, compare, row_insert};
use super::errors::{Class, Failure};
use super::files::{NEWER, file_state, identity, list};
use super::session::Session;
use super::summary;

/// Bytes of a packet that are left for everything except the text of a replay.
const TEXT_BYTES_SPARE: usize = 1_024;

/// The format of times in UTC for people and programs: RFC 3339, in microseconds.
const RFC3339: &str = "'%Y-%m-%dT%H:%i:%s.%fZ'";

/// See [`Operators::totals`](crate::sink::Operators::totals).
pub(super) async fn totals(session: &mut Session) -> Result<Totals, Failure> {
    let mut totals = Totals::default();
    let sql = format!(
        "SELECT state, COUNT(*), CAST(SUM(records) AS UNSIGNED) FROM ingest_files WHERE {} GROUP BY \
         state",
        is_file()
    );
    for (state, files, records) in session.rows::<(String, u64, u64)>(&sql).await? {
        match file_state(&state)? {
            FileState::Pending => totals.pending = files,
            FileState::Settled => (totals.settled, totals.records) = (files, records),
            FileState::Quarantined => totals.quarantined = files,
            FileState::Removing => totals.removing = files,
        }
    }
    // A file of several datasets has an entry for each of them.
    let sql = further_parts("COALESCE(i.content, f.hash), COALESCE(f.path, f.name)");
    for (state, more) in session.rows::<(String, u64)>(&sql).await? {
        totals.count_once(file_state(&state)?, more);
    }
    totals.rejects = session.one("SELECT COUNT(*) FROM ingest_rejects").await?;
    totals.superseded = session
        .one("SELECT COUNT(*) FROM ingest_superseded")
        .await?;
    Ok(totals)
}

/// See [`Operators::kept_below`](crate::sink::Operators::kept_below).
pub(super) async fn kept_below(session: &mut Session) -> Result<u32, Failure> {
    session.one(&last_kept()).await
}

/// See [`Operators::files`](crate::sink::Operators::files).
pub(super) async fn files(
    session: &mut Session,
    file_nos: &Range<u32>,
    state: Option<FileState>,
    max: usize,
) -> Result<Vec<LedgerFile>, Failure> {
    let state = state.map_or(String::new(), |state| {
        format!(" AND state = '{}'", state.as_str())
    });
    let sql = format!(
        "SELECT file_no, name, dataset, state, bytes, records, rejects, reason, f.hash, path, \
         DATE_FORMAT(registered_at, {RFC3339}), DATE_FORMAT(settled_at, {RFC3339}), content, \
         path_values, mark, {} FROM ingest_files f LEFT JOIN ingest_identities i ON i.hash = f.hash WHERE \
         file_no >= {} AND file_no < {}{state} AND {} ORDER BY file_no DESC LIMIT {max}",
        erasures::columns("CONCAT(HEX(c.hash), ':', c.bytes)"),
        file_nos.start,
        file_nos.end,
        is_file()
    );
    let rows = session.rows::<mysql_async::Row>(&sql).await?;
    rows.iter().map(file).collect()
}

fn file(row: &mysql_async::Row) -> Result<LedgerFile, Failure> {
    let entry = FileEntry {
        file_no: column(row, 0)?,
        name: column(row, 1)?,
        dataset: column(row, 2)?,
        state: file_state(&column::<String>(row, 3)?)?,
        bytes: column(row, 4)?,
        records: column(row, 5)?,
        rejects: column(row, 6)?,
        reason: column(row, 7)?,
    };
    let path: Option<Vec<u8>> = column(row, 9)?;
    let content: Option<Vec<u8>> = column(row, 12)?;
    let values: Option<String> = column(row, 13)?;
    let stand_ins: Option<String> = column(row, 15)?;
    Ok(LedgerFile {
        entry,
        hash: identity(column(row, 8)?),
        taken: Taken::from_columns(content.map(identity), values.as_deref()),
        erased: ErasedBytes::from_columns(stand_ins.as_deref(), column(row, 16)?),
        path: path.map(|path| OsString::from_vec(path).into()),
        registered_at: column(row, 10)?,
        settled_at: column(row, 11)?,
        mark: column(row, 14)?,
    })
}

/// A column of a row of `ingest_files`.
fn column<T: FromValue>(row: &mysql_async::Row, at: usize) -> Result<T, Failure> {
    row.get_opt(at)
        .and_then(Result::ok)
        .ok_or_else(|| Failure::Found {
            next_step: NEWER,
            problem: format!("column {at} of ingest_files has another type"),
        })
}

/// See [`Operators::count_rows`](crate::sink::Operators::count_rows).
pub(super) async fn count_rows(session: &mut Session, dataset: &Dataset) -> Result<u64, Failure> {
    let sql = format!("SELECT COUNT(*) FROM `{}`", dataset.table);
    session.one(&sql).await
}

/// See [`Operators::row_ids`](crate::sink::Operators::row_ids).
pub(super) async fn row_ids(
    session: &mut Session,
    dataset: &Dataset,
    ids: &Range<u64>,
    max: usize,
) -> Result<Vec<u64>, Failure> {
    let sql = format!(
        "SELECT `id` FROM `{}` WHERE `id` >= {} AND `id` < {} ORDER BY `id` LIMIT {max}",
        dataset.table, ids.start, ids.end
    );
    session.rows(&sql).await
}

/// See [`Operators::count_ids`](crate::sink::Operators::count_ids).
pub(super) async fn count_ids(
    session: &mut Session,
    dataset: &Dataset,
    ids: &[Range<u64>],
) -> Result<Vec<u64>, Failure> {
    let mut counts = vec![0; ids.len()];
    if ids.is_empty() {
        return Ok(counts);
    }
    let count = |(place, ids): (usize, &Range<u64>)| {
        format!(
            "SELECT {place}, COUNT(*) FROM `{}` WHERE `id` >= {} AND `id` < {}",
            dataset.table, ids.start, ids.end
        )
    };
    let sql: Vec<String> = ids.iter().enumerate().map(count).collect();
    for (place, rows) in session
        .rows::<(usize, u64)>(&sql.join(" UNION ALL "))
        .await?
    {
        counts[place] = rows;
    }
    Ok(counts)
}

/// See [`Operators::reject_counts`](crate::sink::Operators::reject_counts).
pub(super) async fn reject_counts(
    session: &mut Session,
) -> Result<Vec<(RejectCode, u64)>, Failure> {
    let sql = "SELECT code, COUNT(*) FROM ingest_rejects GROUP BY code ORDER BY code";
    let counts = session.rows::<(String, u64)>(sql).await?;
    let parsed = |(code, rejects): &(String, u64)| Ok((reject_code(code)?, *rejects));
    counts.iter().map(parsed).collect()
}

/// See [`Operators::newest_rejects_by_field`](crate::sink::Operators::newest_rejects_by_field).
pub(super) async fn newest_rejects_by_field(
    session: &mut Session,
    newest: usize,
    max: usize,
) -> Result<Vec<FieldCount>, Failure> {
    let sql = by_field(newest, max);
    let counts = session.rows::<(String, Option<String>, u64)>(&sql).await?;
    let parsed = |(code, field, rejects): (String, Option<String>, u64)| {
        Ok(FieldCount {
            code: reject_code(&code)?,
            field,
            rejects,
        })
    };
    counts.into_iter().map(parsed).collect()
}

/// See [`Operators::find_rejects`](crate::sink::Operators::find_rejects).
pub(super) async fn rejects(
    session: &mut Session,
    query: &RejectQuery,
    max: usize,
) -> Result<Vec<OpenReject>, Failure> {
    type Row = (
        u32,
        u32,
        String,
        Option<String>,
        u64,
        Vec<u8>,
        Option<String>,
        String,
    );
    let sql = format!(
        "SELECT file_no, ordinal, code, field, byte_offset, raw, message, \
         DATE_FORMAT(rejected_at, {RFC3339}) \
         FROM ingest_rejects WHERE {} ORDER BY file_no DESC, ordinal DESC LIMIT {max}",
        query.condition()
    );
    let rows = session.rows::<Row>(&sql).await?;
    let reject = |(file_no, ordinal, code, field, byte_offset, raw, message, rejected_at): Row| {
        let entry = RejectEntry {
            file_no,
            ordinal,
            code: reject_code(&code)?,
            field,
            byte_offset,
            raw,
            message,
        };
        Ok(OpenReject { entry, rejected_at })
    };
    rows.into_iter().map(reject).collect()
}

/// See [`Operators::replay`](crate::sink::Operators::replay).
pub(super) async fn replay(
    session: &mut Session,
    records: &[Replay],
) -> Result<Vec<Replayed>, Failure> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    session.begin().await?;
    // Locks the files, so that a late delivery of them waits and then finds the row, or has already
    // stored its reject. One statement locks all files in ascending order, as all transactions do.
    let files: Vec<u32> = records
        .iter()
        .map(|replay| replay.record.span.file_no)
        .collect();
    let lock = format!(
        "SELECT file_no FROM ingest_files WHERE file_no IN ({}) ORDER BY file_no FOR UPDATE",
        list(&files)
    );
    session.rows::<u32>(&lock).await?;
    let mut replayed = Vec::with_capacity(records.len());
    let mut stored = Vec::new();
    for replay in records {
        let outcome = replay_one(session, replay).await?;
        if outcome == Replayed::Stored {
            stored.push(&replay.record);
        }
        replayed.push(outcome);
    }
    // Added to the summary here, since a refresh would miss these rows: a process that committed
    // the whole file does not read it again.
    stored.sort_by_key(|record| &record.dataset.name);
    for stored in stored.chunk_by(|a, b| a.dataset.name == b.dataset.name) {
        let candidates: Vec<LastEvent> = stored
            .iter()
            .flat_map(|record| candidates(record))
            .collect();
        if !candidates.is_empty() {
            summary::upsert(session, &stored[0].dataset, &candidates).await?;
        }
    }
    session.commit().await?;
    Ok(replayed)
}

async fn replay_one(session: &mut Session, replay: &Replay) -> Result<Replayed, Failure> {
    let record = &replay.record;
    assert_one_row(record);
    let (file_no, ordinal) = (record.span.file_no, record.span.first_ordinal);
    // If the database refuses the row, the reject must stay.
    session.run("SAVEPOINT replay").await?;
    let mut removed = 0;
    for table in ["ingest_rejects", "ingest_purged"] {
        let sql = format!("DELETE FROM {table} WHERE file_no = {file_no} AND ordinal = {ordinal}");
        removed += session.run(&sql).await?;
    }
    let there = format!(
        "SELECT 1 FROM `{}` WHERE `id` = {}",
        record.dataset.table,
        row_id(file_no, ordinal)
    );
    let replayed = if !session.rows::<u8>(&there).await?.is_empty() {
        let groups = by_dataset(slice::from_ref(record));
        let rows = groups.first().expect("a replay is of one row");
        if removed == 0 || compare(session, rows, 0..1).await? == [Found::Equal] {
            Replayed::AlreadyThere
        } else {
            Replayed::refused(RejectCode::IdTaken, None)
        }
    } else if removed == 0 {
        Replayed::NoReject
    } else if replay.text.len() + TEXT_BYTES_SPARE > session.server.packet_bytes_max {
        Replayed::refused(RejectCode::RefusedByDatabase, Some(&RECORD_TOO_LARGE))
    } else {
        insert(session, record).await?
    };
    match replayed {
        Replayed::Refused { .. } => session
            .run("ROLLBACK TO SAVEPOINT replay")
            .await
            .map(drop)?,
        Replayed::Stored | Replayed::AlreadyThere if removed > 0 => {
            let sql = format!(
                "UPDATE ingest_files SET rejects = GREATEST(rejects, 1) - 1 WHERE file_no = \
                 {file_no} AND state = 'settled'"
            );
            session.run(&sql).await?;
            let sql = "INSERT INTO ingest_replays (file_no, ordinal, text, definition, replayed_at) \
                       VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE text = \
                       VALUES(text), definition = VALUES(definition), replayed_at = \
                       VALUES(replayed_at)";
            let text = replay.text.as_bytes();
            let definition = record.dataset.fingerprint.to_bytes().to_vec();
            let params = (file_no, ordinal, text, definition);
            session.run_with(sql, params).await?;
        }
        _ => {}
    }
    Ok(replayed)
}

async fn insert(session: &mut Session, record: &Batch) -> Result<Replayed, Failure> {
    let groups = by_dataset(slice::from_ref(record));
    let rows = groups.first().expect("a replay is of one row");
    let insert = row_insert(rows);
    let limits = limits(&insert, session.server, 1);
    if bind::first(rows, 0..1, limits).is_none() {
        let code = RejectCode::RefusedByDatabase;
        return Ok(Replayed::refused(code, Some(&RECORD_TOO_LARGE)));
    }
    let row = rows.range(0..1).map(bind::values);
    match session.insert(&insert, 1, row).await {
        Ok(_) => Ok(Replayed::Stored),
        Err(failure) => match failure.class() {
            Class::Duplicate => {
                let code = RejectCode::DuplicateKeyInTable;
                Ok(Replayed::refused(code, Some(&failure)))
            }
            Class::Data | Class::Table(_) => Ok(Replayed::refused(
                RejectCode::RefusedByDatabase,
                Some(&failure),
            )),
            _ => Err(failure),
        },
    }
}

/// See [`Operators::count_purge`](crate::sink::Operators::count_purge).
pub(super) async fn count_purge(session: &mut Session, purge: &Purge) -> Result<u64, Failure> {
    let sql = format!("SELECT COUNT(*) {}", purge.rejects());
    session.one(&sql).await
}

/// See [`Operators::purge`](crate::sink::Operators::purge).
pub(super) async fn purge(
    session: &mut Session,
    purge: &Purge,
    max: usize,
) -> Result<u64, Failure> {
    session.begin().await?;
    let sql = format!(
        "SELECT r.file_no, r.ordinal {} ORDER BY r.file_no, r.ordinal LIMIT {max}",
        purge.rejects()
    );
    let places = session.rows::<(u32, u32)>(&sql).await?;
    let mut removed = 0;
    // One file at a time, so that each list is a range of the primary key.
    for places in places.chunk_by(|a, b| a.0 == b.0) {
        let file_no = places[0].0;
        let ordinals: Vec<u32> = places.iter().map(|(_, ordinal)| *ordinal).collect();
        let mut sql =
            String::from("INSERT INTO ingest_purged (file_no, ordinal, purged_at) VALUES ");
        for (at, ordinal) in ordinals.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(sql, "{comma}({file_no},{ordinal},UTC_TIMESTAMP(6))")
                .expect("writing to a string does not fail");
        }
        sql.push_str(" ON DUPLICATE KEY UPDATE ordinal = ordinal");
        session.run(&sql).await?;
        let sql = format!(
            "DELETE FROM ingest_rejects WHERE file_no = {file_no} AND ordinal IN ({})",
            list(&ordinals)
        );
        removed += session.run(&sql).await?;
    }
    session.commit().await?;
    Ok(removed)
}

/// Parses the code of a reject in `ingest_rejects`.
fn reject_code(code: &str) -> Result<RejectCode, Failure> {
    RejectCode::parse(code).ok_or_else(|| Failure::Found {
        next_step: NEWER,
        problem: format!("`{code}` is not a reject code"),
    })
}
