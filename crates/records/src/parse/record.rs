//! A record while it is read: a value for each column, and its first problem.
//!
//! Owns the rules of types and fields, for both readers of JSON: [`direct`](super::direct) and
//! [`walk`](super::walk).

use std::mem;

use super::columns::{Columns, Value};
use super::fields::{Field, Fields};
use crate::batch::RejectCode;
use crate::dataset::{Column, ColumnType, Dataset, OnUnknownField};
use crate::{syntax, timestamp};

/// Most levels of nesting in a record, with its own braces. A flat record has one level. The walk
/// recurses by levels, so that without a limit a record could overflow the stack.
pub const DEPTH_MAX: usize = 32;

/// Most characters of a field's name in a reject: the size of its column in the database.
pub(super) const FIELD_CHARS_MAX: usize = 255;

/// Why a record is a reject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) code: RejectCode,
    pub(super) field: Option<String>,
}

impl Problem {
    /// A problem of the record as a whole, not of one field.
    pub(super) fn of_record(code: RejectCode) -> Self {
        Self { code, field: None }
    }
}

/// The kind of value that a record has for a column.
#[derive(Clone, Copy)]
pub(super) enum Json<'a> {
    Null,
    Boolean(bool),
    /// A number of any size. Its value is read from its text.
    Number,
    Text(&'a str),
    /// A text that had escapes: its index in [`Record::unescaped`].
    Unescaped(usize),
    /// An object or an array.
    Container,
}

/// The record that is being read. Reused for one record after the other.
pub(super) struct Record<'a> {
    pub(super) dataset: &'a Dataset,
    fields: &'a Fields,
    /// A value for each column.
    values: Vec<Value<'a>>,
    /// For each field: whether the record has had it.
    seen: Vec<bool>,
    /// The field that comes next if the record has its members in the order of the fields.
    expected: usize,
    /// The texts of this record that had escapes, unescaped.
    unescaped: Vec<String>,
    /// The names of the unknown fields that are rescued.
    unknown: Vec<&'a str>,
    /// The unknown fields as a JSON object. Its closing brace is added at the end of the record.
    rescued: String,
    /// The first problem of the record.
    problem: Option<Problem>,
}

impl<'a> Record<'a> {
    pub(super) fn new(dataset: &'a Dataset, fields: &'a Fields) -> Self {
        Self {
            dataset,
            fields,
            values: vec![Value::Absent; dataset.columns.len()],
            seen: vec![false; fields.len()],
            expected: 0,
            unescaped: Vec::new(),
            unknown: Vec::new(),
            rescued: String::new(),
            problem: None,
        }
    }

    /// Begins a record: clears all that belongs to the record before it.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.values.fill(Value::Absent);
        self.seen.fill(false);
        self.expected = 0;
        if !self.unescaped.is_empty() {
            self.unescaped.clear();
        }
        self.rescued.clear();
        self.unknown.clear();
        self.problem = None;
    }

    /// The field that is expected next, and the length of its quoted key. `None` if `next` does not
    /// begin with this key.
    #[inline]
    pub(super) fn expected(&mut self, next: &[u8]) -> Option<(usize, usize)> {
        let at = self.expected;
        let bytes = self.fields.begins(next, at)?;
        self.expected = at + 1;
        Some((at, bytes))
    }

    /// The field of a member. `None` if no column takes its value or a part of it.
    #[inline]
    pub(super) fn field(&mut self, name: &str) -> Option<usize> {
        let at = self.fields.find(name, self.expected)?;
        self.expected = at + 1;
        Some(at)
    }

    /// The field `at`, marked as seen. `None` if the record has had it before, which is a problem.
    #[inline]
    pub(super) fn first_time(&mut self, at: usize) -> Option<&'a Field> {
        let field = self.fields.get(at);
        if !mem::replace(&mut self.seen[at], true) {
            return Some(field);
        }
        let dataset = self.dataset;
        let column = field.column.map(|at| dataset.columns[at].name.as_str());
        self.problem(RejectCode::DuplicateField, column.unwrap_or(&field.key));
        None
    }

    /// Sets the value of a column. `raw` returns the value's text as it is in the file.
    #[expect(
        clippy::inline_always,
        reason = "a call for each value of each record costs 2 % of the instructions of parsing"
    )]
    #[inline(always)]
    pub(super) fn set(&mut self, at: usize, json: Json<'a>, raw: impl Fn() -> &'a str) {
        let column = &self.dataset.columns[at];
        // Most values are short texts. The processor predicts a separate branch for them, but not a
        // jump table.
        if let (ColumnType::Text, Json::Text(text)) = (column.kind, json)
            && text.len() <= column.max_chars as usize
        {
            self.values[at] = Value::Text(text);
        } else {
            self.set_other(at, json, raw);
        }
    }

    /// As [`set`](Self::set), for all values except short texts.
    fn set_other(&mut self, at: usize, json: Json<'a>, raw: impl Fn() -> &'a str) {
        let column = &self.dataset.columns[at];
        match read(column, json, raw, &self.unescaped) {
            Ok(value) => self.values[at] = value,
            Err(code) => self.problem(code, &column.name),
        }
    }

    /// Keeps an unescaped text until the next record begins.
    pub(super) fn unescaped(&mut self, text: String) -> Json<'a> {
        self.unescaped.push(text);
        Json::Unescaped(self.unescaped.len() - 1)
    }

    /// Ignores, rejects or rescues a member that no column takes, as the dataset defines. `key` and
    /// `value` are their texts in the file.
    #[cold]
    pub(super) fn unknown(&mut self, name: &'a str, key: &str, value: &str) {
        match self.dataset.on_unknown_field {
            OnUnknownField::Ignore => {}
            OnUnknownField::Reject => self.problem(RejectCode::UnknownField, name),
            OnUnknownField::Rescue => {
                let before = if self.unknown.is_empty() { '{' } else { ',' };
                self.rescued.push(before);
                self.rescued.push_str(key);
                self.rescued.push(':');
                self.rescued.push_str(value);
                self.unknown.push(name);
            }
        }
    }

    /// Ends the record: finds the problems that appear only at its end, and sets defaults.
    #[inline]
    pub(super) fn end(&mut self) {
        self.end_unknown();
        for (at, column) in self.dataset.columns.iter().enumerate() {
            if matches!(self.values[at], Value::Absent) {
                if column.required {
                    self.problem(RejectCode::MissingField, &column.name);
                } else if let Some(default) = &column.default {
                    self.values[at] = Value::Text(default);
                }
            }
        }
    }

    /// Ends the rescued object. Sorts its names to find a duplicate, since comparing each name with
    /// each other one would take minutes for a record of a million names.
    #[inline]
    fn end_unknown(&mut self) {
        if self.unknown.is_empty() {
            return;
        }
        self.rescued.push('}');
        let mut names = mem::take(&mut self.unknown);
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            self.problem(RejectCode::DuplicateField, pair[0]);
        }
        self.unknown = names;
    }

    /// Appends the record as a row, or returns the problem that makes it a reject.
    #[inline]
    pub(super) fn append(&mut self, id: u64, columns: &mut Columns) -> Result<(), Problem> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let rescued = (!self.rescued.is_empty()).then_some(self.rescued.as_str());
        columns.push(id, &self.values, &self.unescaped, rescued);
        Ok(())
    }

    #[cold]
    pub(super) fn problem(&mut self, code: RejectCode, field: &str) {
        self.problem.get_or_insert_with(|| Problem {
            code,
            field: Some(field.chars().take(FIELD_CHARS_MAX).collect()),
        });
    }
}

/// The value of a column from a value of JSON. `Err` if the column does not accept it.
fn read<'a>(
    column: &Column,
    json: Json<'a>,
    raw: impl Fn() -> &'a str,
    unescaped: &[String],
) -> Result<Value<'a>, RejectCode> {
    match (column.kind, json) {
        (_, Json::Null) => Ok(Value::Absent),
        (ColumnType::Json, _) => Ok(Value::Text(raw())),
        (_, Json::Container) => Err(RejectCode::WrongType),
        (ColumnType::Text, Json::Text(text)) => {
            fitting(text, column.max_chars).map(|()| Value::Text(text))
        }
        (ColumnType::Text, Json::Unescaped(at)) => {
            fitting(&unescaped[at], column.max_chars).map(|()| Value::Unescaped(at))
        }
        (ColumnType::Text, _) => fitting(raw(), column.max_chars).map(|()| Value::Text(raw())),
        (ColumnType::Timestamp, Json::Unescaped(at)) => timestamp::parse(&unescaped[at])
            .map(Value::Timestamp)
            .ok_or(RejectCode::InvalidTimestamp),
        (ColumnType::Timestamp, Json::Text(text)) => timestamp::parse(text)
            .map(Value::Timestamp)
            .ok_or(RejectCode::InvalidTimestamp),
        (ColumnType::Timestamp, Json::Number) => {
            let unit = column.epoch.ok_or(RejectCode::WrongType)?;
            timestamp::from_epoch(raw(), unit)
                .map(Value::Timestamp)
                .ok_or(RejectCode::InvalidTimestamp)
        }
        (ColumnType::Integer, Json::Number) => integer(raw()).map(Value::Integer),
        (ColumnType::Float, Json::Number) => float(raw()).map(Value::Float),
        (ColumnType::Boolean, Json::Boolean(truth)) => Ok(Value::Boolean(truth)),
        _ => Err(RejectCode::WrongType),
    }
}

/// The integer that is written as `number`. `Err` if it is not an integer, or does not fit 64 bits.
fn integer(number: &str) -> Result<i64, RejectCode> {
    number.parse().map_err(|_| {
        if syntax::is_integer(number) {
            RejectCode::NumberRange
        } else {
            RejectCode::WrongType
        }
    })
}

/// The float that is nearest to a number. `Err` if it is not finite.
fn float(number: &str) -> Result<f64, RejectCode> {
    let nearest: Option<f64> = number.parse().ok();
    let finite = nearest.filter(|float| float.is_finite());
    finite.ok_or(RejectCode::NumberRange)
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
