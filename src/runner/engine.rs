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
use crate::inbox::{Census, Inbox};
use crate::ingest::{InboundView, Ingest, IngestOptions, Intake, Tally};
use crate::retry::GivenUp;
use crate::sink::{Database, FileEntry, Sink, Totals};
use crate::status::RejectCount;
use crate::summary::{self, Accumulator};
use crate::worker::{Progress, Worker};

/// Everything that is connected and open.
#[derive(Clone)]
pub struct Engine {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// The database, as the stages use it.
    pub sink: Arc<dyn Sink>,
    /// The same with its tables, summaries and what operators ask of it. `None` if the sink stores
    /// rows and ledger only: then there are no summaries, and status has no totals.
    pub database: Option<Arc<dyn Database>>,
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
    summaries: Option<Arc<Accumulator>>,
    pub(super) scan_interval: Arc<Mutex<Duration>>,
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
    /// What was last counted in the directories.
    pub(super) counts: Mutex<Option<Counted>>,
    /// Locked by the task that asks the ledger.
    pub(super) asking: tokio::sync::Mutex<()>,
    /// When the main loop last turned.
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
            counts: Mutex::default(),
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
        database: Option<Arc<dyn Database>>,
        datasets: Datasets,
        inbox: Arc<Inbox>,
        options: EngineOptions,
    ) -> Self {
        let scan_interval = Arc::new(Mutex::new(options.scan_interval));
        let summaries = database.clone().map(|store| Accumulator::new(store));
        Self {
            broker,
            sink,
            database,
            datasets,
            inbox,
            options,
            scan_interval,
            tally: Arc::default(),
            progress: Arc::default(),
            summaries: summaries.map(Arc::new),
            inbound: Arc::default(),
            health: Arc::default(),
        }
    }

    /// Brings the tables of the database up to date.
    ///
    /// # Errors
    /// Those of [`Schema::migrate`](crate::sink::Schema::migrate).
    pub async fn migrate(&self) -> Result<(), Fault> {
        match &self.database {
            Some(database) => database.migrate(&self.datasets).await,
            None => Ok(()),
        }
    }

    pub(super) fn intake(&self) -> Intake {
        Intake {
            inbox: self.inbox.clone(),
            tally: self.tally.clone(),
            view: self.inbound.clone(),
            scan_interval: self.scan_interval.clone(),
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
        let Some(summaries) = &self.summaries else {
            return Ok(());
        };
        match summary::refresh(summaries, &self.datasets, stop).await {
            Ok(done) => tracing::debug!(?done, "summary refreshed"),
            Err(GivenUp::Stopped) => {}
            Err(GivenUp::Fatal(fault)) => return Err(fault),
        }
        Ok(())
    }
}
