//! From files to the broker, and from the ledger to history: one file for each stage, in the order
//! of the data flow.
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
//! The stages pass on an `item`, a `job`, a `flight` or a `disposal`, and use the state in
//! `shared`. A file that holds the records of several datasets becomes one item for each of them
//! after it is read (`part`), and a container one for each `member`. An item ends by an `outcome`. `tally` has the sums, and `reason` why
//! a file is quarantined.
//!
//! A start after a crash is like any other start: each file is registered, and the records that the
//! ledger lacks are published. No stage waits for a frame to return: settle asks the ledger.

mod begun;
mod disposal;
mod dispose;
mod erased;
mod flight;
mod intake;
mod item;
mod job;
mod limits;
mod member;
mod neighbours;
mod outcome;
mod part;
mod produce;
mod publish;
mod read;
mod reason;
mod register;
mod republish;
mod seen;
mod settle;
mod shared;
mod tally;
mod unmet;
mod whole;
mod withdraw;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::intake::{InboundView, Intake, Listed, WaitingFiles};
pub use self::item::{Item, ItemOrigin};
pub use self::neighbours::{Again, Neighbours};
use self::reason::QuarantineReason;
use self::shared::Shared;
pub use self::shared::{Epoch, Ingest, IngestOptions};
pub use self::tally::Tally;
pub use self::unmet::Unmet;
use crate::fault::Fault;
use crate::retry::GivenUp;
use crate::shutdown::Shutdown;
use crate::telemetry;

/// Most frames on the way to publish. The byte budget bounds their bytes; this bounds the channel.
const FRAMES_QUEUED: usize = 1_024;

/// How long frames that are on their way may take after a shutdown begins. Two seconds are enough
/// for small files to reach history; longer would delay the end of the process.
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl Ingest {
    /// Loads all items of the channel. Returns when the channel is closed and each file is in
    /// history or quarantine, or when the shutdown ends the run.
    ///
    /// Once the shutdown drains, no further file and no further chunk is begun. Frames on their way
    /// have two seconds to be committed and settled; a file that is not settled stays in work.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(
        self,
        items: mpsc::Receiver<Vec<Item>>,
        shutdown: &Shutdown,
    ) -> Result<(), Fault> {
        // A series that begins with its first event hides this event from `rate()` of Prometheus.
        for code in QuarantineReason::CODES {
            telemetry::files_quarantined(code, 0);
        }
        let shared = Arc::new(Shared::new(self, shutdown));
        let (jobs, jobs_of_produce) = mpsc::channel(1);
        let (frames, frames_of_publish) = mpsc::channel(FRAMES_QUEUED);
        // When the items end, the channels close one after the other. Settle keeps a sender of jobs
        // for frames that must be published again, so produce ends after settle. Settle ends when
        // no flight is left.
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
