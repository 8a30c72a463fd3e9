//! The bytes of a file: read, mapped or inflated, with their identity.
//!
//! A small file is read into memory. A large one is mapped while all of it is hashed and cut, and
//! then read chunk by chunk. A read lease keeps its writers out for a while. Where the system gives
//! no lease, a private copy takes the place of the file. Every way to read checks afterwards whether
//! the file is still what it was when it was opened. A file that is cut short meanwhile, or a page
//! that the device does not return, is an error and does not end the process (see `mapping`).
//!
//! gzip and zstd are known by their magic bytes and inflated under a cap, large ones into an
//! unlinked file of the work directory, as long as its disk has room to spare. Memory does not grow
//! with the file.
//!
//! The only `unsafe` of the crate is here, in `regular` and `mapping`. Knows nothing of records,
//! and moves no file.

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

/// Files from this size on, in bytes, are hashed by one thread and inspected by another: some 10 ms
/// of work for each.
const THREAD_BYTES_MIN: usize = 32 << 20;

/// Files up to this size, in bytes, are read, larger ones mapped. A map costs page faults and some
/// system calls, which pay off from about a megabyte.
const READ_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// How files are read.
#[derive(Debug, Clone)]
pub struct ContentOptions {
    /// Most bytes that a compressed file may inflate to.
    pub inflated_bytes_max: u64,
    /// Directory for inflated data that is too large for memory; on a disk, not in memory.
    pub spill_dir: PathBuf,
    /// Bytes of the disk of `spill_dir` that stay free for other processes. A file that would take
    /// them ends with [`io::ErrorKind::StorageFull`] and may be tried again.
    pub spill_floor_bytes: u64,
    /// Memory for inflated data. Clones of these options share it.
    pub room: Room,
    /// Memory for the windows that inflating takes. Clones of these options share it.
    pub windows: Windows,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            // A good part of the 10 GB of disk that the engine, Redis and the database share.
            inflated_bytes_max: 4 << 30,
            spill_dir: std::env::temp_dir(),
            // 0: a command that ends soon need not leave room for other processes.
            spill_floor_bytes: 0,
            room: Room::default(),
            windows: Windows::default(),
        }
    }
}

/// An open file, its bytes inflated if it is compressed.
#[derive(Debug)]
pub struct Content {
    /// Identity: the hash of the bytes as they are stored.
    pub hash: ContentHash,
    /// Size of the file as it is stored, in bytes.
    pub stored_bytes: u64,
    /// The state of the file before its first byte was read.
    sample: Sample,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Memory(Vec<u8>),
    /// In memory, with its share of the room.
    Inflated {
        bytes: Vec<u8>,
        _taken: Taken,
    },
    Stored(Stored),
}

/// Why the bytes of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is no regular file (a link, a directory, a pipe).
    #[error("not a regular file")]
    NotRegular,
    /// A process has it open for writing, or changed it while it was read. A later attempt may
    /// succeed.
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
    /// It is of a format that is not read.
    #[error("{format}")]
    NotRead {
        /// The identity of the stored bytes.
        hash: ContentHash,
        /// Its format.
        format: NotRead,
    },
    /// It could not be read. EIO if the device did not return some of it and no process changed it.
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

/// Opens a file, computes its identity, and passes all of its (inflated) bytes to `inspect`. A large
/// file is inspected while it is hashed. The result of `inspect` is dropped if the bytes it saw were
/// not those of the file.
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

/// The bytes of a file as they are stored: in memory, or to be read from the file or a copy of it. The
/// sample is of the file before its first byte was read.
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
        // A writer could come at any time, and not every file system shows that at once.
        Body::Stored(private_copy(&file, bytes, options)?)
    };
    if body.bytes() != bytes || stamp(&file.metadata()?) != opened {
        return Err(ContentError::Busy);
    }
    Ok((body, sample))
}

/// Copies a file of `bytes` bytes into one without a name, which no other process can change.
fn private_copy(file: &File, bytes: u64, options: &ContentOptions) -> io::Result<Stored> {
    let mut copy = Spill::begin(options)?;
    // One byte more than the file had: one that grew is noticed, and not followed for ever.
    copy.copy(file, bytes + 1)?;
    Ok(copy.end())
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
    (one, done.expect("what the thread did not do is done here"))
}

impl Content {
    /// The file as it was read, to be compared with what is at its path later.
    #[must_use]
    pub fn as_read(&self) -> AsRead {
        AsRead::new(self.hash, self.sample)
    }

    /// Size of the inflated bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.body.bytes()
    }

    /// Passes the inflated bytes of a range to `inspect`. Those of a large file are mapped for as
    /// long, so the range may be larger than memory. The result of `inspect` is dropped if the bytes
    /// it saw were not those of the file.
    ///
    /// # Errors
    /// [`ContentError::Busy`] if the file was changed since it was opened, and what the system says.
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

    /// The inflated bytes of a range, which do not change any more. `buffer` holds them if the file
    /// is not in memory.
    ///
    /// # Errors
    /// As of `inspect`.
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

    /// The bytes that decide the format.
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

/// Whether the first four bytes of a file show that it is not text: it is compressed, or of a format
/// that is not read.
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
