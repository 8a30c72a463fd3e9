//! Which datasets a file belongs to, by its name.

use std::fmt;
use std::sync::Arc;

use super::{Dataset, Datasets};

/// The datasets that take the records of a file.
#[derive(Debug, Clone)]
pub struct FileDatasets<'a> {
    /// The dataset that the file belongs to: its own.
    pub own: &'a Arc<Dataset>,
    /// The other datasets that take the file by its name, because they have `also = true`.
    pub also: Vec<&'a Arc<Dataset>>,
    /// All datasets: any of them may have an array in the file.
    pub all: &'a Datasets,
}

impl fmt::Display for FileDatasets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.own.name)?;
        self.also
            .iter()
            .try_for_each(|also| write!(f, ", {}", also.name))
    }
}

/// Why a file name belongs to no dataset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoDataset {
    /// The name contains no pattern of a dataset. Holds all patterns.
    #[error("no dataset takes it: its name contains none of {0}")]
    None(String),
    /// The name contains only patterns of datasets with `also = true`. Holds one of them.
    #[error(
        "it belongs to no dataset: `{0}` takes it only in addition to another one; define the \
         dataset that it belongs to, or remove `also = true`"
    )]
    OnlyAlso(String),
    /// Two datasets have patterns of the same length in the name, and no pattern is longer.
    #[error(
        "its name fits the datasets `{0}` and `{1}` alike: make `files` of one of them longer, or \
         name the dataset with --dataset"
    )]
    Several(String, String),
}

impl Datasets {
    /// The datasets that take the file with this name (without directories). `own` is the dataset
    /// that it belongs to; `None` if its name decides.
    ///
    /// # Errors
    /// As [`for_file_name`](Self::for_file_name).
    pub fn of_file<'a>(
        &'a self,
        file_name: &[u8],
        own: Option<&'a Arc<Dataset>>,
    ) -> Result<FileDatasets<'a>, NoDataset> {
        let own = own.map_or_else(|| self.for_file_name(file_name), Ok)?;
        let also = self.also_of_file(file_name);
        Ok(FileDatasets {
            own,
            also: also.filter(|also| also.name != own.name).collect(),
            all: self,
        })
    }

    /// The dataset whose pattern this file name (without directories) contains. The longest pattern
    /// decides, so that `trips_eu` gets its files although they also contain `trips`. A dataset with
    /// `also = true` is never the answer.
    ///
    /// # Errors
    /// The name contains no pattern, or its longest patterns belong to two datasets.
    pub fn for_file_name(&self, file_name: &[u8]) -> Result<&Arc<Dataset>, NoDataset> {
        let owners = || self.iter().filter(|dataset| !dataset.also);
        let fits = |dataset: &&Arc<Dataset>| dataset.fits(file_name);
        let length = |dataset: &&Arc<Dataset>| dataset.files.len();
        let longest = owners().filter(fits).map(|dataset| length(&dataset)).max();
        let is_longest = |dataset: &&Arc<Dataset>| Some(length(dataset)) == longest;
        let mut found = owners().filter(fits).filter(is_longest);
        match (found.next(), found.next()) {
            (Some(dataset), None) => Ok(dataset),
            (Some(one), Some(other)) => {
                Err(NoDataset::Several(one.name.clone(), other.name.clone()))
            }
            (None, _) => {
                if let Some(also) = self.also_of_file(file_name).next() {
                    return Err(NoDataset::OnlyAlso(also.name.clone()));
                }
                let patterns: Vec<_> = owners().map(|dataset| &*dataset.files).collect();
                Err(NoDataset::None(patterns.join(", ")))
            }
        }
    }

    /// The datasets with `also = true` whose pattern this file name contains.
    pub fn also_of_file(&self, file_name: &[u8]) -> impl Iterator<Item = &Arc<Dataset>> {
        self.iter()
            .filter(|dataset| dataset.also)
            .filter(move |dataset| dataset.fits(file_name))
    }
}

impl Dataset {
    /// Whether a file name contains the pattern of this dataset.
    fn fits(&self, file_name: &[u8]) -> bool {
        let pattern = self.files.as_bytes();
        file_name.windows(pattern.len()).any(|part| part == pattern)
    }
}
