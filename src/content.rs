//! The bytes of a file: read, mapped or inflated, with their identity.
//!
//! A small file is read. A large one is mapped, if it has no writer, which a read lease proves, and
//! keeps so for a while. A lease can be broken, though, and root needs none: so whoever reads a
//! mapped file asks afterwards whether it is intact, and a file that is cut short does not
//! end the process (see `mapping`). gzip and zstd are known by their magic bytes and inflated under a
//! cap, large ones into an unlinked file of the work directory. Memory does not grow with the file.
//!
//! The only `unsafe` of the crate lives here and in `mapping`. Knows nothing of records, and moves
//! no file.

mod inflate;
mod mapping;
mod room;

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::thread;

pub use inflate::is_compressed;
use mapping::Mapping;
pub use room::Room;
use room::Taken;

/// Files from this size on are hashed on all cores: nothing of a large file can be published before.
const PARALLEL_BYTES_MIN: usize = 1 << 20;

/// Files from this size on are looked at by a thread of its own meanwhile: some 10 ms of work.
const THREAD_BYTES_MIN: usize = 32 << 20;

/// BLAKE3 of a file's stored bytes, cut to 16: the identity of a file. A cryptographic hash, since
/// equal identity means that a file's data is dropped as a duplicate: nobody may be able to make one.
pub type ContentHash = [u8; 16];

/// Files up to this size are read, larger ones mapped. A map costs page faults and a system call or
/// two, which pay off from about a megabyte.
const READ_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// How bytes are to be had.
#[derive(Debug, Clone)]
pub struct ContentOptions {
    /// Most bytes that a compressed file may inflate to.
    pub inflated_bytes_max: u64,
    /// Directory for inflated data that is too large for memory; on a disk, not in memory.
    pub spill_dir: PathBuf,
    /// Memory for inflated data, shared with whoever has a clone of these options.
    pub room: Room,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            // A good part of the 10 GB of disk that the engine, Redis and the database share.
            inflated_bytes_max: 4 << 30,
            spill_dir: std::env::temp_dir(),
            room: Room::default(),
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
    /// The mapped file, as it was when it was opened.
    held: Option<Held>,
}

/// A file that is mapped and that others can reach. Its descriptor keeps writers away, and tells
/// whether that worked.
#[derive(Debug)]
struct Held {
    file: File,
    opened: Stamp,
}

/// Device, inode, size and time of the last change: what tells one state of a file from another.
type Stamp = (u64, u64, u64, i64, i64);

#[derive(Debug)]
enum Body {
    Owned(Vec<u8>),
    Inflated { bytes: Vec<u8>, _taken: Taken },
    Mapped(Mapping),
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
            Body::Owned(bytes) | Body::Inflated { bytes, .. } => bytes,
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
    open_and(path, options, |_| ()).map(|(content, ())| content)
}

/// Opens a file, and looks at its (inflated) bytes, of a large file while its identity is found.
///
/// # Errors
/// [`ContentError`].
pub fn open_and<T: Send>(
    path: &Path,
    options: &ContentOptions,
    look: impl FnOnce(&[u8]) -> T + Send,
) -> Result<(Content, T), ContentError> {
    let (file, opened) = open_regular(path)?;
    let writers = writers(&file);
    if writers == Writers::Some {
        return Err(ContentError::Busy);
    }
    let mut maps_the_file = false;
    let body = if opened.len() <= READ_BYTES_MAX {
        let mut bytes = Vec::with_capacity(usize::try_from(opened.len()).unwrap_or(0) + 1);
        (&file).take(opened.len() + 1).read_to_end(&mut bytes)?;
        Body::Owned(bytes)
    } else if writers == Writers::None
        && let Some(mapping) = Mapping::shared(&file)?
    {
        maps_the_file = true;
        Body::Mapped(mapping)
    } else {
        // Without a lease a writer could come at any time; and a map wants to be guarded.
        Body::Mapped(private_copy(&file, opened.len(), options)?)
    };
    let mut content = Content {
        hash: [0; 16],
        stored_bytes: opened.len(),
        body,
        held: Some(Held {
            file,
            opened: stamp(&opened),
        }),
    };
    // Asked before what was made of the bytes is believed: that they changed is no reason for quarantine.
    let check = |content: &Content| {
        if content.len() as u64 == content.stored_bytes && content.is_intact() {
            return Ok(());
        }
        Err(ContentError::Busy)
    };
    let looked = if is_compressed(&content) {
        content.hash = identity(&content);
        let inflated = inflate::inflate(&content, options);
        check(&content)?;
        if let Some(inflated) = inflated.map_err(|error| error.about(content.hash))? {
            content.body = inflated;
            maps_the_file = false;
        }
        look(&content)
    } else {
        let bytes = &*content;
        let (hash, looked) = both(bytes.len(), || identity(bytes), || look(bytes));
        check(&content)?;
        content.hash = hash;
        looked
    };
    if !maps_the_file {
        content.held = None;
    }
    Ok((content, looked))
}

/// Does both, at the same time where there are so many bytes that a thread pays, and the system has one.
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
    (one, done.expect("what is not done there is done here"))
}

impl Content {
    /// Whether all bytes that were read until now are those of the file as it was opened. Once
    /// `false`, what was made of them since the last `true` is worth nothing.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        if let Body::Mapped(mapping) = &self.body
            && mapping.is_damaged()
        {
            return false;
        }
        // The system sets the time of a file before it changes the bytes.
        self.held.as_ref().is_none_or(|held| {
            let now = held.file.metadata();
            now.is_ok_and(|now| stamp(&now) == held.opened)
        })
    }

    /// Bytes of the file that do not change any more: those in memory, or else a copy of them in
    /// `copy`, that was made while the file was intact. `None` if it is no longer.
    #[must_use]
    pub fn stable<'a>(&'a self, range: Range<usize>, copy: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let mapping = match &self.body {
            Body::Owned(bytes) | Body::Inflated { bytes, .. } => return Some(&bytes[range]),
            Body::Mapped(mapping) => mapping,
        };
        // Most files never change, and of one that did no more needs to be read.
        if !self.is_intact() {
            return None;
        }
        copy.clear();
        copy.extend_from_slice(&mapping[range]);
        self.is_intact().then_some(copy)
    }
}

/// Copies a file into one without a name, which nobody else can change, and maps that.
fn private_copy(file: &File, bytes: u64, options: &ContentOptions) -> io::Result<Mapping> {
    let mut copy = tempfile::tempfile_in(&options.spill_dir)?;
    // One byte more than there was: a file that grows is found out, and not followed for ever.
    io::copy(&mut file.take(bytes + 1), &mut copy)?;
    Mapping::private(&copy)
}

fn identity(bytes: &[u8]) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    if bytes.len() < PARALLEL_BYTES_MIN {
        hasher.update(bytes);
    } else {
        hasher.update_rayon(bytes);
    }
    let hash = hasher.finalize();
    let (head, _) = hash
        .as_bytes()
        .split_first_chunk()
        .expect("a hash of 32 bytes has 16");
    *head
}

fn stamp(m: &Metadata) -> Stamp {
    (m.dev(), m.ino(), m.len(), m.mtime(), m.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::symlink;

    fn options(dir: &Path) -> ContentOptions {
        ContentOptions {
            inflated_bytes_max: 32 << 20,
            spill_dir: dir.to_owned(),
            ..ContentOptions::default()
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

    /// Changes a file as root could, whatever leases there are: through a descriptor that was
    /// opened before.
    #[test]
    fn a_mapped_file_that_changes_is_not_intact_and_gives_no_more_bytes() {
        type Change = fn(&File);
        let changes: [(&str, Change); 4] = [
            ("cut short", |file| file.set_len(5000).unwrap()),
            ("emptied", |file| file.set_len(0).unwrap()),
            ("grown", |file| file.set_len(5 << 20).unwrap()),
            ("written", |mut file| file.write_all(b"new").unwrap()),
        ];
        let dir = tempfile::tempdir().unwrap();
        for (how, change) in changes {
            let path = dir.path().join("large");
            std::fs::write(&path, text(4 << 20)).unwrap();
            let content = open(&path, &options(dir.path())).unwrap();
            let mut copy = Vec::new();
            let range = (3 << 20)..(3 << 20) + 100;
            assert_eq!(
                content.stable(range.clone(), &mut copy),
                Some(&text(4 << 20)[range.clone()])
            );
            assert!(content.is_intact());
            // A writer that asks to wait for no lease gets none; the lease is given up for it.
            // SAFETY: as in `writers`.
            unsafe {
                let held = content.held.as_ref().unwrap();
                libc::fcntl(held.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
            }
            change(&File::options().write(true).open(&path).unwrap());
            assert!(!content.is_intact(), "{how}");
            assert_eq!(content.stable(range, &mut copy), None, "{how}");
            // Reading on is harmless.
            std::hint::black_box(identity(&content));
        }
    }

    #[test]
    fn a_bomb_ends_by_its_ratio_before_the_cap_of_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb");
        let generous = ContentOptions {
            inflated_bytes_max: 4 << 30,
            spill_dir: dir.path().to_owned(),
            ..ContentOptions::default()
        };
        let bytes = |count: u64| io::Read::take(io::repeat(b'x'), count);
        std::fs::write(&path, zstd::encode_all(bytes(65 << 20), 1).unwrap()).unwrap();
        let error = open(&path, &generous).unwrap_err().to_string();
        assert!(error.contains("more than 67108864 bytes"), "{error}");
        // What is not large may be as repetitive as it likes.
        std::fs::write(&path, zstd::encode_all(bytes(60 << 20), 1).unwrap()).unwrap();
        assert_eq!(open(&path, &generous).unwrap().len(), 60 << 20);
    }

    #[test]
    fn inflated_files_share_a_room_in_memory_and_the_others_go_to_disk() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        let bytes = text((6 << 20) - 1);
        let all: Vec<Content> = (0..12_u8)
            .map(|number| {
                let path = dir.path().join(number.to_string());
                let bytes = [&bytes[..], &[number]].concat();
                std::fs::write(&path, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
                let content = open(&path, &options).unwrap();
                assert!(content[..] == bytes[..]);
                content
            })
            .collect();
        let in_memory = |content: &&Content| matches!(content.body, Body::Inflated { .. });
        // Each needs 8 MiB while it is made, and then 6.
        assert_eq!(all.iter().filter(in_memory).count(), 5);
        let none = dir.path().join("none");
        std::fs::write(&none, zstd::encode_all(&b""[..], 1).unwrap()).unwrap();
        let rest = std::iter::from_fn(|| options.room.take(1 << 20)).collect::<Vec<_>>();
        assert!(open(&none, &options).unwrap().is_empty());
        drop((all, rest));
        let again = open(&dir.path().join("11"), &options).unwrap();
        assert!(in_memory(&&again), "there is room again");
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
