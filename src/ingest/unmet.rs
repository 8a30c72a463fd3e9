//! The files in which a dataset finds nothing although it takes them by their name: its `records`
//! lead to no array there. Another dataset has the records of the file, or a part of them.
//!
//! That is no fault of a file, whose arrays may be optional. But it is also what a wrong pointer
//! looks like, so it is counted and told.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::dataset::Dataset;

/// How often the log tells of a dataset. More often, a dataset whose array is optional would fill
/// the log.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// The files in which one dataset has nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmet {
    /// The name of the dataset.
    pub dataset: String,
    /// Its `records`.
    pub pointer: String,
    /// How many files.
    pub files: u64,
    /// In how many files it has something.
    pub met: u64,
    /// The first of `files`: its path in an archive, or its path below inbound, which is also that
    /// below history.
    pub first: PathBuf,
}

/// The files of each dataset.
#[derive(Debug, Default)]
pub(super) struct UnmetFiles(Mutex<BTreeMap<String, Counted>>);

#[derive(Debug, Default)]
struct Counted {
    met: u64,
    /// `None` as long as the dataset has something in each file.
    unmet: Option<Unmet>,
    /// The files of `unmet` that the log has not told of.
    untold: u64,
    told_at: Option<Instant>,
}

impl UnmetFiles {
    /// Counts a file in which some datasets have something, and others, which take it by its name,
    /// have nothing.
    pub(super) fn note<'a>(
        &self,
        file: &Path,
        met: impl Iterator<Item = &'a Arc<Dataset>>,
        unmet: &[Arc<Dataset>],
    ) {
        let mut all = self.0.lock();
        for dataset in met {
            match all.get_mut(&dataset.name) {
                Some(counted) => counted.met += 1,
                None => all.entry(dataset.name.clone()).or_default().met = 1,
            }
        }
        for dataset in unmet {
            let counted = all.entry(dataset.name.clone()).or_default();
            let new = || Unmet {
                dataset: dataset.name.clone(),
                pointer: dataset.pointer().to_owned(),
                files: 0,
                met: 0,
                first: file.to_owned(),
            };
            counted.unmet.get_or_insert_with(new).files += 1;
            counted.untold += 1;
        }
    }

    /// All files so far, for each dataset that has nothing in some.
    pub(super) fn all(&self) -> Vec<Unmet> {
        let all = self.0.lock();
        all.values().filter_map(Counted::now).collect()
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
        let tell = |counted: &mut Counted| {
            counted.told_at = Some(now);
            let files = std::mem::take(&mut counted.untold);
            counted.now().map(|unmet| Unmet { files, ..unmet })
        };
        due.filter_map(tell).collect()
    }
}

impl Counted {
    fn now(&self) -> Option<Unmet> {
        let unmet = self.unmet.clone()?;
        Some(Unmet {
            met: self.met,
            ..unmet
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Datasets;

    #[tokio::test(start_paused = true)]
    async fn the_log_tells_of_many_files_in_one_line() {
        let datasets = Datasets::new(Vec::new()).unwrap();
        let dataset = datasets.iter().next().unwrap().clone();
        let unmet = UnmetFiles::default();
        let counts = |all: Vec<Unmet>| {
            let counts = all.iter().map(|it| (it.files, it.met));
            counts.collect::<Vec<_>>()
        };
        let note = |count: usize| {
            for at in 0..count {
                let file = format!("{at}.json");
                let datasets = std::slice::from_ref(&dataset);
                unmet.note(Path::new(&file), [].into_iter(), datasets);
            }
        };
        assert_eq!(counts(unmet.to_tell()), []);
        note(256);
        assert_eq!(counts(unmet.to_tell()), [(256, 0)]);
        note(3);
        assert_eq!(counts(unmet.to_tell()), []);
        unmet.note(Path::new("met.json"), [&dataset].into_iter(), &[]);
        tokio::time::advance(TOLD_EVERY).await;
        note(1);
        assert_eq!(counts(unmet.to_tell()), [(4, 1)]);
        tokio::time::advance(TOLD_EVERY).await;
        assert_eq!(counts(unmet.to_tell()), []);
        assert_eq!(counts(unmet.all()), [(260, 1)]);
        assert_eq!(unmet.all()[0].first, Path::new("0.json"));
    }
}
