//! Reads rows and compares them with their records, in SQLite.

use std::slice;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction, params};

use crate::batch::{Batch, Span, provenance, row_id};
use crate::sink::cells::{Cell, Rare, by_dataset};
use crate::sink::contents::{
    self, Change, Difference, ProblemDigest, Stored, digest_name, rejects_sql, replayed_sql,
    rows_sql,
};
use crate::timestamp;

use super::commit::rare_text;
use super::errors::Failure;

/// See [`Contents::differences`](crate::sink::Contents::differences).
pub(super) fn differences(db: &Transaction<'_>, batch: &Batch) -> Result<Vec<Difference>, Failure> {
    let ordinals = batch.span.ordinals();
    let first = row_id(batch.span.file_no, 0);
    let sql = rows_sql(&batch.dataset);
    let schema = batch.dataset.schema();
    let mut find = db.prepare_cached(&sql)?;
    let ids = params![first + ordinals.start, first + ordinals.end];
    let rows = find.query_map(ids, |row| {
        let values: Result<Vec<Value>, _> =
            (0..schema.fields().len()).map(|at| row.get(at)).collect();
        Ok((provenance(row.get(0)?).1, values?))
    })?;
    let rows = rows.collect::<Result<_, _>>()?;
    let mut rejects = db.prepare_cached(&rejects_sql(batch.span))?;
    let rejects = rejects.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let stored = Stored {
        rows,
        rejects: rejects.collect::<Result<_, _>>()?,
    };
    let groups = by_dataset(slice::from_ref(batch));
    let changed = |place: usize, row: &Vec<Value>| {
        let cells = groups[0].row(place).cells().zip(row).zip(schema.fields());
        cells
            .filter(|((cell, value), _)| !is_same(*cell, value))
            .map(|((_, value), field)| Change::new(field.name(), &format!("{value:?}")))
            .collect()
    };
    Ok(contents::differences(batch, stored, changed))
}

fn is_same(cell: Cell<'_>, value: &Value) -> bool {
    match (cell, value) {
        (Cell::Null, Value::Null) => true,
        (Cell::Id(id), Value::Integer(stored)) => i64::try_from(id) == Ok(*stored),
        (Cell::Text(text), Value::Text(stored)) => text == stored,
        (Cell::Integer(number), Value::Integer(stored)) => number == *stored,
        // SQLite does not keep the sign of a zero.
        (Cell::Float(number), Value::Real(stored)) => {
            number.to_bits() == stored.to_bits() || number == 0.0 && *stored == 0.0
        }
        (Cell::Boolean(value), Value::Integer(stored)) => i64::from(value) == *stored,
        (Cell::Timestamp(time_us), Value::Text(stored)) => timestamp::text(time_us) == *stored,
        (Cell::Rare(Rare::Bytes(bytes)), Value::Blob(stored)) => bytes == stored.as_slice(),
        (Cell::Rare(Rare::Decimal(decimal)), Value::Text(stored)) => decimal.equals(stored),
        (Cell::Rare(rare), Value::Text(stored)) => rare_text(rare) == *stored,
        _ => false,
    }
}

/// See [`Contents::replayed`](crate::sink::Contents::replayed).
pub(super) fn replayed(db: &Transaction<'_>, span: Span) -> Result<Vec<u32>, Failure> {
    let mut find = db.prepare_cached(&replayed_sql(span))?;
    let ordinals = find.query_map([], |row| row.get(0))?;
    Ok(ordinals.collect::<Result<_, _>>()?)
}

/// See [`Contents::replayed_text`](crate::sink::Contents::replayed_text).
pub(super) fn replayed_text(
    db: &Transaction<'_>,
    file_no: u32,
    ordinal: u32,
) -> Result<Option<Vec<u8>>, Failure> {
    let sql = "SELECT text FROM ingest_replays WHERE file_no = ? AND ordinal = ?";
    let bytes = |row: &rusqlite::Row<'_>| Ok(row.get_ref(0)?.as_bytes()?.to_vec());
    let text = db
        .query_row(sql, params![file_no, ordinal], bytes)
        .optional()?;
    Ok(text)
}

/// See [`Contents::acknowledge`](crate::sink::Contents::acknowledge).
pub(super) fn acknowledge(
    db: &Transaction<'_>,
    file_no: u32,
    digest: ProblemDigest,
) -> Result<(), Failure> {
    let insert = "INSERT INTO ingest_settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO \
                  UPDATE SET value = excluded.value";
    db.execute(insert, params![digest_name(file_no), digest])?;
    Ok(())
}

/// See [`Contents::acknowledged`](crate::sink::Contents::acknowledged).
pub(super) fn acknowledged(
    db: &Transaction<'_>,
    file_no: u32,
) -> Result<Option<ProblemDigest>, Failure> {
    let mut find = db.prepare_cached("SELECT value FROM ingest_settings WHERE name = ?")?;
    let value: Option<Vec<u8>> = find
        .query_row([digest_name(file_no)], |row| row.get(0))
        .optional()?;
    Ok(value.and_then(|value| value.try_into().ok()))
}
