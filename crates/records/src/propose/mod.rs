//! Proposes the definition of a dataset for samples: how the files hold their records, and a column
//! for each field, with the type that keeps every digit of every value.
//!
//! [`Samples`] takes the bytes of one file after the other and keeps what it knows of each field,
//! in memory that does not grow with the files. [`Samples::proposal`] decides. It prefers the type
//! that loads all samples, and adds a note where another type could be meant. Pure: the caller
//! reads the files and writes the definition.

mod decide;
mod evidence;
mod json;
mod names;
mod numbers;
mod shape;
#[cfg(test)]
mod tests;
mod texts;

use std::sync::Arc;

use serde_json::json;

use decide::Around;
pub use decide::ProposedColumn;
use evidence::Evidence;
pub use names::of_dataset;
pub use shape::{FoundArray, NoRecords, Shape};
use texts::Place;

use crate::cut::{self, ChunkLimits, Unreadable};
use crate::dataset::{Dataset, Datasets, EACH, Format, InvalidDataset, escaped};
use crate::parse::RECORD_BYTES_MAX;

/// Chunks of this size are searched for records at a time.
const LIMITS: ChunkLimits = ChunkLimits {
    records: 10_000,
    bytes: 1 << 20,
};

/// Samples of the files of one dataset.
#[derive(Debug)]
pub struct Samples {
    /// The array of records. `None` as long as no file has one.
    records: Option<String>,
    /// Whether the user named it.
    is_named: bool,
    /// Most records to examine.
    records_max: u64,
    /// `auto` as long as no file has a value, and for files of several formats.
    format: Format,
    arrays: Vec<FoundArray>,
    /// Whether the first value of a file is no array, and whether that of a file is one.
    are_arrays: [bool; 2],
    /// The names of the files whose records were added.
    files: Vec<String>,
    evidence: Evidence,
    skipped: u64,
    left: u64,
}

/// Why a file is no sample.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotASample {
    /// No definition would load it.
    #[error(transparent)]
    NoRecords(#[from] NoRecords),
    /// Its records cannot be found.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The pointer that the user named cannot be one.
    #[error(transparent)]
    Invalid(#[from] InvalidDataset),
    /// Its records are in another array than those of the files before. Holds both pointers.
    #[error(
        "the records of the files before are in the array `{0}`, those of this file in `{1}`: \
         propose a definition for each kind of file, or name the array with --records"
    )]
    OtherArray(String, String),
}

/// A proposal for a dataset, without its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// How the records of a file are separated.
    pub format: Format,
    /// The array of records in an envelope; empty if there is none.
    pub records: String,
    /// A column for each field.
    pub columns: Vec<ProposedColumn>,
    /// What a user should know about the dataset as a whole.
    pub notes: Vec<String>,
    /// How many records it rests on.
    pub examined: u64,
}

impl Samples {
    /// Samples of which at most `records_max` records are examined. `records` is the JSON pointer to
    /// their array; empty if each object is a record; `None` to search it.
    #[must_use]
    pub fn new(records: Option<String>, records_max: u64) -> Self {
        Self {
            is_named: records.is_some(),
            records,
            records_max,
            format: Format::Auto,
            arrays: Vec::new(),
            are_arrays: [false; 2],
            files: Vec::new(),
            evidence: Evidence::default(),
            skipped: 0,
            left: 0,
        }
    }

    /// Looks at the shape of a file: how the files separate their records, and which array holds
    /// them. Comes before [`add`](Self::add) of any file, because an empty array does not show that
    /// records belong into it.
    ///
    /// # Errors
    /// [`NotASample`].
    pub fn look(&mut self, bytes: &[u8]) -> Result<(), NotASample> {
        let mut shape = Shape::of(bytes)?;
        // A line is one record; the values of a sequence may be envelopes.
        let has_pointer = self.records.as_ref().is_some_and(|it| !it.is_empty());
        if self.is_named && has_pointer && shape.format == Format::Lines {
            shape.format = Format::Sequence;
        }
        self.format = both(self.format, shape.format);
        if shape.format != Format::Auto {
            self.are_arrays[usize::from(shape.is_array)] = true;
        }
        let found = shape
            .arrays
            .first()
            .filter(|_| shape.is_envelope && !self.is_named);
        if let Some(array) = found {
            match &self.records {
                Some(earlier) if *earlier != array.pointer => {
                    let (one, other) = (earlier.clone(), array.pointer.clone());
                    return Err(NotASample::OtherArray(one, other));
                }
                _ => self.records = Some(array.pointer.clone()),
            }
        }
        for array in shape.arrays {
            if !self
                .arrays
                .iter()
                .any(|known| known.pointer == array.pointer)
            {
                self.arrays.push(array);
            }
        }
        Ok(())
    }

    /// Adds the records of the file with this name.
    ///
    /// # Errors
    /// [`NotASample`].
    pub fn add(&mut self, file: &str, bytes: &[u8]) -> Result<(), NotASample> {
        let pointer = self.records.clone().unwrap_or_default();
        let dataset = searched(bytes, self.format, &pointer)?;
        let plan = cut::cut(bytes, &dataset, LIMITS)?;
        self.files.push(file.to_owned());
        let file = self.files.len() - 1;
        for chunk in &plan.chunks {
            if self.evidence.records >= self.records_max {
                self.left += u64::from(chunk.records);
                continue;
            }
            let place = |at: u64| usize::try_from(at).expect("the bytes have addresses");
            let part = &bytes[place(chunk.start)..place(chunk.end)];
            let records = cut::records(part, chunk.layout, &dataset);
            for (record, ordinal) in records.into_iter().zip(u64::from(chunk.first_ordinal)..) {
                let at = Place { file, ordinal };
                if self.evidence.records >= self.records_max {
                    self.left += 1;
                } else if record.len() > RECORD_BYTES_MAX || !self.evidence.add(&part[record], at) {
                    self.skipped += 1;
                }
            }
        }
        Ok(())
    }

    /// The proposal for the files so far. `None` if they have no record that is an object.
    #[must_use]
    pub fn proposal(&self) -> Option<Proposal> {
        let (format, records) = (self.format, self.records.clone().unwrap_or_default());
        if self.evidence.records == 0 {
            return None;
        }
        let record = self.record(&records);
        let around = Around {
            record: record.as_deref(),
            files: &self.files,
        };
        let (columns, mut notes) = decide::columns(&self.evidence, &around);
        for array in &self.arrays {
            if array.pointer != records && !records.starts_with(&format!("{}/", array.pointer)) {
                notes.push(format!(
                    "an array at `{}` has objects ({}): if these are the records, run this again with \
                     --records {}",
                    array.pointer, array.elements, array.pointer
                ));
            }
        }
        if self.skipped > 0 {
            notes.push(format!(
                "{} records are rejects of any dataset",
                self.skipped
            ));
        }
        if self.left > 0 {
            notes.push(format!("{} more records were not examined", self.left));
        }
        (!columns.is_empty()).then_some(Proposal {
            format,
            records,
            columns,
            notes,
            examined: self.evidence.records,
        })
    }
}

impl Samples {
    /// The pointer that leads to a record, if `records` leads to the array of them; empty if a record
    /// is the value itself. `None` if the samples differ.
    fn record(&self, records: &str) -> Option<String> {
        let each = format!("/{EACH}");
        match self.are_arrays {
            [true, true] => None,
            [_, true] if records.is_empty() => Some(each),
            _ if records.is_empty() || records.ends_with(&each) => Some(records.to_owned()),
            _ => Some(format!("{records}{each}")),
        }
    }
}

/// The format of files of two formats.
fn both(one: Format, other: Format) -> Format {
    match (one, other) {
        (Format::Auto, format) | (format, Format::Auto) => format,
        _ if one == other => one,
        (Format::Sequence, _) | (_, Format::Sequence) => Format::Sequence,
        _ => Format::Auto,
    }
}

/// A dataset by which the records of a file are cut. Its columns take the members of the first
/// value, so that this value counts as a record where it is one.
fn searched(bytes: &[u8], format: Format, pointer: &str) -> Result<Arc<Dataset>, InvalidDataset> {
    const NAME: &str = "samples";
    let column = |at: usize, key: &str| json!({"name": format!("c{at}"), "field": format!("/{}", escaped(key)), "type": "json"});
    let keys = shape::first_keys(bytes);
    let mut columns: Vec<_> = keys
        .iter()
        .enumerate()
        .map(|(at, key)| column(at, key))
        .collect();
    // A required field that no file has: an object whose array of records is empty is an envelope here,
    // and a record only if it has all required fields.
    columns.push(column(columns.len(), "\0"));
    let definition =
        json!({"name": NAME, "records": pointer, "format": format, "columns": columns});
    let dataset = serde_json::from_value(definition).expect("it has the keys of a dataset");
    let datasets = Datasets::new(vec![dataset])?;
    Ok(datasets.by_name(NAME).expect("it was given").clone())
}
