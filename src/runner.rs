//! Puts the stages together: a load that ends, and a service that does not.
//!
//! Stopping has two steps. `quiet` ends the taking of files, and what is in flight is finished;
//! `stop` ends everything at once. Both lose nothing: the ledger knows what is stored, and what it
//! lacks is still in work or in its archive.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{self, Broker, BrokerOptions};
use crate::config::{HardLinks, Roles, Settings, redacted};
use crate::content::ContentOptions;
use crate::cut::ChunkLimits;
use crate::dataset::{Dataset, Datasets};
use crate::fault::{Fault, Origin};
use crate::inbox::{self, Claimed, Inbox, Patience};
use crate::ingest::{Ingest, IngestOptions, Item, ItemOrigin, Tally};
use crate::retry::{GivenUp, until_ok};
use crate::sink::{self, Sink, SinkOptions};
use crate::summary::{self, Accumulator};
use crate::telemetry;
use crate::worker::{Progress, Worker};

mod drain;
mod feed;
mod journal;
mod observe;
mod stop;
mod watch;

pub use drain::Drain;
use feed::{Cause, leave, mark, send};
pub use journal::Journal;
use journal::Met;
pub use stop::Stop;
use watch::Seen;

/// Files handed to ingest at a time. A claim costs a few system calls, 25 us, so a larger number would
/// delay the first file, and claim more than can be loaded soon.
const FEED_FILES: usize = 256;

/// How often the room on disk is looked at while there is too little.
const ROOM_EVERY: Duration = Duration::from_secs(1);

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
    seen: Arc<Seen>,
}

/// How an engine runs.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Names the consumers of this process; the same after a restart.
    pub node: String,
    /// What this process does.
    pub roles: Roles,
    /// The database, for people: its password hidden.
    pub database: String,
    /// The queue, likewise.
    pub queue: String,
    /// Workers, each with a connection to the database.
    pub workers: usize,
    /// How files are ingested.
    pub ingest: IngestOptions,
    /// How often inbound is scanned when no notification comes.
    pub scan_interval: Duration,
    /// How often the daily summary is refreshed; `None` is once, at the start.
    pub summary_every: Option<Duration>,
    /// Least free bytes on the file system of each directory for a file to be taken.
    pub disk_floor_bytes: u64,
}

/// Connects and opens everything that the settings name. `dataset` is that of all files, whatever
/// their names; `incomplete_may_wait` as in [`IngestOptions`].
///
/// # Errors
/// Transient where queue or database cannot be reached now; fatal where they never will be.
pub async fn open(
    settings: &Settings,
    dataset: Option<&Arc<Dataset>>,
    incomplete_may_wait: bool,
) -> Result<Engine, Fault> {
    // A load ends, so that there is nobody to wait for the rest of a document.
    let incomplete_after = if incomplete_may_wait {
        settings.incomplete_after
    } else {
        Duration::ZERO
    };
    if let Some(note) = settings.embedded_note() {
        tracing::info!("{note}");
    }
    let patience = Patience {
        quiet_time: settings.quiet_time,
        incomplete_after,
        one_name: settings.hard_links == HardLinks::Wait,
    };
    let inbox = Inbox::open(settings.dirs.clone(), patience)?;
    // A queue in this process lives on the same memory as the stages around it.
    let queue_bytes_max = if settings.broker_url.starts_with("memory:") {
        settings
            .queue_bytes_max
            .min(settings.memory_budget_bytes / 2)
    } else {
        settings.queue_bytes_max
    };
    let broker_options = BrokerOptions {
        queue_bytes_max,
        ..BrokerOptions::default()
    };
    let sink_options = SinkOptions {
        connections: settings.workers,
        ..SinkOptions::default()
    };
    let broker = broker::open(&settings.broker_url, &broker_options, &settings.datasets).await?;
    let sink = sink::open(&settings.database_url, &sink_options).await?;
    let options = EngineOptions {
        node: node(&settings.dirs.work),
        roles: settings.roles,
        database: redacted(&settings.database_url),
        queue: redacted(&settings.broker_url),
        workers: settings.workers,
        ingest: IngestOptions {
            chunk: ChunkLimits {
                records: settings.frame_records,
                bytes: settings.frame_bytes,
            },
            budget_bytes: settings.memory_budget_bytes / 4,
            content: ContentOptions {
                spill_dir: settings.dirs.work.clone(),
                spill_floor_bytes: settings.disk_floor_bytes,
                ..ContentOptions::default()
            },
            dataset: dataset.cloned(),
            incomplete_may_wait,
        },
        scan_interval: settings.scan_interval,
        summary_every: settings.summary_every,
        disk_floor_bytes: settings.disk_floor_bytes,
    };
    Ok(Engine::new(
        broker,
        sink,
        settings.datasets.clone(),
        Arc::new(inbox),
        options,
    ))
}

/// The same for a run that ends: with the tables of the database up to date; `None` where it was
/// stopped before.
///
/// # Errors
/// Those of [`open`], and of the migration.
pub async fn open_to_load(
    settings: &Settings,
    dataset: Option<&Arc<Dataset>>,
    stop: &Stop,
) -> Result<Option<Engine>, Fault> {
    let opening = Box::pin(async {
        let engine = open(settings, dataset, false).await?;
        engine.sink.migrate(&engine.datasets).await?;
        Ok(engine)
    });
    stop.unless_stopped(opening).await
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
            seen: Arc::default(),
        }
    }

    /// Loads files in the order given, and ends when all of them are stored.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn load_files(
        &self,
        files: Vec<(Claimed, ItemOrigin)>,
        stop: &Stop,
    ) -> Result<(), Fault> {
        let feed = |items: mpsc::Sender<Vec<Item>>| async move {
            for part in files.chunks(FEED_FILES) {
                self.wait_for_room(stop).await?;
                if !send(&items, part.to_vec(), stop).await {
                    self.tally.cut_short.store(true, Relaxed);
                    break;
                }
            }
            Ok(())
        };
        Box::pin(self.load(feed, stop)).await
    }

    /// Loads what is in work and inbound, and ends when all of it is stored.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn load_inbound(&self, stop: &Stop) -> Result<(), Fault> {
        let feed = |items: mpsc::Sender<Vec<Item>>| async move {
            let mut all = false;
            if send(&items, self.recovered()?, stop).await {
                let once = || Box::pin(self.feed_inbound(&items, &Cause::Load, stop));
                loop {
                    match until_ok("claiming files", &stop.quiet, |_| {}, once).await {
                        Ok(0) => {
                            all = true;
                            break;
                        }
                        Ok(_) => {}
                        Err(GivenUp::Stopped) => break,
                        Err(GivenUp::Fatal(fault)) => return Err(fault),
                    }
                }
            }
            if !all {
                self.tally.cut_short.store(true, Relaxed);
            }
            leave(&self.seen.waiting.lock(), &self.tally);
            Ok(())
        };
        Box::pin(self.load(feed, stop)).await
    }

    async fn load<F>(
        &self,
        feed: impl FnOnce(mpsc::Sender<Vec<Item>>) -> F,
        stop: &Stop,
    ) -> Result<(), Fault>
    where
        F: Future<Output = Result<(), Fault>>,
    {
        let (items, taken) = mpsc::channel(1);
        let mut tasks = self.start_workers(&stop.now);
        let workers = tasks.stop.clone();
        let ingest = async {
            tokio::try_join!(feed(items), self.ingest().run(taken, stop.now.clone()))?;
            // Nothing is in flight any more: the workers have nothing left to do.
            workers.cancel();
            Ok(())
        };
        tokio::try_join!(ingest, tasks.join())?;
        if stop.now.is_cancelled() {
            return Ok(());
        }
        self.refresh_summary(&stop.now).await
    }

    /// Runs until stopped.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn serve(&self, stop: &Stop) -> Result<(), Fault> {
        let roles = self.options.roles;
        let mut workers = if roles.work {
            self.start_workers(&stop.now)
        } else {
            Workers::none(&stop.now)
        };
        let workers_stop = workers.stop.clone();
        let ingest = async {
            if roles.ingest {
                let (items, taken) = mpsc::channel(1);
                let feed = Box::pin(self.watch_inbound(items, stop));
                tokio::try_join!(feed, self.ingest().run(taken, stop.now.clone()))?;
            }
            stop.quiet.cancelled().await;
            workers_stop.cancel();
            Ok(())
        };
        let summary = async {
            if roles.summary {
                self.keep_summary(stop).await?;
            }
            Ok(())
        };
        tokio::select! {
            result = async { tokio::try_join!(ingest, workers.join(), summary) } => {
                result?;
                Ok(())
            }
            () = Box::pin(self.keep_watch()) => unreachable!("it never ends"),
        }
    }

    fn ingest(&self) -> Ingest {
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

    fn start_workers(&self, now: &CancellationToken) -> Workers {
        let like = Worker {
            name: self.options.node.clone(),
            broker: self.broker.clone(),
            sink: self.sink.clone(),
            datasets: self.datasets.clone(),
            progress: self.progress.clone(),
            summaries: self.summaries.clone(),
        };
        Workers::start(&like, self.options.workers, now)
    }

    /// Scans and claims for ever: after a notification, and in any case every scan interval.
    async fn watch_inbound(
        &self,
        items: mpsc::Sender<Vec<Item>>,
        stop: &Stop,
    ) -> Result<(), Fault> {
        let wake = Arc::new(Notify::new());
        if !send(&items, self.recovered()?, stop).await {
            return Ok(());
        }
        let mut watch = None;
        let mut warned = false;
        let mut cause = Cause::Notice;
        while !stop.quiet.is_cancelled() {
            if !watch
                .as_ref()
                .is_some_and(|watch| self.inbox.is_watched_by(watch))
            {
                watch = match self.inbox.watch(wake.clone()) {
                    Ok(watch) => Some(watch),
                    Err(error) => {
                        if !warned {
                            let every = self.options.scan_interval;
                            tracing::warn!(%error, ?every, "inbound cannot be watched (see \
                                fs.inotify.max_user_instances); it is scanned instead");
                            warned = true;
                        }
                        None
                    }
                };
            }
            let before = SystemTime::now();
            let fed = self.feed_inbound(&items, &cause, stop).await;
            let fault = match fed {
                Ok(_) => None,
                // Inbound may be a mount that comes back.
                Err(fault) if fault.is_transient() => Some(fault),
                Err(fault) => return Err(fault),
            };
            if let Some(fault) = &fault {
                tracing::warn!(%fault, "will try again");
            }
            *self.seen.inbox.lock() = fault.map(|fault| Met::by(&fault, Instant::now()));
            tokio::select! {
                () = wake.notified() => cause = Cause::Notice,
                () = tokio::time::sleep(self.options.scan_interval) => {
                    cause = Cause::Interval { before };
                }
                () = stop.quiet.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Scans inbound once and hands over what can be claimed; returns how many files that were.
    async fn feed_inbound(
        &self,
        items: &mpsc::Sender<Vec<Item>>,
        cause: &Cause,
        stop: &Stop,
    ) -> Result<usize, Fault> {
        self.wait_for_room(stop).await?;
        let inbox = self.inbox.clone();
        let now = SystemTime::now();
        let scan = blocking("reading inbound", move || inbox.scan()).await?;
        if let Cause::Interval { before } = cause {
            telemetry::rescan_missed(inbox::missed(&scan.ready, *before, now));
        }
        // Told at once: handing over takes as long as the stages behind it.
        let before = self.seen.waiting.lock().clone();
        self.seen.note_waiting(&scan.waiting, &before);
        self.seen.inbound.store(scan.files, Relaxed);
        // An operator's word is for the service; a load is an operator's word itself.
        let is_paused = || *cause != Cause::Load && self.inbox.is_paused();
        let mut waits = scan.waiting;
        let mut fed = 0;
        for part in scan.ready.chunks(FEED_FILES) {
            self.wait_for_room(stop).await?;
            if is_paused() {
                break;
            }
            let (inbox, part) = (self.inbox.clone(), part.to_vec());
            let (claimed, failed);
            (claimed, failed, waits) = blocking("claiming files", move || {
                let (claimed, failed) = inbox.claim_all(&part, &mut waits);
                Ok((claimed, failed, waits))
            })
            .await?;
            self.seen.note_waiting(&waits, &before);
            fed += claimed.len();
            self.seen.inbound.fetch_sub(claimed.len() as u64, Relaxed);
            telemetry::files_discovered("scan", claimed.len() as u64);
            if failed.is_none() {
                // Told at once, as above.
                *self.seen.inbox.lock() = None;
            }
            if !send(items, mark(claimed, ItemOrigin::Mailbox), stop).await {
                break;
            }
            if let Some(error) = failed {
                return Err(Fault::transient(Origin::Files, "claiming files", error));
            }
        }
        Ok(fed)
    }

    /// Waits while a file system is below the floor: a full disk stops the database and Redis too,
    /// and is easier to mend while there is some room left.
    async fn wait_for_room(&self, stop: &Stop) -> Result<(), Fault> {
        loop {
            let inbox = self.inbox.clone();
            let free = blocking("asking for the room on disk", move || inbox.free_bytes()).await?;
            let full = free
                .into_iter()
                .find(|(_, bytes)| *bytes < self.options.disk_floor_bytes)
                .map(|(directory, bytes)| {
                    let floor = self.options.disk_floor_bytes;
                    format!("{directory} has {bytes} bytes free, less than disk_floor = {floor}")
                });
            let before = std::mem::replace(&mut *self.seen.no_room.lock(), full.clone());
            match (&full, before) {
                (Some(why), None) => tracing::warn!(why, "no file is taken until there is room"),
                (None, Some(_)) => tracing::info!("there is room again"),
                _ => {}
            }
            if full.is_none() || stop.quiet.is_cancelled() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(ROOM_EVERY) => {}
                () = stop.quiet.cancelled() => {}
            }
        }
    }

    fn recovered(&self) -> Result<Vec<(Claimed, ItemOrigin)>, Fault> {
        let files = self.inbox.recovered().map_err(|error| {
            Fault::fatal(Origin::Files, "cannot read the work directory", error)
        })?;
        if !files.is_empty() {
            tracing::info!(files = files.len(), "goes on with files of an earlier run");
        }
        telemetry::files_discovered("recovered", files.len() as u64);
        Ok(mark(files, ItemOrigin::Recovered))
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

    async fn keep_summary(&self, stop: &Stop) -> Result<(), Fault> {
        loop {
            self.refresh_summary(&stop.now).await?;
            let next = async {
                match self.options.summary_every {
                    Some(every) => tokio::time::sleep(every).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => {}
                () = stop.quiet.cancelled() => return Ok(()),
            }
        }
    }
}

/// A name for this process that it has again after a restart, and no other process has: the host and
/// the work directory, which is locked.
fn node(work: &Path) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let work = work.canonicalize().unwrap_or_else(|_| work.to_owned());
    let place = blake3::hash(work.as_os_str().as_encoded_bytes()).to_hex();
    format!("{}-{}", host.trim(), &place[..8])
}

/// Running workers.
struct Workers {
    tasks: JoinSet<Result<(), Fault>>,
    stop: CancellationToken,
}

impl Workers {
    fn none(now: &CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: now.child_token(),
        }
    }

    /// So many of them, told apart by a number after the name.
    fn start(like: &Worker, count: usize, now: &CancellationToken) -> Self {
        let mut workers = Self::none(now);
        for number in 0..count {
            let worker = Worker {
                name: format!("{}-{number}", like.name),
                ..like.clone()
            };
            workers
                .tasks
                .spawn(worker.run(workers.stop.clone(), now.clone()));
        }
        workers
    }

    /// Waits for all of them; a fatal fault of one ends the wait.
    async fn join(&mut self) -> Result<(), Fault> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a worker does not panic")?;
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .expect("file work does not panic");
    done.map_err(|error| Fault::transient(Origin::Files, doing, error))
}
