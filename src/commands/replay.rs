//! `rejects replay`: replaces rejects by rows made of corrected records, with the same ids.
//!
//! Each record is parsed like any other of its dataset. One transaction stores the row and removes
//! the reject. Replaying a correction again changes nothing. Corrections are read line by line and
//! stored in small groups, so that memory does not grow with their file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use backon::{ExponentialBuilder, Retryable as _};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::batch::{Batch, RAW_BYTES_MAX, SourceFile};
use crate::config::Settings;
use crate::dataset::Dataset;
use crate::fault::Fault;
use crate::parse::{Parser, RECORD_BYTES_MAX};
use crate::sink::{LedgerFile, Operators, Replayed};

use super::{NoInput, Outcome, ledger_file, output, print};

/// Records stored in one transaction.
const GROUP_RECORDS: usize = 100;

/// Most bytes of the records in a group.
const GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Most ledger entries kept in memory. Corrections are usually sorted by file, so few are in use at
/// a time.
const FILES_KNOWN_MAX: usize = 1_000;

/// Longest line in bytes: the largest record, and 1 MiB for the other fields of an export.
const LINE_BYTES_MAX: usize = RECORD_BYTES_MAX + 1024 * 1024;

/// One line of the file. Other fields, which an export writes, are ignored.
#[derive(Deserialize)]
struct Correction<'a> {
    file_no: u32,
    ordinal: u32,
    /// Raw, so that numbers and JSON columns keep the text as it is written.
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    /// The text of the reject. Parsed again if there is no `record`.
    raw: Option<String>,
}

/// Numbers of corrections by result.
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
    operators: &'a dyn Operators,
    parser: Parser,
    files: HashMap<u32, Option<LedgerFile>>,
    group: Vec<Batch>,
    group_bytes: usize,
    tally: Tally,
}

/// Runs the command. The path `-` means stdin.
pub(super) async fn execute(
    settings: &Settings,
    operators: &dyn Operators,
    path: &Path,
) -> anyhow::Result<Outcome> {
    let mut lines: Box<dyn BufRead> = if path == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow::Error::new(NoInput(path.display().to_string())),
            _ => anyhow::Error::new(error).context(path.display().to_string()),
        })?;
        Box::new(BufReader::new(file))
    };
    let mut replay = Replay {
        settings,
        operators,
        parser: Parser::default(),
        files: HashMap::new(),
        group: Vec::new(),
        group_bytes: 0,
        tally: Tally::default(),
    };
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        number += 1;
        // Reads one byte more than allowed, to notice a line that is too long.
        let mut limited = io::Read::take(&mut lines, LINE_BYTES_MAX as u64 + 1);
        let read = limited.read_until(b'\n', &mut line);
        if read.with_context(|| path.display().to_string())? == 0 {
            break;
        }
        if line.len() > LINE_BYTES_MAX {
            replay.store().await?;
            anyhow::bail!(
                "line {number} is longer than the largest record ({RECORD_BYTES_MAX} bytes); the \
                 lines before it are done"
            );
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Err(problem) = replay.line(&line).await? {
            replay.tally.unusable += 1;
            print(&format!("line {number}: {problem}\n"))?;
        }
    }
    replay.store().await?;
    print_totals(&replay.tally)
}

impl Replay<'_> {
    /// Processes a line. The inner error says why the line cannot be used.
    async fn line(&mut self, line: &[u8]) -> anyhow::Result<Result<(), String>> {
        let correction: Correction<'_> = match serde_json::from_slice(line) {
            Ok(correction) => correction,
            Err(error) => return Ok(Err(format!("it is not a correction: {error}"))),
        };
        let Correction {
            file_no,
            ordinal,
            record,
            raw,
        } = correction;
        let text = match (record, &raw) {
            (Some(record), _) => record.get(),
            (None, Some(raw)) if raw.len() >= RAW_BYTES_MAX => {
                return Ok(Err(
                    "its `raw` is only the beginning: add a `record`".to_owned()
                ));
            }
            (None, Some(raw)) => raw.as_str(),
            (None, None) => {
                return Ok(Err(
                    "it has neither `record` nor `raw`: add a `record`".to_owned()
                ));
            }
        };
        let (dataset, source) = match self.source(file_no, ordinal).await? {
            Ok(found) => found,
            Err(problem) => return Ok(Err(problem)),
        };
        let Some(batch) = self.parse(&dataset, source, ordinal, text) else {
            self.print_still_rejected(file_no, ordinal, "invalid_json")?;
            return Ok(Ok(()));
        };
        if let Some(reject) = batch.rejects.first() {
            let field = output::field_suffix(reject.field.as_ref());
            let reason = format!("{}{field}", reject.code.as_str());
            self.print_still_rejected(file_no, ordinal, &reason)?;
            return Ok(Ok(()));
        }
        self.group.push(batch);
        self.group_bytes += text.len();
        if self.group.len() >= GROUP_RECORDS || self.group_bytes >= GROUP_BYTES {
            self.store().await?;
        }
        Ok(Ok(()))
    }

    /// The dataset and the file of a record. The inner error says why one is unknown.
    async fn source(
        &mut self,
        file_no: u32,
        ordinal: u32,
    ) -> anyhow::Result<Result<(Arc<Dataset>, SourceFile), String>> {
        if self.files.len() >= FILES_KNOWN_MAX {
            self.files.clear();
        }
        let file = match self.files.entry(file_no) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(ledger_file(self.operators, file_no).await?),
        };
        let Some(file) = file else {
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
        let source = SourceFile {
            file_no,
            hash: file.hash,
        };
        Ok(Ok((Arc::clone(dataset), source)))
    }

    /// Parses one record. `None` if the text is not exactly one JSON value: where a broken record
    /// ends can be found only within its file.
    fn parse(
        &mut self,
        dataset: &Arc<Dataset>,
        source: SourceFile,
        ordinal: u32,
        text: &str,
    ) -> Option<Batch> {
        let text = text.trim_ascii();
        serde_json::from_str::<&RawValue>(text).ok()?;
        let record = text.as_bytes();
        Some(self.parser.parse_record(dataset, source, ordinal, record))
    }

    fn print_still_rejected(&mut self, file_no: u32, ordinal: u32, reason: &str) -> io::Result<()> {
        self.tally.still_rejects += 1;
        print(&format!("{file_no}:{ordinal}  still a reject: {reason}\n"))
    }

    /// Stores the records gathered so far.
    async fn store(&mut self) -> anyhow::Result<()> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        if group.is_empty() {
            return Ok(());
        }
        // Retries a few times, because a lock of the service is released soon. An unreachable
        // database ends the command after that.
        let replay = || self.operators.replay(&group);
        let replayed = replay
            .retry(ExponentialBuilder::default())
            .when(Fault::is_transient)
            .await?;
        for (batch, replayed) in group.iter().zip(replayed) {
            let (file_no, ordinal) = (batch.span.file_no, batch.span.first_ordinal);
            match replayed {
                Replayed::Stored => self.tally.stored += 1,
                Replayed::AlreadyThere => self.tally.already_there += 1,
                Replayed::Refused(code) => {
                    self.print_still_rejected(file_no, ordinal, code.as_str())?;
                }
                Replayed::NoReject => {
                    self.tally.unusable += 1;
                    print(&format!("{file_no}:{ordinal}  is not a reject\n"))?;
                }
            }
        }
        Ok(())
    }
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
