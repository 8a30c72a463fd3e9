//! The part of `verify` that names datasets which take stored files by their name, and of which no
//! file is stored: their `records` are most likely wrong.

use std::collections::{BTreeMap, HashSet};

use crate::config::Settings;
use crate::sink::LedgerFile;

use super::output::on_one_line;

/// What the stored files show. Its size is that of the list of datasets.
#[derive(Debug, Default)]
pub(super) struct NeverMet {
    /// The datasets that have a file.
    met: HashSet<String>,
    /// The datasets that take a file of another dataset by its name, each with the first one.
    taken: BTreeMap<String, String>,
}

impl NeverMet {
    /// Adds files of the ledger.
    pub(super) fn add(&mut self, settings: &Settings, page: &[LedgerFile]) {
        for file in page {
            let (name, own) = (&file.entry.name, &file.entry.dataset);
            self.met.insert(own.clone());
            let path = file.path.as_ref();
            let path = path.map_or(name.as_bytes(), |it| it.as_os_str().as_encoded_bytes());
            let Ok(of) = settings.datasets.of_file(path, None) else {
                continue;
            };
            for dataset in of.by_name().filter(|dataset| dataset.name != *own) {
                let first = self.taken.entry(dataset.name.clone());
                first.or_insert_with(|| name.clone());
            }
        }
    }

    /// A line for each dataset that takes files and has none.
    pub(super) fn notes(&self) -> String {
        let taken = self.taken.iter();
        let never = taken.filter(|(dataset, _)| !self.met.contains(*dataset));
        let note = |(dataset, file): (&String, &String)| {
            let file = on_one_line(file);
            format!(
                "note: no file has an array of `{dataset}`, which takes files by name, such as {file}; \
                 `task_runner check FILE` names the arrays that are there\n"
            )
        };
        let notes: Vec<String> = never.map(note).collect();
        notes.concat()
    }
}
