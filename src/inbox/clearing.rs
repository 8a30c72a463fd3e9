//! Cleans up what killed processes have left in the middle of a move: unfinished copies, and files
//! under a hidden name.
//!
//! A process that lives has a lock on each file of these names, and keeps it until the file has its
//! final name.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::directories::Directories;
use super::moving::{ASIDE_PREFIX, is_copy, move_within};
use super::tree::each_file;
use crate::content;

/// Cleans up after killed processes in all directories, below inbound only if `recursive`. A
/// directory in which that fails is named in the log.
pub fn clear_up_all(directories: &Directories, recursive: bool) {
    for (_, dir) in directories.named() {
        // Directories below inbound may be those of other programs.
        let below = dir != directories.inbound || recursive;
        match clear_up(dir, below) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, ?dir, "is not cleaned up after a killed move");
            }
            _ => {}
        }
    }
}

/// Cleans up after killed processes in a directory and, if `below`, in those below it: removes
/// unfinished copies, and gives files that were set aside their names back. Both are regular files
/// that no process has locked.
///
/// # Errors
/// The directory cannot be read, or a system call fails.
pub(super) fn clear_up(dir: &Path, below: bool) -> io::Result<()> {
    each_file(
        dir,
        |_| below,
        |_, entry| {
            let name = entry.file_name();
            let former = former_name(&name);
            if !is_copy(&name) && former.is_none() {
                return Ok(());
            }
            let path = entry.path();
            // Another process that uses the same directory may be copying the file, or has just
            // renamed it.
            let Ok((file, _)) = content::open_regular(&path) else {
                return Ok(());
            };
            if file.try_lock().is_err() {
                return Ok(());
            }
            let cleared = if let Some(former) = former {
                tracing::warn!(?path, "gives the file of a killed move its name back");
                let directory = path.parent().expect("a file in a directory");
                move_within(&path, directory, former).map(drop)
            } else {
                tracing::warn!(?path, "removes the copy that a killed process left");
                fs::remove_file(&path)
            };
            match cleared {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        },
    )
}

/// The name that a file had before it was set aside. `None` if it was not. The way of a file of
/// history to inbound on another device sets it aside twice.
fn former_name(name: &OsStr) -> Option<&OsStr> {
    let prefix = ASIDE_PREFIX.as_bytes();
    let mut former = name.as_bytes().strip_prefix(prefix)?;
    while let Some(before) = former.strip_prefix(prefix) {
        former = before;
    }
    (!former.is_empty()).then(|| OsStr::from_bytes(former))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::inbox::moving::{begin_copy, set_aside};
    use crate::inbox::names::NAME_BYTES_MAX;
    use crate::inbox::tests::names;

    /// A kill between the renames and the removal leaves these files.
    #[test]
    fn a_file_that_was_set_aside_gets_a_name_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let long = "x".repeat(NAME_BYTES_MAX);
        for name in ["a", "moving", "twice", &long] {
            fs::write(at(name), "1").unwrap();
            let (_file, copied) = content::open_regular(&at(name)).unwrap();
            set_aside(&at(name), &copied).unwrap();
        }
        let once = at(".lemonade-moved-twice");
        set_aside(&once, &content::open_regular(&once).unwrap().1).unwrap();
        fs::write(at("a"), "2").unwrap();
        let (moving, _) = content::open_regular(&at(".lemonade-moved-moving")).unwrap();
        moving.lock().unwrap();
        clear_up(dir.path(), false).unwrap();
        let cut = &long[..NAME_BYTES_MAX - ASIDE_PREFIX.len()];
        assert_eq!(
            names(dir.path()),
            [".lemonade-moved-moving", "a", "a.1", "twice", cut]
        );
        assert_eq!(fs::read(at("a")).unwrap(), b"2");
        assert_eq!(fs::read(at("a.1")).unwrap(), b"1");
    }

    /// A handle that only reads takes the lock over before the one that writes is closed.
    #[test]
    fn a_copy_that_is_only_read_is_locked_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let copy = begin_copy(dir.path()).unwrap();
        let reads = File::open(copy.path()).unwrap();
        reads.try_lock_shared().unwrap();
        let (file, path) = copy.into_parts();
        drop(file);
        clear_up(dir.path(), false).unwrap();
        assert!(path.exists());
        drop(reads);
        clear_up(dir.path(), false).unwrap();
        assert!(!path.exists());
    }
}
