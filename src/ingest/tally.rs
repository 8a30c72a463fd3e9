//! The sums of a run, and the files in work that cannot go on now.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::unmet::{Unmet, UnmetFiles};
use crate::inbox::{Claimed, WaitReason, Waiting};

/// Sums over a run, readable at any time.
#[derive(Debug, Default)]
pub struct Tally {
    /// Files that intake has taken.
    pub files: AtomicU64,
    /// Files whose records are all stored, without duplicates.
    pub settled: AtomicU64,
    /// Files whose content was already in the ledger.
    pub duplicates: AtomicU64,
    /// Files in quarantine.
    pub quarantined: AtomicU64,
    /// Files left in their place, because they are not complete or are being written.
    pub left: AtomicU64,
    /// Marker files, which are ignored.
    pub passed_over: AtomicU64,
    /// Records of settled files.
    pub records: AtomicU64,
    /// Rows of settled files.
    pub rows: AtomicU64,
    /// Rejects of settled files.
    pub rejects: AtomicU64,
    /// Rows of other files that were stored again, because rows with their keys were removed.
    pub restored: AtomicU64,
    /// Records of other files that are missing since, because their files cannot be read.
    pub missing: AtomicU64,
    /// Records read by this process so far, of files settled or not.
    pub read: AtomicU64,
    /// Rejects found by this process so far, of files settled or not.
    pub rejected: AtomicU64,
    /// Bytes of files whose records are committed, for a progress bar. Part of a file counts when
    /// its records are committed.
    pub bytes_done: AtomicU64,
    /// Bytes of settled files.
    pub bytes: AtomicU64,
    /// Whether files were not taken because the run was stopped.
    pub cut_short: AtomicBool,
    pub(super) unmet: UnmetFiles,
    stuck: Mutex<HashMap<PathBuf, (Waiting, Instant)>>,
}

impl Tally {
    /// Files that intake has taken and that have not ended: not settled, quarantined or left.
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

    /// The files in work that cannot be read or moved now, each with the reason and its beginning.
    #[must_use]
    pub fn stuck(&self) -> Vec<(Waiting, Instant)> {
        self.stuck.lock().values().cloned().collect()
    }

    /// The files in which a dataset that takes them by their name has nothing, for each such dataset.
    #[must_use]
    pub fn unmet(&self) -> Vec<Unmet> {
        self.unmet.all()
    }

    /// Records that a file waits, and why. Returns whether it did not wait before.
    pub(super) fn note_stuck(&self, file: &Claimed, reason: WaitReason) -> bool {
        let mut stuck = self.stuck.lock();
        let since = stuck.get(&file.path).map(|(_, since)| *since);
        let waiting = Waiting {
            name: file.name.clone(),
            reason,
        };
        let now = since.unwrap_or_else(Instant::now);
        stuck.insert(file.path.clone(), (waiting, now));
        since.is_none()
    }

    /// Records that a file goes on. Does nothing if it was not stuck.
    pub(super) fn note_unstuck(&self, file: &Claimed) {
        self.stuck.lock().remove(&file.path);
    }

    /// Adds to a sum.
    pub fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Relaxed);
    }
}
