//! `files`: lists the files of the ledger, shows one, moves files from quarantine back to inbound.
//! Its repairs are in `repair`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::ErrorKind;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::config::Settings;
use crate::config::cli::{FilesCommand, StateFilter};
use crate::inbox;
use crate::sink::{FileState, LedgerFile};

use super::{
    INFALLIBLE, KeyValueText, NoInput, Outcome, UsageError, note, open_for_operators, others,
    output, print, repair, verify, wanted_file,
};

/// Files read from the ledger at a time.
const PAGE_FILES: usize = 500;

/// Most files of quarantine that are named beside those of the ledger.
const NAMES_SHOWN: usize = 10;

/// Runs the command.
pub(super) async fn execute(
    settings: &Settings,
    command: &FilesCommand,
) -> anyhow::Result<Outcome> {
    match command {
        FilesCommand::List { state, limit, json } => {
            list(settings, state.map(state_of), *limit, *json).await?;
        }
        FilesCommand::Show { file_no, json } => show(settings, *file_no, *json).await?,
        FilesCommand::Retry { names, all } => retry(settings, names, *all)?,
        FilesCommand::Release { file_nos } => return repair::release(settings, file_nos).await,
        FilesCommand::Restore { file_nos, .. } => return repair::restore(settings, file_nos).await,
        FilesCommand::Acknowledge { file_nos, yes } => {
            return verify::acknowledge(settings, file_nos, *yes).await;
        }
        FilesCommand::Forget { file_nos, yes } => {
            return repair::forget(settings, file_nos, *yes).await;
        }
        FilesCommand::Reload { file_nos, yes } => {
            return repair::reload(settings, file_nos, *yes).await;
        }
    }
    Ok(Outcome::Complete)
}

fn state_of(state: StateFilter) -> FileState {
    match state {
        StateFilter::Pending => FileState::Pending,
        StateFilter::Settled => FileState::Settled,
        StateFilter::Quarantined => FileState::Quarantined,
        StateFilter::Removing => FileState::Removing,
    }
}

async fn list(
    settings: &Settings,
    state: Option<FileState>,
    limit: usize,
    json: bool,
) -> anyhow::Result<()> {
    let operators = open_for_operators(settings).await?;
    let (mut left, mut below, mut first) = (limit, u32::MAX, true);
    let mut listed = HashSet::new();
    while left > 0 {
        let page = operators
            .files(0..below, state, left.min(PAGE_FILES))
            .await?;
        let Some(last) = page.last() else { break };
        below = last.entry.file_no;
        left -= page.len();
        if state == Some(FileState::Quarantined) {
            listed.extend(page.iter().map(|file| file.entry.name.clone()));
        }
        let mut text = String::new();
        if first && !json {
            text += "   FILE  STATE        RECORDS  REJECTS  DATASET           NAME\n";
        }
        first = false;
        for file in &page {
            if json {
                writeln!(text, "{}", as_json(file)).expect(INFALLIBLE);
                continue;
            }
            let entry = &file.entry;
            let name = entry.name.escape_debug();
            writeln!(
                text,
                "{:>7}  {:<11} {:>8} {:>8}  {:<16}  {name}",
                entry.file_no, entry.state, entry.records, entry.rejects, entry.dataset
            )
            .expect(INFALLIBLE);
            if let Some(reason) = &entry.reason {
                writeln!(text, "         {}", output::on_one_line(reason)).expect(INFALLIBLE);
            }
        }
        print(&text)?;
    }
    if first {
        eprintln!("the ledger has no such files");
    }
    if state == Some(FileState::Quarantined) && left > 0 {
        note_others(settings, &listed);
    }
    Ok(())
}

/// Says which files of quarantine the ledger does not list as such.
fn note_others(settings: &Settings, listed: &HashSet<String>) {
    // A list of the ledger needs no right to read quarantine.
    let in_quarantine = quarantined(settings).unwrap_or_default();
    let names = in_quarantine.iter().map(|name| name.to_string_lossy());
    let others: Vec<String> = names
        .filter(|name| !listed.contains(&**name))
        .map(|name| name.escape_debug().to_string())
        .collect();
    if others.is_empty() {
        return;
    }
    let more = others.len().saturating_sub(NAMES_SHOWN);
    let mut shown = others[..others.len() - more].join(", ");
    if more > 0 {
        write!(shown, " and {more} more").expect(INFALLIBLE);
    }
    let directory = settings.dirs.quarantine.display();
    eprintln!(
        "{} more in {directory} that the ledger does not list by name, for example since their \
         content is stored already: {shown}; NAME.reason beside each has its reason",
        others.len()
    );
}

fn as_json(file: &LedgerFile) -> Value {
    let entry = &file.entry;
    json!({
        "file_no": entry.file_no, "name": entry.name, "dataset": entry.dataset,
        "state": entry.state, "bytes": entry.bytes, "records": entry.records,
        "rejects": entry.rejects, "reason": entry.reason, "hash": hex(&file.hash),
        "registered_at": file.registered_at, "settled_at": file.settled_at
    })
}

/// The hash in hexadecimal: the beginning of what `b3sum` prints.
fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect(INFALLIBLE);
        text
    })
}

async fn show(settings: &Settings, file_no: u32, json: bool) -> anyhow::Result<()> {
    let operators = open_for_operators(settings).await?;
    let file = wanted_file(operators.as_ref(), file_no).await?;
    let entry = &file.entry;
    let audit = match settings.datasets.by_name(&entry.dataset) {
        Some(dataset) => operators
            .audit(dataset, &[file_no])
            .await?
            .into_iter()
            .next(),
        None => None,
    };
    if json {
        let mut object = as_json(&file);
        if let Some(audit) = audit {
            object["stored"] = json!({
                "rows": audit.rows, "rejects": audit.rejects, "purged": audit.purged,
                "superseded": audit.superseded, "erased": audit.erased, "retired": audit.retired
            });
        }
        return Ok(print(&format!("{object}\n"))?);
    }
    let mut lines = KeyValueText::default();
    lines.add("file", file_no);
    lines.add("name", entry.name.escape_debug());
    lines.add("dataset", &entry.dataset);
    lines.add("state", entry.state);
    if let Some(reason) = &entry.reason {
        lines.add("reason", output::on_one_line(reason));
    }
    lines.add("hash", hex(&file.hash));
    lines.add("bytes", entry.bytes);
    lines.add("registered", file.registered_at);
    if let Some(settled_at) = &file.settled_at {
        lines.add("settled", settled_at);
    }
    lines.add("records", entry.records);
    if let Some(audit) = audit {
        lines.add("rows", audit.rows);
        lines.add("rejects", audit.rejects);
        if audit.purged > 0 {
            lines.add("purged", audit.purged);
        }
        if audit.superseded > 0 {
            lines.add("superseded", audit.superseded);
        }
        if audit.erased > 0 {
            lines.add("erased", audit.erased);
        }
        if audit.retired > 0 {
            lines.add("retired", audit.retired);
        }
    }
    Ok(print(&lines.into_text())?)
}

/// Moves files from quarantine back to inbound. Their ledger entries change when they are
/// registered again.
pub(super) fn retry(settings: &Settings, names: &[OsString], all: bool) -> anyhow::Result<()> {
    others::check_role(settings, "files retry", "moves files out of the quarantine")?;
    let quarantine = &settings.dirs.quarantine;
    let names = if all {
        quarantined(settings)?
    } else {
        names.to_vec()
    };
    for name in &names {
        let shown = quarantine.join(name).display().to_string();
        let path = match inbox::requeue(&settings.dirs, name, settings.inbound_recursive) {
            Ok(path) => path,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(anyhow::Error::new(NoInput(shown)));
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                let why = "is not a file in quarantine; give the name alone, as a listing of quarantine shows it";
                return Err(anyhow::Error::new(UsageError(format!("{shown} {why}"))));
            }
            Err(error) => return Err(error).context(format!("cannot move {shown} to inbound")),
        };
        let path = path.display().to_string();
        print(&format!("{} is in inbound again\n", path.escape_debug()))?;
    }
    note(&format!(
        "{} files moved; the service or `task_runner load` loads them",
        names.len()
    ));
    Ok(())
}

/// The names of the files in quarantine, without the `.reason` files.
fn quarantined(settings: &Settings) -> anyhow::Result<Vec<OsString>> {
    let quarantine = &settings.dirs.quarantine;
    match inbox::quarantined(quarantine) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        names => names.with_context(|| quarantine.display().to_string()),
    }
}
