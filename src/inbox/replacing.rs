//! Replaces a file of history by one with other bytes, in steps that a kill does not harm: at each
//! moment, the name leads to the former file or to the new one.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use super::directories::Directories;
use super::markers::Markers;
use super::moving::begin_copy;
use super::walk::{Archive, Found};

/// A file that was written beside the one that it replaces, under a hidden name. A start removes it if a
/// kill has left it.
pub struct Replacement {
    path: PathBuf,
    former: Metadata,
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
        let former = fs::symlink_metadata(path)?;
        let mut copy = begin_copy(directory)?;
        let written = write(copy.as_file_mut())?;
        let file = copy.as_file();
        file.set_permissions(former.permissions())?;
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (former.uid(), former.gid()) {
            fchown(file, Some(former.uid()), Some(former.gid()))?;
        }
        file.set_times(FileTimes::new().set_modified(former.modified()?))?;
        file.sync_all()?;
        // A file that is open for writing would count as one that is still being written.
        let held = File::open(copy.path())?;
        let new = copy.into_temp_path();
        let _ = held.lock();
        let replacement = Self {
            path: path.to_owned(),
            former,
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

fn no_directory() -> io::Error {
    ErrorKind::InvalidInput.into()
}

/// The files with one of these sizes in history, and those in the other directories of the engine.
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
            .filter(|path| fs::symlink_metadata(path).is_ok_and(|it| sizes.contains(&it.len())))
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
