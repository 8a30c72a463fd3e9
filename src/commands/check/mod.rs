//! `check`: parses and validates files as `load` would, prints the rejects by reason, and writes
//! nothing.

mod by_name;
mod fields;
mod reasons;

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use indexmap::IndexMap;
use serde_json::json;
use serde_json::value::RawValue;

use crate::batch::{Batch, Reject};
use crate::config::Settings;
use crate::config::cli::CheckArgs;
use crate::dataset::{Dataset, NoDataset};
use crate::inbox;
use crate::parse::{self, Parser};
use crate::sink::rows_as_json;

use super::output::on_one_line;
use super::parsed::{each_batch, files_at};
use super::{NoInput, Outcome, unless_reader_gone};
use by_name::ByName;
use fields::Fields;
use reasons::Reasons;

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
    let markers = settings.markers();
    let mut files = Vec::new();
    for path in &args.paths {
        find_files(path, &mut files)?;
    }
    let is_passed_over = |name: &OsStr| markers.has(name) || markers.is_temporary(name);
    files.retain(|file| !file.file_name().is_some_and(is_passed_over));
    let found = files.iter().flat_map(|file| files_at(settings, file, 0));
    files = found.map(|(file, _)| file).collect();
    files.retain(|file| !file.file_name().is_some_and(is_passed_over));
    let mut out = BufWriter::new(io::stdout().lock());
    let mut tally = Tally::default();
    let mut check = Check {
        args,
        out: &mut out,
        tally: &mut tally,
        reasons: Reasons::default(),
        fields: Fields::default(),
        by_name: ByName::default(),
        unnamed: IndexMap::new(),
        shown: Vec::new(),
    };
    let result = check.all(settings, &files, dataset);
    let has_wrong_pointer = check.by_name.has_wrong_pointer();
    unless_reader_gone(result.and_then(|()| out.flush().map_err(Into::into)))?;
    Ok(match tally.rejects + tally.unreadable {
        0 if !has_wrong_pointer => Outcome::Complete,
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

/// A check while it runs.
struct Check<'a, W> {
    args: &'a CheckArgs,
    out: &'a mut W,
    tally: &'a mut Tally,
    reasons: Reasons,
    fields: Fields,
    by_name: ByName,
    /// The reasons for which files belong to no dataset: the first file of each, and how many.
    unnamed: IndexMap<String, (String, u64)>,
    /// How many rows of each dataset were printed.
    shown: Vec<(Arc<Dataset>, usize)>,
}

impl<W: Write> Check<'_, W> {
    fn all(
        &mut self,
        settings: &Settings,
        files: &[PathBuf],
        dataset: Option<&Arc<Dataset>>,
    ) -> anyhow::Result<()> {
        let mut parser = Parser::default();
        for path in files {
            self.tally.files += 1;
            let file = path.display().to_string();
            let mut printed = Ok(());
            let mut visit = |batch: &Batch| {
                if printed.is_ok() {
                    printed = self.batch(&file, batch);
                }
            };
            let name = inbox::as_delivered(path, path.clone());
            let bytes = name.as_os_str().as_encoded_bytes();
            let of = settings.datasets.of_file(bytes, dataset);
            let found = match &of {
                Err(NoDataset::None(_)) => {
                    Err("no dataset matches its name; name one with --dataset".to_owned())
                }
                Err(other) => Err(other.to_string()),
                Ok(of) => each_batch(settings, &mut parser, path, of, &mut visit)?,
            };
            printed?;
            match (of, found) {
                (Ok(of), Ok(nothing)) => self.by_name.add_file(&file, &of, &nothing),
                (Err(_), Err(reason)) if !self.args.json => {
                    self.tally.unreadable += 1;
                    let (_, files) = self.unnamed.entry(reason).or_insert((file, 0));
                    *files += 1;
                }
                (_, Err(reason)) => {
                    self.tally.unreadable += 1;
                    self.unreadable(&file, &reason)?;
                }
                (Err(_), Ok(_)) => unreachable!("without a dataset, no file is read"),
            }
        }
        self.totals()?;
        Ok(())
    }

    fn batch(&mut self, file: &str, batch: &Batch) -> io::Result<()> {
        self.tally.records += u64::from(batch.span.records);
        self.tally.rejects += batch.rejects.len() as u64;
        self.rows(file, batch)?;
        self.fields.add(batch);
        self.by_name.add(batch);
        for reject in &batch.rejects {
            if self.args.json {
                self.reject(file, &batch.dataset, reject)?;
            } else {
                self.reasons.add(file, &batch.dataset, reject);
            }
        }
        Ok(())
    }

    /// Prints the rows that `--rows` asks for.
    fn rows(&mut self, file: &str, batch: &Batch) -> io::Result<()> {
        let dataset = &batch.dataset;
        let at = self
            .shown
            .iter()
            .position(|(of, _)| of.name == dataset.name);
        let at = at.unwrap_or_else(|| {
            self.shown.push((Arc::clone(dataset), 0));
            self.shown.len() - 1
        });
        let (_, shown) = &mut self.shown[at];
        let rows = rows_as_json(batch, self.args.rows - *shown);
        *shown += rows.len();
        for row in rows {
            if self.args.json {
                let row = RawValue::from_string(row).map_err(io::Error::other)?;
                let line = json!({"file": file, "dataset": dataset.name});
                // A row keeps the digits of its numbers, which a parsed value would not.
                let line = line.to_string();
                let line = line.trim_end_matches('}');
                writeln!(self.out, "{line},\"row\":{row}}}")?;
            } else {
                writeln!(self.out, "{}: {row}", dataset.name)?;
            }
        }
        Ok(())
    }

    fn reject(&mut self, file: &str, dataset: &Dataset, reject: &Reject) -> io::Result<()> {
        let Reject {
            ordinal,
            code,
            field,
            byte_offset,
            raw,
        } = reject;
        let place = parse::place_of_fault(Some(dataset), raw, *code, field.as_deref());
        let reject = json!({
            "file": file, "dataset": dataset.name, "ordinal": ordinal, "code": code.as_str(),
            "field": field, "byte_offset": byte_offset, "place_in_record": place,
            "raw": String::from_utf8_lossy(raw)
        });
        writeln!(self.out, "{reject}")
    }

    fn unreadable(&mut self, file: &str, reason: &str) -> io::Result<()> {
        if self.args.json {
            writeln!(self.out, "{}", json!({"file": file, "unreadable": reason}))
        } else {
            let (file, reason) = (file.escape_debug(), on_one_line(reason));
            writeln!(self.out, "{file}: unreadable: {reason}")
        }
    }

    /// Prints the reasons, what was noticed, and the totals.
    fn totals(&mut self) -> io::Result<()> {
        let Tally {
            files,
            unreadable,
            records,
            rejects,
        } = *self.tally;
        if self.args.json {
            let sum = json!({
                "files": files, "unreadable": unreadable, "records": records, "rejects": rejects,
                "datasets": self.by_name.as_json()
            });
            return writeln!(self.out, "{sum}");
        }
        for (reason, (file, files)) in &self.unnamed {
            let (file, reason) = (file.escape_debug(), on_one_line(reason));
            match files - 1 {
                0 => writeln!(self.out, "{file}: unreadable: {reason}")?,
                more => writeln!(self.out, "{file} and {more} more: unreadable: {reason}")?,
            }
        }
        self.reasons.print(self.out)?;
        self.fields.print(self.out)?;
        self.by_name.print(self.out)?;
        let rows = records - rejects;
        writeln!(
            self.out,
            "{files} files, {unreadable} of them unreadable; {records} records: {rows} rows, \
             {rejects} rejects"
        )
    }
}
