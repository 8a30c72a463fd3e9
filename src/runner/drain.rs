//! Empties the queue into the database: workers, and nothing else of an engine.
//!
//! It opens no directory, so it may run beside a service that has locked them, as one more process
//! with workers. Whoever has the files in work learns of the rows from the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Stop, Workers, node};
use crate::broker::{self, Broker, BrokerOptions, Depth};
use crate::config::Settings;
use crate::fault::Fault;
use crate::retry::{GivenUp, until_ok};
use crate::sink::{self, Sink, SinkOptions};
use crate::worker::{Progress, Worker};

/// How often the queue is asked whether it is empty.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often it is told how much is left.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// A queue and where it is emptied to.
pub struct Drain {
    /// The queue.
    pub broker: Arc<dyn Broker>,
    /// The database.
    pub sink: Arc<dyn Sink>,
    /// What was committed.
    pub progress: Arc<Progress>,
    like: Worker,
    workers: usize,
}

impl Drain {
    /// Connects to the queue and the database of the settings. What another consumer has held for
    /// `take_over_after` counts as abandoned.
    ///
    /// # Errors
    /// Transient where one cannot be reached now; fatal where it never will be.
    pub async fn open(settings: &Settings, take_over_after: Duration) -> Result<Self, Fault> {
        let broker_options = BrokerOptions {
            claim_idle: take_over_after,
            ..BrokerOptions::default()
        };
        let sink_options = SinkOptions {
            connections: settings.workers,
            ..SinkOptions::default()
        };
        let broker =
            broker::open(&settings.broker_url, &broker_options, &settings.datasets).await?;
        let sink = sink::open(&settings.database_url, &sink_options).await?;
        let progress = Arc::<Progress>::default();
        let like = Worker {
            // Not the name of the service, whose frames in hand would be delivered here as well.
            name: format!("{}-drain", node(&settings.dirs.work)),
            broker: broker.clone(),
            sink: sink.clone(),
            datasets: settings.datasets.clone(),
            progress: progress.clone(),
            // Not kept: a refresh reads the rows of these files once they are settled.
            summaries: Arc::default(),
        };
        Ok(Self {
            broker,
            sink,
            progress,
            like,
            workers: settings.workers,
        })
    }

    /// Commits until the queue is empty; `false` where it was stopped before.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(&self, stop: &Stop) -> Result<bool, Fault> {
        // Before there are workers, so that what they commit was there, or came later.
        let first = match self.depth(stop).await? {
            None => return Ok(false),
            Some(Depth { frames: 0, .. }) => return Ok(true),
            Some(first) => first,
        };
        let mut workers = Workers::start(&self.like, self.workers, &stop.now);
        let workers_stop = workers.stop.clone();
        let watch = async {
            let is_empty = self.until_empty(first.frames, stop).await?;
            workers_stop.cancel();
            Ok(is_empty)
        };
        let (is_empty, ()) = tokio::try_join!(watch, workers.join())?;
        Ok(is_empty)
    }

    async fn until_empty(&self, first_frames: u64, stop: &Stop) -> Result<bool, Fault> {
        let (mut told, mut warned) = (Instant::now(), false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = stop.quiet.cancelled() => return Ok(false),
            }
            // In this order: none of these is among those that nobody has received yet.
            let committed = self.progress.frames();
            let Some(depth) = self.depth(stop).await? else {
                return Ok(false);
            };
            if depth.frames == 0 {
                return Ok(true);
            }
            let waiting = depth.frames.saturating_sub(depth.pending);
            if !warned && committed + waiting > first_frames {
                tracing::warn!(
                    "frames come in: somebody publishes, and this ends when the queue is empty; \
                     `task_runner pause` keeps a service from taking files"
                );
                warned = true;
            }
            if told.elapsed() >= TELL_EVERY {
                let (frames, in_hand) = (depth.frames, depth.pending);
                tracing::info!(frames, in_hand, committed, "frames are left in the queue");
                told = Instant::now();
            }
        }
    }

    /// `None` where it was stopped meanwhile.
    async fn depth(&self, stop: &Stop) -> Result<Option<Depth>, Fault> {
        let depth = || self.broker.depth();
        match until_ok("asking what is in the queue", &stop.quiet, |_| {}, depth).await {
            Ok(depth) => Ok(Some(depth)),
            Err(GivenUp::Stopped) => Ok(None),
            Err(GivenUp::Fatal(fault)) => Err(fault),
        }
    }
}
