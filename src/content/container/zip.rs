//! The members of a zip archive, stored or deflated, and their bytes one after the other.
//!
//! The central directory decides which members there are. The archive has to be all of the file: if
//! two archives were joined, the directory names the members of one of them, and those of the other
//! would be lost. Each member is checked by its size and its checksum: a damaged one does not affect
//! the others.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;

use flate2::read::DeflateDecoder;
use rawzip::{
    CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder, ZipLocator,
};

use super::member::{IF_JOINED, Member, Refusal, check_count, name_of, refused};
use crate::content::body::Body;
use crate::content::inflate::{InflateError, Limit, read_whole};
use crate::content::options::ContentOptions;

/// The archive is read through copies of its bytes, since the file may change while it is mapped.
type Archive<'a> = ZipArchive<&'a [u8]>;

/// Why an archive is not unpacked.
pub(super) enum Error {
    Refused(Refusal),
    Inflate(InflateError),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The bytes of all members one after the other, and the place of each in them.
pub(super) fn unpack(bytes: &[u8], options: &ContentOptions) -> Result<(Body, Vec<Member>), Error> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let located = ZipLocator::new().locate_in_reader(bytes, &mut buffer, bytes.len() as u64);
    let archive = located.map_err(|(_, error)| damaged(&error))?;
    let mut unpacking = Unpacking {
        entries: list(&archive, bytes, &mut buffer)?.into_iter(),
        archive: &archive,
        current: None,
        written: 0,
        members: Vec::new(),
    };
    let limit = Limit::of(bytes.len() as u64, options);
    let body = read_whole(&mut unpacking, "zip", limit, options).map_err(Error::Inflate)?;
    Ok((body, unpacking.members))
}

fn damaged(error: &rawzip::Error) -> Refusal {
    Refusal::Damaged(error.to_string())
}

/// A member to unpack.
struct Entry {
    member: Member,
    method: CompressionMethod,
    place: ZipArchiveEntryWayfinder,
}

/// The members that the central directory names, without directories.
///
/// # Errors
/// A member is not read, or the archive is damaged or not all of `bytes`.
fn list(archive: &Archive<'_>, bytes: &[u8], buffer: &mut [u8]) -> Result<Vec<Entry>, Refusal> {
    let (mut found, mut listed) = (Vec::new(), 0);
    let mut first = archive.directory_offset();
    let mut entries = archive.entries(buffer);
    // An error also if other bytes than entries are between the beginning of the directory and its
    // end, as in two archives of which each has the offset of its own directory.
    let of_directory =
        |error| Refusal::Damaged(format!("its directory is damaged: {error}: {IF_JOINED}"));
    while let Some(entry) = entries.next_entry().map_err(of_directory)? {
        listed += 1;
        first = first.min(entry.local_header_offset());
        let path = entry.file_path();
        let raw = path.as_bytes();
        let name = OsStr::from_bytes(raw);
        if entry.is_dir() {
            continue;
        }
        if entry.mode().is_symlink() {
            let next_step = "pack it again without this member";
            return Err(refused(name, "a symbolic link", next_step));
        }
        if entry.flags().is_encrypted() {
            let next_step = "pack it again without a password";
            return Err(refused(name, "encrypted", next_step));
        }
        let method = entry.compression_method();
        if ![CompressionMethod::STORE, CompressionMethod::DEFLATE].contains(&method) {
            let what = format!("compressed by the method {}", method.as_u16());
            return Err(refused(name, &what, "pack it again with deflate"));
        }
        check_count(found.len())?;
        found.push(Entry {
            member: Member {
                name: name_of(raw)?,
                place: 0..0,
                damage: None,
            },
            method,
            place: entry.wayfinder(),
        });
    }
    let told = archive.entries_hint();
    if listed != told {
        let what = format!("its directory has {listed} entries, and its end says {told}");
        return Err(Refusal::Damaged(what));
    }
    check_whole(archive, bytes, first)?;
    Ok(found)
}

/// Checks that an archive is all of `bytes`. `first` is the offset of its first member.
fn check_whole(archive: &Archive<'_>, bytes: &[u8], first: u64) -> Result<(), Refusal> {
    let end = archive.end_offset();
    let what = if first != 0 {
        format!("its first member begins at byte {first}, and not at byte 0")
    } else if end != bytes.len() as u64 {
        format!("data follows its end at byte {end}")
    } else {
        return Ok(());
    };
    Err(Refusal::Damaged(format!("{what}: {IF_JOINED}")))
}

/// Reads the bytes of all members one after the other, and notes the place of each.
struct Unpacking<'a> {
    archive: &'a Archive<'a>,
    entries: std::vec::IntoIter<Entry>,
    /// The member that is read now. `None` before the first one, after the last one, and between two.
    current: Option<(Member, Box<dyn Read + Send + 'a>)>,
    /// How many bytes were read.
    written: u64,
    /// The members that were read.
    members: Vec<Member>,
}

impl<'a> Unpacking<'a> {
    /// Begins the next member. Returns whether there is one.
    fn begin(&mut self) -> bool {
        let Some(entry) = self.entries.next() else {
            return false;
        };
        let mut member = entry.member;
        member.place = self.written..self.written;
        let archive: &'a Archive<'a> = self.archive;
        match archive.get_entry(entry.place) {
            Ok(found) => {
                let stored = found.reader();
                let reader: Box<dyn Read + Send + 'a> =
                    if entry.method == CompressionMethod::DEFLATE {
                        Box::new(found.verifying_reader(DeflateDecoder::new(stored)))
                    } else {
                        Box::new(found.verifying_reader(stored))
                    };
                self.current = Some((member, reader));
            }
            Err(error) => self.end(member, Some(&error)),
        }
        true
    }

    fn end(&mut self, mut member: Member, damage: Option<&dyn std::fmt::Display>) {
        member.place.end = self.written;
        let damage = damage.map(|error| format!("the member is damaged or cut short: {error}"));
        self.members.push(Member { damage, ..member });
    }
}

impl Read for Unpacking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some((_, reader)) = &mut self.current else {
                if self.begin() {
                    continue;
                }
                return Ok(0);
            };
            let read = reader.read(buffer);
            match read {
                Ok(0) if buffer.is_empty() => return Ok(0),
                Ok(bytes @ 1..) => {
                    self.written += bytes as u64;
                    return Ok(bytes);
                }
                _ => {}
            }
            if let Some((member, _)) = self.current.take() {
                let error = read.as_ref().err();
                self.end(member, error.map(|error| error as &dyn std::fmt::Display));
            }
        }
    }
}
