//! Files that the engine itself has compressed in history.
//!
//! They are zstd data that every tool inflates. A frame in front of the data, which other readers skip
//! (RFC 8878, section 3.1.2), tells them from zstd data that was delivered, and says what the file was
//! before. Their identity is that of the bytes as they were delivered: the inflated ones.

use std::fs::{File, Metadata};
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::body::Hasher;
use super::error::ContentError;
use super::format::{BEGINNING_BYTES, Format};
use super::inflate::is_within_ratio;
use super::regular::{free_bytes, mark, open_regular, sample};
use crate::batch::ContentHash;

/// The magic of a skippable frame, its length, and what tells it from other ones.
const BEGINNING: [u8; 16] = *b"\x5c\x2a\x4d\x18\x28\0\0\0lemonade";

/// Bytes of the frame: its beginning, and four numbers.
const FRAME_BYTES: usize = 48;

/// The usual level. Generated events become a tenth of their size, at 490 MB/s on one core. Level 9 takes
/// seven times as long to save a sixth of that, and level 1 is a quarter faster and leaves a tenth more.
pub(super) const LEVEL: i32 = 3;

/// Bytes that are compressed at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// A file takes whole blocks of the disk. One that would not take fewer blocks stays as it is.
const BLOCK_BYTES: u64 = 4096;

/// How much later than the time in the frame the file may get its name, and how much earlier, by a
/// clock in steps, in microseconds.
const NAMED_WITHIN_US: [i64; 2] = [1_000_000, 2_000_000];

/// What a file was before it was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its [mark](super::mark).
    pub mark: u64,
    /// Its ctime: when it was moved to history. In microseconds since the epoch.
    pub moved_us: i64,
    /// When it was compressed, in microseconds since the epoch.
    pub(super) done_us: i64,
}

impl Compacted {
    fn of(metadata: &Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            mark: mark(&sample(metadata)),
            moved_us: ctime_us(metadata),
            done_us: 0,
        }
    }

    /// Reads the frame at the beginning of a file. `None` if there is none.
    pub(super) fn parse(beginning: &[u8]) -> Option<Self> {
        let numbers = beginning
            .strip_prefix(&BEGINNING)?
            .get(..FRAME_BYTES - BEGINNING.len())?;
        let number = |at: usize| {
            let bytes = numbers[at * 8..][..8].try_into();
            u64::from_le_bytes(bytes.expect("it has eight bytes"))
        };
        Some(Self {
            bytes: number(0),
            mark: number(1),
            moved_us: number(2).cast_signed(),
            done_us: number(3).cast_signed(),
        })
    }

    pub(super) fn frame(&self) -> [u8; FRAME_BYTES] {
        let times = [self.moved_us, self.done_us].map(i64::cast_unsigned);
        let numbers = [self.bytes, self.mark, times[0], times[1]].map(u64::to_le_bytes);
        let mut frame = [0; FRAME_BYTES];
        frame[..BEGINNING.len()].copy_from_slice(&BEGINNING);
        frame[BEGINNING.len()..].copy_from_slice(numbers.as_flattened());
        frame
    }

    /// When the file was moved to history.
    #[must_use]
    pub fn moved(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.moved_us.try_into().unwrap_or_default())
    }

    /// Whether the file with this metadata was not changed since it was compressed, by its ctime,
    /// which no program can set.
    #[must_use]
    pub fn is_unchanged(&self, found: &Metadata) -> bool {
        let [before, after] = NAMED_WITHIN_US;
        let within = self.done_us - before..=self.done_us + after;
        within.contains(&ctime_us(found))
    }
}

pub(super) fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_micros();
    now.try_into().unwrap_or_default()
}

fn ctime_us(metadata: &Metadata) -> i64 {
    metadata.ctime() * 1_000_000 + metadata.ctime_nsec() / 1_000
}

/// What the file at a path was, if the engine has compressed it. `None` for any other file.
#[must_use]
pub fn compacted(path: &Path) -> Option<Compacted> {
    let (mut file, _) = open_regular(path).ok()?;
    let mut frame = [0; FRAME_BYTES];
    file.read_exact(&mut frame).ok()?;
    Compacted::parse(&frame)
}

/// Writes a file of text to `out`, compressed. Returns the identity of the file. `None` if it stays as it
/// is: it would take as many blocks of the disk, or would not be read again because its data would
/// inflate to too many bytes.
///
/// Reads back what was written, since the file will be removed.
///
/// # Errors
/// [`StorageFull`](io::ErrorKind::StorageFull) if fewer than `floor_bytes` are free in `dir`;
/// [`Interrupted`](io::ErrorKind::Interrupted) if `is_stopped`; a system call fails.
pub fn write_compacted(
    source: &mut File,
    metadata: &Metadata,
    out: &mut File,
    room: (&Path, u64),
    is_stopped: impl Fn() -> bool,
) -> io::Result<Option<ContentHash>> {
    let mut compacted = Compacted::of(metadata);
    out.write_all(&compacted.frame())?;
    let mut hasher = Hasher::default();
    let mut to = zstd::stream::write::Encoder::new(BufWriter::new(&mut *out), LEVEL)?;
    to.include_checksum(true)?;
    let mut piece = vec![0; PIECE_BYTES];
    each_piece(source, &mut piece, |piece| {
        go_on(&is_stopped)?;
        let (dir, floor_bytes) = room;
        if free_bytes(dir)? < floor_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        hasher.update(piece);
        to.write_all(piece)
    })?;
    to.finish()?.flush()?;
    let written = out.stream_position()?;
    let blocks = |bytes: u64| bytes.div_ceil(BLOCK_BYTES);
    if blocks(written) >= blocks(compacted.bytes) || !is_within_ratio(written, compacted.bytes) {
        return Ok(None);
    }
    let hash = hasher.finish();
    out.rewind()?;
    if inflated(&mut *out, &is_stopped)? != hash {
        return Err(io::Error::other("what was compressed is not what was read"));
    }
    // All of it is on the disk before it says when it was compressed.
    out.sync_all()?;
    compacted.done_us = now_us();
    out.rewind()?;
    out.write_all(&compacted.frame())?;
    Ok(Some(hash))
}

/// Whether a file of this size may take fewer blocks of the disk.
#[must_use]
pub fn may_shrink(bytes: u64) -> bool {
    bytes > BLOCK_BYTES
}

/// Whether a file is neither compressed nor of a format that the engine knows and does not read.
///
/// # Errors
/// A system call fails.
pub fn is_text(file: &mut File) -> io::Result<bool> {
    let mut beginning = Vec::new();
    Read::by_ref(file)
        .take(BEGINNING_BYTES as u64)
        .read_to_end(&mut beginning)?;
    file.rewind()?;
    Ok(Format::of(&beginning) == Format::Plain)
}

/// The identity of the file that was compressed to the one at a path, if the engine has done so.
///
/// # Errors
/// [`ContentError::Io`]; it cannot be inflated.
pub fn identity_of_compacted(path: &Path) -> Result<Option<ContentHash>, ContentError> {
    if compacted(path).is_none() {
        return Ok(None);
    }
    let (mut file, _) = open_regular(path)?;
    Ok(Some(inflated(&mut file, || false)?))
}

/// Writes the file that was compressed to `file` to `out`, and not more than `bytes_max`.
///
/// # Errors
/// It cannot be inflated, or `out` cannot be written.
pub fn write_inflated(file: &mut File, bytes_max: u64, out: &mut impl Write) -> io::Result<()> {
    let mut from = zstd::stream::read::Decoder::new(file)?.take(bytes_max);
    each_piece(&mut from, &mut vec![0; PIECE_BYTES], |piece| {
        out.write_all(piece)
    })
}

fn inflated(file: &mut File, is_stopped: impl Fn() -> bool) -> io::Result<ContentHash> {
    let mut hasher = Hasher::default();
    let mut from = zstd::stream::read::Decoder::new(file)?;
    each_piece(&mut from, &mut vec![0; PIECE_BYTES], |piece| {
        go_on(&is_stopped)?;
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// An error if the work is to end.
fn go_on(is_stopped: impl Fn() -> bool) -> io::Result<()> {
    if is_stopped() {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

fn each_piece(
    from: &mut impl Read,
    piece: &mut [u8],
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        match from.read(piece) {
            Ok(0) => return Ok(()),
            Ok(bytes) => take(&piece[..bytes])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::content::{ContentOptions, open, write_blank};

    fn options(dir: &Path) -> ContentOptions {
        ContentOptions {
            spill_dir: dir.to_owned(),
            ..ContentOptions::default()
        }
    }

    fn compact(from: &Path, to: &Path) -> Option<ContentHash> {
        let (mut source, metadata) = open_regular(from).unwrap();
        let mut out = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(to)
            .unwrap();
        let room = (to.parent().unwrap(), 0);
        write_compacted(&mut source, &metadata, &mut out, room, || false).unwrap()
    }

    #[test]
    fn a_compressed_file_has_the_identity_of_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let opened = |name: &str| open(&at(name), &options(dir.path())).unwrap();
        // In memory, and larger than that.
        for records in [1_000, 200_000] {
            let line = |no: u32| format!("{{\"no\":{no},\"name\":\"event\"}}\n");
            let text: String = (0..records).map(line).collect();
            fs::write(at("plain"), &text).unwrap();
            let hash = compact(&at("plain"), &at("compacted")).unwrap();
            let plain = opened("plain");
            let found = opened("compacted");
            assert_eq!((found.hash, found.hash), (plain.hash, hash));
            assert_eq!(found.stored_bytes, text.len() as u64);
            assert_eq!(identity_of_compacted(&at("compacted")).unwrap(), Some(hash));
            let stored = fs::read(at("compacted")).unwrap();
            assert!(stored.len() < text.len() / 4);
            assert_eq!(zstd::decode_all(&stored[..]).unwrap(), text.as_bytes());
            let frame = compacted(&at("compacted")).unwrap();
            let metadata = fs::metadata(at("plain")).unwrap();
            assert_eq!(frame.bytes, metadata.len());
            assert_eq!(frame.mark, mark(&sample(&metadata)));
            assert!(frame.is_unchanged(&fs::metadata(at("compacted")).unwrap()));
            // A file that was delivered in this form is another one.
            fs::write(at("delivered"), &stored[FRAME_BYTES..]).unwrap();
            assert!(compacted(&at("delivered")).is_none());
            assert_ne!(opened("delivered").hash, hash);
            // A rename changes its ctime, so its bytes on the disk are compared.
            fs::rename(at("compacted"), at("renamed")).unwrap();
            let as_read = found.as_read();
            assert!(as_read.is_at(&at("renamed"), &options(dir.path())).unwrap());
            // Records are erased alike in both forms.
            let second = line(0).len() as u64..(line(0) + &line(1)).len() as u64 - 1;
            let blank = |name: &str| {
                let mut out = File::create(at("blank")).unwrap();
                let ranges = [second.clone()];
                write_blank(&at(name), &opened(name), &ranges, &mut out).unwrap()
            };
            let expected = blank("plain");
            assert_eq!(blank("renamed"), expected);
            let found = opened("blank");
            assert_eq!((found.hash, found.stored_bytes), expected);
            assert_eq!(compacted(&at("blank")).unwrap().bytes, frame.bytes);
            // A frame that names another size is not that of the engine.
            let mut other = stored.clone();
            other[16] ^= 1;
            fs::write(at("other"), &other).unwrap();
            assert_eq!(opened("other").stored_bytes, other.len() as u64);
            assert_ne!(opened("other").hash, hash);
            // A damaged one is no other file.
            fs::write(at("cut"), &stored[..stored.len() - 9]).unwrap();
            open(&at("cut"), &options(dir.path())).unwrap_err();
            identity_of_compacted(&at("cut")).unwrap_err();
        }
    }

    #[test]
    fn a_file_stays_as_it_is_if_it_would_not_take_less_of_the_disk_or_not_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut random = vec![0; 100_000];
        getrandom(&mut random);
        fs::write(at("a"), &random).unwrap();
        assert_eq!(compact(&at("a"), &at("b")), None);
        // Each block shrinks, and the file has one.
        assert!(!may_shrink(4_096) && may_shrink(4_097));
        // More than 256 times the size.
        fs::write(at("a"), vec![b' '; 65 << 20]).unwrap();
        assert_eq!(compact(&at("a"), &at("b")), None);
        fs::write(at("a"), vec![b' '; 63 << 20]).unwrap();
        compact(&at("a"), &at("b")).unwrap();
        open(&at("b"), &options(dir.path())).unwrap();
    }

    fn getrandom(bytes: &mut [u8]) {
        let mut random = File::open("/dev/urandom").unwrap();
        random.read_exact(bytes).unwrap();
    }

    #[test]
    fn without_room_or_after_a_stop_nothing_is_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, vec![b' '; 10_000]).unwrap();
        let run = |floor_bytes, is_stopped| {
            let (mut source, metadata) = open_regular(&path).unwrap();
            let mut out = tempfile::tempfile().unwrap();
            let room = (dir.path(), floor_bytes);
            let stop = || is_stopped;
            write_compacted(&mut source, &metadata, &mut out, room, stop).map_err(|it| it.kind())
        };
        assert!(run(0, false).is_ok());
        assert_eq!(run(u64::MAX, false), Err(io::ErrorKind::StorageFull));
        assert_eq!(run(0, true), Err(io::ErrorKind::Interrupted));
        // It is asked once while the file is written, and again while it is read back.
        let asked = Cell::new(0);
        let (mut source, metadata) = open_regular(&path).unwrap();
        let mut out = tempfile::tempfile().unwrap();
        let stop = || asked.replace(asked.get() + 1) > 0;
        let room = (dir.path(), 0);
        let ended = write_compacted(&mut source, &metadata, &mut out, room, stop);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(asked.get(), 2);
    }
}
