//! The directories of nodes in work: `work/NODE/EPOCH/` has the files that one process has claimed.
//!
//! A process holds the lock of `work/NODE` as long as it lives. Its epoch is a number that the ledger
//! gives to each start, so no two processes ever claim into one directory, and the path of a claimed
//! file tells whose it is: a move from a path whose directory was renamed fails.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::lock::{self, LOCK_FILE, Lock};
use super::names::again;
use super::tree::remove_empty;
use crate::fault::Fault;

/// This node in work.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// `work/NODE`.
    pub(super) path: PathBuf,
    /// `work/NODE/EPOCH`: where this process claims files.
    pub(super) claims: RwLock<PathBuf>,
    /// The nodes whose files are to be taken over, each with its epochs that are dead.
    pub(super) orphans: Mutex<Vec<(String, Vec<u64>)>>,
    pub(super) orphaned: Notify,
    /// Directories that were taken over, whose files are not yet in their places.
    pub(super) taken: Mutex<Vec<PathBuf>>,
    /// Whether intake takes over files.
    pub(super) takes_over: AtomicBool,
    /// How many other nodes have files in work and have not been seen to live. `None`: not known yet.
    pub(super) suspects: watch::Sender<Option<usize>>,
    lock: Mutex<Lock>,
    /// Keeps releases away that lock work as a whole.
    _root: Lock,
}

impl Node {
    /// Locks the name of this node.
    ///
    /// # Errors
    /// Fatal: another process has the name, or an earlier release uses work.
    pub(super) fn open(work: &Path, name: &str) -> Result<Self, Fault> {
        let root = Lock::share(work)?;
        let path = work.join(name);
        Ok(Self {
            name: name.to_owned(),
            lock: Mutex::new(Lock::take(&path)?),
            _root: root,
            claims: RwLock::new(path.join("0")),
            path,
            orphans: Mutex::default(),
            orphaned: Notify::new(),
            taken: Mutex::default(),
            takes_over: AtomicBool::new(false),
            suspects: watch::Sender::new(Some(0)),
        })
    }

    /// Takes the lock again if the directory of the node was removed: where locks are those of one host,
    /// an heir on another host may remove it while this process starts.
    ///
    /// # Errors
    /// As [`Lock::take`].
    pub(super) fn keep_lock(&self) -> Result<(), Fault> {
        let mut lock = self.lock.lock();
        // In a work that is gone as a whole, as after a lost mount, it may come back.
        let work = self.path.parent().is_some_and(is_place);
        if work && !lock.is_of(&self.path) {
            *lock = Lock::take(&self.path)?;
        }
        Ok(())
    }

    /// The directory into which this process claims files.
    pub(super) fn claims(&self) -> PathBuf {
        self.claims.read().clone()
    }
}

impl Drop for Node {
    /// A process that has nothing in work leaves no directory there.
    fn drop(&mut self) {
        remove_claims(&self.claims());
        if epochs(&self.path).is_empty() {
            remove_place(&self.path);
        }
    }
}

/// Whether a directory in work is that of a node.
pub(super) fn is_place(path: &Path) -> bool {
    path.join(LOCK_FILE).exists()
}

/// The names of the nodes with a directory in work.
pub(super) fn places(work: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(work)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && is_place(&entry.path())
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// The epochs that have a directory in that of a node.
pub(super) fn epochs(place: &Path) -> Vec<u64> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    named.collect()
}

/// Removes the directory of a process if no file is in it.
pub(super) fn remove_claims(claims: &Path) {
    remove_empty(claims);
    let _ = fs::remove_dir(claims);
}

/// Removes the directory of a node, whose lock the caller has, and which has no epoch.
pub(super) fn remove_place(place: &Path) {
    let _ = fs::remove_file(place.join(LOCK_FILE));
    let _ = fs::remove_dir(place);
}

/// The process that uses work: one of those that have the lock of a node, or that of an earlier release.
/// `None` if there is none.
#[must_use]
pub fn holder(work: &Path) -> Option<String> {
    let places = places(work).unwrap_or_default().into_iter();
    let places = places.map(|name| work.join(name));
    std::iter::once(work.to_owned())
        .chain(places)
        .find_map(|place| lock::holder(&place))
}

/// Whether a node has a file with this name, which is its path below inbound, in work.
#[must_use]
pub fn has_claimed(work: &Path, node: &str, name: &Path) -> bool {
    let place = work.join(node);
    let claims = all_claims(work).into_iter();
    let mut claims = claims.filter(|claims| claims.starts_with(&place));
    claims.any(|claims| claims.join(name).is_file())
}

/// The directories in work in which the names of files begin.
#[must_use]
pub(super) fn all_claims(work: &Path) -> Vec<PathBuf> {
    let mut found = vec![work.to_owned()];
    for name in places(work).unwrap_or_default() {
        let place = work.join(name);
        let of_epochs = epochs(&place).into_iter();
        found.extend(of_epochs.map(|epoch| place.join(epoch.to_string())));
    }
    let mut at = 0;
    while let Some(directory) = found.get(at) {
        let nested = again(directory);
        found.extend(nested);
        at += 1;
    }
    found
}
