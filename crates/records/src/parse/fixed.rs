//! The values of a record that are not in its text: constants, values outside of the record, and
//! those of its file.

use std::fmt;
use std::path::Path;

use super::value::{Json, Kept, Value, default, from_number, read};
use crate::batch::RejectCode;
use crate::cut::{OuterValue, Outside};
use crate::dataset::{
    Column, ColumnType, Dataset, FileFact, FileValues, OnError, Outer, PathValues,
};

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

/// The values that all records of a run of records have in common.
pub(super) struct Fixed<'a> {
    /// A value for each column. Absent if the column takes a field of the record.
    pub(super) values: Vec<Value<'a>>,
    /// What the values refer to.
    pub(super) kept: Kept,
    /// The first problem of these values, which makes each of the records a reject.
    pub(super) problem: Option<Problem>,
    /// The key in quotes and the text of each value that its column does not accept, for `_rescued`.
    pub(super) rescued: Vec<(String, String)>,
}

impl<'a> Fixed<'a> {
    /// `outers` are the columns of `dataset` whose value is outside of the record, and `outside`
    /// their values.
    pub(super) fn new(dataset: &'a Dataset, outers: &[Outer], outside: &'a Outside<'_>) -> Self {
        let mut fixed = Self {
            values: vec![Value::Absent; dataset.columns.len()],
            kept: Kept::default(),
            problem: None,
            rescued: Vec::new(),
        };
        for (at, column) in dataset.columns.iter().enumerate() {
            if let Some(text) = &column.value {
                fixed.values[at] = default(column, text, &mut fixed.kept);
            }
        }
        for (at, outer) in outers.iter().enumerate() {
            let column = &dataset.columns[outer.column];
            match fixed.outer(column, dataset.is_strict(), outside.get(at)) {
                Ok(value) => fixed.values[outer.column] = value,
                Err(_) if column.on_error == Some(OnError::Null) => {
                    fixed.rescue(column, outside.get(at));
                }
                Err(code) => {
                    let field = Some(column.name.clone());
                    fixed.problem.get_or_insert(Problem { code, field });
                }
            }
        }
        if let Some(file) = outside.file() {
            fixed.take_of_file(dataset, file);
        }
        fixed
    }

    /// Takes the values of the columns that take them from the file.
    fn take_of_file(&mut self, dataset: &'a Dataset, file: &'a FileValues) {
        for (at, column) in dataset.columns.iter().enumerate() {
            if let (Some(FileFact::LoadedAt), Some(time)) = (column.file, file.loaded_at_us) {
                self.values[at] = Value::Timestamp(time);
            }
            let Some(text) = (column.path.as_ref()).and_then(|pattern| file.path.get(pattern))
            else {
                continue;
            };
            match of_path(column, text, &mut self.kept) {
                Ok(value) => self.values[at] = value,
                Err(_) if column.on_error == Some(OnError::Null) => {
                    let key = column.path.as_ref().expect("it has the value");
                    self.rescued.push((quoted(key), quoted(text)));
                }
                Err(code) => {
                    let field = Some(column.name.clone());
                    self.problem.get_or_insert(Problem { code, field });
                }
            }
        }
    }

    /// The value of a column from a value outside of the record.
    fn outer(
        &mut self,
        column: &Column,
        strict: bool,
        value: &'a OuterValue<'_>,
    ) -> Result<Value<'a>, RejectCode> {
        let kept = &mut self.kept;
        match value {
            OuterValue::Absent => Ok(Value::Absent),
            OuterValue::TooLarge => Err(RejectCode::TooLarge),
            OuterValue::Json(text) => {
                let json = json(text, kept)?;
                read(column, strict, json, || text, kept)
            }
            OuterValue::Index(index) => {
                let text = index.to_string();
                if let ColumnType::Text | ColumnType::Json = column.kind {
                    kept.texts.push(text);
                    return Ok(Value::Unescaped(kept.texts.len() - 1));
                }
                from_number(column, strict, &text)
            }
        }
    }

    fn rescue(&mut self, column: &Column, value: &OuterValue<'_>) {
        let text = match value {
            OuterValue::Json(text) => text.to_string(),
            OuterValue::Index(index) => index.to_string(),
            OuterValue::Absent | OuterValue::TooLarge => return,
        };
        let pointer = column.envelope.as_ref().or(column.key.as_ref());
        self.rescued
            .push((quoted(pointer.unwrap_or(&column.name)), text));
    }
}

/// The value of a column from a part of a path, which has no type of JSON.
fn of_path<'a>(column: &Column, text: &'a str, kept: &mut Kept) -> Result<Value<'a>, RejectCode> {
    read(column, false, Json::Text(text), || text, kept)
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

/// The first problem of the values that a dataset takes from the path of a file. `None` if each
/// record may become a row.
#[must_use]
pub fn path_problem(dataset: &Dataset, path: &Path, values: &PathValues) -> Option<PathProblem> {
    let mut kept = Kept::default();
    dataset.columns.iter().find_map(|column| {
        let pattern = column.path.as_ref()?;
        let found = values.get(pattern);
        let code = match found {
            None if column.required => RejectCode::MissingField,
            None => return None,
            Some(_) if column.on_error == Some(OnError::Null) => return None,
            Some(text) => of_path(column, text, &mut kept).err()?,
        };
        Some(PathProblem {
            path: path.display().to_string(),
            column: column.name.clone(),
            pattern: pattern.clone(),
            expected: column.kind.to_string(),
            found: found.map(str::to_owned),
            code,
        })
    })
}

/// Why no record of a file can become a row: a part of its path is missing, or no value of the column
/// that takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathProblem {
    path: String,
    column: String,
    pattern: String,
    /// The type of the column.
    expected: String,
    /// `None` if the path does not fit the pattern.
    found: Option<String>,
    code: RejectCode,
}

impl fmt::Display for PathProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, expected) = (self.path.escape_debug(), &self.expected);
        write!(
            f,
            "the column `{}` takes `{}` of the path, ",
            self.column, self.pattern
        )?;
        match &self.found {
            None => write!(
                f,
                "and {path} has no such part: move the file to such a path, or set `required = false`"
            ),
            Some(found) => write!(
                f,
                "and expects the type {expected}: in {path} it is `{}` ({}): correct the path, or the \
                 column",
                found.escape_debug(),
                self.code.as_str()
            ),
        }
    }
}

/// The kind of value that a text of JSON is.
fn json<'a>(text: &'a str, kept: &mut Kept) -> Result<Json<'a>, RejectCode> {
    Ok(match text.as_bytes().first() {
        Some(b'"') if !text.contains('\\') => Json::Text(&text[1..text.len() - 1]),
        Some(b'"') => {
            let text = serde_json::from_str(text).map_err(|_| RejectCode::InvalidJson)?;
            kept.texts.push(text);
            Json::Unescaped(kept.texts.len() - 1)
        }
        Some(b't') => Json::Boolean(true),
        Some(b'f') => Json::Boolean(false),
        Some(b'n') | None => Json::Null,
        Some(b'{' | b'[') => Json::Container,
        Some(_) => Json::Number,
    })
}
