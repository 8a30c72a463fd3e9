//! Whether the row with a record's id is that of the record: reads the row and compares each value.
//!
//! A row that the ledger does not cover was written by another program, or by a transaction of the
//! engine that has not ended. Only the values distinguish the two.

use std::collections::HashMap;
use std::ops::Range;

use mysql_async::Value;
use mysql_async::consts::ColumnType;

use crate::sink::cells::{Cell, Rare, Row, Rows};
use crate::sink::mysql::bind::rare_value;
use crate::sink::mysql::errors::Failure;
use crate::sink::mysql::files::list;
use crate::sink::mysql::session::Session;
use crate::sink::table::quoted;
use crate::timestamp::{Civil, civil};

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

/// The places of the columns in which a stored row differs.
pub(in crate::sink::mysql) fn differing<'a>(
    row: Row<'a>,
    stored: &'a mysql_async::Row,
) -> impl Iterator<Item = usize> + 'a {
    let columns = stored.columns_ref();
    let is_same = move |at: usize, cell: Cell<'_>| {
        let value = stored.as_ref(at).unwrap_or(&Value::NULL);
        match (cell, value) {
            (Cell::Null, Value::NULL) => true,
            (Cell::Id(id), Value::UInt(stored)) => id == *stored,
            (Cell::Id(id), Value::Int(stored)) => i64::try_from(id) == Ok(*stored),
            (Cell::Text(text), Value::Bytes(stored)) => {
                let native = columns[at].column_type() == ColumnType::MYSQL_TYPE_JSON;
                text.as_bytes() == stored.as_slice() || (native && is_same_json(text, stored))
            }
            (Cell::Integer(number), Value::Int(stored)) => number == *stored,
            (Cell::Integer(number), Value::UInt(stored)) => u64::try_from(number) == Ok(*stored),
            (Cell::Float(number), Value::Double(stored)) => number.to_bits() == stored.to_bits(),
            (Cell::Boolean(value), Value::Int(stored)) => i64::from(value) == *stored,
            (Cell::Boolean(value), Value::UInt(stored)) => u64::from(value) == *stored,
            (Cell::Timestamp(time_us), Value::Date(year, month, day, hour, minute, second, us)) => {
                civil(time_us)
                    == Civil {
                        year: *year,
                        month: *month,
                        day: *day,
                        hour: *hour,
                        minute: *minute,
                        second: *second,
                        micros: *us,
                    }
            }
            (Cell::Rare(rare), stored) => is_same_rare(rare, stored),
            _ => false,
        }
    };
    let cells = row.cells().enumerate();
    cells.filter_map(move |(at, cell)| (!is_same(at, cell)).then_some(at))
}

fn is_same_rare(rare: Rare<'_>, stored: &Value) -> bool {
    match (rare, stored) {
        (Rare::Bytes(bytes), Value::Bytes(stored)) => bytes == stored.as_slice(),
        (Rare::Unsigned(number), Value::UInt(stored)) => number == *stored,
        (Rare::Unsigned(number), Value::Int(stored)) => i64::try_from(number) == Ok(*stored),
        // A column may have more digits after the point than the dataset.
        (Rare::Decimal(decimal), Value::Bytes(stored)) => {
            std::str::from_utf8(stored).is_ok_and(|stored| decimal.equals(stored))
        }
        (Rare::Date(_) | Rare::Time(_), stored) => rare_value(rare) == *stored,
        _ => false,
    }
}

/// Whether two texts are the same JSON value: MySQL's JSON type stores the value and not its text.
fn is_same_json(text: &str, stored: &[u8]) -> bool {
    let value = |text| serde_json::from_slice::<serde_json::Value>(text).ok();
    value(text.as_bytes()) == value(stored)
}
