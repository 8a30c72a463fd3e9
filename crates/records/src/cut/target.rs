//! What a walk searches: the array of records at a pointer, or all arrays at a pointer with `*`.
//!
//! The children of a container that `*` leads to are *siblings*. Siblings that are small share a
//! chunk. A large one is a chunk of its own, or is cut at the next `*` below it, and at last within
//! its array of records. So a chunk lies within one container, and no chunk is larger than the
//! limits unless it is one record.

use std::mem;
use std::ops::Range;

use super::chunker::Records;
use super::plan::{Chunk, ChunkLimits, Layout};
use crate::dataset::{EACH, segments};

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
    /// The records of the arrays that the walk has passed.
    records: Records,
    /// The siblings that the walk is in, the outermost first.
    siblings: Vec<Siblings>,
}

/// The children of a container while the walk passes them.
struct Siblings {
    layout: Layout,
    /// The chunk that the next child may join, and the ordinal of its first record.
    open: Option<(Range<usize>, u64)>,
    /// How many records the target had where the present child began.
    before: u64,
    /// The closed chunks of all children so far.
    chunks: Vec<Chunk>,
    /// The chunks of the present child.
    within: Vec<Chunk>,
}

impl<'a> Target<'a> {
    pub(super) fn new(pointer: &'a str) -> Self {
        Self {
            pointer,
            path: segments(pointer).collect(),
            open: None,
            other: None,
            is_found: false,
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

    /// Whether a text holds the last key of the pointer, in quotes. Compares bytes, since the text
    /// is not JSON.
    pub(super) fn is_named_in(&self, text: &[u8]) -> bool {
        let last = self.path.last();
        last.is_some_and(|key| key == EACH || names(text, key))
    }

    /// Returns what was found, and forgets it. `None` if no array was found.
    pub(super) fn take(&mut self) -> Option<Records> {
        self.open = None;
        self.siblings.clear();
        let records = mem::take(&mut self.records);
        mem::take(&mut self.is_found).then_some(records)
    }

    /// Adds the records of an array that begins at `open`.
    pub(super) fn add(&mut self, open: usize, records: Records) {
        self.open.get_or_insert(open);
        self.is_found = true;
        let Records { chunks, count } = records;
        let all = &mut self.records;
        // The cast loses nothing: `Records::plan` refuses a file with more records.
        let first = all.count as u32;
        let chunks = chunks.into_iter().map(|chunk| Chunk {
            first_ordinal: first.wrapping_add(chunk.first_ordinal),
            ..chunk
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
        };
        let chunks = vec![chunk];
        self.add(place.start, Records { chunks, count: 1 });
    }

    /// Begins a container whose children are siblings.
    pub(super) fn begin_siblings(&mut self, layout: Layout) {
        self.siblings.push(Siblings {
            layout,
            open: None,
            before: self.records.count,
            chunks: Vec::new(),
            within: Vec::new(),
        });
    }

    /// Ends the child at `place`. With `joins`, small siblings share a chunk.
    pub(super) fn end_child(&mut self, place: Range<usize>, joins: bool, limits: ChunkLimits) {
        let count = self.records.count;
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
                Some((open, first)) if fits(&(open.start..place.end), *first) => {
                    open.end = place.end;
                }
                _ => {
                    siblings.close(first);
                    siblings.open = Some((place, first));
                }
            }
        } else {
            siblings.close(first);
            siblings.chunks.append(&mut siblings.within);
        }
    }

    /// Ends the present container of siblings. `is_empty` says whether it has no children.
    pub(super) fn end_siblings(&mut self, is_empty: bool) {
        self.is_found |= is_empty;
        let mut siblings = self.siblings.pop().expect("they were begun");
        siblings.close(self.records.count);
        let parent = self.siblings.last_mut().map(|parent| &mut parent.within);
        let chunks = parent.unwrap_or(&mut self.records.chunks);
        chunks.append(&mut siblings.chunks);
    }
}

impl Siblings {
    /// Ends the open chunk; `end` is the ordinal after its last record. The casts to 32 bits lose
    /// nothing: [`Records::plan`] refuses a file with more records.
    fn close(&mut self, end: u64) {
        if let Some((place, first)) = self.open.take() {
            self.chunks.push(Chunk {
                start: place.start as u64,
                end: place.end as u64,
                first_ordinal: first as u32,
                records: (end - first) as u32,
                layout: self.layout,
            });
        }
    }
}

/// Whether a text holds `key` in quotes. Compares bytes, since the text is not JSON.
pub(super) fn names(text: &[u8], key: &str) -> bool {
    let quoted = format!("\"{key}\"");
    text.windows(quoted.len())
        .any(|part| part == quoted.as_bytes())
}
