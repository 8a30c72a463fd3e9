//! How an item ends, and the items at their end whose files have not moved yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::item::Item;
use crate::dataset::Dataset;
use crate::inbox::WaitReason;

/// How an item ended.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// All records are stored: the file goes to history.
    Settled,
    /// The ledger had the content before: the file goes to history.
    Duplicate,
    /// The file cannot be loaded and goes to quarantine. Holds the code of the reason, and its
    /// text.
    Quarantined(&'static str, Arc<str>),
    /// The file is loaded later: it goes back to inbound. Holds the reason.
    Left(WaitReason),
}

/// The directory that a file goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    History,
    Quarantine,
    Inbound,
}

impl Outcome {
    pub(super) fn destination(&self) -> Destination {
        match self {
            Self::Settled | Self::Duplicate => Destination::History,
            Self::Quarantined(..) => Destination::Quarantine,
            Self::Left(_) => Destination::Inbound,
        }
    }
}

/// An item at its end, to be moved and counted.
#[derive(Debug, Clone)]
pub(super) struct Disposal {
    pub(super) item: Item,
    /// The file's number in the ledger. `None` if the file is not in the ledger.
    pub(super) file_no: Option<u32>,
    /// `None` if no dataset takes it.
    pub(super) dataset: Option<Arc<Dataset>>,
    pub(super) outcome: Outcome,
}

/// Items at their end whose files have not moved yet.
#[derive(Debug, Default)]
pub(super) struct Disposals {
    /// Items whose move has failed.
    pub(super) stuck: Mutex<Vec<Disposal>>,
    /// How many tasks are disposing of items now. Such an item has left its flight, and is not yet
    /// in `stuck` if its move fails.
    in_progress: AtomicUsize,
    /// Wakes the task that repeats failed moves.
    pub(super) wake: Notify,
}

/// Marks that a task is disposing of items, until it is dropped.
pub(super) struct InProgress<'a>(&'a Disposals);

impl Disposals {
    /// Marks that a task is disposing of items.
    pub(super) fn begin(&self) -> InProgress<'_> {
        self.in_progress.fetch_add(1, SeqCst);
        InProgress(self)
    }

    /// Whether every item at its end has been moved.
    pub(super) fn is_done(&self) -> bool {
        self.in_progress.load(SeqCst) == 0 && self.stuck.lock().is_empty()
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.0.in_progress.fetch_sub(1, SeqCst);
    }
}
