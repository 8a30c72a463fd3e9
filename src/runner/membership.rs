//! What a process knows about the processes of the service, from the ledger.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::sink::{NodeEntry, NodeId};
use crate::status;

/// A process without a beat for this long counts as dead, and loses the lease of the summary. Three
/// beats: a shorter one would depose a leader for a pause of its host or of the database.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(10);

/// What a process knows about itself and the others.
#[derive(Debug, Default)]
pub(super) struct Membership {
    pub(super) joined: Mutex<Option<NodeId>>,
    /// This process, while it leads the summary.
    pub(super) leader: watch::Sender<Option<NodeId>>,
    pub(super) seen: Mutex<Option<Seen>>,
    /// Cancelled when another process has ended the epoch of this one, and it cannot go on.
    pub(super) replaced: CancellationToken,
    /// The task of the beats.
    pub(super) beats: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(beats) = self.beats.get_mut().take() {
            beats.abort();
        }
    }
}

/// The processes at the last beat.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) nodes: Vec<NodeEntry>,
    /// Since when no living process has had the role `ingest`.
    pub(super) no_ingest_since: Option<Instant>,
}

impl Membership {
    /// The processes, as a status has them.
    pub(super) fn as_status(&self) -> Vec<status::Node> {
        let seen = self.seen.lock();
        let seen = seen.as_ref();
        seen.map_or_else(Vec::new, |seen| as_status(&seen.nodes, seen.at.elapsed()))
    }

    /// Since when no process anywhere takes files. `None` while one does, and while the ledger does not
    /// tell.
    pub(super) fn no_ingest_since(&self) -> Option<Instant> {
        let seen = self.seen.lock();
        let seen = seen.as_ref().filter(|seen| seen.at.elapsed() < DEAD_AFTER);
        seen?.no_ingest_since
    }

    /// Notes whether this process leads.
    pub(super) fn lead(&self, leader: Option<NodeId>) {
        let was = self.leader.send_replace(leader.clone());
        match (was, leader) {
            (None, Some(_)) => tracing::debug!("leads the summary"),
            (Some(_), None) => tracing::info!("another process leads the summary now"),
            _ => {}
        }
    }
}

/// The processes for a status. `age` is the time since they were read.
pub(crate) fn as_status(nodes: &[NodeEntry], age: Duration) -> Vec<status::Node> {
    let node = |node: &NodeEntry| {
        let beat_age = node.beat_age + age;
        status::Node {
            name: node.id.name.clone(),
            roles: node.roles.split(',').map(str::to_owned).collect(),
            version: node.version.clone(),
            epoch: node.id.epoch,
            up_seconds: (node.up + age).as_secs_f64(),
            beat_seconds_ago: beat_age.as_secs_f64(),
            alive: is_alive(beat_age),
            leads_summary: node.leads && is_alive(beat_age),
        }
    };
    let mut nodes: Vec<status::Node> = nodes.iter().map(node).collect();
    nodes.sort_by(|a, b| b.alive.cmp(&a.alive).then_with(|| a.name.cmp(&b.name)));
    nodes
}

pub(super) fn is_alive(beat_age: Duration) -> bool {
    beat_age < DEAD_AFTER
}
