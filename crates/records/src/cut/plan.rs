//! The result of cutting a file: a plan, or the reason why the file has none.

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

/// A run of whole records of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
