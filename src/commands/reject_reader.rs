//! Rejects as commands read them: page by page, with all of the text of each record.
//!
//! The database keeps only the beginning of a record, or only the row if it refused the row. So the
//! text is read from the file, unless the reject holds all of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::batch::{RAW_BYTES_MAX, RejectCode};
use crate::config::Settings;
use crate::config::cli::RejectFilter;
use crate::cut::Outside;
use crate::dataset::Dataset;
use crate::parse::RECORD_BYTES_MAX;
use crate::sink::{Database, LedgerFile, OpenReject, Operators, RejectEntry, RejectQuery};

use super::ledger_file;
use crate::restore::Source;

/// Rejects read at a time. Each holds at most 8 KiB of its record, so a page is at most 4 MB.
const PAGE_REJECTS: usize = 500;

/// Most ledger entries kept in memory. Rejects are usually sorted by file, so few are in use at a
/// time.
const FILES_KNOWN_MAX: usize = 1_000;

/// The rejects that match a filter, newest first, read page by page.
pub(super) struct Pages<'a> {
    operators: &'a dyn Operators,
    query: RejectQuery,
    field: Option<String>,
    left: usize,
}

impl<'a> Pages<'a> {
    /// At most `limit` rejects.
    pub(super) fn new(operators: &'a dyn Operators, filter: &RejectFilter, limit: usize) -> Self {
        let query = RejectQuery {
            file_no: filter.file,
            code: filter.code.as_deref().and_then(RejectCode::parse),
            ..RejectQuery::default()
        };
        Self {
            operators,
            query,
            field: filter.field.clone(),
            left: limit,
        }
    }

    /// The next page. Empty after the last one.
    pub(super) async fn next(&mut self) -> anyhow::Result<Vec<OpenReject>> {
        while self.left > 0 {
            let max = self.left.min(PAGE_REJECTS);
            let mut page = self.operators.find_rejects(&self.query, max).await?;
            let Some(last) = page.last() else { break };
            self.query.before = Some((last.entry.file_no, last.entry.ordinal));
            if self.field.is_some() {
                page.retain(|reject| reject.entry.field == self.field);
            }
            if !page.is_empty() {
                self.left -= page.len();
                return Ok(page);
            }
        }
        Ok(Vec::new())
    }
}

/// The reject of a record. `None` if the record is not a reject.
pub(super) async fn find_reject(
    operators: &dyn Operators,
    file_no: u32,
    ordinal: u32,
) -> anyhow::Result<Option<OpenReject>> {
    let query = RejectQuery {
        file_no: Some(file_no),
        ordinal: Some(ordinal),
        ..RejectQuery::default()
    };
    Ok(operators.find_rejects(&query, 1).await?.pop())
}

/// The ledger entries of files. Each is read once.
#[derive(Debug, Default)]
pub(super) struct KnownFiles(HashMap<u32, Option<Arc<LedgerFile>>>);

impl KnownFiles {
    /// The entry of a file. `None` if the ledger does not have it.
    pub(super) async fn get(
        &mut self,
        operators: &dyn Operators,
        file_no: u32,
    ) -> anyhow::Result<Option<Arc<LedgerFile>>> {
        if self.0.len() >= FILES_KNOWN_MAX {
            self.0.clear();
        }
        Ok(match self.0.entry(file_no) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(unknown) => {
                let file = ledger_file(operators, file_no).await?.map(Arc::new);
                unknown.insert(file).clone()
            }
        })
    }
}

/// Reads the texts of records. Keeps the last file open, since rejects are usually sorted by file.
pub(super) struct Texts<'a> {
    settings: &'a Settings,
    database: &'a dyn Database,
    open: Option<(u32, Result<Source, String>)>,
    /// The file that is open for the values outside of its records, cut by another definition.
    outside: Option<(u32, Result<Source, String>)>,
    buffer: Vec<u8>,
}

impl<'a> Texts<'a> {
    pub(super) fn new(settings: &'a Settings, database: &'a dyn Database) -> Self {
        Self {
            settings,
            database,
            open: None,
            outside: None,
            buffer: Vec::new(),
        }
    }

    /// The whole text of a reject's record. The inner error is the reason why it cannot be read.
    pub(super) async fn of_reject(
        &mut self,
        file: &LedgerFile,
        reject: &RejectEntry,
    ) -> anyhow::Result<Result<String, String>> {
        let is_whole = !reject.code.is_of_database() && reject.raw.len() < RAW_BYTES_MAX;
        if is_whole {
            return Ok(as_text(&reject.raw));
        }
        self.open(file).await?;
        Ok(self.read(reject.ordinal, Some(reject)))
    }

    /// The whole text of a record. The inner error is the reason why it cannot be read.
    pub(super) async fn of_record(
        &mut self,
        file: &LedgerFile,
        ordinal: u32,
    ) -> anyhow::Result<Result<String, String>> {
        self.open(file).await?;
        Ok(self.read(ordinal, None))
    }

    /// The values outside of a record that the columns of `dataset` take. The inner error is the
    /// reason why they are not known.
    pub(super) async fn outside(
        &mut self,
        file: &LedgerFile,
        dataset: &Arc<Dataset>,
        ordinal: u32,
    ) -> anyhow::Result<Result<Outside<'static>, String>> {
        if !dataset.takes_around() {
            return Ok(Ok(Outside::default().of_file(file.values(dataset))));
        }
        let file_no = file.entry.file_no;
        if !matches!(self.outside, Some((open, _)) if open == file_no) {
            let datasets = &self.settings.datasets;
            let loaded = self.database.loaded_by(file_no, datasets).await?;
            let is_same = |loaded: Arc<Dataset>| {
                let print = loaded.fingerprint;
                print.has_ordinals_of(dataset.fingerprint)
            };
            let source = if loaded.is_some_and(is_same) {
                let opened = Source::open(self.settings, dataset, file, None);
                opened.map_err(|why| why.to_string())
            } else {
                Err("`format` or `records` was changed since the file was loaded".to_owned())
            };
            self.outside = Some((file_no, source));
        }
        let (_, source) = self.outside.as_ref().expect("set above");
        Ok(source
            .as_ref()
            .map_err(String::clone)
            .and_then(|source| source.outside(ordinal).map_err(|why| why.to_string())))
    }

    /// Opens a file, unless it is open, and cuts it with the definition of its load.
    async fn open(&mut self, file: &LedgerFile) -> anyhow::Result<()> {
        let file_no = file.entry.file_no;
        if matches!(self.open, Some((open, _)) if open == file_no) {
            return Ok(());
        }
        let datasets = &self.settings.datasets;
        let source = match self.database.loaded_by(file_no, datasets).await {
            Ok(Some(dataset)) => {
                Source::open(self.settings, &dataset, file, None).map_err(|why| why.to_string())
            }
            Ok(None) => Err("the ledger does not have its file".to_owned()),
            Err(fault) if fault.is_transient() => return Err(fault.into()),
            Err(fault) => Err(fault.to_string()),
        };
        self.open = Some((file_no, source));
        Ok(())
    }

    /// Reads a record of the open file.
    fn read(&mut self, ordinal: u32, reject: Option<&RejectEntry>) -> Result<String, String> {
        let (_, source) = self.open.as_mut().expect("the caller has opened the file");
        let source = source.as_mut().map_err(|why| why.clone())?;
        let place = source.place(ordinal).map_err(|why| why.to_string())?;
        let Some(place) = place else {
            return Err(format!("its file has {} records", source.plan.records));
        };
        let bytes = place.end - place.start;
        if bytes > RECORD_BYTES_MAX as u64 {
            return Err(format!(
                "it has {bytes} bytes, and a record may have {RECORD_BYTES_MAX}"
            ));
        }
        let start = place.start;
        let read = source.read(place, &mut self.buffer);
        let record = read.map_err(|why| why.to_string())?;
        let of_parser = reject.filter(|reject| !reject.code.is_of_database());
        if of_parser.is_some_and(|it| it.byte_offset != start || !record.starts_with(&it.raw)) {
            return Err(String::from(
                "with the current definition of its dataset, another record has this ordinal: \
                 `format` or `records` was changed",
            ));
        }
        as_text(record)
    }
}

fn as_text(record: &[u8]) -> Result<String, String> {
    let text = str::from_utf8(record);
    let text =
        text.map_err(|error| format!("it is not UTF-8 (at byte {})", error.valid_up_to()))?;
    Ok(text.to_owned())
}
