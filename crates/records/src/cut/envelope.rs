//! The walk through a document to the arrays of records in it.
//!
//! Everything outside of those arrays must be JSON in UTF-8, which is checked here. The content of
//! the arrays is checked in [`array`](super::array).

use super::array::array;
use super::chunker::Chunker;
use super::plan::{ChunkLimits, Unreadable, found_here, incomplete, malformed};
use crate::dataset::segments;
use crate::syntax::{self, Stop, skip_blank};

/// An array of records that the walk searches.
pub(super) struct Target<'a> {
    /// The JSON pointer to the array, for messages.
    pub(super) pointer: &'a str,
    /// The segments of the pointer.
    pub(super) path: Vec<String>,
    /// The place of the array's `[`, once the walk has reached it.
    pub(super) open: Option<usize>,
    /// The records and the place after the array's `]`, once the walk has passed it.
    pub(super) found: Option<(Chunker<'a>, usize)>,
    /// The place of a value at the pointer that is not an array.
    pub(super) other: Option<usize>,
}

impl<'a> Target<'a> {
    pub(super) fn new(pointer: &'a str) -> Self {
        Self {
            pointer,
            path: segments(pointer).collect(),
            open: None,
            found: None,
            other: None,
        }
    }

    /// Whether a text holds the last key of the pointer, in quotes. Compares bytes, since the text
    /// is not JSON.
    pub(super) fn is_named_in(&self, text: &[u8]) -> bool {
        self.path.last().is_some_and(|key| names(text, key))
    }
}

/// Whether a text holds `key` in quotes. Compares bytes, since the text is not JSON.
pub(super) fn names(text: &[u8], key: &str) -> bool {
    let quoted = format!("\"{key}\"");
    text.windows(quoted.len())
        .any(|part| part == quoted.as_bytes())
}

/// The walk through one document.
pub(super) struct Envelope<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) limits: ChunkLimits,
    /// First the array of the file's own dataset, if it has a pointer, then those of other
    /// datasets.
    pub(super) targets: Vec<Target<'a>>,
    /// The keys that a record of the file's own dataset can have.
    pub(super) fields: &'a [String],
    /// Whether the document itself has one of these keys.
    pub(super) has_field: bool,
    /// Which of these keys the document itself has. Empty if only `has_field` is asked.
    pub(super) seen: Vec<bool>,
}

impl Envelope<'_> {
    /// Walks the document whose `{` is at `open`. Returns the place after its `}`.
    pub(super) fn walk(&mut self, open: usize) -> Result<usize, Unreadable> {
        let targets: Vec<usize> = (0..self.targets.len()).collect();
        let end = self.object(open, 0, &targets)?;
        self.check_text(open, end)?;
        Ok(end)
    }

    /// Walks the object at `open`. The first `level` segments of the targets in `on_path` lead to
    /// it. Recursive, to the depth of the longest pointer.
    fn object(
        &mut self,
        open: usize,
        level: usize,
        on_path: &[usize],
    ) -> Result<usize, Unreadable> {
        let bytes = self.bytes;
        let mut at = skip_blank(bytes, open + 1);
        if bytes.get(at) == Some(&b'}') {
            return Ok(at + 1);
        }
        loop {
            let end = syntax::string(bytes, at).map_err(|stop| self.broken(stop))?;
            let key = &bytes[at + 1..end - 1];
            if level == 0 && (!self.has_field || !self.seen.is_empty()) {
                self.note_field(key);
            }
            let colon = skip_blank(bytes, end);
            self.expect(colon, b':', "`:` after a key")?;
            let leads = |target: &&usize| key_is(key, &self.targets[**target].path[level]);
            let next: Vec<usize> = on_path.iter().filter(leads).copied().collect();
            let end = self.value(skip_blank(bytes, colon + 1), level + 1, &next)?;
            at = skip_blank(bytes, end);
            if bytes.get(at) == Some(&b'}') {
                return Ok(at + 1);
            }
            self.expect(at, b',', "`,` or `}` after a member")?;
            at = skip_blank(bytes, at + 1);
        }
    }

    /// Notes a key of the document itself.
    fn note_field(&mut self, key: &[u8]) {
        for (at, _) in (self.fields.iter().enumerate()).filter(|(_, field)| key_is(key, field)) {
            self.has_field = true;
            if let Some(seen) = self.seen.get_mut(at) {
                *seen = true;
            }
        }
    }

    /// Walks the elements of the array at `open`, as [`object`](Self::object) walks members.
    fn elements(
        &mut self,
        open: usize,
        level: usize,
        on_path: &[usize],
    ) -> Result<usize, Unreadable> {
        let bytes = self.bytes;
        let mut at = skip_blank(bytes, open + 1);
        if bytes.get(at) == Some(&b']') {
            return Ok(at + 1);
        }
        for index in 0_usize.. {
            let leads = |target: &&usize| self.targets[**target].path[level] == index.to_string();
            let next: Vec<usize> = on_path.iter().filter(leads).copied().collect();
            let end = self.value(at, level + 1, &next)?;
            at = skip_blank(bytes, end);
            if bytes.get(at) == Some(&b']') {
                break;
            }
            self.expect(at, b',', "`,` or `]` after an element")?;
            at = skip_blank(bytes, at + 1);
        }
        Ok(at + 1)
    }

    /// Walks the value at `at`. The first `level` segments of the targets in `on_path` lead to it.
    fn value(&mut self, at: usize, level: usize, on_path: &[usize]) -> Result<usize, Unreadable> {
        let bytes = self.bytes;
        let (ends, further): (Vec<usize>, Vec<usize>) =
            (on_path.iter()).partition(|target| self.targets[**target].path.len() == level);
        match (bytes.get(at), ends.first(), further.is_empty()) {
            // If two datasets have the same pointer, the records belong to the first.
            (Some(b'['), Some(&target), _) => self.records(at, target),
            (Some(b'{'), _, false) => {
                self.leads_elsewhere(at, &ends);
                self.object(at, level, &further)
            }
            (Some(b'['), None, false) => self.elements(at, level, &further),
            _ => {
                self.leads_elsewhere(at, &ends);
                syntax::value(bytes, at).map_err(|stop| self.broken(stop))
            }
        }
    }

    /// Finds the records of the array at `open`. Returns the place after the array.
    fn records(&mut self, open: usize, target: usize) -> Result<usize, Unreadable> {
        let (bytes, limits) = (self.bytes, self.limits);
        let target = &mut self.targets[target];
        if target.open.is_some() {
            let detail = format!("`{}` is in the document a second time", target.pointer);
            return Err(malformed(open, detail));
        }
        target.open = Some(open);
        let (chunker, end) = array(bytes, open, limits)?;
        target.found = Some((chunker, end));
        Ok(end)
    }

    fn leads_elsewhere(&mut self, at: usize, targets: &[usize]) {
        for target in targets {
            self.targets[*target].other = Some(at);
        }
    }

    fn expect(&self, at: usize, byte: u8, expected: &str) -> Result<(), Unreadable> {
        match self.bytes.get(at) {
            Some(found) if *found == byte => Ok(()),
            Some(_) => {
                let found = found_here(self.bytes, at);
                Err(malformed(at, format!("expected {expected}, found {found}")))
            }
            None => Err(self.broken(Stop::End)),
        }
    }

    fn broken(&self, stop: Stop) -> Unreadable {
        match stop {
            Stop::End => incomplete(self.bytes, "the document does not close"),
            Stop::At(at) => {
                let found = found_here(self.bytes, at);
                malformed(
                    at,
                    format!("not JSON outside of the records: found {found}"),
                )
            }
        }
    }

    /// Checks that everything outside of the arrays of records is UTF-8.
    fn check_text(&self, start: usize, end: usize) -> Result<(), Unreadable> {
        let arrays = self.targets.iter().filter_map(|target| {
            let (_, end) = target.found.as_ref()?;
            Some((target.open?, *end))
        });
        let mut arrays: Vec<(usize, usize)> = arrays.collect();
        arrays.sort_unstable();
        arrays.push((end, end));
        let mut at = start;
        for (open, end) in arrays {
            if let Err(error) = simdutf8::compat::from_utf8(&self.bytes[at..open]) {
                let place = at + error.valid_up_to();
                return Err(malformed(
                    place,
                    "not UTF-8 outside of the records".to_owned(),
                ));
            }
            at = end;
        }
        Ok(())
    }
}

/// Whether a key is `key`. `raw` is its text between the quotes, which may have escapes.
pub(super) fn key_is(raw: &[u8], key: &str) -> bool {
    if !raw.contains(&b'\\') {
        return raw == key.as_bytes();
    }
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|text| text == key)
}
