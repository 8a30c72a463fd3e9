//! `trace`: prints where a row or reject came from: its file, its position, its original JSON.
//!
//! The ledger names the file and the record. The file, checked by its hash, contains the JSON.

use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::{anyhow, bail};

use crate::batch::{SourceFile, provenance};
use crate::config::Settings;
use crate::config::cli::TraceArgs;
use crate::dataset::Dataset;
use crate::parse::{self, Parser};
use crate::sink::{FileState, LedgerFile, OpenReject, Operators, RejectQuery, Standing};

use super::source::{Source, Unavailable};
use super::{KeyValueText, Outcome, open_for_operators, output, unless_reader_gone, wanted_file};

/// Runs the command. The last line of its output is the record as it is written in the file.
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
            "file {file_no} has {} records, so it has no ordinal {ordinal}",
            entry.records
        );
    }
    let standing = operators.standing(dataset, args.id).await?;
    let what = describe_outcome(operators.as_ref(), dataset, args.id, standing).await?;
    lines.add("record", what);
    // The ordinals follow from the definition with which the file was loaded.
    let loaded_by = operators.loaded_by(file_no, &settings.datasets).await?;
    let loaded_by = loaded_by.as_ref().unwrap_or(dataset);
    let mut source = match Source::open(settings, loaded_by, &file, args.file.as_deref()) {
        Ok(source) => source,
        Err(error) => {
            print_record(lines, b"")?;
            let error = error.into_error();
            return Err(match args.file {
                Some(_) => error,
                None => error.context("the file was not found: name its path with --file"),
            });
        }
    };
    let place = source.place(ordinal).map_err(Unavailable::into_error)?;
    let Some(place) = place else {
        bail!(
            "{} has {} records, so it has no ordinal {ordinal}",
            source.path.display(),
            source.plan.records
        );
    };
    lines.add("path", source.path.display().to_string().escape_debug());
    lines.add("byte offset", place.start);
    lines.add("bytes", place.end - place.start);
    let origin = SourceFile {
        file_no,
        hash: file.hash,
    };
    let outside = source.outside(ordinal).map_err(Unavailable::into_error)?;
    let print = |record: &[u8]| {
        let mut parser = Parser::default();
        let parsed = parser.parse_record(dataset, origin, ordinal, record, &outside);
        if standing == Standing::Row && !parsed.rejects.is_empty() {
            let why = "with the current definition of its dataset, this record is a reject: the row \
                       was made from a correction, or with an earlier definition";
            lines.add("note", why);
        }
        print_record(lines, record)
    };
    if place.end - place.start > parse::RECORD_BYTES_MAX as u64 {
        // Not copied: the parser rejects it unread, and it may be larger than memory.
        let printed = source.inspect(place, print);
        printed.map_err(Unavailable::into_error)??;
    } else {
        let mut buffer = Vec::new();
        let record = source.read(place, &mut buffer);
        print(record.map_err(Unavailable::into_error)?)?;
    }
    Ok(Outcome::Complete)
}

fn no_dataset(file: &LedgerFile) -> anyhow::Error {
    if file.entry.dataset.is_empty() {
        return anyhow!(
            "file {0} is in quarantine, and no dataset takes it, so none of its records is stored: \
             `task_runner files show {0}` has the reason",
            file.entry.file_no
        );
    }
    anyhow!(
        "file {} belongs to the dataset `{}`, which the settings do not define: name the settings \
         file with --config",
        file.entry.file_no,
        file.entry.dataset
    )
}

/// Describes what became of a record.
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

/// Writes the record byte for byte, because it may not be UTF-8.
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
