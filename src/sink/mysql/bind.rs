//! The rows of one statement: how many it has, and their values.
//!
//! Pure. If a statement has placeholders for each row, it has the largest number of rows or a power
//! of two, so that a dataset needs only a dozen prepared statements. The bytes of a statement are
//! summed before it is built, since the server ends a connection that sends a larger packet than it
//! allows.

use std::ops::Range;

use mysql_async::Value;

use crate::batch::Batch;
use crate::sink::cells::{Cell, Rare, Row, Rows, by_dataset};
use crate::timestamp::{self, Civil, MICROS_A_DAY};

use super::session::{Insert, Server};

/// Most placeholders of a prepared statement with placeholders for each row. Measured on MySQL 9: a
/// load takes a quarter longer with 8,000 than with 1,000, and as long with 500. The protocol
/// allows 65,535.
const PLACEHOLDERS_MAX: usize = 1_024;

/// Most bytes of a statement. A larger one is not faster, and holds its locks longer.
const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// Most bytes of a value in a packet beside its content: its type, its length, its NULL bit.
pub(super) const VALUE_BYTES: usize = 12;

/// Bytes of a packet that are left for everything except the values.
const PACKET_BYTES_SPARE: usize = 1_024;

/// Converts the rows of batches to the driver's values, as a commit does. For benchmarks without a
/// server.
#[must_use]
pub fn bind(batches: &[Batch]) -> Vec<Vec<Value>> {
    let rows = by_dataset(batches);
    let rows = rows.iter().flat_map(|rows| rows.range(0..rows.len()));
    rows.map(|row| values(row).collect()).collect()
}

/// How large a statement may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    rows: usize,
    /// Whether a statement may have any number of rows up to `rows`. Else it has `rows`, or a power
    /// of two.
    any_number: bool,
    statement_bytes: usize,
    row_bytes: usize,
}

/// The limits of an INSERT of at most `rows` rows on this server.
pub(super) fn limits(insert: &Insert, server: Server, rows: usize) -> Limits {
    Limits {
        rows: if server.bulk {
            rows
        } else {
            rows.min(PLACEHOLDERS_MAX / insert.columns).max(1)
        },
        any_number: server.bulk,
        statement_bytes: STATEMENT_BYTES_MAX.min(server.packet_bytes_max / 4),
        row_bytes: server.packet_bytes_max.saturating_sub(PACKET_BYTES_SPARE),
    }
}

/// The first rows of a piece, as many as one statement takes. `None` if the first row alone is
/// larger than the server's largest packet: sending it would end the connection.
pub(super) fn first(rows: &Rows<'_>, piece: Range<usize>, limits: Limits) -> Option<Range<usize>> {
    let columns = rows.row(piece.start).cells().count();
    let bytes = |rows: &Rows<'_>, range: Range<usize>| {
        range.len() * columns * VALUE_BYTES + rows.text_bytes(range)
    };
    let at_most = piece.start..piece.start + limits.shape(piece.len());
    // Nearly all rows are small: then one sum over all of them shows that they fit.
    if bytes(rows, at_most.clone()) <= limits.statement_bytes.min(limits.row_bytes) {
        return Some(at_most);
    }
    if bytes(rows, piece.start..piece.start + 1) > limits.row_bytes {
        return None;
    }
    let sizes = piece.map(|row| bytes(rows, row..row + 1));
    Some(at_most.start..at_most.start + fitting(sizes, limits))
}

/// How many rows of these sizes one statement takes. At least one.
pub(super) fn fitting(sizes: impl ExactSizeIterator<Item = usize>, limits: Limits) -> usize {
    let at_most = limits.shape(sizes.len());
    let mut sum = 0;
    let fit = sizes
        .take(at_most)
        .take_while(|size| {
            sum += size;
            sum <= limits.statement_bytes
        })
        .count();
    limits.shape(fit.max(1))
}

impl Limits {
    /// How many rows the next statement has if `rows` are left. If a statement has placeholders for
    /// each row: the most, or a power of two, so that a dataset needs only a dozen statements.
    pub(super) fn shape(self, rows: usize) -> usize {
        if rows >= self.rows {
            self.rows
        } else if self.any_number {
            rows
        } else {
            1 << rows.ilog2()
        }
    }
}

/// The values of a row.
pub(super) fn values(row: Row<'_>) -> impl Iterator<Item = Value> {
    row.cells().map(value)
}

/// The value of a cell.
pub(super) fn value(cell: Cell<'_>) -> Value {
    match cell {
        Cell::Null => Value::NULL,
        Cell::Id(id) => Value::UInt(id),
        Cell::Text(text) => text.into(),
        Cell::Integer(number) => Value::Int(number),
        Cell::Float(number) => Value::Double(number),
        Cell::Boolean(value) => Value::Int(value.into()),
        Cell::Timestamp(time_us) => datetime(&timestamp::civil(time_us)),
        Cell::Rare(rare) => rare_value(rare),
    }
}

fn rare_value(rare: Rare<'_>) -> Value {
    match rare {
        Rare::Bytes(bytes) => bytes.into(),
        Rare::Unsigned(number) => Value::UInt(number),
        Rare::Decimal(decimal) => decimal.text().into(),
        Rare::Date(days) => datetime(&timestamp::civil(i64::from(days) * MICROS_A_DAY)),
        Rare::Time(micros) => {
            let at = timestamp::civil(micros);
            Value::Time(false, 0, at.hour, at.minute, at.second, at.micros)
        }
    }
}

/// A moment as a DATETIME.
pub(super) fn datetime(at: &Civil) -> Value {
    Value::Date(
        at.year, at.month, at.day, at.hour, at.minute, at.second, at.micros,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_rows_is_a_few_shapes() {
        let limits = Limits {
            rows: 1_000,
            any_number: false,
            statement_bytes: usize::MAX,
            row_bytes: usize::MAX,
        };
        for rows in 1..2_500 {
            let (mut rest, mut statements) = (rows, 0);
            while rest > 0 {
                let now = limits.shape(rest);
                assert!(now == 1_000 || now.is_power_of_two());
                rest -= now;
                statements += 1;
            }
            assert!(
                statements <= 2 + 10,
                "{rows} rows took {statements} statements"
            );
        }
    }

    #[test]
    fn a_statement_stays_below_its_limits() {
        let limits = Limits {
            rows: 100,
            any_number: false,
            statement_bytes: 1_000,
            row_bytes: 5_000,
        };
        assert_eq!(fitting([10; 300].into_iter(), limits), 100);
        assert_eq!(fitting([300; 300].into_iter(), limits), 2);
        assert_eq!(fitting([4_000; 3].into_iter(), limits), 1);
    }
}
