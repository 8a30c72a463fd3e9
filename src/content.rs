//! The bytes of a file: read, mapped or inflated, with their identity.
//!
//! A small file is read. A large one is mapped if it has no writer: a read lease proves that, and
//! keeps it so for a while. A lease can be broken, though, and root needs none: so whoever reads a
//! mapped file asks afterwards whether it is intact, and a file that is cut short does not end the
//! process (see `mapping`). gzip and zstd are known by their magic bytes and inflated under a cap,
//! large ones into an unlinked file of the work directory, as long as its disk has room to spare.
//! Memory does not grow with the file.
//!
//! The only `unsafe` of the crate lives here and in `mapping`. Knows nothing of records, and moves
//! no file.

mod inflate;
mod mapping;
mod room;
mod spill;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;

pub use inflate::is_compressed;
use mapping::Mapping;
pub use room::Room;
use room::Taken;
use spill::Spill;

use crate::batch::ContentHash;

/// Files from this size on are hashed on all cores, since nothing of a file can be published before
/// it is hashed.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Files from this size on are hashed and looked at by two threads: some 10 ms of work for each.
const THREAD_BYTES_MIN: usize = 32 << 20;

/// Files up to this size are read, larger ones mapped. A map costs page faults and a system call or
/// two, which pay off from about a megabyte.
const READ_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// How files are read.
#[derive(Debug, Clone)]
pub struct ContentOptions {
    /// Most bytes that a compressed file may inflate to.
    pub inflated_bytes_max: u64,
    /// Directory for inflated data that is too large for memory; on a disk, not in memory.
    pub spill_dir: PathBuf,
    /// Bytes of its disk that stay free for others. What would take them gives
    /// [`io::ErrorKind::StorageFull`], and may be tried again.
    pub spill_floor_bytes: u64,
    /// Memory for inflated data, shared with whoever has a clone of these options.
    pub room: Room,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            // A good part of the 10 GB of disk that the engine, Redis and the database share.
            inflated_bytes_max: 4 << 30,
            spill_dir: std::env::temp_dir(),
            // None: whoever looks at one file is no service that has to live with others.
            spill_floor_bytes: 0,
            room: Room::default(),
        }
    }
}

/// An open file, whole, as bytes. Dereferences to its (inflated) bytes.
#[derive(Debug)]
pub struct Content {
    /// Identity: the hash of the bytes as they are stored.
    pub hash: ContentHash,
    /// Its size in bytes as it is stored; `len()` is the inflated size.
    pub stored_bytes: u64,
    body: Body,
    /// The mapped file, as it was when it was opened.
    held: Option<Held>,
}

/// A file that is mapped and that others can reach. Its descriptor keeps writers away, and tells
/// whether that worked.
#[derive(Debug)]
struct Held {
    file: File,
    opened: Stamp,
}

/// What tells one state of a file from another: its device, inode and size, and the time when it
/// was last written.
pub(crate) type Stamp = (u64, u64, u64, i64, i64);

#[derive(Debug)]
enum Body {
    Owned(Vec<u8>),
    Inflated { bytes: Vec<u8>, _taken: Taken },
    Mapped(Mapping),
}

/// Why a file gives no bytes.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is no regular file (a link, a directory, a pipe).
    #[error("not a regular file")]
    NotRegular,
    /// Somebody has it open for writing, or changed it while it was read. Try later.
    #[error("the file is still being written")]
    Busy,
    /// It is compressed, and its data is damaged or too much.
    #[error("{detail}")]
    Corrupt {
        /// The identity of the stored bytes.
        hash: ContentHash,
        /// What is wrong with them.
        detail: String,
    },
    /// It could not be read. EIO also where a map met pages that the device does not give, of a file
    /// that nobody has changed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a read lease says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Nobody has it open for writing, and nobody will while this descriptor lives.
    None,
    /// Somebody has.
    Some,
    /// The file system, or the owner of the file, does not let us know.
    Unknown,
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.body {
            Body::Owned(bytes) | Body::Inflated { bytes, .. } => bytes,
            Body::Mapped(map) => map,
        }
    }
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
/// A directory that is not there.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let at = rustix::fs::statvfs(dir)?;
    Ok(at.f_bavail.saturating_mul(at.f_frsize))
}

/// Asks for a read lease, which tells whether a file has writers, and keeps them out (a later
/// opener waits for `/proc/sys/fs/lease-break-time`) until `file` is closed.
#[must_use]
pub fn writers(file: &File) -> Writers {
    ignore_lease_signals();
    // SAFETY: F_SETLEASE takes an integer and touches no memory of ours; the descriptor is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if result == 0 {
        return Writers::None;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Writers::Some,
        _ => Writers::Unknown,
    }
}

/// The kernel tells a lease's holder by SIGIO that somebody wants to write, and SIGIO ends a
/// process that does not expect it. Nothing is to be done then: the opener waits, or breaks the lease.
fn ignore_lease_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SIG_IGN is no handler of ours, so nothing can run in signal context.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    });
}

/// Opens a file: gives its bytes and its identity.
///
/// # Errors
/// [`ContentError`].
pub fn open(path: &Path, options: &ContentOptions) -> Result<Content, ContentError> {
    open_and(path, options, |_| ()).map(|(content, ())| content)
}

/// Opens a file, and looks at its (inflated) bytes. Those of a large file are looked at while it is
/// hashed.
///
/// # Errors
/// [`ContentError`].
pub fn open_and<T: Send>(
    path: &Path,
    options: &ContentOptions,
    look: impl FnOnce(&[u8]) -> T + Send,
) -> Result<(Content, T), ContentError> {
    let (file, opened) = open_regular(path)?;
    let writers = writers(&file);
    if writers == Writers::Some {
        return Err(ContentError::Busy);
    }
    let mut maps_the_file = false;
    let body = if opened.len() <= READ_BYTES_MAX {
        let mut bytes = Vec::with_capacity(usize::try_from(opened.len()).unwrap_or(0) + 1);
        (&file).take(opened.len() + 1).read_to_end(&mut bytes)?;
        Body::Owned(bytes)
    } else if writers == Writers::None
        && let Some(mapping) = Mapping::shared(&file)?
    {
        maps_the_file = true;
        Body::Mapped(mapping)
    } else {
        // Without a lease a writer could come at any time, and a map that found no place in the
        // table is not guarded.
        Body::Mapped(private_copy(&file, opened.len(), options)?)
    };
    let mut content = Content {
        hash: [0; 16],
        stored_bytes: opened.len(),
        body,
        held: Some(Held {
            file,
            opened: stamp(&opened),
        }),
    };
    // Asked before anything that was made of the bytes is believed: if they have changed, they are
    // no reason for quarantine.
    let check = |content: &Content| {
        if content.len() as u64 != content.stored_bytes {
            return Err(ContentError::Busy);
        }
        content.harm().map_or(Ok(()), Err)
    };
    let looked = if is_compressed(&content) {
        content.hash = identity(&content);
        let inflated = inflate::inflate(&content, options);
        check(&content)?;
        if let Some(inflated) = inflated.map_err(|error| error.about(content.hash))? {
            content.body = inflated;
            content.held = None;
            maps_the_file = false;
        }
        let looked = look(&content);
        // What was inflated to a disk is read from there.
        content.harm().map_or(Ok(looked), Err)?
    } else {
        let bytes = &*content;
        let (hash, looked) = both(bytes.len(), || identity(bytes), || look(bytes));
        check(&content)?;
        content.hash = hash;
        looked
    };
    if !maps_the_file {
        content.held = None;
    }
    Ok((content, looked))
}

/// Does both: at the same time, if the bytes are worth a thread and the system has one.
fn both<A, B: Send>(
    bytes: usize,
    one: impl FnOnce() -> A,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    if bytes < THREAD_BYTES_MIN {
        return (one(), other());
    }
    let mut other = Some(other);
    let mut beside = || other.take().map(|other| other());
    let (one, done) = thread::scope(|scope| {
        let beside = thread::Builder::new().spawn_scoped(scope, &mut beside);
        let one = one();
        let joined =
            beside.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (one, joined.ok().flatten())
    });
    let done = done.or_else(beside);
    (one, done.expect("what is not done there is done here"))
}

impl Content {
    /// Whether all bytes that were read until now are those of the file as it was opened. Once
    /// `false`, what was made of them since the last `true` is worth nothing.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.harm().is_none()
    }

    /// What has happened to the bytes since the file was opened; `None` while they are its own.
    /// [`ContentError::Busy`] says that somebody changed them.
    #[must_use]
    pub fn harm(&self) -> Option<ContentError> {
        // Asked in this order: pages that are gone because the file was cut short are gone after its
        // size has changed. Where it has not, the device did not give them. To take that for a
        // writer would be to wait for somebody who is not there.
        let is_damaged = matches!(&self.body, Body::Mapped(mapping) if mapping.is_damaged());
        if let Some(held) = &self.held {
            match held.file.metadata() {
                // The system sets the time of a file before it changes the bytes.
                Ok(now) if stamp(&now) != held.opened => return Some(ContentError::Busy),
                Ok(_) => {}
                Err(error) => return Some(ContentError::Io(error)),
            }
        }
        is_damaged.then(|| ContentError::Io(io::Error::from_raw_os_error(libc::EIO)))
    }

    /// Bytes of the file that do not change any more: those in memory, or else a copy of them, in
    /// `copy`, that was made while the file was intact. `None` if it no longer is.
    #[must_use]
    pub fn stable<'a>(&'a self, range: Range<usize>, copy: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let mapping = match &self.body {
            Body::Owned(bytes) | Body::Inflated { bytes, .. } => return Some(&bytes[range]),
            Body::Mapped(mapping) => mapping,
        };
        // Of a file that has changed no more needs to be read.
        if !self.is_intact() {
            return None;
        }
        copy.clear();
        copy.extend_from_slice(&mapping[range]);
        self.is_intact().then_some(copy)
    }
}

/// Copies a file into one without a name, which nobody else can change, and maps that.
fn private_copy(file: &File, bytes: u64, options: &ContentOptions) -> io::Result<Mapping> {
    let mut copy = Spill::begin(options)?;
    // One byte more than there was: a file that grows is noticed, and not followed for ever.
    copy.copy(file, bytes + 1)?;
    copy.map()
}

fn identity(bytes: &[u8]) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    if bytes.len() < PARALLEL_BYTES_MIN {
        hasher.update(bytes);
    } else {
        hasher.update_rayon(bytes);
    }
    let hash = hasher.finalize();
    let (head, _) = hash
        .as_bytes()
        .split_first_chunk()
        .expect("a hash of 32 bytes has 16");
    *head
}

/// The state in which a file is.
pub(crate) fn stamp(m: &Metadata) -> Stamp {
    (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec())
}

/// Lets writers come to a mapped file at once, as a lease does once it is broken.
#[cfg(test)]
fn give_up_lease(held: &Held) {
    // SAFETY: as in `writers`.
    unsafe { libc::fcntl(held.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}

#[cfg(test)]
mod tests;
