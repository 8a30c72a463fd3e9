//! Free room on a file system: bytes, and inodes. Each new file needs an inode.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Free bytes and inodes of a file system, for a user without privileges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FreeRoom {
    /// Free bytes.
    pub bytes: u64,
    /// Free inodes. `None` if the file system has no limit of inodes.
    pub inodes: Option<u64>,
}

impl FreeRoom {
    /// The free room of the file system of a path.
    ///
    /// # Errors
    /// The path does not exist, or the file system does not answer.
    pub fn of(path: &Path) -> io::Result<Self> {
        let at = statvfs(path)?;
        Ok(Self {
            bytes: at.f_bavail.saturating_mul(at.f_frsize),
            inodes: (at.f_files > 0).then_some(at.f_favail),
        })
    }

    /// Why no file is taken: the free bytes are below the floor, or no inode is free. `None` if
    /// there is enough room. A file that goes to quarantine needs an inode for its reason.
    #[must_use]
    pub fn shortage(&self, floor_bytes: u64) -> Option<String> {
        if self.inodes == Some(0) {
            return Some("no free inodes: no file can be created".to_owned());
        }
        let bytes = self.bytes;
        (bytes < floor_bytes)
            .then(|| format!("{bytes} bytes free, less than disk_floor = {floor_bytes}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_inodes_run_short() {
        let shortage = |bytes, inodes| FreeRoom { bytes, inodes }.shortage(10);
        assert_eq!(shortage(10, None), None);
        assert_eq!(shortage(10, Some(1)), None);
        assert!(shortage(9, Some(1)).unwrap().starts_with("9 bytes free"));
        assert!(shortage(1 << 40, Some(0)).unwrap().contains("inodes"));
    }

    #[test]
    fn free_room_is_read_from_the_system() {
        let dir = tempfile::tempdir().unwrap();
        assert!(FreeRoom::of(dir.path()).unwrap().bytes > 0);
        assert!(FreeRoom::of(&dir.path().join("none")).is_err());
    }
}
