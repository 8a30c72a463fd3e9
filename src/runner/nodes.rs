//! This process among the others: its row and its beats in the ledger, whether it leads the summary, and
//! the take-over of the files of dead ones.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::membership::{DEAD_AFTER, Membership, Seen, is_alive};
use crate::config::Roles;
use crate::fault::{Fault, Origin};
use crate::inbox::{Inbox, blocking};
use crate::sink::{Beat, Database, NewNode, NodeEntry, NodeId, TakenOver};
use crate::telemetry;

/// Pause between two beats. A beat is one small transaction and one query.
pub(super) const BEAT_EVERY: Duration = Duration::from_secs(3);

/// The role of a load in the ledger.
pub(crate) const LOAD: &str = "load";

/// Most processes that are listed.
const NODES_MAX: usize = 100;

/// How long the end of a process waits for the database, for example to remove its row.
pub(super) const LEAVE_WAIT: Duration = Duration::from_secs(2);

/// How many beats in a row must find a process dead before its files are taken over. For a moment,
/// the beats of all processes are old after a pause of the database, and of the future after its
/// clock was set back.
const LOOKS: u32 = 3;

/// Pause between two attempts to join under a name that another process seems to have.
const NAME_PAUSE: Duration = Duration::from_millis(500);

/// A process that has joined.
pub(super) struct Member {
    database: Arc<dyn Database>,
    /// Weak, as that of the state below: the task of the beats keeps no engine alive.
    inbox: Weak<Inbox>,
    node: NewNode,
    id: NodeId,
    takes_files: bool,
    began: Instant,
    /// Since when it cannot join again.
    refused: Mutex<Option<Instant>>,
}

impl Member {
    /// Enters this process into the ledger, and begins to use work with the epoch that it gets. If a
    /// process of this name seems to live, waits until it can be told from one that has just died.
    ///
    /// # Errors
    /// Fatal if another process has the name. Those of the database.
    pub(super) async fn join(
        database: Arc<dyn Database>,
        inbox: &Arc<Inbox>,
        name: &str,
        roles: String,
        takes_files: bool,
    ) -> Result<Self, Fault> {
        let node = NewNode {
            name: name.to_owned(),
            roles,
            version: crate::version::VERSION.to_owned(),
            former: inbox.former_epoch(),
        };
        let began = Instant::now();
        let id = loop {
            if let Some(id) = database.join(&node, DEAD_AFTER).await? {
                break id;
            }
            if began.elapsed() > DEAD_AFTER + BEAT_EVERY {
                let cause =
                    "a process of this name lives, in another work directory or on another host";
                let doing = format!("joining the other processes as node {name}");
                return Err(Fault::fatal(Origin::Sink, doing, cause)
                    .with_next_step("give each process a name of its own (--node NAME)"));
            }
            if began.elapsed() < NAME_PAUSE {
                tracing::info!(
                    node = name,
                    "waits: a process of this name was seen a moment ago"
                );
            }
            sleep(NAME_PAUSE).await;
        };
        if let Err(fault) = begin(inbox, &id, takes_files).await {
            leave(database.as_ref(), &id).await;
            return Err(fault);
        }
        Ok(Self {
            database,
            inbox: Arc::downgrade(inbox),
            node,
            id,
            takes_files,
            began,
            refused: Mutex::default(),
        })
    }

    /// Beats in the ledger until the membership is dropped or left.
    pub(super) fn live(self, wants_to_lead: bool) -> Arc<Membership> {
        let membership = Arc::new(Membership::default());
        if let Some(inbox) = self.inbox.upgrade() {
            inbox.suspect(None);
        }
        *membership.joined.lock() = Some(self.id.clone());
        let beats = tokio::spawn(self.beat(Arc::downgrade(&membership), wants_to_lead));
        membership.beats.lock().replace(beats);
        membership
    }

    /// Where the database does not answer, the next beat tries again: the check of the servers reports
    /// it.
    async fn beat(self, membership: Weak<Membership>, wants_to_lead: bool) {
        let mut ticks = tokio::time::interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dead = HashMap::new();
        loop {
            ticks.tick().await;
            let Some(membership) = membership.upgrade() else {
                return;
            };
            match self.beat_once(&membership, wants_to_lead, &mut dead).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(fault) => tracing::debug!(%fault, "no beat in the ledger"),
            }
        }
    }

    /// Returns whether to go on.
    async fn beat_once(
        &self,
        membership: &Membership,
        wants_to_lead: bool,
        dead: &mut HashMap<String, u32>,
    ) -> Result<bool, Fault> {
        let joined = membership.joined.lock().clone();
        let Some(id) = joined else {
            return Ok(false);
        };
        let lapse = wants_to_lead.then_some(DEAD_AFTER);
        let leads = match self.database.beat(&id, lapse).await? {
            Beat::Lives(leads) => leads,
            Beat::Replaced => return self.join_again(membership, id).await,
        };
        membership.lead(leads.then_some(id));
        let nodes = self.database.nodes(NODES_MAX).await?;
        if self.takes_files
            && let Err(fault) = self.take_over(&nodes, dead).await
        {
            tracing::warn!(%fault, "looks for the files of dead nodes again");
        }
        membership.look(nodes);
        Ok(true)
    }

    /// The epoch has ended. A process that has claimed files ends: others load them. Another one goes on
    /// with a new epoch.
    async fn join_again(&self, membership: &Membership, was: NodeId) -> Result<bool, Fault> {
        membership.lead(None);
        let node = NewNode {
            former: Some(was.epoch),
            ..self.node.clone()
        };
        let joined = if self.takes_files {
            None
        } else {
            self.database.join(&node, DEAD_AFTER).await?
        };
        if joined.is_none() && !self.takes_files {
            // After an answer that was lost, its own row refuses it until the beat there is old.
            let since = *self.refused.lock().get_or_insert_with(Instant::now);
            if since.elapsed() < DEAD_AFTER + BEAT_EVERY {
                return Ok(true);
            }
        }
        let (Some(id), Some(inbox)) = (joined, self.inbox.upgrade()) else {
            membership.joined.lock().take();
            membership.replaced.cancel();
            return Ok(false);
        };
        self.refused.lock().take();
        tracing::warn!(
            node = id.name,
            "its row in the ledger was replaced or removed: it joins again"
        );
        *membership.joined.lock() = Some(id.clone());
        begin(&inbox, &id, false).await?;
        Ok(true)
    }

    /// Ends the epochs of nodes that have files in work and whose process is dead, and hands their files
    /// to intake.
    async fn take_over(
        &self,
        nodes: &[NodeEntry],
        dead: &mut HashMap<String, u32>,
    ) -> Result<(), Fault> {
        let Some(inbox) = self.inbox.upgrade() else {
            return Ok(());
        };
        let listed = inbox.clone();
        let others = blocking("reading work", move || {
            listed.keep_lock()?;
            listed.other_nodes()
        })
        .await?;
        let age = |name: &str| {
            let its = nodes.iter().find(|node| node.id.name == name);
            its.map(|node| node.beat_age)
        };
        // A process that lives has beaten since this one began, within a beat or two.
        let seen = |name: &str| age(name).is_some_and(|age| age < self.began.elapsed());
        let is_suspect = |(name, has_files): &&(String, bool)| *has_files && !seen(name);
        let mut suspects = others.iter().filter(is_suspect).count();
        // A process that takes no files leaves those of earlier processes of its name to others.
        let takes_none = |node: &&NodeEntry| {
            let takes = |role: &str| role == LOAD || role == "ingest";
            is_alive(node.beat_age) && !node.roles.split(',').any(takes)
        };
        for node in nodes.iter().filter(takes_none) {
            let has_files =
                |(name, has_files): &(String, bool)| *has_files && *name == node.id.name;
            if inbox.takes_over() && others.iter().any(has_files) {
                let (listed, of) = (inbox.clone(), node.id.name.clone());
                let epochs = blocking("reading work", move || Ok(listed.epochs_of(&of))).await?;
                let former = epochs.into_iter().filter(|epoch| *epoch < node.id.epoch);
                inbox.orphan(node.id.name.clone(), former.collect());
            }
        }
        let found = others.into_iter().map(|(name, _)| name);
        let found = found.filter(|name| !age(name).is_some_and(is_alive));
        let found: Vec<String> = found.collect();
        dead.retain(|name, _| found.contains(name));
        for name in found {
            let looks = dead.entry(name.clone()).or_default();
            *looks += 1;
            if *looks < LOOKS || !inbox.takes_over() {
                continue;
            }
            // Read before: the next process of this name may begin right after the end of the epoch.
            let (listed, of) = (inbox.clone(), name.clone());
            let epochs = blocking("reading work", move || Ok(listed.epochs_of(&of))).await?;
            if self.database.fence(&name, DEAD_AFTER).await? {
                dead.remove(&name);
                suspects = suspects.saturating_sub(1);
                inbox.orphan(name, epochs);
            }
        }
        inbox.suspect(Some(suspects));
        Ok(())
    }
}

async fn begin(inbox: &Arc<Inbox>, id: &NodeId, takes_files: bool) -> Result<(), Fault> {
    let (inbox, epoch) = (inbox.clone(), id.epoch);
    blocking("preparing work", move || inbox.begin(epoch, takes_files)).await
}

/// Removes the row of a process. Without an answer, the row counts as dead in a few seconds.
async fn leave(database: &dyn Database, id: &NodeId) {
    if let Ok(Err(fault)) = timeout(LEAVE_WAIT, database.leave(id)).await {
        tracing::debug!(%fault, "its row stays in the ledger for a day");
    }
}

impl Membership {
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
        telemetry::leads_summary(self.leader.borrow().is_some());
        let now = Instant::now();
        let takes_files = count("ingest", true) > 0;
        let mut seen = self.seen.lock();
        let before = seen.as_ref().and_then(|seen| seen.no_ingest_since);
        *seen = Some(Seen {
            at: now,
            nodes,
            no_ingest_since: (!takes_files).then(|| before.unwrap_or(now)),
        });
    }
}

impl Engine {
    /// Waits until another process has taken over the files of this one. Returns the fault that ends it.
    pub(super) async fn until_taken_over(&self) -> Fault {
        self.membership.replaced.cancelled().await;
        TakenOver::fault(&self.options.node)
    }

    /// Removes this process from the ledger, so that another one leads at once.
    pub(crate) async fn leave(&self) {
        let joined = self.membership.joined.lock().take();
        let (Some(database), Some(id)) = (self.database.as_deref(), joined) else {
            return;
        };
        self.inbox.end();
        leave(database, &id).await;
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
