//! Pending files whose content is gone: no load can end them, and what is stored of them stays until
//! they are forgotten.

use std::ops::Range;

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

/// Calls `found` with each pending file whose content is in no directory and not at its path in an
/// archive, and with the number of its stored records.
///
/// # Errors
/// Those of the database, and of `found`.
pub(super) async fn find(
    settings: &Settings,
    database: &dyn Database,
    mut file_nos: Range<u32>,
    search: Search,
    found: &mut (dyn FnMut(&LedgerFile, u64) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    let is_somewhere = |file: &LedgerFile| match search {
        Search::BySize => Source::may_exist(settings, file),
        Search::ByHash => Source::find(settings, file).is_ok(),
    };
    loop {
        let pending = Some(FileState::Pending);
        let page = database
            .files(file_nos.clone(), pending, PAGE_FILES)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        file_nos.end = last.entry.file_no;
        for file in page {
            if is_somewhere(&file) {
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

/// One sentence about these files. `None` if there are none.
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
    find(settings, database, all, Search::BySize, &mut note).await?;
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
