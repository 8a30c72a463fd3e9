//! The bytes of a file or of a member of a container: identified, inflated, and inspected.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use super::as_read::AsRead;
use super::body::{Body, identity, in_memory};
use super::compact::Compacted;
use super::error::ContentError;
use super::format::{self, Format, Packing};
use super::inflate;
use super::options::ContentOptions;
use super::regular::Sample;
use crate::batch::ContentHash;

/// Files from this size on, in bytes, are hashed by one thread and inspected by another. Each takes
/// about 10 ms then; for less work, a thread costs more than it saves.
const THREAD_BYTES_MIN: usize = 32 << 20;

/// An open file. If the file is compressed, its bytes are inflated.
#[derive(Debug)]
pub struct Content {
    /// Identity: the hash of the bytes as they were delivered, before they are inflated. These are the
    /// bytes on the disk, unless the engine has compressed the file.
    pub hash: ContentHash,
    /// Size of the file as it was delivered, in bytes.
    pub stored_bytes: u64,
    /// The hash of the bytes on the disk.
    on_disk: ContentHash,
    /// The state of the file before its first byte was read.
    sample: Sample,
    pub(super) body: Body,
}

impl Content {
    /// The state of the file as it was read, to be compared with the file at its path later.
    #[must_use]
    pub fn as_read(&self) -> AsRead {
        AsRead::new(self.hash, self.on_disk, self.sample)
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

/// What stored bytes are.
pub(super) enum Found<T> {
    File(Content, T),
    Packed(Packed),
}

/// A container, before its members are listed.
pub(super) struct Packed {
    pub(super) packing: Packing,
    pub(super) hash: ContentHash,
    pub(super) sample: Sample,
    /// Its bytes, inflated if the container is compressed.
    pub(super) body: Body,
}

/// Computes the identity of stored bytes, and inflates and inspects them, unless they are a container.
pub(super) fn of_body<T: Send>(
    stored: Body,
    sample: Sample,
    options: &ContentOptions,
    inspect: impl FnOnce(&[u8]) -> T + Send,
) -> Result<Found<T>, ContentError> {
    let stored_bytes = stored.bytes();
    let content = |hash, body| Content {
        hash,
        stored_bytes,
        on_disk: hash,
        sample,
        body,
    };
    let packed = |packing, hash, body| Packed {
        packing,
        hash,
        sample,
        body,
    };
    let mut buffer = Vec::new();
    let beginning = stored.beginning(&mut buffer)?;
    let compacted = Compacted::parse(beginning);
    let compression = match Format::of(beginning) {
        Format::Plain => {
            let hash_and_inspect =
                |bytes: &[u8]| both(bytes.len(), || identity(bytes), || inspect(bytes));
            let (hash, inspected) = stored.inspect(hash_and_inspect)?;
            return Ok(Found::File(content(hash, stored), inspected));
        }
        Format::Compressed(compression) => compression,
        Format::Container(packing) => {
            let hash = stored.inspect(identity)?;
            return Ok(Found::Packed(packed(packing, hash, stored)));
        }
        Format::NotRead(format) => {
            let hash = stored.inspect(identity)?;
            return Err(ContentError::NotRead { hash, format });
        }
    };
    let inflate = |bytes: &[u8]| inflate::inflate(bytes, compression, options);
    let (hash, inflated) =
        stored.inspect(|bytes| both(bytes.len(), || identity(bytes), || inflate(bytes)))?;
    let body = inflated.map_err(|error| error.about(hash))?;
    match format::within(compression.name(), body.beginning(&mut buffer)?) {
        Format::NotRead(format) => Err(ContentError::NotRead { hash, format }),
        Format::Container(packing) => Ok(Found::Packed(packed(packing, hash, body))),
        // A frame that names another size was not written by the engine.
        Format::Plain | Format::Compressed(_)
            if compacted.is_some_and(|it| it.bytes == body.bytes()) =>
        {
            let delivered = |bytes: &[u8]| both(bytes.len(), || identity(bytes), || inspect(bytes));
            let (delivered, inspected) = body.inspect(delivered)?;
            let content = Content {
                hash: delivered,
                stored_bytes: body.bytes(),
                ..content(hash, body)
            };
            Ok(Found::File(content, inspected))
        }
        Format::Plain | Format::Compressed(_) => {
            let inspected = body.inspect(inspect)?;
            Ok(Found::File(content(hash, body), inspected))
        }
    }
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
