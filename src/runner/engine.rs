//! The engine: all open parts, and what the process has done and seen so far.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Problem};
use crate::broker::{Broker, Depth};
use crate::config::Roles;
use crate::dataset::Datasets;
use crate::fault::Fault;
use crate::inbox::Inbox;
use crate::ingest::{InboundView, Ingest, IngestOptions, Intake, Tally};
use crate::retry::GivenUp;
use crate::sink::{FileEntry, Sink, Totals};
use crate::status::RejectCount;
use crate::summary::{self, Accumulator};
use crate::worker::{Progress, Worker};

/// Everything that is connected and open.
#[derive(Clone)]
pub struct Engine {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// The database.
    pub sink: Arc<dyn Sink>,
    /// The datasets.
    pub datasets: Datasets,
    /// The directories.
    pub inbox: Arc<Inbox>,
    /// How it runs.
    pub options: EngineOptions,
    /// Sums over the run.
    pub tally: Arc<Tally>,
    /// What the workers of this process have committed.
    pub progress: Arc<Progress>,
    summaries: Arc<Accumulator>,
    pub(super) inbound: Arc<InboundView>,
    pub(super) health: Arc<HealthState>,
}

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Names the consumers of this process; the same after a restart.
    pub node: String,
    /// What this process does.
    pub roles: Roles,
    /// The URL of the database for people, its password hidden.
    pub database: String,
    /// The URL of the queue for people, its password hidden.
    pub queue: String,
    /// Workers, each with a connection to the database.
    pub workers: usize,
    /// How files are ingested.
    pub ingest: IngestOptions,
    /// Longest pause between two scans of inbound.
    pub scan_interval: Duration,
    /// How often the daily summary is refreshed. `None`: once, at the start.
    pub summary_every: Option<Duration>,
    /// Least free bytes on the file system of each directory for a file to be taken.
    pub disk_floor_bytes: u64,
}

/// What the engine last saw of queue and database.
#[derive(Debug)]
pub(super) struct HealthState {
    /// What the queue held at the last check.
    pub(super) depth: Mutex<Depth>,
    /// The result of the last check. `None` before the first.
    pub(super) checked: Mutex<Option<Result<(), Problem>>>,
    pub(super) journal: Mutex<Journal>,
    pub(super) ledger: Mutex<LedgerView>,
    /// Locked by the task that asks the ledger.
    pub(super) asking: tokio::sync::Mutex<()>,
    /// When the main loop last turned.
    pub(super) beat: Mutex<Instant>,
}

/// What the ledger last answered, and when and how fast.
#[derive(Debug, Clone, Default)]
pub(super) struct LedgerView {
    pub(super) answer: Option<(Instant, Totals, Vec<FileEntry>, Vec<RejectCount>)>,
    pub(super) asked: Option<(Instant, Duration)>,
}

impl Default for HealthState {
    fn default() -> Self {
        Self {
            depth: Mutex::default(),
            checked: Mutex::default(),
            journal: Mutex::default(),
            ledger: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            beat: Mutex::new(Instant::now()),
        }
    }
}

impl Engine {
    /// An engine over open parts.
    #[must_use]
    pub fn new(
        broker: Arc<dyn Broker>,
        sink: Arc<dyn Sink>,
        datasets: Datasets,
        inbox: Arc<Inbox>,
        options: EngineOptions,
    ) -> Self {
        Self {
            broker,
            sink,
            datasets,
            inbox,
            options,
            tally: Arc::default(),
            progress: Arc::default(),
            summaries: Arc::default(),
            inbound: Arc::default(),
            health: Arc::default(),
        }
    }

    pub(super) fn intake(&self) -> Intake {
        Intake {
            inbox: self.inbox.clone(),
            tally: self.tally.clone(),
            view: self.inbound.clone(),
            scan_interval: self.options.scan_interval,
            disk_floor_bytes: self.options.disk_floor_bytes,
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
            options: self.options.ingest.clone(),
        }
    }

    /// The worker of which all workers of this engine are copies.
    pub(super) fn worker(&self) -> Worker {
        Worker {
            name: self.options.node.clone(),
            broker: self.broker.clone(),
            sink: self.sink.clone(),
            datasets: self.datasets.clone(),
            progress: self.progress.clone(),
            summaries: self.summaries.clone(),
        }
    }

    /// Refreshes the daily summary from what was loaded since the last time.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn refresh_summary(&self, stop: &CancellationToken) -> Result<(), Fault> {
        let refreshed = summary::refresh(&self.sink, &self.datasets, &self.summaries, stop).await;
        match refreshed {
            Ok(done) => tracing::debug!(?done, "summary refreshed"),
            Err(GivenUp::Stopped) => {}
            Err(GivenUp::Fatal(fault)) => return Err(fault),
        }
        Ok(())
    }
}
