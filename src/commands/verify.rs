//! `verify`: checks each settled file against the tables: records = rows + rejects + superseded
//! + erased + retired records, with each ordinal once and within the file.
//!
//! With `--content` it also compares each row, column by column, with its record in the file.
//!
//! Reads the ledger page by page, the tables by primary key and files chunk by chunk, so that
//! memory does not grow with them. Changes no row and no content, and may run beside the service. Files
//! that a killed command has hidden get their names back first.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::ops::Range;

use anyhow::bail;
use serde_json::json;

use crate::batch::row_id;
use crate::config::Settings;
use crate::config::cli::VerifyArgs;
use crate::fault::Fault;
use crate::sink::{
    Change, Database, Difference, DifferenceKind, FileState, LedgerFile, Operators, ProblemDigest,
};

use super::audit;
use super::audited::{AuditTotals, NAMES_SHOWN, print_sums};
use super::never_met::NeverMet;
use super::orphans::{self, Search};
use super::others::{self, check_role};
use super::uncovered;
use super::{Outcome, is_confirmed, open_for_repairs, print, unless_reader_gone, wanted_file};
use crate::restore::Comparison;
use crate::restore::{InHistory, Source, Unavailable, in_history};

/// Files read from the ledger at a time.
const PAGE_FILES: usize = 500;

/// What the commands that compare records do with the directories.
const READS: &str = "reads the files in the directories";

/// Runs the command.
pub(super) async fn execute(settings: &Settings, args: &VerifyArgs) -> anyhow::Result<Outcome> {
    if args.content {
        check_role(settings, "verify --content", READS)?;
    }
    let operators = open_for_repairs(settings).await?;
    // If ledger and tables contradict each other, the exit code reports it, and the audit still
    // runs.
    let contradiction = match operators.migrate(&settings.datasets).await {
        Err(fault) if fault.is_transient() => return Err(fault.into()),
        migrated => migrated.err(),
    };
    if let Some(file_no) = args.file {
        let file = wanted_file(operators.as_ref(), file_no).await?;
        if !matches!(file.entry.state, FileState::Settled | FileState::Removing) {
            bail!(
                "file {file_no} is {}: only a settled file has all of its records stored",
                file.entry.state
            );
        }
    }
    let mut audited = AuditTotals::default();
    let mut file_nos = match (args.file, args.before) {
        (Some(file_no), _) => file_no..file_no.saturating_add(1),
        (None, before) => 0..before.unwrap_or(u32::MAX),
    };
    let database = operators.as_ref();
    name_removals(database, file_nos.clone(), args.json, &mut audited).await?;
    name_orphans(
        settings,
        database,
        file_nos.clone(),
        args.json,
        &mut audited,
    )
    .await?;
    let mut never_met = NeverMet::default();
    loop {
        let page = operators
            .files(file_nos.clone(), Some(FileState::Settled), PAGE_FILES)
            .await?;
        let Some(last) = page.last() else { break };
        file_nos.end = last.entry.file_no;
        never_met.add(settings, &page);
        let mut problems = audit_page(settings, database, &page, &mut audited).await?;
        for file in &page {
            let problems = problems.remove(&file.entry.file_no).unwrap_or_default();
            check(settings, database, file, problems, args, &mut audited).await?;
        }
    }
    if args.file.is_none() && contradiction.is_none() {
        let before = args.before.unwrap_or(u32::MAX);
        let datasets = settings.datasets.iter();
        audited.uncovered = uncovered::find(database, datasets, before, args.json).await?;
    }
    let totals = operators.totals().await?;
    print_sums(
        &audited,
        totals.pending,
        totals.quarantined,
        args.content,
        args.json,
    )?;
    if args.file.or(args.before).is_none() && !args.json {
        print(&never_met.notes())?;
    }
    if let Some(fault) = contradiction {
        return Err(fault.into());
    }
    if audited.wrong > 0 {
        bail!(
            "{} of {} files are not stored as the ledger says; `task_runner trace FILE_NO:ORDINAL` \
             shows a missing record",
            audited.wrong,
            audited.files
        );
    }
    if audited.uncovered.rows > 0 {
        bail!(
            "{} rows have file numbers that the ledger does not have. If a backup was restored, \
             docs/repairs.md has the statement that removes them. If another program wrote them, give \
             them ids below {}",
            audited.uncovered.rows,
            row_id(1, 0)
        );
    }
    Ok(Outcome::Complete)
}

/// Names the files whose removal has begun and not ended: some of their rows may be in the tables.
async fn name_removals(
    operators: &dyn Operators,
    mut file_nos: Range<u32>,
    json: bool,
    audited: &mut AuditTotals,
) -> anyhow::Result<()> {
    loop {
        let page = operators
            .files(file_nos.clone(), Some(FileState::Removing), PAGE_FILES)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        file_nos.end = last.entry.file_no;
        for file in &page {
            audited.files += 1;
            audited.wrong += 1;
            let file_no = file.entry.file_no;
            let problem = format!(
                "it is being removed, and some of its rows may be left: a load of the file continues, \
                 `task_runner files reload {file_no}` brings it to inbound for that, and `task_runner files \
                 forget {file_no}` removes it without loading it"
            );
            print_problems(file, &[problem], json)?;
        }
    }
}

/// Names the pending files whose content is gone, and counts those that other processes may have.
async fn name_orphans(
    settings: &Settings,
    database: &dyn Database,
    file_nos: Range<u32>,
    json: bool,
    audited: &mut AuditTotals,
) -> anyhow::Result<()> {
    let mut name_orphan = |file: &LedgerFile, stored| {
        audited.files += 1;
        audited.wrong += 1;
        print_problems(file, &[orphans::problem(file, stored)], json)
    };
    let search = Search::ByHash;
    audited.elsewhere =
        orphans::find(settings, database, file_nos, search, &mut name_orphan).await?;
    Ok(())
}

/// Checks a file of which the counts have these problems, and prints them unless the operator has
/// accepted exactly these.
async fn check(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
    problems: Vec<String>,
    args: &VerifyArgs,
    audited: &mut AuditTotals,
) -> anyhow::Result<()> {
    if !args.content && problems.is_empty() {
        return Ok(());
    }
    let accepted = database.acknowledged(file.entry.file_no).await?;
    let shown = accepted.is_none().then_some(args.json);
    let mut found = examine(settings, database, file, &problems, args.content, shown).await?;
    audited.compared += found.compared;
    if found.is_clean() {
        return Ok(());
    }
    let half = if args.content { 16..32 } else { 0..16 };
    if accepted.is_some_and(|accepted| accepted[half.clone()] == found.digest[half]) {
        audited.acknowledged += 1;
        return Ok(());
    }
    if shown.is_none() {
        // Something has changed since: all of it is printed.
        let shown = Some(args.json);
        found = examine(settings, database, file, &problems, args.content, shown).await?;
    }
    audited.wrong += 1;
    audited.different += found.different;
    if found.is_unread {
        audited.unread += 1;
        if audited.unread_elsewhere.is_none() {
            audited.unread_elsewhere = others::elsewhere(settings, database).await?;
        }
    }
    Ok(())
}

/// Stores that the operator accepts the problems of files as they are now.
pub(super) async fn acknowledge(
    settings: &Settings,
    file_nos: &[u32],
    yes: bool,
) -> anyhow::Result<Outcome> {
    check_role(settings, "files acknowledge", READS)?;
    let database = open_for_repairs(settings).await?;
    for file_no in file_nos {
        let file = wanted_file(database.as_ref(), *file_no).await?;
        if file.entry.state != FileState::Settled {
            bail!(
                "file {file_no} is {}: only the problems of a settled file can be accepted",
                file.entry.state
            );
        }
        if let Some(others) = others::elsewhere(settings, database.as_ref()).await?
            && Source::find(settings, &file).is_err()
        {
            bail!(
                "the records of file {file_no} cannot be compared: {}; {}",
                others::hint(&others),
                others::NOWHERE
            );
        }
        let page = std::slice::from_ref(&file);
        let mut audited = AuditTotals::default();
        let mut problems = audit_page(settings, database.as_ref(), page, &mut audited).await?;
        let problems = problems.remove(file_no).unwrap_or_default();
        let database = database.as_ref();
        let found = examine(settings, database, &file, &problems, true, Some(false)).await?;
        if found.is_clean() {
            print(&format!(
                "file {file_no}: `verify --content` finds no problem\n"
            ))?;
            continue;
        }
        let accept = "accept these problems?";
        let refusal = "`task_runner files acknowledge` accepts these problems: confirm with --yes";
        if !yes && !is_confirmed(accept, refusal)? {
            print(&format!("file {file_no}: nothing was accepted\n"))?;
            continue;
        }
        database.acknowledge(*file_no, found.digest).await?;
        print(&format!(
            "file {file_no}: `verify` counts these problems as acknowledged until they change\n"
        ))?;
    }
    Ok(Outcome::Complete)
}

/// What is wrong with a file.
struct Examined {
    has_problems: bool,
    /// Whether its records were to be compared, and could not be read.
    is_unread: bool,
    /// Records that were compared with their rows.
    compared: u64,
    /// Records whose rows differ or are missing, and rows without a record.
    different: u64,
    digest: ProblemDigest,
}

impl Examined {
    fn is_clean(&self) -> bool {
        !self.has_problems && self.different == 0
    }
}

/// Compares a file with its rows if `content`, after its counts. Prints the problems if `shown`
/// says whether as JSON.
async fn examine(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
    problems: &[String],
    content: bool,
    shown: Option<bool>,
) -> anyhow::Result<Examined> {
    // The digest has the problems without the directories of this process.
    let (mut problems, mut lasting) = (problems.to_vec(), problems.to_vec());
    let counts = blake3::hash(problems.join("\n").as_bytes());
    let mut hasher = blake3::Hasher::new();
    let (mut compared, mut different) = (0, 0);
    let (mut comparison, mut is_unread) = (None, false);
    if content {
        match Comparison::open(settings, database, file).await {
            Ok(opened) => comparison = Some(opened),
            Err(error) => {
                is_unread = true;
                let cannot = |why: String| format!("its records cannot be compared: {why}");
                let whole = format!("{error:#}");
                let unavailable = error.downcast_ref().map(Unavailable::without_directories);
                lasting.push(cannot(unavailable.unwrap_or_else(|| whole.clone())));
                problems.push(cannot(whole));
            }
        }
    }
    if let Some(json) = shown {
        print_problems(file, &problems, json)?;
    }
    hasher.update(lasting.join("\n").as_bytes());
    if let Some(comparison) = comparison {
        let run = comparison
            .run(&mut async |wrong| {
                different += wrong.len() as u64;
                for wrong in wrong {
                    add_to(&mut hasher, &wrong.difference);
                    if let Some(json) = shown {
                        print_difference(file, &wrong.difference, json)?;
                    }
                }
                Ok(())
            })
            .await;
        match run {
            Ok(()) => compared = u64::from(file.entry.records),
            Err(error) if is_of_the_file(&error) => {
                let problem = format!("its records cannot be compared: {error:#}");
                hasher.update(problem.as_bytes());
                if let Some(json) = shown {
                    print_problems(file, std::slice::from_ref(&problem), json)?;
                }
                problems.push(problem);
            }
            Err(error) => return Err(error),
        }
    }
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(&counts.as_bytes()[..16]);
    digest[16..].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(Examined {
        has_problems: !problems.is_empty(),
        is_unread,
        compared,
        different,
        digest,
    })
}

/// Whether an error concerns one file or its table, and not the database: the next file may be
/// compared.
fn is_of_the_file(error: &anyhow::Error) -> bool {
    let fault = error.downcast_ref::<Fault>();
    fault.is_some_and(|fault| !fault.is_transient()) || error.is::<Unavailable>()
}

/// The code of a difference, as the JSON has it, and the columns that changed.
fn code_of(kind: &DifferenceKind) -> (&'static str, &[Change]) {
    match kind {
        DifferenceKind::Changed(changes) => ("changed", changes),
        DifferenceKind::Missing => ("missing", &[]),
        DifferenceKind::Foreign => ("foreign", &[]),
    }
}

/// Adds a difference to a digest, with the values that the table has.
fn add_to(hasher: &mut blake3::Hasher, difference: &Difference) {
    let (code, changes) = code_of(&difference.kind);
    hasher.update(format!("\n{} {code}", difference.ordinal).as_bytes());
    for change in changes {
        hasher.update(format!(" {} ", change.column).as_bytes());
        hasher.update(&change.stored);
    }
}

fn print_difference(file: &LedgerFile, difference: &Difference, json: bool) -> anyhow::Result<()> {
    let Difference { ordinal, kind } = difference;
    let file_no = file.entry.file_no;
    let (code, changes) = code_of(kind);
    let columns: Vec<&str> = changes
        .iter()
        .map(|change| change.column.as_str())
        .collect();
    let text = match kind {
        DifferenceKind::Changed(_) => {
            format!("the row has other values in {}", columns.join(", "))
        }
        DifferenceKind::Missing => "neither a row nor a reject".to_owned(),
        DifferenceKind::Foreign => "a row that is not of this file".to_owned(),
    };
    let line = if json {
        let line = json!({
            "file_no": file_no, "ordinal": ordinal, "id": row_id(file_no, *ordinal),
            "difference": code, "columns": columns
        });
        format!("{line}\n")
    } else {
        format!("record {file_no}:{ordinal}: {text}\n")
    };
    let printed = io::stdout().lock().write_all(line.as_bytes());
    unless_reader_gone(printed.map_err(Into::into))
}

async fn audit_page(
    settings: &Settings,
    operators: &dyn Database,
    page: &[LedgerFile],
    audited: &mut AuditTotals,
) -> anyhow::Result<BTreeMap<u32, Vec<String>>> {
    let mut wrong: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut note = |file: &LedgerFile, problems: Vec<String>| {
        if !problems.is_empty() {
            wrong
                .entry(file.entry.file_no)
                .or_default()
                .extend(problems);
        }
    };
    let mut by_dataset: BTreeMap<&str, Vec<&LedgerFile>> = BTreeMap::new();
    for file in page {
        audited.files += 1;
        audited.records += u64::from(file.entry.records);
        match in_history(settings, operators, file).await? {
            InHistory::AsRead => {}
            InHistory::Absent => {
                audited.not_in_history += 1;
                if audited.names.len() < NAMES_SHOWN {
                    audited.names.push(file.entry.name.clone());
                }
            }
            InHistory::NotBlank(path) => {
                let path = path.display();
                let problem = format!(
                    "{path} still has records that were erased: `task_runner erase` with one of them \
                     erases all of them there"
                );
                note(file, vec![problem]);
            }
            InHistory::Changed(path) => {
                let path = path.display();
                let problem = format!("{path} does not have the bytes that were loaded");
                note(file, vec![problem]);
            }
        }
        by_dataset
            .entry(&file.entry.dataset)
            .or_default()
            .push(file);
    }
    for files in by_dataset.values() {
        for (file, counted) in audit::count(settings, operators, files).await? {
            audited.rows += counted.audit.rows;
            audited.rejects += counted.audit.rejects;
            audited.purged += counted.audit.purged;
            audited.superseded += counted.audit.superseded;
            audited.erased += counted.audit.erased;
            audited.retired += counted.audit.retired;
            note(file, counted.problems);
        }
    }
    Ok(wrong)
}

fn print_problems(file: &LedgerFile, problems: &[String], json: bool) -> anyhow::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    let entry = &file.entry;
    let line = if json {
        let line = json!({
            "file_no": entry.file_no, "name": entry.name, "dataset": entry.dataset,
            "problems": problems
        });
        format!("{line}\n")
    } else {
        let (name, problems) = (entry.name.escape_debug(), problems.join("; "));
        format!("file {} {name}: {problems}\n", entry.file_no)
    };
    let printed = io::stdout().lock().write_all(line.as_bytes());
    // Continues if stdout is closed: the exit code still reports the result.
    unless_reader_gone(printed.map_err(Into::into))
}
