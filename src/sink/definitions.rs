//! Finds the definition with which a file was loaded. The ledger keeps the text of each definition.

use std::sync::Arc;

use crate::dataset::{Dataset, Datasets};

/// The dataset by whose definition a file was loaded. `text` is the definition in the ledger. For a
/// file of an earlier release, it is `None`, and the current definition with that name is used.
///
/// # Errors
/// The definition is missing or cannot be parsed. Holds the reason and the next step.
pub(super) fn dataset_of(
    name: &str,
    text: Option<&str>,
    datasets: &Datasets,
) -> Result<Arc<Dataset>, (&'static str, String)> {
    match (text, datasets.by_name(name)) {
        (Some(text), _) => recorded(text),
        (None, Some(dataset)) => Ok(dataset.clone()),
        (None, None) => Err((
            "define the dataset again as it was when the file was loaded",
            format!("the file is of the dataset `{name}`, which is not defined"),
        )),
    }
}

/// The dataset of a definition in the ledger.
///
/// # Errors
/// This release cannot read it. Holds the next step and the problem.
pub(super) fn recorded(text: &str) -> Result<Arc<Dataset>, (&'static str, String)> {
    Dataset::from_definition(text).map_err(|error| {
        let problem = format!("a definition in the ledger cannot be read: {error}");
        (
            "use the release that loaded the file, or a newer one",
            problem,
        )
    })
}

/// The dataset's name and the table of each definition of the ledger. A text that this release cannot
/// read is left out.
pub(super) fn tables_of(texts: &[String]) -> Vec<(String, String)> {
    let parsed = texts
        .iter()
        .filter_map(|text| Dataset::from_definition(text).ok());
    let mut tables: Vec<_> = parsed
        .map(|dataset| (dataset.name.clone(), dataset.table.clone()))
        .collect();
    tables.sort_unstable();
    tables.dedup();
    tables
}

/// SQL for the definitions of a dataset, each with its text. Its parameter is the dataset's name.
pub(super) const DEFINITIONS: &str =
    "SELECT definition, text FROM ingest_definitions WHERE dataset = ?";

/// A condition for `ingest_files`, as SQL: the file was not loaded by one of these definitions with
/// a table other than `table`.
pub(super) fn not_of_other_tables(definitions: &[(Vec<u8>, String)], table: &str) -> String {
    let is_other = |text: &str| Dataset::from_definition(text).is_ok_and(|of| of.table != table);
    let others = definitions.iter().filter(|(_, text)| is_other(text));
    let list: Vec<String> = others
        .filter_map(|(definition, _)| <[u8; 16]>::try_from(definition.as_slice()).ok())
        .map(|definition| format!("x'{:032x}'", u128::from_be_bytes(definition)))
        .collect();
    if list.is_empty() {
        return String::new();
    }
    let list = list.join(",");
    format!(" AND (definition IS NULL OR definition NOT IN ({list}))")
}
