//! The repairs of `files`: `restore`, `forget` and `reload`.

use std::collections::HashMap;

use anyhow::{Context as _, bail};

use super::contents::Comparison;
use super::source::Source;
use super::{Outcome, open_for_repairs, print, wanted_file};
use crate::batch::Batch;
use crate::config::Settings;
use crate::inbox;
use crate::sink::{Database, DifferenceKind, FileState, LedgerFile};

/// Records that are stored again in one transaction.
const RECORDS_AT_ONCE: usize = 500;

/// Stores the records again that are neither rows nor rejects, with their ids.
pub(super) async fn restore(settings: &Settings, file_nos: &[u32]) -> anyhow::Result<Outcome> {
    let database = open_for_repairs(settings).await?;
    for file_no in file_nos {
        let file = wanted_file(database.as_ref(), *file_no).await?;
        if file.entry.state != FileState::Settled {
            bail!(
                "file {file_no} is {}: only the records of a settled file can be restored",
                file.entry.state
            );
        }
        let (rows, rejects, others) = restore_file(settings, database.as_ref(), &file).await?;
        print(&format!(
            "file {file_no}: {rows} rows and {rejects} rejects stored again\n"
        ))?;
        if others > 0 {
            eprintln!(
                "file {file_no}: {others} rows differ from their records and stay as they are; \
                 `task_runner verify --content --file {file_no}` names them, `task_runner files reload \
                 {file_no}` replaces them"
            );
        }
    }
    Ok(Outcome::Complete)
}

/// Returns the numbers of rows and rejects that were stored, and of rows that differ.
async fn restore_file(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
) -> anyhow::Result<(u64, u64, u64)> {
    let comparison = Comparison::open(settings, database, file).await?;
    let (mut rows, mut rejects, mut others) = (0, 0, 0);
    comparison
        .run(&mut async |wrong| {
            let mut missing = Vec::new();
            for wrong in wrong {
                match (wrong.difference.kind, wrong.record) {
                    (DifferenceKind::Missing, Some(record)) => missing.push(record),
                    _ => others += 1,
                }
            }
            for records in missing.chunks(RECORDS_AT_ONCE) {
                let committed = database.commit(records).await?;
                rows += committed.rows;
                let of_record = |record: &Batch| record.rejects.len() as u64;
                rejects += records.iter().map(of_record).sum::<u64>();
                rejects += committed.refused.len() as u64;
            }
            Ok(())
        })
        .await?;
    Ok((rows, rejects, others))
}

/// Removes the rows, rejects and ledger entries of files.
pub(super) async fn forget(
    settings: &Settings,
    file_nos: &[u32],
    yes: bool,
) -> anyhow::Result<Outcome> {
    let database = open_for_repairs(settings).await?;
    let files = at_rest(database.as_ref(), file_nos).await?;
    if !yes && !is_confirmed(&files, "remove", "files forget")? {
        print("nothing was removed\n")?;
        return Ok(Outcome::Complete);
    }
    for file in files {
        let file_no = file.entry.file_no;
        let rows = database.remove(file_no, &settings.datasets).await?;
        let name = file.entry.name.escape_debug();
        print(&format!(
            "file {file_no} {name}: {rows} rows removed; the same content counts as new from now on\n"
        ))?;
    }
    Ok(Outcome::Complete)
}

/// Removes the rows and rejects of files, and loads the files again by the current definition of
/// their dataset.
pub(super) async fn reload(
    settings: &Settings,
    file_nos: &[u32],
    yes: bool,
) -> anyhow::Result<Outcome> {
    let database = open_for_repairs(settings).await?;
    let files = at_rest(database.as_ref(), file_nos).await?;
    let mut sources = Vec::new();
    for file in &files {
        let file_no = file.entry.file_no;
        let path = Source::find(settings, file)
            .with_context(|| format!("file {file_no} cannot be loaded again"))?;
        sources.push(path);
    }
    if !yes && !is_confirmed(&files, "remove and load again", "files reload")? {
        print("nothing was changed\n")?;
        return Ok(Outcome::Complete);
    }
    let dirs = &settings.dirs;
    let mut moved = HashMap::new();
    for (file, path) in files.iter().zip(sources) {
        let file_no = file.entry.file_no;
        // From here on, the next load of this content removes its rows and rejects, and begins
        // again.
        database.begin_removal(file_no).await?;
        // Two numbers may belong to one file, which holds the records of two datasets.
        let path = moved.get(&path).unwrap_or(&path).clone();
        let shown = path.display().to_string();
        let shown = shown.escape_debug();
        if path.parent() == Some(&dirs.inbound) {
            print(&format!("file {file_no}: {shown} is in inbound\n"))?;
        } else if path.parent() == Some(&dirs.history) || path.parent() == Some(&dirs.quarantine) {
            let to = inbox::return_to_inbound(dirs, &path)
                .with_context(|| format!("cannot move {shown} to inbound"))?;
            let shown_to = to.display().to_string();
            print(&format!(
                "file {file_no}: {} is in inbound again\n",
                shown_to.escape_debug()
            ))?;
            moved.insert(path.clone(), to);
        } else {
            print(&format!(
                "file {file_no}: load {shown} with `task_runner load PATH`\n"
            ))?;
        }
    }
    eprintln!("the service or `task_runner load` removes what is stored of them and loads them");
    Ok(Outcome::Complete)
}

/// The entries of files. An error if one of them is being loaded.
async fn at_rest(database: &dyn Database, file_nos: &[u32]) -> anyhow::Result<Vec<LedgerFile>> {
    let mut files = Vec::new();
    for file_no in file_nos {
        let file = wanted_file(database, *file_no).await?;
        if file.entry.state == FileState::Pending {
            bail!(
                "file {file_no} is being loaded: wait until it is settled, or until it is in quarantine"
            );
        }
        files.push(file);
    }
    Ok(files)
}

/// Asks the user.
fn is_confirmed(files: &[LedgerFile], what: &str, command: &str) -> anyhow::Result<bool> {
    let records: u64 = files.iter().map(|file| u64::from(file.entry.records)).sum();
    let about = format!(
        "the rows and rejects of {} files with {records} records",
        files.len()
    );
    super::is_confirmed(
        &format!("{what} {about}?"),
        &format!("`task_runner {command}` removes {about}: confirm with --yes"),
    )
}
