//! The part of `verify` that finds rows whose file number belongs to no file of their dataset.
//!
//! Rows and ledger entries commit together, so such rows were left by a backup that was restored, or
//! written by another program. The ranges between the numbers of a dataset's files must be empty:
//! they are counted by the primary key, [`PAGE_FILES`] files at a time.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use serde_json::json;

use crate::batch::row_id;
use crate::dataset::Dataset;
use crate::sink::{Database, LedgerFile, Operators};

use super::print;

/// Files read from the ledger, and ranges counted, at a time.
const PAGE_FILES: usize = 500;

/// Rows of no file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uncovered {
    /// Rows that `verify` reports.
    pub(super) rows: u64,
    /// Rows with numbers below an entry of `migrate --keep-rows`.
    pub(super) kept: u64,
}

/// Finds the rows of these datasets with file numbers from 1 up to the ledger's highest number or
/// `before`, and prints a line for each range of numbers that has some.
///
/// Numbers above the ledger's highest are left to [`migrate`](crate::sink::Schema::migrate), which
/// compares them first.
pub(super) async fn find(
    operators: &dyn Database,
    datasets: impl Iterator<Item = &Arc<Dataset>>,
    before: u32,
    json: bool,
) -> anyhow::Result<Uncovered> {
    let mut found = Uncovered::default();
    let tables = operators.tables().await?;
    for dataset in datasets {
        let of_table = tables.iter().filter(|(_, table)| *table == dataset.table);
        let mut names: Vec<&str> = of_table.map(|(name, _)| name.as_str()).collect();
        names.push(&dataset.name);
        let mut walk = Walk {
            operators,
            dataset,
            names,
            json,
            end: None,
            kept_below: operators.kept_below().await?,
        };
        walk.run(before, &mut found).await?;
    }
    Ok(found)
}

struct Walk<'a> {
    operators: &'a dyn Operators,
    dataset: &'a Arc<Dataset>,
    /// The names of the datasets that have or had its table.
    names: Vec<&'a str>,
    json: bool,
    /// The number above the gap that is counted next. `None` before the first file.
    end: Option<u32>,
    /// Rows with lower file numbers are kept.
    kept_below: u32,
}

/// File numbers that no file of the dataset has.
type Gap = Range<u32>;

impl Walk<'_> {
    /// Reads the ledger from its newest file down to the first.
    async fn run(&mut self, before: u32, found: &mut Uncovered) -> anyhow::Result<()> {
        let mut below = before;
        loop {
            let page = self.operators.files(0..below, None, PAGE_FILES).await?;
            let gaps = page.iter().filter_map(|file| self.pass(file, before));
            let mut gaps: Vec<Gap> = gaps.collect();
            let Some(last) = page.last() else {
                gaps.push(1..self.end.unwrap_or(self.kept_below.min(before)));
                return self.count(&gaps, found).await;
            };
            below = last.entry.file_no;
            self.count(&gaps, found).await?;
        }
    }

    /// Passes a file on the way down. Returns the gap above it. `None` if there is none.
    fn pass(&mut self, file: &LedgerFile, before: u32) -> Option<Gap> {
        let file_no = file.entry.file_no;
        let end = self
            .end
            .unwrap_or_else(|| self.kept_below.min(before).max(file_no + 1));
        self.end = Some(end);
        // A number of another dataset's file belongs to the gap.
        if !self.names.contains(&&*file.entry.dataset) {
            return None;
        }
        let gap = file_no + 1..end;
        self.end = Some(file_no);
        (!gap.is_empty()).then_some(gap)
    }

    async fn count(&self, gaps: &[Gap], found: &mut Uncovered) -> anyhow::Result<()> {
        // A gap has kept rows below a number, and others from that number on.
        let parts = |gap: &Gap| {
            let between = self.kept_below.clamp(gap.start, gap.end.max(gap.start));
            [gap.start..between, between..gap.end]
        };
        let gaps: Vec<Gap> = gaps
            .iter()
            .flat_map(parts)
            .filter(|gap| !gap.is_empty())
            .collect();
        let ids = gaps
            .iter()
            .map(|files| row_id(files.start, 0)..row_id(files.end, 0));
        let ids: Vec<_> = ids.collect();
        let counts = self.operators.count_ids(self.dataset, &ids).await?;
        for (files, rows) in gaps.iter().zip(counts) {
            if rows == 0 {
                continue;
            }
            // The service may have registered a file with one of these numbers since.
            let newer = self
                .operators
                .files(files.clone(), None, PAGE_FILES)
                .await?;
            if newer
                .iter()
                .any(|file| self.names.contains(&&*file.entry.dataset))
            {
                continue;
            }
            if files.end <= self.kept_below {
                found.kept += rows;
                continue;
            }
            found.rows += rows;
            self.report(files, rows)?;
        }
        Ok(())
    }

    fn report(&self, files: &Range<u32>, rows: u64) -> io::Result<()> {
        let (table, first, last) = (&self.dataset.table, files.start, files.end - 1);
        if self.json {
            let line = json!({
                "table": table, "first_file_no": first, "last_file_no": last, "rows": rows,
                "problem": "uncovered"
            });
            return print(&format!("{line}\n"));
        }
        let numbers = if first == last {
            format!("number {first}")
        } else {
            format!("numbers {first} to {last}")
        };
        print(&format!(
            "table {table}: {rows} rows with file {numbers}, and the ledger has no such file of this \
             dataset\n"
        ))
    }
}
