//! Empties the queue into the database, with workers and no other stage.
//!
//! A drain opens no directory, so it may run beside a service that has locked them. That service
//! finds the stored records in the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::workers::Workers;
use crate::broker::{self, Broker, BrokerOptions, Depth};
use crate::config::Settings;
use crate::fault::Fault;
use crate::retry::{GivenUp, until_ok};
use crate::shutdown::Shutdown;
use crate::sink::{self, Database};
use crate::spare::Spared;
use crate::worker::{Progress, Worker};

/// Pause between two checks whether the queue is empty.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Pause between two log lines that report how much is left.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A queue, and the database that its frames are committed to.
pub struct Drain {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// The database.
    pub database: Arc<dyn Database>,
    /// The commits of this drain.
    pub progress: Arc<Progress>,
    template: Worker,
    workers: usize,
    /// Asks the replicas until the drain ends.
    _spared: Spared,
}

impl Drain {
    /// Connects to the queue and the database of the settings. A consumer that has given no sign of
    /// life for `take_over_after` counts as dead.
    ///
    /// # Errors
    /// Transient if a server cannot be reached now. Fatal if a new attempt would fail as well.
    pub async fn open(settings: &Settings, take_over_after: Duration) -> Result<Self, Fault> {
        let spared = Spared::begin(settings)?;
        let database = sink::open(&settings.database_url, &settings.sink_options()).await?;
        let broker_options = BrokerOptions {
            dead_after: take_over_after,
            ..settings.queue_options(database.frame_key().await?)
        };
        let broker =
            broker::open(&settings.broker_url, &broker_options, &settings.datasets).await?;
        let progress = Arc::<Progress>::default();
        let template = Worker {
            // Not the name of the service: its delivered frames would be delivered here again.
            name: format!("{}-drain", settings.node_name()),
            broker: broker.clone(),
            sink: database.clone(),
            datasets: settings.datasets.clone(),
            progress: progress.clone(),
            pace: spared.pace.clone(),
            summaries: None,
        };
        Ok(Self {
            broker,
            database,
            progress,
            template,
            workers: settings.workers,
            _spared: spared,
        })
    }

    /// Commits until the queue is empty. Returns `false` if the shutdown began first.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(&self, shutdown: &Shutdown) -> Result<bool, Fault> {
        // Read before the workers start, so that each frame that they commit is in this count or
        // was published later.
        let first = match self.depth(shutdown).await? {
            None => return Ok(false),
            Some(Depth { frames: 0, .. }) => return Ok(true),
            Some(first) => first,
        };
        let mut workers = Workers::start(&self.template, self.workers, &shutdown.abort);
        let stop_workers = workers.stop.clone();
        let check = async {
            let is_empty = self.until_empty(first.frames, shutdown).await?;
            stop_workers.cancel();
            Ok(is_empty)
        };
        let (is_empty, ()) = tokio::try_join!(check, workers.join())?;
        Ok(is_empty)
    }

    async fn until_empty(&self, first_frames: u64, shutdown: &Shutdown) -> Result<bool, Fault> {
        let (mut reported, mut warned) = (Instant::now(), false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = shutdown.drain.cancelled() => return Ok(false),
            }
            // The commits are read before the queue, so that no frame counts as both.
            let committed = self.progress.frames();
            let Some(depth) = self.depth(shutdown).await? else {
                return Ok(false);
            };
            if depth.frames == 0 {
                return Ok(true);
            }
            let waiting = depth.frames.saturating_sub(depth.pending);
            if !warned && committed + waiting > first_frames {
                tracing::warn!(
                    "frames are still being published, and this ends only when the queue is empty; \
                     `task_runner pause` keeps a service from taking files"
                );
                warned = true;
            }
            if reported.elapsed() >= REPORT_INTERVAL {
                let (frames, in_hand) = (depth.frames, depth.pending);
                tracing::info!(frames, in_hand, committed, "frames are left in the queue");
                reported = Instant::now();
            }
        }
    }

    /// The size of the queue. `None` if the shutdown began.
    async fn depth(&self, shutdown: &Shutdown) -> Result<Option<Depth>, Fault> {
        let depth = || self.broker.depth();
        match until_ok(
            "reading the size of the queue",
            &shutdown.drain,
            |_| {},
            depth,
        )
        .await
        {
            Ok(depth) => Ok(Some(depth)),
            Err(GivenUp::Stopped) => Ok(None),
            Err(GivenUp::Fatal(fault)) => Err(fault),
        }
    }
}
