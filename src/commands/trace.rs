//! `trace`: where a row or a reject came from: its file, its place in it, and its original JSON.
//!
//! The ledger says which file and which record; the file itself, proved by its hash, says the rest.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use anyhow::{anyhow, bail};

use crate::batch::provenance;
use crate::config::Settings;
use crate::config::cli::TraceArgs;
use crate::cut::{self, ChunkLimits};
use crate::dataset::Dataset;
use crate::parse::Parser;
use crate::sink::{Ledger, LedgerFile, RejectQuery, Standing};

use super::locate::{Found, locate};
use super::{Outcome, open_ledger, unless_reader_gone};

/// Prints what is known of a record and, as the last line, the record as it stands in its file.
pub(super) async fn execute(settings: &Settings, args: &TraceArgs) -> anyhow::Result<Outcome> {
    let (file_no, ordinal) = provenance(args.id);
    let ledger = open_ledger(settings).await?;
    let file = file(ledger.as_ref(), file_no).await?;
    let entry = &file.entry;
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn Display| {
        writeln!(text, "{name:<12} {value}").expect("a String takes what is written");
    };
    line("id", &args.id);
    line("file", &file_no);
    line("ordinal", &ordinal);
    line("name", &entry.name.escape_debug());
    line("dataset", &entry.dataset);
    line("state", &entry.state);
    let dataset = settings
        .dataset(&entry.dataset)
        .map_err(|_| no_dataset(&file))?;
    let is_record = ordinal < entry.records || entry.state != "settled";
    if !is_record {
        bail!(
            "file {file_no} has {} records, and so none with the ordinal {ordinal}",
            entry.records
        );
    }
    let standing = ledger.standing(dataset, args.id).await?;
    let what = became(ledger.as_ref(), dataset, args.id, standing).await?;
    line("record", &what);
    let found = locate(settings, &file, args.file.as_deref());
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            print(&text, b"")?;
            bail!(
                "{} is neither in history nor in work nor in quarantine: say where it is with --file",
                entry.name.escape_debug()
            );
        }
        Err(error) => {
            print(&text, b"")?;
            return Err(error);
        }
    };
    let place = place(settings, dataset, &found, ordinal)?;
    let mut line = |name: &str, value: &dyn Display| {
        writeln!(text, "{name:<12} {value}").expect("a String takes what is written");
    };
    line("path", &found.path.display().to_string().escape_debug());
    line("byte offset", &place.start);
    line("bytes", &place.len());
    let record = &found.content[place];
    let parsed = Parser::default().parse_record(dataset, file_no, ordinal, record);
    if standing == Standing::Row && !parsed.rejects.is_empty() {
        let why = "the file's record is a reject as its dataset is defined now: the row is of a correction, \
                   or of an earlier definition";
        line("note", &why);
    }
    print(&text, record)?;
    Ok(Outcome::Complete)
}

/// What the ledger has of a file.
async fn file(ledger: &dyn Ledger, file_no: u32) -> anyhow::Result<LedgerFile> {
    let found = ledger.ledger_files(file_no..file_no + 1, None, 1).await?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| anyhow!("the ledger has no file {file_no}; see `task_runner files list`"))
}

fn no_dataset(file: &LedgerFile) -> anyhow::Error {
    anyhow!(
        "file {} is of the dataset `{}`, which the settings do not define: name the settings file \
         with --config",
        file.entry.file_no,
        file.entry.dataset
    )
}

/// What became of a record, for people.
async fn became(
    ledger: &dyn Ledger,
    dataset: &Arc<Dataset>,
    id: u64,
    standing: Standing,
) -> anyhow::Result<String> {
    let (file_no, ordinal) = provenance(id);
    Ok(match standing {
        Standing::Row => format!("row of {}", dataset.table),
        Standing::Purged => "reject, purged".to_owned(),
        Standing::Absent => "neither row nor reject".to_owned(),
        Standing::Reject => {
            let query = RejectQuery {
                file_no: Some(file_no),
                ordinal: Some(ordinal),
                ..RejectQuery::default()
            };
            let reject = ledger.find_rejects(&query, 1).await?.into_iter().next();
            match reject.map(|reject| (reject.entry.code, reject.entry.field)) {
                Some((code, Some(field))) => {
                    format!("reject: {} `{}`", code.as_str(), field.escape_debug())
                }
                Some((code, None)) => format!("reject: {}", code.as_str()),
                None => "reject".to_owned(),
            }
        }
    })
}

/// Where a record stands in its file.
fn place(
    settings: &Settings,
    dataset: &Dataset,
    found: &Found,
    ordinal: u32,
) -> anyhow::Result<Range<usize>> {
    // Any cut gives the same records, so that of another time does not matter.
    let limits = ChunkLimits {
        records: settings.frame_records,
        bytes: settings.frame_bytes,
    };
    let plan = cut::cut(&found.content, &dataset.records, &[], limits)
        .map_err(|unreadable| anyhow!("{}: {unreadable}", found.path.display()))?;
    let after = plan
        .chunks
        .partition_point(|chunk| chunk.first_ordinal <= ordinal);
    let chunk = after.checked_sub(1).map(|at| plan.chunks[at]);
    let Some(chunk) = chunk.filter(|_| ordinal < plan.records) else {
        bail!(
            "{} has {} records, and so none with the ordinal {ordinal}",
            found.path.display(),
            plan.records
        );
    };
    let start = usize::try_from(chunk.start)?;
    let bytes = &found.content[start..usize::try_from(chunk.end)?];
    let records = cut::records(bytes, plan.layout);
    let record = &records[(ordinal - chunk.first_ordinal) as usize];
    Ok(start + record.start..start + record.end)
}

/// The record goes out byte for byte: it may be no UTF-8.
fn print(text: &str, record: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut write = || -> io::Result<()> {
        out.write_all(text.as_bytes())?;
        if !record.is_empty() {
            out.write_all(record)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    unless_reader_gone(write().map_err(Into::into))
}
