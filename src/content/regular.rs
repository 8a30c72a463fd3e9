//! Regular files: opens them without following a link, finds their writers by a read lease, and
//! takes the stamp that shows a change.
//!
//! Holds the `fcntl` calls of the crate.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::error::ContentError;

/// The `fcntl` command that sets the signal of a descriptor. The number is the same on every
/// processor that Rust builds Linux programs for. The `libc` crate lacks it for glibc.
const F_SETSIG: libc::c_int = 10;

/// The state of a file: device, inode, size in bytes, and mtime in seconds and nanoseconds. It
/// differs after a change of the file.
pub type Stamp = (u64, u64, u64, i64, i64);

/// Whether a file has writers, as a read lease shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// No process has the file open for writing. A process that opens it for writing while this
    /// descriptor is open waits up to `/proc/sys/fs/lease-break-time` seconds.
    None,
    /// A process has the file open for writing.
    Some,
    /// The file system has no leases, or the file belongs to another user.
    Unknown,
}

/// Opens a regular file for reading. Follows no link, and does not wait for the writer of a pipe.
///
/// # Errors
/// [`ContentError::NotRegular`] if it is not a regular file; [`ContentError::Io`].
pub fn open_regular(path: &Path) -> Result<(File, Metadata), ContentError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // O_NOFOLLOW refuses a link with ELOOP; opening a socket fails with ENXIO.
            Some(libc::ELOOP | libc::ENXIO) => ContentError::NotRegular,
            _ => ContentError::Io(error),
        })?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(ContentError::NotRegular)
    }
}

/// Free bytes of the file system of a directory, for a user without privileges.
///
/// # Errors
/// The directory does not exist, or the file system does not answer.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let at = rustix::fs::statvfs(dir)?;
    Ok(at.f_bavail.saturating_mul(at.f_frsize))
}

/// Takes a read lease on a file until `file` is closed. The lease shows whether the file has
/// writers, and makes a later writer wait.
#[must_use]
pub fn writers(file: &File) -> Writers {
    // The kernel reports a waiting writer to the holder of the lease by a signal. The default is
    // SIGIO, which ends a process that does not handle it. SIGURG is ignored by default, and a
    // process that handles it must expect it at any time. So this function changes no handler.
    //
    // SAFETY: F_SETSIG and F_SETLEASE take an integer and touch no memory of this process; the
    // descriptor is open.
    let result = unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)
    };
    if result == 0 {
        return Writers::None;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Writers::Some,
        _ => Writers::Unknown,
    }
}

/// The stamp of the file that `metadata` describes.
pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
}

/// A stamp, and ctime in seconds and nanoseconds, which no program can set.
pub type Sample = (Stamp, i64, i64);

/// Size, mtime, ctime, inode and device of a file: as long as they are equal, so is its content.
#[must_use]
pub fn state(metadata: &Metadata) -> impl PartialEq + use<> {
    sample(metadata)
}

/// The sample of the file that `metadata` describes.
pub(crate) fn sample(metadata: &Metadata) -> Sample {
    (stamp(metadata), metadata.ctime(), metadata.ctime_nsec())
}

/// A hash of inode and mtime. A rename keeps both, so it recognises a file under another name; a file
/// with other bytes that replaces it later has another inode or another mtime.
#[must_use]
pub fn mark(sample: &Sample) -> u64 {
    let (_, inode, _, seconds, nanos) = sample.0;
    let numbers = [
        inode.to_le_bytes(),
        seconds.to_le_bytes(),
        nanos.to_le_bytes(),
    ];
    let hash = blake3::hash(numbers.as_flattened());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes are cut"))
}

/// Ends a lease, as the kernel does after a writer has waited for the lease break time.
#[cfg(test)]
pub(super) fn give_up_lease(file: &File) {
    // SAFETY: as in `writers`.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}
