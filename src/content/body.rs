//! Where the bytes of a file are: in memory, or on a disk.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::ContentError;
use super::format;
use super::options::ContentOptions;
use super::regular::{Sample, Writers, open_regular, sample, stamp, writers};
use super::room::Taken;
use super::spill::Spill;
use super::stored::Stored;
use crate::batch::ContentHash;

/// Files from this size on, in bytes, are hashed on all cores, since nothing of a file can be
/// published before it is hashed.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Files up to this size, in bytes, are read; larger ones are mapped. A map costs page faults and
/// some system calls, so below about one megabyte a read is faster.
pub(super) const READ_BYTES_MAX: u64 = 2 * 1024 * 1024;

#[derive(Debug)]
pub(super) enum Body {
    Memory(Vec<u8>),
    /// In memory, with the part of the room that it takes: inflated bytes, or those of a container.
    InRoom {
        bytes: Vec<u8>,
        _taken: Taken,
    },
    Stored(Stored),
    /// The bytes of a member, at their place in the body of its container.
    Member(Arc<Body>, Range<u64>),
}

/// The bytes of a file on the disk: in memory, or to be read from the file or a copy of it. The
/// sample is the state of the file before its first byte was read.
pub(super) fn read_or_hold(
    path: &Path,
    options: &ContentOptions,
) -> Result<(Body, Sample), ContentError> {
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
pub(super) fn private_copy(
    file: &File,
    bytes: u64,
    options: &ContentOptions,
) -> io::Result<Stored> {
    let mut copy = Spill::begin(options)?;
    // One byte more than the file had shows that it grew. Without a limit, the copy of a file that
    // keeps growing would not end.
    copy.copy(file, bytes + 1)?;
    Ok(copy.end())
}

impl Body {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Memory(bytes) | Self::InRoom { bytes, .. } => bytes.len() as u64,
            Self::Stored(stored) => stored.bytes(),
            Self::Member(_, place) => place.end - place.start,
        }
    }

    /// These bytes with their part of the room, or in a spill if no room is left: a container is kept
    /// until its last member is stored, and thousands of files may be in flight.
    pub(super) fn in_room(self, options: &ContentOptions) -> io::Result<Self> {
        let Self::Memory(bytes) = self else {
            return Ok(self);
        };
        if let Some(taken) = options.room.take(bytes.len()) {
            return Ok(Self::InRoom {
                bytes,
                _taken: taken,
            });
        }
        let mut spill = Spill::begin(options)?;
        spill.write(&bytes)?;
        Ok(Self::Stored(spill.end()))
    }

    /// The first bytes, which decide the format.
    pub(super) fn beginning<'a>(
        &'a self,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ContentError> {
        self.read(0..self.bytes().min(format::BEGINNING_BYTES as u64), buffer)
    }

    pub(super) fn inspect<T>(&self, inspect: impl FnOnce(&[u8]) -> T) -> Result<T, ContentError> {
        let (mut body, mut place) = (self, 0..self.bytes());
        // A loop, since each level of a recursion would be another type of `inspect`.
        while let Self::Member(container, within) = body {
            place = within.start + place.start..within.start + place.end;
            body = container;
        }
        let place = in_memory(place);
        match body {
            Self::Memory(bytes) | Self::InRoom { bytes, .. } => Ok(inspect(&bytes[place])),
            Self::Stored(stored) => stored.inspect(|bytes| inspect(&bytes[place])),
            Self::Member(..) => unreachable!("the loop has left all containers"),
        }
    }

    pub(super) fn read<'a>(
        &'a self,
        range: Range<u64>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ContentError> {
        match self {
            Self::Memory(bytes) | Self::InRoom { bytes, .. } => Ok(&bytes[in_memory(range)]),
            Self::Stored(stored) => stored.read(range, buffer),
            Self::Member(container, place) => {
                let range = place.start + range.start..place.start + range.end;
                container.read(range, buffer)
            }
        }
    }
}

pub(super) fn in_memory(range: Range<u64>) -> Range<usize> {
    let at = |offset| usize::try_from(offset).expect("bytes in memory have an address");
    at(range.start)..at(range.end)
}

/// The identity of a file: the hash of its bytes on the disk.
pub(super) fn identity(bytes: &[u8]) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    if bytes.len() < PARALLEL_BYTES_MIN {
        hasher.update(bytes);
    } else {
        hasher.update_rayon(bytes);
    }
    Hasher(hasher).finish()
}

/// Computes the identity of bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// Adds a piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The identity of all pieces, one behind the other.
    #[must_use]
    pub fn finish(&self) -> ContentHash {
        let hash = self.0.finalize();
        let (head, _) = hash
            .as_bytes()
            .split_first_chunk()
            .expect("a hash of 32 bytes has 16");
        *head
    }
}
