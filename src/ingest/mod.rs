//! Files to broker, and ledger to history: one file a stage, named by its verb, in data-flow order.
//!
//! ```text
//! inbound ─▶ intake ─▶ read ─▶ register ─▶ produce ─▶ publish ─▶ broker
//!            scan,     hash,   ledger      parse,     frames
//!            claim     cut                 encode
//!                                 ▲ jobs
//!                             republish ◀── settle ◀── ledger
//!                                             │
//!            history, quarantine ◀── dispose ◀┴── withdraw (changed, gone, unreadable)
//! ```
//!
//! `item`, `job`, `flight` and `disposal` are what the stages hand on; `shared` is what they share;
//! `tally` has the sums, `reason` why a file is quarantined.
//!
//! Starting after a crash is the same as starting: a file is registered, and what the ledger lacks
//! of it is published. No stage waits for a frame to come back; settle asks the ledger.

mod disposal;
mod dispose;
mod flight;
mod intake;
mod item;
mod job;
mod produce;
mod publish;
mod read;
mod reason;
mod register;
mod republish;
mod settle;
mod shared;
mod tally;
mod withdraw;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::intake::{InboundView, Intake, WaitingFiles};
pub use self::item::{Item, ItemOrigin};
use self::reason::QuarantineReason;
use self::shared::Shared;
pub use self::shared::{Ingest, IngestOptions};
pub use self::tally::Tally;
use crate::fault::Fault;
use crate::retry::GivenUp;
use crate::shutdown::Shutdown;
use crate::telemetry;

/// Most frames on the way to publish. The byte budget bounds their bytes; this bounds the channel.
const FRAMES_QUEUED: usize = 1_024;

/// For frames that are on their way when the shutdown begins. Two seconds: enough for small files to
/// end in history, and short for whoever waits for the end of the process.
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl Ingest {
    /// Loads all items that come, until their channel is closed and each of them is in history or
    /// quarantine, or until the shutdown ends it.
    ///
    /// Once the shutdown drains, no file and no chunk is begun any more. What is on its way has
    /// two seconds to be committed and settled; the rest of a file stays in work.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(
        self,
        items: mpsc::Receiver<Vec<Item>>,
        shutdown: &Shutdown,
    ) -> Result<(), Fault> {
        // A series that begins with its first event would hide that event from `rate()`.
        for code in QuarantineReason::CODES {
            telemetry::files_quarantined(code, 0);
        }
        let shared = Arc::new(Shared::new(self, shutdown));
        let (jobs, jobs_of_produce) = mpsc::channel(1);
        let (frames, frames_of_publish) = mpsc::channel(FRAMES_QUEUED);
        // When the items end, the channels close one after the other. Settle keeps a sender of jobs,
        // for what has to be published again, so produce ends after it. Settle ends when no flight
        // is left.
        let (all_read, settled) = (CancellationToken::new(), CancellationToken::new());
        let read = read::run(shared.clone(), items, jobs.clone(), all_read.clone());
        let produce = produce::run(shared.clone(), jobs_of_produce, frames);
        let publish = publish::run(shared.clone(), frames_of_publish);
        let settle = settle::run(shared.clone(), jobs, all_read, settled.clone());
        let dispose = dispose::run(shared.clone(), settled);
        let stages = async { tokio::try_join!(read, settle, produce, publish, dispose).map(drop) };
        let drained = async {
            shared.drain.cancelled().await;
            tokio::time::sleep(DRAIN_TIME).await;
            Ok(())
        };
        let result = tokio::select! {
            result = stages => result,
            result = drained => result,
        };
        match result {
            Ok(()) | Err(GivenUp::Stopped) => Ok(()),
            Err(GivenUp::Fatal(fault)) => Err(fault),
        }
    }
}

/// How many threads parse.
#[must_use]
pub fn parsers() -> usize {
    rayon::current_num_threads()
}
