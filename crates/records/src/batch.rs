//! What the records of a chunk become: a batch of rows, and rejects.
//!
//! Pure data. Invariant, asserted where a batch is made: rows + rejects = records of its span, and
//! each `id` and each reject's ordinal lies in the span, once.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};

use crate::dataset::Dataset;

/// Most of a raw record that a reject keeps, in bytes. The place in the file says where the rest
/// is. Larger would let one bad file fill the database; smaller would cut ordinary records.
pub const RAW_BYTES_MAX: usize = 8 * 1024;

/// BLAKE3 of a file's stored bytes, cut to 16: the identity of a file. A cryptographic hash, since
/// equal identity means that a file is dropped as a duplicate: nobody may be able to forge one.
pub type ContentHash = [u8; 16];

/// A file of the ledger.
///
/// The number alone would do as long as there is one ledger. But a frame may outlive the ledger it
/// was made for (a database made anew, or restored), or reach the workers of another one (two
/// databases that share a queue); there, its number is nobody's, or another file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFile {
    /// Its number; 1 to 2^31 - 1, so that an id fits a signed 64-bit column.
    pub file_no: u32,
    /// Its identity.
    pub hash: ContentHash,
}

/// A run of records of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file's number in the ledger, as in [`SourceFile`].
    pub file_no: u32,
    /// Ordinal of the first record.
    pub first_ordinal: u32,
    /// How many records.
    pub records: u32,
}

impl Span {
    /// The ordinals, as a half-open range. 64 bits, so that the end cannot overflow.
    #[must_use]
    pub fn ordinals(self) -> Range<u64> {
        let first = u64::from(self.first_ordinal);
        first..first + u64::from(self.records)
    }
}

/// The primary key of a record's row: where it came from.
#[must_use]
pub const fn row_id(file_no: u32, ordinal: u32) -> u64 {
    (file_no as u64) << 32 | ordinal as u64
}

/// The file number and the ordinal behind a row's id.
#[must_use]
pub const fn provenance(id: u64) -> (u32, u32) {
    ((id >> 32) as u32, id as u32)
}

/// The rows and rejects of a span: what a worker commits in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Whose shape the rows have.
    pub dataset: Arc<Dataset>,
    /// Which records these are.
    pub span: Span,
    /// The identity of their file.
    pub hash: ContentHash,
    /// The rows, in the shape of [`Dataset::schema`], by ascending `id`.
    pub rows: RecordBatch,
    /// The records that are no rows, by ascending ordinal.
    pub rejects: Vec<Reject>,
}

/// The columns of a batch that its dataset's summary is made of.
#[derive(Debug, Clone, Copy)]
pub struct SummaryColumns<'a> {
    /// The ids of the rows.
    pub ids: &'a UInt64Array,
    /// What is summarised by.
    pub keys: &'a StringArray,
    /// What says which row is last, in microseconds.
    pub times: &'a TimestampMicrosecondArray,
    /// What is kept of the last row.
    pub values: &'a StringArray,
}

impl Batch {
    /// The file that its records are of.
    #[must_use]
    pub fn file(&self) -> SourceFile {
        SourceFile {
            file_no: self.span.file_no,
            hash: self.hash,
        }
    }

    /// The columns of the summary; `None` where its dataset has none.
    #[must_use]
    pub fn summary_columns(&self) -> Option<SummaryColumns<'_>> {
        let summary = self.dataset.summary.as_ref()?;
        let column = |name: &str| {
            self.rows
                .column_by_name(name)
                .expect("a batch has the columns of its dataset")
        };
        Some(SummaryColumns {
            ids: self.rows.column(0).as_primitive(),
            keys: column(&summary.key).as_string(),
            times: column(&summary.time).as_primitive(),
            values: column(&summary.value).as_string(),
        })
    }
}

/// A record that did not become a row, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The record's place in its file.
    pub ordinal: u32,
    /// The kind of reason.
    pub code: RejectCode,
    /// The field at fault, where it is one field. At most 255 characters.
    pub field: Option<String>,
    /// Where the record begins: bytes from the start of the (inflated) file. Not kept with a code
    /// of the database ([`RejectCode::is_of_database`]): then 0 stands here.
    pub byte_offset: u64,
    /// The record as it stands in the file, at most [`RAW_BYTES_MAX`] bytes of it. With a code of the
    /// database it is the row that was refused, as JSON: the record is not at hand any more.
    pub raw: Vec<u8>,
}

/// The closed set of reasons for a reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectCode {
    /// The record is not valid JSON (UTF-8 included).
    InvalidJson,
    /// The record is a JSON value, but no object.
    NotAnObject,
    /// A required field is absent or null.
    MissingField,
    /// A field's value is of another type than its column.
    WrongType,
    /// A text is longer than its column.
    TextTooLong,
    /// A text is no timestamp of the calendar, or outside of the years 1000 to 9999.
    InvalidTimestamp,
    /// A number that its column (or 64 bits) cannot hold.
    NumberRange,
    /// A field stands in the record twice.
    DuplicateField,
    /// A field that the dataset does not know, where it is told to refuse such.
    UnknownField,
    /// More levels of nesting than a record may have.
    TooDeep,
    /// The record is larger than a record may be.
    TooLarge,
    /// The database refused the row's values.
    RefusedByDatabase,
    /// Another unique key of the user's own table holds such a row.
    DuplicateKeyInTable,
    /// Another writer's row, with other values, has the id of this record.
    IdTaken,
}

impl RejectCode {
    /// Every code, for documentation and metrics.
    pub const ALL: [Self; 14] = [
        Self::InvalidJson,
        Self::NotAnObject,
        Self::MissingField,
        Self::WrongType,
        Self::TextTooLong,
        Self::InvalidTimestamp,
        Self::NumberRange,
        Self::DuplicateField,
        Self::UnknownField,
        Self::TooDeep,
        Self::TooLarge,
        Self::RefusedByDatabase,
        Self::DuplicateKeyInTable,
        Self::IdTaken,
    ];

    /// The code as it stands in tables, metrics and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::TextTooLong => "text_too_long",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::NumberRange => "number_range",
            Self::DuplicateField => "duplicate_field",
            Self::UnknownField => "unknown_field",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::RefusedByDatabase => "refused_by_database",
            Self::DuplicateKeyInTable => "duplicate_key_in_table",
            Self::IdTaken => "id_taken",
        }
    }

    /// Whether it was the database that did not take the row. By then the record is not at hand any
    /// more: such a reject holds neither its place in the file nor its text.
    #[must_use]
    pub const fn is_of_database(self) -> bool {
        matches!(
            self,
            Self::RefusedByDatabase | Self::DuplicateKeyInTable | Self::IdTaken
        )
    }

    /// The code that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_its_provenance() {
        for (file_no, ordinal) in [(1, 0), (7, 42), (i32::MAX as u32, u32::MAX)] {
            let id = row_id(file_no, ordinal);
            assert_eq!(provenance(id), (file_no, ordinal));
            assert!(i64::try_from(id).is_ok());
        }
    }

    #[test]
    fn codes_are_read_as_they_are_written() {
        for code in RejectCode::ALL {
            assert_eq!(RejectCode::parse(code.as_str()), Some(code));
        }
        assert_eq!(RejectCode::parse("other"), None);
    }
}
