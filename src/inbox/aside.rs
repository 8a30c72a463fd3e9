//! A file of history under a hidden name, so that the limits of history do not remove it before it is
//! in inbound again.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::moving::{begin_copy, directory_of, move_into, move_within, open_to_move, set_aside};
use super::names::{numbered, without_ending};
use super::replacing::become_like;
use crate::content;

/// A file under a hidden name in its directory. If the process dies, the next start of an engine or
/// the next command for repairs gives the file its name back.
#[derive(Debug)]
pub struct Aside {
    now: PathBuf,
    former: PathBuf,
    /// Its lock tells a start that this process lives.
    locked: File,
}

impl Aside {
    /// Gives a file a hidden name.
    ///
    /// # Errors
    /// It is no regular file, another process moves it, or a system call fails.
    pub fn set(file: &Path) -> io::Result<Self> {
        let (locked, opened) = open_to_move(file)?;
        Ok(Self {
            now: set_aside(file, &opened)?,
            former: file.to_owned(),
            locked,
        })
    }

    /// Moves it like [`move_into`], as it was delivered. If that fails, it has its name again.
    pub(super) fn move_into(self, to: &Path, name: &OsStr) -> io::Result<PathBuf> {
        let Self {
            now,
            former,
            locked,
        } = self;
        if let Some(compacted) = content::compacted(&now) {
            let moved = inflate_into(&now, compacted.bytes, to, name);
            if let Some(path) = moved.inspect_err(|_| drop(give_back(&now, &former)))? {
                return Ok(path);
            }
        }
        // A copy to another device takes the lock itself.
        drop(locked);
        move_into(&now, to, name).inspect_err(|_| drop(give_back(&now, &former)))
    }

    /// Where it was, without the ending that its compression in history gave it.
    pub(super) fn former(&self) -> &Path {
        if content::compacted(&self.now).is_some() {
            without_ending(&self.former)
        } else {
            &self.former
        }
    }

    /// Gives it its name back.
    ///
    /// # Errors
    /// A system call fails.
    pub fn give_back(self) -> io::Result<()> {
        give_back(&self.now, &self.former)
    }
}

/// Writes a compressed file of history into a directory as it was delivered, and removes it. A kill in
/// between leaves both. `None` if it does not have this size: it was delivered as it is.
fn inflate_into(from: &Path, bytes: u64, to: &Path, name: &OsStr) -> io::Result<Option<PathBuf>> {
    let mut file = File::open(from)?;
    let metadata = file.metadata()?;
    let (directory, last) = directory_of(to, name)?;
    let mut copy = begin_copy(&directory)?;
    // One byte more than expected shows that there are more.
    content::write_inflated(&mut file, bytes.saturating_add(1), copy.as_file_mut())?;
    if copy.as_file().metadata()?.len() != bytes {
        return Ok(None);
    }
    become_like(copy.as_file(), &metadata)?;
    copy.as_file().sync_all()?;
    // A file that is open for writing would count as one that is still being written. This handle
    // keeps the lock.
    let held = File::open(copy.path())?;
    let _ = held.lock_shared();
    let mut copy = copy.into_temp_path();
    for attempt in 0..u32::MAX {
        let target = directory.join(numbered(last, attempt));
        match copy.persist_noclobber(&target) {
            Ok(()) => {
                File::open(&directory)?.sync_all()?;
                fs::remove_file(from)?;
                return Ok(Some(target));
            }
            Err(taken) if taken.error.kind() == io::ErrorKind::AlreadyExists => copy = taken.path,
            Err(failed) => return Err(failed.error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn give_back(now: &Path, former: &Path) -> io::Result<()> {
    let directory = former.parent().expect("a file in a directory");
    move_within(now, directory, former.file_name().unwrap_or_default()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_set_aside_moves_or_has_its_name_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.json");
        fs::write(&file, "1").unwrap();
        let aside = Aside::set(&file).unwrap();
        assert!(!file.exists());
        aside.give_back().unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"1");
        let aside = Aside::set(&file).unwrap();
        let nowhere = folder.path().join("none");
        aside.move_into(&nowhere, OsStr::new("b.json")).unwrap_err();
        assert_eq!(fs::read(&file).unwrap(), b"1");
        let to = folder.path().join("to");
        fs::create_dir(&to).unwrap();
        let aside = Aside::set(&file).unwrap();
        let moved = aside.move_into(&to, OsStr::new("b.json")).unwrap();
        assert_eq!(moved, to.join("b.json"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
