//! Whether the row with a record's id is that of the record: reads the row and compares each value.
//!
//! A row that the ledger does not cover was written by another program, or by a transaction of the
//! engine that has not ended. Only the values distinguish the two.

use std::collections::HashMap;
use std::ops::Range;

use mysql_async::Value;
use mysql_async::consts::ColumnType;

use crate::sink::cells::{Cell, Rare, Row, Rows};
use crate::sink::mysql::errors::Failure;
use crate::sink::mysql::files::list;
use crate::sink::mysql::session::Session;
use crate::sink::same::{StoredValue, is_same};
use crate::sink::table::quoted;
use crate::timestamp::Civil;

/// Rows that are read at a time: about 2 MB with texts of full length.
const ROWS_PER_QUERY: usize = 500;

/// The row that a table has with the id of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sink::mysql) enum Found {
    /// No row.
    Nothing,
    /// A row that equals the record in every column.
    Equal,
    /// Only a row that differs from the record.
    Other,
}

/// Compares the rows at these indexes with the rows of the table that have their ids, in order.
pub(in crate::sink::mysql) async fn compare(
    session: &mut Session,
    rows: &Rows<'_>,
    places: Range<usize>,
) -> Result<Vec<Found>, Failure> {
    let schema = rows.dataset.schema();
    let columns = quoted(schema.fields().iter().map(|field| field.name().as_str()));
    let mut found = Vec::with_capacity(places.len());
    for start in places.clone().step_by(ROWS_PER_QUERY) {
        let some = start..(start + ROWS_PER_QUERY).min(places.end);
        let ids: Vec<u64> = rows.range(some.clone()).map(Row::id).collect();
        let sql = format!(
            "SELECT {columns} FROM `{}` WHERE `id` IN ({})",
            rows.dataset.table,
            list(&ids)
        );
        // Prepared, so that the server sends each value in its type.
        let stored = session.rows_with::<mysql_async::Row>(&sql, ()).await?;
        // A table that is partitioned by time may hold an id more than once.
        let mut by_id: HashMap<u64, Vec<&mysql_async::Row>> = HashMap::new();
        for row in &stored {
            let id = row.get::<u64, _>(0).expect("the first column is the id");
            by_id.entry(id).or_default().push(row);
        }
        found.extend(rows.range(some).map(|row| match by_id.get(&row.id()) {
            None => Found::Nothing,
            Some(stored) if stored.iter().any(|stored| is_equal(row, stored)) => Found::Equal,
            Some(_) => Found::Other,
        }));
    }
    Ok(found)
}

fn is_equal(row: Row<'_>, stored: &mysql_async::Row) -> bool {
    differing(row, stored).next().is_none()
}

/// The places of the columns in which a stored row differs from that of a record.
pub(in crate::sink::mysql) fn differing<'a>(
    row: Row<'a>,
    stored: &'a mysql_async::Row,
) -> impl Iterator<Item = usize> + 'a {
    let columns = stored.columns_ref();
    let cells = row.cells().enumerate();
    cells.filter_map(move |(at, cell)| {
        let value = stored.as_ref(at).unwrap_or(&Value::NULL);
        let stored = by_type(cell, value, columns[at].column_type());
        (!is_same(cell, stored)).then_some(at)
    })
}

/// A value of the server by the type of its column. A BLOB that was made a TEXT, and a TEXT that was
/// made a BLOB, has the same bytes.
fn by_type<'a>(cell: Cell<'_>, value: &'a Value, column_type: ColumnType) -> StoredValue<'a> {
    match (value, column_type) {
        (Value::NULL, _) => StoredValue::Null,
        (Value::Int(number), _) => StoredValue::Integer((*number).into()),
        (Value::UInt(number), _) => StoredValue::Integer((*number).into()),
        (Value::Double(number), _) => StoredValue::Float(*number),
        (Value::Float(number), _) => StoredValue::Float((*number).into()),
        (Value::Bytes(bytes), ColumnType::MYSQL_TYPE_JSON) => StoredValue::Json(bytes),
        (Value::Bytes(bytes), ColumnType::MYSQL_TYPE_NEWDECIMAL) => StoredValue::Decimal(bytes),
        (Value::Bytes(bytes), ColumnType::MYSQL_TYPE_BIT) => StoredValue::Integer(
            bytes
                .iter()
                .fold(0, |all, byte| all << 8 | i128::from(*byte)),
        ),
        (Value::Bytes(bytes), _) if matches!(cell, Cell::Rare(Rare::Bytes(_))) => {
            StoredValue::Blob(bytes)
        }
        (Value::Bytes(bytes), _) => StoredValue::Text(bytes),
        (Value::Date(year, month, day, hour, minute, second, micros), _) => {
            StoredValue::Moment(Civil {
                year: *year,
                month: *month,
                day: *day,
                hour: *hour,
                minute: *minute,
                second: *second,
                micros: *micros,
            })
        }
        (Value::Time(false, 0, hour, minute, second, micros), _) => {
            let seconds = i64::from(*hour) * 3_600 + i64::from(*minute) * 60 + i64::from(*second);
            StoredValue::Time(seconds * 1_000_000 + i64::from(*micros))
        }
        (Value::Time(..), _) => StoredValue::Other,
    }
}
