//! What an operator is told: what moves, what waits and why. One shape for `/api/status`, the
//! status page and `status --json`.
//!
//! Pure data; whoever runs the engine fills it in. Fields are only added, never renamed, because
//! programs read them.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::batch::RejectCode;
use crate::sink::{FileEntry, Totals};

/// The state of the engine, or of what it left behind where it does not run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the binary that tells.
    pub version: String,
    /// Whether the engine runs; where not, the database and the directories tell.
    pub running: bool,
    /// Whether it can do its work now.
    pub ready: bool,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Seconds since it started.
    pub uptime_seconds: Option<f64>,
    /// What this process does: `ingest`, `work`, `summary`.
    pub roles: Vec<String>,
    /// The work directory, which tells one engine of a host from another.
    pub work: String,
    /// The database, password hidden.
    pub database: String,
    /// The queue, password hidden.
    pub broker: String,
    /// What is in the queue.
    pub queue: Option<Queue>,
    /// The files that are not settled.
    pub files: Files,
    /// Sums over the ledger.
    pub totals: Option<Totals>,
    /// The last files of the ledger, newest first.
    pub last_files: Vec<FileEntry>,
    /// Rejects by reason, most frequent first.
    pub rejects: Vec<RejectCount>,
    /// Records stored per second, over the last seconds.
    pub records_per_second: Option<f64>,
    /// What to do next, where something is to be done.
    pub next: Option<String>,
}

/// What is in the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Frames, delivered or not.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of the frames, those in the hands of workers.
    pub pending: u64,
}

/// The files that are not settled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// Files in inbound.
    pub inbound: u64,
    /// Files in work.
    pub work: u64,
    /// Files of inbound that are not taken yet, and why.
    pub waiting: Vec<Waiting>,
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its name.
    pub name: String,
    /// What it waits for.
    pub why: String,
}

/// How many rejects have one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectCount {
    /// The reason.
    pub code: String,
    /// How many.
    pub records: u64,
}

/// Counts codes, most frequent first.
pub fn by_reason(codes: impl Iterator<Item = RejectCode>) -> Vec<RejectCount> {
    let mut counts: Vec<RejectCount> = Vec::new();
    for code in codes {
        match counts.iter_mut().find(|count| count.code == code.as_str()) {
            Some(count) => count.records += 1,
            None => counts.push(RejectCount {
                code: code.as_str().to_owned(),
                records: 1,
            }),
        }
    }
    counts.sort_by_key(|count| std::cmp::Reverse(count.records));
    counts
}

impl fmt::Display for Status {
    /// The status for people: a few lines, the next step last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.running, self.ready, &self.reason) {
            (false, _, Some(reason)) => reason.clone(),
            (false, ..) => "not running".to_owned(),
            (true, true, _) => format!("running as {}", self.roles.join(", ")),
            (true, false, reason) => {
                format!(
                    "running, not ready: {}",
                    reason.as_deref().unwrap_or("no reason known")
                )
            }
        };
        writeln!(f, "engine    {state}")?;
        writeln!(f, "database  {}", self.database)?;
        writeln!(
            f,
            "queue     {}{}",
            self.broker,
            self.queue.map_or(String::new(), in_queue)
        )?;
        let Files {
            inbound,
            work,
            waiting,
        } = &self.files;
        writeln!(f, "files     {inbound} in inbound, {work} in work")?;
        for Waiting { name, why } in waiting {
            writeln!(f, "  waits   {}: {why}", shown(name))?;
        }
        if let Some(totals) = self.totals {
            let Totals {
                pending,
                settled,
                quarantined,
                records,
                rejects,
            } = totals;
            writeln!(
                f,
                "ledger    {settled} settled, {pending} pending, {quarantined} quarantined; \
                 {records} records, {rejects} rejects"
            )?;
        }
        if let Some(rate) = self.records_per_second {
            writeln!(f, "rate      {rate:.0} records/s")?;
        }
        for RejectCount { code, records } in &self.rejects {
            writeln!(f, "  reject  {code}: {records}")?;
        }
        for file in &self.last_files {
            let FileEntry {
                file_no,
                name,
                state,
                records,
                rejects,
                reason,
                ..
            } = file;
            let why = reason
                .as_ref()
                .map_or(String::new(), |why| format!(": {}", shown(why)));
            writeln!(
                f,
                "  file    {file_no} {} {state}, {records} records, {rejects} rejects{why}",
                shown(name)
            )?;
        }
        match &self.next {
            Some(next) => writeln!(f, "next      {next}"),
            None => Ok(()),
        }
    }
}

fn in_queue(
    Queue {
        frames,
        bytes,
        pending,
    }: Queue,
) -> String {
    format!(", {frames} frames, {bytes} bytes, {pending} with workers")
}

/// A name that a stranger chose, so that it cannot steer a terminal.
fn shown(name: &str) -> String {
    name.chars()
        .fold(String::with_capacity(name.len()), |mut out, c| {
            if c.is_control() {
                write!(out, "{}", c.escape_default()).expect("writing to a String cannot fail");
            } else {
                out.push(c);
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let status = Status {
            version: "1".to_owned(),
            running: true,
            queue: Some(Queue {
                frames: 1,
                bytes: 2,
                pending: 3,
            }),
            totals: Some(Totals {
                settled: 4,
                ..Totals::default()
            }),
            ..Status::default()
        };
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }

    #[test]
    fn people_are_told_why_and_what_next() {
        let status = Status {
            running: true,
            reason: Some("the database does not answer".to_owned()),
            files: Files {
                inbound: 1,
                work: 0,
                waiting: vec![Waiting {
                    name: "a\u{1b}[2J".to_owned(),
                    why: "open".to_owned(),
                }],
            },
            next: Some("start it".to_owned()),
            ..Status::default()
        };
        let text = status.to_string();
        assert!(
            text.contains("not ready: the database does not answer"),
            "{text}"
        );
        assert!(text.contains(r"waits   a\u{1b}[2J: open"), "{text}");
        assert!(text.ends_with("next      start it\n"), "{text}");
    }
}
