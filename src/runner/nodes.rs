//! This process among the others of the service: its beat in the ledger, and whether it leads the
//! summary.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::membership::{DEAD_AFTER, Seen, is_alive};
use crate::config::Roles;
use crate::fault::Fault;
use crate::sink::{Beat, Database, NewNode, NodeEntry, NodeId};
use crate::telemetry;

/// Pause between two beats. A beat is one small transaction and one query.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(3);

/// Most processes that are listed.
const NODES_MAX: usize = 100;

/// How long the end of a process waits for the database to remove its row.
const LEAVE_WAIT: Duration = Duration::from_secs(2);

impl Engine {
    /// Beats in the ledger, and never returns. Where the database does not answer, the next beat tries
    /// again: the check of the servers reports it.
    pub(super) async fn keep_node(&self) {
        let Some(database) = self.database.as_deref() else {
            return std::future::pending().await;
        };
        let mut ticks = tokio::time::interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(fault) = self.beat(database).await {
                tracing::debug!(%fault, "no beat in the ledger");
            }
        }
    }

    async fn beat(&self, database: &dyn Database) -> Result<(), Fault> {
        let known = self.membership.joined.lock().clone();
        let id = match known {
            Some(id) => id,
            None => self.join(database).await?,
        };
        let lapse = self.options.roles.summary.then_some(DEAD_AFTER);
        let leads = match database.beat(&id, lapse).await? {
            Beat::Lives(leads) => leads,
            Beat::Replaced => {
                tracing::warn!(
                    node = id.name,
                    "its row in the ledger was replaced or removed: it joins again. If another process \
                     runs on a host of the same name in an equal work directory, give it another one"
                );
                self.join(database).await?;
                false
            }
        };
        self.membership.lead(leads.then_some(id));
        self.look(database.nodes(NODES_MAX).await?);
        Ok(())
    }

    async fn join(&self, database: &dyn Database) -> Result<NodeId, Fault> {
        let node = NewNode {
            name: self.options.node.clone(),
            roles: self.options.roles.to_string(),
            version: crate::version::VERSION.to_owned(),
        };
        let id = database.join(&node).await?;
        *self.membership.joined.lock() = Some(id.clone());
        Ok(id)
    }

    /// Keeps what the ledger says about all processes.
    fn look(&self, nodes: Vec<NodeEntry>) {
        let count = |role: &str, alive: bool| {
            let is = |node: &&NodeEntry| {
                is_alive(node.beat_age) == alive && node.roles.split(',').any(|has| has == role)
            };
            nodes.iter().filter(is).count()
        };
        for role in Roles::ALL.names() {
            telemetry::nodes(role, count(role, true), count(role, false));
        }
        telemetry::leads_summary(self.membership.leader.borrow().is_some());
        let now = Instant::now();
        let takes_files = count("ingest", true) > 0;
        let mut seen = self.membership.seen.lock();
        let before = seen.as_ref().and_then(|seen| seen.no_ingest_since);
        *seen = Some(Seen {
            at: now,
            nodes,
            no_ingest_since: (!takes_files).then(|| before.unwrap_or(now)),
        });
    }

    /// Removes this process from the ledger, so that another one leads at once.
    pub(super) async fn leave(&self) {
        let joined = self.membership.joined.lock().take();
        let (Some(database), Some(id)) = (self.database.as_deref(), joined) else {
            return;
        };
        // Without an answer, the row counts as dead in a few seconds.
        if let Ok(Err(fault)) = timeout(LEAVE_WAIT, database.leave(&id)).await {
            tracing::debug!(%fault, "its row stays in the ledger for a day");
        }
    }

    /// Waits until this process leads the summary. `None` if it is stopped first.
    pub(super) async fn until_leading(&self, stop: &CancellationToken) -> Option<NodeId> {
        let mut leader = self.membership.leader.subscribe();
        tokio::select! {
            leads = leader.wait_for(Option::is_some) => leads.ok()?.clone(),
            () = stop.cancelled() => None,
        }
    }

    /// Waits until this process no longer leads.
    pub(super) async fn until_deposed(&self, id: &NodeId) {
        let mut leader = self.membership.leader.subscribe();
        // The sender lives as long as the engine.
        let _ = leader.wait_for(|leader| leader.as_ref() != Some(id)).await;
    }
}
