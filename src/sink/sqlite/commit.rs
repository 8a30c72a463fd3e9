//! A commit into SQLite: row by row with one prepared statement. A statement costs no round trip,
//! and its result shows for each row whether it was stored, existed, or was refused.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::ops::Range;

use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Statement, Transaction, params};

use crate::batch::{Batch, Reject, RejectCode, SourceFile, Span, provenance, row_id};
use crate::coverage::holds;
use crate::sink::Committed;
use crate::sink::cells::{Cell, Rare, RefusedRow, Row, Rows, by_dataset};
use crate::sink::conflict::taken;
use crate::sink::table::quoted;
use crate::{convert, dates, timestamp};

use super::erased;
use super::errors::{Class, Failure, classify};
use super::files;
use super::keyed::{self, Decided};
use super::now::now;
use super::waits::{self, Refusal, refusal};

/// The message for a row that SQLite did not store, without an error and without a row of this id:
/// a trigger has raised IGNORE.
pub(super) const IGNORED: &str = "a trigger of the table ignores the row";

/// Commits batches, and leaves out those that a table refuses now; see
/// [`Sink::commit`](crate::sink::Sink::commit).
pub(super) fn commit(db: &Transaction<'_>, batches: &[Batch]) -> Result<Committed, Failure> {
    db.execute_batch("SAVEPOINT batches")?;
    let error = match commit_all(db, batches) {
        Err(Failure::Table(error)) => error,
        committed => {
            db.execute_batch("RELEASE batches")?;
            return committed;
        }
    };
    db.execute_batch("ROLLBACK TO batches; RELEASE batches")?;
    if let [batch] = batches {
        return waits::leave_out(db, batch, &error);
    }
    // Halves, until each batch that is refused is alone: the table may take the others.
    let (first, second) = batches.split_at(batches.len() / 2);
    let mut committed = commit(db, first)?;
    committed.add(commit(db, second)?);
    Ok(committed)
}

fn commit_all(db: &Transaction<'_>, batches: &[Batch]) -> Result<Committed, Failure> {
    let foreign = foreign(db, batches)?;
    let mut batches = Cow::Borrowed(batches);
    if !foreign.is_empty() {
        batches
            .to_mut()
            .retain(|batch| !foreign.contains(&batch.file()));
    }
    let batches = &*batches;
    let mut committed = Committed {
        foreign,
        ..Committed::default()
    };
    let mut refused = Vec::new();
    let mut without_row = rejected(db, batches)?;
    let mut are_erased = HashSet::new();
    for batch in batches {
        without_row.extend(keyed::superseded(db, batch)?);
        are_erased.extend(erased::ids(db, batch.span)?);
    }
    without_row.extend(&are_erased);
    let mut ours = Ours {
        db,
        covered: HashMap::new(),
    };
    for rows in by_dataset(batches) {
        store(&mut ours, &rows, &without_row, &mut committed, &mut refused)?;
    }
    for batch in batches {
        let table = &batch.dataset.table;
        let mut is_row = db.prepare_cached(&format!("SELECT 1 FROM `{table}` WHERE `id` = ?"))?;
        for reject in &batch.rejects {
            // A record is a row or a reject, even if its dataset was changed in between. A row that
            // the ledger does not cover belongs to another program.
            let id = row_id(batch.span.file_no, reject.ordinal);
            let is_stored = is_row.exists([id])? && ours.covers(id)?;
            if !is_stored && !are_erased.contains(&id) {
                insert_reject(db, batch.span.file_no, reject, None)?;
            }
        }
    }
    for row in &refused {
        insert_reject(db, row.file_no, &row.reject, row.message.as_deref())?;
    }
    // This commit has all records of the file: it is settled without an entry.
    let mut whole = db.prepare_cached(
        "UPDATE ingest_files SET rejects = (SELECT COUNT(*) FROM ingest_rejects r WHERE r.file_no = \
         ?1), state = 'settled', reason = NULL, settled_at = ?3 WHERE file_no = ?1 AND records = ?2 AND state = \
         'pending' AND NOT EXISTS (SELECT 1 FROM ingest_frames e WHERE e.file_no = ?1)",
    )?;
    // A settled file gets no entry, so that a late redelivery leaves none.
    let mut entry = db.prepare_cached(
        "INSERT INTO ingest_frames (file_no, first_ordinal, records) SELECT f.file_no, ?2, ?3 FROM \
         ingest_files f WHERE f.file_no = ?1 AND f.state NOT IN ('settled', 'removing') ON CONFLICT DO NOTHING",
    )?;
    for Span {
        file_no,
        first_ordinal,
        records,
    } in batches.iter().map(|batch| batch.span)
    {
        let is_whole = first_ordinal == 0 && whole.execute(params![file_no, records, now()])? == 1;
        if records > 0 && !is_whole {
            entry.execute(params![file_no, first_ordinal, records])?;
        }
    }
    Ok(committed)
}

/// The files of the batches that are not in this ledger, once for each batch.
fn foreign(db: &Transaction<'_>, batches: &[Batch]) -> Result<Vec<SourceFile>, Failure> {
    let mut is_known = db.prepare_cached(
        "SELECT 1 FROM ingest_files WHERE file_no = ? AND hash = ? AND definition = ? AND state <> 'removing'",
    )?;
    let mut foreign = Vec::new();
    for batch in batches {
        let (file, definition) = (batch.file(), batch.dataset.fingerprint.to_bytes());
        if !is_known.exists(params![file.file_no, file.hash, definition])? {
            foreign.push(file);
        }
    }
    Ok(foreign)
}

/// Decides which rows of a table belong to the engine.
struct Ours<'a> {
    db: &'a Transaction<'a>,
    /// The coverage of the files that have been looked up.
    covered: HashMap<u32, Vec<Range<u64>>>,
}

impl Ours<'_> {
    /// Whether the ledger covers the record with this id.
    fn covers(&mut self, id: u64) -> Result<bool, Failure> {
        let (file_no, ordinal) = provenance(id);
        if let Entry::Vacant(entry) = self.covered.entry(file_no) {
            let covered = files::coverage(self.db, &[file_no])?;
            entry.insert(covered.into_iter().next().unwrap_or_default());
        }
        let ordinal = u64::from(ordinal);
        Ok(holds(&self.covered[&file_no], &(ordinal..ordinal + 1)))
    }

    /// Searches the table for a row that an INSERT did not store. A trigger can refuse a row before
    /// SQLite compares its id, and the row may be stored all the same, by an earlier delivery.
    fn find(&mut self, rows: &Rows<'_>, at: usize) -> Result<Found, Failure> {
        let row = rows.row(at);
        let sql = format!("SELECT 1 FROM `{}` WHERE `id` = ?", rows.dataset.table);
        if !self.db.prepare_cached(&sql)?.exists([row.id()])? {
            return Ok(Found::Nothing);
        }
        // A frame that was published twice may be twice in one commit.
        let ours = self.covers(row.id())?
            || equals(self.db, rows, row)?
            || rows.range(0..at).any(|earlier| earlier.id() == row.id());
        Ok(if ours { Found::Ours } else { Found::Other })
    }
}

/// The row that a table has with the id of a record.
enum Found {
    Nothing,
    /// The row of the record.
    Ours,
    /// A row of another program.
    Other,
}

/// Whether the row of the table with the id of `row` equals it in every column.
pub(super) fn equals(db: &Transaction<'_>, rows: &Rows<'_>, row: Row<'_>) -> Result<bool, Failure> {
    let schema = rows.dataset.schema();
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| format!("`{}` IS ? COLLATE BINARY", field.name()))
        .collect();
    let (table, columns) = (&rows.dataset.table, columns.join(" AND "));
    let sql = format!("SELECT 1 FROM `{table}` WHERE {columns}");
    let mut find = db.prepare_cached(&sql)?;
    for (at, cell) in row.cells().enumerate() {
        find.raw_bind_parameter(at + 1, cell)?;
    }
    Ok(find.raw_query().next()?.is_some())
}

/// Stores the rows of a dataset. `without_row` has the ids of records that are rejects, superseded or
/// erased.
fn store(
    ours: &mut Ours<'_>,
    rows: &Rows<'_>,
    without_row: &HashSet<u64>,
    committed: &mut Committed,
    refused: &mut Vec<RefusedRow>,
) -> Result<(), Failure> {
    let db = ours.db;
    let sql = row_insert(rows);
    let mut insert = match db.prepare_cached(&sql) {
        Ok(insert) => insert,
        Err(error) => match refusal(db, rows, &sql, error) {
            Refusal::Failure(failure) => return Err(failure),
            Refusal::Row(_, error) => return Err(error.into()),
        },
    };
    for (at, row) in rows.range(0..rows.len()).enumerate() {
        if !without_row.is_empty() && without_row.contains(&row.id()) {
            committed.duplicates += 1;
            continue;
        }
        let mut result = insert_row(&mut insert, row);
        if is_duplicate(&result) {
            match keyed::decide(db, rows, at, refused, |row| insert_row(&mut insert, row))? {
                Decided::Stored => {
                    committed.rows += 1;
                    committed.replaced += 1;
                    continue;
                }
                Decided::Superseded => {
                    committed.superseded += 1;
                    continue;
                }
                Decided::Taken(id) => {
                    let (code, message) = (RejectCode::KeyTaken, taken(id));
                    committed.refused.push(code);
                    refused.push(rows.refused(at, code, Some(&message)));
                    continue;
                }
                Decided::NotStored(other) => result = other,
                Decided::OfAnotherKey => {}
            }
        }
        let (code, message) = match result {
            Ok(1) => {
                committed.rows += 1;
                continue;
            }
            Ok(_) => (RejectCode::RefusedByDatabase, IGNORED.to_owned()),
            Err(error) => match refusal(db, rows, &sql, error) {
                Refusal::Row(Class::Duplicate, error) => {
                    (RejectCode::DuplicateKeyInTable, error.to_string())
                }
                Refusal::Row(_, error) => (RejectCode::RefusedByDatabase, error.to_string()),
                Refusal::Failure(failure) => return Err(failure),
            },
        };
        let (code, message) = match ours.find(rows, at)? {
            Found::Ours => {
                committed.duplicates += 1;
                continue;
            }
            Found::Other => (RejectCode::IdTaken, None),
            Found::Nothing => (code, Some(message)),
        };
        committed.refused.push(code);
        let message = message.as_ref().map(|text| text as &dyn Display);
        refused.push(rows.refused(at, code, message));
    }
    Ok(())
}

fn is_duplicate(result: &Result<usize, rusqlite::Error>) -> bool {
    matches!(result, Err(error) if classify(error) == Class::Duplicate)
}

/// The INSERT of one row; one whose id is there already stays as it is.
pub(super) fn row_insert(rows: &Rows<'_>) -> String {
    let schema = rows.dataset.schema();
    format!(
        "INSERT INTO `{}` ({}) VALUES ({}) ON CONFLICT (`id`) DO NOTHING",
        rows.dataset.table,
        quoted(schema.fields().iter().map(|field| field.name().as_str())),
        vec!["?"; schema.fields().len()].join(","),
    )
}

/// Runs the statement for a row. Returns how many rows it stored.
pub(super) fn insert_row(
    insert: &mut Statement<'_>,
    row: Row<'_>,
) -> Result<usize, rusqlite::Error> {
    for (at, cell) in row.cells().enumerate() {
        insert.raw_bind_parameter(at + 1, cell)?;
    }
    insert.raw_execute()
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match *self {
            Cell::Null => ToSqlOutput::Owned(Value::Null),
            Cell::Id(id) => {
                let id = i64::try_from(id).expect("a file number has 31 bits, so an id has 63");
                ToSqlOutput::Owned(Value::Integer(id))
            }
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cell::Integer(number) => ToSqlOutput::Owned(Value::Integer(number)),
            Cell::Float(number) => ToSqlOutput::Owned(Value::Real(number)),
            Cell::Boolean(value) => ToSqlOutput::Owned(Value::Integer(value.into())),
            Cell::Timestamp(time_us) => ToSqlOutput::Owned(Value::Text(timestamp::text(time_us))),
            Cell::Rare(Rare::Bytes(bytes)) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Cell::Rare(rare) => ToSqlOutput::Owned(Value::Text(rare_text(rare))),
        })
    }
}

/// The text of a value for which SQLite has no exact type. Its integers have 63 bits, and its
/// decimals are floats.
fn rare_text(rare: Rare<'_>) -> String {
    match rare {
        Rare::Bytes(bytes) => convert::hex_text(bytes),
        Rare::Unsigned(number) => number.to_string(),
        Rare::Decimal(decimal) => decimal.text(),
        Rare::Date(days) => dates::date_text(days),
        Rare::Time(micros) => dates::time_text(micros),
    }
}

/// The ids of the stored rejects of these spans.
fn rejected(db: &Transaction<'_>, batches: &[Batch]) -> Result<HashSet<u64>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT ordinal FROM ingest_rejects WHERE file_no = ?1 AND ordinal >= ?2 AND ordinal < ?3",
    )?;
    let mut ids = HashSet::new();
    for span in batches.iter().map(|batch| batch.span) {
        let ordinals = span.ordinals();
        let found = find.query_map(params![span.file_no, ordinals.start, ordinals.end], |row| {
            Ok(row_id(span.file_no, row.get(0)?))
        })?;
        for id in found {
            ids.insert(id?);
        }
    }
    Ok(ids)
}

fn insert_reject(
    db: &Transaction<'_>,
    file_no: u32,
    reject: &Reject,
    message: Option<&str>,
) -> Result<(), Failure> {
    let mut insert = db.prepare_cached(
        "INSERT INTO ingest_rejects (file_no, ordinal, code, field, byte_offset, raw, message, \
         rejected_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )?;
    let Reject {
        ordinal,
        code,
        field,
        byte_offset,
        raw,
    } = reject;
    insert.execute(params![
        file_no,
        ordinal,
        code.as_str(),
        field,
        byte_offset,
        raw,
        message,
        now()
    ])?;
    Ok(())
}
