//! The move of a file into a directory: never over another, and whole or not at all.
//!
//! A rename does it. Where the devices differ, the file is copied under a temporary name, synced,
//! renamed and only then removed where it was: no half copy is ever seen under a final name. A kill
//! in the middle leaves the file where it was, and may leave a copy; see [`copy_across`] and
//! [`remove_leftovers`] for what becomes of that.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::reason_of;
use crate::content;

/// Longest file name that Linux file systems take, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 255;

/// What the name of a copy begins with before it is whole.
pub(super) const COPY_PREFIX: &str = ".lemonade-moving-";

/// Random characters after the prefix.
const COPY_SUFFIX_CHARS: usize = 6;

/// Moves a file into a directory under its name or, where that is taken, the name with a suffix.
/// Returns where it is then. Never replaces a file.
pub(super) fn move_into(from: &Path, to: &Path, name: &OsStr) -> io::Result<PathBuf> {
    for attempt in 0..u32::MAX {
        let target = to.join(with_suffix(name, attempt));
        match rename_new(from, &target) {
            Ok(()) => return Ok(target),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Moves a file like [`move_into`], and puts a text beside it in `NAME.reason`. The text is written
/// first, so that no kill leaves a file without it; the same text that is there already, from such
/// a kill, is used. A name counts as taken, too, if the name of its reason is.
pub(super) fn move_with_reason(
    from: &Path,
    to: &Path,
    name: &OsStr,
    text: &str,
) -> io::Result<PathBuf> {
    // No reason is written for a file that is gone, as far as that can be known.
    fs::symlink_metadata(from)?;
    for attempt in 0..u32::MAX {
        let target = to.join(with_suffix(name, attempt));
        let beside = reason_of(&target);
        if fs::symlink_metadata(&target).is_ok() || !note(&beside, text) {
            continue;
        }
        match rename_new(from, &target) {
            Ok(()) => return Ok(target),
            // Another process was faster: the reason is that of its file, if it has the same one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Writes a reason; says whether its name was free, or taken by the same reason. Best effort apart
/// from that: the reason is in the ledger as well, and a full disk must not keep a file from being
/// set aside.
fn note(beside: &Path, text: &str) -> bool {
    let written = File::create_new(beside).and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read(beside).is_ok_and(|there| there == text.as_bytes())
        }
        Err(error) => {
            tracing::warn!(path = ?beside, %error, "the reason could not be written");
            true
        }
    }
}

fn with_suffix(name: &OsStr, attempt: u32) -> OsString {
    if attempt == 0 {
        return name.to_owned();
    }
    let suffix = format!(".{attempt}");
    let kept = name.len().min(NAME_BYTES_MAX - suffix.len());
    let mut name = OsStr::from_bytes(&name.as_bytes()[..kept]).to_owned();
    name.push(suffix);
    name
}

/// Renames without replacing, or copies where the devices differ.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::XDEV) => copy_across(from, to),
        Err(error) => Err(error.into()),
    }
}

/// Moves a file to another device. Where the target is there already and is equal byte for byte, it is
/// the copy of a process that was killed before it could remove the file: only that is left to do.
fn copy_across(from: &Path, to: &Path) -> io::Result<()> {
    let dir = to.parent().expect("a target in a directory");
    let (mut source, metadata) = content::open_regular(from).map_err(|error| match error {
        content::ContentError::Io(error) => error,
        other => io::Error::other(other),
    })?;
    if fs::symlink_metadata(to).is_ok() {
        if !is_equal(&source, to)? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
    } else {
        let mut copy = tempfile::Builder::new()
            .prefix(COPY_PREFIX)
            .rand_bytes(COPY_SUFFIX_CHARS)
            .tempfile_in(dir)?;
        // Tells whoever clears up that this one is still being made. Where the file system has no
        // locks, whoever clears up gets none, either, and leaves the copy alone.
        let _ = copy.as_file().lock();
        io::copy(&mut source, copy.as_file_mut())?;
        copy.as_file().set_modified(metadata.modified()?)?;
        copy.as_file().sync_all()?;
        copy.persist_noclobber(to).map_err(|error| error.error)?;
    }
    File::open(dir)?.sync_all()?;
    fs::remove_file(from)
}

/// Whether there is a regular file at `path` with the same bytes. If so, it is synced to the disk.
fn is_equal(source: &File, path: &Path) -> io::Result<bool> {
    const PIECE: usize = 256 * 1024;
    let Ok((there, metadata)) = content::open_regular(path) else {
        return Ok(false);
    };
    if metadata.len() != source.metadata()?.len() {
        return Ok(false);
    }
    let mut ours = BufReader::with_capacity(PIECE, source);
    let mut theirs = BufReader::with_capacity(PIECE, &there);
    loop {
        let (a, b) = (ours.fill_buf()?, theirs.fill_buf()?);
        let length = a.len().min(b.len());
        if a[..length] != b[..length] || (length == 0 && a.len() != b.len()) {
            return Ok(false);
        }
        if length == 0 {
            break;
        }
        ours.consume(length);
        theirs.consume(length);
    }
    there.sync_all()?;
    Ok(true)
}

/// Removes the copies that a killed process left unfinished in a directory: regular files with the
/// name of a copy that nobody holds locked.
pub(super) fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_copy = |name: &[u8]| {
            let random = name.strip_prefix(COPY_PREFIX.as_bytes());
            random.is_some_and(|rest| {
                rest.len() == COPY_SUFFIX_CHARS && rest.iter().all(u8::is_ascii_alphanumeric)
            })
        };
        if !is_copy(entry.file_name().as_bytes()) {
            continue;
        }
        let path = entry.path();
        // Another process with the same directory may be in the middle of it, or done with it.
        let Ok((copy, _)) = content::open_regular(&path) else {
            continue;
        };
        if copy.try_lock().is_err() {
            continue;
        }
        tracing::warn!(?path, "removes what a move that was killed has left");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
