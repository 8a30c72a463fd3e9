//! When a file arrived, and how old it is.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// When a file arrived in its directory, or was last written: its ctime, which a move sets and no
/// program can set back. Not mtime, which a copy may keep from years ago.
pub(super) fn arrived(metadata: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(metadata.ctime().try_into().unwrap_or_default());
    let rest = Duration::from_nanos(metadata.ctime_nsec().try_into().unwrap_or_default());
    UNIX_EPOCH + seconds + rest
}

/// How long ago a file was written. Age by mtime, which the writer can set to anything. If mtime is
/// in the future, age by ctime. If both are, 0.
pub(super) fn age(metadata: &Metadata) -> Duration {
    let written = metadata.modified().ok();
    let age = written.and_then(|at| at.elapsed().ok());
    age.unwrap_or_else(|| arrived(metadata).elapsed().unwrap_or_default())
}
