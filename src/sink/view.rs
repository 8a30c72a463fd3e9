//! The view of a dataset's settled rows, with the time at which their file was settled.

use super::table::dataset_table;
use crate::dataset::{Dataset, Datasets, SETTLED_AT};

/// A view of a definition.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    select: String,
}

/// The views of all datasets.
pub(super) fn views(datasets: &Datasets) -> impl Iterator<Item = View<'_>> {
    let datasets = datasets.iter();
    datasets.filter_map(|dataset| {
        let name = dataset.settled_view.as_deref()?;
        Some(View {
            name,
            select: select(dataset),
        })
    })
}

/// The statements that create them.
pub(super) fn statements(datasets: &Datasets) -> impl Iterator<Item = String> {
    views(datasets).map(|view| view.create())
}

impl View<'_> {
    /// The statement that creates the view.
    pub(super) fn create(&self) -> String {
        format!("CREATE VIEW `{}` AS {}", self.name, self.select)
    }
}

/// The number of a file is the upper half of the ids of its rows. It is compared in two ways: a query
/// by rows finds their files by the first, and one by the time of files finds their rows by the second.
fn select(dataset: &Dataset) -> String {
    let table = dataset_table(dataset);
    let columns = table.columns.iter();
    let columns: Vec<_> = columns
        .map(|column| format!("r.`{}`", column.name))
        .collect();
    format!(
        "SELECT {}, f.`settled_at` AS `{SETTLED_AT}` FROM `{}` AS r JOIN `ingest_files` AS f ON \
         f.`file_no` = r.`id` >> 32 AND r.`id` BETWEEN f.`file_no` << 32 AND (f.`file_no` << 32) + \
         4294967295 WHERE f.`state` = 'settled'",
        columns.join(", "),
        dataset.table,
    )
}
