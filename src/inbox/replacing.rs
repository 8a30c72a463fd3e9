//! Replaces a file of history by one with other bytes, in steps that a kill does not harm: at each
//! moment, the name leads to the former file or to the new one.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::directories::Directories;
use super::markers::Markers;
use super::moving::{begin_copy, open_to_move, set_aside};
use super::names::{COMPACTED_ENDING, numbered};
use super::walk::{Archive, Found};
use super::whereabouts::has_size;
use crate::batch::ContentHash;
use crate::content;

/// A file that was written beside the one that it replaces, under a hidden name. A start removes it if a
/// kill has left it.
pub struct Replacement {
    path: PathBuf,
    former: Metadata,
    /// Holds the lock of the former file.
    _locked: File,
    new: TempPath,
    /// Holds the lock that keeps other processes from removing the new file.
    _held: File,
}

impl Replacement {
    /// Writes a file with `write` beside the one at a path, with the rights, the owner and the mtime of
    /// that one, and syncs it. Returns it with the result of `write`.
    ///
    /// # Errors
    /// Those of `write`; the file is not there, or its directory takes no file.
    pub fn write<T, E: From<io::Error>>(
        path: &Path,
        write: impl FnOnce(&mut File) -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        let directory = path.parent().ok_or_else(no_directory)?;
        // Of two processes that replace a file, the second one fails.
        let (locked, former) = open_to_move(path)?;
        let mut copy = begin_copy(directory)?;
        let written = write(copy.as_file_mut())?;
        let file = copy.as_file();
        become_like(file, &former)?;
        file.sync_all()?;
        // A file that is open for writing would count as one that is still being written.
        let held = File::open(copy.path())?;
        let _ = held.lock_shared();
        let new = copy.into_temp_path();
        let replacement = Self {
            path: path.to_owned(),
            former,
            _locked: locked,
            new,
            _held: held,
        };
        Ok((replacement, written))
    }

    /// The path of the new file until [`finish`](Self::finish).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.new
    }

    /// The size of the new file.
    pub(super) fn bytes(&self) -> io::Result<u64> {
        Ok(fs::symlink_metadata(&self.new)?.len())
    }

    /// Gives the new file, which is the compressed former one, the name of the former one with `.zst`,
    /// syncs the directory, and removes the former one. `hash` is the identity of both, and `source` the
    /// state of the former one when it was opened to be compressed. A name that is taken gets a number
    /// before `.zst`. If a kill has left the compressed file, that is kept.
    ///
    /// # Errors
    /// A system call fails, or the former file was changed or replaced meanwhile. Then it stays.
    pub(super) fn finish_compacted(self, source: &Metadata, hash: ContentHash) -> io::Result<()> {
        let now = fs::symlink_metadata(&self.path)?;
        if content::state(&now) != content::state(source) {
            return Err(ErrorKind::ResourceBusy.into());
        }
        let directory = self.path.parent().ok_or_else(no_directory)?;
        let name = self.path.file_name().unwrap_or_default();
        let mut new = self.new;
        for attempt in 0..u32::MAX {
            let mut target = numbered(name, attempt);
            target.push(COMPACTED_ENDING);
            let target = directory.join(target);
            let Err(taken) = new.persist_noclobber(&target) else {
                break;
            };
            if taken.error.kind() != ErrorKind::AlreadyExists {
                return Err(taken.error);
            }
            if matches!(content::identity_of_compacted(&target), Ok(Some(it)) if it == hash) {
                break;
            }
            new = taken.path;
        }
        File::open(directory)?.sync_all()?;
        match set_aside(&self.path, source).and_then(fs::remove_file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives the new file the name of the former one, and syncs the directory: the former bytes must not
    /// come back.
    ///
    /// # Errors
    /// A system call fails, or the former file was replaced meanwhile. Then it stays.
    pub fn finish(self) -> io::Result<()> {
        let now = fs::symlink_metadata(&self.path)?;
        if (now.dev(), now.ino()) != (self.former.dev(), self.former.ino()) {
            return Err(ErrorKind::ResourceBusy.into());
        }
        self.new.persist(&self.path).map_err(|error| error.error)?;
        let directory = self.path.parent().ok_or_else(no_directory)?;
        File::open(directory)?.sync_all()
    }
}

/// Gives a file the rights, the owner and the mtime of another one.
pub(super) fn become_like(file: &File, former: &Metadata) -> io::Result<()> {
    file.set_permissions(former.permissions())?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (former.uid(), former.gid()) {
        fchown(file, Some(former.uid()), Some(former.gid()))?;
    }
    file.set_times(FileTimes::new().set_modified(former.modified()?))
}

fn no_directory() -> io::Error {
    ErrorKind::InvalidInput.into()
}

/// The files that were delivered with one of these sizes in history, and those in the other directories of the engine.
#[must_use]
pub fn with_size(directories: &Directories, sizes: &[u64]) -> [Vec<PathBuf>; 2] {
    let Directories {
        inbound,
        work,
        history,
        quarantine,
    } = directories;
    let below = |dir: &PathBuf| -> Vec<PathBuf> {
        let files = Archive::all_of(dir, &Markers::new(&[], &[])).walk();
        files
            .filter_map(|found| match found {
                Ok(Found::File(file)) => Some(file.path),
                _ => None,
            })
            .filter(|path| has_size(path, sizes))
            .collect()
    };
    let others = [inbound, work, quarantine].into_iter().flat_map(below);
    [below(history), others.collect()]
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_one_that_was_replaced_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "former").unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(then).unwrap();
        let write = |text: &'static str| {
            Replacement::write(&path, |file| file.write_all(text.as_bytes()))
                .unwrap()
                .0
        };
        let new = write("new");
        assert_eq!(fs::read(&path).unwrap(), b"former");
        assert_eq!(fs::read(new.path()).unwrap(), b"new");
        new.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), then);

        let late = write("late");
        fs::write(dir.path().join("b"), "other").unwrap();
        fs::rename(dir.path().join("b"), &path).unwrap();
        assert_eq!(late.finish().unwrap_err().kind(), ErrorKind::ResourceBusy);
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
