//! Replaces a file of history by one with other bytes, in steps that a kill does not harm: at each
//! moment, the name leads to the former file or to the new one.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::directories::Directories;
use super::markers::Markers;
use super::moving::begin_copy;
use super::walk::{Archive, Found};

/// A file that is written beside the one that it replaces, under a hidden name. A start removes it if a
/// kill has left it.
pub struct Replacement {
    path: PathBuf,
    former: Metadata,
    copy: NamedTempFile,
}

impl Replacement {
    /// Begins to replace the file at a path.
    ///
    /// # Errors
    /// The file is not there, or its directory takes no file.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
        Ok(Self {
            path: path.to_owned(),
            former: fs::symlink_metadata(path)?,
            copy: begin_copy(directory)?,
        })
    }

    /// The new file, to be written.
    pub fn file(&mut self) -> &mut File {
        self.copy.as_file_mut()
    }

    /// The path of the new file while it is written.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.copy.path()
    }

    /// Syncs the new file, with the rights, the owner and the mtime of the former one, and gives it its
    /// name. Syncs the directory as well: the former bytes must not come back.
    ///
    /// # Errors
    /// A system call fails, or the former file was replaced meanwhile. Then it stays.
    pub fn finish(self) -> io::Result<()> {
        let Self { path, former, copy } = self;
        let file = copy.as_file();
        file.set_permissions(former.permissions())?;
        let owner = file.metadata()?;
        if (owner.uid(), owner.gid()) != (former.uid(), former.gid()) {
            std::os::unix::fs::fchown(file, Some(former.uid()), Some(former.gid()))?;
        }
        file.set_times(FileTimes::new().set_modified(former.modified()?))?;
        file.sync_all()?;
        let now = fs::symlink_metadata(&path)?;
        if (now.dev(), now.ino()) != (former.dev(), former.ino()) {
            return Err(ErrorKind::ResourceBusy.into());
        }
        copy.persist(&path).map_err(|error| error.error)?;
        let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
        File::open(directory)?.sync_all()
    }
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
        let mut new = Replacement::begin(&path).unwrap();
        new.file().write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"former");
        new.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), then);

        let mut late = Replacement::begin(&path).unwrap();
        late.file().write_all(b"late").unwrap();
        fs::write(dir.path().join("b"), "other").unwrap();
        fs::rename(dir.path().join("b"), &path).unwrap();
        assert_eq!(late.finish().unwrap_err().kind(), ErrorKind::ResourceBusy);
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
