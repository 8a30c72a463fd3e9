//! What a walk searches: the array of records at a pointer, or all arrays at a pointer with `*`.
//!
//! The children of a container that `*` leads to are *siblings*. Siblings that are small share a
//! chunk. A large one is a chunk of its own, or is cut at the next `*` below it, and at last within
//! its array of records. So a chunk lies within one container, and no chunk is larger than the
//! limits unless it is one record.

use std::mem;
use std::ops::Range;

use super::chunker::Records;
use super::plan::{Chunk, ChunkLimits, Layout, Place};
use crate::dataset::{Dataset, EACH, Outer, Part, segments};
use crate::syntax;

/// What a walk searches, and what it has found.
pub(super) struct Target<'a> {
    /// The JSON pointer, for messages.
    pub(super) pointer: &'a str,
    /// The segments of the pointer.
    pub(super) path: Vec<String>,
    /// The place of the first array or record, once the walk has reached it.
    pub(super) open: Option<usize>,
    /// The place of a value at the pointer that is not an array.
    pub(super) other: Option<usize>,
    /// Whether the walk has passed an array of records, or a container for `*` without children.
    is_found: bool,
    /// Whether the walk has passed a container for `*`.
    is_reached: bool,
    /// The records of the arrays that the walk has passed.
    records: Records,
    /// The siblings that the walk is in, the outermost first.
    siblings: Vec<Siblings>,
    /// The columns whose value is outside of the record.
    outers: &'a [Outer],
    /// For each of them: where its field is in the container that the walk is in.
    fields: Vec<Passed>,
}

/// The children of a container while the walk passes them.
struct Siblings {
    layout: Layout,
    /// The chunk that the next child may join.
    open: Option<Open>,
    /// How many records the target had where the present child began.
    before: u64,
    /// The closed chunks of all children so far.
    chunks: Vec<Chunk>,
    /// The chunks of the present child.
    within: Vec<Chunk>,
}

/// What the walk has passed of a field that a column takes.
#[derive(Clone, Default)]
enum Passed {
    /// Nothing yet.
    #[default]
    Nothing,
    /// The member in which the field would be, and which does not have it, or has null.
    Missing,
    Value(Place),
}

/// A chunk of siblings that is not yet closed.
struct Open {
    place: Range<usize>,
    /// The ordinal of its first record.
    first: u64,
    /// The key or index of its first child.
    key: Place,
}

impl<'a> Target<'a> {
    /// `outers` are the columns whose value is outside of the record.
    pub(super) fn new(pointer: &'a str, outers: &'a [Outer]) -> Self {
        Self {
            outers,
            fields: vec![Passed::Nothing; outers.len()],
            pointer,
            path: segments(pointer).collect(),
            open: None,
            other: None,
            is_found: false,
            is_reached: false,
            records: Records::default(),
            siblings: Vec::new(),
        }
    }

    /// Whether the segment after the first `level` ones is `*`.
    pub(super) fn is_each(&self, level: usize) -> bool {
        self.path.get(level).is_some_and(|segment| segment == EACH)
    }

    /// Whether one of the first `level` segments is `*`.
    pub(super) fn is_within_each(&self, level: usize) -> bool {
        self.path[..level].iter().any(|segment| segment == EACH)
    }

    /// Whether a text, which is not JSON, has the last key of the pointer. An index is no key.
    pub(super) fn is_named_in(&self, text: &[u8]) -> bool {
        let mut keys = self.path.iter().rev();
        let last = keys.find(|segment| !is_index(segment));
        last.is_some_and(|key| key == EACH || names(text, key))
    }

    /// Whether the arrays may hold a record, which begins with the byte `begin`. True for an array
    /// that the walk has not passed.
    pub(super) fn may_hold(&self, bytes: &[u8], begin: u8) -> bool {
        let mut chunks = self.records.chunks.iter();
        let mut in_chunk =
            || chunks.any(|chunk| bytes[chunk.start as usize..chunk.end as usize].contains(&begin));
        !self.is_found || in_chunk()
    }

    /// Returns what was found, and forgets it. `None` if no array was found.
    pub(super) fn take(&mut self) -> Option<Records> {
        self.open = None;
        self.siblings.clear();
        self.fields.fill(Passed::Nothing);
        let records = mem::take(&mut self.records);
        mem::take(&mut self.is_found).then_some(records)
    }

    /// Whether the walk has passed a container for `*`, with an array of records below it or not. Forgets
    /// it.
    pub(super) fn take_reached(&mut self) -> bool {
        mem::take(&mut self.is_reached)
    }

    /// Adds the records of an array that begins at `open`.
    pub(super) fn add(&mut self, open: usize, records: Records) {
        self.open.get_or_insert(open);
        self.is_found = true;
        let Records { chunks, count } = records;
        let all = &mut self.records;
        // The cast loses nothing: `Records::plan` refuses a file with more records.
        let first = all.count as u32;
        let keys = keys(self.outers, self.path.len());
        let chunks = chunks.into_iter().map(|mut chunk| {
            // In the array, the ordinal of a record is its index.
            let index = Place::Index(chunk.first_ordinal.into());
            let values: Vec<_> = keys.clone().map(|at| (at, index.clone())).collect();
            Chunk::note(std::slice::from_mut(&mut chunk), self.outers.len(), &values);
            chunk.first_ordinal = first.wrapping_add(chunk.first_ordinal);
            chunk
        });
        match self.siblings.last_mut() {
            Some(siblings) => siblings.within.extend(chunks),
            None => all.chunks.extend(chunks),
        }
        all.count += count;
    }

    /// Adds one record, which is a child of the present siblings.
    pub(super) fn add_record(&mut self, place: Range<usize>) {
        let chunk = Chunk {
            start: place.start as u64,
            end: place.end as u64,
            first_ordinal: 0,
            records: 1,
            layout: Layout::Array,
            around: None,
        };
        self.open.get_or_insert(place.start);
        self.is_found = true;
        let all = &mut self.records;
        let siblings = self.siblings.last_mut().expect("a child has siblings");
        siblings.within.push(Chunk {
            first_ordinal: all.count as u32,
            ..chunk
        });
        all.count += 1;
    }

    /// Begins a container whose children are siblings.
    pub(super) fn begin_siblings(&mut self, layout: Layout) {
        self.is_reached = true;
        self.siblings.push(Siblings {
            layout,
            open: None,
            before: self.records.count,
            chunks: Vec::new(),
            within: Vec::new(),
        });
    }

    /// Ends the child at `place`, which has the key or index `key`. The first `level` segments lead
    /// to its container. With `joins`, small siblings share a chunk.
    pub(super) fn end_child(
        &mut self,
        place: Range<usize>,
        (level, key): (usize, Place),
        joins: bool,
        limits: ChunkLimits,
    ) {
        let count = self.records.count;
        let keys = keys(self.outers, level);
        let columns = self.outers.len();
        let siblings = self.siblings.last_mut().expect("a child has siblings");
        let first = mem::replace(&mut siblings.before, count);
        if first == count {
            return;
        }
        let fits = |place: &Range<usize>, first: u64| {
            place.len() <= limits.bytes && count - first <= u64::from(limits.records.max(1))
        };
        if joins && fits(&place, first) {
            siblings.within.clear();
            match &mut siblings.open {
                Some(open) if fits(&(open.place.start..place.end), open.first) => {
                    open.place.end = place.end;
                }
                _ => {
                    siblings.close(first, keys, columns);
                    siblings.open = Some(Open { place, first, key });
                }
            }
        } else {
            siblings.close(first, keys.clone(), columns);
            let values: Vec<_> = keys.map(|at| (at, key.clone())).collect();
            Chunk::note(&mut siblings.within, columns, &values);
            siblings.chunks.append(&mut siblings.within);
        }
    }

    /// Ends the present container of siblings, to which the first `level` segments lead. `is_empty`
    /// says whether it has no children.
    pub(super) fn end_siblings(&mut self, level: usize, is_empty: bool) {
        self.is_found |= is_empty;
        let mut siblings = self.siblings.pop().expect("they were begun");
        let keys = keys(self.outers, level);
        siblings.close(self.records.count, keys, self.outers.len());
        self.held().append(&mut siblings.chunks);
    }

    /// The chunks of the container that the walk is in, and of those before it.
    fn held(&mut self) -> &mut Vec<Chunk> {
        let parent = self.siblings.last_mut().map(|parent| &mut parent.within);
        parent.unwrap_or(&mut self.records.chunks)
    }

    /// How many chunks there are before a container.
    pub(super) fn before(&mut self) -> usize {
        if self.outers.is_empty() {
            0
        } else {
            self.held().len()
        }
    }

    /// Ends a container to which the first `level` segments lead. `before` is the number of
    /// chunks [`before`](Self::before) it.
    pub(super) fn end_container(&mut self, level: usize, before: usize) {
        let fields = self.outers.iter().zip(&mut self.fields).enumerate();
        let here = fields.filter(|(_, (outer, _))| outer.level == level);
        let values: Vec<_> = here
            .filter_map(|(at, (_, field))| match mem::take(field) {
                Passed::Value(place) => Some((at, place)),
                Passed::Nothing | Passed::Missing => None,
            })
            .collect();
        let columns = self.outers.len();
        Chunk::note(&mut self.held()[before..], columns, &values);
    }

    /// The columns that take a field of a container to which the first `level` segments lead, each
    /// with the segments from there.
    pub(super) fn fields(&self, level: usize) -> impl Iterator<Item = (usize, &'a [String])> {
        let outers = self.outers.iter().enumerate();
        outers.filter_map(move |(at, outer)| match &outer.part {
            Part::Field(path) if outer.level == level => Some((at, &path[..])),
            _ => None,
        })
    }

    /// Notes the place of a column's field, `None` if it has none. Returns whether the walk has
    /// passed the field in its container before.
    pub(super) fn note_field(&mut self, at: usize, place: Option<Range<usize>>) -> bool {
        let passed = place.map_or(Passed::Missing, |place| {
            Passed::Value(Place::Text(place.start as u64..place.end as u64))
        });
        !matches!(mem::replace(&mut self.fields[at], passed), Passed::Nothing)
    }
}

/// The columns that take the key or index of a child of a container to which the first `level`
/// segments lead.
fn keys(outers: &[Outer], level: usize) -> impl Iterator<Item = usize> + Clone {
    let outers = outers.iter().enumerate();
    let keys = outers.filter(move |(_, outer)| outer.level == level && outer.part == Part::Key);
    keys.map(|(at, _)| at)
}

impl Siblings {
    /// Ends the open chunk; `end` is the ordinal after its last record. `keys` are the columns that
    /// take the key or index of a child, of `columns` whose value is outside of the record. The
    /// casts to 32 bits lose nothing: [`Records::plan`] refuses a file with more records.
    fn close(&mut self, end: u64, keys: impl Iterator<Item = usize>, columns: usize) {
        if let Some(Open { place, first, key }) = self.open.take() {
            let mut chunk = Chunk {
                start: place.start as u64,
                end: place.end as u64,
                first_ordinal: first as u32,
                records: (end - first) as u32,
                layout: self.layout,
                around: None,
            };
            // The keys of members are within the chunk.
            if let Place::Index(_) = key {
                let values: Vec<_> = keys.map(|at| (at, key.clone())).collect();
                Chunk::note(std::slice::from_mut(&mut chunk), columns, &values);
            }
            self.chunks.push(chunk);
        }
    }
}

/// Whether a text, which is not JSON, has a string that is `key`.
pub(super) fn names(text: &[u8], key: &str) -> bool {
    let quotes = (text.iter().enumerate()).filter(|(_, byte)| **byte == b'"');
    let mut ends = quotes.map(|(at, _)| (at, syntax::string(text, at)));
    ends.any(|(at, end)| end.is_ok_and(|end| key_is(&text[at + 1..end - 1], key)))
}

/// Whether a segment of a pointer may be the index of an element.
pub(super) fn is_index(segment: &str) -> bool {
    segment.parse::<usize>().is_ok()
}

/// Whether a key is `key`. `raw` is its text between the quotes, which may have escapes.
pub(super) fn key_is(raw: &[u8], key: &str) -> bool {
    if !raw.contains(&b'\\') {
        return raw == key.as_bytes();
    }
    let quoted = [b"\"", raw, b"\""].concat();
    serde_json::from_slice::<String>(&quoted).is_ok_and(|text| text == key)
}

/// Whether the pointer of a dataset leads to an element of an array that is the document itself.
pub(super) fn leads_into_array(dataset: &Dataset) -> bool {
    let first = segments(dataset.pointer()).next();
    first.is_some_and(|segment| segment == EACH || is_index(&segment))
}

/// The first byte of each record of a dataset.
pub(super) fn record_begin(dataset: &Dataset) -> u8 {
    if dataset.is_by_position() { b'[' } else { b'{' }
}
