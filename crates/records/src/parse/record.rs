//! A record on its way to a row: a value for each column, and the first thing that is wrong.
//!
//! Owns the rules of types and fields. They are the same whichever reads the JSON,
//! [`direct`](super::direct) or [`walk`](super::walk).

use std::mem;

use super::columns::{Columns, Value};
use super::fields::{Field, Fields};
use crate::batch::RejectCode;
use crate::dataset::{Column, ColumnType, Dataset, OnUnknownField};
use crate::{syntax, timestamp};

/// Most levels of nesting in a record, its own braces included. Flat records need one.
pub const DEPTH_MAX: usize = 32;

/// Most characters of a field's name in a reject: what its column in the database takes.
pub(super) const FIELD_CHARS_MAX: usize = 255;

/// What is wrong with a record.
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

/// What a record has for a column.
#[derive(Clone, Copy)]
pub(super) enum Json<'a> {
    Null,
    Boolean(bool),
    /// A number of any size; its text says which.
    Number,
    Text(&'a str),
    /// A text that has escapes: its place among [`Record::unescaped`].
    Unescaped(usize),
    /// An object or an array.
    Container,
}

/// The record that is being read. One value serves for one record after the other.
pub(super) struct Record<'a> {
    pub(super) dataset: &'a Dataset,
    fields: &'a Fields,
    /// A value for each column.
    values: Vec<Value<'a>>,
    /// Which of the fields have been met.
    seen: Vec<bool>,
    /// The field that comes next if this record has its members in the order of the fields.
    expected: usize,
    /// Texts without their escapes.
    unescaped: Vec<String>,
    /// The names of the unknown fields that are kept.
    unknown: Vec<&'a str>,
    /// The text of the unknown fields: a JSON object, whose brace is open until the record ends.
    rescued: String,
    /// The first thing that is wrong with the record.
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

    /// Forgets the record before.
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

    /// The field that is expected next and the bytes of its key, if that is what comes next.
    #[inline]
    pub(super) fn expected(&mut self, next: &[u8]) -> Option<(usize, usize)> {
        let at = self.expected;
        let bytes = self.fields.begins(next, at)?;
        self.expected = at + 1;
        Some((at, bytes))
    }

    /// The field of a member. `None` where no column takes anything of it.
    #[inline]
    pub(super) fn field(&mut self, name: &str) -> Option<usize> {
        let at = self.fields.find(name, self.expected)?;
        self.expected = at + 1;
        Some(at)
    }

    /// The field, if the record has not had it before; a second time is a problem.
    #[inline]
    pub(super) fn meet(&mut self, at: usize) -> Option<&'a Field> {
        let field = self.fields.get(at);
        if !mem::replace(&mut self.seen[at], true) {
            return Some(field);
        }
        let dataset = self.dataset;
        let column = field.column.map(|at| dataset.columns[at].name.as_str());
        self.problem(RejectCode::DuplicateField, column.unwrap_or(&field.key));
        None
    }

    /// Puts a value into its column's place. `raw` is its text as it is in the file.
    #[expect(
        clippy::inline_always,
        reason = "a call for each value of each record costs 2 % of the instructions of parsing"
    )]
    #[inline(always)]
    pub(super) fn set(&mut self, at: usize, json: Json<'a>, raw: impl Fn() -> &'a str) {
        let column = &self.dataset.columns[at];
        // Most values are short texts: a branch of its own is predicted, a jump table is not.
        if let (ColumnType::Text, Json::Text(text)) = (column.kind, json)
            && text.len() <= column.max_chars as usize
        {
            self.values[at] = Value::Text(text);
        } else {
            self.set_other(at, json, raw);
        }
    }

    /// As [`set`](Self::set), for all values but short texts.
    fn set_other(&mut self, at: usize, json: Json<'a>, raw: impl Fn() -> &'a str) {
        let column = &self.dataset.columns[at];
        match read(column, json, raw, &self.unescaped) {
            Ok(value) => self.values[at] = value,
            Err(code) => self.problem(code, &column.name),
        }
    }

    /// Keeps a text without its escapes until the next record begins.
    pub(super) fn unescaped(&mut self, text: String) -> Json<'a> {
        self.unescaped.push(text);
        Json::Unescaped(self.unescaped.len() - 1)
    }

    /// Treats a member that no column takes as the dataset says. `key` and `value` are its texts as
    /// they stand in the file.
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

    /// The object has ended: looks at what shows only then.
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

    /// Ends the rescued object. The names are sorted to find one that is there twice, so that a
    /// record of a million names does not take minutes.
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

    /// Appends the record as a row, or says why it is not one.
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

/// What a column makes of a value.
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

/// A number that is written as an integer, if 64 bits hold it.
fn integer(number: &str) -> Result<i64, RejectCode> {
    number.parse().map_err(|_| {
        if syntax::is_integer(number) {
            RejectCode::NumberRange
        } else {
            RejectCode::WrongType
        }
    })
}

/// The float that is nearest to a number, if it is finite.
fn float(number: &str) -> Result<f64, RejectCode> {
    let nearest: Option<f64> = number.parse().ok();
    let finite = nearest.filter(|float| float.is_finite());
    finite.ok_or(RejectCode::NumberRange)
}

/// Whether a text is short enough: characters are counted only if its bytes are too many.
#[inline]
fn fitting(text: &str, chars_max: u32) -> Result<(), RejectCode> {
    let chars_max = chars_max as usize;
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(RejectCode::TextTooLong);
    }
    Ok(())
}
