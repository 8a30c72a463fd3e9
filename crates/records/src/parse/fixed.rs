//! The values of a record that are not in its text: constants, and values outside of the record.

use super::value::{Json, Kept, Value, default, from_number, read};
use crate::batch::RejectCode;
use crate::cut::{OuterValue, Outside};
use crate::dataset::{Column, ColumnType, Dataset, OnError, Outer};

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
        fixed
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
        let key = serde_json::to_string(
            column
                .envelope
                .as_ref()
                .or(column.key.as_ref())
                .unwrap_or(&column.name),
        )
        .expect("a text is JSON");
        self.rescued.push((key, text));
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
