//! What a check notices about the rows of a dataset: columns that no record fills, and fields that
//! no column takes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use arrow_array::Array as _;
use arrow_array::cast::AsArray;
use indexmap::IndexMap;
use serde_json::value::RawValue;

use crate::batch::Batch;
use crate::dataset::{RESCUE_COLUMN, escaped};

/// Most rows of a dataset whose `_rescued` is read.
const ROWS_MAX: usize = 10_000;

/// Most fields without a column that are named.
const FIELDS_MAX: usize = 20;

/// What is known of the rows of each dataset.
#[derive(Debug, Default)]
pub(super) struct Fields(IndexMap<String, OfDataset>);

#[derive(Debug, Default)]
struct OfDataset {
    rows: usize,
    /// For each column, its name, where its value is, and whether a row has a value in it.
    columns: Vec<(String, String, bool)>,
    /// How many rows have a field that no column takes.
    others: BTreeMap<String, usize>,
    examined: usize,
}

impl Fields {
    pub(super) fn add(&mut self, batch: &Batch) {
        let dataset = &batch.dataset;
        let of = self
            .0
            .entry(dataset.name.clone())
            .or_insert_with(|| OfDataset {
                columns: dataset
                    .columns
                    .iter()
                    .map(|column| (column.name.clone(), column.source(), false))
                    .collect(),
                ..OfDataset::default()
            });
        let rows = batch.rows.num_rows();
        of.rows += rows;
        // Column 0 is the id.
        for ((_, _, is_filled), array) in of.columns.iter_mut().zip(&batch.rows.columns()[1..]) {
            *is_filled |= array.null_count() < rows;
        }
        let rescued = batch
            .rows
            .column_by_name(RESCUE_COLUMN)
            .map(AsArray::as_string::<i32>);
        let left = ROWS_MAX.saturating_sub(of.examined);
        for text in rescued.into_iter().flatten().take(left).flatten() {
            let members: HashMap<String, &RawValue> =
                serde_json::from_str(text).unwrap_or_default();
            for key in members.into_keys() {
                if of.others.len() < FIELDS_MAX || of.others.contains_key(&key) {
                    *of.others.entry(key).or_default() += 1;
                }
            }
        }
        of.examined += rows;
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for (dataset, of) in &self.0 {
            let empty = of.columns.iter().filter(|(_, _, is_filled)| !is_filled);
            let empty: Vec<String> = empty
                .map(|(name, pointer, _)| format!("`{name}` ({})", pointer.escape_debug()))
                .collect();
            if !empty.is_empty() && of.rows > 0 {
                let empty = empty.join(", ");
                writeln!(out, "{dataset}: NULL in each of {} rows: {empty}", of.rows)?;
            }
            if !of.others.is_empty() {
                let field = |(key, count): (&String, &usize)| {
                    format!("`/{}` ({count})", escaped(key).escape_debug())
                };
                let others: Vec<String> = of.others.iter().map(field).collect();
                writeln!(
                    out,
                    "{dataset}: fields that no column takes, with the number of rows: {}",
                    others.join(", ")
                )?;
            }
        }
        Ok(())
    }
}
