//! `trace`: where a row or a reject came from: its file, its place in it, and its original JSON.
//!
//! The ledger says which file and which record; the file itself, proved by its hash, says the rest.

use std::io::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;

use anyhow::{anyhow, bail};

use crate::batch::{SourceFile, provenance};
use crate::config::Settings;
use crate::config::cli::TraceArgs;
use crate::cut::{self, ChunkLimits};
use crate::dataset::Dataset;
use crate::parse::{self, Parser};
use crate::sink::{FileState, LedgerFile, OpenReject, Operators, RejectQuery, Standing};

use super::locate::{Found, locate};
use super::{KeyValueText, Outcome, open_for_operators, output, unless_reader_gone, wanted_file};

/// Prints what is known of a record and, as the last line, the record as it stands in its file.
pub(super) async fn execute(settings: &Settings, args: &TraceArgs) -> anyhow::Result<Outcome> {
    let (file_no, ordinal) = provenance(args.id);
    let operators = open_for_operators(settings).await?;
    let file = wanted_file(operators.as_ref(), file_no).await?;
    let entry = &file.entry;
    let mut lines = KeyValueText::default();
    lines.add("id", args.id);
    lines.add("file", file_no);
    lines.add("ordinal", ordinal);
    lines.add("name", entry.name.escape_debug());
    lines.add("dataset", &entry.dataset);
    lines.add("state", entry.state);
    let dataset = settings
        .dataset(&entry.dataset)
        .map_err(|_| no_dataset(&file))?;
    let is_record = ordinal < entry.records || entry.state != FileState::Settled;
    if !is_record {
        bail!(
            "file {file_no} has {} records, and so none with the ordinal {ordinal}",
            entry.records
        );
    }
    let standing = operators.standing(dataset, args.id).await?;
    let what = describe_outcome(operators.as_ref(), dataset, args.id, standing).await?;
    lines.add("record", what);
    let found = locate(settings, &file, args.file.as_deref());
    let found = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            print_record(lines, b"")?;
            bail!(
                "{} is neither in history nor in work nor in quarantine: say where it is with --file",
                entry.name.escape_debug()
            );
        }
        Err(error) => {
            print_record(lines, b"")?;
            return Err(error);
        }
    };
    let range = locate_record(settings, dataset, &found, ordinal)?;
    lines.add("path", found.path.display().to_string().escape_debug());
    lines.add("byte offset", range.start);
    lines.add("bytes", range.len());
    let source = SourceFile {
        file_no,
        hash: file.hash,
    };
    let mut copy = Vec::new();
    let record = if parse::is_one_too_large(1, range.len() as u64) {
        // The parser does not look into it, and it need not fit into memory.
        &found.content[range]
    } else {
        let stable = found.content.stable(range, &mut copy);
        stable.ok_or_else(|| {
            anyhow!(
                "{} changed while it was read: run this again",
                found.path.display()
            )
        })?
    };
    let parsed = Parser::default().parse_record(dataset, source, ordinal, record);
    if standing == Standing::Row && !parsed.rejects.is_empty() {
        let why = "the file's record is a reject as its dataset is defined now: the row is of a correction, \
                   or of an earlier definition";
        lines.add("note", why);
    }
    print_record(lines, record)?;
    Ok(Outcome::Complete)
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
async fn describe_outcome(
    operators: &dyn Operators,
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
            let reject = operators.find_rejects(&query, 1).await?.into_iter().next();
            reject.map_or("reject".to_owned(), |OpenReject { entry, .. }| {
                let field = output::field_suffix(entry.field.as_ref());
                format!("reject: {}{field}", entry.code.as_str())
            })
        }
    })
}

/// Where a record stands in its file.
fn locate_record(
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
fn print_record(lines: KeyValueText, record: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let write = || -> io::Result<()> {
        out.write_all(lines.into_text().as_bytes())?;
        if !record.is_empty() {
            out.write_all(record)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    unless_reader_gone(write().map_err(Into::into))
}
