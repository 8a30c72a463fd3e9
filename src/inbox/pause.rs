//! The operator's pause: a marker in the work directory. While it exists, the service with this
//! directory takes no file, even after a restart.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::directory;

/// Hidden, as is everything in work that is not a claimed file.
const PAUSE_FILE: &str = ".lemonade.paused";

/// Creates the marker. Returns whether it did not exist before.
///
/// # Errors
/// A system call fails.
pub fn pause(work: &Path) -> io::Result<bool> {
    directory::create_private(work)?;
    match File::create_new(work.join(PAUSE_FILE)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the marker. Returns whether it existed.
///
/// # Errors
/// A system call fails.
pub fn resume(work: &Path) -> io::Result<bool> {
    match fs::remove_file(work.join(PAUSE_FILE)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the marker exists.
#[must_use]
pub fn is_paused(work: &Path) -> bool {
    work.join(PAUSE_FILE).symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_is_made_and_removed_once() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        assert!(!is_paused(&work) && !resume(&work).unwrap());
        assert!(pause(&work).unwrap() && !pause(&work).unwrap());
        assert!(is_paused(&work));
        assert!(resume(&work).unwrap() && !is_paused(&work));
    }
}
