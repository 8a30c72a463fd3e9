//! The status of an engine: what it does, and which files wait and why. One type for `/api/status`,
//! the status page and `status --json`.
//!
//! Pure data, filled in by a [`StatusSource`]. Fields are only added, never renamed, because
//! programs read them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::sink::{Acknowledged, FileEntry, RejectReason, Totals};

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

    /// The work directory, which differs between the engines of a host.
    fn work(&self) -> String;

    /// The whole status. May ask the database, but returns within a few seconds even if the
    /// database does not answer.
    async fn status(&self) -> Status;
}

/// The status of the engine; if it does not run, of its directories and its ledger. Bounded: each
/// list has at most a few dozen entries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the binary that reports.
    pub version: String,
    /// Whether the engine runs. If not, the other fields come from the database and the
    /// directories.
    pub running: bool,
    /// The state of the engine, in one word.
    pub state: EngineState,
    /// The state as a sentence.
    pub headline: String,
    /// Whether the engine can do its work now.
    pub ready: bool,
    /// Why the engine is not ready.
    pub reason: Option<String>,
    /// Whether an operator has paused the taking of files.
    pub paused: bool,
    /// Seconds since the start of the engine.
    pub uptime_seconds: Option<f64>,
    /// The roles of the process: `ingest`, `work`, `summary`. If it does not run, those of its
    /// settings.
    pub roles: Vec<String>,
    /// The directory where files arrive.
    pub inbound: String,
    /// The work directory, which differs between the engines of a host.
    pub work: String,
    /// URL of the database with its password hidden.
    pub database: String,
    /// URL of the queue with its password hidden.
    pub broker: String,
    /// The size of the queue.
    pub queue: Option<Queue>,
    /// The processes of the service that the ledger knows, living ones first.
    pub nodes: Vec<Node>,
    /// The files that are not settled.
    pub files: Files,
    /// Age in seconds of the next four fields, which come from the ledger. It grows while the
    /// database does not answer.
    pub ledger_seconds_ago: Option<f64>,
    /// Totals of the ledger.
    pub totals: Option<Totals>,
    /// What of the totals an operator has acknowledged: `next` leaves it out.
    pub acknowledged: Acknowledged,
    /// The last files of the ledger, newest first.
    pub last_files: Vec<FileEntry>,
    /// The reasons of all rejects, most frequent first.
    pub rejects: Vec<RejectCount>,
    /// The indexes that a load has dropped and that are not built again yet, as `NAME of TABLE`.
    pub missing_indexes: Vec<String>,
    /// Records stored per second, over the last seconds.
    pub records_per_second: Option<f64>,
    /// Bytes of finished files per second, over the last seconds.
    pub bytes_per_second: Option<f64>,
    /// The rates and the readiness of the last minutes.
    pub history: History,
    /// The same of the last hour, in longer intervals.
    pub last_hour: History,
    /// The latest outages, newest first. The first one may be going on.
    pub outages: Vec<Outage>,
    /// The next step for the operator; `None` if there is nothing to do.
    pub next: Option<String>,
}

/// What the engine does, in one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// The engine does not run.
    #[default]
    Stopped,
    /// The engine is connecting, or has not checked the servers yet.
    Starting,
    /// Records are being loaded.
    Working,
    /// Files wait, or no record of the files in work is being stored.
    Waiting,
    /// An operator paused the engine: it takes no files.
    Paused,
    /// No file is in inbound or work.
    Idle,
    /// An outage prevents the engine from working.
    Unwell,
}

impl EngineState {
    /// The value in JSON.
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

/// Samples at a fixed interval, oldest first. All lists have the same length, but for those that an
/// older release does not report.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The interval in seconds.
    pub every_seconds: f64,
    /// Records stored per second, as rows or rejects.
    pub records_per_second: Vec<u64>,
    /// Records read from files per second.
    pub read_per_second: Vec<u64>,
    /// Records per second that became rejects when they were read.
    pub rejected_per_second: Vec<u64>,
    /// Whether the engine was ready.
    pub ready: Vec<bool>,
}

/// The cause of an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The database does not answer.
    Database,
    /// The queue does not answer.
    Queue,
    /// A directory cannot be used.
    Files,
    /// A file system has too little free space.
    Disk,
    /// Frames wait in the queue, and no worker reads it.
    Workers,
    /// No process takes files.
    Ingest,
}

impl Trouble {
    /// The cause in words.
    #[must_use]
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Database => "database unavailable",
            Self::Queue => "queue unavailable",
            Self::Files => "a directory cannot be used",
            Self::Disk => "a disk is full, so no file is taken",
            Self::Workers => "no worker reads the queue",
            Self::Ingest => "no process takes files",
        }
    }
}

/// A time during which the engine could not work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// The cause.
    pub trouble: Trouble,
    /// The latest error message.
    pub detail: String,
    /// Its length in seconds, until now if it is going on.
    pub seconds: f64,
    /// Seconds since it ended; `None` while it is going on.
    pub ended_seconds_ago: Option<f64>,
}

/// The size of the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Frames, delivered or not.
    pub frames: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// Of these frames, those that workers have received and not acked.
    pub pending: u64,
}

/// A process of the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its roles: `ingest`, `work`, `summary`.
    pub roles: Vec<String>,
    /// The version of its binary.
    pub version: String,
    /// Grows with each process of this name.
    pub epoch: u64,
    /// Seconds since it joined the others.
    pub up_seconds: f64,
    /// Seconds since its last sign of life in the ledger.
    pub beat_seconds_ago: f64,
    /// Whether that was a short time ago.
    pub alive: bool,
    /// Whether it refreshes the summary and keeps the partitions.
    pub leads_summary: bool,
}

/// The files that are not settled.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Files {
    /// Files in inbound.
    pub inbound: u64,
    /// Files in work.
    pub work: u64,
    /// Files in quarantine, without their reasons.
    #[serde(default)]
    pub quarantine: u64,
    /// Files that wait: those in inbound that cannot be taken yet, and those in work that cannot be
    /// read or moved now.
    #[serde(default)]
    pub waiting_files: u64,
    /// The first of the waiting files.
    pub waiting: Vec<WaitingFile>,
}

impl Files {
    /// Number of files that wait. An older release reports only the first of them.
    #[must_use]
    pub fn waiting_in_all(&self) -> u64 {
        self.waiting_files.max(self.waiting.len() as u64)
    }
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaitingFile {
    /// The file's name.
    pub name: String,
    /// Why the file waits, for people.
    pub why: String,
    /// Why the file waits, in one word: `other_name`, `being_written`, `just_written`,
    /// `incomplete`, `gone`, `not_permitted`, `claim_failed`, `read_failed`, `move_failed` or
    /// `table_refuses`.
    #[serde(default)]
    pub code: String,
    /// Seconds that the file has waited for this reason.
    #[serde(default)]
    pub seconds: Option<f64>,
}

/// The number of rejects with one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectCount {
    /// The reason.
    pub code: String,
    /// Their number.
    pub records: u64,
    /// What the database said of the newest of them. `None` if the database did not refuse a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Status {
    /// The current outage. `None` if the engine works.
    #[must_use]
    pub fn outage(&self) -> Option<&Outage> {
        let newest = self.outages.first();
        newest.filter(|outage| outage.ended_seconds_ago.is_none())
    }
}

/// Counts rejects by code, most frequent first.
#[must_use]
pub fn by_reason(reasons: Vec<RejectReason>) -> Vec<RejectCount> {
    let count = |reason: RejectReason| RejectCount {
        code: reason.code.as_str().to_owned(),
        records: reason.records,
        message: reason.message,
    };
    let mut counts: Vec<RejectCount> = reasons.into_iter().map(count).collect();
    counts.sort_by_key(|count| std::cmp::Reverse(count.records));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_parsed_from_its_json() {
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
    fn a_status_of_an_older_release_is_read() {
        let old = r#"{"running": true, "files": {"inbound": 1, "work": 0, "waiting":
            [{"name": "a", "why": "open"}]}}"#;
        let status: Status = serde_json::from_str(old).unwrap();
        assert_eq!(status.files.waiting[0].seconds, None);
        assert_eq!(status.files.waiting_in_all(), 1);
    }
}
