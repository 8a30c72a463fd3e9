//! Pending files whose content is gone: no load can end them, and what is stored of them stays until
//! they are forgotten.

use std::ops::Range;

use super::others;
use crate::config::Settings;
use crate::restore::Source;
use crate::sink::{Database, FileState, LedgerFile};

/// Files read from the ledger at a time.
const PAGE_FILES: usize = 500;

/// How the bytes of a file are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    /// By name and size.
    BySize,
    /// By their hash: reads the files that have the name and the size.
    ByHash,
}

/// Pending files that are not in these directories, and may be in those of other processes.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    pub(super) files: u64,
    /// Who may have them. `None` if the search met none.
    pub(super) others: Option<String>,
}

/// Calls `found` with each pending file whose content is in no directory and not at its path in an
/// archive, and with the number of its stored records. If other processes may have such files,
/// counts them instead.
///
/// # Errors
/// Those of the database, and of `found`.
pub(super) async fn find(
    settings: &Settings,
    database: &dyn Database,
    mut file_nos: Range<u32>,
    search: Search,
    found: &mut (dyn FnMut(&LedgerFile, u64) -> anyhow::Result<()> + Send),
) -> anyhow::Result<Elsewhere> {
    let is_somewhere = |file: &LedgerFile| match search {
        Search::BySize => Source::may_exist(settings, file),
        Search::ByHash => Source::find(settings, file).is_ok(),
    };
    let mut elsewhere = Elsewhere::default();
    loop {
        let pending = Some(FileState::Pending);
        let page = database
            .files(file_nos.clone(), pending, PAGE_FILES)
            .await?;
        let Some(last) = page.last() else {
            return Ok(elsewhere);
        };
        file_nos.end = last.entry.file_no;
        for file in page {
            if is_somewhere(&file) {
                continue;
            }
            // After the file was read as pending: the process that has begun it was known by then.
            if elsewhere.others.is_none() {
                elsewhere.others = others::elsewhere(settings, database).await?;
            }
            if elsewhere.others.is_some() {
                elsewhere.files += 1;
                continue;
            }
            // A service may have settled and moved it between the two reads, or moved it to a
            // directory that was searched already.
            let file_no = file.entry.file_no;
            let again = database.files(file_no..file_no + 1, pending, 1).await?;
            if again.is_empty() || is_somewhere(&file) {
                continue;
            }
            let covered = database.coverage(&[file_no]).await?;
            let ranges = covered.iter().flatten();
            found(&file, ranges.map(|range| range.end - range.start).sum())?;
        }
    }
}

/// What is wrong with such a file, and the next step.
pub(super) fn problem(file: &LedgerFile, stored: u64) -> String {
    let (file_no, records) = (file.entry.file_no, file.entry.records);
    format!(
        "it was begun, and its content is in no directory any more: {stored} of its {records} records \
         are stored; bring its content back and load it, or run `task_runner files forget {file_no}`"
    )
}

/// A sentence about pending files that other processes may have.
pub(super) fn note(files: u64, others: &str) -> String {
    format!(
        "{files} of the pending files may be in the directories of {others}: run this with its \
         settings"
    )
}

/// One sentence about these files. `None` if there are none, and if other processes may have
/// them.
///
/// # Errors
/// Those of the database.
pub(super) async fn advice(
    settings: &Settings,
    database: &dyn Database,
) -> anyhow::Result<Option<String>> {
    let (mut files, mut first) = (0_u64, None);
    let all = 0..u32::MAX;
    let mut note = |file: &LedgerFile, stored| {
        files += 1;
        first = Some((file.entry.clone(), stored));
        Ok(())
    };
    let elsewhere = find(settings, database, all, Search::BySize, &mut note).await?;
    let first = first.filter(|_| elsewhere.others.is_none());
    Ok(first.map(|(entry, stored)| {
        let (file_no, name) = (entry.file_no, entry.name.escape_debug());
        let more = match files - 1 {
            0 => String::new(),
            more => format!(" ({more} more: `task_runner verify` names them)"),
        };
        format!(
            "file {file_no} {name} was begun, and its content is in no directory any more; {stored} of \
             its records are stored: `task_runner files forget {file_no}` removes them{more}"
        )
    }))
}
