//! A copy in quarantine of a file that has no name of its own: a member of a container.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};

use super::moving::{begin_copy, directory_of, is_equal, write_reason};
use super::names::{numbered_with_reason, reason_path};

/// Writes a file into a directory with `write`, under its name or, if that is taken, the name with a
/// number, and a text beside it to `NAME.reason`. Returns its path. An equal file under one of these
/// names is kept instead: an attempt that was killed may have left it.
pub(super) fn write_with_reason(
    to: &Path,
    name: &std::ffi::OsStr,
    text: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let (to, name) = directory_of(to, name)?;
    let mut copy = begin_copy(&to)?;
    write(copy.as_file_mut())?;
    copy.as_file().sync_all()?;
    for attempt in 0..u32::MAX {
        let target = to.join(numbered_with_reason(name, attempt));
        let beside = reason_path(&target);
        if fs::symlink_metadata(&target).is_ok() {
            copy.as_file_mut().rewind()?;
            if is_equal(copy.as_file(), &target)? {
                return Ok(target);
            }
            continue;
        }
        if !write_reason(&beside, text)? {
            continue;
        }
        match copy.persist_noclobber(&target) {
            Ok(_) => return Ok(target),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => copy = error.file,
            Err(error) => return Err(error.error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_copy_is_made_once_and_replaces_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let copy = |bytes: &'static [u8]| {
            let path = write_with_reason(dir.path(), "a.tar/d/x".as_ref(), "why", |file| {
                file.write_all(bytes)
            });
            let path = path.unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::read(reason_path(&path)).unwrap(), b"why");
            path.strip_prefix(dir.path()).unwrap().to_owned()
        };
        assert_eq!(copy(b"one"), Path::new("a.tar/d/x"));
        assert_eq!(copy(b"two"), Path::new("a.tar/d/x.1"));
        assert_eq!(copy(b"two"), Path::new("a.tar/d/x.1"));
        assert_eq!(copy(b"one"), Path::new("a.tar/d/x"));
        let failed = write_with_reason(dir.path(), "y".as_ref(), "why", |_| {
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "a failed copy leaves nothing");
    }
}
