//! Files that were begun and not ended by an earlier run, or that wait, by their places. A file with
//! other content in the same place is not loaded beside what is stored of them.
//!
//! The list is read from the ledger before the first file is registered, and again after a file
//! left its flight without being settled. It may have files that were settled since, so the ledger
//! is asked again before a file has to wait.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::batch::ContentHash;
use crate::sink::{Begun, NewFile};

/// Most files in the list: they take at most a few megabytes. A killed run leaves as many files as
/// it has flights, a few thousand, and most of them without a stored record.
pub(super) const BEGUN_MAX: usize = 20_000;

/// Dataset, name, and path in an archive.
type Place = (String, String, Option<PathBuf>);

/// The list.
#[derive(Debug, Default)]
pub(super) struct BegunFiles(Mutex<Option<HashMap<Place, Vec<Begun>>>>);

impl BegunFiles {
    /// Whether the list has to be read from the ledger.
    pub(super) fn is_unknown(&self) -> bool {
        self.0.lock().is_none()
    }

    /// Whether no file was begun and not ended.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().as_ref().is_none_or(HashMap::is_empty)
    }

    /// The list has to be read again.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }

    /// Replaces the list by these files, without those of open flights.
    pub(super) fn set(&self, found: Vec<Begun>, flights: &HashSet<u32>) {
        let mut places: HashMap<Place, Vec<Begun>> = HashMap::new();
        for begun in found {
            if !flights.contains(&begun.file_no) {
                let place = (
                    begun.dataset.clone(),
                    begun.name.clone(),
                    begun.path.clone(),
                );
                places.entry(place).or_default().push(begun);
            }
        }
        *self.0.lock() = Some(places);
    }

    /// The files that were begun in the place of `file` with other bytes than `content`.
    pub(super) fn with_other_content(&self, file: &NewFile, content: ContentHash) -> Vec<Begun> {
        let places = self.0.lock();
        let place = (file.dataset.clone(), file.name.clone(), file.path.clone());
        let begun = places.as_ref().and_then(|places| places.get(&place));
        let begun = begun.into_iter().flatten();
        begun
            .filter(|begun| begun.content != content)
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(file_no: u32, content: u8, name: &str, path: Option<&str>) -> Begun {
        Begun {
            file_no,
            content: [content; 16],
            dataset: "trips".to_owned(),
            name: name.to_owned(),
            path: path.map(PathBuf::from),
            bytes: 1,
        }
    }

    #[test]
    fn only_other_content_in_the_same_place_is_found() {
        let files = BegunFiles::default();
        assert!(files.is_unknown());
        let list = vec![
            begun(1, 1, "a", None),
            begun(2, 2, "a", None),
            begun(3, 3, "a", Some("/x/a")),
            begun(4, 4, "b", None),
        ];
        files.set(list, &HashSet::from([4]));
        assert!(!files.is_unknown());
        for (dataset, name, path, content, expected) in [
            ("trips", "a", None, 9, vec![1, 2]),
            ("trips", "a", None, 1, vec![2]),
            ("trips", "a", Some("/x/a"), 9, vec![3]),
            ("trips", "a", Some("/x/a"), 3, vec![]),
            ("trips", "a", Some("/y/a"), 9, vec![]),
            ("other", "a", None, 9, vec![]),
            // Its flight is open.
            ("trips", "b", None, 9, vec![]),
        ] {
            let file = NewFile {
                hash: [content; 16],
                taken: None,
                mark: None,
                dataset: dataset.to_owned(),
                name: name.to_owned(),
                path: path.map(PathBuf::from),
                bytes: 1,
                records: 1,
                definition: None,
            };
            let found = files.with_other_content(&file, [content; 16]);
            let found: Vec<u32> = found.iter().map(|begun| begun.file_no).collect();
            assert_eq!(found, expected, "{dataset} {name} {path:?} {content}");
        }
        files.forget();
        assert!(files.is_unknown());
    }
}
