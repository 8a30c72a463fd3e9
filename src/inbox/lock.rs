//! The lock of a node, which one process holds from its start to its end.

use std::fs::{self, File, Metadata, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::directory::create_private;
use crate::fault::{Fault, Origin};

/// Attempts to open the lock file while other processes remove its directory.
const OPEN_ATTEMPTS: u32 = 100;

/// How long an attempt to lock goes on. `status` and an heir hold the lock of a node for
/// microseconds, and a process that uses the name holds it until its end. With a longer wait, the
/// message about a name in use comes later.
const LOCK_WAIT: Duration = Duration::from_millis(200);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

pub(super) const LOCK_FILE: &str = ".lemonade.lock";

/// The lock. Dropping it unlocks.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the directory of a node. Creates the directory.
    ///
    /// # Errors
    /// Fatal: the lock file cannot be created or locked, or another process holds the lock. Transient:
    /// the disk is full.
    pub(super) fn take(place: &Path) -> Result<Self, Fault> {
        loop {
            let mut file = open(place)?;
            locked(&mut file, place, File::try_lock)?;
            // A process that removes the directory of a dead node has the lock meanwhile.
            if is_at(&file, &place.join(LOCK_FILE)) {
                note_process(&mut file, place);
                return Ok(Self(file));
            }
        }
    }

    /// Whether this is the lock of a directory, and not that of one that was removed since.
    pub(super) fn is_of(&self, place: &Path) -> bool {
        is_at(&self.0, &place.join(LOCK_FILE))
    }

    /// Takes a lock of work that any number of processes may have at once, but no process of a release
    /// in which one process uses work.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub(super) fn share(work: &Path) -> Result<Self, Fault> {
        let mut file = open(work)?;
        locked(&mut file, work, File::try_lock_shared)?;
        Ok(Self(file))
    }
}

fn open(place: &Path) -> Result<File, Fault> {
    let path = place.join(LOCK_FILE);
    let mut attempts = 0;
    loop {
        let opened = create_private(place).and_then(|()| {
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true);
            options.open(&path)
        });
        attempts += 1;
        match opened {
            // Another process has just removed the empty directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < OPEN_ATTEMPTS => {}
            opened => return opened.map_err(|error| cannot_open(&path, error)),
        }
    }
}

fn cannot_open(path: &Path, error: io::Error) -> Fault {
    let doing = format!("cannot open {}", path.display());
    if error.kind() == io::ErrorKind::StorageFull {
        return Fault::transient(Origin::Files, doing, error);
    }
    Fault::fatal(Origin::Files, doing, error)
}

fn locked(
    file: &mut File,
    place: &Path,
    lock: impl Fn(&File) -> Result<(), TryLockError>,
) -> Result<(), Fault> {
    let path = place.join(LOCK_FILE);
    let began = Instant::now();
    let mut tried = lock(file);
    while matches!(tried, Err(TryLockError::WouldBlock)) && began.elapsed() < LOCK_WAIT {
        thread::sleep(LOCK_PAUSE);
        tried = lock(file);
    }
    match tried {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)
                .map_err(|error| cannot_open(&path, error))?;
            let doing = format!("locking {}", place.display());
            let cause = format!("process {} has it", process_id(&holder));
            Err(Fault::fatal(Origin::Files, doing, cause).with_next_step(
                "stop that process, or give this one a name of its own (--node NAME)",
            ))
        }
        Err(TryLockError::Error(error)) => {
            let doing = format!("locking {}", path.display());
            Err(Fault::fatal(Origin::Files, doing, error)
                .with_next_step("use a file system with locks for --work"))
        }
    }
}

/// Whether a path leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    let place = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let open = file.metadata().map(place);
    matches!((open, fs::symlink_metadata(path).map(place)), (Ok(one), Ok(other)) if one == other)
}

/// Writes the process id into the lock file, for messages. If the disk is full, the engine must start
/// without it, and waits for room later.
fn note_process(file: &mut File, place: &Path) {
    let noted = file
        .set_len(0)
        .and_then(|()| write!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        tracing::warn!(?place, %error, "the process id could not be written");
    }
}

/// The process id in a lock file, for messages. The file is empty if the disk was full.
fn process_id(holder: &str) -> String {
    match holder.trim() {
        "" => "(number unknown)".to_owned(),
        number => number.to_owned(),
    }
}

/// The process that holds the lock of this directory alone. `None` if no process holds it.
pub(super) fn holder(place: &Path) -> Option<String> {
    let mut file = File::open(place.join(LOCK_FILE)).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    let mut holder = String::new();
    file.read_to_string(&mut holder).ok()?;
    Some(process_id(&holder))
}

impl Drop for Lock {
    /// Unlocks explicitly, and does not only close the file. A child process that is being started
    /// has the file open until it runs its program, and would keep the lock for this time.
    fn drop(&mut self) {
        // If this fails, closing the file unlocks it, unless a child has the file open.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_being_started_does_not_keep_the_lock() {
        let work = tempfile::tempdir().unwrap();
        let lock = Lock::take(work.path()).unwrap();
        assert!(Lock::take(work.path()).is_err());
        // A descriptor as a fork leaves it in the child until the child runs its program.
        let in_the_child = lock.0.try_clone().unwrap();
        drop(lock);
        Lock::take(work.path()).unwrap();
        drop(in_the_child);
    }

    #[test]
    fn a_lock_that_is_held_for_a_moment_delays_a_start() {
        let work = tempfile::tempdir().unwrap();
        drop(Lock::take(work.path()).unwrap());
        let held = File::open(work.path().join(LOCK_FILE)).unwrap();
        // As `status`, and as an heir.
        for lock in [File::lock_shared, File::lock] {
            lock(&held).unwrap();
            thread::scope(|scope| {
                let begun = scope.spawn(|| Lock::take(work.path()));
                thread::sleep(LOCK_WAIT / 10);
                held.unlock().unwrap();
                drop(begun.join().unwrap().unwrap());
            });
        }
    }

    #[test]
    fn a_lock_holder_without_a_process_id_is_reported() {
        let work = tempfile::tempdir().unwrap();
        let lock = Lock::take(work.path()).unwrap();
        let number = std::process::id().to_string();
        assert_eq!(holder(work.path()), Some(number));
        lock.0.set_len(0).unwrap();
        assert_eq!(holder(work.path()).as_deref(), Some("(number unknown)"));
        let error = Lock::take(work.path()).unwrap_err().to_string();
        assert!(
            error.contains("process (number unknown) has it;"),
            "{error}"
        );
    }
}
