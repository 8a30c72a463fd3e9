//! `rejects replay`: replaces rejects by rows made of their own text, or of corrected records, with the
//! same ids.
//!
//! Each record is parsed like any other of its dataset. One transaction stores the row, keeps the text
//! and removes the reject. Replaying a record again changes nothing. Corrections are read line by line
//! and stored in small groups, so that memory does not grow with their file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::batch::{SourceFile, provenance, row_id};
use crate::config::Settings;
use crate::config::cli::{FieldValue, ReplayArgs};
use crate::dataset::{Dataset, segments};
use crate::edit;
use crate::fault::Fault;
use crate::parse::{Parser, RECORD_BYTES_MAX};
use crate::sink::{self, Database, LedgerFile, OpenReject, Replayed, Standing};
use crate::spare::Spared;

use super::reject_reader::{KnownFiles, Pages, Texts, find_reject};
use super::{NoInput, Outcome, UsageError, output, print};

/// Records stored in one transaction.
const GROUP_RECORDS: usize = 100;

/// Most bytes of the records in a group.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Longest line in bytes. A line may hold the largest record twice: as `record`, and as `raw`, in
/// which each byte may take two. 1 MiB is for the other fields of an export.
const LINE_BYTES_MAX: usize = 3 * RECORD_BYTES_MAX + 1024 * 1024;

/// One line of the file. Other fields, which an export writes, are ignored.
#[derive(Deserialize)]
struct Correction<'a> {
    file_no: u32,
    ordinal: u32,
    /// Raw, so that numbers and JSON columns keep the text as it is written.
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    /// The text of the reject, as it was exported or as a text editor left it.
    raw: Option<String>,
    /// Why `raw` is not the whole record.
    unavailable: Option<String>,
}

/// Why a record is not replayed.
enum Refusal {
    /// There is nothing to replay.
    Unusable(String),
    /// The record would not become the intended row. Holds its id, and the reason.
    StillRejected(Id, String),
}

/// A file number and an ordinal.
type Id = (u32, u32);

/// Numbers of records by result.
#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    already_there: u64,
    still_rejects: u64,
    unusable: u64,
}

/// The state of a replay.
struct Replay<'a> {
    settings: &'a Settings,
    operators: &'a dyn Database,
    set: &'a [FieldValue],
    unset: &'a [String],
    parser: Parser,
    files: KnownFiles,
    /// The last file that was looked up, and the table into which it was loaded.
    table: Option<(u32, String)>,
    texts: Texts<'a>,
    group: Vec<sink::Replay>,
    group_bytes: usize,
    tally: Tally,
    /// `None` for a single record, which never waits.
    spared: Option<Spared>,
}

/// Replays one record: by a corrected text of it, or by its own.
pub(super) async fn one(
    settings: &Settings,
    operators: &dyn Database,
    id: u64,
    text: Option<&str>,
) -> anyhow::Result<Outcome> {
    let mut replay = Replay::new(settings, operators, &[], &[]);
    match text {
        None => replay.ids(&[id]).await?,
        Some(text) => {
            let (file_no, ordinal) = provenance(id);
            let line = json!({"file_no": file_no, "ordinal": ordinal, "raw": text});
            let result = replay.correction(line.to_string().as_bytes()).await?;
            replay.note(result, "")?;
        }
    }
    replay.store().await?;
    print_totals(&replay.tally)
}

/// Runs the command. The path `-` means stdin.
pub(super) async fn execute(
    settings: &Settings,
    operators: &dyn Database,
    args: &ReplayArgs,
) -> anyhow::Result<Outcome> {
    let mut replay = Replay::new(settings, operators, &args.set, &args.unset);
    replay.spared = Some(Spared::begin(settings)?);
    let filter = &args.filter;
    let is_filtered = filter.code.is_some() || filter.field.is_some() || filter.file.is_some();
    if let Some(path) = &args.path {
        replay.corrections(path).await?;
    } else if !args.ids.is_empty() {
        replay.ids(&args.ids).await?;
    } else if args.all || is_filtered {
        let mut pages = Pages::new(operators, filter, usize::MAX);
        loop {
            let page = pages.next().await?;
            if page.is_empty() {
                break;
            }
            for reject in &page {
                replay.own(reject).await?;
            }
        }
    } else {
        let message = "name a file of corrections, or select rejects with --id, --code, --field, --file or --all";
        return Err(UsageError(message.to_owned()).into());
    }
    replay.store().await?;
    print_totals(&replay.tally)
}

impl<'a> Replay<'a> {
    fn new(
        settings: &'a Settings,
        operators: &'a dyn Database,
        set: &'a [FieldValue],
        unset: &'a [String],
    ) -> Self {
        Self {
            settings,
            operators,
            set,
            unset,
            parser: Parser::default(),
            files: KnownFiles::default(),
            table: None,
            texts: Texts::new(settings, operators),
            group: Vec::new(),
            group_bytes: 0,
            tally: Tally::default(),
            spared: None,
        }
    }

    /// Replays the lines of a file.
    async fn corrections(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut lines: Box<dyn BufRead> = if path == Path::new("-") {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let file = File::open(path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => anyhow::Error::new(NoInput(path.display().to_string())),
                _ => anyhow::Error::new(error).context(path.display().to_string()),
            })?;
            Box::new(BufReader::new(file))
        };
        let (mut line, mut number) = (Vec::new(), 0_u64);
        while read_line(&mut lines, &mut line).with_context(|| path.display().to_string())? {
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let result = if line.len() > LINE_BYTES_MAX {
                let problem = format!("it is longer than {LINE_BYTES_MAX} bytes");
                Err(Refusal::Unusable(problem))
            } else {
                self.correction(&line).await?
            };
            self.note(result, &format!("line {number}: "))?;
        }
        Ok(())
    }

    /// Replays a line.
    async fn correction(&mut self, line: &[u8]) -> anyhow::Result<Result<(), Refusal>> {
        let correction: Correction<'_> = match serde_json::from_slice(line) {
            Ok(correction) => correction,
            Err(error) => {
                let problem = format!(
                    "it is not a correction: {error}; each line needs `file_no`, `ordinal`, and \
                     `record` or `raw`, as `rejects export` writes them"
                );
                return Ok(Err(Refusal::Unusable(problem)));
            }
        };
        let (file_no, ordinal) = (correction.file_no, correction.ordinal);
        let (file, dataset) = match self.file(file_no, ordinal).await? {
            Ok(found) => found,
            Err(problem) => return Ok(Err(Refusal::Unusable(problem))),
        };
        let reject = find_reject(self.operators, file_no, ordinal).await?;
        let is_reject = reject.is_some();
        let own = match &reject {
            Some(reject) => self.texts.of_reject(&file, &reject.entry).await?,
            None => self.texts.of_record(&file, ordinal).await?,
        };
        let kept = reject.map(|reject| String::from_utf8_lossy(&reject.entry.raw).into_owned());
        let kept = kept.as_deref();
        let text = match (correction.record, correction.raw.as_deref()) {
            (Some(record), _) => self.edited(&dataset, &own, kept, record.get()),
            (None, None) => {
                let problem = "it has neither `record` nor `raw`: add a `record`";
                return Ok(Err(Refusal::Unusable(problem.to_owned())));
            }
            (None, Some(raw)) => match &own {
                // As it was exported, now or by an earlier release.
                Ok(own) if kept == Some(raw) || own == raw => self.set(&dataset, own),
                Err(why) if kept == Some(raw) || correction.unavailable.is_some() => {
                    return Ok(Err(unavailable(why)));
                }
                _ => self.edited(&dataset, &own, kept, raw),
            },
        };
        let result = match text {
            Ok(text) => self.replay(&file, &dataset, ordinal, &text).await?,
            Err(why) => Err(Refusal::StillRejected((file_no, ordinal), why)),
        };
        if let (Err(Refusal::StillRejected(..)), false) = (&result, is_reject) {
            // An export of before: the record has become a row since.
            let id = row_id(file_no, ordinal);
            if self.operators.standing(&dataset, id).await? == Standing::Row {
                self.tally.already_there += 1;
                return Ok(Ok(()));
            }
        }
        Ok(result)
    }

    /// Replays records by their own text.
    async fn ids(&mut self, ids: &[u64]) -> anyhow::Result<()> {
        for id in ids {
            let (file_no, ordinal) = provenance(*id);
            match find_reject(self.operators, file_no, ordinal).await? {
                Some(reject) => self.own(&reject).await?,
                None => self.note_unusable(&format!("{file_no}:{ordinal}  is not a reject"))?,
            }
        }
        Ok(())
    }

    /// Replays a reject by its own text.
    async fn own(&mut self, reject: &OpenReject) -> anyhow::Result<()> {
        let (file_no, ordinal) = (reject.entry.file_no, reject.entry.ordinal);
        let result = match self.file(file_no, ordinal).await? {
            Err(problem) => Err(Refusal::Unusable(problem)),
            Ok((file, dataset)) => match self.texts.of_reject(&file, &reject.entry).await? {
                Err(why) => Err(unavailable(&why)),
                Ok(own) => match self.set(&dataset, &own) {
                    Err(why) => Err(Refusal::StillRejected((file_no, ordinal), why)),
                    Ok(text) => self.replay(&file, &dataset, ordinal, &text).await?,
                },
            },
        };
        self.note(result, &format!("{file_no}:{ordinal}  "))
    }

    /// The file and the dataset of a record. The inner error says why one is unknown.
    async fn file(
        &mut self,
        file_no: u32,
        ordinal: u32,
    ) -> anyhow::Result<Result<(Arc<LedgerFile>, Arc<Dataset>), String>> {
        let Some(file) = self.files.get(self.operators, file_no).await? else {
            return Ok(Err(format!("the ledger has no file {file_no}")));
        };
        if ordinal >= file.entry.records {
            let records = file.entry.records;
            let problem =
                format!("file {file_no} has {records} records, so it has no ordinal {ordinal}");
            return Ok(Err(problem));
        }
        let name = &file.entry.dataset;
        let Some(dataset) = self.settings.datasets.by_name(name) else {
            let problem = format!("the settings do not define the dataset `{name}`");
            return Ok(Err(problem));
        };
        let table = self.table(file_no).await?;
        if table.as_ref().is_some_and(|table| *table != dataset.table) {
            let problem = format!(
                "the rows of file {file_no} are in the table `{}`, and its dataset has the table `{}` \
                 now; `task_runner files reload {file_no}` loads the whole file into it",
                table.unwrap_or_default(),
                dataset.table
            );
            return Ok(Err(problem));
        }
        Ok(Ok((file, Arc::clone(dataset))))
    }

    /// The table into which a file was loaded: all rows of a file are in one table. `None` if the
    /// ledger does not have the file.
    async fn table(&mut self, file_no: u32) -> anyhow::Result<Option<String>> {
        if let Some((known, table)) = &self.table
            && *known == file_no
        {
            return Ok(Some(table.clone()));
        }
        let datasets = &self.settings.datasets;
        let loaded = self.operators.loaded_by(file_no, datasets).await?;
        self.table = loaded.map(|loaded| (file_no, loaded.table.clone()));
        Ok(self.table.as_ref().map(|(_, table)| table.clone()))
    }

    /// The text of an edited record with the fields of `--set`, if no number of it was rounded. It
    /// is compared with the original text of the record, or with the part that is available.
    fn edited(
        &self,
        dataset: &Dataset,
        own: &Result<String, String>,
        kept: Option<&str>,
        edited: &str,
    ) -> Result<String, String> {
        let text = self.set(dataset, edited)?;
        let own = own.as_deref().ok().or(kept).unwrap_or("");
        let set: Vec<Vec<String>> = self
            .set
            .iter()
            .map(|set| path(dataset, &set.field))
            .collect();
        for rounded in edit::rounded(own, &text) {
            let pointer = edit::pointer_at(&text, rounded.place.start);
            let found: Vec<String> = segments(&pointer).collect();
            if set.iter().any(|path| found.starts_with(path)) {
                continue;
            }
            let pointer = pointer.escape_debug();
            return Err(format!(
                "`{pointer}` came back as {}, but is {} in the record: the program that wrote the \
                 file rounds numbers; correct the record with --set instead, or set this field by \
                 --set '{pointer}={}'",
                rounded.found, rounded.expected, rounded.expected
            ));
        }
        Ok(text)
    }

    /// A text with the fields of `--set` and without those of `--unset`.
    fn set(&self, dataset: &Dataset, text: &str) -> Result<String, String> {
        let mut text = text.to_owned();
        let path = |field: &str| match path(dataset, field) {
            path if path.is_empty() => Err(format!(
                "the column `{field}` takes its value from outside of the record: correct the file, and \
                 load it again"
            )),
            path => Ok(path),
        };
        for set in self.set {
            let edited = edit::set(&text, &path(&set.field)?, &set.value);
            text = edited.map_err(|error| error.to_string())?;
        }
        for field in self.unset {
            let edited = edit::remove(&text, &path(field)?);
            text = edited.map_err(|error| error.to_string())?;
        }
        Ok(text)
    }

    /// Parses a record and adds its row to the group.
    async fn replay(
        &mut self,
        file: &LedgerFile,
        dataset: &Arc<Dataset>,
        ordinal: u32,
        text: &str,
    ) -> anyhow::Result<Result<(), Refusal>> {
        let text = text.trim_ascii();
        let still = |why: String| Refusal::StillRejected((file.entry.file_no, ordinal), why);
        // Where a broken record ends can be found only within its file.
        if serde_json::from_str::<&RawValue>(text).is_err() {
            return Ok(Err(still("invalid_json".to_owned())));
        }
        let source = SourceFile {
            file_no: file.entry.file_no,
            hash: file.hash,
        };
        let outside = match self.texts.outside(file, dataset, ordinal).await? {
            Ok(outside) => outside,
            Err(why) => {
                let problem = format!(
                    "columns of `{}` take values from the file around the record, and these cannot \
                     be read: {why}",
                    dataset.name
                );
                return Ok(Err(still(problem)));
            }
        };
        let text = text.as_bytes();
        let record = (self.parser).parse_record(dataset, source, ordinal, text, &outside);
        let text = str::from_utf8(text).expect("it is a text");
        if let Some(reject) = record.rejects.first() {
            let field = output::field_suffix(reject.field.as_ref());
            return Ok(Err(still(format!("{}{field}", reject.code.as_str()))));
        }
        self.group_bytes += text.len();
        let text = text.to_owned();
        self.group.push(sink::Replay { record, text });
        if self.group.len() >= GROUP_RECORDS || self.group_bytes >= GROUP_BYTES {
            self.store().await?;
        }
        Ok(Ok(()))
    }

    /// Counts and prints why a record is not replayed. `unusable` names the line if it has no
    /// record.
    fn note(&mut self, result: Result<(), Refusal>, unusable: &str) -> anyhow::Result<()> {
        match result {
            Ok(()) => Ok(()),
            Err(Refusal::Unusable(problem)) => self.note_unusable(&format!("{unusable}{problem}")),
            Err(Refusal::StillRejected(id, reason)) => self.note_still_rejected(id, &reason),
        }
    }

    fn note_unusable(&mut self, problem: &str) -> anyhow::Result<()> {
        self.tally.unusable += 1;
        Ok(print(&format!("{problem}\n"))?)
    }

    fn note_still_rejected(&mut self, (file_no, ordinal): Id, reason: &str) -> anyhow::Result<()> {
        self.tally.still_rejects += 1;
        Ok(print(&format!(
            "{file_no}:{ordinal}  still a reject: {reason}\n"
        ))?)
    }

    /// Stores the records gathered so far.
    async fn store(&mut self) -> anyhow::Result<()> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        if group.is_empty() {
            return Ok(());
        }
        if let Some(spared) = &self.spared {
            spared.turn(group.len()).await;
        }
        // Retries a few times, because a lock of the service is released soon. An unreachable
        // database ends the command after that.
        let replay = || self.operators.replay(&group);
        let replayed = replay
            .retry(ExponentialBuilder::default())
            .when(Fault::is_transient)
            .await?;
        for (replay, replayed) in group.iter().zip(replayed) {
            let span = replay.record.span;
            let id = (span.file_no, span.first_ordinal);
            match replayed {
                Replayed::Stored => self.tally.stored += 1,
                Replayed::AlreadyThere => self.tally.already_there += 1,
                Replayed::Refused { code, message } => {
                    let message = output::message_suffix(message.as_ref());
                    self.note_still_rejected(id, &format!("{}{message}", code.as_str()))?;
                }
                Replayed::NoReject => {
                    self.note_unusable(&format!("{}:{}  is not a reject", id.0, id.1))?;
                }
            }
        }
        Ok(())
    }
}

fn unavailable(why: &str) -> Refusal {
    let problem = format!("its record cannot be read as a whole: {why}; add a `record`");
    Refusal::Unusable(problem)
}

/// The path of a field, which is given as a JSON pointer, a column, or a member of the record. Empty
/// if it is a column whose value is outside of the record.
fn path(dataset: &Dataset, field: &str) -> Vec<String> {
    match dataset.column(field) {
        _ if field.starts_with('/') => segments(field).collect(),
        Some((_, column)) => {
            (column.fields().first()).map_or_else(Vec::new, |pointer| segments(pointer).collect())
        }
        None => vec![field.to_owned()],
    }
}

/// Reads a line into `line`. Of a line that is too long, reads one byte more than the limit.
/// Returns `false` at the end.
fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut limited = lines.by_ref().take(LINE_BYTES_MAX as u64 + 1);
    if limited.read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.len() > LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        lines.skip_until(b'\n')?;
    }
    Ok(true)
}

fn print_totals(tally: &Tally) -> anyhow::Result<Outcome> {
    let Tally {
        stored,
        already_there,
        still_rejects,
        unusable,
    } = *tally;
    print(&format!(
        "{stored} stored, {already_there} stored already, {still_rejects} still rejects, \
         {unusable} unusable\n"
    ))?;
    Ok(match still_rejects + unusable {
        0 => Outcome::Complete,
        _ => Outcome::Rejected,
    })
}
