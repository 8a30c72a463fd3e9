//! The bytes of a file: read, mapped or inflated, with their identity.
//!
//! A small file is read into memory. A large file is mapped while all of it is hashed and cut, and
//! then read chunk by chunk. A read lease makes writers of the file wait for a while. If the file
//! system gives no lease, the engine reads a private copy of the file. Each read checks afterwards
//! that the file has not changed since it was opened. A file that is truncated while it is mapped,
//! or a page that the device does not return, is an error and does not end the process (see
//! `mapping`).
//!
//! gzip and zstd are recognised by their magic bytes and inflated up to a limit. Large results go
//! to an unlinked file in the work directory, which stops at the disk floor. Memory does not grow
//! with the file.
//!
//! The only `unsafe` of the crate is in `regular` and `mapping`. This module knows nothing of
//! records, and moves no file.

mod as_read;
mod format;
mod inflate;
mod mapping;
mod regular;
mod room;
mod spill;
mod stored;

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

pub use as_read::AsRead;
use as_read::{Sample, sample};
use format::Format;
pub use format::NotRead;
use inflate::Compression;
pub(crate) use regular::{Stamp, stamp};
pub use regular::{Writers, free_bytes, open_regular, writers};
use room::Taken;
pub use room::{Room, Windows};
use spill::Spill;
use stored::Stored;

use crate::batch::ContentHash;

/// Files from this size on, in bytes, are hashed on all cores, since nothing of a file can be
/// published before it is hashed.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Files from this size on, in bytes, are hashed by one thread and inspected by another. Each takes
/// about 10 ms then; for less work, a thread costs more than it saves.
const THREAD_BYTES_MIN: usize = 32 << 20;

/// Files up to this size, in bytes, are read; larger ones are mapped. A map costs page faults and
/// some system calls, so below about one megabyte a read is faster.
const READ_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// How files are read.
#[derive(Debug, Clone)]
pub struct ContentOptions {
    /// Most bytes that a compressed file may inflate to.
    pub inflated_bytes_max: u64,
    /// Directory for inflated data that is too large for memory. Must be on a disk, not on a tmpfs.
    pub spill_dir: PathBuf,
    /// Bytes of the disk of `spill_dir` that must stay free for other processes. A file that would
    /// need them fails with [`io::ErrorKind::StorageFull`]; a later attempt may succeed.
    pub spill_floor_bytes: u64,
    /// Memory for inflated data. Clones of these options share it.
    pub room: Room,
    /// Memory for the windows that inflating takes. Clones of these options share it.
    pub windows: Windows,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            // 4 GiB, of the 10 GB of disk that the engine, Redis and the database share.
            inflated_bytes_max: 4 << 30,
            spill_dir: std::env::temp_dir(),
            // 0: a short command need not leave room for other processes.
            spill_floor_bytes: 0,
            room: Room::default(),
            windows: Windows::default(),
        }
    }
}

/// An open file. If the file is compressed, its bytes are inflated.
#[derive(Debug)]
pub struct Content {
    /// Identity: the hash of the bytes on the disk, before they are inflated.
    pub hash: ContentHash,
    /// Size of the file on the disk, in bytes.
    pub stored_bytes: u64,
    /// The state of the file before its first byte was read.
    sample: Sample,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Memory(Vec<u8>),
    /// In memory, with the part of the room that it takes.
    Inflated {
        bytes: Vec<u8>,
        _taken: Taken,
    },
    Stored(Stored),
}

/// Why the bytes of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The path is not a regular file (a link, a directory, a pipe).
    #[error("not a regular file")]
    NotRegular,
    /// A process has the file open for writing, or changed it while it was read. A later attempt
    /// may succeed.
    #[error("the file is still being written")]
    Busy,
    /// The file is compressed, and its data is damaged or inflates to more than the limit.
    #[error("{detail}")]
    Corrupt {
        /// The identity of the file.
        hash: ContentHash,
        /// What is wrong with the data.
        detail: String,
    },
    /// The file has a format that the engine does not read.
    #[error("{format}")]
    NotRead {
        /// The identity of the file.
        hash: ContentHash,
        /// The format of the file.
        format: NotRead,
    },
    /// A system call failed. EIO if the device did not return all bytes and no process changed the
    /// file.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Opens a file and computes its identity.
///
/// # Errors
/// [`ContentError`].
pub fn open(path: &Path, options: &ContentOptions) -> Result<Content, ContentError> {
    open_and(path, options, |_| ()).map(|(content, ())| content)
}

/// Opens a file, computes its identity, and passes all of its inflated bytes to `inspect`. A large
/// file is inspected while it is hashed. The result of `inspect` is dropped if the file changed
/// meanwhile.
///
/// # Errors
/// [`ContentError`].
pub fn open_and<T: Send>(
    path: &Path,
    options: &ContentOptions,
    inspect: impl FnOnce(&[u8]) -> T + Send,
) -> Result<(Content, T), ContentError> {
    let (stored, sample) = read_or_hold(path, options)?;
    let stored_bytes = stored.bytes();
    let mut buffer = Vec::new();
    let compression = match Format::of(stored.beginning(&mut buffer)?) {
        Format::Plain => None,
        Format::Gzip => Some(Compression::Gzip),
        Format::Zstd => Some(Compression::Zstd),
        Format::NotRead(format) => {
            let hash = stored.inspect(identity)?;
            return Err(ContentError::NotRead { hash, format });
        }
    };
    let Some(compression) = compression else {
        let hash_and_inspect =
            |bytes: &[u8]| both(bytes.len(), || identity(bytes), || inspect(bytes));
        let (hash, inspected) = stored.inspect(hash_and_inspect)?;
        let content = Content {
            hash,
            stored_bytes,
            sample,
            body: stored,
        };
        return Ok((content, inspected));
    };
    let inflate = |bytes: &[u8]| inflate::inflate(bytes, compression, options);
    let (hash, inflated) = stored.inspect(|bytes| (identity(bytes), inflate(bytes)))?;
    let body = inflated.map_err(|error| error.about(hash))?;
    let beginning = body.beginning(&mut buffer)?;
    if let Some(format) = format::not_read_within(compression.name(), beginning) {
        return Err(ContentError::NotRead { hash, format });
    }
    let inspected = body.inspect(inspect)?;
    let content = Content {
        hash,
        stored_bytes,
        sample,
        body,
    };
    Ok((content, inspected))
}

/// The bytes of a file on the disk: in memory, or to be read from the file or a copy of it. The
/// sample is the state of the file before its first byte was read.
fn read_or_hold(path: &Path, options: &ContentOptions) -> Result<(Body, Sample), ContentError> {
    let (file, opened) = open_regular(path)?;
    let writers = writers(&file);
    if writers == Writers::Some {
        return Err(ContentError::Busy);
    }
    let (bytes, sample, opened) = (opened.len(), sample(&opened), stamp(&opened));
    let body = if bytes <= READ_BYTES_MAX {
        let mut memory = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0) + 1);
        (&file).take(bytes + 1).read_to_end(&mut memory)?;
        Body::Memory(memory)
    } else if writers == Writers::None {
        let stored = Stored::shared(file, bytes, opened);
        return Ok((Body::Stored(stored), sample));
    } else {
        // Without a lease, a writer could open the file at any time, and some file systems show its
        // changes late.
        Body::Stored(private_copy(&file, bytes, options)?)
    };
    if body.bytes() != bytes || stamp(&file.metadata()?) != opened {
        return Err(ContentError::Busy);
    }
    Ok((body, sample))
}

/// Copies a file of `bytes` bytes to a file without a name, which no other process can change.
fn private_copy(file: &File, bytes: u64, options: &ContentOptions) -> io::Result<Stored> {
    let mut copy = Spill::begin(options)?;
    // One byte more than the file had shows that it grew. Without a limit, the copy of a file that
    // keeps growing would not end.
    copy.copy(file, bytes + 1)?;
    Ok(copy.end())
}

/// Calls `one` and `other`: in two threads if there are enough bytes and the system gives a thread.
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
    (one, done.expect("either the thread or this one called it"))
}

impl Content {
    /// The state of the file as it was read, to be compared with the file at its path later.
    #[must_use]
    pub fn as_read(&self) -> AsRead {
        AsRead::new(self.hash, self.sample)
    }

    /// How many inflated bytes the file has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.body.bytes()
    }

    /// Passes the inflated bytes of a range to `inspect`. A large file is mapped until `inspect`
    /// returns, so the range may be larger than memory. The result of `inspect` is dropped if the
    /// file changed meanwhile.
    ///
    /// # Errors
    /// [`ContentError::Busy`] if the file was changed since it was opened; [`ContentError::Io`].
    ///
    /// # Panics
    /// If the range is not within the file.
    pub fn inspect<T>(
        &self,
        range: Range<u64>,
        inspect: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ContentError> {
        self.body.inspect(|bytes| inspect(&bytes[in_memory(range)]))
    }

    /// The inflated bytes of a range, which can no longer change. They are copied to `buffer` if
    /// the file is not in memory.
    ///
    /// # Errors
    /// [`ContentError::Busy`] if the file was changed since it was opened; [`ContentError::Io`].
    ///
    /// # Panics
    /// If the range is not within the file.
    pub fn read<'a>(
        &'a self,
        range: Range<u64>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ContentError> {
        self.body.read(range, buffer)
    }
}

impl Body {
    fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) | Self::Inflated { bytes, .. } => bytes.len() as u64,
            Self::Stored(stored) => stored.bytes(),
        }
    }

    /// The first bytes, which decide the format.
    fn beginning<'a>(&'a self, buffer: &'a mut Vec<u8>) -> Result<&'a [u8], ContentError> {
        self.read(0..self.bytes().min(format::BEGINNING_BYTES), buffer)
    }

    fn inspect<T>(&self, inspect: impl FnOnce(&[u8]) -> T) -> Result<T, ContentError> {
        match self {
            Self::Memory(bytes) | Self::Inflated { bytes, .. } => Ok(inspect(bytes)),
            Self::Stored(stored) => stored.inspect(inspect),
        }
    }

    fn read<'a>(
        &'a self,
        range: Range<u64>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ContentError> {
        match self {
            Self::Memory(bytes) | Self::Inflated { bytes, .. } => Ok(&bytes[in_memory(range)]),
            Self::Stored(stored) => stored.read(range, buffer),
        }
    }
}

/// Whether the first four bytes of a file show that it is not text: the file is compressed, or has
/// a format that the engine does not read.
#[must_use]
pub fn is_compressed(beginning: &[u8]) -> bool {
    Format::of(beginning) != Format::Plain
}

fn in_memory(range: Range<u64>) -> Range<usize> {
    let at = |offset| usize::try_from(offset).expect("bytes in memory have an address");
    at(range.start)..at(range.end)
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

#[cfg(test)]
mod tests;
