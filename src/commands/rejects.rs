//! `rejects`: lists, exports, corrects and removes rejected records.

use std::fs::File;
use std::io::{self, BufRead as _, BufWriter, IsTerminal as _, Write};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use crate::batch::{RAW_BYTES_MAX, RejectCode, provenance, row_id};
use crate::config::Settings;
use crate::config::cli::{RejectFilter, RejectsCommand};
use crate::parse;
use crate::sink::{OpenReject, Operators, Purge, RejectEntry, RejectQuery};

use super::{
    KeyValueText, Outcome, UsageError, ledger_file, open_for_operators, output, print, replay,
    unless_reader_gone,
};

/// Rejects read at a time. Each holds at most 8 KiB of its record, so a page is at most 4 MB.
const PAGE_REJECTS: usize = 500;

/// Rejects removed in one transaction. More would make writers wait for its locks.
const PURGE_REJECTS: usize = 500;

/// Runs the command.
pub(super) async fn execute(
    settings: &Settings,
    command: &RejectsCommand,
) -> anyhow::Result<Outcome> {
    let operators = open_for_operators(settings).await?;
    let operators = operators.as_ref();
    match command {
        RejectsCommand::List {
            filter,
            limit,
            json,
        } => {
            let mut out = BufWriter::new(io::stdout().lock());
            let written = write_all(operators, filter, *limit, *json, &mut out).await;
            let shown = written.and_then(|shown| out.flush().map(|()| shown).map_err(Into::into));
            let is_cut = |shown: &usize| *shown == *limit;
            if shown.as_ref().is_ok_and(is_cut) {
                eprintln!("showing the newest {limit}; raise --limit to see more");
            }
            unless_reader_gone(shown.map(drop))?;
        }
        RejectsCommand::Show { id, json } => {
            let (file_no, ordinal) = provenance(*id);
            show(operators, file_no, ordinal, *json).await?;
        }
        RejectsCommand::Export { filter, out } => export(operators, filter, out.as_deref()).await?,
        RejectsCommand::Replay { file } => return replay::execute(settings, operators, file).await,
        RejectsCommand::Purge { file, before, yes } => {
            let purge = Purge {
                file_no: *file,
                before_us: *before,
            };
            return purge_rejects(operators, &purge, *yes).await;
        }
    }
    Ok(Outcome::Complete)
}

/// Writes the rejects that match the filter, newest first. Returns their number.
async fn write_all(
    operators: &dyn Operators,
    filter: &RejectFilter,
    limit: usize,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<usize> {
    let mut query = RejectQuery {
        file_no: filter.file,
        code: filter.code.as_deref().and_then(RejectCode::parse),
        ..RejectQuery::default()
    };
    let mut known = KnownFile::default();
    let mut left = limit;
    while left > 0 {
        let page = operators
            .find_rejects(&query, left.min(PAGE_REJECTS))
            .await?;
        let Some(last) = page.last() else { break };
        query.before = Some((last.entry.file_no, last.entry.ordinal));
        left -= page.len();
        for reject in &page {
            let file = known.file_of(operators, reject.entry.file_no).await?;
            if json {
                writeln!(out, "{}", as_json(reject, file))?;
            } else {
                write!(out, "{}", list_entry(reject, file))?;
            }
        }
    }
    Ok(limit - left)
}

/// The name and dataset of the file last asked for. One is enough: rejects are sorted by file.
#[derive(Default)]
struct KnownFile(Option<(u32, FileOfReject)>);

/// The file of a reject.
#[derive(Debug, Clone, Default)]
struct FileOfReject {
    name: String,
    dataset: String,
}

impl KnownFile {
    async fn file_of(
        &mut self,
        operators: &dyn Operators,
        file_no: u32,
    ) -> anyhow::Result<&FileOfReject> {
        if self.0.as_ref().is_none_or(|(known, _)| *known != file_no) {
            let file = ledger_file(operators, file_no)
                .await?
                .map(|file| FileOfReject {
                    name: file.entry.name,
                    dataset: file.entry.dataset,
                });
            self.0 = Some((file_no, file.unwrap_or_default()));
        }
        Ok(&self.0.as_ref().expect("set above").1)
    }
}

fn as_json(reject: &OpenReject, file: &FileOfReject) -> Value {
    let entry = &reject.entry;
    let byte_offset = (!entry.code.is_of_database()).then_some(entry.byte_offset);
    let mut object = json!({
        "id": row_id(entry.file_no, entry.ordinal), "file_no": entry.file_no,
        "ordinal": entry.ordinal, "file": file.name, "dataset": file.dataset,
        "code": entry.code.as_str(), "field": entry.field, "byte_offset": byte_offset,
        "rejected_at": reject.rejected_at, "raw": String::from_utf8_lossy(&entry.raw)
    });
    if let Some(place) = place_in_record(entry) {
        object["place_in_record"] = place.into();
    }
    // These fields are present only if `raw` is not the whole record.
    if entry.raw.len() >= RAW_BYTES_MAX {
        object["raw_is_cut"] = true.into();
    }
    if str::from_utf8(&entry.raw).is_err() {
        object["raw_is_not_utf8"] = true.into();
    }
    object
}

/// The byte of the record where its fault is, if it has a place.
fn place_in_record(entry: &RejectEntry) -> Option<usize> {
    parse::place_of_fault(None, &entry.raw, entry.code, entry.field.as_deref())
}

fn list_entry(reject: &OpenReject, file: &FileOfReject) -> String {
    let entry = &reject.entry;
    let field = output::field_suffix(entry.field.as_ref());
    format!(
        "{}:{}  {}: {}{field}\n    {}\n",
        entry.file_no,
        entry.ordinal,
        file.name.escape_debug(),
        entry.code.as_str(),
        output::excerpt(&entry.raw)
    )
}

async fn show(
    operators: &dyn Operators,
    file_no: u32,
    ordinal: u32,
    json: bool,
) -> anyhow::Result<()> {
    let query = RejectQuery {
        file_no: Some(file_no),
        ordinal: Some(ordinal),
        ..RejectQuery::default()
    };
    let found = operators.find_rejects(&query, 1).await?;
    let reject = found.first().ok_or_else(|| {
        anyhow!(
            "record {ordinal} of file {file_no} is not a reject; `task_runner trace \
             {file_no}:{ordinal}` shows what it is"
        )
    })?;
    let mut known = KnownFile::default();
    let file = known.file_of(operators, file_no).await?;
    if json {
        return Ok(print(&format!("{}\n", as_json(reject, file)))?);
    }
    let entry = &reject.entry;
    let mut lines = KeyValueText::default();
    lines.add("id", row_id(file_no, ordinal));
    lines.add("file", file_no);
    lines.add("ordinal", ordinal);
    lines.add("name", file.name.escape_debug());
    lines.add("dataset", &file.dataset);
    lines.add("reason", entry.code.as_str());
    if let Some(field) = &entry.field {
        lines.add("field", field.escape_debug());
    }
    if !entry.code.is_of_database() {
        lines.add("byte offset", entry.byte_offset);
    }
    if let Some(place) = place_in_record(entry) {
        lines.add("place in record", place);
    }
    lines.add("rejected", &reject.rejected_at);
    if entry.raw.len() >= RAW_BYTES_MAX {
        lines.add(
            "text",
            "only its beginning; `task_runner trace` shows all of it",
        );
    }
    let mut text = lines.into_text();
    text += &String::from_utf8_lossy(&entry.raw);
    text.push('\n');
    Ok(print(&text)?)
}

/// Exports the rejects that match the filter as NDJSON. A file is written under a temporary name
/// and renamed, so that it is never a part of the export.
async fn export(
    operators: &dyn Operators,
    filter: &RejectFilter,
    path: Option<&Path>,
) -> anyhow::Result<()> {
    let Some(path) = path else {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = write_all(operators, filter, usize::MAX, true, &mut out).await;
        return unless_reader_gone(written.and_then(|_| out.flush().map_err(Into::into)));
    };
    let about = || format!("cannot write {}", path.display());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let temporary = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")));
    let mut out = BufWriter::new(temporary.with_context(about)?);
    let written = write_all(operators, filter, usize::MAX, true, &mut out).await?;
    let temporary = out.into_inner().map_err(io::IntoInnerError::into_error);
    let temporary = temporary.with_context(about)?;
    let file: File = temporary
        .persist(path)
        .map_err(|error| error.error)
        .with_context(about)?;
    file.sync_all().with_context(about)?;
    eprintln!(
        "wrote {written} rejects to {}; add a corrected `record` to each, then run \
         `task_runner rejects replay`",
        path.display()
    );
    Ok(())
}

/// Removes rejects after the user has confirmed.
async fn purge_rejects(
    operators: &dyn Operators,
    purge: &Purge,
    yes: bool,
) -> anyhow::Result<Outcome> {
    let rejects = operators.count_purge(purge).await?;
    if rejects == 0 {
        print("no rejects of stored files match\n")?;
        return Ok(Outcome::Complete);
    }
    if !yes && !is_confirmed(rejects)? {
        print("nothing was removed\n")?;
        return Ok(Outcome::Complete);
    }
    let mut removed = 0;
    loop {
        match operators.purge(purge, PURGE_REJECTS).await? {
            0 => break,
            some => removed += some,
        }
    }
    print(&format!(
        "removed {removed} rejects for good; `task_runner verify` counts them as purged\n"
    ))?;
    Ok(Outcome::Complete)
}

/// Asks the user on the terminal.
fn is_confirmed(rejects: u64) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let message = format!(
            "this removes {rejects} rejects for good: confirm with --yes (`task_runner rejects \
             export` saves a copy)"
        );
        return Err(UsageError(message).into());
    }
    eprint!("remove {rejects} rejects for good? [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
