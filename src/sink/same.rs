//! Whether a stored value is the value of a record: the same number, text or moment, in the type that
//! the column of the table has now. Pure, for both dialects.
//!
//! That type may differ from the one of the definition by which the record was stored, since
//! operators convert columns. A value is the same if the new type holds it without a loss, in the
//! form that a conversion by the server gives it.

use std::borrow::Cow;

use crate::timestamp::{Civil, civil};
use crate::{convert, dates, timestamp};

use super::cells::{Cell, Rare};

const MICROS_A_DAY: i64 = 86_400_000_000;

/// A value of a row, by the type that its column has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum StoredValue<'a> {
    Null,
    Integer(i128),
    Float(f64),
    /// Of a type that keeps decimal digits.
    Decimal(&'a [u8]),
    Text(&'a [u8]),
    /// Of a type that keeps the value of a JSON text, and not the text.
    Json(&'a [u8]),
    Blob(&'a [u8]),
    /// A date, with midnight as the time of a date alone.
    Moment(Civil),
    /// A time of day, in microseconds since midnight.
    Time(i64),
    /// A value that no record has, such as a negative time.
    Other,
}

/// Whether a stored value is that of a cell.
pub(super) fn is_same(cell: Cell<'_>, stored: StoredValue<'_>) -> bool {
    match (cell, stored) {
        (Cell::Null, StoredValue::Null) => true,
        (Cell::Text(text), StoredValue::Text(stored)) => text.as_bytes() == stored,
        (Cell::Id(id), StoredValue::Integer(stored)) => i128::from(id) == stored,
        (Cell::Integer(number), StoredValue::Integer(stored)) => i128::from(number) == stored,
        (Cell::Boolean(value), StoredValue::Integer(stored)) => i128::from(value) == stored,
        (Cell::Float(number), StoredValue::Float(stored)) => is_same_float(number, stored),
        (Cell::Timestamp(time_us), StoredValue::Moment(stored)) => civil(time_us) == stored,
        (Cell::Text(text), StoredValue::Json(stored)) => {
            text.as_bytes() == stored || is_same_json(text.as_bytes(), stored)
        }
        (Cell::Rare(rare), stored) => is_same_rare(rare, stored),
        (cell, stored) => is_same_converted(cell, stored),
    }
}

fn is_same_rare(rare: Rare<'_>, stored: StoredValue<'_>) -> bool {
    match (rare, stored) {
        (Rare::Bytes(bytes), StoredValue::Blob(stored)) => bytes == stored,
        (Rare::Unsigned(number), StoredValue::Integer(stored)) => i128::from(number) == stored,
        // A column may have more digits after the point than the dataset.
        (Rare::Decimal(decimal), StoredValue::Decimal(stored)) => {
            str::from_utf8(stored).is_ok_and(|stored| decimal.equals(stored))
        }
        (Rare::Date(days), StoredValue::Moment(stored)) => {
            civil(i64::from(days) * MICROS_A_DAY) == stored
        }
        (Rare::Time(micros), StoredValue::Time(stored)) => micros == stored,
        (rare, stored) => is_same_converted(Cell::Rare(rare), stored),
    }
}

/// Servers do not keep the sign of a zero.
fn is_same_float(number: f64, stored: f64) -> bool {
    number.to_bits() == stored.to_bits() || (number == 0.0 && stored == 0.0)
}

/// Whether a value is the same in a column that has another type than the definition.
fn is_same_converted(cell: Cell<'_>, stored: StoredValue<'_>) -> bool {
    let is_number = |stored: &str| {
        number_of(cell).is_some_and(|number| {
            digits(&number).is_some_and(|number| digits(stored) == Some(number))
        })
    };
    match stored {
        StoredValue::Integer(stored) => is_number(&stored.to_string()),
        StoredValue::Float(stored) => stored.is_finite() && is_number(&format!("{stored:e}")),
        StoredValue::Decimal(stored) | StoredValue::Json(stored) => {
            str::from_utf8(stored).is_ok_and(is_number)
        }
        StoredValue::Text(stored) => {
            str::from_utf8(stored).is_ok_and(|stored| is_text(cell, stored))
        }
        StoredValue::Moment(stored) => {
            let Cell::Text(text) = cell else { return false };
            let day = || dates::date(text).map(|days| i64::from(days) * MICROS_A_DAY);
            let time_us = timestamp::parse(text).or_else(day);
            time_us.is_some_and(|time_us| civil(time_us) == stored)
        }
        StoredValue::Time(stored) => {
            matches!(cell, Cell::Text(text) if dates::time(text) == Some(stored))
        }
        StoredValue::Null | StoredValue::Blob(_) | StoredValue::Other => false,
    }
}

/// Whether a text is what a server makes of a value that is no text.
fn is_text(cell: Cell<'_>, stored: &str) -> bool {
    match cell {
        Cell::Integer(_) | Cell::Boolean(_) | Cell::Rare(Rare::Unsigned(_)) => {
            number_of(cell).is_some_and(|number| number == stored)
        }
        Cell::Float(number) => {
            convert::float(stored).is_ok_and(|stored| is_same_float(number, stored))
                && convert::is_number(stored)
        }
        Cell::Timestamp(time_us) => timestamp::text(time_us) == stored,
        Cell::Rare(Rare::Decimal(decimal)) => decimal.equals(stored),
        Cell::Rare(Rare::Date(days)) => dates::date_text(days) == stored,
        Cell::Rare(Rare::Time(micros)) => dates::time_text(micros) == stored,
        Cell::Null | Cell::Id(_) | Cell::Text(_) | Cell::Rare(Rare::Bytes(_)) => false,
    }
}

/// The text of a number with all its digits. `None` if the cell is no number.
fn number_of(cell: Cell<'_>) -> Option<Cow<'_, str>> {
    Some(match cell {
        Cell::Text(text) => text.into(),
        Cell::Integer(number) => number.to_string().into(),
        Cell::Float(number) => format!("{number:e}").into(),
        Cell::Boolean(value) => i32::from(value).to_string().into(),
        Cell::Rare(Rare::Unsigned(number)) => number.to_string().into(),
        Cell::Rare(Rare::Decimal(decimal)) => decimal.text().into(),
        Cell::Null | Cell::Id(_) | Cell::Timestamp(_) | Cell::Rare(_) => return None,
    })
}

/// The significant digits of a number with its sign, and the power of ten of the last one. Equal for
/// equal numbers. `None` if the text is not a number of JSON.
fn digits(number: &str) -> Option<(String, i64)> {
    if !convert::is_number(number) {
        return None;
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = all.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some((String::new(), 0));
    }
    let zeros = all.len() - all.trim_end_matches('0').len();
    let sign = if number.starts_with('-') { "-" } else { "" };
    let places = i64::try_from(zeros).ok()? - i64::try_from(fraction.len()).ok()?;
    let power = exponent.parse::<i64>().ok()?.checked_add(places)?;
    Some((format!("{sign}{significant}"), power))
}

/// Whether two texts are the same JSON value.
fn is_same_json(one: &[u8], other: &[u8]) -> bool {
    use serde_json::{Value, from_slice};

    fn is_same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => {
                let zero = Some(0.0);
                one == other || (one.as_f64() == zero && other.as_f64() == zero)
            }
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
            }
            (Value::Object(one), Value::Object(other)) => {
                let is_member =
                    |(key, value)| other.get(key).is_some_and(|other| is_same(value, other));
                one.len() == other.len() && one.iter().all(is_member)
            }
            (one, other) => one == other,
        }
    }
    match (from_slice(one), from_slice(other)) {
        (Ok(one), Ok(other)) => is_same(&one, &other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_US: i64 = 1_772_359_200_000_001;

    #[test]
    fn a_value_is_the_same_in_every_type_that_holds_it() {
        let moment = || StoredValue::Moment(civil(NOON_US));
        let day = || StoredValue::Moment(civil(NOON_US).midnight());
        let unsigned = |number| Cell::Rare(Rare::Unsigned(number));
        let (max, big) = (9_007_199_254_740_993, u64::MAX);
        for (cell, stored, expected) in [
            (Cell::Float(-0.0), StoredValue::Float(0.0), true),
            (Cell::Float(0.0), StoredValue::Float(-0.0), true),
            (Cell::Float(0.1), StoredValue::Float(0.2), false),
            (
                Cell::Float(0.1),
                StoredValue::Float(f64::from(0.1_f32)),
                false,
            ),
            (
                Cell::Float(0.5),
                StoredValue::Float(f64::from(0.5_f32)),
                true,
            ),
            (Cell::Float(-0.0), StoredValue::Integer(0), true),
            (Cell::Float(-0.0), StoredValue::Text(b"-0"), true),
            (Cell::Float(7.0), StoredValue::Integer(7), true),
            (Cell::Float(7.5), StoredValue::Integer(7), false),
            (Cell::Float(0.1), StoredValue::Decimal(b"0.10"), true),
            (Cell::Float(0.125), StoredValue::Decimal(b"0.12"), false),
            (Cell::Float(1e20), StoredValue::Text(b"1e20"), true),
            (Cell::Float(1e20), StoredValue::Text(b"1e21"), false),
            (Cell::Float(0.1), StoredValue::Text(b"0.1 "), false),
            (Cell::Integer(7), StoredValue::Text(b"7"), true),
            (Cell::Integer(7), StoredValue::Text(b"07"), false),
            (Cell::Integer(7), StoredValue::Text(b"7.0"), false),
            (Cell::Integer(-7), StoredValue::Text(b"7"), false),
            (
                Cell::Integer(max),
                StoredValue::Float(9_007_199_254_740_992.0),
                false,
            ),
            (Cell::Integer(7), StoredValue::Float(7.0), true),
            (Cell::Integer(7), StoredValue::Decimal(b"7.00"), true),
            (Cell::Integer(7), StoredValue::Decimal(b"7.01"), false),
            (Cell::Integer(7), StoredValue::Json(b"7"), true),
            (Cell::Integer(7), StoredValue::Null, false),
            (Cell::Null, StoredValue::Integer(0), false),
            (Cell::Null, StoredValue::Text(b""), false),
            (Cell::Boolean(true), StoredValue::Text(b"1"), true),
            (Cell::Boolean(true), StoredValue::Integer(2), false),
            (
                unsigned(big),
                StoredValue::Text(b"18446744073709551615"),
                true,
            ),
            (
                unsigned(big),
                StoredValue::Decimal(b"18446744073709551615"),
                true,
            ),
            (
                unsigned(big),
                StoredValue::Float(18_446_744_073_709_551_615.0),
                false,
            ),
            (Cell::Text("7"), StoredValue::Integer(7), true),
            (Cell::Text("7.0"), StoredValue::Integer(7), true),
            (Cell::Text("7a"), StoredValue::Integer(7), false),
            (Cell::Text("a"), StoredValue::Integer(0), false),
            (Cell::Text("0.1"), StoredValue::Float(0.1), true),
            (
                Cell::Text("0.12345678901234567"),
                StoredValue::Float(0.123_456_789_012_345_67),
                false,
            ),
            (Cell::Text("1e2"), StoredValue::Decimal(b"100.00"), true),
            (Cell::Text("2026-03-01T10:00:00.000001Z"), moment(), true),
            (Cell::Text("2026-03-01T10:00:00.000002Z"), moment(), false),
            (Cell::Text("2026-03-01"), day(), true),
            (Cell::Text("2026-03-02"), day(), false),
            (
                Cell::Text("10:00:00"),
                StoredValue::Time(36_000_000_000),
                true,
            ),
            (
                Cell::Text("10:00:00"),
                StoredValue::Time(36_000_000_001),
                false,
            ),
            (Cell::Text("x"), StoredValue::Blob(b"x"), false),
            (Cell::Text("x "), StoredValue::Text(b"x"), false),
            (
                Cell::Text(r#"{"a":[-0,1.10]}"#),
                StoredValue::Json(br#"{"a": [-0.0, 1.1]}"#),
                true,
            ),
            (
                Cell::Text(r#"{"a":0}"#),
                StoredValue::Json(br#"{"a": 1}"#),
                false,
            ),
            (Cell::Text("[1]"), StoredValue::Json(b"[1, 1]"), false),
            (Cell::Timestamp(NOON_US), moment(), true),
            (Cell::Timestamp(NOON_US), day(), false),
            (
                Cell::Timestamp(NOON_US),
                StoredValue::Text(b"2026-03-01 10:00:00.000001"),
                true,
            ),
            (
                Cell::Timestamp(NOON_US),
                StoredValue::Text(b"2026-03-01 10:00:00"),
                false,
            ),
            (Cell::Rare(Rare::Date(20_513)), day(), true),
            (Cell::Rare(Rare::Date(20_513)), moment(), false),
            (
                Cell::Rare(Rare::Date(20_513)),
                StoredValue::Text(b"2026-03-01"),
                true,
            ),
            (Cell::Rare(Rare::Bytes(b"x")), StoredValue::Blob(b"x"), true),
            (
                Cell::Rare(Rare::Bytes(b"x")),
                StoredValue::Text(b"x"),
                false,
            ),
            (Cell::Rare(Rare::Time(1)), StoredValue::Other, false),
        ] {
            assert_eq!(is_same(cell, stored), expected, "{cell:?} {stored:?}");
        }
    }
}
