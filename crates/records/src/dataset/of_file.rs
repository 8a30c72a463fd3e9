//! Which datasets a file belongs to, by its name, and by the directories that its path ends with.
//!
//! A glob for directories is compared with the end of a path. So it means the same for a file
//! whether the path is relative, absolute, or that of the ledger.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use glob::{MatchOptions, Pattern};

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

impl<'a> FileDatasets<'a> {
    /// The datasets that take the file by its name: its own, then the others.
    pub fn by_name(&self) -> impl Iterator<Item = &'a Arc<Dataset>> {
        std::iter::once(self.own).chain(self.also.iter().copied())
    }

    /// Those of [`by_name`](Self::by_name) whose `records` lead to nothing in the file. `found` are
    /// the datasets that have an array or a record in it; an array may be empty.
    pub fn unmet<T>(&self, found: &[(Arc<Dataset>, T)]) -> Vec<Arc<Dataset>> {
        let is_found = |it: &Dataset| found.iter().any(|(dataset, _)| dataset.name == it.name);
        let unmet = self.by_name().filter(|it| !is_found(it));
        unmet.cloned().collect()
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
    /// The datasets that take the file with this path, which may be its name alone. `own` is the
    /// dataset that it belongs to; `None` if the path decides.
    ///
    /// # Errors
    /// As [`for_file_name`](Self::for_file_name).
    pub fn of_file<'a>(
        &'a self,
        path: &[u8],
        own: Option<&'a Arc<Dataset>>,
    ) -> Result<FileDatasets<'a>, NoDataset> {
        let own = own.map_or_else(|| self.for_file_name(path), Ok)?;
        let also = self.also_of_file(path);
        Ok(FileDatasets {
            own,
            also: also.filter(|also| also.name != own.name).collect(),
            all: self,
        })
    }

    /// The dataset whose pattern fits the file with this path, which may be its name alone. The
    /// pattern with the most characters that are no wildcards decides, so that `trips_eu` gets its
    /// files although they also contain `trips`. A dataset with `also = true` is never the answer.
    ///
    /// # Errors
    /// The name contains no pattern, or its longest patterns belong to two datasets.
    pub fn for_file_name(&self, file_name: &[u8]) -> Result<&Arc<Dataset>, NoDataset> {
        let owners = || self.iter().filter(|dataset| !dataset.also);
        let fits = |dataset: &&Arc<Dataset>| dataset.fits(file_name);
        let length = |dataset: &&Arc<Dataset>| dataset.literal_bytes();
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
    /// Whether the pattern of this dataset fits the file with this path.
    fn fits(&self, path: &[u8]) -> bool {
        const OPTIONS: MatchOptions = MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: false,
        };
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        if !self.is_glob() {
            let pattern = self.files.as_bytes();
            return name.windows(pattern.len()).any(|part| part == pattern);
        }
        let pattern = Pattern::new(&self.files).expect("the definition is checked");
        let path = String::from_utf8_lossy(path);
        // Each end of the path that begins after a `/`, and the path itself.
        let ends = path.match_indices('/').map(|(at, _)| &path[at + 1..]);
        std::iter::once(&*path)
            .chain(ends)
            .any(|end| pattern.matches_with(end, OPTIONS))
    }

    fn is_glob(&self) -> bool {
        self.files.contains(['*', '?', '[', '/'])
    }

    /// How many bytes of the pattern are no wildcards.
    fn literal_bytes(&self) -> usize {
        let is_wildcard = |byte: &u8| self.is_glob() && matches!(byte, b'*' | b'?');
        self.files.bytes().filter(|byte| !is_wildcard(byte)).count()
    }

    /// The pattern of this dataset as a glob.
    #[must_use]
    pub fn files_as_glob(&self) -> Cow<'_, str> {
        if self.is_glob() {
            Cow::Borrowed(&self.files)
        } else {
            Cow::Owned(format!("*{}*", self.files))
        }
    }

    /// What is wrong with the pattern. `None` if nothing is.
    pub(super) fn glob_problem(&self) -> Option<String> {
        let files = &self.files;
        if !self.is_glob() {
            return None;
        }
        if let Err(error) = Pattern::new(files) {
            return Some(format!("`files = \"{files}\"` is no glob: {}", error.msg));
        }
        let class = empty_class(files)?;
        Some(format!(
            "`files = \"{files}\"` fits no file: `{class}` is no character, since its first is after its \
             last"
        ))
    }
}

/// The first class of characters of a glob, such as `[z-a]`, that no character belongs to. The glob
/// must be one.
fn empty_class(glob: &str) -> Option<&str> {
    let mut rest = glob;
    while let Some(start) = rest.find('[') {
        let class = &rest[start..];
        // As the parser of globs: a `]` at the first place belongs to the class.
        let inner = class[1..].trim_start_matches('!');
        let first = inner.chars().next().map_or(0, char::len_utf8);
        let end = first + inner[first..].find(']')?;
        let is_negated = class[1..].starts_with('!');
        let length = class.len() - inner.len() + end + 1;
        let mut chars = &inner.chars().collect::<Vec<_>>()[..inner[..end].chars().count()];
        let mut is_empty = !is_negated;
        while let Some((first, others)) = chars.split_first() {
            if let ['-', last, others @ ..] = others {
                is_empty &= first > last;
                chars = others;
            } else {
                is_empty = false;
                chars = others;
            }
        }
        if is_empty {
            return Some(&class[..length]);
        }
        rest = &class[length..];
    }
    None
}
