//! Reads plain records straight from their text: one pass, nothing copied, no tape.
//!
//! Most records of most files are *plain*: objects whose keys have no escapes and whose values suit
//! their columns. Those become rows here. Any other record is left to simd-json and the
//! [`walk`](super::walk). They would make the same row of a plain record; a test compares both.

use std::ops::Range;

use super::columns::Columns;
use super::fields::Fields;
use super::record::{Json, Record};
use crate::cut::Layout;
use crate::dataset::Dataset;
use crate::syntax::{after, number, skip_blank, special, string};

/// Most levels of nesting in a value that is read here.
const NESTING_MAX: usize = 8;

/// A reader of the records of a chunk, one after the other.
pub(super) struct Direct<'a> {
    text: &'a str,
    layout: Layout,
    /// Where the next record begins.
    at: usize,
    record: Record<'a>,
}

impl<'a> Direct<'a> {
    pub(super) fn new(
        dataset: &'a Dataset,
        fields: &'a Fields,
        layout: Layout,
        text: &'a str,
    ) -> Self {
        Self {
            text,
            layout,
            at: 0,
            record: Record::new(dataset, fields),
        }
    }

    /// Where the next record begins; after the last, the end.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Appends the next record as a row and passes it. `None` if it is not plain: then it is still
    /// the next one.
    #[inline]
    pub(super) fn next_record(&mut self, id: u64, columns: &mut Columns) -> Option<()> {
        self.record.begin();
        let end = self.members()?;
        let next = self.separator(end)?;
        self.record.end();
        self.record.append(id, columns).ok()?;
        self.at = next;
        Some(())
    }

    /// Passes the next record, which ends at `end`, without reading it. `None` if no record can end
    /// there.
    pub(super) fn pass(&mut self, end: usize) -> Option<()> {
        self.at = self.separator(end)?;
        Some(())
    }

    /// What follows the separator after a record that ends at `end`; the end of the text has none.
    #[inline]
    fn separator(&self, end: usize) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let next = skip_blank(bytes, end);
        if next == bytes.len() {
            return Some(next);
        }
        match self.layout {
            Layout::Array if bytes[next] == b',' => Some(skip_blank(bytes, next + 1)),
            Layout::Lines if bytes[end..next].contains(&b'\n') => Some(next),
            // One record follows another on a line. An object over several lines is none: it would
            // hide one of their records, and this would make up for it.
            Layout::Lines if bytes[next] == b'{' && !bytes[self.at..end].contains(&b'\n') => {
                Some(next)
            }
            Layout::Array | Layout::Lines => None,
        }
    }

    /// Reads the members of the next record; gives the place after it.
    #[inline]
    fn members(&mut self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut at = after(bytes, self.at, b'{')?;
        at = skip_blank(bytes, at);
        if bytes.get(at) == Some(&b'}') {
            return Some(at + 1);
        }
        loop {
            let key = at;
            let (field, colon) = if let Some((at, bytes)) = self.record.expected(&bytes[key..]) {
                (Some(at), key + bytes)
            } else {
                let name = plain(bytes, key)?;
                let colon = name.end + 1;
                (self.record.field(&self.text[name]), colon)
            };
            let value = skip_blank(bytes, after(bytes, skip_blank(bytes, colon), b':')?);
            let end = if let Some(at) = field {
                let field = self.record.meet(at)?;
                if !field.inner.is_empty() {
                    return None;
                }
                let (json, end) = match self.value(value) {
                    Some(read) => read,
                    None => self.escaped(value)?,
                };
                if let Some(column) = field.column {
                    self.record.set(column, json, || &self.text[value..end]);
                }
                end
            } else {
                let end = skip(bytes, value, NESTING_MAX)?;
                let name = &self.text[key + 1..colon - 1];
                let (key, value) = (&self.text[key..colon], &self.text[value..end]);
                self.record.unknown(name, key, value);
                end
            };
            at = skip_blank(bytes, end);
            match bytes.get(at)? {
                b',' => at = skip_blank(bytes, at + 1),
                b'}' => return Some(at + 1),
                _ => return None,
            }
        }
    }

    /// Reads a value; gives the place after it.
    #[inline]
    fn value(&self, at: usize) -> Option<(Json<'a>, usize)> {
        let bytes = self.text.as_bytes();
        match bytes.get(at)? {
            b'"' => {
                let text = plain(bytes, at)?;
                let end = text.end + 1;
                Some((Json::Text(&self.text[text]), end))
            }
            b'{' | b'[' => Some((Json::Container, skip(bytes, at, NESTING_MAX)?)),
            b't' => Some((Json::Boolean(true), word(bytes, at, b"true")?)),
            b'f' => Some((Json::Boolean(false), word(bytes, at, b"false")?)),
            b'n' => Some((Json::Null, word(bytes, at, b"null")?)),
            _ => Some((Json::Number, number(bytes, at)?)),
        }
    }

    /// Reads a text that has escapes; gives the place after it.
    #[inline(never)]
    fn escaped(&mut self, at: usize) -> Option<(Json<'a>, usize)> {
        let end = string(self.text.as_bytes(), at).ok()?;
        let text = serde_json::from_str(&self.text[at..end]).ok()?;
        Some((self.record.unescaped(text), end))
    }
}

/// The place after this word, if it is here.
fn word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes[at..].starts_with(word).then_some(at + word.len())
}

/// What is in the string whose opening quote is here, if it is whole and has no escapes.
#[inline]
fn plain(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let start = after(bytes, at, b'"')?;
    let end = special(bytes, start)?;
    (bytes[end] == b'"').then_some(start..end)
}

/// The place after a value that is kept as it stands, if it is JSON.
#[inline]
fn skip(bytes: &[u8], at: usize, levels: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => skip_string(bytes, at),
        b'{' => skip_elements(bytes, at + 1, b'}', levels.checked_sub(1)?),
        b'[' => skip_elements(bytes, at + 1, b']', levels.checked_sub(1)?),
        b't' => word(bytes, at, b"true"),
        b'f' => word(bytes, at, b"false"),
        b'n' => word(bytes, at, b"null"),
        _ => number(bytes, at),
    }
}

/// The place after a container whose opening bracket has been passed.
fn skip_elements(bytes: &[u8], at: usize, close: u8, levels: usize) -> Option<usize> {
    let mut at = skip_blank(bytes, at);
    if bytes.get(at) == Some(&close) {
        return Some(at + 1);
    }
    loop {
        if close == b'}' {
            at = skip_blank(bytes, skip_string(bytes, at)?);
            at = skip_blank(bytes, after(bytes, at, b':')?);
        }
        at = skip_blank(bytes, skip(bytes, at, levels)?);
        match bytes.get(at)? {
            b',' => at = skip_blank(bytes, at + 1),
            end if *end == close => return Some(at + 1),
            _ => return None,
        }
    }
}

/// The place after a string.
#[inline]
fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    match plain(bytes, at) {
        Some(text) => Some(text.end + 1),
        None => string(bytes, at).ok(),
    }
}
