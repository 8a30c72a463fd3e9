//! The files in which a dataset finds nothing although it takes them by their name: its `records`
//! lead to no array there. Another dataset has the records of the file, or a part of them.
//!
//! That is no fault of a file, whose arrays may be optional. But it is also what a wrong pointer
//! looks like, so it is counted and told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::dataset::Dataset;

/// How often the log tells of a dataset. More often, a dataset whose array is optional would fill
/// the log.
const TOLD_EVERY: Duration = Duration::from_mins(10);

/// The files without records of one dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The name of the dataset.
    pub dataset: String,
    /// Its `records`.
    pub pointer: String,
    /// How many files.
    pub files: u64,
    /// The first of them: its path in an archive, or its path below inbound, which is also that below
    /// history.
    pub first: PathBuf,
}

/// The files without records, for each dataset.
#[derive(Debug, Default)]
pub(super) struct UnmetFiles(Mutex<BTreeMap<String, Counted>>);

#[derive(Debug)]
struct Counted {
    unmet: Unmet,
    /// The files that the log has not told of.
    untold: u64,
    told_at: Option<Instant>,
}

impl UnmetFiles {
    /// Counts a file in which `dataset` has nothing.
    pub(super) fn note(&self, dataset: &Dataset, file: &Path) {
        let mut all = self.0.lock();
        let counted = all.entry(dataset.name.clone()).or_insert_with(|| Counted {
            unmet: Unmet {
                dataset: dataset.name.clone(),
                pointer: dataset.pointer().to_owned(),
                files: 0,
                first: file.to_owned(),
            },
            untold: 0,
            told_at: None,
        });
        counted.unmet.files += 1;
        counted.untold += 1;
    }

    /// All files so far, for each dataset.
    pub(super) fn all(&self) -> Vec<Unmet> {
        let all = self.0.lock();
        all.values().map(|counted| counted.unmet.clone()).collect()
    }

    /// What the log should tell now: for each dataset the files since it was told of last. A dataset
    /// is told of at once, and then every ten minutes.
    pub(super) fn to_tell(&self) -> Vec<Unmet> {
        let now = Instant::now();
        let mut all = self.0.lock();
        let is_due = |counted: &&mut Counted| {
            let told_at = counted.told_at;
            counted.untold > 0 && told_at.is_none_or(|at| now.duration_since(at) >= TOLD_EVERY)
        };
        let due = all.values_mut().filter(is_due);
        due.map(|counted| {
            counted.told_at = Some(now);
            Unmet {
                files: std::mem::take(&mut counted.untold),
                ..counted.unmet.clone()
            }
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Datasets;

    #[tokio::test(start_paused = true)]
    async fn the_log_tells_of_many_files_in_one_line() {
        let datasets = Datasets::default();
        let dataset = datasets.iter().next().unwrap();
        let unmet = UnmetFiles::default();
        let files = |all: Vec<Unmet>| all.iter().map(|it| it.files).collect::<Vec<_>>();
        let note = |count: usize| {
            for at in 0..count {
                unmet.note(dataset, Path::new(&format!("{at}.json")));
            }
        };
        assert_eq!(files(unmet.to_tell()), [0; 0]);
        note(256);
        assert_eq!(files(unmet.to_tell()), [256]);
        note(3);
        assert_eq!(files(unmet.to_tell()), [0; 0]);
        tokio::time::advance(TOLD_EVERY).await;
        note(1);
        assert_eq!(files(unmet.to_tell()), [4]);
        tokio::time::advance(TOLD_EVERY).await;
        assert_eq!(files(unmet.to_tell()), [0; 0]);
        assert_eq!(files(unmet.all()), [260]);
        assert_eq!(unmet.all()[0].first, Path::new("0.json"));
    }
}
