//! The claim: the move of a file from inbound to work. After it, only this process uses the file.
//!
//! A file whose claim fails waits while other files go on: a damaged inode or a stale handle must
//! not delay other files. A claim of many files ends early only if the error would affect every
//! file.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::moving::{copy_across, lacks_noreplace};
use super::names::{is_hidden, name_in_work, work_for};
use super::open::Inbox;
use super::scan::Candidate;
use super::times::{age, arrived};
use super::tree::{each_file, remove_empty};
use super::waiting::{WaitReason, Waits};
use crate::content::{self, ContentError, Writers};

/// Bytes at the end of a file that are read to see whether its document closes.
const TAIL_BYTES: usize = 4096;

/// A file in work, or of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The file's name in inbound: its path below it, also while it is in work. In history it has
    /// the same name, unless that is taken. For a file of an archive: the last segment of its path.
    pub name: OsString,
    /// The file's path.
    pub path: PathBuf,
    /// The file's size in bytes.
    pub bytes: u64,
    /// When the file was last written.
    pub modified: SystemTime,
    /// When the file arrived in inbound. For a file that an earlier run left in work: when it
    /// arrived in work.
    pub arrived: SystemTime,
    /// The state of the file when it was found.
    pub sample: content::Sample,
}

/// The result of a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The file is in work.
    Taken(Claimed),
    /// The file waits in inbound.
    Waits(WaitReason),
}

impl Inbox {
    /// Takes a file out of inbound, unless it is seen to be incomplete. Reads only its end.
    ///
    /// # Errors
    /// A system call fails.
    pub fn claim(&self, candidate: &Candidate) -> io::Result<Claim> {
        let from = self.directories.inbound.join(&candidate.name);
        let (file, metadata) = match content::open_regular(&from) {
            Ok(opened) => opened,
            Err(ContentError::Io(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            Err(_) => return Ok(Claim::Waits(WaitReason::Gone)),
        };
        // Checked again with the open file: since the scan, another file may have taken the name.
        if self.has_other_name(&metadata) {
            return Ok(Claim::Waits(WaitReason::OtherName));
        }
        // The lease lasts until the file has moved, so that no writer opens it in between.
        match content::writers(&file) {
            Writers::Some => return Ok(Claim::Waits(WaitReason::BeingWritten)),
            Writers::Unknown if age(&metadata) < self.patience().quiet_time => {
                return Ok(Claim::Waits(WaitReason::JustWritten));
            }
            Writers::Unknown | Writers::None => {}
        }
        // A file whose end cannot be read is claimed as well: the stage that reads the whole file
        // decides about it.
        if self.is_young(&metadata) && !seems_closed(&file, metadata.len()).unwrap_or(true) {
            self.note_incomplete(&candidate.name, &metadata);
            return Ok(Claim::Waits(WaitReason::Incomplete));
        }
        match self.move_into_work(&from, &candidate.name) {
            Ok(path) => Ok(Claim::Taken(Claimed {
                name: candidate.name.clone(),
                ..claimed(path, &metadata)?
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {
                Ok(Claim::Waits(WaitReason::Gone))
            }
            Err(error) => Err(error),
        }
    }

    /// Moves a file into work under its name; if that is taken, into another directory in it.
    pub(super) fn move_into_work(&self, from: &Path, name: &OsStr) -> io::Result<PathBuf> {
        let claims = self.node.claims();
        for attempt in 0..u32::MAX {
            let to = work_for(&claims, attempt).join(name);
            create_below(&claims, to.parent().expect("it is below work"))?;
            match claim_by_rename(from, &to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                moved => return moved.map(|()| to),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Claims files in order. A file that must wait, or whose claim fails, is added to `waits`.
    ///
    /// Returns the claimed files, and the error that ended the claim early because it affects every
    /// file. The caller must load the claimed files even after an error, since only the next start
    /// lists work.
    pub fn claim_all(
        &self,
        files: &[Candidate],
        waits: &mut Waits,
    ) -> (Vec<Claimed>, Option<io::Error>) {
        let mut claimed = Vec::new();
        for file in files {
            let name = || file.name.clone();
            match self.claim(file) {
                Ok(Claim::Taken(file)) => claimed.push(file),
                // Mostly, another node has taken it.
                Ok(Claim::Waits(WaitReason::Gone)) => {}
                Ok(Claim::Waits(reason)) => {
                    waits.add(name(), reason);
                }
                Err(error) if affects_every_file(&error) => return (claimed, Some(error)),
                Err(error) => {
                    // The log, like the list, names only the first of very many files.
                    if waits.add(name(), WaitReason::claim_failed(&error)) {
                        tracing::warn!(name = ?file.name, %error, "cannot be claimed, and waits");
                    }
                }
            }
        }
        (claimed, None)
    }

    /// The files of this node in work, which an earlier run claimed. Removes empty directories, which it
    /// left. None if another node has taken over the directory, and with it the files.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn recovered(&self) -> io::Result<Vec<Claimed>> {
        let mut found = Vec::new();
        let claims = self.node.claims();
        remove_empty(&claims);
        let listed = each_file(
            &claims,
            |_| true,
            |path, entry| {
                let metadata = entry.metadata()?;
                if metadata.is_file() && !is_hidden(&entry.file_name()) {
                    found.push(Claimed {
                        name: name_in_work(Path::new(&path)).to_owned(),
                        ..claimed(entry.path(), &metadata)?
                    });
                }
                Ok(())
            },
        );
        match listed {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            listed => listed?,
        }
        found.sort_by(|a, b| (a.modified, &a.name).cmp(&(b.modified, &b.name)));
        Ok(found)
    }

    /// Whether a claimed file may still grow.
    #[must_use]
    pub fn may_grow(&self, file: &Claimed) -> bool {
        fs::metadata(&file.path).is_ok_and(|metadata| self.is_young(&metadata))
    }
}

/// Whether the error of a move would affect every other file as well: no room, no memory, no
/// descriptors, or no target directory. (The removal of the file itself is not an error.)
#[must_use]
pub fn affects_every_file(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, OutOfMemory, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem | OutOfMemory | NotFound
    ) || matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Creates the directories from `root`, which must exist, to `path`: if this process was taken over,
/// `root` is gone, and nothing is claimed into it.
fn create_below(root: &Path, path: &Path) -> io::Result<()> {
    let mut directory = root.to_owned();
    for name in path.strip_prefix(root).into_iter().flatten() {
        directory.push(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
    }
    Ok(())
}

/// Moves a file into the directory of this process, in which no other process creates names. If the
/// file system has no rename that never replaces a file, the name is looked up first: a second name
/// (a hard link) could be made by several nodes at once, and each would take the file for its own.
fn claim_by_rename(from: &Path, to: &Path) -> io::Result<()> {
    let renamed = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(error) if lacks_noreplace(error) => claim_by_lookup(from, to),
        renamed => renamed.map_err(Into::into),
    };
    match renamed {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {
            copy_across(from, to, None)
        }
        renamed => renamed,
    }
}

fn claim_by_lookup(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match fs::rename(from, to) {
        // A file server has received the request twice.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(to).is_ok() =>
        {
            Ok(())
        }
        renamed => renamed,
    }
}

/// The file that `metadata` describes.
pub(super) fn claimed(path: PathBuf, metadata: &Metadata) -> io::Result<Claimed> {
    let name = path.file_name().unwrap_or_default().to_owned();
    Ok(Claimed {
        name,
        path,
        bytes: metadata.len(),
        modified: metadata.modified()?,
        arrived: arrived(metadata),
        sample: content::sample(metadata),
    })
}

/// Whether a file could be a whole document, by its last characters. Compressed data always could.
fn seems_closed(file: &File, bytes: u64) -> io::Result<bool> {
    let mut tail = [0; TAIL_BYTES];
    let head = file.read_at(&mut tail[..content::BEGINNING_BYTES], 0)?;
    if content::is_compressed(&tail[..head]) {
        return Ok(true);
    }
    let read = file.read_at(&mut tail, bytes.saturating_sub(TAIL_BYTES as u64))?;
    let last = tail[..read]
        .iter()
        .rev()
        .find(|byte| !byte.is_ascii_whitespace());
    // A line of NDJSON with another end is a whole record once it has its line break, even if the
    // record is bad.
    Ok(
        matches!(last, Some(b'}' | b']'))
            || (read > 0 && tail[read - 1] == b'\n' && last.is_some()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_flag_a_claim_replaces_no_file_and_only_one_of_several_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), "1").unwrap();
        fs::write(at("taken"), "2").unwrap();
        let taken = claim_by_lookup(&at("a"), &at("taken")).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        for _ in 0..200 {
            fs::write(at("a"), "1").unwrap();
            let claims = std::thread::scope(|scope| {
                let claim = |to| scope.spawn(move || claim_by_lookup(&at("a"), &at(to)).is_ok());
                [claim("b"), claim("c")].map(|claim| claim.join().unwrap())
            });
            assert_eq!(claims.iter().filter(|claimed| **claimed).count(), 1);
            let there = [at("b"), at("c")].map(|to| fs::remove_file(to).is_ok());
            assert_eq!(there, claims);
        }
        assert_eq!(fs::read(at("taken")).unwrap(), b"2");
    }

    #[test]
    fn only_errors_that_each_file_would_meet_affect_every_file() {
        let of = |errno: Errno| affects_every_file(&errno.into());
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::NOMEM,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOENT,
        ] {
            assert!(of(errno), "{errno}");
        }
        for errno in [
            Errno::IO,
            Errno::UCLEAN,
            Errno::STALE,
            Errno::BUSY,
            Errno::ACCESS,
            Errno::PERM,
            Errno::TIMEDOUT,
            Errno::INVAL,
        ] {
            assert!(!of(errno), "{errno}");
        }
    }
}
