//! The rule for a content that the ledger has for a dataset to which the file does not belong: after
//! a change of the settings, another dataset takes the file. Pure, for both dialects.
//!
//! One content may belong to several datasets: the datasets of one file, and those of files with
//! different names. Each has an entry of its own, and none of them is affected.

use crate::dataset::Datasets;

use super::{EarlierState, FileState, NewFile};

/// An entry that is the file, by its [likeness](super::identities).
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) file_no: u32,
    pub(super) state: FileState,
    pub(super) dataset: &'a str,
    pub(super) name: &'a str,
    pub(super) records: u32,
}

/// What an entry of another dataset means for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// The file has this earlier state, under this number. If the state is
    /// [`OtherDefinition`](EarlierState::OtherDefinition), the entry goes to quarantine, so that the
    /// next attempt removes its records.
    Earlier(u32, EarlierState),
    /// The dataset of the entry with this number no longer exists. If its table is the one of the
    /// file's dataset, the dataset was renamed, and the file is settled.
    PerhapsRenamed(u32),
}

/// What the entries of other datasets mean for a file of `files`. `entries` are those that are the
/// file. `None` if the file is independent of them.
pub(super) fn elsewhere(
    file: &NewFile,
    files: &[NewFile],
    entries: &[Entry<'_>],
    datasets: &Datasets,
) -> Option<Elsewhere> {
    let is_part = |entry: &Entry<'_>| {
        let content = file.content();
        let mut parts = files.iter().filter(|part| part.content() == content);
        entry.dataset == file.dataset || parts.any(|part| part.dataset == entry.dataset)
    };
    let has_own = entries.iter().any(|entry| entry.dataset == file.dataset);
    let means = |entry: &Entry<'_>| {
        let earlier = |earlier| Some(Elsewhere::Earlier(entry.file_no, earlier));
        let has_name = entry.name == file.name;
        match entry.state {
            FileState::Removing => earlier(EarlierState::BegunOtherwise),
            FileState::Pending if has_name => earlier(EarlierState::OtherDefinition),
            // Without an entry of its own, the file gets this one.
            FileState::Quarantined if has_name && has_own => earlier(EarlierState::BegunOtherwise),
            FileState::Settled
                if !has_own
                    && entry.records == file.records
                    && datasets.by_name(entry.dataset).is_none() =>
            {
                Some(Elsewhere::PerhapsRenamed(entry.file_no))
            }
            _ => None,
        }
    };
    entries
        .iter()
        .filter(|entry| !is_part(entry))
        .find_map(means)
}

/// The reason of an entry that goes to quarantine because another dataset takes its file.
pub(super) fn reason(file: &NewFile) -> String {
    format!(
        "other_definition: the file belongs to the dataset `{}` now: `task_runner files retry` removes \
         the stored records of this entry and loads the file by that dataset",
        file.dataset
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dataset: &str) -> NewFile {
        NewFile {
            hash: [7; 16],
            taken: None,
            dataset: dataset.to_owned(),
            name: "a_1.json".to_owned(),
            path: None,
            bytes: 1,
            records: 2,
            definition: None,
            mark: None,
        }
    }

    #[test]
    fn only_what_a_change_of_the_settings_explains_affects_a_file() {
        use EarlierState::{BegunOtherwise, OtherDefinition};
        use FileState::{Pending, Quarantined, Removing, Settled};
        let earlier = |earlier| Some(Elsewhere::Earlier(5, earlier));
        let renamed = Some(Elsewhere::PerhapsRenamed(5));
        let (a, other) = ("a_1.json", "b_1.json");
        let exists = "vehicle_events";
        for (state, dataset, name, records, has_own, expected) in [
            (Removing, "gone", a, 2, false, earlier(BegunOtherwise)),
            (Removing, exists, other, 9, true, earlier(BegunOtherwise)),
            (Pending, exists, a, 2, false, earlier(OtherDefinition)),
            (Pending, "gone", a, 9, true, earlier(OtherDefinition)),
            (Pending, exists, other, 2, false, None),
            (Quarantined, exists, a, 2, true, earlier(BegunOtherwise)),
            (Quarantined, exists, a, 2, false, None),
            (Quarantined, exists, other, 2, true, None),
            (Settled, "gone", other, 2, false, renamed),
            (Settled, "gone", a, 3, false, None),
            (Settled, "gone", a, 2, true, None),
            (Settled, exists, a, 2, false, None),
            // A part of the file.
            (Removing, "vehicle_status", a, 2, false, None),
            (Pending, "vehicle_status", a, 2, true, None),
        ] {
            let entry = |file_no, state, dataset| Entry {
                file_no,
                state,
                dataset,
                name,
                records,
            };
            let mut entries = vec![entry(5, state, dataset)];
            if has_own {
                entries.insert(0, entry(4, Settled, "own"));
            }
            let files = [file("own"), file("vehicle_status")];
            let datasets = Datasets::new(Vec::new()).unwrap();
            let found = elsewhere(&files[0], &files, &entries, &datasets);
            assert_eq!(
                found, expected,
                "{state} {dataset} {name} {records} {has_own}"
            );
        }
    }
}
