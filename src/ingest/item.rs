//! A file on its way through ingest, and what reading it yields.

use std::sync::Arc;

use tokio::time::Instant;

use super::reason::QuarantineReason;
use crate::batch::ContentHash;
use crate::content::{AsRead, Content};
use crate::cut::Plan;
use crate::dataset::Dataset;
use crate::inbox::{Claimed, WaitReason};
use crate::sink::NewFile;

/// Longest file name in the ledger, in bytes: the width of the column `name`.
const NAME_BYTES_MAX: usize = 255;

/// A file to load.
#[derive(Debug, Clone)]
pub struct Item {
    /// The file.
    pub file: Claimed,
    /// Where it came from, which decides where it goes.
    pub origin: ItemOrigin,
    /// When it arrived in inbound, as far as that is known; else when intake got it. The time to
    /// load a file counts from here.
    pub found_at: Instant,
    /// The file as it was read; `None` before that.
    pub as_read: Option<AsRead>,
}

/// Where an item came from, and so where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemOrigin {
    /// Inbound: it goes to history or quarantine.
    Mailbox,
    /// Found in work at the start, claimed by an earlier run. It goes where a file of the mailbox
    /// goes. If the ledger covers all of it, it counts as settled and not as a duplicate: the
    /// earlier run stored it and ended before it moved the file.
    Recovered,
    /// An archive: it stays where it is.
    Archive,
}

impl Item {
    /// The entry of this file for the ledger. A longer name is cut at a character's boundary.
    pub(super) fn new_file(
        &self,
        dataset: Option<&Dataset>,
        hash: ContentHash,
        records: u32,
    ) -> NewFile {
        let mut name = self.file.name.to_string_lossy().into_owned();
        let end = (0..=NAME_BYTES_MAX.min(name.len()))
            .rev()
            .find(|&at| name.is_char_boundary(at));
        name.truncate(end.unwrap_or(0));
        // An absolute path cannot be made if the current directory was removed.
        let path = (self.origin == ItemOrigin::Archive)
            .then(|| std::path::absolute(&self.file.path).ok())
            .flatten();
        NewFile {
            hash,
            dataset: dataset.map_or(String::new(), |dataset| dataset.name.clone()),
            definition: dataset.map(|dataset| dataset.fingerprint),
            name,
            path,
            bytes: self.file.bytes,
            records,
        }
    }
}

/// What reading a file yields.
pub(super) enum ReadOutcome {
    /// It can be loaded.
    Ready(ReadyFile),
    /// It goes to quarantine.
    Bad(BadFile),
    /// It goes back to where it came from, and is read again later.
    Later { item: Item, reason: WaitReason },
}

/// A file that was read, identified and cut.
pub(super) struct ReadyFile {
    pub(super) item: Item,
    pub(super) dataset: Arc<Dataset>,
    pub(super) content: Arc<Content>,
    pub(super) plan: Arc<Plan>,
}

/// A file that goes to quarantine.
pub(super) struct BadFile {
    pub(super) item: Item,
    /// `None` if no dataset takes it.
    pub(super) dataset: Option<Arc<Dataset>>,
    /// Its identity, if the ledger is to list it as quarantined.
    pub(super) hash: Option<ContentHash>,
    pub(super) reason: QuarantineReason,
}
