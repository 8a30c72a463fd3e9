//! A flight: a file that is registered and not settled, or the part of it that belongs to one
//! dataset, with its progress.
//!
//! Owns the counters of a flight. Only the events below change them. Reports of commits are hints
//! and may be wrong: the ledger decides what is stored, and no file is settled because of a
//! counter.

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::item::{Identity, Item, ReadyPart};
use crate::batch::ContentHash;
use crate::coverage;
use crate::cut::Plan;
use crate::dataset::{Dataset, FileValues};
use crate::fault::{Fault, Origin};
use crate::retry::GivenUp;
use crate::telemetry::traces::Step;

/// A file that is registered and not settled.
///
/// | event | what changes |
/// |---|---|
/// | `begin` | what the ledger lacks is `missing`, and its chunks are `unpublished` |
/// | `add_copy` | `copies` has one more |
/// | `note_published` | `unpublished` is one less; `moved` is now |
/// | `note_committed` | `committed` and the counted bytes of `first` grow; `moved` is now |
/// | `note_covered` | `covered`, and `moved` if that is new; `asked`; `committed` < `missing` |
/// | `publish_again` | the chunks that were lost are `unpublished`; `moved` is now |
/// | `note_unreadable` | `unreadable` may be one more; nothing is `unpublished`; `moved` is now |
/// | `lose_first` | the next copy is `first`; nothing is `unpublished` or `unreadable`; `moved` is now |
pub(super) struct Flight {
    pub(super) dataset: Arc<Dataset>,
    pub(super) plan: Arc<Plan>,
    pub(super) identity: Identity,
    /// What columns take from the file besides its bytes. `None` if they take nothing.
    pub(super) values: Option<Arc<FileValues>>,
    /// The file that is read.
    pub(super) first: Item,
    /// Files with the same content that arrived later.
    pub(super) copies: VecDeque<Item>,
    /// Chunks that the broker has not accepted yet.
    unpublished: usize,
    /// Records that the ledger lacked when the flight began.
    missing: u64,
    /// How many of the missing records workers of this process have committed: a hint.
    committed: u64,
    /// Records that the ledger covered when it was last asked.
    covered: u64,
    /// The time of the last progress: a frame was published or committed.
    moved: Instant,
    /// When the ledger was last asked.
    asked: Option<Instant>,
    /// How often the device failed to read the file.
    unreadable: u32,
    /// The slot of this flight: their number is limited.
    _slot: OwnedSemaphorePermit,
}

impl Flight {
    /// The flight of a file of which the ledger covers `covered` records and `chunks` chunks must
    /// be published.
    pub(super) fn begin(
        mut ready: ReadyPart,
        values: Option<Arc<FileValues>>,
        covered: &[Range<u64>],
        chunks: usize,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let covered = coverage::len(covered);
        // The ledger may cover more records than the file has by the current definition of its
        // dataset.
        let missing = u64::from(ready.plan.records).saturating_sub(covered);
        if let Some(trail) = &mut ready.item.trail {
            trail.frames = Some(chunks);
        }
        Self {
            dataset: ready.dataset,
            plan: ready.plan,
            identity: ready.identity,
            values,
            first: ready.item,
            copies: VecDeque::new(),
            unpublished: chunks,
            missing,
            committed: 0,
            covered,
            moved: Instant::now(),
            asked: None,
            unreadable: 0,
            _slot: slot,
        }
    }

    /// Checks that this flight's number belongs to the file with this identity in the ledger.
    ///
    /// # Errors
    /// Fatal if not: the ledger was restored, or failed over to a server that lacked some of its
    /// entries, and has given the number a second time. Frames with this number are still told
    /// apart by the identity of their file. A new start registers all files again.
    pub(super) fn check_identity(&self, file_no: u32, hash: ContentHash) -> Result<(), GivenUp> {
        if self.identity.hash == hash {
            return Ok(());
        }
        let fault = Fault::fatal(
            Origin::Files,
            "the ledger was changed under this run",
            format!("it has given the number {file_no} to another content"),
        );
        let next_step = "start again: the engine goes on with the files in work";
        Err(GivenUp::Fatal(fault.with_next_step(next_step)))
    }

    /// Adds a file with the same content.
    pub(super) fn add_copy(&mut self, item: Item) {
        self.copies.push_back(item);
    }

    /// The broker has accepted a frame. Returns whether all chunks are published.
    pub(super) fn note_published(&mut self) -> bool {
        self.unpublished = self.unpublished.saturating_sub(1);
        self.moved = Instant::now();
        if let Some(trail) = &mut self.first.trail
            && self.unpublished == 0
        {
            trail.end(Step::Publish);
        }
        self.unpublished == 0
    }

    /// Workers of this process have committed `records` records. Returns how many bytes of the file
    /// that completes: the file's bytes in proportion to its records, rounded down.
    pub(super) fn note_committed(&mut self, records: u64) -> u64 {
        let new = records.min(self.missing.saturating_sub(self.committed));
        self.committed += records;
        self.moved = Instant::now();
        let bytes = self.first.bytes();
        let share = u128::from(bytes) * u128::from(new) / u128::from(self.plan.records.max(1));
        let share = u64::try_from(share).unwrap_or(bytes);
        self.first.bytes_done += share;
        share
    }

    /// The ledger was asked, and does not cover all of the file yet.
    pub(super) fn note_covered(&mut self, covered: &[Range<u64>]) {
        let now = coverage::len(covered);
        if now != self.covered {
            self.covered = now;
            self.moved = Instant::now();
        }
        // If all records counted as committed, the hint was wrong. The ledger is asked again after
        // the interval.
        self.committed = self.committed.min(self.missing.saturating_sub(1));
        self.asked = Some(Instant::now());
    }

    /// `chunks` chunks are in neither queue nor ledger, and are published again.
    pub(super) fn publish_again(&mut self, chunks: usize) {
        self.unpublished = chunks;
        self.moved = Instant::now();
    }

    /// The first file cannot be read now. Returns how often the device has failed to read it.
    pub(super) fn note_unreadable(&mut self, is_device_error: bool) -> u32 {
        self.unpublished = 0;
        self.moved = Instant::now();
        self.unreadable += u32::from(is_device_error);
        self.unreadable
    }

    /// The first file was removed or replaced. The next copy takes its place, and is opened after
    /// the ledger has been asked what is missing. Returns the former first file. `None` if the
    /// flight has no copy; then nothing changes.
    pub(super) fn lose_first(&mut self) -> Option<Item> {
        let next = self.copies.pop_front()?;
        self.unpublished = 0;
        self.unreadable = 0;
        self.moved = Instant::now();
        Some(mem::replace(&mut self.first, next))
    }

    /// Whether the broker has not accepted all chunks yet.
    pub(super) fn has_unpublished(&self) -> bool {
        self.unpublished > 0
    }

    /// Whether all records are committed, as far as this process knows.
    pub(super) fn is_committed(&self) -> bool {
        self.committed >= self.missing
    }

    /// Whether to ask the ledger about this file: all chunks are published, and either all records
    /// are committed as far as this process knows, or `interval` has passed since the last progress
    /// and the last question.
    pub(super) fn is_due(&self, interval: Duration) -> bool {
        let last = self.asked.unwrap_or(self.moved);
        self.unpublished == 0 && (self.is_committed() || last.elapsed() >= interval)
    }

    /// The time since the last progress.
    pub(super) fn still(&self) -> Duration {
        self.moved.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::content::{self, ContentOptions};
    use crate::dataset::{Datasets, PathValues};
    use crate::inbox::{Archive, Markers};
    use crate::ingest::item::ItemOrigin;

    /// The flight of a file of ten bytes and six records, of which the ledger has two.
    fn flight() -> Flight {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "0123456789").unwrap();
        let (mut files, _) = Archive::all_of(&path, &Markers::default()).list().unwrap();
        let datasets = Datasets::new(vec![]).unwrap();
        let content = content::open(&path, &ContentOptions::default()).unwrap();
        let ready = ReadyPart {
            item: Item::new(files.remove(0), ItemOrigin::Mailbox, Instant::now()),
            identity: Identity::new(content.hash, PathValues::default()),
            dataset: datasets.by_name("vehicle_status").unwrap().clone(),
            content: Arc::new(content),
            plan: Arc::new(Plan {
                records: 6,
                chunks: Vec::new(),
            }),
        };
        let slot = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Flight::begin(ready, None, &[0..1, 2..3], 2, slot)
    }

    #[test]
    fn it_is_due_once_all_is_published_and_committed_or_after_the_interval() {
        let (soon, at_once) = (Duration::from_secs(3600), Duration::ZERO);
        let mut flight = flight();
        assert!(!flight.note_published() && !flight.is_due(at_once));
        assert!(flight.note_published());
        assert!(flight.is_due(at_once) && !flight.is_due(soon));
        assert_eq!(flight.note_committed(3), 5);
        assert!(!flight.is_due(soon));
        assert_eq!(
            (flight.note_committed(1), flight.first.bytes_left()),
            (1, 4)
        );
        assert!(flight.is_committed() && flight.is_due(soon));
        // The ledger covers less than the hints said.
        flight.note_covered(&[0..4, 5..6]);
        assert!(!flight.is_committed() && !flight.is_due(soon));
        flight.publish_again(1);
        assert!(!flight.is_due(at_once));
    }

    #[test]
    fn a_commit_counts_at_most_the_missing_records() {
        let mut flight = flight();
        assert_eq!(
            (flight.note_committed(9), flight.first.bytes_left()),
            (6, 4)
        );
        assert_eq!(
            (flight.note_committed(1), flight.first.bytes_left()),
            (0, 4)
        );
    }

    #[test]
    fn copies_take_the_place_of_the_first_in_the_order_of_their_arrival() {
        let mut flight = flight();
        for name in ["b", "c"] {
            let mut copy = flight.first.clone();
            copy.file.name = name.into();
            flight.add_copy(copy);
        }
        assert_eq!(flight.note_committed(3), 5);
        let mut lost = || flight.lose_first().map(|item| item.file.name);
        assert_eq!(lost(), Some("file".into()));
        assert_eq!(lost(), Some("b".into()));
        assert_eq!(lost(), None);
        assert_eq!(flight.first.file.name, "c");
        assert_eq!(
            flight.first.bytes_left(),
            10,
            "each file counts its own bytes"
        );
        assert!(flight.is_due(Duration::ZERO));
    }
}
