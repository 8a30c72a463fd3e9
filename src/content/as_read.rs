//! The state of a file as it was read, to be compared with the file at its path later.

use std::path::Path;

use super::body::{identity, read_or_hold};
use super::error::ContentError;
use super::options::ContentOptions;
use super::regular::{Sample, sample};
use crate::batch::ContentHash;

/// The state of a file before its first byte was read, and the identity of the bytes that were
/// read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsRead {
    hash: ContentHash,
    /// The hash of the bytes on the disk: another one, if the engine has compressed the file.
    on_disk: ContentHash,
    sample: Sample,
}

impl AsRead {
    pub(super) fn new(hash: ContentHash, on_disk: ContentHash, sample: Sample) -> Self {
        Self {
            hash,
            on_disk,
            sample,
        }
    }

    /// The hash of the bytes on the disk.
    #[must_use]
    pub fn on_disk(&self) -> ContentHash {
        self.on_disk
    }

    /// The identity of the bytes that were read.
    #[must_use]
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// The state of the file before its first byte was read.
    #[must_use]
    pub fn sample(&self) -> Sample {
        self.sample
    }

    /// Whether the file at `path` still has the content that was read. Equal size, mtime, ctime,
    /// inode and device prove it. If one of them differs, the whole file is hashed, since a new
    /// name of the file changes its ctime as well.
    ///
    /// # Errors
    /// [`ContentError::Busy`] if a process has it open for writing; [`ContentError::Io`].
    pub fn is_at(&self, path: &Path, options: &ContentOptions) -> Result<bool, ContentError> {
        if sample(&std::fs::symlink_metadata(path)?) == self.sample {
            return Ok(true);
        }
        let (body, _) = read_or_hold(path, options)?;
        Ok(body.inspect(identity)? == self.on_disk)
    }
}
