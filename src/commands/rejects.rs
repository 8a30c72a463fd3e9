//! `rejects`: lists, exports, corrects and removes rejected records.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use crate::batch::{RAW_BYTES_MAX, provenance, row_id};
use crate::config::Settings;
use crate::config::cli::{RejectFilter, RejectsCommand};
use crate::parse;
use crate::sink::{Database, LedgerFile, OpenReject, Purge, RejectEntry};

use super::reject_reader::{KnownFiles, Pages, Texts, find_reject};
use super::{
    KeyValueText, Outcome, is_confirmed, open_for_operators, output, print, replay,
    unless_reader_gone,
};

/// Rejects removed in one transaction. More would make writers wait for its locks.
const PURGE_REJECTS: usize = 500;

/// Runs the command.
pub(super) async fn execute(
    settings: &Settings,
    command: &RejectsCommand,
) -> anyhow::Result<Outcome> {
    let database = open_for_operators(settings).await?;
    let database = database.as_ref();
    match command {
        RejectsCommand::List {
            filter,
            limit,
            json,
        } => list(database, filter, *limit, *json).await?,
        RejectsCommand::Show { id, json } => {
            let (file_no, ordinal) = provenance(*id);
            show(settings, database, file_no, ordinal, *json).await?;
        }
        RejectsCommand::Export { filter, out } => {
            export(settings, database, filter, out.as_deref()).await?;
        }
        RejectsCommand::Replay(args) => return replay::execute(settings, database, args).await,
        RejectsCommand::Purge { file, before, yes } => {
            let purge = Purge {
                file_no: *file,
                before_us: *before,
            };
            return purge_rejects(database, &purge, *yes).await;
        }
    }
    Ok(Outcome::Complete)
}

async fn list(
    database: &dyn Database,
    filter: &RejectFilter,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut write = async || -> anyhow::Result<usize> {
        let (mut shown, mut files) = (0, KnownFiles::default());
        let mut pages = Pages::new(database, filter, limit);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                out.flush()?;
                return Ok(shown);
            }
            shown += page.len();
            for reject in &page {
                let file = files.get(database, reject.entry.file_no).await?;
                if json {
                    writeln!(out, "{}", as_json(reject, file.as_deref()))?;
                } else {
                    write!(out, "{}", list_entry(reject, file.as_deref()))?;
                }
            }
        }
    };
    let shown = write().await;
    if shown.as_ref().is_ok_and(|shown| *shown == limit) {
        eprintln!("showing the newest {limit}; raise --limit to see more");
    }
    unless_reader_gone(shown.map(drop))
}

/// A reject as the database holds it: `raw` may be only the beginning of the record.
fn as_json(reject: &OpenReject, file: Option<&LedgerFile>) -> Value {
    let entry = &reject.entry;
    let byte_offset = (!entry.code.is_of_database()).then_some(entry.byte_offset);
    let mut object = json!({
        "id": row_id(entry.file_no, entry.ordinal), "file_no": entry.file_no,
        "ordinal": entry.ordinal, "file": file.map_or("", |file| &file.entry.name),
        "dataset": file.map_or("", |file| &file.entry.dataset),
        "code": entry.code.as_str(), "field": entry.field, "byte_offset": byte_offset,
        "rejected_at": reject.rejected_at, "raw": String::from_utf8_lossy(&entry.raw)
    });
    if let Some(message) = &entry.message {
        object["message"] = message.as_str().into();
    }
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
    if entry.code.is_of_database() {
        object["raw_is_row"] = true.into();
    }
    object
}

/// A reject with the whole record in `raw`, or with the reason why that cannot be read in
/// `unavailable`.
async fn exported(
    texts: &mut Texts<'_>,
    reject: &OpenReject,
    file: Option<&LedgerFile>,
) -> anyhow::Result<(Value, bool)> {
    let mut object = as_json(reject, file);
    let text = match file {
        Some(file) => texts.of_reject(file, &reject.entry).await?,
        None => Err("the ledger does not have its file".to_owned()),
    };
    let is_whole = text.is_ok();
    match text {
        Ok(text) => {
            object["raw"] = text.into();
            let fields = object.as_object_mut().expect("it was made as an object");
            for about_raw in ["raw_is_cut", "raw_is_row"] {
                fields.remove(about_raw);
            }
        }
        Err(why) => object["unavailable"] = why.into(),
    }
    Ok((object, is_whole))
}

/// The byte of the record where its problem is. `None` if the problem has no place.
fn place_in_record(entry: &RejectEntry) -> Option<usize> {
    parse::place_of_fault(None, &entry.raw, entry.code, entry.field.as_deref())
}

fn list_entry(reject: &OpenReject, file: Option<&LedgerFile>) -> String {
    let entry = &reject.entry;
    let field = output::field_suffix(entry.field.as_ref());
    let message = output::message_suffix(entry.message.as_ref());
    format!(
        "{}:{}  {}: {}{field}{message}\n    {}\n",
        entry.file_no,
        entry.ordinal,
        file.map_or("", |file| &file.entry.name).escape_debug(),
        entry.code.as_str(),
        output::excerpt(&entry.raw)
    )
}

async fn show(
    settings: &Settings,
    database: &dyn Database,
    file_no: u32,
    ordinal: u32,
    json: bool,
) -> anyhow::Result<()> {
    let reject = find_reject(database, file_no, ordinal).await?;
    let reject = reject.ok_or_else(|| {
        anyhow!(
            "record {ordinal} of file {file_no} is not a reject; `task_runner trace \
             {file_no}:{ordinal}` shows what it is"
        )
    })?;
    let file = KnownFiles::default().get(database, file_no).await?;
    let file = file.as_deref();
    let mut texts = Texts::new(settings, database);
    if json {
        let (object, _) = exported(&mut texts, &reject, file).await?;
        return Ok(print(&format!("{object}\n"))?);
    }
    let entry = &reject.entry;
    let mut lines = KeyValueText::default();
    lines.add("id", row_id(file_no, ordinal));
    lines.add("file", file_no);
    lines.add("ordinal", ordinal);
    if let Some(file) = file {
        lines.add("name", file.entry.name.escape_debug());
        lines.add("dataset", &file.entry.dataset);
    }
    lines.add("reason", entry.code.as_str());
    if let Some(field) = &entry.field {
        lines.add("field", field.escape_debug());
    }
    if let Some(message) = &entry.message {
        lines.add("message", output::on_one_line(message));
    }
    if !entry.code.is_of_database() {
        lines.add("byte offset", entry.byte_offset);
    }
    if let Some(place) = place_in_record(entry) {
        lines.add("place in record", place);
    }
    lines.add("rejected", &reject.rejected_at);
    let text = match file {
        Some(file) => texts.of_reject(file, entry).await?,
        None => Err("the ledger does not have its file".to_owned()),
    };
    let text = text.unwrap_or_else(|why| {
        let kept = if entry.code.is_of_database() {
            "the row, since the record cannot be read"
        } else {
            "the part that the database keeps, since the record cannot be read as a whole"
        };
        lines.add("text", format!("{kept}: {}", output::on_one_line(&why)));
        String::from_utf8_lossy(&entry.raw).into_owned()
    });
    Ok(print(&format!("{}{text}\n", lines.into_text()))?)
}

/// Exports the rejects that match the filter as NDJSON. A file is written under a temporary name
/// and renamed, so that it is never a part of the export.
async fn export(
    settings: &Settings,
    database: &dyn Database,
    filter: &RejectFilter,
    path: Option<&Path>,
) -> anyhow::Result<()> {
    let Some(path) = path else {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = write_export(settings, database, filter, &mut out).await;
        let written = written.and_then(|written| {
            out.flush()?;
            written.warn();
            Ok(())
        });
        return unless_reader_gone(written);
    };
    let about = || format!("cannot write {}", path.display());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let temporary = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")));
    let mut out = BufWriter::new(temporary.with_context(about)?);
    let written = write_export(settings, database, filter, &mut out).await?;
    let temporary = out.into_inner().map_err(io::IntoInnerError::into_error);
    let temporary = temporary.with_context(about)?;
    let file: File = temporary
        .persist(path)
        .map_err(|error| error.error)
        .with_context(about)?;
    file.sync_all().with_context(about)?;
    eprintln!("wrote {} rejects to {}", written.rejects, path.display());
    written.warn();
    Ok(())
}

/// The result of an export.
#[derive(Debug, Default)]
struct Exported {
    rejects: u64,
    /// How many of them lack the whole text of their record.
    unavailable: u64,
}

impl Exported {
    fn warn(&self) {
        if self.unavailable > 0 {
            eprintln!(
                "the records of {} of {} rejects cannot be read as a whole: `unavailable` says why, and \
                 `rejects replay` accepts them only with a `record` that you add",
                self.unavailable, self.rejects
            );
        }
    }
}

async fn write_export(
    settings: &Settings,
    database: &dyn Database,
    filter: &RejectFilter,
    out: &mut impl Write,
) -> anyhow::Result<Exported> {
    let mut written = Exported::default();
    let (mut files, mut texts) = (KnownFiles::default(), Texts::new(settings, database));
    let mut pages = Pages::new(database, filter, usize::MAX);
    loop {
        let page = pages.next().await?;
        if page.is_empty() {
            return Ok(written);
        }
        for reject in &page {
            let file = files.get(database, reject.entry.file_no).await?;
            let (object, is_whole) = exported(&mut texts, reject, file.as_deref()).await?;
            written.rejects += 1;
            written.unavailable += u64::from(!is_whole);
            writeln!(out, "{object}")?;
        }
    }
}

/// Removes rejects after the user has confirmed.
async fn purge_rejects(
    database: &dyn Database,
    purge: &Purge,
    yes: bool,
) -> anyhow::Result<Outcome> {
    let rejects = database.count_purge(purge).await?;
    if rejects == 0 {
        print("no rejects of stored files match\n")?;
        return Ok(Outcome::Complete);
    }
    let question = format!("remove {rejects} rejects for good?");
    let needs_yes = format!(
        "this removes {rejects} rejects for good: confirm with --yes (`task_runner rejects export` saves \
         a copy)"
    );
    if !yes && !is_confirmed(&question, &needs_yes)? {
        print("nothing was removed\n")?;
        return Ok(Outcome::Complete);
    }
    let mut removed = 0;
    loop {
        match database.purge(purge, PURGE_REJECTS).await? {
            0 => break,
            some => removed += some,
        }
    }
    print(&format!(
        "removed {removed} rejects for good; `task_runner verify` counts them as purged\n"
    ))?;
    Ok(Outcome::Complete)
}
