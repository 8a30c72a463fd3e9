//! A file that this process writes into work itself, such as standard input. No other process takes
//! it, and it is never in inbound.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;

use tempfile::NamedTempFile;

use super::claim::{Claimed, claimed};
use super::moving::begin_copy;
use super::open::Inbox;

/// A file in work under a hidden name, until it is whole. Dropping it removes the file. If the
/// process is killed, the next start or an heir removes it.
#[derive(Debug)]
pub struct Arriving(NamedTempFile);

impl Arriving {
    /// A handle to write the file.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn file(&self) -> io::Result<File> {
        self.0.as_file().try_clone()
    }
}

impl Inbox {
    /// Creates an empty file in work.
    ///
    /// # Errors
    /// A system call fails.
    pub fn begin_file(&self) -> io::Result<Arriving> {
        begin_copy(&self.node.claims()).map(Arriving)
    }

    /// Gives a whole file, which was synced and has no other handle that writes, its name. It is
    /// claimed then.
    ///
    /// # Errors
    /// A system call fails. Then the file is removed.
    pub fn end_file(&self, arriving: Arriving, name: &OsStr) -> io::Result<Claimed> {
        let path = self.move_into_work(arriving.0.path(), name)?;
        // Closes the file. Its hidden name leads nowhere now.
        drop(arriving);
        let metadata = fs::symlink_metadata(&path)?;
        claimed(path, &metadata)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::inbox::tests::nodes::open;

    #[test]
    fn a_file_is_claimed_when_it_is_whole_and_removed_when_its_process_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = open(dir.path(), "a", 1);
        let arriving = inbox.begin_file().unwrap();
        let mut file = arriving.file().unwrap();
        file.write_all(b"[1").unwrap();
        // The start of another process removes no file of one that lives.
        drop(open(dir.path(), "b", 1));
        assert!(inbox.recovered().unwrap().is_empty());
        file.write_all(b"]").unwrap();
        drop(file);
        let claimed = inbox.end_file(arriving, OsStr::new("a.json")).unwrap();
        assert_eq!(fs::read(&claimed.path).unwrap(), b"[1]");
        assert_eq!(inbox.recovered().unwrap(), std::slice::from_ref(&claimed));
        let again = inbox.begin_file().unwrap();
        let again = inbox.end_file(again, OsStr::new("a.json")).unwrap();
        assert_eq!((again.name, again.bytes), ("a.json".into(), 0));
        assert_ne!(again.path, claimed.path);

        let dropped = inbox.begin_file().unwrap();
        let path = dropped.0.path().to_owned();
        drop(dropped);
        assert!(!path.exists());
        let (file, path) = inbox.begin_file().unwrap().0.into_parts();
        let path = path.keep().unwrap();
        drop(file);
        drop(open(dir.path(), "b", 1));
        assert!(!path.exists());
    }
}
