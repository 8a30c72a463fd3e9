//! What each dataset has found in the files that it takes by their name.

use std::io::{self, Write};

use indexmap::IndexMap;
use serde_json::{Value, json};

use crate::batch::Batch;
use crate::commands::parsed::{NothingOf, listed};
use crate::dataset::{Dataset, FileDatasets};
use crate::propose::FoundArray;

/// The datasets in the order in which the first file of each came.
#[derive(Debug, Default)]
pub(super) struct ByName(IndexMap<String, OfDataset>);

#[derive(Debug, Default)]
struct OfDataset {
    pointer: String,
    /// The files that it takes by their name, and that can be read.
    files: u64,
    records: u64,
    /// Those of `files` in which it has nothing.
    unmet: u64,
    /// The first of them, with the arrays in it.
    example: Option<(String, Vec<FoundArray>)>,
}

impl ByName {
    /// Counts the records of a batch.
    pub(super) fn add(&mut self, batch: &Batch) {
        self.of(&batch.dataset).records += u64::from(batch.span.records);
    }

    /// Counts a file that was read.
    pub(super) fn add_file(&mut self, file: &str, of: &FileDatasets<'_>, nothing: &NothingOf) {
        for dataset in of.by_name() {
            self.of(dataset).files += 1;
        }
        for dataset in &nothing.datasets {
            let of = self.of(dataset);
            of.unmet += 1;
            of.example
                .get_or_insert_with(|| (file.to_owned(), nothing.arrays.clone()));
        }
    }

    fn of(&mut self, dataset: &Dataset) -> &mut OfDataset {
        let new = || OfDataset {
            pointer: dataset.pointer().to_owned(),
            ..OfDataset::default()
        };
        self.0.entry(dataset.name.clone()).or_insert_with(new)
    }

    /// Whether a dataset has nothing in any of the files that it takes, and none in others: its
    /// `records` are most likely wrong.
    pub(super) fn has_wrong_pointer(&self) -> bool {
        let mut all = self.0.values();
        all.any(|of| of.unmet > 0 && of.unmet == of.files && of.records == 0)
    }

    /// Prints a line for each dataset, if there are several, or one of them has nothing in a file.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let is_told = self.0.len() > 1 || self.0.values().any(|of| of.unmet > 0);
        for (dataset, of) in self.0.iter().filter(|_| is_told) {
            let OfDataset {
                pointer,
                files,
                records,
                unmet,
                example,
            } = of;
            let plural = if *files == 1 { "" } else { "s" };
            write!(out, "{dataset}: {files} file{plural} by name, ")?;
            let pointer = pointer.escape_debug();
            match example {
                None => writeln!(out, "{records} records")?,
                Some((file, arrays)) => {
                    // The records of a dataset may also be in files that another one takes.
                    if unmet < files || *records > 0 {
                        write!(out, "{records} records; in {unmet} of them ")?;
                    }
                    let file = file.escape_debug();
                    let arrays = match listed(arrays) {
                        none if none.is_empty() => "no array of objects".to_owned(),
                        arrays => format!("arrays of objects at {arrays}"),
                    };
                    writeln!(out, "no array at `{pointer}`; {file} has {arrays}")?;
                }
            }
        }
        Ok(())
    }

    /// The same for a program.
    pub(super) fn as_json(&self) -> Value {
        let all = self.0.iter().map(|(dataset, of)| {
            let mut line = json!({
                "dataset": dataset, "files": of.files, "records": of.records, "unmet": of.unmet
            });
            if let Some((file, arrays)) = &of.example {
                let pointers = arrays.iter().map(|array| array.pointer.clone());
                line["first_unmet"] = json!(file);
                line["arrays"] = pointers.collect();
            }
            line
        });
        all.collect()
    }
}
