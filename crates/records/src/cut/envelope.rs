//! The walk through a document to the arrays of records in it.
//!
//! All beside those arrays is held to the grammar of JSON and to UTF-8 here; what is between their
//! brackets is for [`array`](super::array).

use super::array::array;
use super::chunker::Chunker;
use super::plan::{ChunkLimits, Unreadable, found_here, incomplete, malformed};
use crate::syntax::{self, Stop, skip_blank};

/// An array of records that the walk searches.
pub(super) struct Target<'a> {
    /// The JSON pointer to it, for messages.
    pub(super) pointer: &'a str,
    /// Its segments.
    pub(super) path: Vec<String>,
    /// Where its `[` is, once the walk has come to it.
    pub(super) open: Option<usize>,
    /// Its records and the place after its `]`, once it has been passed.
    pub(super) found: Option<(Chunker<'a>, usize)>,
    /// Where the pointer leads to something else.
    pub(super) other: Option<usize>,
}

/// The walk through one document.
pub(super) struct Envelope<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) limits: ChunkLimits,
    /// The array of the file's own dataset first, then those of others.
    pub(super) targets: Vec<Target<'a>>,
    /// The keys that a record of the file's own dataset can have.
    pub(super) fields: &'a [String],
    /// Whether the document itself has one of them.
    pub(super) has_field: bool,
}

impl Envelope<'_> {
    /// Walks the document whose `{` is at `open`. Returns the place after its `}`.
    pub(super) fn walk(&mut self, open: usize) -> Result<usize, Unreadable> {
        let targets: Vec<usize> = (0..self.targets.len()).collect();
        let end = self.object(open, 0, &targets)?;
        self.check_text(open, end)?;
        Ok(end)
    }

    /// Walks the object at `open`, to which the first `level` segments of the targets in `on_path`
    /// lead. Recursive, to the depth of the longest pointer.
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
            if level == 0 && !self.has_field {
                self.has_field = self.fields.iter().any(|field| key_is(key, field));
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

    /// Walks the elements of the array at `open` as [`object`](Self::object) does members.
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

    /// Walks the value at `at`, to which the first `level` segments of the targets in `on_path` lead.
    fn value(&mut self, at: usize, level: usize, on_path: &[usize]) -> Result<usize, Unreadable> {
        let bytes = self.bytes;
        let (ends, further): (Vec<usize>, Vec<usize>) =
            (on_path.iter()).partition(|target| self.targets[**target].path.len() == level);
        match (bytes.get(at), ends.first(), further.is_empty()) {
            // Of two datasets with the same pointer, the first has the records.
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

    /// The records of the array at `open`. Returns the place after it.
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
                malformed(at, format!("not JSON beside the records: found {found}"))
            }
        }
    }

    /// Checks that all beside the arrays of records is UTF-8.
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
                return Err(malformed(place, "not UTF-8 beside the records".to_owned()));
            }
            at = end;
        }
        Ok(())
    }
}

/// Whether a key, as it is between its quotes, is this one.
fn key_is(raw: &[u8], key: &str) -> bool {
    if !raw.contains(&b'\\') {
        return raw == key.as_bytes();
    }
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|text| text == key)
}
