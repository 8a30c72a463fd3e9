//! What a JSON value becomes in a column: the rules of types, for both readers of JSON.

use crate::batch::RejectCode;
use crate::convert::{self, Misfit};
use crate::dataset::{Column, ColumnType, EpochUnit};
use crate::{syntax, timestamp};

/// The kind of value that a record has for a column.
#[derive(Clone, Copy)]
pub(super) enum Json<'a> {
    Null,
    Boolean(bool),
    /// A number of any size. Its value is read from its text.
    Number,
    Text(&'a str),
    /// A text that had escapes: its index in [`Kept::texts`].
    Unescaped(usize),
    /// An object or an array.
    Container,
}

/// A value for a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// The field is missing or null: NULL in the column.
    Absent,
    /// A text, for text and JSON columns.
    Text(&'a str),
    /// The index of a text in [`Kept::texts`].
    Unescaped(usize),
    /// The index of a value in [`Kept::bytes`].
    Bytes(usize),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    /// The halves of an `i128`: as a whole, it would make every value larger.
    Decimal(u64, u64),
    Boolean(bool),
    /// Microseconds since the epoch.
    Timestamp(i64),
    /// Days since the epoch.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
}

impl Value<'_> {
    /// A decimal without its point.
    pub(super) fn decimal(value: i128) -> Self {
        let bits = value.cast_unsigned();
        Self::Decimal((bits >> 64) as u64, bits as u64)
    }
}

/// Values of a record that are not in its text as the columns hold them. Reused for one record
/// after the other.
#[derive(Default, Clone)]
pub(super) struct Kept {
    /// The texts that had escapes, unescaped.
    pub(super) texts: Vec<String>,
    /// The values of `binary` columns.
    pub(super) bytes: Vec<Vec<u8>>,
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.bytes.is_empty()
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        if !self.texts.is_empty() {
            self.texts.clear();
        }
        if !self.bytes.is_empty() {
            self.bytes.clear();
        }
    }
}

/// The value of a column from a value of JSON. `raw` returns its text in the file.
///
/// # Errors
/// The column does not accept it.
pub(super) fn read<'a>(
    column: &Column,
    strict: bool,
    json: Json<'a>,
    raw: impl Fn() -> &'a str,
    kept: &mut Kept,
) -> Result<Value<'a>, RejectCode> {
    match (column.kind, json) {
        (_, Json::Null) => Ok(Value::Absent),
        (ColumnType::Json, _) => Ok(Value::Text(raw())),
        (_, Json::Container) => Err(RejectCode::WrongType),
        (ColumnType::Text, Json::Text(text)) => {
            fitting(text, column.max_chars).map(|()| Value::Text(text))
        }
        (ColumnType::Text, Json::Unescaped(at)) => {
            fitting(&kept.texts[at], column.max_chars).map(|()| Value::Unescaped(at))
        }
        (ColumnType::Text, _) => fitting(raw(), column.max_chars).map(|()| Value::Text(raw())),
        (_, Json::Text(text)) => from_text(column, strict, text, &mut kept.bytes),
        (_, Json::Unescaped(at)) => from_text(column, strict, &kept.texts[at], &mut kept.bytes),
        (_, Json::Number) => from_number(column, strict, raw()),
        (ColumnType::Boolean, Json::Boolean(truth)) => Ok(Value::Boolean(truth)),
        (_, Json::Boolean(_)) => Err(RejectCode::WrongType),
    }
}

/// The default of a column, which its definition has checked.
pub(super) fn default<'a>(column: &Column, text: &'a str, kept: &mut Kept) -> Value<'a> {
    match column.kind {
        ColumnType::Text | ColumnType::Json => Value::Text(text),
        _ => from_text(column, false, text, &mut kept.bytes).expect("the definition is checked"),
    }
}

/// The value of a column that is neither `text` nor `json` from a text.
fn from_text<'a>(
    column: &Column,
    strict: bool,
    text: &str,
    bytes: &mut Vec<Vec<u8>>,
) -> Result<Value<'a>, RejectCode> {
    let is_number = || !strict && convert::is_number(text);
    let found = match column.kind {
        ColumnType::Timestamp => column.timestamp(text).map(Value::Timestamp),
        ColumnType::Date => column.date(text).map(Value::Date),
        ColumnType::Time => column.time(text).map(Value::Time),
        ColumnType::Binary => column.bytes(text).map(|value| {
            bytes.push(value);
            Value::Bytes(bytes.len() - 1)
        }),
        ColumnType::Boolean if !strict => convert::boolean(text).map(Value::Boolean),
        _ => None,
    };
    match (found, column.kind) {
        (Some(value), _) => Ok(value),
        (None, ColumnType::Timestamp | ColumnType::Date)
            if column.epoch.is_some() && is_number() =>
        {
            from_number(column, strict, text)
        }
        (None, ColumnType::Timestamp | ColumnType::Date | ColumnType::Time) => {
            Err(RejectCode::InvalidTimestamp)
        }
        (None, ColumnType::Binary) => Err(RejectCode::InvalidBinary),
        (None, ColumnType::Boolean) => Err(RejectCode::WrongType),
        _ if is_number() => from_number(column, strict, text),
        _ => Err(RejectCode::WrongType),
    }
}

/// The value of a column that is neither `text` nor `json` from a number.
pub(super) fn from_number<'a>(
    column: &Column,
    strict: bool,
    number: &str,
) -> Result<Value<'a>, RejectCode> {
    let epoch = |unit: Option<EpochUnit>| {
        let unit = unit.ok_or(RejectCode::WrongType)?;
        timestamp::from_epoch(number, unit).ok_or(RejectCode::InvalidTimestamp)
    };
    match column.kind {
        ColumnType::Integer => match number.parse() {
            Ok(integer) => Ok(Value::Integer(integer)),
            Err(_) => integer(number, strict).map(Value::Integer),
        },
        ColumnType::Unsigned => match number.parse() {
            Ok(integer) => Ok(Value::Unsigned(integer)),
            Err(_) => integer(number, strict).map(Value::Unsigned),
        },
        ColumnType::Float => match convert::float(number) {
            Ok(float) => Ok(Value::Float(float)),
            Err(_) => Err(RejectCode::NumberRange),
        },
        ColumnType::Decimal { precision, scale } => {
            match convert::decimal(number, precision, scale) {
                Ok(value) => Ok(Value::decimal(value)),
                Err(_) => Err(RejectCode::NumberRange),
            }
        }
        ColumnType::Boolean if !strict && matches!(number, "0" | "1") => {
            Ok(Value::Boolean(number == "1"))
        }
        ColumnType::Timestamp => epoch(column.epoch).map(Value::Timestamp),
        ColumnType::Date => {
            let micros = epoch(column.epoch)?;
            if micros % timestamp::MICROS_A_DAY == 0 {
                Ok(Value::Date(timestamp::day(micros)))
            } else {
                Err(RejectCode::InvalidTimestamp)
            }
        }
        _ => Err(RejectCode::WrongType),
    }
}

/// The integer that is the value of a number. If `strict`, it must be written as an integer.
fn integer<T: TryFrom<i128>>(number: &str, strict: bool) -> Result<T, RejectCode> {
    if strict && !syntax::is_integer(number) {
        return Err(RejectCode::WrongType);
    }
    convert::integer(number).map_err(|misfit| match misfit {
        Misfit::Inexact => RejectCode::WrongType,
        Misfit::Range => RejectCode::NumberRange,
    })
}

/// Checks that a text is short enough. Counts its characters only if it has more bytes than that.
#[inline]
fn fitting(text: &str, chars_max: u32) -> Result<(), RejectCode> {
    let chars_max = chars_max as usize;
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(RejectCode::TextTooLong);
    }
    Ok(())
}
