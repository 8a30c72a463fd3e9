//! The result of cutting a file: a plan, or the reason why the file has none.

use std::ops::Range;
use std::sync::Arc;

/// How the records of a chunk are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Elements of a JSON array, with commas between them.
    Array,
    /// One record on each line (NDJSON), or several with only blanks between them. A blank line
    /// holds no record.
    Lines,
    /// JSON values one after another, each of them a record, with nothing between them or
    /// separators: blanks, commas, and the record separator of RFC 7464.
    Values,
    /// The same, but some of the values are arrays of records, or envelopes that hold such an
    /// array.
    Sequence,
    /// Elements of an array to which `*` in the dataset's pointer leads, with commas between them.
    /// Holds the number of the pointer's segments that lead to an element, with this `*`. Each
    /// element is a record, an array of records, or holds such arrays.
    Elements(u8),
    /// The same, but members of an object, with their keys.
    Members(u8),
}

impl Layout {
    /// Whether a chunk may hold more than its records and separators.
    #[must_use]
    pub fn has_envelopes(self) -> bool {
        matches!(self, Self::Sequence | Self::Elements(_) | Self::Members(_))
    }

    /// The layout of the children of a container. `level` is the number of segments that lead to a
    /// child.
    pub(super) fn siblings(is_object: bool, level: usize) -> Self {
        // The cast loses nothing: `Datasets::new` refuses a pointer with so many segments and `*`.
        let level = level as u8;
        if is_object {
            Self::Members(level)
        } else {
            Self::Elements(level)
        }
    }
}

/// Where a value outside of a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The bytes of a value of JSON: a field of the envelope, or a key with its quotes.
    Text(Range<u64>),
    /// The index of an element.
    Index(u64),
}

/// The values outside of a chunk that its records have in common: one for each column whose value is
/// outside of the record, in the order of the columns. `None` if the value is missing, null, or
/// within the chunk. The index of an element is that of the first one in the chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Around(pub(super) Vec<Option<Place>>);

/// A run of whole records of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// First byte, from the start of the file.
    pub start: u64,
    /// The byte after the last one. A chunk has no separator and no blank at its ends. An
    /// exception: a chunk that ends with an empty record of an array keeps the comma and the blanks
    /// before the end of that record.
    pub end: u64,
    /// Ordinal of the first record.
    pub first_ordinal: u32,
    /// How many records.
    pub records: u32,
    /// How the records are separated.
    pub layout: Layout,
    /// The values outside of the chunk. `None` if there are none.
    pub around: Option<Arc<Around>>,
}

impl Chunk {
    /// Notes values outside of these chunks: for each of the `columns` columns whose value is
    /// outside of the record, by index. A value that was noted before is nearer, and stays.
    pub(super) fn note(chunks: &mut [Self], columns: usize, values: &[(usize, Place)]) {
        if values.is_empty() {
            return;
        }
        // Neighbours share what is around them.
        let mut last: Option<(Option<Arc<Around>>, Arc<Around>)> = None;
        for chunk in chunks {
            let before = chunk.around.take();
            let after = match last {
                Some((old, new)) if same(old.as_ref(), before.as_ref()) => new,
                _ => {
                    let mut around = before
                        .as_deref()
                        .map_or(vec![None; columns], |it| it.0.clone());
                    for (at, value) in values {
                        around[*at].get_or_insert_with(|| value.clone());
                    }
                    Arc::new(Around(around))
                }
            };
            chunk.around = Some(Arc::clone(&after));
            last = Some((before, after));
        }
    }
}

fn same(one: Option<&Arc<Around>>, other: Option<&Arc<Around>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Where the records of a whole file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How many records the file has.
    pub records: u32,
    /// The chunks, in order; they tile the ordinals `0..records`.
    pub chunks: Vec<Chunk>,
}

/// How large a chunk may be. A chunk ends at the limit that it reaches first.
#[derive(Debug, Clone, Copy)]
pub struct ChunkLimits {
    /// Most records of a chunk. Zero counts as one.
    pub records: u32,
    /// Most bytes of a chunk. A larger record is a chunk of its own.
    pub bytes: usize,
}

/// Why a file has no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The document does not close. The file may still be growing.
    #[error("the document ends at byte {offset} before it is whole: {detail}")]
    Incomplete {
        /// Where the document ends.
        offset: u64,
        /// The part that does not close, for messages.
        detail: &'static str,
    },
    /// The file is not JSON, or holds no records of the dataset.
    #[error("{detail} (at byte {offset})")]
    Malformed {
        /// The place of the problem, in bytes from the start of the file.
        offset: u64,
        /// What was expected, and what was found.
        detail: String,
    },
}

/// The character at `at`, for a message.
pub(super) fn found_here(bytes: &[u8], at: usize) -> String {
    let rest = &bytes[at.min(bytes.len())..];
    let text = String::from_utf8_lossy(&rest[..rest.len().min(4)]);
    match text.chars().next() {
        None => "the end of the file".to_owned(),
        Some(found) => format!("`{}`", found.escape_debug()),
    }
}

pub(super) fn incomplete(bytes: &[u8], detail: &'static str) -> Unreadable {
    Unreadable::Incomplete {
        offset: bytes.len() as u64,
        detail,
    }
}

pub(super) fn malformed(at: usize, detail: String) -> Unreadable {
    Unreadable::Malformed {
        offset: at as u64,
        detail,
    }
}
