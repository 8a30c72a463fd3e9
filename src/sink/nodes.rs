//! The part of the seam that knows the processes of the service, and which of them leads.
//!
//! Each process has a row, and says every few seconds that it lives. All times are by the clock of the
//! database, since the clocks of hosts may be minutes apart. A file in SQLite has the clock of its
//! host.
//!
//! A clock may be set back, or a failover may lead to a server whose clock is behind. For a take-over,
//! the lease and the status, a beat of the future is no sign of life: a process that lives replaces it
//! within seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;

use crate::fault::{Fault, Origin};

/// How long the row of a process that ended without leaving stays for operators to see.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);

/// Most rows of such processes that a process removes when it joins.
pub(super) const REMOVED_MAX: u32 = 1_000;

/// The name of the lease of the daily summary.
pub(super) const SUMMARY: &str = "summary";

/// The processes of the service. Contract and errors: see [`sink`](super).
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Enters a process, in the place of an earlier one with the same name. Removes the rows of
    /// processes that have been dead for a day. `None` if a process of this name lives: it has beaten
    /// within `lapse`, and its epoch is not [`NewNode::former`]. A beat of the future is replaced by
    /// one of now, so that the answer is another one after `lapse` if the process is dead.
    async fn join(&self, node: &NewNode, lapse: Duration) -> Result<Option<NodeId>, Fault>;

    /// Ends the epoch of the process of this name if its last beat is more than `lapse` ago, or as far
    /// in the future: from then on, it is [`Replaced`](Beat::Replaced). Returns whether no process of
    /// this name lives.
    async fn fence(&self, name: &str, lapse: Duration) -> Result<bool, Fault>;

    /// Whether the process lives by the ledger: its epoch has not ended.
    async fn is_current(&self, node: &NodeId) -> Result<bool, Fault>;

    /// Records that the process lives. If `lapse` is given, it wants to lead: it keeps the lease of the
    /// summary, or takes it if its holder has not renewed it for `lapse`, or as far in the future.
    async fn beat(&self, node: &NodeId, lapse: Option<Duration>) -> Result<Beat, Fault>;

    /// Removes the process and gives up its lease, so that another process leads at its next beat.
    async fn leave(&self, node: &NodeId) -> Result<(), Fault>;

    /// The processes, those with the newest beat first, at most `max`.
    async fn nodes(&self, max: usize) -> Result<Vec<NodeEntry>, Fault>;

    /// The time by the clock of the database.
    async fn time(&self) -> Result<SystemTime, Fault>;
}

/// A process that joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Its name: the same after a restart, and that of no other process. At most 190 characters.
    pub name: String,
    /// Its roles, separated by commas.
    pub roles: String,
    /// The version of its binary.
    pub version: String,
    /// The epoch of a process of this name that is known to have ended.
    pub former: Option<u64>,
}

/// Another process has ended the epoch of this one, which it took for dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it gave no sign of life, and another process has taken over its files")]
pub struct TakenOver;

impl TakenOver {
    /// The fault that ends the process of the node `name`.
    #[must_use]
    pub fn fault(name: &str) -> Fault {
        Fault::fatal(Origin::Sink, format!("going on as node {name}"), Self)
            .with_next_step("nothing is lost; start it again, and it takes further files")
    }
}

/// A process that has joined. No two processes are equal, also if they have the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeId {
    /// Its name.
    pub name: String,
    /// Grows with each process of this name.
    pub epoch: u64,
}

/// What a beat found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The process lives by the ledger. `true` if it has the lease of the summary.
    Lives(bool),
    /// The row of the process is gone, or belongs to a later process of this name: join again.
    Replaced,
}

/// A process of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Its name and epoch.
    pub id: NodeId,
    /// Its roles, separated by commas.
    pub roles: String,
    /// The version of its binary.
    pub version: String,
    /// Time since it joined.
    pub up: Duration,
    /// Time since its last beat, or until it if it is of the future: either shows that the process
    /// does not beat.
    pub beat_age: Duration,
    /// Whether it has the lease of the summary.
    pub leads: bool,
}

/// The time since a process joined, in microseconds by the database. A clock that was set back makes
/// it negative.
pub(super) fn up(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or_default())
}

/// The time since a beat, as [`NodeEntry::beat_age`].
pub(super) fn beat_age(us: i64) -> Duration {
    Duration::from_micros(us.unsigned_abs())
}

/// A time in microseconds since the epoch, by the clock of a database.
pub(super) fn since_epoch(us: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(us)
}

/// A time in whole microseconds.
pub(super) fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}
