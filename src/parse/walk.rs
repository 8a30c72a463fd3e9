//! The walk over parsed records: from simd-json's tape to values, or a problem.
//!
//! The tape holds values and keys in order; simd-json's structural indexes hold the place of every
//! bracket, colon, comma, string and scalar in the text. Each node of the tape has a
//! known number of those *marks*, so both are walked in step, and the source text of any value
//! is at hand without looking for it. Strings are read from the tape (unescaped); numbers in
//! text columns, JSON columns and rescued fields are slices of the source.
//!
//! Knows one record at a time, and nothing of chunks.

use std::mem;
use std::ops::Range;

use simd_json::{Node, StaticNode};

use super::Problem;
use super::columns::{Columns, Value};
use super::fields::{Field, Fields};
use crate::batch::RejectCode;
use crate::dataset::{Column, ColumnType, Dataset, OnUnknownField};
use crate::timestamp;

/// Most characters of a field's name in a reject.
const FIELD_CHARS_MAX: usize = 255;

/// A parsed array of records, beside its source.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    nodes: &'a [Node<'a>],
    /// Places in the parsed text, which has one byte, `[`, before the source.
    marks: &'a [u32],
    source: &'a [u8],
}

/// A value: its node on the tape, and its (first) mark.
#[derive(Clone, Copy)]
struct At {
    node: usize,
    mark: usize,
}

impl<'a> Document<'a> {
    /// The records of `source`, parsed in brackets into a tape and structural indexes.
    pub(super) fn new(nodes: &'a [Node<'a>], marks: &'a [u32], source: &'a [u8]) -> Self {
        Self {
            nodes,
            marks,
            source,
        }
    }

    /// How many records there are.
    pub(super) fn records(&self) -> usize {
        match self.nodes.first() {
            Some(Node::Array { len, .. }) => *len,
            _ => 0,
        }
    }

    /// What follows a value: the next node, and the comma or bracket.
    #[inline]
    fn after(&self, value: At) -> At {
        match self.nodes[value.node] {
            Node::String(_) | Node::Static(_) => At {
                node: value.node + 1,
                mark: value.mark + 1,
            },
            Node::Array { count, .. } | Node::Object { count, .. } => {
                let node = value.node + count + 1;
                let marks = self.nodes[value.node..node].iter().map(marks_of);
                At {
                    node,
                    mark: value.mark + marks.sum::<usize>(),
                }
            }
        }
    }

    /// Where a mark is in the source; the bracket after the last record is its end.
    #[inline]
    fn place(&self, mark: usize) -> usize {
        self.marks[mark] as usize - 1
    }

    /// Where the text of a value is, up to what follows it.
    fn range(&self, value: At, after: At) -> Range<usize> {
        let start = self.place(value.mark);
        if let Node::Object { .. } | Node::Array { .. } = self.nodes[value.node] {
            return start..self.place(after.mark - 1) + 1;
        }
        let text = &self.source[start..self.place(after.mark)];
        start..start + text.trim_ascii_end().len()
    }

    fn text(&self, range: Range<usize>) -> &'a str {
        // Checked again because the source is bytes; it is short and mostly ASCII.
        std::str::from_utf8(&self.source[range]).expect("simd-json took the text as UTF-8")
    }

    /// The value to which the segments of a pointer lead.
    fn descend(&self, mut at: At, path: &[String]) -> Result<Option<At>, Repeated> {
        for segment in path {
            match self.child(at, segment)? {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Whether a value holds a scalar, or an empty container, outside of the values at the nodes
    /// `taken`; and the node after it. It recurses by nesting, which has a limit.
    fn leaves_any(&self, node: usize, taken: &[usize]) -> (bool, usize) {
        let is_taken = taken.contains(&node);
        let (children, per_child) = match self.nodes[node] {
            Node::String(_) | Node::Static(_) => return (!is_taken, node + 1),
            Node::Array { len, count } | Node::Object { len, count } if len == 0 || is_taken => {
                return (!is_taken, node + count + 1);
            }
            Node::Array { len, .. } => (len, 0),
            Node::Object { len, .. } => (len, 1),
        };
        let (mut any, mut next) = (false, node + 1);
        for _ in 0..children {
            let (leaves, after) = self.leaves_any(next + per_child, taken);
            any |= leaves;
            next = after;
        }
        (any, next)
    }

    /// The member of an object, or element of an array, that a segment of a pointer names.
    fn child(&self, parent: At, segment: &str) -> Result<Option<At>, Repeated> {
        let first = At {
            node: parent.node + 1,
            mark: parent.mark + 1,
        };
        match self.nodes[parent.node] {
            Node::Object { len, .. } => {
                let mut found = None;
                let mut key = first;
                for _ in 0..len {
                    let value = At {
                        node: key.node + 1,
                        mark: key.mark + 2,
                    };
                    if self.nodes[key.node] == Node::String(segment)
                        && found.replace(value).is_some()
                    {
                        return Err(Repeated);
                    }
                    let after = self.after(value);
                    key = At {
                        node: after.node,
                        mark: after.mark + 1,
                    };
                }
                Ok(found)
            }
            Node::Array { len, .. } => {
                let canonical = segment == "0" || !segment.starts_with(['0', '+']);
                let index = segment
                    .parse::<usize>()
                    .ok()
                    .filter(|at| canonical && *at < len);
                Ok(index.map(|index| {
                    (0..index).fold(first, |element, _| {
                        let after = self.after(element);
                        At {
                            node: after.node,
                            mark: after.mark + 1,
                        }
                    })
                }))
            }
            Node::String(_) | Node::Static(_) => Ok(None),
        }
    }
}

/// A key that an object has twice.
struct Repeated;

/// How many marks a node has itself: a scalar or key one; a container its brackets, the
/// commas between its elements, and for an object the colons.
#[inline]
fn marks_of(node: &Node<'_>) -> usize {
    match *node {
        Node::String(_) | Node::Static(_) => 1,
        Node::Array { len, .. } => 2 + len.saturating_sub(1),
        Node::Object { len, .. } => 2 + len + len.saturating_sub(1),
    }
}

/// What the walk says of a record that it has passed.
pub(super) struct Passed {
    /// Where it is in the source.
    pub(super) record: Range<usize>,
    /// Where the comma after it is in the source; after the last record, the end.
    pub(super) separator: usize,
    /// Why it is no row; a row has been appended if it is one.
    pub(super) problem: Option<Problem>,
}

/// Walks over the records of a document.
pub(super) struct Walker<'a> {
    dataset: &'a Dataset,
    fields: &'a Fields,
    document: Document<'a>,
    /// The next record.
    next: At,
    /// The current record: a value for each column,
    values: Vec<Value<'a>>,
    /// which of the fields have been there,
    seen: Vec<bool>,
    /// the names of unknown fields that are kept,
    unknown: Vec<&'a str>,
    /// the text of those, an object that is still open,
    rescued: String,
    /// and what is wrong, the first thing of it.
    problem: Option<Problem>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(dataset: &'a Dataset, fields: &'a Fields, document: Document<'a>) -> Self {
        Self {
            dataset,
            fields,
            document,
            next: At { node: 1, mark: 1 },
            values: vec![Value::Absent; dataset.columns.len()],
            seen: vec![false; fields.len()],
            unknown: Vec::new(),
            rescued: String::new(),
            problem: None,
        }
    }

    /// Passes the next record and appends it to the columns if it is a row. `None` after the last.
    #[inline]
    pub(super) fn next_record(&mut self, id: u64, columns: &mut Columns) -> Option<Passed> {
        let record = self.next;
        if record.node >= self.document.nodes.len() {
            return None;
        }
        let after = if let Node::Object { len, .. } = self.document.nodes[record.node] {
            self.members(record, len)
        } else {
            self.problem = Some(Problem {
                code: RejectCode::NotAnObject,
                field: None,
            });
            self.document.after(record)
        };
        let problem = self.problem.take();
        if problem.is_none() {
            let rescued = (!self.rescued.is_empty()).then_some(self.rescued.as_str());
            columns.push(id, &self.values, rescued);
        }
        self.next = At {
            node: after.node,
            mark: after.mark + 1,
        };
        Some(Passed {
            record: self.document.range(record, after),
            separator: self.document.place(after.mark),
            problem,
        })
    }

    /// Walks the members of a record; gives what follows it.
    #[inline]
    fn members(&mut self, record: At, len: usize) -> At {
        self.values.fill(Value::Absent);
        self.seen.fill(false);
        self.rescued.clear();
        let mut expected = 0;
        let mut key = At {
            node: record.node + 1,
            mark: record.mark + 1,
        };
        for _ in 0..len {
            let value = At {
                node: key.node + 1,
                mark: key.mark + 2,
            };
            let after = self.document.after(value);
            let Node::String(name) = self.document.nodes[key.node] else {
                unreachable!("the tape has a key before each value of an object");
            };
            let fields = self.fields;
            if let Some(at) = fields.find(name, expected) {
                expected = at + 1;
                let repeated = mem::replace(&mut self.seen[at], true);
                self.known(fields.get(at), key, value, after, repeated);
            } else {
                self.unknown(name, key, value, after);
            }
            key = At {
                node: after.node,
                mark: after.mark + 1,
            };
        }
        self.end_unknown();
        self.fill_absent();
        // Each member's end passed one mark more, the comma or the brace; an empty object has none.
        At {
            node: key.node,
            mark: key.mark + usize::from(len == 0),
        }
    }

    #[inline]
    fn known(&mut self, field: &'a Field, key: At, value: At, after: At, repeated: bool) {
        if repeated {
            let column = field
                .column
                .map(|at| self.dataset.columns[at].name.as_str());
            self.problem(RejectCode::DuplicateField, column.unwrap_or(&field.key));
            return;
        }
        if let Some(column) = field.column {
            self.store(column, value, after);
        }
        if !field.inner.is_empty() {
            self.inner(field, key, value, after);
        }
    }

    /// Columns that are filled from within a value. Where that leaves something of it, the whole
    /// member is treated as an unknown field: what no column takes is not lost.
    fn inner(&mut self, field: &'a Field, key: At, value: At, after: At) {
        let mut taken = Vec::with_capacity(field.inner.len());
        for inner in &field.inner {
            match self.document.descend(value, &inner.path) {
                Ok(Some(at)) => {
                    taken.push(at.node);
                    self.store(inner.column, at, self.document.after(at));
                }
                Ok(None) => {}
                Err(Repeated) => {
                    let name = &self.dataset.columns[inner.column].name;
                    self.problem(RejectCode::DuplicateField, name);
                }
            }
        }
        let is_null = self.document.nodes[value.node] == Node::Static(StaticNode::Null);
        if field.column.is_none() && !is_null && self.document.leaves_any(value.node, &taken).0 {
            self.unknown(&field.key, key, value, after);
        }
    }

    /// Puts a value into its column's place.
    #[inline]
    fn store(&mut self, at: usize, value: At, after: At) {
        let column = &self.dataset.columns[at];
        let node = self.document.nodes[value.node];
        // Most values are short texts: a branch of its own is predicted, a jump table is not.
        if let (ColumnType::Text, Node::String(text)) = (column.kind, node)
            && text.len() <= column.max_chars as usize
        {
            self.values[at] = Value::Text(text);
            return;
        }
        match self.read(column, value, after) {
            Ok(value) => self.values[at] = value,
            Err(code) => self.problem(code, &column.name),
        }
    }

    /// What a column makes of a value.
    fn read(&self, column: &Column, value: At, after: At) -> Result<Value<'a>, RejectCode> {
        use StaticNode::{Bool, F64, I64, Null, U64};
        let raw = || self.document.text(self.document.range(value, after));
        let node = self.document.nodes[value.node];
        match (column.kind, node) {
            (_, Node::Static(Null)) => Ok(Value::Absent),
            (ColumnType::Text, Node::String(text)) => fitting(text, column.max_chars),
            (ColumnType::Text, Node::Static(_)) => fitting(raw(), column.max_chars),
            (ColumnType::Json, _) => Ok(Value::Json(
                &self.document.source[self.document.range(value, after)],
            )),
            (ColumnType::Timestamp, Node::String(text)) => timestamp::parse(text)
                .map(Value::Timestamp)
                .ok_or(RejectCode::InvalidTimestamp),
            (ColumnType::Timestamp, Node::Static(I64(_) | U64(_) | F64(_))) => {
                let unit = column.epoch.ok_or(RejectCode::WrongType)?;
                let micros = timestamp::from_epoch(raw(), unit);
                micros
                    .map(Value::Timestamp)
                    .ok_or(RejectCode::InvalidTimestamp)
            }
            (ColumnType::Integer, Node::Static(I64(number))) => Ok(Value::Integer(number)),
            (ColumnType::Integer, Node::Static(U64(number))) => i64::try_from(number)
                .map(Value::Integer)
                .map_err(|_| RejectCode::NumberRange),
            (ColumnType::Float, Node::Static(F64(number))) => Ok(Value::Float(number)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "the nearest float is what JSON means"
            )]
            (ColumnType::Float, Node::Static(I64(number))) => Ok(Value::Float(number as f64)),
            #[expect(
                clippy::cast_precision_loss,
                reason = "the nearest float is what JSON means"
            )]
            (ColumnType::Float, Node::Static(U64(number))) => Ok(Value::Float(number as f64)),
            (ColumnType::Boolean, Node::Static(Bool(truth))) => Ok(Value::Boolean(truth)),
            _ => Err(RejectCode::WrongType),
        }
    }

    #[cold]
    fn unknown(&mut self, name: &'a str, key: At, value: At, after: At) {
        match self.dataset.on_unknown_field {
            OnUnknownField::Ignore => {}
            OnUnknownField::Reject => self.problem(RejectCode::UnknownField, name),
            OnUnknownField::Rescue => {
                let document = self.document;
                let colon = At {
                    node: value.node,
                    mark: key.mark + 1,
                };
                self.rescued
                    .push(if self.unknown.is_empty() { '{' } else { ',' });
                self.rescued
                    .push_str(document.text(document.range(key, colon)));
                self.rescued.push(':');
                self.rescued
                    .push_str(document.text(document.range(value, after)));
                self.unknown.push(name);
            }
        }
    }

    /// Ends the rescued object. Sorted, so that a record of a million names costs no minutes.
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
        names.clear();
        self.unknown = names;
    }

    /// What becomes of columns without a value.
    #[inline]
    fn fill_absent(&mut self) {
        for (at, column) in self.dataset.columns.iter().enumerate() {
            if matches!(self.values[at], Value::Absent) {
                if column.required {
                    self.problem(RejectCode::MissingField, &column.name);
                } else if let Some(default) = &column.default {
                    self.values[at] = Value::Json(default.as_bytes());
                }
            }
        }
    }

    #[cold]
    fn problem(&mut self, code: RejectCode, field: &str) {
        self.problem.get_or_insert_with(|| Problem {
            code,
            field: Some(field.chars().take(FIELD_CHARS_MAX).collect()),
        });
    }
}

/// A text, if it is short enough: characters are counted only if its bytes are too many.
#[inline]
fn fitting(text: &str, chars_max: u32) -> Result<Value<'_>, RejectCode> {
    let chars_max = chars_max as usize;
    if text.len() > chars_max && text.chars().count() > chars_max {
        return Err(RejectCode::TextTooLong);
    }
    Ok(Value::Text(text))
}
