//! Compares the stored data with the expected outcome of the files. Each difference is a finding.
//!
//! The database is only read, in key order. Everything else is computed here, so that an error of
//! the server cannot hide itself, and no query needs disk space.

use crate::support;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value, from_value};

use super::files::{
    Dataset, Expected, Worth, checksum, content_hash, parse_record_name, reason_name, record_name,
};

/// The vehicle of the rows of another program.
pub const FOREIGN: &str = "foreign";

/// Findings of a kind that are listed.
const TOLD_MAX: usize = 20;

/// Rows that are read at a time.
const PAGE_ROWS: usize = 20_000;

/// The directories that are audited.
pub struct Directories<'a> {
    pub inbound: &'a Path,
    pub work: &'a Path,
    pub history: &'a Path,
    pub quarantine: &'a Path,
}

/// Findings, by kind.
#[derive(Default)]
pub struct Findings(BTreeMap<&'static str, Vec<String>>);

impl Findings {
    fn add(&mut self, kind: &'static str, what: impl Into<String>) {
        self.0.entry(kind).or_default().push(what.into());
    }

    /// Adds a file. Names are of any bytes, and shown escaped.
    fn add_file(&mut self, kind: &'static str, directory: &str, name: &OsStr) {
        self.add(
            kind,
            format!("{directory}: {}", name.as_bytes().escape_ascii()),
        );
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kinds that were found.
    pub fn kinds(&self) -> Vec<&'static str> {
        self.0.keys().copied().collect()
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (kind, found) in &self.0 {
            writeln!(f, "{kind}: {}", found.len())?;
            for what in found.iter().take(TOLD_MAX) {
                writeln!(f, "    {what}")?;
            }
        }
        Ok(())
    }
}

type Cells = Vec<Option<String>>;

async fn query(conn: &mut Conn, sql: &str) -> Vec<Cells> {
    let rows: Vec<Row> = conn.query(sql).await.unwrap();
    let cell = |value: Value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        other => Some(from_value(other)),
    };
    rows.into_iter()
        .map(|row| row.unwrap().into_iter().map(cell).collect())
        .collect()
}

fn number(cell: Option<&String>) -> u64 {
    cell.expect("the column is NOT NULL")
        .parse()
        .expect("the column is a number")
}

/// Audits database, directories and queue. `queued` says what the queue holds, and `log` what was
/// delivered.
pub async fn audit(
    mut conn: Conn,
    directories: &Directories<'_>,
    queued: Vec<String>,
    log: &[Expected],
) -> Findings {
    let mut findings = Findings::default();
    let files = ledger(&mut conn, log, &mut findings).await;
    let mut last = LastEvents::new();
    for dataset in [Dataset::Events, Dataset::Status] {
        rows(&mut conn, dataset, log, &files, &mut last, &mut findings).await;
    }
    rejects(&mut conn, log, &files, &mut findings).await;
    let left = query(
        &mut conn,
        "SELECT file_no, first_ordinal FROM ingest_frames",
    )
    .await;
    for entry in left {
        findings.add("ledger entries of frames left", format!("{entry:?}"));
    }
    summary(&mut conn, last, &mut findings).await;
    conn.disconnect().await.unwrap();
    walk(directories, log, &mut findings);
    for what in queued {
        findings.add("left in the queue", what);
    }
    findings
}

/// Each content has its row in the ledger with the right numbers. Returns the contents by
/// `file_no`.
async fn ledger(conn: &mut Conn, log: &[Expected], findings: &mut Findings) -> HashMap<u64, usize> {
    let by_hash: HashMap<String, usize> = log
        .iter()
        .enumerate()
        .map(|(at, expected)| (hex(&expected.hash), at))
        .collect();
    let sql = "SELECT file_no, LOWER(HEX(hash)), state, records, rejects, reason IS NOT NULL, \
               name, dataset FROM ingest_files";
    let mut files = HashMap::new();
    for line in query(conn, sql).await {
        let text = |at: usize| line[at].as_deref().unwrap_or_default();
        let Some(&at) = by_hash.get(text(1)) else {
            findings.add(
                "files in the ledger that were not delivered",
                format!("{line:?}"),
            );
            continue;
        };
        if files.insert(number(line[0].as_ref()), at).is_some() {
            findings.add("files twice in the ledger", format!("{line:?}"));
        }
        let expected = &log[at];
        let (state, records, rejects) = match &expected.records {
            None => ("quarantined", 0, 0),
            Some(records) => ("settled", records.len(), rejects_of(records)),
        };
        let right = text(2) == state
            && text(3) == records.to_string()
            && text(4) == rejects.to_string()
            && (text(5) == "1") == (state == "quarantined")
            && (state == "quarantined" || text(7) == expected.dataset.name());
        if !right {
            let should = format!("{state}, {records} records, {rejects} rejects");
            findings.add(
                "wrong lines in the ledger",
                format!("{line:?}: not {should}"),
            );
        }
    }
    let known: Vec<usize> = files.values().copied().collect();
    for (at, expected) in log.iter().enumerate() {
        if !known.contains(&at) {
            findings.add("files not in the ledger", format!("{:?}", expected.names));
        }
    }
    files
}

fn rejects_of(records: &[Worth]) -> usize {
    let reject = |worth: &&Worth| matches!(worth, Worth::Reject(_));
    records.iter().filter(reject).count()
}

/// Every valid record is one row with its id and values, and there are no other rows.
async fn rows(
    conn: &mut Conn,
    dataset: Dataset,
    log: &[Expected],
    files: &HashMap<u64, usize>,
    last_events: &mut LastEvents,
    findings: &mut Findings,
) {
    let columns = match dataset {
        Dataset::Events => {
            "vehicle_id, CAST(event_time AS CHAR), event_source, event_type, event_value, \
             event_extra_data, _rescued"
        }
        Dataset::Status => "vehicle_id, CAST(report_time AS CHAR), status_source, status, _rescued",
    };
    // The column of the record's name; `id` is before it.
    let name_at = match dataset {
        Dataset::Events => 5,
        Dataset::Status => 4,
    };
    let of_dataset =
        |expected: &Expected| expected.dataset == dataset && expected.records.is_some();
    let mut seen: HashMap<usize, Vec<u8>> = log
        .iter()
        .enumerate()
        .filter(|(_, expected)| of_dataset(expected))
        .map(|(at, expected)| (at, vec![0; expected.records.as_ref().unwrap().len()]))
        .collect();
    let table = dataset.name();
    let mut last = 0;
    loop {
        let sql = format!(
            "SELECT id, {columns} FROM {table} WHERE id > {last} ORDER BY id LIMIT {PAGE_ROWS}"
        );
        let page = query(conn, &sql).await;
        let Some(end) = page.last() else {
            break;
        };
        last = number(end[0].as_ref());
        for row in &page {
            let id = number(row[0].as_ref());
            if dataset == Dataset::Events {
                note_last(last_events, id, row);
            }
            let name = row[name_at].as_deref().unwrap_or_default();
            let Some((file, ordinal)) = parse_record_name(name) else {
                findings.add("rows that no file contains", format!("{row:?}"));
                continue;
            };
            let worth = log
                .get(file)
                .and_then(|file| file.records.as_ref()?.get(ordinal));
            let count = seen.get_mut(&file).and_then(|file| file.get_mut(ordinal));
            let (Some(Worth::Row(sum)), Some(count)) = (worth, count) else {
                findings.add("rows that no file contains", format!("{row:?}"));
                continue;
            };
            *count += 1;
            if files.get(&(id >> 32)) != Some(&file) || id & 0xffff_ffff != ordinal as u64 {
                findings.add("rows under a wrong id", format!("{table}: {row:?}"));
            }
            let rescued = row.last().unwrap().as_deref().map(canonical);
            let values = row[1..row.len() - 1].iter().map(Option::as_deref);
            if checksum(values.chain([rescued.as_deref()])) != *sum {
                findings.add("rows with wrong values", format!("{table}: {row:?}"));
            }
        }
    }
    for (file, counts) in seen {
        let records = log[file].records.as_ref().unwrap();
        for (ordinal, (count, worth)) in counts.iter().zip(records).enumerate() {
            let kind = match (count, worth) {
                (1, Worth::Row(_)) | (0, Worth::Reject(_)) => continue,
                (0, Worth::Row(_)) => "rows missing",
                _ => "rows doubled",
            };
            let name = record_name(file, ordinal);
            findings.add(kind, format!("{table}: {name} of {:?}", log[file].names));
        }
    }
}

/// JSON without the spaces that a server may add or remove.
fn canonical(json: &str) -> String {
    serde_json::from_str::<serde_json::Value>(json)
        .map_or_else(|_| json.to_owned(), |v| v.to_string())
}

/// The rejects are the invalid records, each with its code.
async fn rejects(
    conn: &mut Conn,
    log: &[Expected],
    files: &HashMap<u64, usize>,
    findings: &mut Findings,
) {
    let mut stored: BTreeMap<(usize, usize), String> = BTreeMap::new();
    let sql = "SELECT file_no, ordinal, code FROM ingest_rejects";
    for line in query(conn, sql).await {
        let Some(&file) = files.get(&number(line[0].as_ref())) else {
            findings.add("rejects that no file contains", format!("{line:?}"));
            continue;
        };
        let ordinal = number(line[1].as_ref()) as usize;
        stored.insert((file, ordinal), line[2].clone().unwrap_or_default());
    }
    for (file, expected) in log.iter().enumerate() {
        for (ordinal, worth) in expected.records.iter().flatten().enumerate() {
            let Worth::Reject(code) = worth else {
                continue;
            };
            let name = || format!("{} ({code})", record_name(file, ordinal));
            match stored.remove(&(file, ordinal)) {
                None => findings.add("rejects missing", name()),
                Some(found) if found != *code => {
                    findings.add("rejects with a wrong code", format!("{}: {found}", name()));
                }
                Some(_) => {}
            }
        }
    }
    for ((file, ordinal), code) in stored {
        let name = record_name(file, ordinal);
        findings.add("rejects that no file contains", format!("{name} ({code})"));
    }
}

/// The last event of each vehicle and day: its time, its id, its type.
type LastEvents = BTreeMap<(String, String), (String, u64, String)>;

/// Adds a row of `vehicle_events`.
fn note_last(last: &mut LastEvents, id: u64, row: &[Option<String>]) {
    let text = |at: usize| row[at].clone().unwrap_or_default();
    let (vehicle, time, kind) = (text(1), text(2), text(4));
    // The texts of times are of one form, so they sort as times do; ties go to the larger id.
    let day = time.get(..10).unwrap_or_default().to_owned();
    let event = (time, id, kind);
    let kept = last.entry((vehicle, day)).or_default();
    if event > *kept {
        *kept = event;
    }
}

/// The summary agrees with the rows.
async fn summary(conn: &mut Conn, mut last: LastEvents, findings: &mut Findings) {
    // Rows of another program beyond the end of a file are in no audit, and in the summary.
    let sql = format!(
        "SELECT vehicle_id, CAST(day AS CHAR), CAST(last_event_time AS CHAR), last_id, \
         last_event_type FROM daily_summary WHERE vehicle_id <> '{FOREIGN}'"
    );
    let sql = sql.as_str();
    for line in query(conn, sql).await {
        let text = |at: usize| line[at].clone().unwrap_or_default();
        let right = last.remove(&(text(0), text(1)));
        if right != Some((text(2), number(line[3].as_ref()), text(4))) {
            let what = format!("{line:?}: not {right:?}");
            findings.add("days in the summary that are not so", what);
        }
    }
    for day in last {
        findings.add("days missing in the summary", format!("{day:?}"));
    }
}

/// Each file is in the right directory, once, with its bytes and its name.
fn walk(directories: &Directories<'_>, log: &[Expected], findings: &mut Findings) {
    for entry in entries(directories.inbound) {
        findings.add_file("left in inbound", "inbound", &entry.0);
    }
    for path in support::files_below(directories.work) {
        findings.add_file("left in work", "work", path.file_name().unwrap());
    }
    let mut quarantined = entries(directories.quarantine);
    let (reasons, kept): (Vec<_>, Vec<_>) = quarantined
        .drain(..)
        .partition(|(name, _)| name.as_bytes().ends_with(b".reason"));
    for (name, _) in &kept {
        let reason = reason_name(name);
        if !reasons
            .iter()
            .any(|(name, text)| *name == reason && !text.is_empty())
        {
            findings.add_file("quarantined without a reason beside it", "quarantine", name);
        }
    }
    if reasons.len() > kept.len() {
        findings.add("reasons without a file", format!("{}", reasons.len()));
    }
    place(
        "history",
        &entries(directories.history),
        log,
        true,
        findings,
    );
    place("quarantine", &kept, log, false, findings);
}

/// Compares the files of a directory with those that should be there.
fn place(
    directory: &str,
    found: &[(OsString, Vec<u8>)],
    log: &[Expected],
    whole: bool,
    findings: &mut Findings,
) {
    let mut wanted: HashMap<[u8; 16], Vec<&OsString>> = log
        .iter()
        .filter(|expected| expected.records.is_some() == whole)
        .map(|expected| (expected.hash, expected.names.iter().collect()))
        .collect();
    for (name, bytes) in found {
        let names = wanted.get_mut(&content_hash(bytes));
        let fits = |wanted: &&OsString| is_name_of(name, wanted);
        let at = names.as_ref().and_then(|names| names.iter().position(fits));
        match (names, at) {
            (Some(names), Some(at)) => {
                names.swap_remove(at);
            }
            _ => findings.add_file("files where they do not belong", directory, name),
        }
    }
    for name in wanted.into_values().flatten() {
        findings.add_file("files missing", directory, name);
    }
}

/// Whether a file that was delivered as `wanted` may have this name: with a number as suffix if the
/// name was taken when the file moved.
fn is_name_of(name: &OsString, wanted: &OsString) -> bool {
    let mut stem = name.as_bytes();
    loop {
        if stem == wanted.as_bytes() {
            return true;
        }
        let end = stem.iter().rposition(|byte| !byte.is_ascii_digit());
        match end {
            Some(dot) if stem[dot] == b'.' && dot + 1 < stem.len() => stem = &stem[..dot],
            _ => return false,
        }
    }
}

fn entries(directory: &Path) -> Vec<(OsString, Vec<u8>)> {
    let entries = fs::read_dir(directory).unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let bytes = fs::read(entry.path()).unwrap_or_default();
            (entry.file_name(), bytes)
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}
