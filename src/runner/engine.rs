//! The engine: its connections and directories, and the state that its tasks share.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Problem};
use super::membership::Membership;
use crate::broker::{Broker, Depth};
use crate::config::Roles;
use crate::dataset::Datasets;
use crate::fault::Fault;
use crate::inbox::{Census, HistoryLimits, Inbox};
use crate::ingest::{Epoch, InboundView, Ingest, IngestOptions, Intake, Neighbours, Tally};
use crate::pace::Pace;
use crate::retry::GivenUp;
use crate::sink::{Acknowledged, Database, FileEntry, NodeId, Replicas, Sink, Totals};
use crate::spare;
use crate::status::RejectCount;
use crate::summary::{self, Accumulator};
use crate::worker::{Progress, Worker};

/// An engine with open connections and directories.
#[derive(Clone)]
pub struct Engine {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// The database, as the stages use it.
    pub sink: Arc<dyn Sink>,
    /// The database, with tables, summaries and reads for operators. `None` if the sink is only a
    /// [`Sink`]: then there are no summaries, and status has no totals.
    pub database: Option<Arc<dyn Database>>,
    /// The datasets.
    pub datasets: Datasets,
    /// The directories.
    pub inbox: Arc<Inbox>,
    /// Stores records again whose superseding rows are removed; see [`Ingest`].
    pub neighbours: Option<Arc<dyn Neighbours>>,
    /// The options.
    pub options: EngineOptions,
    /// Sums over the run.
    pub tally: Arc<Tally>,
    /// The commits of this process's workers.
    pub progress: Arc<Progress>,
    pub(super) pace: Arc<Pace>,
    /// While a replica is further behind, the workers wait.
    pub(super) max_replica_lag: Arc<Mutex<Duration>>,
    summaries: Option<Arc<Accumulator>>,
    pub(super) scan_interval: Arc<Mutex<Duration>>,
    pub(super) inbound: Arc<InboundView>,
    pub(super) health: Arc<HealthState>,
    pub(super) membership: Arc<Membership>,
}

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The name of this process, with which the names of its consumers begin. The same after a
    /// restart.
    pub node: String,
    /// The parts of the service that this process runs.
    pub roles: Roles,
    /// The URL of the database with its password hidden.
    pub database: String,
    /// The URL of the queue with its password hidden.
    pub queue: String,
    /// How many workers run, each with a connection to the database.
    pub workers: usize,
    /// How files are ingested.
    pub ingest: IngestOptions,
    /// Longest pause between two scans of inbound.
    pub scan_interval: Duration,
    /// The replicas that must keep up with the commits. `None`: no replica is asked.
    pub replicas: Option<Arc<Replicas>>,
    /// How often the daily summary is refreshed. `None`: once, at the start.
    pub summary_every: Option<Duration>,
    /// Whether files of history are compressed.
    pub compacts_history: bool,
    /// What a service leaves in history.
    pub history_limits: HistoryLimits,
    /// Least free bytes on the file system of each directory for a file to be taken.
    pub disk_floor_bytes: u64,
}

/// The results of the last checks of queue, database and directories.
#[derive(Debug)]
pub(super) struct HealthState {
    /// The size of the queue at the last check.
    pub(super) depth: Mutex<Depth>,
    /// How long frames have waited at the last check while no worker read the queue.
    pub(super) unread: Mutex<Duration>,
    /// The result of the last check. `None` before the first.
    pub(super) checked: Mutex<Option<Result<(), Problem>>>,
    pub(super) journal: Mutex<Journal>,
    pub(super) ledger: Mutex<LedgerView>,
    /// The last counts of the files in the directories.
    pub(super) counts: Mutex<Option<Counted>>,
    /// Locked by the task that is reading the ledger.
    pub(super) asking: tokio::sync::Mutex<()>,
    /// When the main loop last ran.
    pub(super) beat: Mutex<Instant>,
}

/// The files of the directories, when they were counted, and how long that took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) at: Instant,
    pub(super) took: Duration,
    pub(super) census: Census,
    pub(super) quarantine: u64,
}

/// The last answer of the ledger, its time, and how long it took.
#[derive(Debug, Clone, Default)]
pub(super) struct LedgerView {
    pub(super) answer: Option<(Instant, LedgerAnswer)>,
    pub(super) asked: Option<(Instant, Duration)>,
}

/// What a status holds from the ledger.
#[derive(Debug, Clone)]
pub(super) struct LedgerAnswer {
    pub(super) totals: Totals,
    pub(super) acknowledged: Acknowledged,
    pub(super) files: Vec<FileEntry>,
    pub(super) rejects: Vec<RejectCount>,
    pub(super) missing_indexes: Vec<String>,
}

impl Default for HealthState {
    fn default() -> Self {
        Self {
            unread: Mutex::default(),
            depth: Mutex::default(),
            checked: Mutex::default(),
            journal: Mutex::default(),
            ledger: Mutex::default(),
            counts: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            beat: Mutex::new(Instant::now()),
        }
    }
}

impl Engine {
    /// An engine with open connections and directories.
    #[must_use]
    pub fn new(
        broker: Arc<dyn Broker>,
        sink: Arc<dyn Sink>,
        database: Option<Arc<dyn Database>>,
        datasets: Datasets,
        inbox: Arc<Inbox>,
        options: EngineOptions,
    ) -> Self {
        let scan_interval = Arc::new(Mutex::new(options.scan_interval));
        let pace = Pace::default();
        // Until the replicas have answered once.
        pace.hold(options.replicas.is_some());
        let summaries = database.clone().map(|store| Accumulator::new(store));
        Self {
            broker,
            sink,
            database,
            datasets,
            inbox,
            neighbours: None,
            options,
            scan_interval,
            tally: Arc::default(),
            progress: Arc::default(),
            pace: Arc::new(pace),
            max_replica_lag: Arc::new(Mutex::new(Duration::MAX)),
            summaries: summaries.map(Arc::new),
            inbound: Arc::default(),
            health: Arc::default(),
            membership: Arc::default(),
        }
    }

    pub(super) fn intake(&self) -> Intake {
        Intake {
            inbox: self.inbox.clone(),
            tally: self.tally.clone(),
            view: self.inbound.clone(),
            scan_interval: self.scan_interval.clone(),
            disk_floor_bytes: self.options.disk_floor_bytes,
            sink: self.sink.clone(),
            datasets: self.datasets.clone(),
            options: self.options.ingest.clone(),
        }
    }

    pub(super) fn ingest(&self) -> Ingest {
        Ingest {
            broker: self.broker.clone(),
            sink: self.sink.clone(),
            datasets: self.datasets.clone(),
            inbox: self.inbox.clone(),
            progress: self.progress.clone(),
            tally: self.tally.clone(),
            epoch: self.epoch(),
            neighbours: self.neighbours.clone(),
            options: self.options.ingest.clone(),
        }
    }

    /// The epoch of this process. `None` if it has not joined others.
    fn epoch(&self) -> Option<Epoch> {
        Some(Epoch {
            nodes: self.database.clone()?,
            id: self.membership.joined.lock().clone()?,
        })
    }

    /// The template of all workers of this engine.
    pub(super) fn worker(&self) -> Worker {
        Worker {
            name: self.options.node.clone(),
            broker: self.broker.clone(),
            sink: self.sink.clone(),
            datasets: self.datasets.clone(),
            progress: self.progress.clone(),
            pace: self.pace.clone(),
            summaries: self.summaries.clone(),
        }
    }

    /// Holds the workers of this engine while a replica is too far behind. Never returns.
    pub(super) async fn spare_replicas(&self) {
        let replicas = self.options.replicas.as_deref();
        spare::spare(replicas, &self.pace, &self.max_replica_lag).await;
    }

    /// Rows of the files that this run has settled, without the rows that this process's workers
    /// superseded.
    #[must_use]
    pub fn rows(&self) -> u64 {
        let rows = self.tally.rows.load(Relaxed);
        rows.saturating_sub(self.superseded())
    }

    /// Records that this process's workers superseded: of the files of this run, or of rows that were
    /// stored before.
    #[must_use]
    pub fn superseded(&self) -> u64 {
        let (superseded, replaced) = self.progress.superseded();
        superseded + replaced
    }

    /// Adds the files that were settled since the last refresh to the daily summary. Returns whether
    /// it came to its end: it was not stopped, and no other process than `leader`, if given, leads.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn refresh_summary(
        &self,
        leader: Option<&NodeId>,
        stop: &CancellationToken,
    ) -> Result<bool, Fault> {
        let Some(summaries) = &self.summaries else {
            return Ok(true);
        };
        match summary::refresh(summaries, &self.datasets, leader, stop).await {
            Ok(done) => tracing::debug!(?done, "summary refreshed"),
            Err(GivenUp::Stopped) => return Ok(false),
            Err(GivenUp::Fatal(fault)) => return Err(fault),
        }
        Ok(true)
    }
}
