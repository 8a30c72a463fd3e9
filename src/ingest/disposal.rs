//! Items at their end, and those of them whose files have not moved yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::item::Item;
use super::member::CountedMembers;
use super::outcome::Outcome;
use super::part::PartEnd;
use crate::dataset::Dataset;

/// An item at its end, to be moved and counted.
#[derive(Debug, Clone)]
pub(super) struct Disposal {
    pub(super) item: Item,
    /// The item's number in the ledger. `None` if it is not in the ledger.
    pub(super) file_no: Option<u32>,
    /// `None` if no dataset takes it.
    pub(super) dataset: Option<Arc<Dataset>>,
    pub(super) outcome: Outcome,
}

impl Disposal {
    /// This disposal, with the outcome of the whole file. `None` if the item is a part of a file
    /// and other parts have not ended.
    pub(super) fn of_whole_file(self) -> Option<Self> {
        let Some(part) = &self.item.part else {
            return Some(self);
        };
        let PartEnd {
            file_no,
            dataset,
            outcome,
        } = part.end(PartEnd {
            file_no: self.file_no,
            dataset: self.dataset,
            outcome: self.outcome,
        })?;
        Some(Self {
            item: self.item,
            file_no,
            dataset,
            outcome,
        })
    }

    /// The disposal of the container of this item, which has ended. `None` if the item is no member,
    /// and while other members have not ended.
    pub(super) fn of_container(&self, counted: &CountedMembers) -> Option<Self> {
        let member = self.item.member.as_ref()?;
        let outcome = member.end(&self.outcome, counted)?;
        Some(Self {
            item: self.item.container()?,
            file_no: None,
            dataset: None,
            outcome,
        })
    }

    /// The numbers in the ledger under which the file's records are stored.
    pub(super) fn file_nos(&self) -> Vec<u32> {
        match &self.item.part {
            Some(part) => part.file_nos(),
            None => self.file_no.into_iter().collect(),
        }
    }
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
