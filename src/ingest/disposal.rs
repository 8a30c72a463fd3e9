//! What becomes of an item at its end, and the items that still have to move there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::item::Item;
use crate::dataset::Dataset;

/// How an item ended.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// All of it is stored: it goes to history.
    Settled,
    /// Its content was stored before: it goes to history.
    Duplicate,
    /// It cannot be loaded, with the code of the reason and its text: it goes to quarantine.
    Quarantined(&'static str, Arc<str>),
    /// It is left for later: it goes back to inbound.
    Left,
}

/// Where a file goes.
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
            Self::Left => Destination::Inbound,
        }
    }
}

/// An item at its end, to be moved and counted.
#[derive(Debug, Clone)]
pub(super) struct Disposal {
    pub(super) item: Item,
    /// Its number in the ledger. `None` if the ledger does not list it.
    pub(super) file_no: Option<u32>,
    /// `None` if no dataset takes it.
    pub(super) dataset: Option<Arc<Dataset>>,
    pub(super) outcome: Outcome,
}

/// Items at their end whose files have not moved yet.
#[derive(Debug, Default)]
pub(super) struct Disposals {
    /// Those that could not be moved.
    pub(super) stuck: Mutex<Vec<Disposal>>,
    /// How many tasks are disposing of items now. Such an item is in no flight any more, and is not
    /// among the stuck yet.
    in_progress: AtomicUsize,
    /// Wakes the task that tries the stuck ones again.
    pub(super) wake: Notify,
}

/// Marks that items are being disposed of, until it is dropped.
pub(super) struct InProgress<'a>(&'a Disposals);

impl Disposals {
    /// Marks that items are being disposed of.
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
