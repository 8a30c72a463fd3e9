//! A batch: the rows and rejects that the records of a chunk become.
//!
//! Pure data. Invariant, asserted where a batch is made: rows + rejects = records of its span, and
//! each `id` and each reject's ordinal lies in the span, once.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};

use crate::dataset::Dataset;
use crate::zone::Zone;

/// Most bytes of a raw record that a reject keeps; the file has the rest, at the reject's place.
/// With a larger limit, one bad file could fill the database; a smaller limit would cut ordinary
/// records.
pub const RAW_BYTES_MAX: usize = 8 * 1024;

/// The identity of a file: the first 16 bytes of BLAKE3 over its stored bytes. The hash is
/// cryptographic: a file of equal identity is dropped as a duplicate, so with a forged hash a file
/// would be lost.
pub type ContentHash = [u8; 16];

/// A file of the ledger.
///
/// The number alone identifies a file only in the ledger that gave it. A frame may outlive that
/// ledger (the database was created again, or restored), or reach workers of another one (two
/// databases share a queue). In such a ledger, the number may belong to no file, or to another
/// file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFile {
    /// The number of the file, 1 to 2^31 - 1, so that an id fits a signed 64-bit column.
    pub file_no: u32,
    /// The identity of the file.
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

/// The primary key of a record's row: its file number and its ordinal.
#[must_use]
pub const fn row_id(file_no: u32, ordinal: u32) -> u64 {
    (file_no as u64) << 32 | ordinal as u64
}

/// The file number and the ordinal that make up a row's id.
#[must_use]
pub const fn provenance(id: u64) -> (u32, u32) {
    ((id >> 32) as u32, id as u32)
}

/// The rows and rejects of a span: what a worker commits in one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The dataset of the records.
    pub dataset: Arc<Dataset>,
    /// The records that became the rows and rejects.
    pub span: Span,
    /// The identity of the file of the records.
    pub hash: ContentHash,
    /// The rows, in the shape of [`Dataset::schema`], by ascending `id`.
    pub rows: RecordBatch,
    /// The records that became rejects, by ascending ordinal.
    pub rejects: Vec<Reject>,
}

/// The columns of a batch that the daily summary of its dataset needs.
#[derive(Debug, Clone, Copy)]
pub struct SummaryColumns<'a> {
    /// The ids of the rows.
    pub ids: &'a UInt64Array,
    /// The column [`Summary::key`](crate::dataset::Summary::key).
    pub keys: &'a StringArray,
    /// The column [`Summary::time`](crate::dataset::Summary::time), in microseconds.
    pub times: &'a TimestampMicrosecondArray,
    /// The column [`Summary::value`](crate::dataset::Summary::value).
    pub values: &'a StringArray,
    /// The time zone of its days.
    pub zone: &'a Zone,
}

impl Batch {
    /// The file of its records.
    #[must_use]
    pub fn file(&self) -> SourceFile {
        SourceFile {
            file_no: self.span.file_no,
            hash: self.hash,
        }
    }

    /// The columns of the summary. `None` if the dataset has no summary.
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
            zone: &summary.time_zone,
        })
    }
}

/// A record that did not become a row, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The record's ordinal in its file.
    pub ordinal: u32,
    /// The kind of reason.
    pub code: RejectCode,
    /// The field that has the problem, at most 255 characters. `None` if it is not a single field.
    pub field: Option<String>,
    /// Where the record begins: bytes from the start of the inflated file. 0 with a code of the
    /// database ([`RejectCode::is_of_database`]).
    pub byte_offset: u64,
    /// The first [`RAW_BYTES_MAX`] bytes of the record as it is in the file. With a code of the
    /// database: the row that was refused, as JSON, since the worker no longer has the record.
    pub raw: Vec<u8>,
}

/// The closed set of reasons for a reject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectCode {
    /// The record is not valid JSON (UTF-8 included).
    InvalidJson,
    /// The record is a JSON value, but neither an object nor an array of which columns take
    /// elements.
    NotAnObject,
    /// A required field is absent or null.
    MissingField,
    /// A field's value has a different type from its column.
    WrongType,
    /// A text is longer than its column.
    TextTooLong,
    /// A text is not a timestamp, date or time of day, or not in the years 1000 to 9999.
    InvalidTimestamp,
    /// A number does not fit its column, or 64 bits.
    NumberRange,
    /// A text is not bytes in the encoding of its column.
    InvalidBinary,
    /// The record has a field twice.
    DuplicateField,
    /// No column takes a field, and the dataset has `on_unknown_field = "reject"`.
    UnknownField,
    /// The record has more levels of nesting than a record may have.
    TooDeep,
    /// The record is larger than a record may be.
    TooLarge,
    /// The database refused the row's values.
    RefusedByDatabase,
    /// The table has a unique key beside `id`, and another row has the same value in it.
    DuplicateKeyInTable,
    /// The row of another record has the same key, and the dataset has `on_conflict = "reject"`. Or
    /// another program wrote the row with this key.
    KeyTaken,
    /// The table has a row with this record's `id` and other values: another program wrote it.
    IdTaken,
}

impl RejectCode {
    /// Every code, for documentation and metrics.
    pub const ALL: [Self; 16] = [
        Self::InvalidJson,
        Self::NotAnObject,
        Self::MissingField,
        Self::WrongType,
        Self::TextTooLong,
        Self::InvalidTimestamp,
        Self::NumberRange,
        Self::InvalidBinary,
        Self::DuplicateField,
        Self::UnknownField,
        Self::TooDeep,
        Self::TooLarge,
        Self::RefusedByDatabase,
        Self::DuplicateKeyInTable,
        Self::KeyTaken,
        Self::IdTaken,
    ];

    /// The code as tables, metrics and messages show it.
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
            Self::InvalidBinary => "invalid_binary",
            Self::DuplicateField => "duplicate_field",
            Self::UnknownField => "unknown_field",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::RefusedByDatabase => "refused_by_database",
            Self::DuplicateKeyInTable => "duplicate_key_in_table",
            Self::KeyTaken => "key_taken",
            Self::IdTaken => "id_taken",
        }
    }

    /// Whether the database refused the row. The worker that learns this no longer has the record,
    /// so such a reject holds neither the record's place in the file nor its text.
    #[must_use]
    pub const fn is_of_database(self) -> bool {
        matches!(
            self,
            Self::RefusedByDatabase | Self::DuplicateKeyInTable | Self::KeyTaken | Self::IdTaken
        )
    }

    /// The code with this text; the way back from [`as_str`](Self::as_str).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_file_number_and_ordinal() {
        for (file_no, ordinal) in [(1, 0), (7, 42), (i32::MAX as u32, u32::MAX)] {
            let id = row_id(file_no, ordinal);
            assert_eq!(provenance(id), (file_no, ordinal));
            assert!(i64::try_from(id).is_ok());
        }
    }

    #[test]
    fn each_code_is_parsed_from_its_text() {
        for code in RejectCode::ALL {
            assert_eq!(RejectCode::parse(code.as_str()), Some(code));
        }
        assert_eq!(RejectCode::parse("other"), None);
    }
}
