//! The walk over a record that simd-json has parsed: from its tape to values, or a problem.
//!
//! The tape holds values and keys in order. simd-json's structural indexes hold the place of each
//! bracket, colon, comma, string and scalar in the text; this module calls them *marks*. Each node
//! of the tape has a known number of marks, so the walk follows both in step and finds the text of
//! any value without a search. Strings come unescaped from the tape. Numbers, JSON columns and
//! rescued fields are slices of the record's text.

use std::ops::Range;

use simd_json::{Node, StaticNode};

use super::columns::Columns;
use super::fields::{Field, Fields};
use super::fixed::{Fixed, Problem};
use super::record::Record;
use super::value::Json;
use crate::batch::RejectCode;
use crate::dataset::Dataset;

/// A record, parsed as the only element of an array.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    nodes: &'a [Node<'a>],
    /// Places in the parsed text, which has one byte, `[`, before the record.
    marks: &'a [u32],
    /// The record's text in the file.
    source: &'a [u8],
}

/// A value: its node on the tape, and its first mark.
#[derive(Clone, Copy)]
struct At {
    node: usize,
    mark: usize,
}

impl<'a> Document<'a> {
    /// `nodes` and `marks` are the tape and the structural indexes of `source` in brackets.
    pub(super) fn new(nodes: &'a [Node<'a>], marks: &'a [u32], source: &'a [u8]) -> Self {
        Self {
            nodes,
            marks,
            source,
        }
    }

    /// How many values the record's text holds. A good record is one value.
    pub(super) fn records(&self) -> usize {
        match self.nodes.first() {
            Some(Node::Array { len, .. }) => *len,
            _ => 0,
        }
    }

    /// The node after a value, and the mark after it: a comma or a bracket.
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

    /// The place of a mark in the record's text. The mark of the array's closing bracket is the
    /// end.
    #[inline]
    fn place(&self, mark: usize) -> usize {
        self.marks[mark] as usize - 1
    }

    /// The place of a value's text. `after` is the mark after the value.
    fn range(&self, value: At, after: At) -> Range<usize> {
        let start = self.place(value.mark);
        if let Node::Object { .. } | Node::Array { .. } = self.nodes[value.node] {
            return start..self.place(after.mark - 1) + 1;
        }
        let text = &self.source[start..self.place(after.mark)];
        start..start + text.trim_ascii_end().len()
    }

    fn text(&self, range: Range<usize>) -> &'a str {
        // Checked a second time because the source is bytes. The text is short and mostly ASCII.
        std::str::from_utf8(&self.source[range]).expect("simd-json took the text as UTF-8")
    }

    /// The value to which the segments of a pointer lead from `at`. `None` if they lead to none.
    fn descend(&self, mut at: At, path: &[String]) -> Result<Option<At>, Repeated> {
        for segment in path {
            match self.child(at, segment)? {
                Some(child) => at = child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Whether a value holds a scalar or an empty container outside of the values at the nodes
    /// `taken`. Also returns the node after it. Recurses by levels, which have a limit.
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

    /// The member of an object, or the element of an array, to which a segment of a pointer leads.
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

/// How many marks a node has, without those of nodes in it. A scalar or a key has one. A container
/// has its brackets, the commas between its elements and, if it is an object, the colons.
#[inline]
fn marks_of(node: &Node<'_>) -> usize {
    match *node {
        Node::String(_) | Node::Static(_) => 1,
        Node::Array { len, .. } => 2 + len.saturating_sub(1),
        Node::Object { len, .. } => 2 + len + len.saturating_sub(1),
    }
}

/// What is left of a value after columns took parts of it.
enum Inner {
    /// Nothing.
    AllTaken,
    /// A part that no column takes.
    SomeLeft,
    /// A part that its column does not accept.
    NotAccepted,
}

/// Walks over the record of a document.
pub(super) struct Walker<'a> {
    document: Document<'a>,
    fields: &'a Fields,
    record: Record<'a>,
    /// For each column: which of its pointers is taken.
    chosen: Vec<usize>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        dataset: &'a Dataset,
        fields: &'a Fields,
        fixed: &'a Fixed<'a>,
        document: Document<'a>,
    ) -> Self {
        Self {
            document,
            fields,
            chosen: vec![0; fields.columns_with_several()],
            record: Record::new(dataset, fields, fixed),
        }
    }

    /// Appends the record to the columns, or returns the problem that makes it a reject.
    pub(super) fn record(&mut self, id: u64, columns: &mut Columns) -> Option<Problem> {
        let at = At { node: 1, mark: 1 };
        match self.document.nodes[at.node] {
            Node::Object { len, .. } => {
                self.choose(at);
                self.members(at, len);
            }
            Node::Array { len, .. } if self.record.dataset.is_by_position() => {
                self.choose(at);
                self.elements(at, len);
            }
            _ => return Some(Problem::of_record(RejectCode::NotAnObject)),
        }
        self.record.append(id, columns).err()
    }

    /// Chooses the pointer of each column that has several: the first that leads to a value other
    /// than null.
    fn choose(&mut self, record: At) {
        for (column, paths) in self.fields.several() {
            let leads = |path: &Vec<String>| match self.document.descend(record, path) {
                Ok(Some(at)) => self.document.nodes[at.node] != Node::Static(StaticNode::Null),
                Ok(None) => false,
                // Taken, so that the record is a reject.
                Err(Repeated) => true,
            };
            self.chosen[column] = paths.iter().position(leads).unwrap_or(0);
        }
    }

    /// Whether a column takes its value by the pointer with this rank.
    #[inline]
    fn is_chosen(&self, column: usize, rank: usize) -> bool {
        self.chosen.get(column).is_none_or(|chosen| *chosen == rank)
    }

    /// Walks the members of a record.
    fn members(&mut self, record: At, len: usize) {
        self.record.begin();
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
            if let Some(at) = self.record.field(name) {
                if let Some(field) = self.record.first_time(at) {
                    self.known(field, Some(key), value, after);
                }
            } else {
                self.unknown(name, key, value, after);
            }
            key = At {
                node: after.node,
                mark: after.mark + 1,
            };
        }
        self.record.end();
    }

    /// Walks the elements of a record that is an array.
    fn elements(&mut self, record: At, len: usize) {
        self.record.begin();
        let mut value = At {
            node: record.node + 1,
            mark: record.mark + 1,
        };
        for index in 0..len {
            let after = self.document.after(value);
            if let Some(field) = self.fields.at_index(index) {
                self.known(field, None, value, after);
            } else {
                let text = self.document.text(self.document.range(value, after));
                self.record.unknown_element(index, text);
            }
            value = At {
                node: after.node,
                mark: after.mark + 1,
            };
        }
        self.record.end();
    }

    /// Stores the value of a field. `key` is the member's key, `None` if the record is an array.
    #[inline]
    fn known(&mut self, field: &'a Field, key: Option<At>, value: At, after: At) {
        let taken = field
            .column
            .filter(|column| self.is_chosen(*column, field.rank));
        let accepted = taken.map(|column| self.store(column, value, after));
        let is_null = || self.document.nodes[value.node] == Node::Static(StaticNode::Null);
        let inner = if field.inner.is_empty() {
            // Another field of the column is taken.
            if field.column.is_some() && taken.is_none() && !is_null() {
                Inner::SomeLeft
            } else {
                Inner::AllTaken
            }
        } else {
            self.inner(field, value)
        };
        match (accepted, inner) {
            (Some(true), _) | (None, Inner::AllTaken) => {}
            (Some(false), _) | (None, Inner::NotAccepted) => {
                let (key, value) = self.field_texts(field, key, value, after);
                self.record.rescue(&field.key, key, value);
            }
            (None, Inner::SomeLeft) => {
                let (key, value) = self.field_texts(field, key, value, after);
                self.record.unknown(&field.key, key, value);
            }
        }
    }

    /// Fills the columns that take a part of a value, and returns whether a part is left that no
    /// column takes. Then the whole member is kept in the rescue column.
    fn inner(&mut self, field: &'a Field, value: At) -> Inner {
        let mut taken = Vec::with_capacity(field.inner.len());
        let mut all_accepted = true;
        for inner in &field.inner {
            if !self.is_chosen(inner.column, inner.rank) {
                continue;
            }
            match self.document.descend(value, &inner.path) {
                Ok(Some(at)) => {
                    taken.push(at.node);
                    all_accepted &= self.store(inner.column, at, self.document.after(at));
                }
                Ok(None) => {}
                Err(Repeated) => {
                    let name = &self.record.dataset.columns[inner.column].name;
                    self.record.problem(RejectCode::DuplicateField, name);
                }
            }
        }
        let is_null = self.document.nodes[value.node] == Node::Static(StaticNode::Null);
        if !all_accepted {
            Inner::NotAccepted
        } else if !is_null && self.document.leaves_any(value.node, &taken).0 {
            Inner::SomeLeft
        } else {
            Inner::AllTaken
        }
    }

    /// Sets the value of a column. Returns whether the column accepts it.
    #[inline]
    fn store(&mut self, column: usize, value: At, after: At) -> bool {
        let document = self.document;
        let json = match document.nodes[value.node] {
            Node::String(text) => Json::Text(text),
            Node::Static(StaticNode::Null) => Json::Null,
            Node::Static(StaticNode::Bool(truth)) => Json::Boolean(truth),
            // The number is read from its text: the tape may hold a zero in its place.
            Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_)) => {
                Json::Number
            }
            Node::Object { .. } | Node::Array { .. } => Json::Container,
        };
        let raw = || document.text(document.range(value, after));
        self.record.set(column, json, raw)
    }

    #[cold]
    fn unknown(&mut self, name: &'a str, key: At, value: At, after: At) {
        let (key, value) = self.texts(key, value, after);
        self.record.unknown(name, key, value);
    }

    /// The texts of a field's key and value. An element of an array has its index as the key.
    #[cold]
    fn field_texts(
        &self,
        field: &'a Field,
        key: Option<At>,
        value: At,
        after: At,
    ) -> (&'a str, &'a str) {
        if let Some(key) = key {
            return self.texts(key, value, after);
        }
        let document = self.document;
        let key = field.quoted.as_deref().unwrap_or_default();
        (key, document.text(document.range(value, after)))
    }

    /// The texts of a member's key and value in the file.
    fn texts(&self, key: At, value: At, after: At) -> (&'a str, &'a str) {
        let document = self.document;
        let colon = At {
            node: value.node,
            mark: key.mark + 1,
        };
        let key = document.text(document.range(key, colon));
        (key, document.text(document.range(value, after)))
    }
}
