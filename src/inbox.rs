//! The four directories, and every move between them.
//!
//! A file is in exactly one of inbound, work, history and quarantine. It moves by rename, never over
//! another file, and keeps its name, with a suffix where that is taken. Claiming is the rename into
//! work, which only one process holds. The scan of inbound is the truth about what is there;
//! notifications only shorten the wait.
//!
//! No directory is synced after a rename on one device: a rename that a power cut takes back is done
//! again, since the ledger knows the file by its content. Knows nothing of records or datasets.

use std::collections::{BinaryHeap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::content::{self, ContentError, Stamp, Writers, stamp};
use crate::directory;
use crate::fault::{Fault, Origin};

mod census;
mod distinct;
mod free;
mod lock;
mod markers;
mod moving;
mod pause;
mod requeue;
mod waits;
mod watch;

use census::arrived;
pub use census::{Census, count_files, missed};
pub use distinct::{Overlap, check_distinct};
pub use free::FreeRoom;
use lock::Lock;
pub use lock::holder;
pub use markers::Markers;
pub use moving::try_move;
use moving::{move_into, move_with_reason, remove_leftovers};
use parking_lot::{Mutex, RwLock};
pub use pause::{is_paused, pause, resume};
pub use requeue::{quarantined, requeue};
pub use waits::{Waiting, Waits, concerns_all};
pub use watch::Watch;

/// Most files that one scan hands out, oldest first. A directory of a million files is scanned some
/// fifteen times then, with a few megabytes of memory; a smaller number would mean more scans.
pub const SCAN_FILES_MAX: usize = 65_536;

/// Bytes at the end of a file that are looked at to see whether a document closes.
const TAIL_BYTES: usize = 4096;

/// Why a file waits that has another hard link.
const OTHER_NAME: &str = "it has another name (a hard link), and `hard_links` is `wait`";

/// Where files come from and go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Files arrive here.
    pub inbound: PathBuf,
    /// Claimed files, while their records are on the way.
    pub work: PathBuf,
    /// Files of which every record is stored.
    pub history: PathBuf,
    /// Files that cannot be read as a whole, each with its reason beside it.
    pub quarantine: PathBuf,
}

impl Directories {
    /// The directories with their names, in the order of the flow.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Path); 4] {
        [
            ("inbound", &self.inbound),
            ("work", &self.work),
            ("history", &self.history),
            ("quarantine", &self.quarantine),
        ]
    }
}

/// When a file of inbound is taken.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Where the system does not tell of writers, a file must have been left alone for this long.
    pub quiet_time: Duration,
    /// A document that does not close waits this long for the rest of it, then it is quarantined.
    pub incomplete_after: Duration,
    /// Whether a file waits as long as it has a second name (a hard link): whoever made that link
    /// may have had no right to read the file, and can still write into it.
    pub one_name: bool,
}

/// The directories, opened and locked.
#[derive(Debug)]
pub struct Inbox {
    directories: Directories,
    patience: RwLock<Patience>,
    markers: RwLock<Markers>,
    /// Files that were read and found incomplete, as they were then.
    incomplete: Mutex<HashMap<OsString, Stamp>>,
    _lock: Lock,
}

/// What a scan of inbound found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Files that may be claimed, oldest first.
    pub ready: Vec<Candidate>,
    /// Files that have to wait, and why.
    pub waiting: Waits,
    /// Files there in all.
    pub files: u64,
    /// Their bytes in all.
    pub bytes: u64,
    /// Marker files, which count nowhere else.
    pub markers: u64,
}

/// A file of inbound that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: OsString,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// When it came into inbound, or was last written there.
    pub arrived: SystemTime,
}

/// A file in work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its name in work, and where free, in history.
    pub name: OsString,
    /// Its path in work.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
    /// When it came into inbound; for one that was found in work, when it came there.
    pub arrived: SystemTime,
}

impl Inbox {
    /// Makes the directories where they are missing (for this user alone) and locks them against a
    /// second process.
    ///
    /// # Errors
    /// Fatal: a directory that cannot be made or written, two that overlap, or another process that
    /// holds the lock.
    pub fn open(directories: Directories, patience: Patience) -> Result<Self, Fault> {
        let Directories {
            inbound,
            work,
            history,
            quarantine,
        } = &directories;
        check_distinct(&directories)?;
        for dir in [inbound, work, history, quarantine] {
            directory::create_private(dir).map_err(|error| {
                let doing = format!("cannot make the directory {}", dir.display());
                Fault::fatal(Origin::Files, doing, error)
            })?;
        }
        let lock = Lock::take(work)?;
        for (_, dir) in directories.named() {
            remove_leftovers(dir).map_err(|error| {
                let doing = format!("cannot clear up {}", dir.display());
                Fault::fatal(Origin::Files, doing, error)
            })?;
        }
        Ok(Self {
            directories,
            patience: RwLock::new(patience),
            markers: RwLock::default(),
            incomplete: Mutex::default(),
            _lock: lock,
        })
    }

    /// From now on, passes over marker files.
    pub fn set_markers(&self, markers: Markers) {
        *self.markers.write() = markers;
    }

    /// From now on, waits for files as long as this says.
    pub fn set_patience(&self, patience: Patience) {
        *self.patience.write() = patience;
    }

    fn patience(&self) -> Patience {
        *self.patience.read()
    }

    fn markers(&self) -> Markers {
        self.markers.read().clone()
    }

    /// The directories.
    #[must_use]
    pub fn directories(&self) -> &Directories {
        &self.directories
    }

    /// Whether an operator has said that no file is to be taken.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        is_paused(&self.directories.work)
    }

    /// Free room on the file system of each directory, by the directory's name.
    ///
    /// # Errors
    /// A directory that is not there.
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

    /// Looks at every file of inbound. At most [`SCAN_FILES_MAX`] are handed out, the oldest.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn scan(&self) -> io::Result<Scan> {
        let markers = self.markers();
        let mut scan = Scan::default();
        let mut oldest_first = BinaryHeap::new();
        for entry in fs::read_dir(&self.directories.inbound)? {
            let entry = entry?;
            let name = entry.file_name();
            // A file may be gone since the directory was read: somebody took it back.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if !metadata.is_file() || is_temporary(&name) {
                continue;
            }
            if markers.has(&name) {
                scan.markers += 1;
                continue;
            }
            let modified = metadata.modified()?;
            scan.files += 1;
            scan.bytes += metadata.len();
            if let Some(why) = self.must_wait(&name, &metadata) {
                let why = why.into();
                scan.waiting.add(Waiting { name, why });
                continue;
            }
            oldest_first.push((modified, name, metadata.len(), arrived(&metadata)));
            if oldest_first.len() > SCAN_FILES_MAX {
                oldest_first.pop();
            }
        }
        let ready = oldest_first.into_sorted_vec().into_iter();
        scan.ready = ready
            .map(|(modified, name, bytes, arrived)| Candidate {
                name,
                bytes,
                modified,
                arrived,
            })
            .collect();
        self.forget_incomplete(&scan);
        Ok(scan)
    }

    /// Why a file has to wait, if it does: it has another name that it must not have, or it was
    /// found incomplete before, has not changed since, and may still grow.
    fn must_wait(&self, name: &OsStr, metadata: &Metadata) -> Option<&'static str> {
        if self.has_other_name(metadata) {
            return Some(OTHER_NAME);
        }
        let incomplete = self.incomplete.lock();
        let unchanged = incomplete
            .get(name)
            .is_some_and(|then| *then == stamp(metadata));
        (unchanged && self.is_young(metadata)).then_some("the document is not complete yet")
    }

    fn has_other_name(&self, metadata: &Metadata) -> bool {
        self.patience().one_name && metadata.nlink() > 1
    }

    /// Whether a file was written so recently that more of it may come.
    fn is_young(&self, metadata: &Metadata) -> bool {
        age(metadata) < self.patience().incomplete_after
    }

    /// Forgets incomplete files that are no longer there, so that the list stays bounded.
    fn forget_incomplete(&self, scan: &Scan) {
        let mut incomplete = self.incomplete.lock();
        if incomplete.len() as u64 > scan.waiting.files {
            let inbound = &self.directories.inbound;
            incomplete.retain(|name, _| inbound.join(name).symlink_metadata().is_ok());
        }
    }

    /// Takes a file out of inbound, if it is whole as far as can be seen without reading all of it.
    ///
    /// # Errors
    /// `Ok(Err(why))` if it has to wait (the reason is for people). `Err` is the system's.
    pub fn claim(&self, candidate: &Candidate) -> io::Result<Result<Claimed, &'static str>> {
        let from = self.directories.inbound.join(&candidate.name);
        let (file, metadata) = match content::open_regular(&from) {
            Ok(opened) => opened,
            Err(ContentError::Io(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            Err(_) => return Ok(Err("it is gone, or no regular file")),
        };
        // Asked again, of the open file: since the scan the name may have passed to another one.
        if self.has_other_name(&metadata) {
            return Ok(Err(OTHER_NAME));
        }
        // The lease is held until the file has moved, so that no writer slips in between.
        match content::writers(&file) {
            Writers::Some => return Ok(Err("it is still being written")),
            Writers::Unknown if age(&metadata) < self.patience().quiet_time => {
                return Ok(Err("it was written a moment ago"));
            }
            Writers::Unknown | Writers::None => {}
        }
        // What cannot be read here is for the reader of the whole file to judge: it must not hold
        // up the files behind it.
        if self.is_young(&metadata) && !seems_closed(&file, metadata.len()).unwrap_or(true) {
            self.note_incomplete(&candidate.name, &metadata);
            return Ok(Err("the document is not complete yet"));
        }
        match move_into(&from, &self.directories.work, &candidate.name) {
            Ok(path) => Ok(Ok(claimed(path, &metadata)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
                Ok(Err("it is gone, or no regular file"))
            }
            Err(error) => Err(error),
        }
    }

    /// What is in work: claimed by an earlier run of this process.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn recovered(&self) -> io::Result<Vec<Claimed>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directories.work)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() && !entry.file_name().as_bytes().starts_with(b".") {
                found.push(claimed(entry.path(), &metadata)?);
            }
        }
        found.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
        Ok(found)
    }

    /// Whether more of a claimed file may still come.
    #[must_use]
    pub fn may_grow(&self, file: &Claimed) -> bool {
        fs::metadata(&file.path).is_ok_and(|metadata| self.is_young(&metadata))
    }

    /// Moves a claimed file back to inbound, to wait for the rest of it.
    ///
    /// # Errors
    /// The system's.
    pub fn put_back(&self, file: &Claimed) -> io::Result<()> {
        // A file of an archive that is to be moved was never in inbound: it stays where it is.
        if file.path.parent() != Some(self.directories.work.as_path()) {
            return Ok(());
        }
        let path = move_into(&file.path, &self.directories.inbound, &file.name)?;
        let name = path.file_name().expect("a moved file has a name");
        self.note_incomplete(name, &fs::metadata(&path)?);
        Ok(())
    }

    fn note_incomplete(&self, name: &OsStr, metadata: &Metadata) {
        let mut incomplete = self.incomplete.lock();
        incomplete.insert(name.to_owned(), stamp(metadata));
    }

    /// Moves a settled file to history; returns where it is then. A whole copy of it that a killed
    /// move from another device left there is a success.
    ///
    /// # Errors
    /// The system's; the file is still in work.
    pub fn to_history(&self, file: &Claimed) -> io::Result<PathBuf> {
        move_into(&file.path, &self.directories.history, &file.name)
    }

    /// Moves a file that cannot be read as a whole to quarantine, its reason beside it in
    /// `NAME.reason`, which is cut before the ending where it would be too long.
    ///
    /// # Errors
    /// The system's; the file is still in work.
    pub fn to_quarantine(&self, file: &Claimed, reason: &str) -> io::Result<PathBuf> {
        let text = format!("{reason}\n");
        move_with_reason(&file.path, &self.directories.quarantine, &file.name, &text)
    }
}

/// The files of an archive.
#[derive(Debug, Default)]
pub struct Archive {
    /// Its files, without temporary ones and markers.
    pub files: Vec<Claimed>,
    /// How many marker files it has.
    pub markers: u64,
}

/// All regular files below `path`, or `path` itself, without following links: an archive.
///
/// # Errors
/// The system's, with the path that it concerns.
pub fn archive(path: &Path, markers: &Markers) -> io::Result<Archive> {
    let mut found = Archive::default();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        let about =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let metadata = fs::symlink_metadata(&path).map_err(about)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(&path).map_err(about)? {
                open.push(entry.map_err(about)?.path());
            }
            continue;
        }
        let name = path.file_name().unwrap_or_default();
        if !metadata.is_file() || is_temporary(name) {
            continue;
        }
        if markers.has(name) {
            found.markers += 1;
        } else {
            found.files.push(claimed(path.clone(), &metadata)?);
        }
    }
    Ok(found)
}

/// A directory's absolute path with links resolved, or the path as given if it does not exist.
#[must_use]
pub fn canonical(directory: &Path) -> String {
    let path = directory.canonicalize();
    path.as_deref().unwrap_or(directory).display().to_string()
}

/// Does file work on a thread that may block, and makes its error a fault.
///
/// # Errors
/// Transient: whatever the error is, it may pass.
pub async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work)
        .await
        .expect("file work does not panic");
    done.map_err(|error| Fault::transient(Origin::Files, doing, error))
}

fn claimed(path: PathBuf, metadata: &Metadata) -> io::Result<Claimed> {
    let name = path.file_name().unwrap_or_default().to_owned();
    Ok(Claimed {
        name,
        path,
        bytes: metadata.len(),
        modified: metadata.modified()?,
        arrived: arrived(metadata),
    })
}

/// How long ago a file was written. Its writer may claim any time. If that is in the future, the
/// time counts at which the system last saw the file change; if that is in the future, too, it is
/// zero.
fn age(metadata: &Metadata) -> Duration {
    let written = metadata.modified().ok();
    let age = written.and_then(|at| at.elapsed().ok());
    age.unwrap_or_else(|| arrived(metadata).elapsed().unwrap_or_default())
}

/// Names by which writers say that a file is not for others yet.
#[must_use]
pub fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b".")
        || [&b".tmp"[..], b".part", b"~"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// Whether a file could be a whole document, by its last characters. Those of compressed data say
/// nothing, so it could be.
fn seems_closed(file: &File, bytes: u64) -> io::Result<bool> {
    let mut tail = [0; TAIL_BYTES];
    let head = file.read_at(&mut tail[..4], 0)?;
    if content::is_compressed(&tail[..head]) {
        return Ok(true);
    }
    let read = file.read_at(&mut tail, bytes.saturating_sub(TAIL_BYTES as u64))?;
    let last = tail[..read]
        .iter()
        .rev()
        .find(|byte| !byte.is_ascii_whitespace());
    // A line that ends otherwise is a record of NDJSON, if a bad one, once it has its line break.
    Ok(
        matches!(last, Some(b'}' | b']'))
            || (read > 0 && tail[read - 1] == b'\n' && last.is_some()),
    )
}

#[cfg(test)]
mod tests;
