//! `check`: parses and validates files as `load` would, prints the rejects, and writes nothing.

use std::fs;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::json;

use crate::batch::{Batch, Reject};
use crate::config::Settings;
use crate::config::cli::CheckArgs;
use crate::dataset::{Dataset, FileDatasets, NoDataset};
use crate::inbox::Markers;
use crate::parse::{self, Parser};

use super::parsed::each_batch;
use super::{NoInput, Outcome, output, unless_reader_gone};

/// Totals over all files.
#[derive(Debug, Default)]
struct Tally {
    files: u64,
    unreadable: u64,
    records: u64,
    rejects: u64,
}

/// Runs the command.
pub(super) fn execute(settings: &Settings, args: &CheckArgs) -> anyhow::Result<Outcome> {
    let dataset = args
        .dataset
        .as_deref()
        .map(|name| settings.dataset(name))
        .transpose()?;
    let markers = Markers::new(&settings.marker_files.0);
    let mut files = Vec::new();
    for path in &args.paths {
        find_files(path, &mut files)?;
    }
    files.retain(|file| !file.file_name().is_some_and(|name| markers.has(name)));
    let mut out = BufWriter::new(io::stdout().lock());
    let mut tally = Tally::default();
    let result = check_all(settings, &files, dataset, args.json, &mut tally, &mut out)
        .and_then(|()| out.flush().map_err(Into::into));
    unless_reader_gone(result)?;
    Ok(match tally.rejects + tally.unreadable {
        0 => Outcome::Complete,
        _ => Outcome::Rejected,
    })
}

/// Adds the path if it is a file, or the regular files below it, sorted by name.
fn find_files(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let kind = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::Error::new(NoInput(path.display().to_string())),
        _ => anyhow::Error::new(error).context(path.display().to_string()),
    })?;
    if !kind.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    let reading = || path.display().to_string();
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        // Links are not followed: a link to a parent would make this endless.
        let kind = entry.file_type().with_context(reading)?;
        if kind.is_dir() || kind.is_file() {
            entries.push(entry.path());
        }
    }
    entries.sort();
    entries
        .iter()
        .try_for_each(|entry| find_files(entry, files))
}

fn check_all(
    settings: &Settings,
    files: &[PathBuf],
    dataset: Option<&Arc<Dataset>>,
    json: bool,
    tally: &mut Tally,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut parser = Parser::default();
    for path in files {
        let name = path
            .file_name()
            .map(std::ffi::OsStr::as_encoded_bytes)
            .unwrap_or_default();
        tally.files += 1;
        let found = match settings.datasets.of_file(name, dataset) {
            Err(NoDataset::None(_)) => {
                Err("no dataset matches its name; name one with --dataset".to_owned())
            }
            Err(other) => Err(other.to_string()),
            Ok(of) => check_file(settings, &mut parser, path, &of)?,
        };
        match found {
            Err(reason) => {
                tally.unreadable += 1;
                print_unreadable(path, &reason, json, out)?;
            }
            Ok(parts) => {
                let is_part = parts.len() > 1;
                for part in parts {
                    tally.records += u64::from(part.records);
                    tally.rejects += part.rejects.len() as u64;
                    print_rejects(path, &part, is_part, json, out)?;
                }
            }
        }
    }
    let Tally {
        files,
        unreadable,
        records,
        rejects,
    } = *tally;
    if json {
        let sum = json!({
            "files": files, "unreadable": unreadable, "records": records, "rejects": rejects
        });
        writeln!(out, "{sum}")?;
    } else {
        let rows = records - rejects;
        writeln!(
            out,
            "{files} files, {unreadable} of them unreadable; {records} records: {rows} rows, \
             {rejects} rejects"
        )?;
    }
    Ok(())
}

/// The records of one dataset in a file that was parsed.
struct CheckedPart {
    dataset: Arc<Dataset>,
    records: u32,
    rejects: Vec<Reject>,
}

/// Parses a file. Returns its parts, one for each dataset whose records it holds. The inner error
/// is the reason for which `load` would quarantine the file.
fn check_file(
    settings: &Settings,
    parser: &mut Parser,
    path: &Path,
    of: &FileDatasets<'_>,
) -> anyhow::Result<Result<Vec<CheckedPart>, String>> {
    let mut rejects: Vec<(Arc<Dataset>, Reject)> = Vec::new();
    let mut visit = |batch: &Batch| {
        let of_batch = batch.rejects.iter().cloned();
        rejects.extend(of_batch.map(|reject| (Arc::clone(&batch.dataset), reject)));
    };
    let parts = each_batch(settings, parser, path, of, &mut visit)?;
    Ok(parts.map(|parts| {
        let part = |(dataset, records): (Arc<Dataset>, u32)| {
            let own = rejects.iter().filter(|(of, _)| of.name == dataset.name);
            CheckedPart {
                records,
                rejects: own.map(|(_, reject)| reject.clone()).collect(),
                dataset,
            }
        };
        parts.into_iter().map(part).collect()
    }))
}

fn print_unreadable(path: &Path, reason: &str, json: bool, out: &mut impl Write) -> io::Result<()> {
    let file = path.display().to_string();
    if json {
        writeln!(out, "{}", json!({"file": file, "unreadable": reason}))
    } else {
        writeln!(
            out,
            "{}: unreadable: {}",
            file.escape_debug(),
            reason.escape_debug()
        )
    }
}

/// Prints the rejects of a part. `is_part` says whether the file has other parts, in which other
/// records have the same ordinals.
fn print_rejects(
    path: &Path,
    part: &CheckedPart,
    is_part: bool,
    json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let file = path.display().to_string();
    let dataset = &part.dataset.name;
    let of_dataset = if is_part {
        format!(" of {dataset}")
    } else {
        String::new()
    };
    for Reject {
        ordinal,
        code,
        field,
        byte_offset,
        raw,
    } in &part.rejects
    {
        let place = parse::place_of_fault(Some(&part.dataset), raw, *code, field.as_deref());
        let code = code.as_str();
        if json {
            let reject = json!({
                "file": file, "dataset": dataset, "ordinal": ordinal, "code": code, "field": field,
                "byte_offset": byte_offset, "place_in_record": place,
                "raw": String::from_utf8_lossy(raw)
            });
            writeln!(out, "{reject}")?;
            continue;
        }
        let (file, field) = (file.escape_debug(), output::field_suffix(field.as_ref()));
        let place = place.map_or(String::new(), |place| {
            format!(" at byte {place} of the record")
        });
        let beginning = output::excerpt(raw);
        writeln!(
            out,
            "{file}: record {ordinal}{of_dataset} at byte {byte_offset}: {code}{field}{place}\n    {beginning}"
        )?;
    }
    Ok(())
}
