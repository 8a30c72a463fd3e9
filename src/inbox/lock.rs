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
                    holder.trim()
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
        file.set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(cannot)?;
        Ok(Self(file))
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
    Some(holder.trim().to_owned())
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
}
