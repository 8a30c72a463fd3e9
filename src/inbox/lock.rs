//! The lock on work, which one process holds for as long as it lives.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::fault::{Fault, Origin};

pub(super) const LOCK_FILE: &str = ".lemonade.lock";

/// The lock, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of a work directory.
    ///
    /// # Errors
    /// Fatal: its file cannot be made or locked, or another process holds it.
    pub(super) fn take(work: &Path) -> Result<Self, Fault> {
        let path = work.join(LOCK_FILE);
        let cannot = |error: io::Error| {
            Fault::fatal(
                Origin::Files,
                format!("cannot open {}", path.display()),
                error,
            )
        };
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(cannot)?;
                let doing = format!(
                    "{} is in use by process {}; stop it, or give this one another --work directory",
                    work.display(),
                    number(&holder)
                );
                return Err(Fault::fatal(Origin::Files, doing, "locked"));
            }
            Err(TryLockError::Error(error)) => {
                let doing = format!(
                    "cannot lock {}; use a file system with locks for --work",
                    path.display()
                );
                return Err(Fault::fatal(Origin::Files, doing, error));
            }
        }
        // For messages alone: a full disk must not keep the engine from starting, which waits for
        // room by itself.
        let noted = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(?path, %error, "the process id could not be written");
        }
        Ok(Self(file))
    }
}

/// What a lock file tells of its holder, for people. It is empty where there was no room for more.
fn number(holder: &str) -> String {
    match holder.trim() {
        "" => "(number unknown)".to_owned(),
        number => number.to_owned(),
    }
}

/// The process that has this work directory, if one has it now.
#[must_use]
pub fn holder(work: &Path) -> Option<String> {
    let mut file = File::open(work.join(LOCK_FILE)).ok()?;
    if file.try_lock_shared().is_ok() {
        return None;
    }
    let mut holder = String::new();
    file.read_to_string(&mut holder).ok()?;
    Some(number(&holder))
}

impl Drop for Lock {
    /// Closing alone would leave the lock to a child that is being started at this moment: it has
    /// the file open until it runs its own program.
    fn drop(&mut self) {
        // Where it fails, the close that follows does what it can.
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
        // What a fork leaves in the child until it runs its own program.
        let in_the_child = lock.0.try_clone().unwrap();
        drop(lock);
        Lock::take(work.path()).unwrap();
        drop(in_the_child);
    }

    #[test]
    fn a_holder_that_could_not_note_its_number_is_told_of_all_the_same() {
        let work = tempfile::tempdir().unwrap();
        let lock = Lock::take(work.path()).unwrap();
        let number = std::process::id().to_string();
        assert_eq!(holder(work.path()), Some(number));
        lock.0.set_len(0).unwrap();
        assert_eq!(holder(work.path()).as_deref(), Some("(number unknown)"));
        let error = Lock::take(work.path()).unwrap_err().to_string();
        assert!(error.contains("by process (number unknown);"), "{error}");
    }
}
