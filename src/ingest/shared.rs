//! The state that the tasks of ingest share: broker, sink and inbox, the open flights, the byte
//! budget.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::begun::BegunFiles;
use super::disposal::Disposals;
use super::flight::Flight;
use super::member::CountedMembers;
use super::neighbours::Neighbours;
use super::seen::Seen;
use super::tally::Tally;
use crate::broker::Broker;
use crate::content::ContentOptions;
use crate::cut::{Chunk, ChunkLimits};
use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;
use crate::inbox::Inbox;
use crate::shutdown::Shutdown;
use crate::sink::{Database, NodeId, Sink, TakenOver};
use crate::telemetry;
use crate::worker::Progress;

/// Most files that are registered and not settled at a time. Each keeps its plan in memory, so more
/// would cost memory; fewer would make tens of thousands of small files wait for each other.
const FLIGHTS_MAX: usize = 8_192;

/// Chunks of more bytes are parsed one at a time. The tables of the parser take up to 16 times the
/// record, which the byte budget does not count: parsing large records on several threads would
/// take several times the memory budget.
const HUGE_CHUNK_BYTES: u64 = 2 * 1024 * 1024;

/// The options of ingest.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub struct IngestOptions {
    /// Largest chunk, and so largest frame.
    pub chunk: ChunkLimits,
    /// Most bytes of chunks between parse and broker.
    pub budget_bytes: u64,
    /// How files are read.
    pub content: ContentOptions,
    /// The dataset of all files. `None` if the name of each file decides.
    pub dataset: Option<Arc<Dataset>>,
    /// Whether an incomplete file may wait until the rest arrives. If not, it is quarantined.
    pub incomplete_may_wait: bool,
    /// Whether files of archives are read although the ledger recognises their state.
    pub rehash: bool,
    /// Whether the log names each file that was stored before.
    pub names_stored: bool,
    /// Whether the log tells of datasets that have nothing in the files that they take by name.
    pub tells_unmet: bool,
}

/// Ingest, with all that it uses.
pub struct Ingest {
    /// Carries frames to the workers.
    pub broker: Arc<dyn Broker>,
    /// The database with the ledger.
    pub sink: Arc<dyn Sink>,
    /// The known datasets.
    pub datasets: Datasets,
    /// The directories, and every move between them.
    pub inbox: Arc<Inbox>,
    /// What the workers of this process have committed.
    pub progress: Arc<Progress>,
    /// Sums over the run.
    pub tally: Arc<Tally>,
    /// The process that ingest belongs to in the ledger. `None`: no other one takes files.
    pub epoch: Option<Epoch>,
    /// Stores records of other files again whose superseding rows are removed. `None`: they stay
    /// missing, and the log names their files.
    pub neighbours: Option<Arc<dyn Neighbours>>,
    /// The options.
    pub options: IngestOptions,
}

/// The epoch of this process in the ledger.
#[derive(Clone)]
pub struct Epoch {
    /// The ledger.
    pub nodes: Arc<dyn Database>,
    /// The process.
    pub id: NodeId,
}

/// State that the tasks of ingest share.
pub(super) struct Shared {
    pub(super) ingest: Ingest,
    pub(super) seen: Seen,
    pub(super) begun: BegunFiles,
    pub(super) counted: CountedMembers,
    flights: Mutex<HashMap<u32, Flight>>,
    /// Bounds the number of flights.
    pub(super) flight_slots: Arc<Semaphore>,
    /// Bounds the bytes between parse and broker, in KiB.
    pub(super) budget: Arc<Semaphore>,
    pub(super) budget_kib: u32,
    /// Held while a huge chunk is parsed: one at a time.
    huge: Mutex<()>,
    pub(super) disposals: Disposals,
    /// Wakes settle: a flight has nothing left to publish, or a stuck file was moved.
    pub(super) settle_soon: Notify,
    /// Cancelled when no further file and no further chunk may be begun.
    pub(super) drain: CancellationToken,
    /// Cancelled when the last frame has been published.
    pub(super) all_published: CancellationToken,
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(ingest: Ingest, shutdown: &Shutdown) -> Self {
        let budget_kib = u32::try_from(ingest.options.budget_bytes / 1024).unwrap_or(u32::MAX);
        let budget_kib = budget_kib.max(1);
        let seen = Seen::new(&ingest.datasets, ingest.options.dataset.as_ref());
        let shared = Self {
            ingest,
            seen,
            begun: BegunFiles::default(),
            counted: CountedMembers::default(),
            flights: Mutex::default(),
            flight_slots: Arc::new(Semaphore::new(FLIGHTS_MAX)),
            budget: Arc::new(Semaphore::new(budget_kib as usize)),
            budget_kib,
            huge: Mutex::default(),
            disposals: Disposals::default(),
            settle_soon: Notify::new(),
            drain: shutdown.drain.clone(),
            all_published: CancellationToken::new(),
            stop: shutdown.abort.clone(),
        };
        shared.report_memory();
        shared
    }

    /// The open flights, by the number of their file.
    pub(super) fn flights(&self) -> MutexGuard<'_, HashMap<u32, Flight>> {
        self.flights.lock()
    }

    /// Waits until no other huge chunk is parsed. `None` if the chunk is not huge. Hold it while the
    /// chunk is parsed.
    pub(super) fn alone(&self, chunk: &Chunk) -> Option<MutexGuard<'_, ()>> {
        let is_huge = chunk.end - chunk.start > HUGE_CHUNK_BYTES;
        is_huge.then(|| self.huge.lock())
    }

    pub(super) fn sink(&self) -> &dyn Sink {
        self.ingest.sink.as_ref()
    }

    /// Called before each step that changes the ledger: checks that no other process has ended the epoch
    /// of this one, and taken over its files.
    ///
    /// # Errors
    /// Fatal if one has. Those of the database.
    pub(super) async fn check_epoch(&self) -> Result<(), Fault> {
        let Some(Epoch { nodes, id }) = &self.ingest.epoch else {
            return Ok(());
        };
        if nodes.is_current(id).await? {
            return Ok(());
        }
        Err(TakenOver::fault(&id.name))
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.ingest.tally
    }

    /// Reports how much of the byte budget is in use.
    pub(super) fn report_memory(&self) {
        let used = self.budget_kib as usize - self.budget.available_permits();
        telemetry::memory(u64::from(self.budget_kib) * 1024, used as u64 * 1024);
    }
}
