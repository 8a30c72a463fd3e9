//! The moves of a file out of work: to history, to quarantine, or back to inbound.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::claim::Claimed;
use super::directories::Directories;
use super::moving::{move_content_into, move_into, move_with_reason};
use super::open::Inbox;
use crate::batch::ContentHash;

impl Inbox {
    /// Moves a settled file to history. Returns its path there. A whole copy of it that a killed move
    /// from another device left in history is a success. If it has to be copied, it must have the
    /// content that was read, by its hash.
    ///
    /// # Errors
    /// The system's, or the content differs; the file is still in work.
    pub fn to_history(&self, file: &Claimed, hash: Option<ContentHash>) -> io::Result<PathBuf> {
        let Directories { history, .. } = &self.directories;
        move_content_into(&file.path, history, &file.name, hash)
    }

    /// Moves a file that cannot be loaded to quarantine, with its reason beside it in `NAME.reason`.
    /// A name that would be too long with the suffix is cut before it.
    ///
    /// # Errors
    /// The system's; the file is still in work.
    pub fn to_quarantine(&self, file: &Claimed, reason: &str) -> io::Result<PathBuf> {
        let text = format!("{reason}\n");
        move_with_reason(&file.path, &self.directories.quarantine, &file.name, &text)
    }

    /// Moves a claimed file back to inbound, to wait for the rest of it.
    ///
    /// # Errors
    /// The system's; the file is still in work.
    pub fn put_back(&self, file: &Claimed) -> io::Result<()> {
        // A file of an archive that is to be moved was never in inbound: it stays where it is.
        if file.path.parent() != Some(self.directories.work.as_path()) {
            return Ok(());
        }
        let path = move_into(&file.path, &self.directories.inbound, &file.name)?;
        let name = path.file_name().expect("a moved file has a name");
        self.note_incomplete(name, &fs::metadata(&path)?);
        Ok(())
    }
}
