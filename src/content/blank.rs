//! Writes the bytes of a file again with some ranges blank, in the compression that the file has.
//!
//! A blank has the length of the range, so that all other places stay, and is what it was: an empty
//! object, an empty array, or a number. So the records of the file keep their number and their order.
//! Knows nothing of records, and replaces no file.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::ops::Range;
use std::path::Path;

use super::body::Hasher;
use super::compact::{Compacted, LEVEL, compacted, now_us};
use super::error::ContentError;
use super::format::{BEGINNING_BYTES, Compression, Format};
use super::opened::Content;
use super::regular::open_regular;
use crate::batch::ContentHash;

/// Bytes that are read and written at a time.
const PIECE: u64 = 256 * 1024;

/// The levels of compression, the usual ones of the tools.
const ZSTD_LEVEL: i32 = 3;
const XZ_LEVEL: u32 = 6;

/// A range that is made blank, with its first and its last byte. The bytes between are spaces.
struct Blank {
    range: Range<u64>,
    first: u8,
    last: u8,
}

impl Blank {
    /// The blank for a range of a file, by its first byte.
    fn of(content: &Content, range: Range<u64>) -> Result<Self, ContentError> {
        let mut buffer = Vec::new();
        let begin = content.read(range.start..range.start + 1, &mut buffer)?;
        let is_long = range.end - range.start > 1;
        let (first, last) = match begin.first() {
            Some(b'{') if is_long => (b'{', b'}'),
            Some(b'[') if is_long => (b'[', b']'),
            _ => (b'0', b' '),
        };
        Ok(Self { range, first, last })
    }

    /// Writes the part of the blank that is in the piece which begins at `start`.
    fn write_into(&self, piece: &mut [u8], start: u64) {
        let end = start + piece.len() as u64;
        let (from, to) = (self.range.start.max(start), self.range.end.min(end));
        if from >= to {
            return;
        }
        let at = |offset: u64| usize::try_from(offset - start).expect("a piece is in memory");
        piece[at(from)..at(to)].fill(b' ');
        if to == self.range.end {
            piece[at(to) - 1] = self.last;
        }
        if from == self.range.start {
            piece[at(from)] = self.first;
        }
    }
}

/// Whether the ranges of a file, which are not empty, are blank.
///
/// # Errors
/// [`ContentError::Busy`] if the file was changed since it was opened; [`ContentError::Io`].
pub fn is_blank(content: &Content, ranges: &[Range<u64>]) -> Result<bool, ContentError> {
    let mut buffer = Vec::new();
    for range in ranges {
        let blank = Blank::of(content, range.clone())?;
        let mut start = range.start;
        while start < range.end {
            let end = (start + PIECE).min(range.end);
            let piece = content.read(start..end, &mut buffer)?;
            let mut expected = piece.to_vec();
            blank.write_into(&mut expected, start);
            if piece != expected {
                return Ok(false);
            }
            start = end;
        }
    }
    Ok(true)
}

/// Writes the bytes of a file to `out` with these ranges blank, in the compression of the file at
/// `path`, from which `content` was read. Returns hash and size of what was written, without the
/// compression by the engine.
///
/// # Errors
/// [`ContentError::Busy`] if the file was changed since it was opened; [`ContentError::Io`].
pub fn write_blank(
    path: &Path,
    content: &Content,
    ranges: &[Range<u64>],
    out: &mut File,
) -> Result<(ContentHash, u64), ContentError> {
    let mut blanks = Vec::with_capacity(ranges.len());
    for range in ranges {
        blanks.push(Blank::of(content, range.clone())?);
    }
    let mut out = Hashed {
        out: BufWriter::new(out),
        hasher: Hasher::default(),
        bytes: 0,
    };
    if let Some(former) = compacted(path).filter(|it| it.bytes == content.bytes()) {
        // Its identity is that of the bytes that are compressed.
        let frame = Compacted {
            // As any file of which records are erased: it counts as moved to history now.
            moved_us: now_us(),
            ..former
        };
        out.out.write_all(&frame.frame())?;
        let mut to = zstd::stream::write::Encoder::new(out.out, LEVEL)?;
        to.include_checksum(true)?;
        let mut plain = Hashed {
            out: to,
            hasher: Hasher::default(),
            bytes: 0,
        };
        write_pieces(content, &blanks, &mut plain)?;
        plain.out.finish()?.flush()?;
        return Ok((plain.hasher.finish(), plain.bytes));
    }
    write_compressed(compression(path)?, content, &blanks, &mut out)?;
    out.out.flush()?;
    Ok((out.hasher.finish(), out.bytes))
}

/// The compression of the file at a path. `None` if it is not compressed.
fn compression(path: &Path) -> Result<Option<Compression>, ContentError> {
    let (file, _) = open_regular(path)?;
    let mut beginning = Vec::new();
    file.take(BEGINNING_BYTES as u64)
        .read_to_end(&mut beginning)?;
    Ok(match Format::of(&beginning) {
        Format::Compressed(compression) => Some(compression),
        _ => None,
    })
}

fn write_compressed(
    compression: Option<Compression>,
    content: &Content,
    blanks: &[Blank],
    out: &mut impl Write,
) -> Result<(), ContentError> {
    match compression {
        None => write_pieces(content, blanks, out)?,
        Some(Compression::Gzip) => {
            let mut to = flate2::write::GzEncoder::new(out, flate2::Compression::default());
            write_pieces(content, blanks, &mut to)?;
            to.finish()?;
        }
        Some(Compression::Zstd) => {
            let mut to = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
            write_pieces(content, blanks, &mut to)?;
            to.finish()?;
        }
        Some(Compression::Bzip2) => {
            let mut to = bzip2::write::BzEncoder::new(out, bzip2::Compression::best());
            write_pieces(content, blanks, &mut to)?;
            to.finish()?;
        }
        Some(Compression::Xz) => {
            let mut to = liblzma::write::XzEncoder::new(out, XZ_LEVEL);
            write_pieces(content, blanks, &mut to)?;
            to.finish()?;
        }
        Some(Compression::Lz4) => {
            let mut to = lz4_flex::frame::FrameEncoder::new(out);
            write_pieces(content, blanks, &mut to)?;
            to.finish().map_err(io::Error::from)?;
        }
        Some(Compression::Snappy) => {
            let mut to = snap::write::FrameEncoder::new(out);
            write_pieces(content, blanks, &mut to)?;
            to.flush()?;
        }
    }
    Ok(())
}

fn write_pieces(
    content: &Content,
    blanks: &[Blank],
    out: &mut impl Write,
) -> Result<(), ContentError> {
    let (mut start, mut buffer) = (0, Vec::new());
    while start < content.bytes() {
        let end = (start + PIECE).min(content.bytes());
        let mut piece = content.read(start..end, &mut buffer)?.to_vec();
        for blank in blanks {
            blank.write_into(&mut piece, start);
        }
        out.write_all(&piece)?;
        start = end;
    }
    Ok(())
}

/// Hashes and counts what is written.
struct Hashed<W: Write> {
    out: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::content::{ContentOptions, open};

    /// Each compression: the blanks have the length of the ranges, the rest stays, and the hash is that
    /// of the written bytes. One record is larger than a piece.
    #[test]
    fn ranges_are_blank_in_the_compression_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let options = ContentOptions {
            spill_dir: dir.path().to_owned(),
            ..ContentOptions::default()
        };
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(3 * PIECE as usize));
        let text = format!("{{\"a\":1}}\n[1,2]\n7\n{long}\n{{\"b\":\"é\"}}\n");
        let place = |record: &str| {
            let start = text.find(record).unwrap() as u64;
            start..start + record.len() as u64
        };
        let ranges = [place("[1,2]"), place("7"), place(&long)];
        let plain = dir.path().join("plain");
        fs::write(&plain, &text).unwrap();
        let whole = open(&plain, &options).unwrap();
        let blank = format!(
            "{{\"a\":1}}\n[   ]\n0\n{{{}}}\n{{\"b\":\"é\"}}\n",
            " ".repeat(long.len() - 2)
        );
        for compression in [
            None,
            Some(Compression::Gzip),
            Some(Compression::Zstd),
            Some(Compression::Bzip2),
            Some(Compression::Xz),
            Some(Compression::Lz4),
            Some(Compression::Snappy),
        ] {
            let mut stored = Vec::new();
            write_compressed(compression, &whole, &[], &mut stored).unwrap();
            let path = dir.path().join("stored");
            fs::write(&path, &stored).unwrap();
            let content = open(&path, &options).unwrap();
            assert!(!is_blank(&content, &ranges).unwrap());
            let written = dir.path().join("written");
            let mut out = File::create(&written).unwrap();
            let (hash, bytes) = write_blank(&path, &content, &ranges, &mut out).unwrap();
            // A file that is being written is not read.
            drop(out);
            let again = open(&written, &options).unwrap();
            assert_eq!((again.hash, again.stored_bytes), (hash, bytes));
            assert_eq!(super::compression(&written).unwrap(), compression);
            let mut buffer = Vec::new();
            let read = again.read(0..again.bytes(), &mut buffer).unwrap();
            assert!(read == blank.as_bytes(), "{compression:?}");
            assert!(is_blank(&again, &ranges).unwrap());
        }
    }
}
