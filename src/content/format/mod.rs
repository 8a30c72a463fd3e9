//! The format of a file, by its first bytes.
//!
//! Owns the table of magic bytes and the sentence for each format that the engine does not read. No
//! JSON document begins with one of these magic bytes, so none is refused by mistake.

use std::fmt;

/// How many first bytes of a file decide its format. The magic of tar is at byte 257.
pub const BEGINNING_BYTES: usize = 265;

/// The format of a file, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// No known magic bytes: probably text.
    Plain,
    Compressed(Compression),
    Container(Packing),
    NotRead(NotRead),
}

/// How a container holds its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// POSIX, PAX and GNU, but not the format before POSIX.
    Tar,
    /// PKZIP, with members stored or deflated.
    Zip,
}

impl Packing {
    /// The name of the format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tar => "a tar archive",
            Self::Zip => "a zip archive",
        }
    }

    /// The archive, as the subject of a sentence.
    pub(super) const fn subject(self) -> &'static str {
        match self {
            Self::Tar => "the tar archive",
            Self::Zip => "the zip archive",
        }
    }
}

/// A compression that the engine reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// `.bz2`.
    Bzip2,
    /// `.xz`, but not `.lzma`.
    Xz,
    /// The frame format of lz4, but not the legacy one.
    Lz4,
    /// The framing format of snappy.
    Snappy,
}

impl Compression {
    /// The name of the format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
        }
    }

    /// How to recompress a file so that inflating it takes little memory.
    const fn smaller(self) -> &'static str {
        match self {
            Self::Zstd => "recompress it without --long and --ultra",
            Self::Xz => "recompress it with `xz -6`",
            Self::Lz4 => "recompress it with `lz4 -B4`",
            Self::Gzip | Self::Bzip2 | Self::Snappy => "recompress it as gzip",
        }
    }
}

/// A format that the engine recognises but does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotRead {
    /// A compression that the engine does not read, by name.
    Compression(&'static str),
    /// An archive of files that is not read, by name, and the compression around it.
    Archive(&'static str, Option<&'static str>),
    /// A container where a single file is read.
    Packed(Packing),
    /// A container that is a member of another one.
    Nested(Packing),
    /// Text in another encoding than UTF-8, by the name of the encoding.
    Encoding(&'static str),
    /// An encrypted file, by the name of its format.
    Encrypted(&'static str),
    /// A format for tables, such as Parquet, by name.
    Tables(&'static str),
    /// A pointer: the text that Git LFS stores in place of a file.
    LfsPointer,
    /// Compressed data within compressed data.
    CompressedTwice,
    /// Data that is inflated with a dictionary, which is in another file.
    Dictionary {
        /// The compression of the file.
        compression: Compression,
        /// The number of the dictionary. 0 if the file does not hold it.
        number: u32,
    },
    /// Data that takes more memory to inflate than the memory budget, both in bytes.
    Window {
        /// The compression of the file.
        compression: Compression,
        /// The memory that the file takes.
        bytes: u64,
        /// The most that the budget allows.
        bytes_max: u64,
    },
}

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compression(name) => write!(
                f,
                "it is {name}, which is not read: recompress it as gzip or zstd"
            ),
            Self::Archive(name, None) => write!(
                f,
                "it is {name}, which is not read: unpack it and load the files in it"
            ),
            Self::Archive(name, Some(compression)) => write!(
                f,
                "it is {name} in {compression}, which is not read: unpack it and load the files in it"
            ),
            Self::Packed(packing) => write!(
                f,
                "it is {}, whose members are files of their own: load it, or unpack it and name one \
                 of its members",
                packing.name()
            ),
            Self::Nested(packing) => write!(
                f,
                "it is {} within an archive, which is not read: load it as a file of its own",
                packing.name()
            ),
            Self::Encoding(name) => write!(
                f,
                "it is {name}, and only UTF-8 is read: convert it (`iconv -f {name} -t UTF-8`)"
            ),
            Self::Encrypted(name) => {
                write!(f, "it is encrypted ({name}), which is not read: decrypt it")
            }
            Self::Tables(name) => write!(f, "it is {name}, which is not read: export it as NDJSON"),
            Self::LfsPointer => f.write_str(
                "it is a pointer of Git LFS, not the file itself: run `git lfs pull` to get the file",
            ),
            Self::CompressedTwice => {
                f.write_str("it is compressed twice, which is not read: decompress it once")
            }
            Self::Dictionary {
                compression,
                number,
            } => write!(
                f,
                "it is {} with the dictionary {number}, which is not read: recompress it without a \
                 dictionary",
                compression.name()
            ),
            Self::Window {
                compression,
                bytes,
                bytes_max,
            } => write!(
                f,
                "it is {} with a window of {bytes} bytes, and the memory budget has {bytes_max}: \
                 raise memory_budget, or {}",
                compression.name(),
                compression.smaller()
            ),
        }
    }
}

impl std::error::Error for NotRead {}

const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const LZ4: &[u8] = b"\x04\x22\x4d\x18";

/// Compressions by the first bytes of a file. bzip2 has no fixed magic.
const READ: [(&[u8], Compression); 5] = [
    (b"\x1f\x8b", Compression::Gzip),
    (ZSTD, Compression::Zstd),
    (b"\xfd7zXZ\0", Compression::Xz),
    (LZ4, Compression::Lz4),
    (b"\xff\x06\0\0sNaPpY", Compression::Snappy),
];

/// Formats by their first bytes. Of two beginnings where one begins with the other, the longer one
/// comes first.
const NOT_READ: [(&[u8], NotRead); 26] = [
    (
        b"\x02\x21\x4c\x18",
        NotRead::Compression("lz4 in its legacy format"),
    ),
    (b"\x5d\0\0", NotRead::Compression("lzma")),
    (b"LZIP", NotRead::Compression("lzip")),
    (b"\x89LZO\0\r\n\x1a\n", NotRead::Compression("lzop")),
    (b"\x1f\x9d", NotRead::Compression("compress (.Z)")),
    (b"\x78\x01", NotRead::Compression("zlib")),
    (b"\x78\x9c", NotRead::Compression("zlib")),
    (b"\x78\xda", NotRead::Compression("zlib")),
    (
        b"PK\x07\x08",
        NotRead::Archive("a zip archive in several parts", None),
    ),
    (
        b"7z\xbc\xaf\x27\x1c",
        NotRead::Archive("a 7z archive", None),
    ),
    (b"Rar!\x1a\x07", NotRead::Archive("a rar archive", None)),
    (b"\xff\xfe\0\0", NotRead::Encoding("UTF-32")),
    (b"\0\0\xfe\xff", NotRead::Encoding("UTF-32")),
    (b"\xff\xfe", NotRead::Encoding("UTF-16")),
    (b"\xfe\xff", NotRead::Encoding("UTF-16")),
    (b"age-encryption.org/", NotRead::Encrypted("age")),
    (b"-----BEGIN AGE ENCRYPTED", NotRead::Encrypted("age")),
    (b"-----BEGIN PGP MESSAGE", NotRead::Encrypted("OpenPGP")),
    (b"Salted__", NotRead::Encrypted("openssl")),
    (b"PAR1", NotRead::Tables("Parquet")),
    (b"PARE", NotRead::Tables("encrypted Parquet")),
    (b"Obj\x01", NotRead::Tables("Avro")),
    (b"ARROW1\0", NotRead::Tables("Arrow IPC")),
    (b"\xff\xff\xff\xff", NotRead::Tables("Arrow IPC")),
    (b"SQLite format 3\0", NotRead::Tables("SQLite")),
    (
        b"version https://git-lfs.github.com/spec/",
        NotRead::LfsPointer,
    ),
];

impl Format {
    /// The format of a file from its first [`BEGINNING_BYTES`] bytes, or all of them if it is
    /// shorter.
    pub(super) fn of(beginning: &[u8]) -> Self {
        if let Some(compression) = compression(beginning) {
            return Self::Compressed(compression);
        }
        if let Some(packing) = packing(beginning) {
            return Self::Container(packing);
        }
        let mut table = NOT_READ.iter();
        let known = table.find(|(magic, _)| beginning.starts_with(magic));
        known
            .map(|(_, format)| *format)
            .or_else(|| by_structure(beginning))
            .map_or(Self::Plain, Self::NotRead)
    }
}

/// The kind of container. An empty zip archive has only its end.
fn packing(beginning: &[u8]) -> Option<Packing> {
    let zip: [&[u8]; 2] = [b"PK\x03\x04", b"PK\x05\x06"];
    // The magic of POSIX, and of GNU. Text has no zero byte there.
    let tar: [&[u8]; 2] = [b"ustar\0", b"ustar  \0"];
    let at_257 = beginning.get(257..).unwrap_or_default();
    if zip.iter().any(|magic| beginning.starts_with(magic)) {
        return Some(Packing::Zip);
    }
    let is_tar = tar.iter().any(|magic| at_257.starts_with(magic));
    is_tar.then_some(Packing::Tar)
}

fn compression(beginning: &[u8]) -> Option<Compression> {
    if let Some(rest) = beginning.strip_prefix(b"BZh") {
        // The size of a block, then the magic of the first block or of the end.
        let blocks = [b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"];
        let is_one = matches!(rest, [b'1'..=b'9', rest @ ..] if blocks.iter().any(|block| rest.starts_with(*block)));
        return is_one.then_some(Compression::Bzip2);
    }
    // Frames that hold no data may be in front of zstd and lz4.
    if is_skippable_frame(beginning) {
        return Some(Compression::Zstd);
    }
    let mut table = READ.iter();
    let known = table.find(|(magic, _)| beginning.starts_with(magic));
    known.map(|(_, compression)| *compression)
}

/// The format within a compressed file, by the first inflated bytes: plain, a container, or one that
/// the engine does not read.
pub(super) fn within(compression: &'static str, beginning: &[u8]) -> Format {
    match Format::of(beginning) {
        Format::Compressed(_) => Format::NotRead(NotRead::CompressedTwice),
        Format::NotRead(NotRead::Archive(name, None)) => {
            Format::NotRead(NotRead::Archive(name, Some(compression)))
        }
        other => other,
    }
}

/// Formats that have no fixed first bytes.
fn by_structure(beginning: &[u8]) -> Option<NotRead> {
    match *beginning {
        // A document without a byte order mark.
        [b'{' | b'[', 0, byte, 0, ..] if byte != 0 => Some(NotRead::Encoding("UTF-16LE")),
        [0, b'{' | b'[', 0, byte, ..] if byte != 0 => Some(NotRead::Encoding("UTF-16BE")),
        [b'{' | b'[', 0, 0, 0, ..] => Some(NotRead::Encoding("UTF-32LE")),
        [0, 0, 0, b'{' | b'[', ..] => Some(NotRead::Encoding("UTF-32BE")),
        // A packet with a session key: version 3 for a public key, 4 to 6 for a passphrase.
        [0x84, _, 3, ..] | [0x85, _, _, 3, ..] | [0x8c, _, 4..=6, ..] => {
            Some(NotRead::Encrypted("OpenPGP"))
        }
        _ => None,
    }
}

/// Whether `bytes` begins with a skippable frame, which holds no data. zstd and lz4 both have them.
pub(super) fn is_skippable_frame(bytes: &[u8]) -> bool {
    matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// The header of a zstd frame (RFC 8878, section 3.1.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ZstdHeader {
    /// Bytes of memory that inflating the frame takes.
    pub(super) window_bytes: u64,
    /// The number of the frame's dictionary. 0 if it has none.
    pub(super) dictionary: u32,
}

/// Bytes that hold what the engine reads of the header of a frame of zstd or lz4.
pub(super) const FRAME_HEADER_BYTES: usize = 19;

/// The size of the largest block of an lz4 frame in bytes, and the number of its dictionary, or 0.
/// `None` if the frame ends within its header.
///
/// Source: "LZ4 Frame Format Description", version 1.6.
pub(super) fn lz4_header(frame: &[u8]) -> Option<(u64, u32)> {
    let [flags, block, rest @ ..] = frame.get(LZ4.len()..)? else {
        return None;
    };
    // The decoder refuses other sizes of blocks.
    let size = (block >> 4 & 7).clamp(4, 7);
    let block_bytes = 1 << (8 + 2 * size);
    let (has_size, has_dictionary) = (flags & 8 != 0, flags & 1 != 0);
    let at = if has_size { 8 } else { 0 };
    let dictionary = if has_dictionary {
        let bytes = rest.get(at..at + 4)?;
        u32::from_le_bytes(bytes.try_into().expect("it has four bytes"))
    } else {
        0
    };
    Some((block_bytes, dictionary))
}

impl ZstdHeader {
    /// Reads the header of a frame. `None` if the frame ends within its header.
    pub(super) fn read(frame: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| {
            let digits = bytes.iter().rev();
            digits.fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let descriptor = *frame.get(ZSTD.len())?;
        let is_one_segment = descriptor & 0x20 != 0;
        let mut at = ZSTD.len() + 1;
        let mut next = |bytes: usize| {
            let field = frame.get(at..at + bytes)?;
            at += bytes;
            Some(field)
        };
        let window = if is_one_segment {
            None
        } else {
            Some(next(1)?[0])
        };
        let dictionary = number(next([0, 1, 2, 4][usize::from(descriptor & 3)])?);
        let window_bytes = match window {
            Some(window) => {
                let base = 1_u64 << (10 + (window >> 3));
                base + base / 8 * u64::from(window & 7)
            }
            // One segment: the window is as large as the content.
            None => match descriptor >> 6 {
                0 => number(next(1)?),
                1 => number(next(2)?) + 256,
                2 => number(next(4)?),
                _ => number(next(8)?),
            },
        };
        Some(Self {
            window_bytes,
            dictionary: u32::try_from(dictionary).expect("it has at most four bytes"),
        })
    }
}

#[cfg(test)]
mod tests;
