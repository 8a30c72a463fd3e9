//! Counts the stored records of settled files, in the tables that have them, and says what is wrong
//! with the counts.

use std::sync::Arc;

use crate::batch::{provenance, row_id};
use crate::config::Settings;
use crate::dataset::Dataset;
use crate::sink::{Audit, Database, LedgerFile, Operators, Standing};

/// Most records queried one by one to find the first missing record.
const PROBES_MAX: u32 = 1_000;

/// Ids read at a time to find the first missing record.
const IDS_PAGE: usize = 10_000;

/// Records counted in one statement, unless one file has more. Scanning them takes a second or two,
/// during which SQLite blocks writers.
const AUDIT_RECORDS: u64 = 2_000_000;

/// The counts of a file, and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) audit: Audit,
    /// Empty if the stored records match the ledger.
    pub(super) problems: Vec<String>,
}

/// Counts the records of files of one dataset.
///
/// They are expected in the table that the dataset has now. A file that does not match there, and
/// was loaded while the dataset had another table, is counted in that one.
///
/// # Errors
/// Transient faults of the database. Any other fault is a problem of its file.
pub(super) async fn count<'a>(
    settings: &Settings,
    database: &dyn Database,
    files: &[&'a LedgerFile],
) -> anyhow::Result<Vec<(&'a LedgerFile, Counted)>> {
    let mut all = Vec::new();
    for files in groups(files) {
        let present = settings.datasets.by_name(&files[0].entry.dataset);
        let file_nos: Vec<u32> = files.iter().map(|file| file.entry.file_no).collect();
        let audits = match present {
            None => Vec::new(),
            Some(dataset) => match database.audit(dataset, &file_nos).await {
                Err(fault) if fault.is_transient() => return Err(fault.into()),
                audits => audits.unwrap_or_default(),
            },
        };
        for (at, file) in files.into_iter().enumerate() {
            let mut counted = None;
            if let (Some(dataset), Some(audit)) = (present, audits.get(at)) {
                let problems = problems(database, dataset, file, *audit).await?;
                counted = Some((
                    dataset,
                    Counted {
                        audit: *audit,
                        problems,
                    },
                ));
            }
            let counted = match counted {
                Some((_, counted)) if counted.problems.is_empty() => counted,
                counted => by_definition(settings, database, file, counted).await?,
            };
            all.push((file, counted));
        }
    }
    Ok(all)
}

/// Counts a file in the table of the definition by which it was loaded, unless it was counted there.
async fn by_definition(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
    counted: Option<(&Arc<Dataset>, Counted)>,
) -> anyhow::Result<Counted> {
    let file_no = file.entry.file_no;
    let failed = |problem: String| Counted {
        problems: vec![problem],
        ..Counted::default()
    };
    let own = match database.loaded_by(file_no, &settings.datasets).await {
        Ok(Some(own)) => own,
        // It was removed meanwhile.
        Ok(None) => return Ok(Counted::default()),
        Err(fault) if fault.is_transient() => return Err(fault.into()),
        Err(fault) => return Ok(failed(format!("its table is not known: {fault}"))),
    };
    if let Some((dataset, counted)) = counted
        && dataset.table == own.table
    {
        return Ok(counted);
    }
    match database.audit(&own, &[file_no]).await {
        Ok(audits) => {
            let audit = audits.first().copied().unwrap_or_default();
            let problems = problems(database, &own, file, audit).await?;
            Ok(Counted { audit, problems })
        }
        Err(fault) if fault.is_transient() => Err(fault.into()),
        Err(fault) => Ok(failed(format!("its rows cannot be counted: {fault}"))),
    }
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

/// The problems of a file. Empty if its stored records match the ledger.
async fn problems(
    operators: &dyn Operators,
    dataset: &Arc<Dataset>,
    file: &LedgerFile,
    audit: Audit,
) -> anyhow::Result<Vec<String>> {
    let records = u64::from(file.entry.records);
    let stored = audit.stored();
    let mut problems = Vec::new();
    if stored != records {
        let purged = match audit.purged {
            0 => String::new(),
            purged => format!(" + {purged} purged"),
        };
        let superseded = match audit.superseded {
            0 => String::new(),
            superseded => format!(" + {superseded} superseded"),
        };
        let erased = match audit.erased {
            0 => String::new(),
            erased => format!(" + {erased} erased"),
        };
        let retired = match audit.retired {
            0 => String::new(),
            retired => format!(" + {retired} retired"),
        };
        problems.push(format!(
            "{} rows + {} rejects{purged}{superseded}{erased}{retired} of {records} records",
            audit.rows, audit.rejects
        ));
    }
    // Of a file with retired rows, a missing record is not told from a retired one.
    let beyond = audit.beyond(file.entry.records);
    if (stored < records || beyond.is_some()) && audit.retired == 0 {
        let missing = first_missing(operators, dataset, file).await?;
        problems.extend(missing.map(|ordinal| format!("the first missing ordinal is {ordinal}")));
    }
    if audit.doubled > 0 {
        problems.push(format!(
            "{} rows have the ids of rejects, or of superseded or erased records: another program wrote them, and `task_runner rejects list \
             --code id_taken` shows the records",
            audit.doubled
        ));
    }
    if let Some(last) = beyond {
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

/// The first ordinal that is neither row nor reject nor superseded. `None` if it is not among the first
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
