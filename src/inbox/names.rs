//! Names of files: adds a number or a suffix within the limit of 255 bytes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Longest file name of Linux file systems, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// The end of the name of a reason in quarantine, after the name of its file.
const REASON_SUFFIX: &str = ".reason";

pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
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

/// A name with a suffix. The name is cut so that both together have at most `bytes_max` bytes.
fn with_suffix(name: &OsStr, suffix: &str, bytes_max: usize) -> OsString {
    let kept = name.len().min(bytes_max - suffix.len());
    let mut name = OsStr::from_bytes(&name.as_bytes()[..kept]).to_owned();
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
