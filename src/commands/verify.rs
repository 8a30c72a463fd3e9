//! `verify`: checks each settled file against the tables: records = rows + rejects, with each
//! ordinal once and within the file.
//!
//! With `--content` it also compares each row, column by column, with its record in the file.
//!
//! Reads the ledger page by page, the tables by primary key and files chunk by chunk, so that
//! memory does not grow with them. Changes nothing, and may run beside the service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::bail;
use serde_json::json;

use crate::batch::{provenance, row_id};
use crate::config::Settings;
use crate::config::cli::VerifyArgs;
use crate::dataset::Dataset;
use crate::sink::{
    Audit, Database, Difference, DifferenceKind, FileState, LedgerFile, Operators, Standing,
};

use super::contents::Comparison;
use super::source::{InHistory, in_history};
use super::{INFALLIBLE, Outcome, open_for_repairs, unless_reader_gone};

/// Files read from the ledger at a time.
const PAGE_FILES: usize = 500;

/// Records counted in one statement, unless one file has more. Scanning them takes a second or two,
/// during which SQLite blocks writers.
const AUDIT_RECORDS: u64 = 2_000_000;

/// Ids read at a time to find the first missing record.
const IDS_PAGE: usize = 10_000;

/// Most records queried one by one to find the first missing record.
const PROBES_MAX: u32 = 1_000;

/// Most names in the note about files that are not in history.
const NAMES_SHOWN: usize = 3;

/// Totals over all files.
#[derive(Debug, Default)]
struct AuditTotals {
    files: u64,
    wrong: u64,
    records: u64,
    rows: u64,
    rejects: u64,
    purged: u64,
    not_in_history: u64,
    /// Records of files that were compared with their rows.
    compared: u64,
    /// Records whose rows differ from the file or are missing, and rows without a record.
    different: u64,
    /// Names of the first few files that are not in history.
    names: Vec<String>,
}

/// A file whose stored records do not match the ledger.
struct WrongFile {
    file_no: u32,
    name: String,
    dataset: String,
    problems: Vec<String>,
}

/// Runs the command.
pub(super) async fn execute(settings: &Settings, args: &VerifyArgs) -> anyhow::Result<Outcome> {
    let operators = open_for_repairs(settings).await?;
    // If ledger and tables contradict each other, the exit code reports it, and the audit still
    // runs.
    let contradiction = match operators.migrate(&settings.datasets).await {
        Err(fault) if fault.is_transient() => return Err(fault.into()),
        migrated => migrated.err(),
    };
    let mut audited = AuditTotals::default();
    let mut file_nos = match (args.file, args.before) {
        (Some(file_no), _) => file_no..file_no.saturating_add(1),
        (None, before) => 0..before.unwrap_or(u32::MAX),
    };
    loop {
        let page = operators
            .files(file_nos.clone(), Some(FileState::Settled), PAGE_FILES)
            .await?;
        let Some(last) = page.last() else { break };
        file_nos.end = last.entry.file_no;
        let mut wrong = audit_page(settings, operators.as_ref(), &page, &mut audited).await?;
        print_wrong(&wrong, args.json)?;
        if args.content {
            for file in &page {
                if compare(settings, operators.as_ref(), file, args.json, &mut audited).await? {
                    continue;
                }
                if wrong
                    .iter()
                    .all(|known| known.file_no != file.entry.file_no)
                {
                    wrong.push(wrong_file(file, Vec::new()));
                }
            }
        }
        audited.wrong += wrong.len() as u64;
    }
    let totals = operators.totals().await?;
    print_sums(
        &audited,
        totals.pending,
        totals.quarantined,
        args.content,
        args.json,
    )?;
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
    Ok(Outcome::Complete)
}

/// Compares the rows of a file with its records, and prints each difference. Returns whether there
/// is none.
async fn compare(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
    json: bool,
    audited: &mut AuditTotals,
) -> anyhow::Result<bool> {
    let comparison = match Comparison::open(settings, database, file).await {
        Ok(comparison) => comparison,
        Err(error) => {
            let problem = format!("its records cannot be compared: {error:#}");
            print_wrong(&[wrong_file(file, vec![problem])], json)?;
            return Ok(false);
        }
    };
    let mut found = 0;
    comparison
        .run(&mut async |wrong| {
            found += wrong.len() as u64;
            for wrong in wrong {
                print_difference(file, &wrong.difference, json)?;
            }
            Ok(())
        })
        .await?;
    audited.compared += u64::from(file.entry.records);
    audited.different += found;
    Ok(found == 0)
}

fn print_difference(file: &LedgerFile, difference: &Difference, json: bool) -> anyhow::Result<()> {
    let Difference { ordinal, kind } = difference;
    let file_no = file.entry.file_no;
    let (code, columns, text) = match kind {
        DifferenceKind::Changed(columns) => {
            let text = format!("the row has other values in {}", columns.join(", "));
            ("changed", columns.as_slice(), text)
        }
        DifferenceKind::Missing => ("missing", &[][..], "neither a row nor a reject".to_owned()),
        DifferenceKind::Foreign => (
            "foreign",
            &[][..],
            "a row that is not of this file".to_owned(),
        ),
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
) -> anyhow::Result<Vec<WrongFile>> {
    let mut wrong = Vec::new();
    let mut by_dataset: BTreeMap<&str, Vec<&LedgerFile>> = BTreeMap::new();
    for file in page {
        audited.files += 1;
        audited.records += u64::from(file.entry.records);
        match in_history(settings, file) {
            InHistory::AsRead => {}
            InHistory::Absent => {
                audited.not_in_history += 1;
                if audited.names.len() < NAMES_SHOWN {
                    audited.names.push(file.entry.name.clone());
                }
            }
            InHistory::Changed(path) => {
                let path = path.display();
                let problem = format!("{path} does not have the bytes that were loaded");
                note(&mut wrong, file, vec![problem]);
            }
        }
        by_dataset
            .entry(&file.entry.dataset)
            .or_default()
            .push(file);
    }
    for (name, files) in by_dataset {
        let Some(dataset) = settings.datasets.by_name(name) else {
            let problem = "its dataset is not in the settings, so its table is unknown";
            for file in files {
                note(&mut wrong, file, vec![problem.to_owned()]);
            }
            continue;
        };
        for files in groups(&files) {
            let file_nos: Vec<u32> = files.iter().map(|file| file.entry.file_no).collect();
            let audits = operators.audit(dataset, &file_nos).await?;
            for (file, audit) in files.iter().zip(audits) {
                audited.rows += audit.rows;
                audited.rejects += audit.rejects;
                audited.purged += audit.purged;
                let problems = problems(operators, dataset, file, audit).await?;
                note(&mut wrong, file, problems);
            }
        }
    }
    wrong.sort_by_key(|wrong| std::cmp::Reverse(wrong.file_no));
    Ok(wrong)
}

/// Groups the files. One statement counts the rows of a group.
fn groups<'a>(files: &[&'a LedgerFile]) -> Vec<Vec<&'a LedgerFile>> {
    let mut groups: Vec<Vec<&LedgerFile>> = Vec::new();
    let mut records = 0;
    for file in files {
        records += u64::from(file.entry.records);
        match groups.last_mut() {
            Some(group) if records <= AUDIT_RECORDS => group.push(file),
            _ => {
                records = u64::from(file.entry.records);
                groups.push(vec![file]);
            }
        }
    }
    groups
}

/// Adds the problems of a file to those that are known.
fn note(wrong: &mut Vec<WrongFile>, file: &LedgerFile, problems: Vec<String>) {
    let known = wrong
        .iter_mut()
        .find(|known| known.file_no == file.entry.file_no);
    match known {
        Some(known) => known.problems.extend(problems),
        None if problems.is_empty() => {}
        None => wrong.push(wrong_file(file, problems)),
    }
}

fn wrong_file(file: &LedgerFile, problems: Vec<String>) -> WrongFile {
    WrongFile {
        file_no: file.entry.file_no,
        name: file.entry.name.clone(),
        dataset: file.entry.dataset.clone(),
        problems,
    }
}

/// The problems of a file. Empty if its stored records match the ledger.
async fn problems(
    operators: &dyn Operators,
    dataset: &Arc<Dataset>,
    file: &LedgerFile,
    audit: Audit,
) -> anyhow::Result<Vec<String>> {
    let records = u64::from(file.entry.records);
    let stored = audit.rows + audit.rejects + audit.purged - audit.doubled;
    let mut problems = Vec::new();
    if stored != records {
        let purged = match audit.purged {
            0 => String::new(),
            purged => format!(" + {purged} purged"),
        };
        problems.push(format!(
            "{} rows + {} rejects{purged} of {records} records",
            audit.rows, audit.rejects
        ));
    }
    if stored < records {
        let missing = first_missing(operators, dataset, file).await?;
        problems.extend(missing.map(|ordinal| format!("the first missing ordinal is {ordinal}")));
    }
    if audit.doubled > 0 {
        problems.push(format!(
            "{} rows have the ids of rejects: another program wrote them, and `task_runner rejects list \
             --code id_taken` shows the records",
            audit.doubled
        ));
    }
    if let Some(last) = audit
        .last_ordinal
        .filter(|last| u64::from(*last) >= records)
    {
        problems.push(format!("ordinal {last} is beyond the end of the file"));
    }
    if audit.entries > 0 {
        problems.push(format!(
            "{} entries are left in ingest_frames, but a settled file has none",
            audit.entries
        ));
    }
    Ok(problems)
}

/// The first ordinal that is neither row nor reject. `None` if it is not among the first
/// [`PROBES_MAX`] records without a row: the answer helps the operator and is not part of the
/// audit.
async fn first_missing(
    operators: &dyn Operators,
    dataset: &Arc<Dataset>,
    file: &LedgerFile,
) -> anyhow::Result<Option<u32>> {
    let mut next = row_id(file.entry.file_no, 0);
    let end = next + u64::from(file.entry.records);
    let mut probes = 0;
    while next < end {
        let mut ids = operators.row_ids(dataset, next..end, IDS_PAGE).await?;
        if ids.len() < IDS_PAGE {
            ids.push(end);
        }
        for id in ids {
            for id in next..id {
                if operators.standing(dataset, id).await? == Standing::Absent {
                    return Ok(Some(provenance(id).1));
                }
                probes += 1;
                if probes == PROBES_MAX {
                    return Ok(None);
                }
            }
            next = id + 1;
        }
    }
    Ok(None)
}

fn print_wrong(wrong: &[WrongFile], json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut print = || -> io::Result<()> {
        for WrongFile {
            file_no,
            name,
            dataset,
            problems,
        } in wrong
        {
            if json {
                let line = json!({
                    "file_no": file_no, "name": name, "dataset": dataset, "problems": problems
                });
                writeln!(out, "{line}")?;
            } else {
                let problems = problems.join("; ");
                writeln!(out, "file {file_no} {}: {problems}", name.escape_debug())?;
            }
        }
        Ok(())
    };
    // Continues if stdout is closed: the exit code still reports the result.
    unless_reader_gone(print().map_err(Into::into))
}

fn print_sums(
    audited: &AuditTotals,
    pending: u64,
    quarantined: u64,
    content: bool,
    json: bool,
) -> anyhow::Result<()> {
    let AuditTotals {
        files,
        wrong,
        records,
        rows,
        rejects,
        purged,
        not_in_history,
        compared,
        different,
        names,
    } = audited;
    let text = if json {
        let mut audited = json!({
            "files": files, "wrong": wrong, "records": records, "rows": rows, "rejects": rejects,
            "purged": purged, "not_in_history": not_in_history, "pending": pending,
            "quarantined": quarantined
        });
        if content {
            audited["compared"] = json!(compared);
            audited["different"] = json!(different);
        }
        format!("{audited}\n")
    } else {
        let mut text = format!(
            "{files} files, {wrong} of them wrong; {records} records: {rows} rows, {rejects} \
             rejects, {purged} purged\n"
        );
        if content {
            writeln!(
                text,
                "{compared} records compared with their files: {different} differ"
            )
            .expect(INFALLIBLE);
        }
        if pending + quarantined > 0 {
            writeln!(
                text,
                "note: {pending} files are pending and {quarantined} in quarantine; these are not \
                 audited"
            )
            .expect(INFALLIBLE);
        }
        if *not_in_history > 0 {
            let more = if *not_in_history > names.len() as u64 {
                ", …"
            } else {
                ""
            };
            let names: Vec<_> = names
                .iter()
                .map(|name| name.escape_debug().to_string())
                .collect();
            writeln!(
                text,
                "note: {not_in_history} files are not in history under their name ({}{more}): files of \
                 an archive stay in their place",
                names.join(", ")
            )
            .expect(INFALLIBLE);
        }
        text
    };
    super::print(&text)?;
    Ok(())
}
