//! The directories, opened and locked.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::clearing::clear_up;
use super::directories::Directories;
use super::distinct::check_distinct;
use super::free::FreeRoom;
use super::markers::Markers;
use super::pause::is_paused;
use super::place::Node;
use super::postponed::Postponed;
use super::times::age;
use crate::content::{Stamp, stamp};
use crate::directory;
use crate::fault::{Fault, Origin};

/// The next step where a directory cannot be used.
const RIGHT: &str =
    "give this user the right to write there, or name another directory (--data-dir)";

/// How long files of inbound wait before they are taken.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// If the file system does not report writers, a file must be unchanged for this long.
    pub quiet_time: Duration,
    /// A document that does not close waits this long for the rest, and is then quarantined.
    pub incomplete_after: Duration,
    /// Whether a file waits while it has a second name (a hard link). A user may link a file that
    /// they may not read, or may change the file through the link.
    pub one_name: bool,
}

/// The directories, opened and locked.
#[derive(Debug)]
pub struct Inbox {
    pub(super) directories: Directories,
    patience: RwLock<Patience>,
    markers: RwLock<Markers>,
    /// Whether files are moved to the directory of the day in history.
    by_day: AtomicBool,
    /// The stamps of files that were read and are incomplete.
    pub(super) incomplete: Mutex<HashMap<OsString, Stamp>>,
    /// Files whose table refused their rows.
    pub(super) postponed: Mutex<Postponed>,
    /// This process in work.
    pub(super) node: Node,
}

impl Inbox {
    /// Creates missing directories, which only this user can use, and locks the name of this node against
    /// a second process. Files can be claimed after [`begin`](Self::begin).
    ///
    /// # Errors
    /// Fatal: a directory cannot be created or written, two of them overlap, or another process
    /// holds the lock.
    pub fn open(directories: Directories, patience: Patience, node: &str) -> Result<Self, Fault> {
        let Directories {
            inbound,
            work,
            history,
            quarantine,
        } = &directories;
        check_distinct(&directories)?;
        for dir in [inbound, work, history, quarantine] {
            directory::create_private(dir).map_err(|error| {
                let doing = format!("cannot create the directory {}", dir.display());
                Fault::fatal(Origin::Files, doing, error).with_next_step(RIGHT)
            })?;
        }
        let node = Node::open(work, node)?;
        for (_, dir) in directories.named() {
            // Directories below inbound may be those of other programs.
            clear_up(dir, dir != directories.inbound).map_err(|error| {
                let doing = format!("cannot clean up {} after a killed move", dir.display());
                Fault::fatal(Origin::Files, doing, error).with_next_step(RIGHT)
            })?;
        }
        Ok(Self {
            directories,
            patience: RwLock::new(patience),
            markers: RwLock::default(),
            by_day: AtomicBool::new(false),
            incomplete: Mutex::default(),
            postponed: Mutex::default(),
            node,
        })
    }

    /// Sets which files of inbound scans pass over from now on, and whether they enter directories.
    pub fn set_markers(&self, markers: Markers) {
        if markers.directories
            && let Err(error) = clear_up(&self.directories.inbound, true)
        {
            tracing::warn!(%error, "inbound is not cleaned up after a killed move");
        }
        *self.markers.write() = markers;
    }

    /// Sets whether files are moved to the directory of the day in history from now on.
    pub fn set_by_day(&self, by_day: bool) {
        self.by_day.store(by_day, Relaxed);
    }

    pub(super) fn is_by_day(&self) -> bool {
        self.by_day.load(Relaxed)
    }

    /// Sets how long files wait from now on.
    pub fn set_patience(&self, patience: Patience) {
        *self.patience.write() = patience;
    }

    pub(super) fn patience(&self) -> Patience {
        *self.patience.read()
    }

    pub(super) fn markers(&self) -> Markers {
        self.markers.read().clone()
    }

    /// Whether a file with this name, its last segment, is passed over.
    #[must_use]
    pub fn passes_over(&self, name: &OsStr) -> bool {
        let markers = self.markers.read();
        markers.is_temporary(name) || markers.has(name)
    }

    /// The directories.
    #[must_use]
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Whether an operator has paused the service.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        is_paused(&self.directories.work)
    }

    /// Free room on the file system of each directory, by the directory's name.
    ///
    /// # Errors
    /// A directory does not exist.
    pub fn free_room(&self) -> io::Result<[(&'static str, FreeRoom); 4]> {
        let mut free = self
            .directories
            .named()
            .map(|(name, _)| (name, FreeRoom::default()));
        for ((_, room), (_, path)) in free.iter_mut().zip(self.directories.named()) {
            *room = FreeRoom::of(path).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
        }
        Ok(free)
    }

    pub(super) fn has_other_name(&self, metadata: &Metadata) -> bool {
        self.patience().one_name && metadata.nlink() > 1
    }

    /// Whether a file was written so recently that more of it may come.
    pub(super) fn is_young(&self, metadata: &Metadata) -> bool {
        age(metadata) < self.patience().incomplete_after
    }

    /// Records that a file of inbound is incomplete, so that it is not read again until it changes.
    pub(super) fn note_incomplete(&self, name: &OsStr, metadata: &Metadata) {
        let mut incomplete = self.incomplete.lock();
        incomplete.insert(name.to_owned(), stamp(metadata));
    }
}

/// Runs file work on a thread that may block.
///
/// # Errors
/// The error of the work, as a transient fault.
pub async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .expect("file work does not panic");
    done.map_err(|error| Fault::transient(Origin::Files, doing, error))
}
