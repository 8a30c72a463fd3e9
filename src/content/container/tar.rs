//! The members of a tar archive: of POSIX, PAX and GNU.
//!
//! Only headers are read. The whole archive is checked: it must have its end, and nothing behind it,
//! so that no member of an archive that was cut short, or was appended to another one, is lost.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;

use tar::{Archive, EntryType};

use super::member::{IF_JOINED, Member, Refusal, check_count, name_of, refused};

/// The size of a header, and the unit of all sizes in an archive, in bytes.
const BLOCK_BYTES: u64 = 512;

/// Most bytes of the headers of a member, with its name and its attributes, which are held in memory.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// The members of an archive, without its directories.
pub(super) fn list(bytes: &[u8]) -> Result<Vec<Member>, Refusal> {
    let damaged = |error: io::Error| Refusal::Damaged(error.to_string());
    let left = Cell::new(HEADER_BYTES_MAX);
    let mut archive = Archive::new(Headers {
        bytes: Cursor::new(bytes),
        left: &left,
    });
    let (mut members, mut end) = (Vec::new(), 0);
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        left.set(HEADER_BYTES_MAX);
        let raw = entry.path_bytes().into_owned();
        let name = OsStr::from_bytes(&raw);
        let is_sparse = entry.header().entry_type().is_gnu_sparse()
            || has_sparse_map(&mut entry).map_err(damaged)?;
        if is_sparse {
            let next_step = "pack it again without --sparse";
            return Err(refused(name, "stored as a sparse file", next_step));
        }
        let start = entry.raw_file_position();
        let after = start.checked_add(entry.size());
        let Some(after) = after.filter(|after| *after <= bytes.len() as u64) else {
            let what = format!("the member `{}` has no end", name.display());
            return Err(Refusal::Damaged(what));
        };
        end = after.next_multiple_of(BLOCK_BYTES);
        let kind = entry.header().entry_type();
        if holds_no_file(kind) || (entry.size() == 0 && raw.ends_with(b"/")) {
            continue;
        }
        if !kind.is_file() && !kind.is_contiguous() {
            let next_step = "pack it again without this member";
            return Err(refused(name, &what(kind), next_step));
        }
        check_count(members.len())?;
        members.push(Member {
            name: name_of(&raw)?,
            place: start..after,
            damage: None,
        });
    }
    check_end(bytes, end)?;
    Ok(members)
}

/// Directories, and entries that describe others.
fn holds_no_file(kind: EntryType) -> bool {
    const VOLUME_LABEL: u8 = b'V';
    kind.is_dir() || kind.is_pax_global_extensions() || kind.as_byte() == VOLUME_LABEL
}

fn what(kind: EntryType) -> String {
    match kind {
        EntryType::Link => "a hard link".to_owned(),
        EntryType::Symlink => "a symbolic link".to_owned(),
        EntryType::Char | EntryType::Block => "a device".to_owned(),
        EntryType::Fifo => "a pipe".to_owned(),
        other => format!("of the unknown type {}", other.as_byte().escape_ascii()),
    }
}

/// Whether a member in the format of PAX begins with a map of its holes.
fn has_sparse_map(entry: &mut tar::Entry<'_, impl Read>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(false);
    };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks that the archive ends at `end`, with a block of zeros and only zeros behind it.
fn check_end(bytes: &[u8], end: u64) -> Result<(), Refusal> {
    let rest = usize::try_from(end).ok().and_then(|end| bytes.get(end..));
    let rest = rest.unwrap_or_default();
    if (rest.len() as u64) < BLOCK_BYTES {
        let what = format!("it has no end after byte {end}");
        return Err(Refusal::Damaged(what));
    }
    match rest.iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(Refusal::Damaged(format!(
            "data follows its end at byte {}: {IF_JOINED}",
            end + at as u64
        ))),
    }
}

/// An archive of which only headers are read, with a limit on their bytes.
struct Headers<'a> {
    bytes: Cursor<&'a [u8]>,
    /// Bytes that may still be read for this member.
    left: &'a Cell<u64>,
}

impl Read for Headers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.bytes.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64);
        self.left.set(left.ok_or_else(|| {
            io::Error::other(format!("a header of more than {HEADER_BYTES_MAX} bytes"))
        })?);
        Ok(read)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}
