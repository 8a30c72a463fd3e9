//! The bytes of a file: read, mapped or inflated, with their identity.
//!
//! A small file is read into memory. A large file is mapped while all of it is hashed and cut, and
//! then read chunk by chunk. A read lease makes writers of the file wait for a while. If the file
//! system gives no lease, the engine reads a private copy of the file. Each read checks afterwards
//! that the file has not changed since it was opened. A file that is truncated while it is mapped,
//! or a page that the device does not return, is an error and does not end the process (see
//! `mapping`).
//!
//! Compressed files are recognised by their magic bytes and inflated up to a limit. Large results go
//! to an unlinked file in the work directory, which stops at the disk floor. Memory does not grow
//! with the file.
//!
//! The only `unsafe` of the crate is in `regular` and `mapping`. This module knows nothing of
//! records, and moves no file.

mod as_read;
mod body;
mod error;
mod format;
mod inflate;
mod mapping;
mod options;
mod regular;
mod room;
mod spill;
mod stored;

use std::ops::Range;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

pub use as_read::AsRead;
pub use body::Hasher;
use body::{Body, identity, in_memory, read_or_hold};
pub use error::ContentError;
use format::Format;
pub use format::{BEGINNING_BYTES, Compression, NotRead};
pub use options::ContentOptions;
pub use regular::{Sample, Stamp, Writers, free_bytes, mark, open_regular, state, writers};
pub(crate) use regular::{sample, stamp};
pub use room::{Room, Windows};

use crate::batch::ContentHash;

/// Files from this size on, in bytes, are hashed by one thread and inspected by another. Each takes
/// about 10 ms then; for less work, a thread costs more than it saves.
const THREAD_BYTES_MIN: usize = 32 << 20;

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
        Format::Compressed(compression) => Some(compression),
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
    let (hash, inflated) =
        stored.inspect(|bytes| both(bytes.len(), || identity(bytes), || inflate(bytes)))?;
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

/// Whether the first bytes of a file show that it is not text: the file is compressed, or has a
/// format that the engine does not read. [`BEGINNING_BYTES`] bytes are enough.
#[must_use]
pub fn is_compressed(beginning: &[u8]) -> bool {
    Format::of(beginning) != Format::Plain
}

#[cfg(test)]
mod tests;
