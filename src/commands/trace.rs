//! `trace`: prints where a row or reject came from: its file, its position, its original JSON.
//!
//! The ledger names the file and the record. The file, checked by its hash, contains the JSON.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::sync::Arc;

use anyhow::{anyhow, bail};
use serde_json::{Map, Value};

use crate::batch::{RAW_BYTES_MAX, SourceFile, provenance};
use crate::config::Settings;
use crate::config::cli::TraceArgs;
use crate::dataset::Dataset;
use crate::parse::{self, Parser};
use crate::sink::{FileState, LedgerFile, OpenReject, Operators, RejectQuery, Standing};

use super::output::JSON_VERSION;
use super::{
    KeyValueText, Outcome, open_for_operators, output, print, unless_reader_gone, wanted_file,
};
use crate::restore::{Source, Unavailable};

/// What the command prints: lines of text, or one JSON object.
struct Facts {
    lines: KeyValueText,
    /// `None` without `--json`.
    object: Option<Map<String, Value>>,
}

impl Facts {
    /// Adds a line, and its value as a field of the object.
    fn add(&mut self, name: &str, line: impl Display, field: &str, value: impl Into<Value>) {
        match &mut self.object {
            Some(object) => drop(object.insert(field.to_owned(), value.into())),
            None => self.lines.add(name, line),
        }
    }

    /// Adds a field to the object, for which the lines have no line of its own.
    fn add_field(&mut self, field: &str, value: impl Into<Value>) {
        if let Some(object) = &mut self.object {
            object.insert(field.to_owned(), value.into());
        }
    }
}

/// Runs the command. Without `--json`, the last line of its output is the record as it is written in
/// the file.
pub(super) async fn execute(settings: &Settings, args: &TraceArgs) -> anyhow::Result<Outcome> {
    let (file_no, ordinal) = provenance(args.id);
    let operators = open_for_operators(settings).await?;
    let file = wanted_file(operators.as_ref(), file_no).await?;
    let entry = &file.entry;
    let mut facts = Facts {
        lines: KeyValueText::default(),
        object: args.json.then(Map::new),
    };
    facts.add_field("version", JSON_VERSION);
    facts.add("id", args.id, "id", args.id);
    facts.add("file", file_no, "file_no", file_no);
    facts.add("ordinal", ordinal, "ordinal", ordinal);
    facts.add("name", entry.name.escape_debug(), "name", &*entry.name);
    facts.add("dataset", &entry.dataset, "dataset", &*entry.dataset);
    facts.add("state", entry.state, "state", entry.state.as_str());
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
    describe_outcome(operators.as_ref(), dataset, (args.id, standing), &mut facts).await?;
    if standing == Standing::Erased {
        // Its bytes are not printed, wherever a copy may still have them.
        facts.add_field("unavailable", "it was erased, so its text is not shown");
        print_facts(facts, None)?;
        return Ok(Outcome::Complete);
    }
    // The ordinals follow from the definition with which the file was loaded.
    let loaded_by = operators.loaded_by(file_no, &settings.datasets).await?;
    let loaded_by = loaded_by.as_ref().unwrap_or(dataset);
    let mut source = match Source::open(settings, loaded_by, &file, args.file.as_deref()) {
        Ok(source) => source,
        Err(error) => {
            facts.add_field("unavailable", error.to_string());
            print_facts(facts, None)?;
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
    let path = source.path.display().to_string();
    facts.add("path", path.escape_debug(), "path", &*path);
    facts.add("byte offset", place.start, "byte_offset", place.start);
    let bytes = place.end - place.start;
    facts.add("bytes", bytes, "bytes", bytes);
    let origin = SourceFile {
        file_no,
        hash: file.hash,
    };
    let outside = source.outside(ordinal).map_err(Unavailable::into_error)?;
    let report = |record: &[u8]| {
        let mut parser = Parser::default();
        let parsed = parser.parse_record(dataset, origin, ordinal, record, &outside);
        if standing == Standing::Row && !parsed.rejects.is_empty() {
            let why = "with the current definition of its dataset, this record is a reject: the row \
                       was made from a correction, or with an earlier definition";
            facts.add("note", why, "note", why);
        }
        print_facts(facts, Some(record))
    };
    if bytes > parse::RECORD_BYTES_MAX as u64 {
        // Not copied: the parser rejects it unread, and it may be larger than memory.
        let printed = source.inspect(place, report);
        printed.map_err(Unavailable::into_error)??;
    } else {
        let mut buffer = Vec::new();
        let record = source.read(place, &mut buffer);
        report(record.map_err(Unavailable::into_error)?)?;
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

/// Adds what became of a record.
async fn describe_outcome(
    operators: &dyn Operators,
    dataset: &Arc<Dataset>,
    (id, standing): (u64, Standing),
    facts: &mut Facts,
) -> anyhow::Result<()> {
    let (file_no, ordinal) = provenance(id);
    let (line, outcome) = match standing {
        Standing::Row => (format!("row of {}", dataset.table), "row"),
        Standing::Purged => ("reject, purged".to_owned(), "purged"),
        Standing::Superseded(winner) => (
            format!("superseded by row {winner}, which has the same key"),
            "superseded",
        ),
        Standing::Erased => ("erased".to_owned(), "erased"),
        Standing::Retired => ("row, retired with its partition".to_owned(), "retired"),
        Standing::Absent => ("neither row nor reject".to_owned(), "absent"),
        Standing::Reject => {
            let query = RejectQuery {
                file_no: Some(file_no),
                ordinal: Some(ordinal),
                ..RejectQuery::default()
            };
            let reject = operators.find_rejects(&query, 1).await?.into_iter().next();
            let line = reject.map_or("reject".to_owned(), |OpenReject { entry, .. }| {
                let (code, field) = (
                    entry.code.as_str(),
                    output::field_suffix(entry.field.as_ref()),
                );
                facts.add_field("code", code);
                facts.add_field("field", entry.field);
                format!("reject: {code}{field}")
            });
            (line, "reject")
        }
    };
    facts.add("record", line, "outcome", outcome);
    if standing == Standing::Row {
        facts.add_field("table", &*dataset.table);
    }
    Ok(())
}

/// Prints the facts and, after the lines, the record byte for byte, because it may not be UTF-8. In the
/// object, a record larger than any that is parsed is cut.
fn print_facts(mut facts: Facts, record: Option<&[u8]>) -> anyhow::Result<()> {
    if let (Some(object), Some(record)) = (&mut facts.object, record) {
        let is_cut = record.len() > parse::RECORD_BYTES_MAX;
        let raw = if is_cut {
            &record[..RAW_BYTES_MAX]
        } else {
            record
        };
        object.insert("raw".to_owned(), String::from_utf8_lossy(raw).into());
        if is_cut {
            object.insert("raw_is_cut".to_owned(), true.into());
        }
        if str::from_utf8(record).is_err() {
            object.insert("raw_is_not_utf8".to_owned(), true.into());
        }
    }
    if let Some(object) = facts.object {
        return Ok(print(&format!("{}\n", Value::from(object)))?);
    }
    let mut out = io::stdout().lock();
    let write = || -> io::Result<()> {
        out.write_all(facts.lines.into_text().as_bytes())?;
        if let Some(record) = record {
            out.write_all(record)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    unless_reader_gone(write().map_err(Into::into))
}
