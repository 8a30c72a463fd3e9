//! The lock on work, which one process holds from its start to its end.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::fault::{Fault, Origin};

pub(super) const LOCK_FILE: &str = ".lemonade.lock";

/// The lock. Dropping it unlocks.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of a work directory.
    ///
    /// # Errors
    /// Fatal: the lock file cannot be created or locked, or another process holds the lock.
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
                let doing = format!("locking {}", work.display());
                let cause = format!("process {} has it", process_id(&holder));
                return Err(Fault::fatal(Origin::Files, doing, cause)
                    .with_next_step("stop that process, or use another --work directory"));
            }
            Err(TryLockError::Error(error)) => {
                let doing = format!("locking {}", path.display());
                return Err(Fault::fatal(Origin::Files, doing, error)
                    .with_next_step("use a file system with locks for --work"));
            }
        }
        // The process id is only for messages. If the disk is full, the engine must start without
        // it, and waits for room later.
        let noted = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::warn!(?path, %error, "the process id could not be written");
        }
        Ok(Self(file))
    }
}

/// The process id in a lock file, for messages. The file is empty if the disk was full.
fn process_id(holder: &str) -> String {
    match holder.trim() {
        "" => "(number unknown)".to_owned(),
        number => number.to_owned(),
    }
}

/// The process that holds the lock of this work directory. `None` if no process holds it.
#[must_use]
pub fn holder(work: &Path) -> Option<String> {
    let mut file = File::open(work.join(LOCK_FILE)).ok()?;
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
