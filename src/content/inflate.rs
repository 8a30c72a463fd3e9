//! gzip and zstd, inflated under a limit and in bounded memory.
//!
//! Small results stay in memory while there is room, the others go to a spill. The limit is checked
//! before bytes are written, so that a bomb costs the disk no more than the limit.

use std::io::{self, BufReader, Read};

use flate2::bufread::GzDecoder;

use super::format::{self, Format, NotRead, ZstdHeader};
use super::room::{TakenWindow, Windows};
use super::{Body, ContentError, ContentOptions, Spill};
use crate::batch::ContentHash;

/// Inflated data that is smaller stays in memory; other data goes to a spill.
const INFLATED_IN_MEMORY_MAX: usize = 8 * 1024 * 1024;

/// Most inflated bytes for each stored one, in files beyond [`RATIO_FREE_BYTES`]. Events of one
/// vehicle that differ in nothing but the second were measured at 81 (gzip -9) and 194 (zstd -19);
/// real ones, at 5 to 30. Deflate can reach 1,032, so that a bomb of 10 MB would fill the disk up to
/// the cap of bytes; with this it ends at 2.5 GB. A smaller number would refuse data that exists.
const RATIO_MAX: u64 = 256;

/// Up to this size in bytes the ratio does not matter: so much costs little, and a single record
/// repeated over and over may be test data (zstd packs that 11,000 to 1).
const RATIO_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes that are inflated and written at a time.
const PIECE: usize = 256 * 1024;

/// Bytes that a decoder reads at a time: about what zstd asks for.
const INPUT_BYTES: usize = 128 * 1024;

/// A compression that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Why data does not inflate: because of itself, or of the place where it should go.
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
    let members = Members {
        stored,
        compression,
        windows: &options.windows,
        decoder: None,
        at: 0,
    };
    read_whole(members, compression.name(), limit, options)
}

/// The inflated bytes of all members of a gzip file, or of all frames of a zstd file. A form that is
/// not read is an error that holds [`NotRead`].
struct Members<'a> {
    stored: &'a [u8],
    compression: Compression,
    windows: &'a Windows,
    /// That of the present member; `None` before the first, after the last, and between two.
    decoder: Option<Decoder<'a>>,
    /// Where the next member begins, if there is no decoder.
    at: usize,
}

/// The decoders read through a buffer of their own, so that stored bytes that change under a map are
/// read once and not twice.
type Input<'a> = BufReader<&'a [u8]>;

enum Decoder<'a> {
    Gzip(Box<GzDecoder<Input<'a>>>),
    Zstd {
        frame: zstd::stream::read::Decoder<'static, Input<'a>>,
        _window: TakenWindow,
    },
}

impl Read for Members<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.decoder.is_none() {
                self.decoder = self.next_member()?;
            }
            let read = match &mut self.decoder {
                None => return Ok(0),
                Some(Decoder::Gzip(member)) => member.read(buffer)?,
                Some(Decoder::Zstd { frame, .. }) => frame.read(buffer)?,
            };
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let input = match self.decoder.take() {
                None => return Ok(0),
                Some(Decoder::Gzip(member)) => member.into_inner(),
                Some(Decoder::Zstd { frame, .. }) => frame.finish(),
            };
            self.at = self.stored.len() - input.get_ref().len() - input.buffer().len();
        }
    }
}

impl<'a> Members<'a> {
    fn next_member(&mut self) -> io::Result<Option<Decoder<'a>>> {
        match self.compression {
            Compression::Gzip => Ok(self.next_gzip_member()),
            Compression::Zstd => self.next_zstd_frame(),
        }
    }

    fn input(&self) -> Input<'a> {
        BufReader::with_capacity(INPUT_BYTES, &self.stored[self.at..])
    }

    /// `None` at the end. Zeros at the end are padding, as of a tape or a block device.
    fn next_gzip_member(&self) -> Option<Decoder<'a>> {
        let is_end = self.stored[self.at..].iter().all(|byte| *byte == 0);
        (!is_end).then(|| Decoder::Gzip(Box::new(GzDecoder::new(self.input()))))
    }

    /// `None` at the end. Frames that hold no data are passed over: pzstd begins a file with one.
    fn next_zstd_frame(&mut self) -> io::Result<Option<Decoder<'a>>> {
        let cut_short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut rest = &self.stored[self.at..];
        while format::is_skippable_frame(rest) {
            let size = rest.get(4..8).ok_or_else(cut_short)?;
            let size = u32::from_le_bytes(size.try_into().expect("it has four bytes"));
            rest = rest.get(8 + size as usize..).ok_or_else(cut_short)?;
        }
        self.at = self.stored.len() - rest.len();
        if rest.is_empty() {
            return Ok(None);
        }
        if !format::is_zstd_frame(rest) {
            return Err(match Format::of(rest) {
                Format::NotRead(other) => io::Error::other(other),
                _ => io::Error::other(format!("no frame of zstd at byte {}", self.at)),
            });
        }
        // Copied, as of a map that may change.
        let mut header = [0; format::ZSTD_HEADER_BYTES];
        let bytes = rest.len().min(header.len());
        header[..bytes].copy_from_slice(&rest[..bytes]);
        let header = ZstdHeader::read(&header[..bytes]).ok_or_else(cut_short)?;
        if header.dictionary != 0 {
            return Err(io::Error::other(NotRead::ZstdDictionary(header.dictionary)));
        }
        let (window, most) = (header.window_bytes, self.windows.bytes_max());
        if window > most {
            let (bytes, bytes_max) = (window, most);
            return Err(io::Error::other(NotRead::ZstdWindow { bytes, bytes_max }));
        }
        let mut frame = zstd::stream::read::Decoder::with_buffer(self.input())?.single_frame();
        frame.window_log_max(window_log(window))?;
        let window = self.windows.take(window);
        Ok(Some(Decoder::Zstd {
            frame,
            _window: window,
        }))
    }
}

/// The smallest power of two, as its exponent, that a window fits into; at least 10, the smallest
/// that zstd has.
fn window_log(bytes: u64) -> u32 {
    bytes.next_power_of_two().trailing_zeros().max(10)
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
