//! The stage from files to broker, and from ledger to history.
//!
//! ```text
//!  items ─▶ prepare ─▶ register ─▶ produce ═▶ publish ─▶ broker        (frames, under a byte budget)
//!           read, hash,  ledger     parse,      │
//!           cut                     encode      ▼
//!                     history ◀─ settle ◀─ coverage ◀─ ledger
//! ```
//!
//! Starting after a crash is the same as starting: a file is registered, and what the ledger lacks of
//! it is published. Nothing here waits for a frame to come back; the ledger is asked.

mod ending;
mod faulty;
mod flight;
mod prepare;
mod produce;
mod settle;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::content::ContentOptions;
use crate::cut::ChunkLimits;
use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;
use crate::inbox::{Claimed, Inbox, Waiting};
use crate::retry::GivenUp;
use crate::sink::Sink;
use crate::worker::Progress;
use ending::{Ended, Ending, Endings};
use flight::Flight;

/// Most files that are registered and not settled at a time: each costs its plan in memory. Many,
/// so that tens of thousands of small files do not wait for each other to be settled.
const FLIGHTS_MAX: usize = 8_192;

/// Most frames on the way to the publisher. Their bytes are bounded by the byte budget; this bounds
/// the channel.
const FRAMES_QUEUED: usize = 1_024;

/// Most characters of why a file is held up. A file system may put anything into an error.
const WHY_CHARS_MAX: usize = 300;

/// A file to load.
#[derive(Debug, Clone)]
pub struct Item {
    /// The file.
    pub file: Claimed,
    /// What is to become of it.
    pub origin: ItemOrigin,
    /// When it was seen.
    pub seen: Instant,
}

/// Where an item came from, and so where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemOrigin {
    /// Out of inbound: it goes to history or quarantine.
    Mailbox,
    /// Found in work at the start, claimed by an earlier run. It goes where one of the mailbox
    /// goes; but if the ledger has all of it, it is no duplicate: its own move was still due.
    Recovered,
    /// Part of an archive: it stays where it lies.
    Archive,
}

/// How ingest works.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// How large the chunk of a frame gets.
    pub chunk: ChunkLimits,
    /// Bytes of chunks between parse and broker.
    pub budget_bytes: u64,
    /// How files are read.
    pub content: ContentOptions,
    /// The dataset of all files, whatever their names. `None`: the name of each file tells.
    pub dataset: Option<Arc<Dataset>>,
    /// Whether an incomplete file may wait for the rest of it; otherwise it is quarantined.
    pub incomplete_may_wait: bool,
}

/// Sums over a run, readable at any time.
#[derive(Debug, Default)]
pub struct Tally {
    /// Files taken up.
    pub files: AtomicU64,
    /// Files of which all is stored, duplicates not included.
    pub settled: AtomicU64,
    /// Files whose content the ledger knew already.
    pub duplicates: AtomicU64,
    /// Files in quarantine.
    pub quarantined: AtomicU64,
    /// Files left where they were, since they are not complete or not free yet.
    pub left: AtomicU64,
    /// Records of settled files.
    pub records: AtomicU64,
    /// Their rows.
    pub rows: AtomicU64,
    /// Their rejects.
    pub rejects: AtomicU64,
    /// Rejects found by this process so far, of files settled or not.
    pub rejected: AtomicU64,
    /// Stored bytes dealt with, for a progress bar; a share of a file counts when committed.
    pub bytes_done: AtomicU64,
    /// Stored bytes of settled files.
    pub bytes: AtomicU64,
    /// Whether files were not taken up because the run was stopped.
    pub cut_short: AtomicBool,
    held: Mutex<HashMap<PathBuf, (Waiting, Instant)>>,
}

impl Tally {
    /// Files that were taken up and have not ended: their records are still on the way.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        let Self {
            files,
            settled,
            duplicates,
            quarantined,
            left,
            ..
        } = self;
        let ended = [settled, duplicates, quarantined, left].map(|count| count.load(Relaxed));
        files.load(Relaxed).saturating_sub(ended.iter().sum())
    }

    /// The files that were taken up and cannot be read or moved now: why, and since when.
    #[must_use]
    pub fn held(&self) -> Vec<(Waiting, Instant)> {
        self.held.lock().values().cloned().collect()
    }

    /// A file cannot go on now; says whether that is new.
    fn hold(&self, file: &Claimed, why: &str) -> bool {
        let mut held = self.held.lock();
        let since = held.get(&file.path).map(|(_, since)| *since);
        let waiting = Waiting {
            name: file.name.clone(),
            why: why.chars().take(WHY_CHARS_MAX).collect::<String>().into(),
        };
        let now = since.unwrap_or_else(Instant::now);
        held.insert(file.path.clone(), (waiting, now));
        since.is_none()
    }

    /// A file that could not go on has done so.
    fn release(&self, file: &Claimed) {
        self.held.lock().remove(&file.path);
    }

    /// Counts more.
    pub fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }
}

/// The stage with all that it works with.
pub struct Ingest {
    /// Where frames go.
    pub broker: Arc<dyn Broker>,
    /// Where the ledger is.
    pub sink: Arc<dyn Sink>,
    /// The known datasets.
    pub datasets: Datasets,
    /// Who moves files.
    pub inbox: Arc<Inbox>,
    /// What workers of this process have committed.
    pub progress: Arc<Progress>,
    /// What is counted.
    pub tally: Arc<Tally>,
    /// How it works.
    pub options: IngestOptions,
}

/// State that the tasks of the stage share.
struct Shared {
    ingest: Ingest,
    flights: Mutex<HashMap<u32, Flight>>,
    /// Bounds the flights.
    room: Arc<Semaphore>,
    /// Bounds the bytes between parse and broker, in KiB.
    budget: Arc<Semaphore>,
    budget_kib: u32,
    endings: Endings,
    /// Wakes the settle loop: a flight has nothing left to publish.
    look: Notify,
    stop: CancellationToken,
}

impl Shared {
    fn flights(&self) -> MutexGuard<'_, HashMap<u32, Flight>> {
        self.flights.lock()
    }

    fn sink(&self) -> &dyn Sink {
        self.ingest.sink.as_ref()
    }

    fn tally(&self) -> &Tally {
        &self.ingest.tally
    }
}

impl Ingest {
    /// Loads all items that come, until their channel is closed and each of them is settled or in
    /// quarantine, or until `stop` is cancelled.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(
        self,
        items: mpsc::Receiver<Vec<Item>>,
        stop: CancellationToken,
    ) -> Result<(), Fault> {
        let budget_kib = u32::try_from(self.options.budget_bytes / 1024).unwrap_or(u32::MAX);
        let shared = Arc::new(Shared {
            ingest: self,
            flights: Mutex::default(),
            room: Arc::new(Semaphore::new(FLIGHTS_MAX)),
            budget: Arc::new(Semaphore::new(budget_kib.max(1) as usize)),
            budget_kib: budget_kib.max(1),
            endings: Endings::default(),
            look: Notify::new(),
            stop,
        });
        shared.tell_memory();
        let (jobs, jobs_of_producer) = mpsc::channel(1);
        let (frames, frames_of_publisher) = mpsc::channel(FRAMES_QUEUED);
        // When the items end, the channels close one after the other. Settle holds a sender of
        // jobs, for what has to be published again, so produce ends after it; and settle ends when
        // no flight is left.
        let prepared = CancellationToken::new();
        let prepare = prepare::run(shared.clone(), items, jobs.clone(), prepared.clone());
        let settled = CancellationToken::new();
        let settle = settle::run(shared.clone(), jobs, prepared, settled.clone());
        let ending = ending::run(shared.clone(), settled);
        let produce = produce::run(shared.clone(), jobs_of_producer, frames);
        let publish = produce::publish(shared.clone(), frames_of_publisher);
        let result = tokio::try_join!(prepare, settle, produce, publish, ending);
        match result {
            Ok(_) | Err(GivenUp::Stopped) => Ok(()),
            Err(GivenUp::Fatal(fault)) => Err(fault),
        }
    }
}

/// How many threads parse.
#[must_use]
pub fn parsers() -> usize {
    rayon::current_num_threads()
}
