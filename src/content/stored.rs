//! A file on disk whose bytes are not kept in memory. It is mapped to be read as a whole, and read
//! by `pread` chunk by chunk.
//!
//! Both ways check the file after the read. They return the bytes that the file had when it was
//! opened, or an error: [`ContentError::Busy`] if the file was changed, EIO if the device did not
//! return them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::error::ContentError;
use super::mapping::Mapping;
use super::regular::{Stamp, stamp};

/// An open file.
#[derive(Debug)]
pub(super) struct Stored {
    file: File,
    /// The size of the file when it was opened.
    bytes: u64,
    /// The state of the file when it was opened. `None` if the file has no name, so that no other
    /// process can change it. The descriptor of a file with a name holds its lease.
    opened: Option<Stamp>,
}

impl Stored {
    /// A file that other processes can open. `opened` is its state before the first byte was read.
    pub(super) fn shared(file: File, bytes: u64, opened: Stamp) -> Self {
        Self {
            file,
            bytes,
            opened: Some(opened),
        }
    }

    /// A file without a name.
    pub(super) fn private(file: File, bytes: u64) -> Self {
        Self {
            file,
            bytes,
            opened: None,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Maps the file and passes all of its bytes to `inspect`. The result of `inspect` is dropped
    /// if the file changed meanwhile.
    pub(super) fn inspect<T>(&self, inspect: impl FnOnce(&[u8]) -> T) -> Result<T, ContentError> {
        let mapping = Mapping::new(&self.file)?;
        let is_whole = mapping.len() as u64 == self.bytes;
        let inspected = is_whole.then(|| inspect(&mapping));
        // The check for a change comes first, since a truncated file loses pages as well. If the
        // file was not changed, the device did not return the pages.
        let is_damaged = mapping.is_damaged();
        self.check()?;
        if is_damaged {
            return Err(io::Error::from_raw_os_error(libc::EIO).into());
        }
        inspected.ok_or(ContentError::Busy)
    }

    /// Reads a range of the file into `buffer`, and replaces what `buffer` holds.
    pub(super) fn read<'a>(
        &self,
        range: Range<u64>,
        buffer: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], ContentError> {
        let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        buffer.resize(bytes, 0);
        let read = self.file.read_exact_at(buffer, range.start);
        self.check()?;
        match read {
            Ok(()) => Ok(buffer),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ContentError::Busy),
            Err(error) => Err(error.into()),
        }
    }

    /// Checks that the file has not been changed since it was opened. The system sets the mtime of
    /// a file before it changes a byte, so all bytes that were read before the check are original.
    ///
    /// # Errors
    /// [`ContentError::Busy`] if the file was changed.
    fn check(&self) -> Result<(), ContentError> {
        match self.opened {
            Some(opened) if stamp(&self.file.metadata()?) != opened => Err(ContentError::Busy),
            _ => Ok(()),
        }
    }

    /// The file, for a test that changes it.
    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}
