//! Regular files: opened without surprises, asked for writers, compared with an earlier state.
//!
//! Holds the `fcntl` calls of the crate, for read leases.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::ContentError;

/// `fcntl`: which signal a file sends. Linux, on every processor that Rust builds for; missing in
/// the `libc` crate for glibc.
const F_SETSIG: libc::c_int = 10;

/// Tells one state of a file from another: device, inode, size in bytes, and mtime in seconds and
/// nanoseconds.
pub(crate) type Stamp = (u64, u64, u64, i64, i64);

/// What a read lease says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// No process has it open for writing. A process that opens it for writing while this
    /// descriptor is open waits for `/proc/sys/fs/lease-break-time`.
    None,
    /// A process has it open for writing.
    Some,
    /// The file system has no leases, or the file belongs to another user.
    Unknown,
}

/// Opens a regular file for reading, without following a link and without waiting for a pipe.
///
/// # Errors
/// [`ContentError::NotRegular`], and what the system says.
pub fn open_regular(path: &Path) -> Result<(File, Metadata), ContentError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // ELOOP is how O_NOFOLLOW refuses a link; ENXIO is a socket.
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

/// Bytes that this user may still write to the file system of a directory.
///
/// # Errors
/// The directory does not exist, or the file system does not answer.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let at = rustix::fs::statvfs(dir)?;
    Ok(at.f_bavail.saturating_mul(at.f_frsize))
}

/// Takes a read lease on a file, until `file` is closed: it shows whether the file has writers, and
/// makes a later writer wait.
#[must_use]
pub fn writers(file: &File) -> Writers {
    // The kernel reports a waiting writer to the holder of the lease by SIGIO, which ends a process
    // that does not expect it. SIGURG is ignored unless a process handles it, and one that does
    // must expect it at any time. So no handler of the process has to change.
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

/// The state of a file that `metadata` describes.
pub(crate) fn stamp(metadata: &Metadata) -> Stamp {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
}

/// Ends a lease, as the kernel does when a writer has waited for too long.
#[cfg(test)]
pub(super) fn give_up_lease(file: &File) {
    // SAFETY: as in `writers`.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}
