//! The way back from quarantine to inbound, and the reasons that lie beside the files there.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::moving::{NAME_BYTES_MAX, with_ending};
use super::{Directories, move_into};

/// What the name of a reason in quarantine ends with, after the name of its file.
pub(super) const REASON_ENDING: &str = ".reason";

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
    // The file has moved: a reason that stays behind is untidy, and no failure.
    let reason = reason_of(&from);
    match fs::remove_file(&reason) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = ?reason, %error, "the reason could not be removed");
        }
        _ => {}
    }
    Ok(path)
}

/// The names of the files in quarantine, in order, without the reasons beside them.
///
/// # Errors
/// The directory cannot be read.
pub fn quarantined(quarantine: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(quarantine)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_hidden(&name) && entry.file_type()?.is_file() {
            names.push(name);
        }
    }
    // A reason is one only beside its file: `x.reason` alone was put there by somebody.
    let reasons: HashSet<OsString> = names.iter().filter_map(|name| reason_name(name)).collect();
    names.retain(|name| !reasons.contains(name));
    names.sort();
    Ok(names)
}

/// Counts what [`quarantined`] lists, one name at a time: there may be very many.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn count_quarantined(quarantine: &Path) -> io::Result<u64> {
    let is_file = |name: OsString| {
        let metadata = quarantine.join(name).symlink_metadata();
        metadata.is_ok_and(|metadata| metadata.is_file())
    };
    let (mut all, mut reasons) = (0_u64, 0);
    for entry in fs::read_dir(quarantine)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_hidden(&name) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        all += 1;
        reasons += u64::from(reason_name(&name).is_some_and(is_file));
    }
    // Files come and go while they are counted.
    Ok(all.saturating_sub(reasons))
}

/// Where the reason of a file in quarantine stands.
pub(super) fn reason_of(path: &Path) -> PathBuf {
    path.with_file_name(with_reason_ending(path.file_name().unwrap_or_default()))
}

/// The name of the reason of a file; none for what is named as a reason whose name was cut.
fn reason_name(name: &OsStr) -> Option<OsString> {
    let reason = with_reason_ending(name);
    (reason != name).then_some(reason)
}

fn with_reason_ending(name: &OsStr) -> OsString {
    with_ending(name, REASON_ENDING, NAME_BYTES_MAX)
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}
