//! The bytes of a file: read, mapped or inflated, with their identity.
//!
//! A small file is read. A large one is mapped, if nobody can change it under the map: it has no
//! writer, which a read lease proves and keeps so while the file is open. gzip and zstd are known by
//! their magic bytes and inflated under a cap, large ones into an unlinked file of the work
//! directory. Memory does not grow with the file.
//!
//! The only `unsafe` of the crate lives here. Knows nothing of records, and moves no file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;

use memmap2::{Advice, Mmap};

/// BLAKE3 of a file's stored bytes, cut to 16: the identity of a file. A cryptographic hash, since
/// equal identity means that a file's data is dropped as a duplicate: nobody may be able to make one.
pub type ContentHash = [u8; 16];

/// Files up to this size are read, larger ones mapped. A map costs page faults and a system call or
/// two, which pay off from about a megabyte.
const READ_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Inflated data up to this size stays in memory, more goes to an unlinked file.
const INFLATED_IN_MEMORY_MAX: usize = 8 * 1024 * 1024;

/// Largest zstd window, as a power of two: 128 MiB, the most that the `zstd` tool uses by default
/// at its highest levels. A larger one is an attack on memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How bytes are to be had.
#[derive(Debug, Clone)]
pub struct ContentOptions {
    /// Most bytes that a compressed file may inflate to.
    pub inflated_bytes_max: u64,
    /// Directory for inflated data that is too large for memory; on a disk, not in memory.
    pub spill_dir: PathBuf,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            // A good part of the 10 GB of disk that the engine, Redis and the database share.
            inflated_bytes_max: 4 << 30,
            spill_dir: std::env::temp_dir(),
        }
    }
}

/// An open file, whole, as bytes. Dereferences to its (inflated) bytes.
#[derive(Debug)]
pub struct Content {
    /// Identity: the hash of the bytes as they are stored.
    pub hash: ContentHash,
    /// Bytes as stored; the inflated ones are `len()`.
    pub stored_bytes: u64,
    body: Body,
    /// Keeps writers away from a mapped file for as long as the map is in use.
    lease: Option<File>,
}

#[derive(Debug)]
enum Body {
    Owned(Vec<u8>),
    Mapped(Mmap),
}

/// Why a file gives no bytes.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is no regular file (a link, a directory, a pipe).
    #[error("not a regular file")]
    NotRegular,
    /// Somebody has it open for writing, or changed it while it was read. Try later.
    #[error("the file is still being written")]
    Busy,
    /// It is compressed, and its data is damaged or too much.
    #[error("{detail}")]
    Corrupt {
        /// The identity of the stored bytes.
        hash: ContentHash,
        /// What is wrong with them.
        detail: String,
    },
    /// It could not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What a read lease says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Nobody has it open for writing, and nobody will while this descriptor lives.
    None,
    /// Somebody has.
    Some,
    /// The file system, or the owner of the file, does not let us know.
    Unknown,
}

impl Deref for Content {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.body {
            Body::Owned(bytes) => bytes,
            Body::Mapped(map) => map,
        }
    }
}

/// Opens a regular file for reading, without following a link and without waiting for a pipe.
///
/// # Errors
/// [`ContentError::NotRegular`], and what the system says.
pub fn open_regular(path: &Path) -> Result<(File, Metadata), ContentError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // ELOOP is how O_NOFOLLOW refuses a link; ENXIO is a socket.
            Some(libc::ELOOP | libc::ENXIO) => ContentError::NotRegular,
            _ => ContentError::Io(error),
        })?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        Ok((file, metadata))
    } else {
        Err(ContentError::NotRegular)
    }
}

/// Asks for a read lease, which tells whether a file has writers, and keeps them out (a later
/// opener waits for `/proc/sys/fs/lease-break-time`) until `file` is closed.
#[must_use]
pub fn writers(file: &File) -> Writers {
    ignore_lease_signals();
    // SAFETY: F_SETLEASE takes an integer and touches no memory of ours; the descriptor is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if result == 0 {
        return Writers::None;
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Writers::Some,
        _ => Writers::Unknown,
    }
}

/// The kernel tells a lease's holder by SIGIO that somebody wants to write, and SIGIO ends a
/// process that does not expect it. Nothing is to be done then: the opener waits, or breaks the lease.
fn ignore_lease_signals() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SIG_IGN is no handler of ours, so nothing can run in signal context.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    });
}

/// Opens a file and has its bytes and its identity.
///
/// # Errors
/// [`ContentError`].
pub fn open(path: &Path, options: &ContentOptions) -> Result<Content, ContentError> {
    let (mut file, before) = open_regular(path)?;
    let writers = writers(&file);
    if writers == Writers::Some {
        return Err(ContentError::Busy);
    }
    let stored = if before.len() > READ_BYTES_MAX && writers == Writers::None {
        Body::Mapped(map(&file)?)
    } else if before.len() > READ_BYTES_MAX {
        // Without a lease a writer could come at any time, and a map would change or vanish under
        // the reader. A private copy on disk cannot.
        let mut copy = tempfile::tempfile_in(&options.spill_dir)?;
        io::copy(&mut file, &mut copy)?;
        Body::Mapped(map(&copy)?)
    } else {
        let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0) + 1);
        file.read_to_end(&mut bytes)?;
        Body::Owned(bytes)
    };
    let mut content = Content {
        hash: [0; 16],
        stored_bytes: before.len(),
        body: stored,
        lease: None,
    };
    content.hash = identity(&content);
    if changed(&before, &file.metadata()?) || content.len() as u64 != before.len() {
        return Err(ContentError::Busy);
    }
    if let Some(inflated) = inflate(&content, options).map_err(|e| e.about(content.hash))? {
        content.body = inflated;
    } else if matches!(content.body, Body::Mapped(_)) {
        content.lease = Some(file);
    }
    Ok(content)
}

/// Whether a file of this beginning is compressed, and how.
#[must_use]
pub fn is_compressed(beginning: &[u8]) -> bool {
    beginning.starts_with(GZIP_MAGIC) || beginning.starts_with(ZSTD_MAGIC)
}

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

fn identity(bytes: &[u8]) -> ContentHash {
    let hash = blake3::hash(bytes);
    let (head, _) = hash
        .as_bytes()
        .split_first_chunk()
        .expect("a hash of 32 bytes has 16");
    *head
}

fn changed(before: &Metadata, after: &Metadata) -> bool {
    let stamp = |m: &Metadata| (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec());
    stamp(before) != stamp(after)
}

fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file is either unlinked and ours alone, or under a read lease that is held as
    // long as the map: the kernel keeps writers out.
    let map = unsafe { Mmap::map(file)? };
    map.advise(Advice::Sequential)?;
    Ok(map)
}

/// Why data does not inflate: because of itself, or of the place where it should go.
enum InflateError {
    Corrupt(String),
    Io(io::Error),
}

impl From<io::Error> for InflateError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl InflateError {
    fn about(self, hash: ContentHash) -> ContentError {
        match self {
            Self::Corrupt(detail) => ContentError::Corrupt { hash, detail },
            Self::Io(error) => ContentError::Io(error),
        }
    }
}

fn inflate(stored: &[u8], options: &ContentOptions) -> Result<Option<Body>, InflateError> {
    if stored.starts_with(GZIP_MAGIC) {
        let decoder = flate2::read::MultiGzDecoder::new(stored);
        return spill(decoder, "gzip", options).map(Some);
    }
    if stored.starts_with(ZSTD_MAGIC) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(stored)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return spill(decoder, "zstd", options).map(Some);
    }
    Ok(None)
}

/// Reads all of `source` into memory, or once that is too much, into an unlinked file.
fn spill(source: impl Read, format: &str, options: &ContentOptions) -> Result<Body, InflateError> {
    let max = options.inflated_bytes_max;
    let damaged = |error: io::Error| {
        InflateError::Corrupt(format!(
            "the {format} data is damaged or cut short: {error}"
        ))
    };
    let mut source = source.take(max + 1);
    let mut memory = Vec::new();
    (&mut source)
        .take(INFLATED_IN_MEMORY_MAX as u64)
        .read_to_end(&mut memory)
        .map_err(damaged)?;
    if memory.len() < INFLATED_IN_MEMORY_MAX && memory.len() as u64 <= max {
        return Ok(Body::Owned(memory));
    }
    let mut file = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(&options.spill_dir)?);
    file.write_all(&memory)?;
    let mut written = memory.len() as u64;
    drop(memory);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let read = source.read(&mut buffer).map_err(damaged)?;
        if read == 0 {
            break;
        }
        written += read as u64;
        file.write_all(&buffer[..read])?;
    }
    if written > max {
        return Err(InflateError::Corrupt(format!(
            "the {format} data inflates to more than {max} bytes (`inflated_bytes_max`)"
        )));
    }
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(Body::Mapped(map(&file)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn options(dir: &Path) -> ContentOptions {
        ContentOptions {
            inflated_bytes_max: 32 << 20,
            spill_dir: dir.to_owned(),
        }
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..bytes)
            .map(|at| b"abcdefghij\n"[at % 11] ^ u8::from(at % 4096 == 0))
            .collect()
    }

    #[test]
    fn small_large_and_compressed_files_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 10, 100_000, 3 << 20, 20 << 20] {
            let plain = text(size);
            let path = dir.path().join("plain");
            std::fs::write(&path, &plain).unwrap();
            assert_eq!(&*open(&path, &options(dir.path())).unwrap(), &plain[..]);

            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gz.write_all(&plain).unwrap();
            std::fs::write(&path, gz.finish().unwrap()).unwrap();
            assert_eq!(&*open(&path, &options(dir.path())).unwrap(), &plain[..]);

            std::fs::write(&path, zstd::encode_all(&plain[..], 1).unwrap()).unwrap();
            assert_eq!(&*open(&path, &options(dir.path())).unwrap(), &plain[..]);
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "spilled files have no name"
        );
    }

    #[test]
    fn several_members_of_a_compressed_file_are_all_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("members");
        let twice = |part: Vec<u8>| [part.clone(), part].concat();
        std::fs::write(&path, twice(zstd::encode_all(&b"ab"[..], 1).unwrap())).unwrap();
        assert_eq!(&*open(&path, &options(dir.path())).unwrap(), b"abab");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"ab").unwrap();
        std::fs::write(&path, twice(gz.finish().unwrap())).unwrap();
        assert_eq!(&*open(&path, &options(dir.path())).unwrap(), b"abab");
    }

    #[test]
    fn damaged_and_exploding_data_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb");
        let bomb = zstd::encode_all(&vec![b'x'; 33 << 20][..], 1).unwrap();
        std::fs::write(&path, &bomb).unwrap();
        let error = open(&path, &options(dir.path())).unwrap_err().to_string();
        assert!(error.contains("more than 33554432 bytes"), "{error}");

        std::fs::write(&path, &bomb[..bomb.len() / 2]).unwrap();
        let error = open(&path, &options(dir.path())).unwrap_err().to_string();
        assert!(error.contains("damaged or cut short"), "{error}");

        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"ab").unwrap();
        let mut garbage = gz.finish().unwrap();
        garbage.extend(b"trailing garbage");
        std::fs::write(&path, garbage).unwrap();
        assert!(matches!(
            open(&path, &options(dir.path())),
            Err(ContentError::Corrupt { .. })
        ));
    }

    #[test]
    fn a_file_with_a_writer_is_busy_and_without_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"{}").unwrap();
        assert!(matches!(
            open(&path, &options(dir.path())),
            Err(ContentError::Busy)
        ));
        drop(writer);
        assert_eq!(&*open(&path, &options(dir.path())).unwrap(), b"{}");
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/etc/hostname", &link).unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [link, fifo, dir.path().to_owned()] {
            assert!(matches!(
                open(&path, &options(dir.path())),
                Err(ContentError::NotRegular)
            ));
        }
    }

    #[test]
    fn identity_is_the_content_not_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let hash = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).unwrap();
            open(&dir.path().join(name), &options(dir.path()))
                .unwrap()
                .hash
        };
        assert_eq!(hash("a", b"[1]"), hash("b", b"[1]"));
        assert_ne!(hash("a", b"[1]"), hash("a", b"[1] "));
    }
}
