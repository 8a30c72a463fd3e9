//! What an operator is told: what moves, what waits and why. One shape for `/api/status`, the
//! status page and `status --json`.
//!
//! Pure data; whoever runs the engine fills it in. Fields are only added, never renamed, because
//! programs read them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::batch::RejectCode;
use crate::sink::{FileEntry, Totals};

mod advice;
mod text;

pub use text::{bytes, grouped, length};

/// Reports the state of an engine.
#[async_trait]
pub trait StatusSource: Send + Sync {
    /// Whether the engine can do its work now. Returns at once, from memory.
    ///
    /// # Errors
    /// The reason why it cannot, for people.
    fn ready(&self) -> Result<(), String>;

    /// The whole status. May ask the database, but returns within a few seconds even if the
    /// database does not answer.
    async fn status(&self) -> Status;
}

/// The state of the engine, or of what it left behind where it does not run. Bounded: the lists
/// hold at most some dozens of entries, whatever there is to tell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the binary that tells.
    pub version: String,
    /// Whether the engine runs; where not, the database and the directories tell.
    pub running: bool,
    /// What it does, in one word.
    pub state: EngineState,
    /// The same in a sentence, for people.
    pub headline: String,
    /// Whether it can do its work now.
    pub ready: bool,
    /// Why it is not ready.
    pub reason: Option<String>,
    /// Whether an operator told it to take no files for a while.
    pub paused: bool,
    /// Seconds since it started.
    pub uptime_seconds: Option<f64>,
    /// What this process does: `ingest`, `work`, `summary`.
    pub roles: Vec<String>,
    /// Where files arrive.
    pub inbound: String,
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
    /// Age of what the ledger tells (the three below); it grows while the database is silent.
    pub ledger_seconds_ago: Option<f64>,
    /// Sums over the ledger.
    pub totals: Option<Totals>,
    /// The last files of the ledger, newest first.
    pub last_files: Vec<FileEntry>,
    /// Rejects by reason, most frequent first, among the last thousand.
    pub rejects: Vec<RejectCount>,
    /// Records stored per second, over the last seconds.
    pub records_per_second: Option<f64>,
    /// Bytes of files dealt with per second, likewise.
    pub bytes_per_second: Option<f64>,
    /// The last minutes.
    pub history: History,
    /// What kept it from working lately, newest first; the first may still last.
    pub outages: Vec<Outage>,
    /// What to do next, where something is to be done.
    pub next: Option<String>,
}

/// What the engine does, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// It does not run.
    #[default]
    Stopped,
    /// It connects, or has not looked around yet.
    Starting,
    /// Records are on their way.
    Working,
    /// Files wait for something that is not the engine's to give.
    Waiting,
    /// It takes no files, because an operator said so.
    Paused,
    /// There is nothing to do.
    Idle,
    /// Something outside keeps it from working.
    Unwell,
}

impl EngineState {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Working => "working",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Idle => "idle",
            Self::Unwell => "unwell",
        }
    }
}

/// The last minutes, as samples at even distances, oldest first. Two lists of equal length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The distance.
    pub every_seconds: f64,
    /// Records stored per second.
    pub records_per_second: Vec<u64>,
    /// Whether the engine could work.
    pub ready: Vec<bool>,
}

/// What keeps an engine from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The database does not answer.
    Database,
    /// The queue does not answer.
    Queue,
    /// A directory cannot be used.
    Files,
    /// There is too little room on disk.
    Disk,
}

impl Trouble {
    /// In words.
    #[must_use]
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Database => "database unavailable",
            Self::Queue => "queue unavailable",
            Self::Files => "a directory cannot be used",
            Self::Disk => "no room on disk, so that no file is taken",
        }
    }
}

/// A time during which the engine could not work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Who was at fault.
    pub trouble: Trouble,
    /// What was met last.
    pub detail: String,
    /// How long it lasted, or has lasted until now.
    pub seconds: f64,
    /// How long ago it ended; `None` while it lasts.
    pub ended_seconds_ago: Option<f64>,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Files {
    /// Files in inbound.
    pub inbound: u64,
    /// Files in work.
    pub work: u64,
    /// Files that wait: those of inbound that were looked at and could not be taken, and those in
    /// work that cannot be read now, or be moved to where they belong.
    #[serde(default)]
    pub waiting_files: u64,
    /// The first of these, and why each waits.
    pub waiting: Vec<WaitingFile>,
}

impl Files {
    /// How many files wait. An older release tells of the first of them alone.
    #[must_use]
    pub fn waiting_in_all(&self) -> u64 {
        self.waiting_files.max(self.waiting.len() as u64)
    }
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitingFile {
    /// Its name.
    pub name: String,
    /// What it waits for.
    pub why: String,
    /// For how long it has been seen to wait for this.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// How many rejects have one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectCount {
    /// The reason.
    pub code: String,
    /// How many.
    pub records: u64,
}

impl Status {
    /// The outage that lasts.
    #[must_use]
    pub fn outage(&self) -> Option<&Outage> {
        let newest = self.outages.first();
        newest.filter(|outage| outage.ended_seconds_ago.is_none())
    }
}

/// Counts codes, most frequent first.
#[must_use]
pub fn by_reason(codes: &[RejectCode]) -> Vec<RejectCount> {
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
    fn what_an_older_release_wrote_is_read() {
        let old = r#"{"running": true, "files": {"inbound": 1, "work": 0, "waiting":
            [{"name": "a", "why": "open"}]}}"#;
        let status: Status = serde_json::from_str(old).unwrap();
        assert_eq!(status.files.waiting[0].seconds, None);
        assert_eq!(status.files.waiting_in_all(), 1);
    }
}
