//! Compressed data, inflated under a limit and in bounded memory.
//!
//! Small results stay in memory if there is room; other results go to a spill. The limit is checked
//! before bytes are written, so that a decompression bomb takes no more of the disk than the limit.

mod members;
mod xz;

use std::io::{self, Read};
use std::sync::mpsc;
use std::thread;

use members::Members;

use super::body::Body;
use super::error::ContentError;
use super::format::{Compression, NotRead};
use super::options::ContentOptions;
use super::spill::Spill;
use crate::batch::ContentHash;

/// Inflated data of fewer bytes stays in memory; larger data goes to a spill.
const INFLATED_IN_MEMORY_MAX: usize = 8 * 1024 * 1024;

/// Most inflated bytes for each byte of the file, if it inflates to more than [`RATIO_FREE_BYTES`].
/// Real events have a ratio of 5 to 30. Events of one vehicle that differ only in the second have
/// 81 (gzip -9) or 194 (zstd -19), so a smaller number would refuse real data. Deflate can reach
/// 1,032: a bomb of 10 MB would fill the disk up to `inflated_bytes_max`; with this number it ends
/// at 2.5 GB.
const RATIO_MAX: u64 = 256;

/// A file that inflates to at most this many bytes may have any ratio. It takes little of the disk,
/// and test data may repeat a single record (zstd compresses that 11,000 to 1).
const RATIO_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes that are inflated and written at a time.
const PIECE: usize = 256 * 1024;

/// Pieces that are inflated and not yet written. They cover the pauses of a disk and of a decoder
/// that inflates a block of a megabyte at once; more would only take memory.
const PIECES_AHEAD: usize = 4;

/// Why data was not inflated: the data itself, or the disk that the result should go to.
pub(super) enum InflateError {
    Corrupt(String),
    NotRead(NotRead),
    Io(io::Error),
}

impl From<io::Error> for InflateError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl InflateError {
    pub(super) fn about(self, hash: ContentHash) -> ContentError {
        match self {
            Self::Corrupt(detail) => ContentError::Corrupt { hash, detail },
            Self::NotRead(format) => ContentError::NotRead { hash, format },
            Self::Io(error) => ContentError::Io(error),
        }
    }
}

/// The inflated bytes of a file.
pub(super) fn inflate(
    stored: &[u8],
    compression: Compression,
    options: &ContentOptions,
) -> Result<Body, InflateError> {
    let limit = Limit::of(stored.len() as u64, options);
    let members = Members::new(stored, compression, &options.windows);
    read_whole(members, compression.name(), limit, options)
}

/// How many bytes a file may inflate to.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    bytes: u64,
    /// Whether `bytes` follows from the size of the file. Else it is `inflated_bytes_max`.
    is_by_ratio: bool,
}

impl Limit {
    pub(super) fn of(stored_bytes: u64, options: &ContentOptions) -> Self {
        let by_ratio = Self::by_ratio(stored_bytes);
        Self {
            bytes: by_ratio.min(options.inflated_bytes_max),
            is_by_ratio: by_ratio < options.inflated_bytes_max,
        }
    }

    fn by_ratio(stored_bytes: u64) -> u64 {
        stored_bytes.saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES)
    }

    /// The reason that data of this format which inflates to more is refused.
    fn reason(self, format: &str) -> String {
        let bytes = self.bytes;
        let why = if self.is_by_ratio {
            format!("{RATIO_MAX} times its size, which no real records reach")
        } else {
            "the most that a file may have: split the file, or deliver it uncompressed".to_owned()
        };
        format!("the {format} data inflates to more than {bytes} bytes, {why}")
    }
}

/// Whether a compressed file may inflate to this many bytes by its size.
pub(super) fn is_within_ratio(stored_bytes: u64, inflated_bytes: u64) -> bool {
    inflated_bytes <= Limit::by_ratio(stored_bytes)
}

/// Reads all of `source` into memory or, if it does not fit there, into a spill.
pub(super) fn read_whole(
    mut source: impl Read + Send,
    format: &str,
    limit: Limit,
    options: &ContentOptions,
) -> Result<Body, InflateError> {
    let damaged = |error: io::Error| match error.downcast::<NotRead>() {
        Ok(not_read) => InflateError::NotRead(not_read),
        Err(error) => InflateError::Corrupt(format!(
            "the {format} data is damaged or cut short: {error}"
        )),
    };
    let too_much = || InflateError::Corrupt(limit.reason(format));
    let mut memory = Vec::new();
    if let Some(mut taken) = options.room.take(INFLATED_IN_MEMORY_MAX) {
        (&mut source)
            .take(INFLATED_IN_MEMORY_MAX as u64)
            .read_to_end(&mut memory)
            .map_err(damaged)?;
        if memory.len() as u64 > limit.bytes {
            return Err(too_much());
        }
        if memory.len() < INFLATED_IN_MEMORY_MAX {
            memory.shrink_to_fit();
            taken.shrink_to(memory.len());
            return Ok(Body::InRoom {
                bytes: memory,
                _taken: taken,
            });
        }
    }
    let mut spill = Spill::begin(options)?;
    spill.write(&memory)?;
    let mut written = memory.len() as u64;
    drop(memory);
    ahead(source, |piece| {
        let piece = piece.map_err(damaged)?;
        written += piece.len() as u64;
        if written > limit.bytes {
            return Err(too_much());
        }
        spill.write(&piece)?;
        Ok(piece)
    })?;
    Ok(Body::Stored(spill.end()))
}

/// Passes the bytes of `source`, or its error, to `take` in pieces, until the end or an error of
/// `take`. `take` returns the piece, to be filled again. Another thread inflates up to
/// [`PIECES_AHEAD`] pieces ahead, so that the decoder and the disk do not wait for each other.
fn ahead(
    mut source: impl Read + Send,
    mut take: impl FnMut(io::Result<Vec<u8>>) -> Result<Vec<u8>, InflateError>,
) -> Result<(), InflateError> {
    let (filled, pieces) = mpsc::sync_channel(PIECES_AHEAD);
    let (used, empty) = mpsc::channel::<Vec<u8>>();
    let inflate = move || {
        loop {
            let mut piece = empty.try_recv().unwrap_or_default();
            piece.resize(PIECE, 0);
            let read = fill(&mut source, &mut piece);
            let is_last = !matches!(read, Ok(1..));
            let read = read.map(|bytes| {
                piece.truncate(bytes);
                piece
            });
            // The receiver is gone if a piece was not taken.
            if filled.send(read).is_err() || is_last {
                return;
            }
        }
    };
    thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, inflate)?;
        for piece in pieces {
            // The thread is gone if this was the last piece.
            used.send(take(piece)?).ok();
        }
        Ok(())
    })
}

/// Reads until the piece is full or the source ends. Decoders return a few KiB at a time, and each
/// write is a system call.
fn fill(source: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match source.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
