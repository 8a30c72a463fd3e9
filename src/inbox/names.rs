//! Names of files: adds a number or a suffix within the limit of 255 bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Longest file name of Linux file systems, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// The end of the name of a reason in quarantine, after the name of its file.
const REASON_SUFFIX: &str = ".reason";

/// The end of the name of a file that the engine has compressed, after the name of the file.
pub(super) const COMPACTED_ENDING: &str = ".zst";

/// A path without the ending of a compressed file.
pub(super) fn without_ending(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let stem = bytes.strip_suffix(COMPACTED_ENDING.as_bytes());
    stem.map_or(path, |stem| Path::new(OsStr::from_bytes(stem)))
}

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// The beginning of the name of a directory in work, for files whose name in work is taken. So a
/// file in work has the name that it had in inbound.
const AGAIN_PREFIX: &str = ".again-";

/// The directory in work for this attempt to claim a file, from 0.
pub(super) fn work_for(work: &Path, attempt: u32) -> PathBuf {
    match attempt {
        0 => work.to_owned(),
        attempt => work.join(format!("{AGAIN_PREFIX}{attempt}")),
    }
}

/// The directories in work for files whose name in work is taken.
#[must_use]
pub(super) fn again(work: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(work).into_iter().flatten().flatten();
    let again = entries.filter(|entry| is_again(&entry.file_name()));
    again.map(|entry| entry.path()).collect()
}

/// Whether a name is that of a directory of [`work_for`].
pub(super) fn is_again(name: &OsStr) -> bool {
    name.as_bytes().starts_with(AGAIN_PREFIX.as_bytes())
}

/// The name of a file in work, from its path below the directory of its process. A directory that was
/// taken over lies in one for files whose name is taken.
pub(super) fn name_in_work(path: &Path) -> &OsStr {
    let mut name = path;
    loop {
        let mut components = name.components();
        let first = components.next();
        let rest = components.as_path();
        if !first.is_some_and(|first| is_again(first.as_os_str())) || rest == Path::new("") {
            return name.as_os_str();
        }
        name = rest;
    }
}

/// The name for this attempt, from 0: first the name itself, then the name with a number.
pub(super) fn numbered(name: &OsStr, attempt: u32) -> OsString {
    if attempt == 0 {
        return name.to_owned();
    }
    with_suffix(name, &format!(".{attempt}"), NAME_BYTES_MAX)
}

/// As [`numbered`], but a name with a number is cut so that the suffix of its reason fits as well:
/// then the names of the reasons also differ between attempts. A name without a number is not cut.
pub(super) fn numbered_with_reason(name: &OsStr, attempt: u32) -> OsString {
    if attempt == 0 {
        return name.to_owned();
    }
    let bytes_max = NAME_BYTES_MAX - REASON_SUFFIX.len();
    with_suffix(name, &format!(".{attempt}"), bytes_max)
}

/// A name with a suffix. The name is cut so that its last segment has at most `bytes_max` bytes
/// with the suffix.
fn with_suffix(name: &OsStr, suffix: &str, bytes_max: usize) -> OsString {
    let bytes = name.as_bytes();
    // The limit is that of the last segment.
    let last = bytes
        .iter()
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1);
    let kept = bytes.len().min(last + bytes_max - suffix.len());
    let mut name = OsStr::from_bytes(&bytes[..kept]).to_owned();
    name.push(suffix);
    name
}

/// The path of the reason of a file in quarantine.
pub(super) fn reason_path(path: &Path) -> PathBuf {
    path.with_file_name(with_reason_suffix(path.file_name().unwrap_or_default()))
}

/// The name of the reason of a file. `None` if this is the file's own name: the file is a reason
/// whose name was cut.
pub(super) fn reason_name(name: &OsStr) -> Option<OsString> {
    let reason = with_reason_suffix(name);
    (reason != name).then_some(reason)
}

fn with_reason_suffix(name: &OsStr) -> OsString {
    with_suffix(name, REASON_SUFFIX, NAME_BYTES_MAX)
}
