//! Reads plain records directly from their text: one pass, no copies, no tape.
//!
//! Most records of most files are *plain*: objects whose keys have no escapes and whose values fit
//! their columns. This module makes rows of them. simd-json and the [`walk`](super::walk) read all
//! other records. A test checks that both routes make the same row of a plain record.

use std::ops::Range;

use super::columns::Columns;
use super::fields::Fields;
use super::fixed::Fixed;
use super::record::Record;
use super::value::Json;
use crate::cut::{Layout, skip_separators};
use crate::dataset::Dataset;
use crate::syntax::{after, number, skip_blank, special, string};

/// Most levels of nesting in a value of a plain record. Bounds the recursion of [`skip`].
const NESTING_MAX: usize = 8;

/// A reader of the records of a chunk, one after the other.
pub(super) struct Direct<'a> {
    text: &'a str,
    layout: Layout,
    /// The place of the next record.
    at: usize,
    record: Record<'a>,
}

impl<'a> Direct<'a> {
    pub(super) fn new(
        dataset: &'a Dataset,
        fields: &'a Fields,
        fixed: &'a Fixed<'a>,
        layout: Layout,
        text: &'a str,
    ) -> Self {
        Self {
            text,
            layout,
            at: 0,
            record: Record::new(dataset, fields, fixed),
        }
    }

    /// The place of the next record. After the last record: the end of the text.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Makes the record at `place` the next one.
    pub(super) fn go_to(&mut self, place: usize) {
        self.at = place;
    }

    /// Appends the next record as a row and passes it. `None` if the record is not plain: then it
    /// is not passed.
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

    /// The place after the separator that follows a record. `end` is the end of that record. The
    /// last record needs no separator. `None` if anything else follows.
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
            // Two records on one line. Not after an object over several lines, each of which is a
            // record of its own: the counts would agree again, and the mistake stay unnoticed.
            Layout::Lines if bytes[next] == b'{' && !bytes[self.at..end].contains(&b'\n') => {
                Some(next)
            }
            Layout::Values => Some(skip_separators(bytes, next)),
            // The caller knows the places of the records.
            Layout::Sequence | Layout::Elements(_) | Layout::Members(_) => Some(end),
            Layout::Array | Layout::Lines => None,
        }
    }

    /// Reads the members of the next record. Returns the place after the record.
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
                let field = self.record.first_time(at)?;
                if !field.is_plain {
                    return None;
                }
                let (json, end) = match self.value(value) {
                    Some(read) => read,
                    None => self.escaped(value)?,
                };
                if let Some(column) = field.column
                    && !self.record.set(column, json, || &self.text[value..end])
                {
                    let (key, value) = (&self.text[key..colon], &self.text[value..end]);
                    self.record.rescue(&field.key, key, value);
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

    /// Reads a value, except a text that has escapes. Returns it and the place after it.
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

    /// Reads a text that has escapes. Returns it and the place after it.
    #[inline(never)]
    fn escaped(&mut self, at: usize) -> Option<(Json<'a>, usize)> {
        let end = string(self.text.as_bytes(), at).ok()?;
        let text = serde_json::from_str(&self.text[at..end]).ok()?;
        Some((self.record.unescaped(text), end))
    }
}

/// The place after `word`. `None` if it is not at `at`.
fn word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes[at..].starts_with(word).then_some(at + word.len())
}

/// The place of the text of a string, without its quotes. `None` if no string begins at `at`, or if
/// it has escapes or does not end.
#[inline]
fn plain(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let start = after(bytes, at, b'"')?;
    let end = special(bytes, start)?;
    (bytes[end] == b'"').then_some(start..end)
}

/// The place after a value that is stored as its text. `None` if it is not JSON, or nests deeper
/// than `levels`.
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

/// The place after a container. `at` is the place after its opening bracket.
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

/// The place after a string, which may have escapes.
#[inline]
fn skip_string(bytes: &[u8], at: usize) -> Option<usize> {
    match plain(bytes, at) {
        Some(text) => Some(text.end + 1),
        None => string(bytes, at).ok(),
    }
}
