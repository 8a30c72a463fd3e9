//! The way back from quarantine to inbound, and the reasons that lie beside the files there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Directories, move_into};

/// What the name of a reason in quarantine ends with, after the name of its file.
pub const REASON_ENDING: &str = ".reason";

/// Moves a file of quarantine back to inbound, to be taken in again, and removes its reason. Safe
/// beside a running service, which only ever adds to quarantine.
///
/// # Errors
/// The system's. Among them are `NotFound`, and `InvalidInput` for what is not the name of a file
/// there.
pub fn requeue(directories: &Directories, name: &OsStr) -> io::Result<PathBuf> {
    let from = directories.quarantine.join(name);
    if Path::new(name).file_name() != Some(name) || !fs::symlink_metadata(&from)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = move_into(&from, &directories.inbound, name)?;
    match fs::remove_file(reason_of(&from)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(path),
    }
}

/// Where the reason of a file in quarantine stands.
pub(super) fn reason_of(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(REASON_ENDING);
    beside.into()
}
