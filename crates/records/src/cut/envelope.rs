//! The walk through a document to the arrays of records in it.
//!
//! Everything outside of those arrays must be JSON in UTF-8, which is checked here. The content of
//! the arrays is checked in [`array`](super::array).

use std::ops::Range;

use super::array::{array, is_one_value, not_one_value};
use super::chunker::Records;
use super::plan::{ChunkLimits, Layout, Place, Unreadable, found_here, incomplete, malformed};
use super::scan::{Element, Scan};
use super::target::{Target, is_index, key_is};
use crate::dataset::{EACH, Outer};
use crate::syntax::{self, Stop, skip_blank, trim};

/// The walk through one document.
pub(super) struct Envelope<'a> {
    bytes: &'a [u8],
    limits: ChunkLimits,
    /// First the array of the file's own dataset, if it has a pointer, then those of other
    /// datasets.
    pub(super) targets: Vec<Target<'a>>,
    /// Whether the first target is that of the file's own dataset. A value at its pointer that
    /// cannot hold records refuses the file.
    has_own: bool,
    /// The keys that a record of the file's own dataset can have.
    fields: &'a [String],
    /// Whether the document itself has one of these keys.
    pub(super) has_field: bool,
    /// Which of these keys the document itself has. Empty if only `has_field` is asked.
    pub(super) seen: Vec<bool>,
    /// Whether small siblings share a chunk. Otherwise each array is a chunk: so the records of a
    /// chunk are found again.
    pub(super) joins: bool,
    text: Text,
}

/// The check that everything outside of the records is UTF-8.
#[derive(Default)]
struct Text {
    /// The text before this place has been checked, or is of a record.
    at: usize,
    /// The first place that is not UTF-8.
    bad: Option<usize>,
}

impl Text {
    /// Checks the text before `records`, and passes them.
    #[inline]
    fn pass(&mut self, bytes: &[u8], records: Range<usize>) {
        let text = simdutf8::compat::from_utf8(&bytes[self.at..records.start]);
        if let Err(error) = text {
            self.bad.get_or_insert(self.at + error.valid_up_to());
        }
        self.at = records.end;
    }
}

impl<'a> Envelope<'a> {
    /// A walk that searches `targets`. `has_own` says whether the first of them is that of the
    /// file's own dataset, and `fields` are the keys that a record of it can have.
    pub(super) fn new(
        bytes: &'a [u8],
        limits: ChunkLimits,
        targets: Vec<Target<'a>>,
        has_own: bool,
        fields: &'a [String],
    ) -> Self {
        Self {
            bytes,
            limits,
            targets,
            has_own,
            fields,
            has_field: false,
            seen: Vec::new(),
            joins: true,
            text: Text::default(),
        }
    }

    /// Walks the document whose bracket is at `open`. Returns the place after its closing bracket.
    pub(super) fn walk(&mut self, open: usize) -> Result<usize, Unreadable> {
        let targets: Vec<usize> = (0..self.targets.len()).collect();
        self.text = Text {
            at: open,
            bad: None,
        };
        let end = self.container(open, 0, &targets)?;
        self.text.pass(self.bytes, end..end);
        match self.text.bad {
            Some(place) => Err(malformed(
                place,
                "not UTF-8 outside of the records".to_owned(),
            )),
            None => Ok(end),
        }
    }

    /// Walks the container at `open`. The first `level` segments of the targets in `on_path` lead to
    /// it. Recursive, to the depth of the longest pointer.
    fn container(
        &mut self,
        open: usize,
        level: usize,
        on_path: &[usize],
    ) -> Result<usize, Unreadable> {
        let is_object = self.bytes[open] == b'{';
        let close = Some(self.bytes[open] + 2);
        let layout = Layout::siblings(is_object, level + 1);
        let each = |target: &&usize| self.targets[**target].is_each(level);
        let each: Vec<usize> = on_path.iter().filter(each).copied().collect();
        let is_last = |target: &&usize| self.targets[**target].path.len() == level + 1;
        if let Some(target) = each.iter().find(is_last) {
            return self.last(open + 1, layout, *target, close);
        }
        let before = |target: &usize| self.targets[*target].before();
        let before: Vec<usize> = on_path.iter().map(before).collect();
        for target in &each {
            self.targets[*target].begin_siblings(layout);
        }
        let first = skip_blank(self.bytes, open + 1);
        let is_empty = self.bytes.get(first).copied() == close;
        let end = self.children(first, is_object, level, on_path, close)?;
        for target in &each {
            self.targets[*target].end_siblings(level, is_empty);
        }
        for (target, before) in on_path.iter().zip(before) {
            self.targets[*target].end_container(level, before);
        }
        Ok(end)
    }

    /// Walks the members of an object, or the elements of an array, of which the first begins at
    /// `at`. `close` is the closing bracket, `None` in a chunk, which ends with the text. Returns
    /// the place after the bracket.
    fn children(
        &mut self,
        mut at: usize,
        is_object: bool,
        level: usize,
        on_path: &[usize],
        close: Option<u8>,
    ) -> Result<usize, Unreadable> {
        let bytes = self.bytes;
        let is_end = |at: usize| bytes.get(at).copied() == close;
        let expected = if is_object {
            "`,` or `}` after a member"
        } else {
            "`,` or `]` after an element"
        };
        // The targets with `*` that a key has led to: a second key of the same name is ambiguous.
        let mut passed: Vec<usize> = Vec::new();
        let mut index = 0_usize;
        while !is_end(at) {
            let start = at;
            let mut next: Vec<usize> = Vec::new();
            // The fields of the envelope that this child has, each with its target and column.
            let mut noted: Vec<(usize, usize, &[String])> = Vec::new();
            let mut place = Place::Index(index as u64);
            if is_object {
                let end = syntax::string(bytes, at).map_err(|stop| self.broken(stop))?;
                let key = &bytes[at + 1..end - 1];
                if level == 0 && (!self.has_field || !self.seen.is_empty()) {
                    self.note_field(key);
                }
                let colon = skip_blank(bytes, end);
                self.expect(colon, b':', "`:` after a key")?;
                at = skip_blank(bytes, colon + 1);
                let leads = |target: &&usize| {
                    let segment = &self.targets[**target].path[level];
                    segment == EACH || key_is(key, segment)
                };
                next.extend(on_path.iter().filter(leads));
                self.refuse_second(at, level, &next, &mut passed)?;
                place = Place::Text(start as u64..end as u64);
                for target in on_path {
                    let fields = self.targets[*target].fields(level);
                    let fields = fields.filter(|(_, path)| key_is(key, &path[0]));
                    noted.extend(fields.map(|(column, path)| (*target, column, path)));
                }
            } else {
                let leads = |target: &&usize| {
                    let segment = &self.targets[**target].path[level];
                    segment == EACH || *segment == index.to_string()
                };
                next.extend(on_path.iter().filter(leads));
            }
            let end = self.value(at, level + 1, &next)?;
            for (target, column, path) in noted {
                let target = &mut self.targets[target];
                let field = field(bytes, at, &path[1..]);
                let passed = target.note_field(column, field.as_ref().ok().cloned().flatten());
                if let Some(second) = field.err().or(passed.then_some(at)) {
                    let name = path.join("/");
                    let detail = format!("`{name}`, of a column, is in its object a second time");
                    return Err(malformed(second, detail));
                }
            }
            for target in next {
                let target = &mut self.targets[target];
                if target.is_each(level) {
                    let key = (level, place.clone());
                    target.end_child(start..end, key, self.joins, self.limits);
                }
            }
            at = skip_blank(bytes, end);
            if is_end(at) {
                break;
            }
            self.expect(at, b',', expected)?;
            at = skip_blank(bytes, at + 1);
            if is_end(at) {
                // A comma promises another child.
                return Err(self.broken(Stop::At(at)));
            }
            index += 1;
        }
        Ok(at + 1)
    }

    /// Refuses a key that an object has twice, if it leads to a target with `*`.
    fn refuse_second(
        &self,
        at: usize,
        level: usize,
        next: &[usize],
        passed: &mut Vec<usize>,
    ) -> Result<(), Unreadable> {
        for target in next {
            let Target { pointer, path, .. } = &self.targets[*target];
            let has_each = path.iter().any(|segment| segment == EACH);
            if !has_each || path[level] == EACH {
                continue;
            }
            if passed.contains(target) {
                let key = &path[level];
                let detail = format!("`{key}` of `{pointer}` is in its object a second time");
                return Err(malformed(at, detail));
            }
            passed.push(*target);
        }
        Ok(())
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

    /// Walks the value at `at`. The first `level` segments of the targets in `on_path` lead to it.
    fn value(&mut self, at: usize, level: usize, on_path: &[usize]) -> Result<usize, Unreadable> {
        let bytes = self.bytes;
        let (ends, further): (Vec<usize>, Vec<usize>) =
            (on_path.iter()).partition(|target| self.targets[**target].path.len() == level);
        match (bytes.get(at), ends.first(), further.is_empty()) {
            // If two datasets have the same pointer, the records belong to the first.
            (Some(b'['), Some(&target), _) => self.records(at, target),
            (Some(b'{'), _, false) => {
                self.leads_elsewhere(at, level, &ends)?;
                self.container(at, level, &further)
            }
            (Some(b'['), None, false) => {
                let has_no_key = |target: &usize| {
                    let segment = &self.targets[*target].path[level];
                    segment != EACH && !is_index(segment)
                };
                let elsewhere: Vec<usize> = further.iter().copied().filter(has_no_key).collect();
                self.leads_elsewhere(at, level, &elsewhere)?;
                self.container(at, level, &further)
            }
            _ => {
                let end = syntax::value(bytes, at).map_err(|stop| self.broken(stop))?;
                self.leads_elsewhere(at, level, on_path)?;
                Ok(end)
            }
        }
    }

    /// Finds the records of the array at `open`. Returns the place after the array.
    fn records(&mut self, open: usize, target: usize) -> Result<usize, Unreadable> {
        let (bytes, limits) = (self.bytes, self.limits);
        let target = &mut self.targets[target];
        if target.open.is_some() && !target.is_within_each(target.path.len()) {
            let detail = format!("`{}` is in the document a second time", target.pointer);
            return Err(malformed(open, detail));
        }
        target.open.get_or_insert(open);
        let (chunker, end) = array(bytes, open, limits)?;
        target.add(open, chunker.finish());
        self.text.pass(bytes, open..end);
        Ok(end)
    }

    /// Finds the records in a container whose children are records, or arrays of records, and of
    /// which the first child begins at `start`. As in an array of records, the bounds of each child
    /// must be certain, and a child need not be JSON. `close` is as for
    /// [`children`](Self::children).
    fn last(
        &mut self,
        start: usize,
        layout: Layout,
        target: usize,
        close: Option<u8>,
    ) -> Result<usize, Unreadable> {
        let Self {
            bytes,
            limits,
            joins,
            ref mut targets,
            ref mut text,
            ..
        } = *self;
        let target = &mut targets[target];
        target.begin_siblings(layout);
        let level = target.path.len() - 1;
        let is_object = matches!(layout, Layout::Members(_));
        let mut index = 0;
        let mut add = |child: Range<usize>, element: Option<&Element>| {
            let child = trim(bytes, child);
            let place = record_of(bytes, child.clone(), is_object, element)?;
            if bytes[place.start] == b'[' {
                let (chunker, end) = array(bytes, place.start, limits)?;
                target.add(place.start, chunker.finish());
                text.pass(bytes, place.start..end);
            } else {
                target.add_record(place.clone());
                text.pass(bytes, place);
            }
            let key = if is_object {
                let end = syntax::string(bytes, child.start).unwrap_or(child.start);
                Place::Text(child.start as u64..end as u64)
            } else {
                Place::Index(index)
            };
            index += 1;
            target.end_child(child, (level, key), joins, limits);
            Ok(())
        };
        let mut result = Ok(());
        let mut at = start;
        let mut is_empty = false;
        let found = Scan::new(bytes, start).elements(|element| {
            let child = at..element.end;
            is_empty = at == start && element.is_last && skip_blank(bytes, at) == element.end;
            if result.is_ok() && !is_empty {
                result = add(child, Some(&element));
            }
            at = element.end + 1;
        });
        if close.is_none() && result.is_ok() {
            result = add(at..bytes.len(), None);
        }
        result?;
        target.end_siblings(level, is_empty);
        match (found, close) {
            (_, None) => Ok(bytes.len()),
            (None, _) => Err(self.broken(Stop::End)),
            (Some(at), Some(close)) if bytes[at] != close => Err(self.broken(Stop::At(at))),
            (Some(at), _) => Ok(at + 1),
        }
    }

    /// Notes a value at `at` to which the first `level` segments of `targets` lead, and which has no
    /// records. Below `*`, it must be null: otherwise it would be left out without a word.
    fn leads_elsewhere(
        &mut self,
        at: usize,
        level: usize,
        targets: &[usize],
    ) -> Result<(), Unreadable> {
        for index in targets {
            let target = &mut self.targets[*index];
            if target.path.len() == level {
                target.other = Some(at);
            }
            let is_strict = *index == 0 && self.has_own && target.is_within_each(level);
            if is_strict && !self.bytes[at..].starts_with(b"null") {
                let prefix: String = (target.path[..level].iter())
                    .flat_map(|segment| ["/", segment])
                    .collect();
                let expected = match target.path.get(level) {
                    None => "an array of records",
                    Some(segment) if segment == EACH => "an object or an array",
                    Some(_) => "an object",
                };
                let found = found_here(self.bytes, at);
                let detail = format!("expected {expected} at `{prefix}`, found {found}");
                return Err(malformed(at, detail));
            }
        }
        Ok(())
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
}

/// The arrays of records, and the records outside of arrays, in a chunk of siblings: each of them is
/// a chunk.
pub(super) fn arrays(
    bytes: &[u8],
    pointer: &str,
    outers: &[Outer],
    layout: Layout,
) -> Result<Records, Unreadable> {
    let (Layout::Elements(level) | Layout::Members(level)) = layout else {
        unreachable!("a chunk of siblings");
    };
    let limits = ChunkLimits {
        records: u32::MAX,
        bytes: usize::MAX,
    };
    let mut envelope = Envelope::new(bytes, limits, vec![Target::new(pointer, outers)], true, &[]);
    envelope.joins = false;
    let level = usize::from(level);
    let is_object = matches!(layout, Layout::Members(_));
    if envelope.targets[0].path.len() == level {
        envelope.last(0, layout, 0, None)?;
    } else {
        envelope.targets[0].begin_siblings(layout);
        envelope.children(0, is_object, level - 1, &[0], None)?;
        envelope.targets[0].end_siblings(level - 1, false);
    }
    Ok(envelope.targets[0].take().expect("a chunk has records"))
}

/// The place of the record in a child of a container, without its key if the container is an object.
///
/// # Errors
/// The child is not one value, so that it is not certain where it ends, or lacks its key.
#[inline]
fn record_of(
    bytes: &[u8],
    child: Range<usize>,
    is_object: bool,
    element: Option<&Element>,
) -> Result<Range<usize>, Unreadable> {
    let mut start = child.start;
    let refuse = |expected: &str, at: usize| {
        let found = found_here(bytes, at);
        malformed(at, format!("expected {expected}, found {found}"))
    };
    if is_object {
        let key = syntax::string(bytes, start).map_err(|stop| match stop {
            Stop::At(at) => refuse("a key", at),
            Stop::End => incomplete(bytes, "the document does not close"),
        })?;
        let colon = skip_blank(bytes, key);
        if bytes.get(colon) != Some(&b':') {
            return Err(refuse("`:` after a key", colon));
        }
        start = skip_blank(bytes, colon + 1);
    }
    if start >= child.end {
        return Err(refuse("a record", start));
    }
    if element.is_some_and(|element| !is_one_value(bytes, start, element)) {
        return Err(not_one_value(bytes, start, child.end));
    }
    Ok(start..child.end)
}

/// The value to which a path leads from the value at `at`, which is JSON. `None` if it is missing or
/// null.
///
/// # Errors
/// The place of a key of the path that an object has a second time.
fn field(bytes: &[u8], at: usize, path: &[String]) -> Result<Option<Range<usize>>, usize> {
    let end = |at: usize| syntax::value(bytes, at).expect("the walk has passed it");
    let mut at = at;
    for segment in path {
        let is_object = bytes[at] == b'{';
        if !is_object && bytes[at] != b'[' {
            return Ok(None);
        }
        let close = bytes[at] + 2;
        let mut found = None;
        let mut index = 0_usize;
        at = skip_blank(bytes, at + 1);
        while bytes[at] != close {
            let leads = if is_object {
                let end = syntax::string(bytes, at).expect("the walk has passed it");
                let leads = key_is(&bytes[at + 1..end - 1], segment);
                // After the colon.
                at = skip_blank(bytes, skip_blank(bytes, end) + 1);
                leads
            } else {
                index.to_string() == *segment
            };
            if leads && found.replace(at).is_some() {
                return Err(at);
            }
            index += 1;
            at = skip_blank(bytes, end(at));
            if bytes[at] == b',' {
                at = skip_blank(bytes, at + 1);
            }
        }
        match found {
            Some(value) => at = value,
            None => return Ok(None),
        }
    }
    Ok(Some(at..end(at)).filter(|_| bytes[at] != b'n'))
}
