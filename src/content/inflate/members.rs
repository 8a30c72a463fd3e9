//! The members of a compressed file, one after the other: each codec's decoder, how much memory it
//! takes, and what may lie between two members.
//!
//! Every member is checked by its decoder as far as its format allows: a member that is cut short,
//! or whose checksum differs, is an error. A snappy stream has no end, so one that is cut between
//! two of its chunks is a whole stream.

use std::io::{self, BufReader, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder as Lz4Decoder;
use snap::read::FrameDecoder as SnappyDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::xz::XzStream;
use crate::content::format::{
    self, Compression, FRAME_HEADER_BYTES, Format, NotRead, ZstdHeader, lz4_header,
};
use crate::content::room::{TakenWindow, Windows};

/// Bytes that a decoder reads at a time. zstd recommends about this many.
const INPUT_BYTES: usize = 128 * 1024;

/// The decoders read copies of the bytes: the file may change while it is mapped, and a decoder
/// that reads a byte twice must not get two values.
type Input<'a> = BufReader<&'a [u8]>;

/// Reads the inflated bytes of all members of a file. The error holds a [`NotRead`] if the engine
/// does not read the format of a member.
pub(super) struct Members<'a> {
    stored: &'a [u8],
    compression: Compression,
    windows: &'a Windows,
    /// The current member. `None` before the first, after the last, and between two.
    member: Option<Member<'a>>,
    /// The place of the next member, if `member` is `None`.
    at: usize,
}

struct Member<'a> {
    decoder: Decoder<'a>,
    /// The memory of the decoder, if it takes more than some KiB.
    _window: Option<TakenWindow>,
}

enum Decoder<'a> {
    Gzip(Box<GzDecoder<Input<'a>>>),
    Zstd(ZstdDecoder<'static, Input<'a>>),
    Bzip2(BzDecoder<Input<'a>>),
    Xz(Box<XzStream<'a, Input<'a>>>),
    Lz4(Box<Lz4Decoder<Endless<'a>>>),
    Snappy(Box<SnappyDecoder<Input<'a>>>),
}

/// An input whose end is an error: the decoder of lz4 takes the end of its input for the end of a
/// frame.
struct Endless<'a>(Input<'a>);

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            // Not `UnexpectedEof`, which the decoder takes for the end of the frame as well.
            0 if !buffer.is_empty() => Err(io::Error::other("a frame has no end")),
            read => Ok(read),
        }
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(member) => member.read(buffer),
            Self::Zstd(frame) => frame.read(buffer),
            Self::Bzip2(stream) => stream.read(buffer),
            Self::Xz(stream) => stream.read(buffer),
            Self::Lz4(frame) => frame.read(buffer),
            Self::Snappy(streams) => streams.read(buffer),
        }
    }
}

impl<'a> Decoder<'a> {
    /// The input behind the member.
    fn into_input(self) -> Input<'a> {
        match self {
            Self::Gzip(member) => member.into_inner(),
            Self::Zstd(frame) => frame.finish(),
            Self::Bzip2(stream) => stream.into_inner(),
            Self::Xz(stream) => stream.into_input(),
            Self::Lz4(frame) => frame.into_inner().0,
            Self::Snappy(streams) => streams.into_inner(),
        }
    }
}

impl Read for Members<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.member.is_none() {
                self.member = self.next_member()?;
            }
            let Some(member) = &mut self.member else {
                return Ok(0);
            };
            let read = member.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            if let Some(Member { decoder, .. }) = self.member.take() {
                let input = decoder.into_input();
                self.at = self.stored.len() - input.get_ref().len() - input.buffer().len();
            }
        }
    }
}

impl<'a> Members<'a> {
    pub(super) fn new(stored: &'a [u8], compression: Compression, windows: &'a Windows) -> Self {
        Self {
            stored,
            compression,
            windows,
            member: None,
            at: 0,
        }
    }

    fn input(&self) -> Input<'a> {
        BufReader::with_capacity(INPUT_BYTES, &self.stored[self.at..])
    }

    fn next_member(&mut self) -> io::Result<Option<Member<'a>>> {
        if matches!(self.compression, Compression::Zstd | Compression::Lz4) {
            return self.next_frame();
        }
        let rest = &self.stored[self.at..];
        let is_end = match self.compression {
            Compression::Snappy => rest.is_empty(),
            // Zeros at the end are padding, which tapes and block devices add.
            _ => rest.iter().all(|byte| *byte == 0),
        };
        if is_end {
            return Ok(None);
        }
        let (decoder, window) = match self.compression {
            Compression::Bzip2 => {
                let window = self.window(BZIP2_BYTES)?;
                (Decoder::Bzip2(BzDecoder::new(self.input())), Some(window))
            }
            Compression::Xz => {
                // Zeros between two streams are padding as well.
                self.at += rest.iter().take_while(|byte| **byte == 0).count();
                let stream = XzStream::new(self.input(), self.windows)?;
                (Decoder::Xz(Box::new(stream)), None)
            }
            // It reads all streams, up to the end of the file.
            Compression::Snappy => {
                check_chunks(rest)?;
                let streams = SnappyDecoder::new(self.input());
                (Decoder::Snappy(Box::new(streams)), None)
            }
            _ => {
                let member = GzDecoder::new(self.input());
                (Decoder::Gzip(Box::new(member)), None)
            }
        };
        let member = Member {
            decoder,
            _window: window,
        };
        Ok(Some(member))
    }

    /// The next frame of zstd or lz4. `None` at the end. Skips frames that hold no data, which both
    /// have: pzstd begins a file with one.
    fn next_frame(&mut self) -> io::Result<Option<Member<'a>>> {
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
        // Copied, since the file may change while it is mapped.
        let mut header = [0; FRAME_HEADER_BYTES];
        let bytes = rest.len().min(header.len());
        header[..bytes].copy_from_slice(&rest[..bytes]);
        let header = &header[..bytes];
        match Format::of(header) {
            Format::Compressed(Compression::Zstd) => self.zstd_frame(header).map(Some),
            Format::Compressed(Compression::Lz4) => self.lz4_frame(header).map(Some),
            Format::NotRead(other) => Err(io::Error::other(other)),
            _ => {
                let error = format!("no frame begins at byte {}", self.at);
                Err(io::Error::other(error))
            }
        }
    }

    fn zstd_frame(&mut self, header: &[u8]) -> io::Result<Member<'a>> {
        self.compression = Compression::Zstd;
        let header = ZstdHeader::read(header).ok_or_else(cut_short)?;
        self.check_dictionary(header.dictionary)?;
        let window = self.window(header.window_bytes)?;
        let mut frame = ZstdDecoder::with_buffer(self.input())?.single_frame();
        frame.window_log_max(window_log(header.window_bytes))?;
        Ok(Member {
            decoder: Decoder::Zstd(frame),
            _window: Some(window),
        })
    }

    fn lz4_frame(&mut self, header: &[u8]) -> io::Result<Member<'a>> {
        self.compression = Compression::Lz4;
        let (block_bytes, dictionary) = lz4_header(header).ok_or_else(cut_short)?;
        self.check_dictionary(dictionary)?;
        // A block as it is stored, and two inflated ones with what a block may refer to.
        let window = self.window(3 * block_bytes + 64 * 1024)?;
        let frame = Lz4Decoder::new(Endless(self.input()));
        Ok(Member {
            decoder: Decoder::Lz4(Box::new(frame)),
            _window: Some(window),
        })
    }

    /// # Errors
    /// [`NotRead`] if the frame needs a dictionary.
    fn check_dictionary(&self, number: u32) -> io::Result<()> {
        if number == 0 {
            return Ok(());
        }
        let compression = self.compression;
        let not_read = NotRead::Dictionary {
            compression,
            number,
        };
        Err(io::Error::other(not_read))
    }

    /// Takes room for what a decoder keeps in memory.
    ///
    /// # Errors
    /// [`NotRead`] if it is larger than all of the room.
    fn window(&self, bytes: u64) -> io::Result<TakenWindow> {
        let window = self.windows.take_for(self.compression, bytes);
        window.map_err(io::Error::other)
    }
}

/// Checks that a snappy file holds no chunk of a type that a reader skips without knowing it: one
/// changed bit of the type of a chunk with data makes such a chunk, and its data would be lost.
///
/// Source: "Snappy framing format description", sections 4.4 and 4.6.
fn check_chunks(stored: &[u8]) -> io::Result<()> {
    let mut rest = stored;
    while let [kind, a, b, c, behind @ ..] = rest {
        if matches!(kind, 0x80..=0xfd) {
            let at = stored.len() - rest.len();
            let error = format!("a chunk of the unknown type {kind} at byte {at}");
            return Err(io::Error::other(error));
        }
        let bytes = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
        rest = behind.get(bytes..).unwrap_or_default();
    }
    Ok(())
}

/// What the decoder of bzip2 keeps in memory, in bytes: four for each of the largest block, and its
/// tables.
const BZIP2_BYTES: u64 = 4 * 900_000 + 100_000;

/// The exponent of the smallest power of two that a window fits into. At least 10, the smallest
/// that zstd accepts.
fn window_log(bytes: u64) -> u32 {
    bytes.next_power_of_two().trailing_zeros().max(10)
}

fn cut_short() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
