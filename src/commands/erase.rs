//! `erase`: erases single records for good, for example at the request of a person: in the database,
//! and in each file of history that has their bytes.
//!
//! Each step leaves a state that the next run continues from: first the ledger gets the mark, in the
//! transaction that removes the row; then the hash of the new bytes; then the file is replaced; then
//! the ledger forgets the former bytes. `verify` names a file that is between two steps.
//!
//! Bytes that the engine does not change are named: files of archives, members of containers, and files
//! in quarantine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use backon::{ExponentialBuilder, Retryable as _};

use super::{Outcome, is_confirmed, note, open_for_repairs, others, print, repair, wanted_file};
use crate::batch::{provenance, row_id};
use crate::config::Settings;
use crate::config::cli::EraseArgs;
use crate::content;
use crate::dataset::Dataset;
use crate::fault::Fault;
use crate::inbox::{self, Replacement};
use crate::restore::{Source, Unavailable, options};
use crate::sink::{Blank, Database, Erasure, FileState, LedgerFile, Standing};

/// A file of the ledger, and the definition by which it was loaded.
#[derive(Clone)]
struct Loaded {
    file: LedgerFile,
    dataset: Arc<Dataset>,
}

/// What is to be erased of the files with one content.
struct Plan {
    /// The files of the ledger with these bytes: one for each dataset and each set of values of the
    /// path.
    files: Vec<Loaded>,
    /// The ids of the records.
    ids: BTreeSet<u64>,
    /// The files of history with these bytes.
    copies: Vec<PathBuf>,
    /// Where else the bytes are, and why they are not changed there.
    kept: Vec<(PathBuf, &'static str)>,
}

/// Runs the command.
pub(super) async fn execute(settings: &Settings, args: &EraseArgs) -> anyhow::Result<Outcome> {
    others::check_role(settings, "erase", "changes the files in the directories")?;
    let database = open_for_repairs(settings).await?;
    let database = database.as_ref();
    let mut by_file: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for id in &args.ids {
        let (file_no, ordinal) = provenance(*id);
        by_file.entry(file_no).or_default().insert(ordinal);
    }
    let mut plans = Vec::new();
    for (file_no, ordinals) in &by_file {
        plans.push(plan(settings, database, *file_no, ordinals).await?);
    }
    let records: usize = plans.iter().map(|plan| plan.ids.len()).sum();
    let copies: usize = plans.iter().map(|plan| plan.copies.len()).sum();
    let about = format!("{records} records, and their bytes in {copies} files of history");
    let needs_yes = format!("this erases {about}, for good: confirm with --yes");
    if !args.yes && !is_confirmed(&format!("erase {about}, for good?"), &needs_yes)? {
        print("nothing was erased\n")?;
        return Ok(Outcome::Complete);
    }
    let mut is_all = true;
    for plan in plans {
        is_all &= carry_out(settings, database, &plan).await?;
    }
    if let Some(others) = others::elsewhere(settings, database).await? {
        note(&format!(
            "{others} takes files into other directories, which may have copies of these files: \
             run this with its settings as well"
        ));
    }
    note(
        "backups, the logs of the database, the files of Redis, and wherever the files came from may have \
         the records, too",
    );
    Ok(if is_all {
        Outcome::Complete
    } else {
        Outcome::Failed
    })
}

/// Finds out what is to be erased, and changes nothing.
async fn plan(
    settings: &Settings,
    database: &dyn Database,
    file_no: u32,
    ordinals: &BTreeSet<u32>,
) -> anyhow::Result<Plan> {
    let own = loaded(settings, database, file_no).await?;
    let records = own.file.entry.records;
    if let Some(ordinal) = ordinals.iter().find(|ordinal| **ordinal >= records) {
        bail!("file {file_no} has {records} records, so it has no ordinal {ordinal}");
    }
    let (copies, kept) = places(settings, &own.file)?;
    if copies.is_empty()
        && kept.is_empty()
        && let Some(others) = others::elsewhere(settings, database).await?
    {
        bail!(
            "file {file_no} is in none of these directories, so its bytes would stay where it is: \
             {}; {}; nothing was erased",
            others::hint(&others),
            others::NOWHERE
        );
    }
    let mut source = None;
    if let Some(path) = copies.first().or(kept.first().map(|(path, _)| path)) {
        source = Some(open(settings, &own, path)?);
    }
    let mut plan = Plan {
        files: vec![own.clone()],
        ids: ordinals.iter().map(|at| row_id(file_no, *at)).collect(),
        copies,
        kept,
    };
    for other in database.with_content(own.file.content()).await? {
        if other == file_no || is_quarantined(database, other).await? {
            continue;
        }
        let other = loaded(settings, database, other).await?;
        let shared = shared(settings, &own, source.as_mut(), &other, ordinals)?;
        plan.ids.extend(shared);
        plan.files.push(other);
    }
    Ok(plan)
}

async fn is_quarantined(database: &dyn Database, file_no: u32) -> anyhow::Result<bool> {
    let file = wanted_file(database, file_no).await?;
    Ok(file.entry.state == FileState::Quarantined)
}

/// A settled file.
async fn loaded(
    settings: &Settings,
    database: &dyn Database,
    file_no: u32,
) -> anyhow::Result<Loaded> {
    let file = wanted_file(database, file_no).await?;
    if file.entry.state != FileState::Settled {
        bail!(
            "file {file_no} is {}: only records of settled files can be erased, since others may be stored \
             again; load it, or run `task_runner files forget {file_no}`",
            file.entry.state
        );
    }
    let Some(dataset) = database.loaded_by(file_no, &settings.datasets).await? else {
        bail!("file {file_no} is no longer in the ledger");
    };
    Ok(Loaded { file, dataset })
}

fn open(settings: &Settings, of: &Loaded, path: &Path) -> anyhow::Result<Source> {
    Source::at(settings, &of.dataset, &of.file, path).map_err(Unavailable::into_error)
}

/// The ids of the records of another file with the same bytes that are these records.
///
/// # Errors
/// A record of the other file has a part of the bytes of one of these, or the other way round: if they
/// were blank, it would be no record any more, or another one.
fn shared(
    settings: &Settings,
    own: &Loaded,
    source: Option<&mut Source>,
    other: &Loaded,
    ordinals: &BTreeSet<u32>,
) -> anyhow::Result<Vec<u64>> {
    let other_no = other.file.entry.file_no;
    let is_alike = other
        .dataset
        .fingerprint
        .has_ordinals_of(own.dataset.fingerprint);
    let Some(source) = source else {
        // Without the bytes, only the definitions tell.
        let alike = ordinals.iter().filter(|_| is_alike);
        return Ok(alike.map(|at| row_id(other_no, *at)).collect());
    };
    let of_other = open(settings, other, &source.path)?;
    let mut ids = Vec::new();
    for ordinal in ordinals {
        let place = source.place(*ordinal).map_err(Unavailable::into_error)?;
        let place = place.context("the file has fewer records than the ledger says")?;
        for (at, within) in of_other.within(&place).map_err(Unavailable::into_error)? {
            if within != place {
                let file_no = own.file.entry.file_no;
                bail!(
                    "the bytes of record {file_no}:{ordinal} are a part of record {other_no}:{at} of dataset \
                     `{}`, or contain it, so one cannot be made blank without the other: nothing was \
                     changed; `task_runner files forget {file_no} {other_no}` removes all rows of the file, \
                     and then deliver it without the record",
                    other.dataset.name
                );
            }
            ids.push(row_id(other_no, at));
        }
    }
    Ok(ids)
}

/// The files of history with the bytes of a file, and the other places that have them.
///
/// # Errors
/// The bytes are in inbound or in work.
#[allow(clippy::type_complexity)]
fn places(
    settings: &Settings,
    file: &LedgerFile,
) -> anyhow::Result<(Vec<PathBuf>, Vec<(PathBuf, &'static str)>)> {
    let (dirs, options) = (&settings.dirs, options(settings));
    let is_it = |path: &PathBuf| {
        let opened = content::open_and(path, &options, |_| ());
        opened.is_ok_and(|(content, ())| file.has_bytes(content.hash))
    };
    let [mut copies, mut others] = inbox::with_size(dirs, &file.sizes());
    copies.retain(is_it);
    others.retain(is_it);
    let mut kept = Vec::new();
    for path in others {
        if !path.starts_with(&dirs.quarantine) {
            bail!(
                "{} has the bytes of file {}, and is about to be loaded: let the engine load it, or remove \
                 it, and then run this again; nothing was changed",
                path.display(),
                file.entry.file_no
            );
        }
        kept.push((path, "a file in quarantine"));
    }
    // No file has none of the sizes, so only members are found.
    let members = inbox::candidates(dirs, &file.entry.name, &[], None).into_iter();
    let members = members.filter(|path| path.starts_with(&dirs.history) && is_it(path));
    kept.extend(members.map(|path| (path, "a member of a container")));
    let archive = file.path.iter().filter(|path| is_it(path));
    kept.extend(archive.map(|path| (path.clone(), "a file of an archive")));
    Ok((copies, kept))
}

/// Erases the records. Returns whether no other place is known that has their bytes.
async fn carry_out(
    settings: &Settings,
    database: &dyn Database,
    plan: &Plan,
) -> anyhow::Result<bool> {
    for id in &plan.ids {
        let (file_no, ordinal) = provenance(*id);
        // A deadlock with the summary of a service is over at once.
        let erase = || database.erase(*id, &settings.datasets);
        let erase = erase.retry(ExponentialBuilder::default());
        let Erasure { was, superseded } = erase.when(Fault::is_transient).await?;
        let was = match was {
            Standing::Row => "was a row",
            Standing::Reject => "was a reject",
            Standing::Purged => "was a purged reject",
            Standing::Superseded(_) => "was superseded",
            Standing::Retired => "was retired",
            Standing::Erased => "was erased before",
            Standing::Absent => "was neither row nor reject",
        };
        print(&format!(
            "record {file_no}:{ordinal}: {was}; it is erased\n"
        ))?;
        for (of_file, records) in superseded {
            repair::store_superseded(settings, database, of_file, records).await?;
            eprintln!(
                "file {of_file} has {records} records with the key of record {file_no}:{ordinal}: one of them \
                 is the row now; erase them as well if they are about the same person"
            );
        }
    }
    let mut blank = None;
    for path in &plan.copies {
        blank = Some(make_blank(settings, database, plan, path).await?);
        let path = path.display().to_string();
        print(&format!("{}: the bytes are blank\n", path.escape_debug()))?;
    }
    if let Some(blank) = blank {
        let numbers: Vec<u32> = plan.files.iter().map(|of| of.file.entry.file_no).collect();
        database.end_blank(blank, &numbers).await?;
    } else if plan.kept.is_empty() {
        note(
            "none of the directories of these settings has the file; if it was loaded into other \
             ones, run this with their settings as well",
        );
    }
    for (path, what) in &plan.kept {
        eprintln!(
            "{} is {what}, which is not changed: remove it, or the records in it",
            path.display().to_string().escape_debug()
        );
    }
    Ok(plan.kept.is_empty())
}

/// Makes all erased records of these files blank in a file of history. Returns its bytes.
async fn make_blank(
    settings: &Settings,
    database: &dyn Database,
    plan: &Plan,
    path: &Path,
) -> anyhow::Result<Blank> {
    let shown = || path.display().to_string();
    let mut ranges: BTreeMap<u64, Range<u64>> = BTreeMap::new();
    let mut erased = Vec::new();
    let mut source = None;
    for of in &plan.files {
        let mut opened = open(settings, of, path)?;
        for ordinal in database.erased(of.file.entry.file_no).await? {
            let place = opened.place(ordinal).map_err(Unavailable::into_error)?;
            let place = place.context("the file has fewer records than the ledger says")?;
            erased.push((of, ordinal, place.clone()));
            ranges.insert(place.start, place);
        }
        source = Some(opened);
    }
    let source = source.context("a plan has a file")?;
    let ranges: Vec<Range<u64>> = ranges.into_values().collect();
    let content = plan.files[0].file.content();
    if content::is_blank(&source.content, &ranges).with_context(shown)? {
        return Ok(Blank {
            content,
            hash: source.content.hash,
            bytes: source.content.stored_bytes,
        });
    }
    let write = |file: &mut File| content::write_blank(path, &source.content, &ranges, file);
    let (new, (hash, bytes)) = Replacement::write(path, write).with_context(shown)?;
    for of in &plan.files {
        let mut written = open(settings, of, new.path())?;
        let own = erased.iter().filter(|(file, ..)| std::ptr::eq(*file, of));
        for (_, ordinal, place) in own {
            let now = written.place(*ordinal).map_err(Unavailable::into_error)?;
            if now.as_ref() != Some(place) {
                bail!(
                    "{}: record {}:{ordinal} cannot be made blank, since the records after it would be \
                     others; it is erased in the database: remove the file from history",
                    shown(),
                    of.file.entry.file_no
                );
            }
        }
    }
    let blank = Blank {
        content,
        hash,
        bytes,
    };
    // Before the file is replaced: then its bytes are known, whenever this ends.
    database.begin_blank(blank).await?;
    new.finish().with_context(shown)?;
    Ok(blank)
}
