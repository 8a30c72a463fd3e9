//! gzip and zstd: known by their magic bytes, inflated under a limit, in bounded memory.
//!
//! Small results stay in memory while there is room, the others go to a spill. The limit is checked
//! before bytes are written, so that a bomb costs the disk no more than the limit.

use std::io::{self, Read};

use super::{Body, ContentError, ContentOptions, Spill};
use crate::batch::ContentHash;

/// Inflated data that is smaller stays in memory; other data goes to a spill.
const INFLATED_IN_MEMORY_MAX: usize = 8 * 1024 * 1024;

/// Largest zstd window, as a power of two: 128 MiB, the most that the `zstd` tool uses by default
/// at its highest levels. A larger one is an attack on memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Most inflated bytes for each stored one, in files beyond [`RATIO_FREE_BYTES`]. Events of one
/// vehicle that differ in nothing but the second were measured at 81 (gzip -9) and 194 (zstd -19);
/// real ones, at 5 to 30. Deflate can reach 1,032, so that a bomb of 10 MB would fill the disk up to
/// the cap of bytes; with this it ends at 2.5 GB. A smaller number would refuse data that exists.
const RATIO_MAX: u64 = 256;

/// Up to this size the ratio does not matter: so much costs little, and even a single record
/// repeated over and over may be somebody's test data (zstd packs that 11,000 to 1).
const RATIO_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes that are inflated and written at a time.
const PIECE: usize = 256 * 1024;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Bytes of the longest magic.
pub(super) const MAGIC_BYTES: u64 = 4;

/// Whether a file of this beginning is compressed, and how.
#[must_use]
pub fn is_compressed(beginning: &[u8]) -> bool {
    beginning.starts_with(GZIP_MAGIC) || beginning.starts_with(ZSTD_MAGIC)
}

/// Why data does not inflate: because of itself, or of the place where it should go.
pub(super) enum InflateError {
    Corrupt(String),
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
            Self::Io(error) => ContentError::Io(error),
        }
    }
}

/// The inflated bytes of a file of which [`is_compressed`] holds.
///
/// Both decoders read through a buffer of their own, so that stored bytes that change under a map
/// are read once and not twice.
pub(super) fn inflate(stored: &[u8], options: &ContentOptions) -> Result<Body, InflateError> {
    let limit = Limit::of(stored.len() as u64, options);
    if stored.starts_with(GZIP_MAGIC) {
        let decoder = flate2::read::MultiGzDecoder::new(stored);
        return read_whole(decoder, "gzip", limit, options);
    }
    let mut decoder = zstd::stream::read::Decoder::new(stored)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    read_whole(decoder, "zstd", limit, options)
}

/// How much may come out of a file.
#[derive(Clone, Copy)]
struct Limit {
    bytes: u64,
    /// Whether the limit comes from the size of the file; else it is that of all files.
    is_by_ratio: bool,
}

impl Limit {
    fn of(stored_bytes: u64, options: &ContentOptions) -> Self {
        let by_ratio = stored_bytes.saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        Self {
            bytes: by_ratio.min(options.inflated_bytes_max),
            is_by_ratio: by_ratio < options.inflated_bytes_max,
        }
    }

    /// Why data of this format that inflates to more is not taken.
    fn reason(self, format: &str) -> String {
        let bytes = self.bytes;
        let why = if self.is_by_ratio {
            format!("more than {RATIO_MAX} times its size: no records look like that")
        } else {
            "the most that is taken; split the file, or put it in uncompressed".to_owned()
        };
        format!("the {format} data has more than {bytes} bytes when inflated, {why}")
    }
}

/// Reads all of `source` into memory or, where it does not fit there, into a spill.
fn read_whole(
    mut source: impl Read,
    format: &str,
    limit: Limit,
    options: &ContentOptions,
) -> Result<Body, InflateError> {
    let damaged = |error: io::Error| {
        InflateError::Corrupt(format!(
            "the {format} data is damaged or cut short: {error}"
        ))
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
            return Ok(Body::Inflated {
                bytes: memory,
                _taken: taken,
            });
        }
    }
    let mut spill = Spill::begin(options)?;
    spill.write(&memory)?;
    let mut written = memory.len() as u64;
    drop(memory);
    let mut piece = vec![0; PIECE];
    loop {
        let filled = fill(&mut source, &mut piece).map_err(damaged)?;
        if filled == 0 {
            return Ok(Body::Stored(spill.end()));
        }
        written += filled as u64;
        if written > limit.bytes {
            return Err(too_much());
        }
        spill.write(&piece[..filled])?;
    }
}

/// Reads until the piece is full or the source ends: decoders give a few KiB at a time, and each
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
