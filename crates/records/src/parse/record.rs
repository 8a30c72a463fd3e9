//! A record while it is read: a value for each column, and its first problem.
//!
//! Owns the rules of fields, for both readers of JSON: [`direct`](super::direct) and
//! [`walk`](super::walk). The rules of types are in [`value`](super::value).

use std::mem;

use super::columns::Columns;
use super::fields::{Field, Fields};
use super::fixed::{Fixed, Problem};
use super::value::{Json, Kept, Value, default, read};
use crate::batch::RejectCode;
use crate::dataset::{ColumnType, Dataset, OnError, OnUnknownField};

/// Most levels of nesting in a record, with its own braces. A flat record has one level. The walk
/// recurses by levels, so that without a limit a record could overflow the stack.
pub const DEPTH_MAX: usize = 32;

/// Most characters of a field's name in a reject: the size of its column in the database.
pub(super) const FIELD_CHARS_MAX: usize = 255;

/// The record that is being read. Reused for one record after the other.
pub(super) struct Record<'a> {
    pub(super) dataset: &'a Dataset,
    fields: &'a Fields,
    /// The values that are not in the record's text.
    fixed: &'a Fixed<'a>,
    /// Whether a value must have the JSON type of its column.
    strict: bool,
    /// A value for each column.
    values: Vec<Value<'a>>,
    /// For each field: whether the record has had it.
    seen: Vec<bool>,
    /// The field that comes next if the record has its members in the order of the fields.
    expected: usize,
    /// Values of this record that are not in its text.
    kept: Kept,
    /// The names of the members that are rescued.
    names: Vec<&'a str>,
    /// The rescued members as a JSON object. Its closing brace is added at the end of the record.
    rescued: String,
    /// The first problem of the record.
    problem: Option<Problem>,
}

impl<'a> Record<'a> {
    pub(super) fn new(dataset: &'a Dataset, fields: &'a Fields, fixed: &'a Fixed<'a>) -> Self {
        Self {
            dataset,
            fields,
            fixed,
            strict: dataset.is_strict(),
            values: vec![Value::Absent; dataset.columns.len()],
            seen: vec![false; fields.len()],
            expected: 0,
            kept: Kept::default(),
            names: Vec::new(),
            rescued: String::new(),
            problem: None,
        }
    }

    /// Begins a record: clears all that belongs to the record before it.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.values.copy_from_slice(&self.fixed.values);
        self.seen.fill(false);
        self.expected = 0;
        self.kept.clear();
        if !self.fixed.kept.is_empty() {
            self.kept.clone_from(&self.fixed.kept);
        }
        self.rescued.clear();
        self.names.clear();
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

    /// Sets the value of a column. `raw` returns the value's text as it is in the file. Returns
    /// false if the column stays NULL because it does not accept the value: then the caller rescues
    /// the member.
    #[expect(
        clippy::inline_always,
        reason = "a call for each value of each record costs 2 % of the instructions of parsing"
    )]
    #[inline(always)]
    pub(super) fn set(&mut self, at: usize, json: Json<'a>, raw: impl Fn() -> &'a str) -> bool {
        let column = &self.dataset.columns[at];
        // Most values are short texts. The processor predicts a separate branch for them, but not a
        // jump table.
        if let (ColumnType::Text, Json::Text(text)) = (column.kind, json)
            && text.len() <= column.max_chars as usize
        {
            self.values[at] = Value::Text(text);
            true
        } else {
            self.set_other(at, json, raw)
        }
    }

    /// As [`set`](Self::set), for all values except short texts.
    fn set_other(&mut self, at: usize, json: Json<'a>, raw: impl Fn() -> &'a str) -> bool {
        let column = &self.dataset.columns[at];
        match read(column, self.strict, json, raw, &mut self.kept) {
            Ok(value) => self.values[at] = value,
            Err(_) if column.on_error == Some(OnError::Null) => return false,
            Err(code) => self.problem(code, &column.name),
        }
        true
    }

    /// Keeps an unescaped text until the next record begins.
    pub(super) fn unescaped(&mut self, text: String) -> Json<'a> {
        self.kept.texts.push(text);
        Json::Unescaped(self.kept.texts.len() - 1)
    }

    /// Ignores, rejects or rescues a member that no column takes, as the dataset defines. `key` and
    /// `value` are their texts in the file.
    #[cold]
    pub(super) fn unknown(&mut self, name: &'a str, key: &str, value: &str) {
        match self.dataset.on_unknown_field {
            OnUnknownField::Ignore => {}
            OnUnknownField::Reject => self.problem(RejectCode::UnknownField, name),
            OnUnknownField::Rescue => self.rescue(name, key, value),
        }
    }

    /// Adds a member to `_rescued`. `key` and `value` are their texts in the file.
    #[cold]
    pub(super) fn rescue(&mut self, name: &'a str, key: &str, value: &str) {
        self.rescue_text(key, value);
        self.names.push(name);
    }

    fn rescue_text(&mut self, key: &str, value: &str) {
        let before = if self.rescued.is_empty() { '{' } else { ',' };
        self.rescued.push(before);
        self.rescued.push_str(key);
        self.rescued.push(':');
        self.rescued.push_str(value);
    }

    /// As [`unknown`](Self::unknown), for an element of a record that is an array.
    #[cold]
    pub(super) fn unknown_element(&mut self, index: usize, value: &str) {
        match self.dataset.on_unknown_field {
            OnUnknownField::Ignore => {}
            OnUnknownField::Reject => {
                self.problem(RejectCode::UnknownField, &index.to_string());
            }
            OnUnknownField::Rescue => self.rescue_text(&format!("\"{index}\""), value),
        }
    }

    /// Ends the record: finds the problems that appear only at its end, and sets defaults.
    #[inline]
    pub(super) fn end(&mut self) {
        let fixed = self.fixed;
        for (key, value) in &fixed.rescued {
            self.rescue(key, key, value);
        }
        self.end_rescued();
        if let Some(Problem { code, field }) = &fixed.problem {
            self.problem(*code, field.as_deref().unwrap_or_default());
        }
        for (at, column) in self.dataset.columns.iter().enumerate() {
            if matches!(self.values[at], Value::Absent) {
                if column.required {
                    self.problem(RejectCode::MissingField, &column.name);
                } else if let Some(text) = &column.default {
                    self.values[at] = default(column, text, &mut self.kept);
                }
            }
        }
    }

    /// Ends the rescued object. Sorts its names to find a duplicate, since comparing each name with
    /// each other one would take minutes for a record of a million names.
    #[inline]
    fn end_rescued(&mut self) {
        if self.rescued.is_empty() {
            return;
        }
        self.rescued.push('}');
        let mut names = mem::take(&mut self.names);
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            self.problem(RejectCode::DuplicateField, pair[0]);
        }
        self.names = names;
    }

    /// Appends the record as a row, or returns the problem that makes it a reject.
    #[inline]
    pub(super) fn append(&mut self, id: u64, columns: &mut Columns) -> Result<(), Problem> {
        if let Some(problem) = self.problem.take() {
            return Err(problem);
        }
        let rescued = (!self.rescued.is_empty()).then_some(self.rescued.as_str());
        columns.push(id, &self.values, &self.kept, rescued);
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
