//! The repairs of `files`: `release`, `restore`, `forget` and `reload`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use backon::{ExponentialBuilder, Retryable as _};

use super::audit;
use super::others::{self, check_role};
use super::{Outcome, note, open_for_repairs, print, wanted_file};
use crate::batch::Span;
use crate::config::Settings;
use crate::content;
use crate::fault::Fault;
use crate::inbox;
use crate::restore::{self, Comparison, Restored, Source, Unavailable, Wrong};
use crate::sink::{Audit, Database, DifferenceKind, FileState, LedgerFile, Removed};
use crate::spare::Spared;

/// Files read from the ledger at a time.
const PAGE_FILES: usize = 500;

/// What `reload` and `release` do with the directories.
const MOVES: &str = "moves files between the directories";

/// Stores the records again that are neither rows nor rejects although the ledger covers them, with
/// their ids. Without numbers: those of every file.
pub(super) async fn restore(settings: &Settings, file_nos: &[u32]) -> anyhow::Result<Outcome> {
    check_role(
        settings,
        "files restore",
        "reads the files in the directories",
    )?;
    let database = open_for_repairs(settings).await?;
    if file_nos.is_empty() {
        return restore_all(settings, database.as_ref()).await;
    }
    let spared = Spared::begin(settings)?;
    for file_no in file_nos {
        let file = wanted_file(database.as_ref(), *file_no).await?;
        if file.entry.state == FileState::Removing {
            bail!(
                "file {file_no} is being removed: load its content again, or run `task_runner files \
                 forget {file_no}`"
            );
        }
        match restore::missing(settings, database.as_ref(), &file, &spared).await {
            Ok(restored) => report(*file_no, &restored)?,
            Err(error) => match whose(settings, database.as_ref(), &error).await? {
                Some(others) => bail!("{error:#}; {}", others::hint(&others)),
                None => return Err(error),
            },
        }
    }
    Ok(Outcome::Complete)
}

/// Restores every file that lacks records, the newest first. A file that cannot be read does not
/// end the command.
async fn restore_all(settings: &Settings, database: &dyn Database) -> anyhow::Result<Outcome> {
    let spared = Spared::begin(settings)?;
    let (mut files, mut failed, mut below) = (0_u64, 0_u64, u32::MAX);
    loop {
        let page = database.files(0..below, None, PAGE_FILES).await?;
        let Some(last) = page.last() else { break };
        below = last.entry.file_no;
        for file in &page {
            let file_no = file.entry.file_no;
            if file.entry.state == FileState::Removing || is_whole(settings, database, file).await?
            {
                continue;
            }
            match restore::missing(settings, database, file, &spared).await {
                Ok(restored) => {
                    files += u64::from(restored.records() > 0);
                    report(file_no, &restored)?;
                }
                // The database, and not the file or its table, is at fault.
                Err(error) if error.downcast_ref().is_some_and(Fault::is_transient) => {
                    return Err(error);
                }
                Err(error) => {
                    failed += 1;
                    let next = match whose(settings, database, &error).await? {
                        Some(others) => others::hint(&others),
                        None => format!(
                            "bring the file again, or run `task_runner files forget {file_no}`, \
                             which removes the rest of its rows"
                        ),
                    };
                    eprintln!("file {file_no} is not restored: {error:#}; {next}");
                }
            }
        }
    }
    print(&format!("{files} files restored, {failed} not\n"))?;
    Ok(match failed {
        0 => Outcome::Complete,
        _ => Outcome::Failed,
    })
}

/// Who may have the file that was not found. `None` if nobody, or if it was found.
async fn whose(
    settings: &Settings,
    database: &dyn Database,
    error: &anyhow::Error,
) -> anyhow::Result<Option<String>> {
    match error.downcast_ref() {
        Some(Unavailable::NotFound { .. }) => Ok(others::elsewhere(settings, database).await?),
        _ => Ok(None),
    }
}

/// Whether a file is settled and has as many rows and rejects as records, and none beyond its end.
async fn is_whole(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
) -> anyhow::Result<bool> {
    if file.entry.state != FileState::Settled {
        return Ok(false);
    }
    let counted = audit::count(settings, database, &[file]).await?;
    let records = file.entry.records;
    let is_whole =
        |audit: &Audit| audit.stored() == u64::from(records) && audit.beyond(records).is_none();
    Ok(counted.iter().all(|(_, counted)| is_whole(&counted.audit)))
}

fn report(file_no: u32, restored: &Restored) -> anyhow::Result<()> {
    let Restored {
        rows,
        rejects,
        superseded,
        others,
    } = restored;
    let more = match superseded {
        0 => String::new(),
        superseded => format!(", {superseded} records superseded"),
    };
    print(&format!(
        "file {file_no}: {rows} rows and {rejects} rejects stored again{more}\n"
    ))?;
    if *others > 0 {
        eprintln!(
            "file {file_no}: {others} rows differ from their records and stay as they are; \
             `task_runner verify --content --file {file_no}` names them, `task_runner files reload \
             {file_no}` replaces them"
        );
    }
    Ok(())
}

/// Removes the rows, rejects and ledger entries of files.
pub(super) async fn forget(
    settings: &Settings,
    file_nos: &[u32],
    yes: bool,
) -> anyhow::Result<Outcome> {
    let knows = "must know which files are in the directories";
    check_role(settings, "files forget", knows)?;
    let database = open_for_repairs(settings).await?;
    let files = at_rest(settings, database.as_ref(), file_nos).await?;
    if !yes && !is_confirmed(&files, "remove", "files forget")? {
        print("nothing was removed\n")?;
        return Ok(Outcome::Complete);
    }
    for file in files {
        let file_no = file.entry.file_no;
        separate(settings, database.as_ref(), &file).await?;
        // A deadlock with the summary of a service is over at once.
        let remove = || database.remove(file_no, &settings.datasets);
        let remove = remove.retry(ExponentialBuilder::default());
        let Removed { rows, superseded } = remove.when(Fault::is_transient).await?;
        let name = file.entry.name.escape_debug();
        print(&format!(
            "file {file_no} {name}: {rows} rows removed; the same content counts as new from now on\n"
        ))?;
        // Before its number is removed: until then, another `forget` continues after a kill.
        for (of_file, records) in superseded {
            store_superseded(settings, database.as_ref(), of_file, records).await?;
        }
        database.end_removal(file_no).await?;
    }
    Ok(Outcome::Complete)
}

/// Decides again about the records of a file that were superseded by rows which are removed now. If
/// the file cannot be read, prints what is missing.
pub(super) async fn store_superseded(
    settings: &Settings,
    database: &dyn Database,
    file_no: u32,
    records: u64,
) -> anyhow::Result<()> {
    match restore::superseded(settings, database, file_no).await? {
        Ok(restored) => report(file_no, &restored),
        Err(problem) => {
            eprintln!(
                "{records} records of file {file_no} were superseded by these rows, and are missing \
                 now: {problem}; bring the file again and run `task_runner files restore {file_no}`"
            );
            Ok(())
        }
    }
}

/// Removes the rows and rejects of files, and loads the files again by the current definition of
/// their dataset.
pub(super) async fn reload(
    settings: &Settings,
    file_nos: &[u32],
    yes: bool,
) -> anyhow::Result<Outcome> {
    check_role(settings, "files reload", MOVES)?;
    let database = open_for_repairs(settings).await?;
    let files = at_rest(settings, database.as_ref(), file_nos).await?;
    let mut sources = Vec::new();
    for file in &files {
        let file_no = file.entry.file_no;
        if file.erased.is_blank.is_some() {
            bail!(
                "records of file {file_no} were erased, and each of them would be loaded as an empty record: \
                 nothing was changed; `task_runner files forget {file_no}`, and `task_runner load` with the \
                 path of the file in history, load it as another file"
            );
        }
        let path = found(settings, database.as_ref(), file).await;
        let path = path.with_context(|| format!("file {file_no} cannot be loaded again"))?;
        sources.push(Place::of(path));
    }
    let corrected = corrected(database.as_ref(), &files).await?;
    if !corrected.is_empty() {
        note(&corrected);
    }
    if !yes && !is_confirmed(&files, "remove and load again", "files reload")? {
        print("nothing was changed\n")?;
        return Ok(Outcome::Complete);
    }
    let mut moved = HashMap::new();
    for (file, place) in files.iter().zip(sources) {
        let file_no = file.entry.file_no;
        separate(settings, database.as_ref(), file).await?;
        // The limits of history must not remove the content before it is in inbound.
        let aside = if place.is_in_history(settings) && !moved.contains_key(&place.path) {
            let shown = || format!("file {file_no} cannot be loaded again: {}", place.shown());
            Some(inbox::Aside::set(&place.path).with_context(shown)?)
        } else {
            None
        };
        // From here on, the next load of this content removes its rows and rejects, and begins
        // again.
        if let Err(fault) = database.begin_removal(file_no, &settings.datasets).await {
            aside.map_or(Ok(()), inbox::Aside::give_back)?;
            return Err(fault.into());
        }
        bring_back(settings, file, &place, aside, &mut moved)?;
    }
    note("the service or `task_runner load` removes what is stored of them and loads them");
    Ok(Outcome::Complete)
}

/// What a reload of files removes beside their own records. Empty if there is nothing.
async fn corrected(database: &dyn Database, files: &[LedgerFile]) -> anyhow::Result<String> {
    let mut records = 0;
    for file in files {
        let span = Span {
            file_no: file.entry.file_no,
            first_ordinal: 0,
            records: file.entry.records,
        };
        records += database.replayed(span).await?.len();
    }
    Ok(match records {
        0 => String::new(),
        _ => format!(
            "{records} records of these files were corrected by `rejects replay`: a reload removes the \
             corrections, so these records are rejects again unless the current definition takes them \
             as they are; replay them again after the load"
        ),
    })
}

/// Lets files be loaded that are beyond a limit of their dataset, and moves those of quarantine back to
/// inbound.
pub(super) async fn release(settings: &Settings, file_nos: &[u32]) -> anyhow::Result<Outcome> {
    check_role(settings, "files release", MOVES)?;
    let database = open_for_repairs(settings).await?;
    let mut files = Vec::new();
    for file_no in file_nos {
        let file = wanted_file(database.as_ref(), *file_no).await?;
        if !file.entry.is_held() {
            bail!(
                "file {file_no} is not held because of a limit (`task_runner files show {file_no}`): \
                 nothing was changed; `task_runner files retry` brings back other files of quarantine"
            );
        }
        let path = found(settings, database.as_ref(), &file).await;
        let path = path.with_context(|| format!("file {file_no} cannot be loaded"))?;
        files.push((file, Place::of(path)));
    }
    let mut moved = HashMap::new();
    for (file, place) in files {
        // Before the move: a service loads the file as soon as it is in inbound.
        database.release(file.entry.file_no).await?;
        let is_there = place.is_in_history(settings) && !moved.contains_key(&place.path);
        let aside = is_there.then(|| inbox::Aside::set(&place.path));
        bring_back(settings, &file, &place, aside.transpose()?, &mut moved)?;
    }
    note("the service or `task_runner load` loads them, whatever the limits of their dataset");
    Ok(Outcome::Complete)
}

/// Where the bytes of a file are.
struct Place {
    /// The path of the file, or of the container that it is a member of.
    path: PathBuf,
    /// The name of the member. A member is loaded again with its container, whose other members are
    /// known.
    member: Option<PathBuf>,
}

impl Place {
    fn of(path: PathBuf) -> Self {
        match content::located(&path) {
            Some((path, member)) => Self {
                path,
                member: Some(member.into()),
            },
            None => Self { path, member: None },
        }
    }

    fn is_in_history(&self, settings: &Settings) -> bool {
        self.path.starts_with(&settings.dirs.history)
    }

    fn shown(&self) -> String {
        shown(&self.path)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

/// Moves a file of history (which is set aside) or quarantine to inbound, and prints where it is. `moved`
/// has the files of this run that were moved: two numbers may belong to one file, which holds the records
/// of two datasets.
fn bring_back(
    settings: &Settings,
    file: &LedgerFile,
    place: &Place,
    aside: Option<inbox::Aside>,
    moved: &mut HashMap<PathBuf, PathBuf>,
) -> anyhow::Result<()> {
    let (dirs, file_no) = (&settings.dirs, file.entry.file_no);
    let path = moved.get(&place.path).unwrap_or(&place.path).clone();
    if path.starts_with(&dirs.inbound) {
        print(&format!("file {file_no}: {} is in inbound\n", shown(&path)))?;
        return Ok(());
    }
    let recursive = settings.inbound_recursive;
    let to = if let Some(aside) = aside {
        let name = inbox::exact_name(&file.entry.name).map(Path::new);
        let member = place.member.as_deref();
        let levels = member.map_or(0, |member| member.components().count());
        let name = name.and_then(|name| name.ancestors().nth(levels));
        inbox::return_from_history(dirs, aside, name.map(Path::as_os_str))
    } else if let Ok(name) = path.strip_prefix(&dirs.quarantine) {
        inbox::requeue(dirs, name.as_os_str(), recursive)
    } else {
        print(&format!(
            "file {file_no}: load {} with `task_runner load PATH`\n",
            shown(&path)
        ))?;
        return Ok(());
    };
    let to = to.with_context(|| format!("cannot move {} to inbound", shown(&path)))?;
    print(&format!(
        "file {file_no}: {} is in inbound again\n",
        shown(&to)
    ))?;
    moved.insert(path, to);
    Ok(())
}

/// Removes the own row of each record whose id another row has, too, and names the record. The row
/// of the other program stays.
///
/// # Errors
/// A record's own row cannot be recognised: its file is gone, or none of the rows equals the record.
async fn separate(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
) -> anyhow::Result<()> {
    let file_no = file.entry.file_no;
    loop {
        let doubled = database.doubled(file_no, &settings.datasets).await?;
        let Some(first) = doubled.first() else {
            return Ok(());
        };
        let compare = async || {
            let opened = Comparison::open(settings, database, file).await;
            opened.with_context(|| {
                format!("several rows have the id of record {file_no}:{first}, and one is its own")
            })
        };
        let is_doubled = |wrong: &Wrong| doubled.binary_search(&wrong.difference.ordinal).is_ok();
        // All of them are checked before the first row is removed.
        let (mut own, mut unknown) = (0, None);
        let check = async |wrong: Vec<Wrong>| {
            for wrong in wrong.iter().filter(|wrong| is_doubled(wrong)) {
                match wrong.difference.kind {
                    DifferenceKind::Foreign => own += 1,
                    _ => unknown = unknown.or(Some(wrong.difference.ordinal)),
                }
            }
            Ok(())
        };
        compare().await?.run(&mut { check }).await?;
        if let Some(ordinal) = unknown.or((own == 0).then_some(*first)) {
            bail!(
                "several rows have the id of record {file_no}:{ordinal}, and none of them equals the \
                 record: remove the rows of the other program, or give them other ids, and then run \
                 this again"
            );
        }
        let mut separated = 0;
        let separate = async |wrong: Vec<Wrong>| {
            for wrong in wrong.into_iter().filter(is_doubled) {
                let Some(record) = wrong.record else { continue };
                if database.separate(&record).await? {
                    separated += 1;
                    print(&format!(
                        "record {file_no}:{}: the row of another program with the same id stays\n",
                        wrong.difference.ordinal
                    ))?;
                }
            }
            Ok(())
        };
        compare().await?.run(&mut { separate }).await?;
        if separated == 0 {
            bail!("the rows of file {file_no} were changed meanwhile: run this again");
        }
    }
}

/// The path of a file in these directories.
///
/// # Errors
/// They do not have it. Says who may have it.
async fn found(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
) -> anyhow::Result<PathBuf> {
    let error = match Source::find(settings, file) {
        Ok(path) => return Ok(path),
        Err(error) => error.into_error(),
    };
    match whose(settings, database, &error).await? {
        Some(others) => bail!("{error:#}; {}", others::hint(&others)),
        None => Err(error),
    }
}

/// The entries of files. An error if one of them is being loaded: it is pending, and one of the
/// directories has its content, or another process takes files into other ones. Without the content,
/// no load can end it.
async fn at_rest(
    settings: &Settings,
    database: &dyn Database,
    file_nos: &[u32],
) -> anyhow::Result<Vec<LedgerFile>> {
    let mut files = Vec::new();
    for file_no in file_nos {
        let file = wanted_file(database, *file_no).await?;
        if file.entry.state == FileState::Pending {
            if Source::find(settings, &file).is_ok() {
                bail!(
                    "file {file_no} is being loaded: wait until it is settled, or until it is in \
                     quarantine"
                );
            }
            if let Some(others) = others::elsewhere(settings, database).await? {
                bail!(
                    "file {file_no} is pending, and {others} may be loading it: run this with its \
                     settings, or stop it; nothing was changed"
                );
            }
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
