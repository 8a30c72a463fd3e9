//! The files below a directory of the engine, with their paths below it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirEntry, ReadDir};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Most levels of directories. Each holds an open directory, and a deeper tree is hardly meant.
const LEVELS_MAX: usize = 32;

/// Calls `visit` with each entry below `root` that is no directory, and its path below `root`.
/// Links are not followed. `enter` decides by its path below `root` whether a directory is entered. One
/// that cannot be read is passed over, with a warning.
///
/// # Errors
/// `root` cannot be read, or those of `visit`.
pub(super) fn each_file(
    root: &Path,
    enter: impl Fn(&Path) -> bool,
    mut visit: impl FnMut(OsString, &DirEntry) -> io::Result<()>,
) -> io::Result<()> {
    let mut open: Vec<(PathBuf, ReadDir)> = vec![(PathBuf::new(), fs::read_dir(root)?)];
    loop {
        let levels = open.len();
        let Some((below, entries)) = open.last_mut() else {
            return Ok(());
        };
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let entry = match entry {
            Err(error) if levels == 1 => return Err(error),
            Err(error) => {
                warn(&root.join(below), &error);
                open.pop();
                continue;
            }
            Ok(entry) => entry,
        };
        let path = below.join(entry.file_name());
        // The type of an entry is that of a link itself.
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(path.into_os_string(), &entry)?;
        } else if enter(&path) {
            if levels == LEVELS_MAX {
                let why = io::Error::other(format!("it has more than {LEVELS_MAX} levels"));
                warn(&root.join(path), &why);
                continue;
            }
            match fs::read_dir(entry.path()) {
                Ok(entries) => open.push((path, entries)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => warn(&entry.path(), &error),
            }
        }
    }
}

fn warn(path: &Path, error: &io::Error) {
    tracing::warn!(?path, %error, "the directory cannot be read; its files are passed over");
}

/// The last segment of a path below a directory.
pub(super) fn last(path: &OsStr) -> &OsStr {
    Path::new(path).file_name().unwrap_or(path)
}

/// Removes the directories below `root` that are empty, and those that become empty by that.
pub(super) fn remove_empty(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
            // Fails if it is not empty.
            let _ = fs::remove_dir(entry.path());
        }
    }
}
