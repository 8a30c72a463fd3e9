//! A separate file system for history, which a test can fill.

use std::path::Path;
use std::process::{Command, Stdio};

/// More than a run of an hour puts into history.
const SIZE: &str = "8g";

/// A file system in memory.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// # Panics
    /// If it cannot be mounted, which needs root.
    pub fn new() -> Self {
        let disk = Self(crate::support::folder());
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={SIZE},mode=0700"),
            "tmpfs",
        ]);
        let output = mount.arg(disk.path()).output().unwrap();
        assert!(output.status.success(), "a mount takes root: {output:?}");
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Reduces its size to its content. Returns `false` if a file was written at the same time.
    pub fn fill(&self) -> bool {
        let now = rustix::fs::statvfs(self.path()).unwrap();
        let used = (now.f_blocks - now.f_bfree) * now.f_frsize;
        self.resize(&used.max(now.f_frsize).to_string())
    }

    /// Restores its size.
    pub fn relieve(&self) -> bool {
        self.resize(SIZE)
    }

    fn resize(&self, size: &str) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]);
        let mount = mount.arg(self.path()).stderr(Stdio::null());
        mount.status().unwrap().success()
    }
}

impl Drop for Disk {
    /// Lazily, because after a failure a process may still use it.
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        let _ = unmount.arg("--lazy").arg(self.path()).status();
    }
}
