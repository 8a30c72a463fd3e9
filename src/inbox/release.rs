//! The moves of a file out of work: to history, to quarantine, or back to inbound.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use super::claim::Claimed;
use super::copying::write_with_reason;
use super::days::directory_of_day;
use super::directories::Directories;
use super::moving::{move_content_into, move_into, move_with_reason};
use super::open::Inbox;
use super::waiting::WaitReason;
use crate::batch::ContentHash;

impl Inbox {
    /// Moves a settled file to history, and returns its path there. If a killed move from another
    /// device has left a whole copy in history, that copy is kept. A file that must be copied must
    /// have the hash of the content that was read.
    ///
    /// # Errors
    /// A system call fails, or the content differs. Then the file is still in work.
    pub fn to_history(&self, file: &Claimed, hash: Option<ContentHash>) -> io::Result<PathBuf> {
        let Directories { history, .. } = &self.directories;
        loop {
            let to = if self.is_by_day() {
                directory_of_day(history, SystemTime::now())?
            } else {
                history.clone()
            };
            match move_content_into(&file.path, &to, &file.name, hash) {
                // It was empty, and the limits of history have removed it.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound
                        && to != *history
                        && history.is_dir()
                        && !to.is_dir() => {}
                moved => return moved,
            }
        }
    }

    /// Moves a file that cannot be loaded to quarantine, with its reason beside it in
    /// `NAME.reason`. If that name is too long, it is cut before the suffix.
    ///
    /// # Errors
    /// A system call fails. Then the file is still in work.
    pub fn to_quarantine(&self, file: &Claimed, reason: &str) -> io::Result<PathBuf> {
        let text = format!("{reason}\n");
        move_with_reason(&file.path, &self.directories.quarantine, &file.name, &text)
    }

    /// Writes a member of a container that cannot be loaded to quarantine with `write`, under `name`,
    /// with its reason beside it. Does nothing if quarantine has this file.
    ///
    /// # Errors
    /// A system call fails, or the error of `write`. Then quarantine has no half of the file.
    pub fn copy_to_quarantine(
        &self,
        name: &OsStr,
        reason: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<PathBuf> {
        let text = format!("{reason}\n");
        write_with_reason(&self.directories.quarantine, name, &text, write)
    }

    /// Moves a claimed file back to inbound, where it waits for the reason given.
    ///
    /// # Errors
    /// A system call fails. Then the file is still in work.
    pub fn put_back(&self, file: &Claimed, reason: &WaitReason) -> io::Result<()> {
        // A file of an archive is not in work, and stays in its place.
        if !file.path.starts_with(&self.directories.work) {
            return Ok(());
        }
        let path = move_into(&file.path, &self.directories.inbound, &file.name)?;
        let name = path.strip_prefix(&self.directories.inbound);
        let name = name.expect("it was moved there").as_os_str();
        let metadata = fs::metadata(&path)?;
        match reason {
            WaitReason::TableRefuses(_) | WaitReason::EarlierContent(_) => {
                self.postponed.lock().postpone(name, &metadata, reason);
            }
            _ => self.note_incomplete(name, &metadata),
        }
        Ok(())
    }
}
