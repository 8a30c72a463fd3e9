//! The rows of one dataset in a commit, over all its batches, read cell by cell from Arrow arrays.
//!
//! Pure. Borrows the arrays: a value is copied only when a dialect binds it.

use std::fmt::Display;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array,
    Int64Array, RecordBatch, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow_schema::DataType;

use crate::batch::{Batch, ContentHash, RAW_BYTES_MAX, Reject, RejectCode, provenance};
use crate::dataset::Dataset;
use crate::{convert, dates, timestamp};

/// Most characters of a database's message that a reject keeps. Messages of servers have a few
/// hundred; the message of a user's trigger may have any number.
const MESSAGE_CHARS_MAX: usize = 1_000;

/// Most bytes of the text of a decimal: 38 digits, a sign, a point and a zero before it.
const DECIMAL_BYTES_MAX: usize = 41;

/// The message for a record that is too large for a statement, so that it was not sent to the
/// server.
pub(super) const RECORD_TOO_LARGE: &str = "the record is larger than the server takes at once: \
    raise max_allowed_packet";

/// One value of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Id(u64),
    Text(&'a str),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// Microseconds since the epoch, UTC.
    Timestamp(i64),
    /// A value of one of the types that few datasets have.
    Rare(Rare<'a>),
}

/// A value of a type that few datasets have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rare<'a> {
    Bytes(&'a [u8]),
    Unsigned(u64),
    Decimal(Decimal),
    /// Days since the epoch.
    Date(i32),
    /// Microseconds since midnight.
    Time(i64),
}

/// An exact number: `value` without its point, and the digits after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    value: [u64; 2],
    scale: u8,
}

impl Decimal {
    fn new(value: i128, scale: i8) -> Self {
        let bits = value.cast_unsigned();
        Self {
            // As halves: an `i128` would make every cell larger.
            value: [(bits >> 64) as u64, bits as u64],
            scale: scale.cast_unsigned(),
        }
    }

    fn value(self) -> i128 {
        let [high, low] = self.value.map(u128::from);
        (high << 64 | low).cast_signed()
    }

    pub(super) fn text(self) -> String {
        convert::decimal_text(self.value(), self.scale)
    }

    /// Whether a text of a database is the same number.
    pub(super) fn equals(self, text: &str) -> bool {
        convert::is_number(text) && convert::scaled(text, self.scale) == Ok(self.value())
    }
}

/// All rows of one dataset in a commit. The rows of a batch are adjacent, by ascending id.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    pub(super) dataset: &'a Arc<Dataset>,
    parts: Vec<Part<'a>>,
    len: usize,
}

/// The rows of one batch.
#[derive(Debug)]
struct Part<'a> {
    /// How many rows the earlier parts have.
    start: usize,
    len: usize,
    /// The identity of the file.
    hash: ContentHash,
    columns: Vec<Values<'a>>,
}

/// One column of a batch, by its type.
#[derive(Debug)]
enum Values<'a> {
    Id(&'a UInt64Array),
    Text(&'a StringArray),
    Integer(&'a Int64Array),
    Float(&'a Float64Array),
    Boolean(&'a BooleanArray),
    Timestamp(&'a TimestampMicrosecondArray),
    Rare(RareValues<'a>),
}

/// One column of a batch of a type that few datasets have.
#[derive(Debug)]
enum RareValues<'a> {
    Bytes(&'a BinaryArray),
    Unsigned(&'a UInt64Array),
    Decimal(&'a Decimal128Array),
    Date(&'a Date32Array),
    Time(&'a Time64MicrosecondArray),
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a [Values<'a>],
    at: usize,
}

/// The rows of a commit by dataset, in the order in which the datasets appear. The batches of each
/// dataset are sorted by their first id: a B-tree stores ascending keys fastest, and workers that
/// lock rows in the same order cause no deadlock.
pub(super) fn by_dataset(batches: &[Batch]) -> Vec<Rows<'_>> {
    let mut groups: Vec<(&Arc<Dataset>, Vec<&Batch>)> = Vec::new();
    for batch in batches.iter().filter(|batch| batch.rows.num_rows() > 0) {
        match groups
            .iter_mut()
            .find(|(dataset, _)| dataset.name == batch.dataset.name)
        {
            Some((_, of)) => of.push(batch),
            None => groups.push((&batch.dataset, vec![batch])),
        }
    }
    groups
        .into_iter()
        .map(|(dataset, of)| Rows::new(dataset, of))
        .collect()
}

impl<'a> Rows<'a> {
    fn new(dataset: &'a Arc<Dataset>, mut batches: Vec<&'a Batch>) -> Self {
        batches.sort_by_key(|batch| (batch.span.file_no, batch.span.first_ordinal));
        let mut len = 0;
        let parts = batches
            .into_iter()
            .map(|batch| {
                let start = len;
                len += batch.rows.num_rows();
                Part {
                    start,
                    len: batch.rows.num_rows(),
                    hash: batch.hash,
                    columns: columns(&batch.rows),
                }
            })
            .collect();
        Self {
            dataset,
            parts,
            len,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The row at index `at`.
    pub(super) fn row(&self, at: usize) -> Row<'_> {
        let part = self.part(at);
        Row {
            columns: &part.columns,
            at: at - part.start,
        }
    }

    /// Whether one of the rows before index `end` has this id.
    pub(super) fn has(&self, id: u64, end: usize) -> bool {
        let is_in = |part: &Part<'_>| match &part.columns[0] {
            Values::Id(ids) => {
                let found = ids.values().binary_search(&id);
                found.is_ok_and(|at| part.start + at < end)
            }
            other => unreachable!("the first column is the id, not {other:?}"),
        };
        self.parts.iter().any(is_in)
    }

    /// The identity of the file of the row at index `at`.
    pub(super) fn hash(&self, at: usize) -> ContentHash {
        self.part(at).hash
    }

    fn part(&self, at: usize) -> &Part<'a> {
        assert!(at < self.len, "row {at} of {}", self.len);
        let part = self.parts.partition_point(|part| part.start <= at) - 1;
        let part = &self.parts[part];
        debug_assert!(at - part.start < part.len);
        part
    }

    /// The rows of a range of indexes.
    pub(super) fn range(&self, range: Range<usize>) -> impl Iterator<Item = Row<'_>> {
        let first = self
            .parts
            .partition_point(|part| part.start + part.len <= range.start);
        self.parts[first..].iter().flat_map(move |part| {
            let from = range.start.clamp(part.start, part.start + part.len) - part.start;
            let to = range.end.clamp(part.start, part.start + part.len) - part.start;
            (from..to).map(|at| Row {
                columns: &part.columns,
                at,
            })
        })
    }

    /// How many bytes the texts of a range of rows have.
    pub(super) fn text_bytes(&self, range: Range<usize>) -> usize {
        let parts = self.parts.iter().map(|part| {
            let [from, to] = [range.start, range.end]
                .map(|at| at.clamp(part.start, part.start + part.len) - part.start);
            let texts = part.columns.iter().map(|values| match values {
                Values::Text(array) => {
                    let offsets = array.value_offsets();
                    (offsets[to] - offsets[from]) as usize
                }
                Values::Rare(RareValues::Bytes(array)) => {
                    let offsets = array.value_offsets();
                    (offsets[to] - offsets[from]) as usize
                }
                Values::Rare(RareValues::Decimal(_)) => (to - from) * DECIMAL_BYTES_MAX,
                _ => 0,
            });
            texts.sum::<usize>()
        });
        parts.sum()
    }

    /// The reject of a row that the database refuses, with the database's message. A worker does
    /// not have the bytes of the record, so the reject has the row as JSON.
    pub(super) fn refused(
        &self,
        at: usize,
        code: RejectCode,
        message: Option<&dyn Display>,
    ) -> RefusedRow {
        let row = self.row(at);
        let (file_no, ordinal) = provenance(row.id());
        let mut raw = self.json(row).into_bytes();
        raw.truncate(RAW_BYTES_MAX);
        let reject = Reject {
            ordinal,
            code,
            field: None,
            byte_offset: 0,
            raw,
        };
        RefusedRow {
            file_no,
            reject,
            message: message.map(cut_message),
        }
    }

    /// A row as a JSON object with the columns by name. A JSON column is its value, with each digit,
    /// or a string if its text is not JSON.
    fn json(&self, row: Row<'_>) -> String {
        let columns = &self.dataset.columns;
        let names = columns.iter().map(|column| column.name.as_str());
        let is_json = |at: usize| {
            let column = columns.get(at);
            column.is_none_or(|column| column.kind == crate::dataset::ColumnType::Json)
        };
        let members = names.chain([crate::dataset::RESCUE_COLUMN]).enumerate();
        let members = members.map(|(at, name)| {
            let value: serde_json::Value = match row.cell(at + 1) {
                Cell::Null => serde_json::Value::Null,
                Cell::Text(text) if is_json(at) && is_json_text(text) => {
                    return format!("\"{name}\":{text}");
                }
                Cell::Text(text) => text.into(),
                Cell::Id(number) | Cell::Rare(Rare::Unsigned(number)) => number.into(),
                Cell::Integer(number) => number.into(),
                Cell::Float(number) => number.into(),
                Cell::Boolean(value) => value.into(),
                Cell::Timestamp(time_us) => timestamp::text(time_us).into(),
                Cell::Rare(Rare::Decimal(decimal)) => decimal.text().into(),
                Cell::Rare(Rare::Date(days)) => dates::date_text(days).into(),
                Cell::Rare(Rare::Time(micros)) => dates::time_text(micros).into(),
                Cell::Rare(Rare::Bytes(bytes)) => convert::hex_text(bytes).into(),
            };
            format!("\"{name}\":{value}")
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

fn is_json_text(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// The first `most` rows of a batch as JSON objects, with the columns by name.
#[must_use]
pub fn rows_as_json(batch: &Batch, most: usize) -> Vec<String> {
    let rows = by_dataset(std::slice::from_ref(batch));
    let of = |rows: &Rows<'_>| {
        let few = 0..rows.len().min(most);
        few.map(|at| rows.json(rows.row(at))).collect()
    };
    rows.first().map(of).unwrap_or_default()
}

/// A row that became a reject in this commit.
#[derive(Debug)]
pub(super) struct RefusedRow {
    pub(super) file_no: u32,
    pub(super) reject: Reject,
    /// The database's message. `None` if it has none.
    pub(super) message: Option<String>,
}

/// The part of a database's message that a reject keeps.
pub(super) fn cut_message(message: &dyn Display) -> String {
    message
        .to_string()
        .chars()
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

impl<'a> Row<'a> {
    pub(super) fn id(self) -> u64 {
        match self.cell(0) {
            Cell::Id(id) => id,
            other => unreachable!("the first column is the id, not {other:?}"),
        }
    }

    pub(super) fn cells(self) -> impl Iterator<Item = Cell<'a>> {
        (0..self.columns.len()).map(move |column| self.cell(column))
    }

    #[expect(
        clippy::inline_always,
        reason = "the match on what it returns merges with the match in it: a third less for a row"
    )]
    #[inline(always)]
    pub(super) fn cell(self, column: usize) -> Cell<'a> {
        let at = self.at;
        let values = &self.columns[column];
        if values.is_null(at) {
            return Cell::Null;
        }
        match values {
            Values::Id(array) => Cell::Id(array.value(at)),
            Values::Text(array) => Cell::Text(array.value(at)),
            Values::Integer(array) => Cell::Integer(array.value(at)),
            Values::Float(array) => Cell::Float(array.value(at)),
            Values::Boolean(array) => Cell::Boolean(array.value(at)),
            Values::Timestamp(array) => Cell::Timestamp(array.value(at)),
            Values::Rare(values) => Cell::Rare(values.value(at)),
        }
    }
}

impl<'a> RareValues<'a> {
    fn value(&self, at: usize) -> Rare<'a> {
        match self {
            Self::Bytes(array) => Rare::Bytes(array.value(at)),
            Self::Unsigned(array) => Rare::Unsigned(array.value(at)),
            Self::Decimal(array) => Rare::Decimal(Decimal::new(array.value(at), array.scale())),
            Self::Date(array) => Rare::Date(array.value(at)),
            Self::Time(array) => Rare::Time(array.value(at)),
        }
    }
}

impl Values<'_> {
    fn is_null(&self, at: usize) -> bool {
        match self {
            Self::Id(array) | Self::Rare(RareValues::Unsigned(array)) => array.is_null(at),
            Self::Text(array) => array.is_null(at),
            Self::Integer(array) => array.is_null(at),
            Self::Float(array) => array.is_null(at),
            Self::Boolean(array) => array.is_null(at),
            Self::Timestamp(array) => array.is_null(at),
            Self::Rare(RareValues::Bytes(array)) => array.is_null(at),
            Self::Rare(RareValues::Decimal(array)) => array.is_null(at),
            Self::Rare(RareValues::Date(array)) => array.is_null(at),
            Self::Rare(RareValues::Time(array)) => array.is_null(at),
        }
    }
}

fn columns(rows: &RecordBatch) -> Vec<Values<'_>> {
    let id = Values::Id(rows.column(0).as_primitive::<UInt64Type>());
    let others = rows.columns()[1..]
        .iter()
        .map(|array| match array.data_type() {
            DataType::Utf8 => Values::Text(array.as_string()),
            DataType::Int64 => Values::Integer(array.as_primitive::<Int64Type>()),
            DataType::Float64 => Values::Float(array.as_primitive::<Float64Type>()),
            DataType::Boolean => Values::Boolean(array.as_boolean()),
            DataType::Timestamp(..) => {
                Values::Timestamp(array.as_primitive::<TimestampMicrosecondType>())
            }
            _ => Values::Rare(rare(array)),
        });
    std::iter::once(id).chain(others).collect()
}

fn rare(array: &ArrayRef) -> RareValues<'_> {
    match array.data_type() {
        DataType::Binary => RareValues::Bytes(array.as_binary()),
        DataType::UInt64 => RareValues::Unsigned(array.as_primitive::<UInt64Type>()),
        DataType::Decimal128(..) => RareValues::Decimal(array.as_primitive::<Decimal128Type>()),
        DataType::Date32 => RareValues::Date(array.as_primitive::<Date32Type>()),
        DataType::Time64(_) => RareValues::Time(array.as_primitive::<Time64MicrosecondType>()),
        other => unreachable!("no dataset has a column of type {other}"),
    }
}
