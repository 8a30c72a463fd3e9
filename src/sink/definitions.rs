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
        (Some(text), _) => Dataset::from_definition(text).map_err(|error| {
            let problem = format!("the definition of `{name}` in the ledger: {error}");
            (
                "use the release that loaded the file, or a newer one",
                problem,
            )
        }),
        (None, Some(dataset)) => Ok(dataset.clone()),
        (None, None) => Err((
            "define the dataset again as it was when the file was loaded",
            format!("the file is of the dataset `{name}`, which is not defined"),
        )),
    }
}
