//! Reads rows and compares them with their records, in SQLite.

use std::slice;

use rusqlite::types::Value;
use rusqlite::{OptionalExtension, Transaction, params};

use crate::batch::{Batch, Span, provenance, row_id};
use crate::sink::cells::by_dataset;
use crate::sink::conflict::superseded_sql;
use crate::sink::contents::{
    self, Change, Difference, KeptReplay, Stored, rejects_sql, replay_sql, replayed_sql, rows_sql,
};
use crate::sink::definitions::recorded;
use crate::sink::same::{StoredValue, is_same};

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
    let mut rejects = db.prepare_cached(&rejects_sql(&batch.dataset.table, batch.span))?;
    let rejects = rejects.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let stored = Stored {
        rows,
        rejects: rejects.collect::<Result<_, _>>()?,
    };
    let groups = by_dataset(slice::from_ref(batch));
    let changed = |place: usize, row: &Vec<Value>| {
        let cells = groups[0].row(place).cells().zip(row).zip(schema.fields());
        cells
            .filter(|((cell, value), _)| !is_same(*cell, by_type(value)))
            .map(|((_, value), field)| Change::new(field.name(), &format!("{value:?}")))
            .collect()
    };
    Ok(contents::differences(batch, stored, changed))
}

fn by_type(value: &Value) -> StoredValue<'_> {
    match value {
        Value::Null => StoredValue::Null,
        Value::Integer(number) => StoredValue::Integer((*number).into()),
        Value::Real(number) => StoredValue::Float(*number),
        Value::Text(text) => StoredValue::Text(text.as_bytes()),
        Value::Blob(bytes) => StoredValue::Blob(bytes),
    }
}

/// See [`Contents::replayed`](crate::sink::Contents::replayed).
pub(super) fn replayed(db: &Transaction<'_>, span: Span) -> Result<Vec<u32>, Failure> {
    let mut find = db.prepare_cached(&replayed_sql(span))?;
    let ordinals = find.query_map([], |row| row.get(0))?;
    Ok(ordinals.collect::<Result<_, _>>()?)
}

/// See [`Contents::unsuperseded`](crate::sink::Contents::unsuperseded).
pub(super) fn gone(db: &Transaction<'_>, table: &str, span: Span) -> Result<Vec<u32>, Failure> {
    let mut find = db.prepare_cached(&superseded_sql(table, span))?;
    let found = find.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: Vec<(u32, bool)> = found.collect::<Result<_, _>>()?;
    let gone = found.into_iter().filter(|(_, is_valid)| !is_valid);
    Ok(gone.map(|(ordinal, _)| ordinal).collect())
}

/// See [`Contents::replay_of`](crate::sink::Contents::replay_of).
pub(super) fn replay_of(
    db: &Transaction<'_>,
    file_no: u32,
    ordinal: u32,
) -> Result<Option<KeptReplay>, Failure> {
    let texts = |row: &rusqlite::Row<'_>| {
        let text = row.get_ref(0)?.as_bytes()?.to_vec();
        Ok((text, row.get::<_, Option<String>>(1)?))
    };
    let replay = db.query_row(&replay_sql(file_no, ordinal), [], texts);
    let Some((text, definition)) = replay.optional()? else {
        return Ok(None);
    };
    let dataset = definition.as_deref().map(recorded).transpose();
    let dataset = dataset.map_err(|(next_step, problem)| Failure::Found {
        next_step: next_step.to_owned(),
        problem,
    })?;
    Ok(Some(KeptReplay { text, dataset }))
}

/// Keeps a value in `ingest_settings`, in the place of an earlier one of this name.
pub(super) fn keep(db: &Transaction<'_>, name: &str, value: &[u8]) -> Result<(), Failure> {
    let insert = "INSERT INTO ingest_settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO \
                  UPDATE SET value = excluded.value";
    db.execute(insert, params![name, value])?;
    Ok(())
}

/// Replaces the value of this name in `ingest_settings`. Does nothing if it is not `from`.
pub(super) fn replace(
    db: &Transaction<'_>,
    name: &str,
    from: &[u8],
    to: &[u8],
) -> Result<(), Failure> {
    let update = "UPDATE ingest_settings SET value = ? WHERE name = ? AND value = ?";
    db.execute(update, params![to, name, from])?;
    Ok(())
}

/// The value of this name in `ingest_settings`. `None` if there is none.
pub(super) fn kept(db: &Transaction<'_>, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let mut find = db.prepare_cached("SELECT value FROM ingest_settings WHERE name = ?")?;
    Ok(find.query_row([name], |row| row.get(0)).optional()?)
}
