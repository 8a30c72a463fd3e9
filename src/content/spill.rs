//! Spills: files without a name, on the disk of the work directory, for bytes that do not fit in
//! memory.
//!
//! Redis and the database may use the same disk, and they fail if it is full. So a spill stops when
//! the free space of the disk reaches the floor. The free space is read while the spill is written,
//! and not computed before: the size of inflated data is not known, and a copy may share the blocks
//! of its original. The system frees the space of a spill when the spill is dropped or the process
//! ends.

use std::fs::File;
use std::io::{self, Read, Write};

use super::options::ContentOptions;
use super::regular::free_bytes;
use super::stored::Stored;

/// Bytes that are written before the free space is read again. Each core may write a spill at the
/// same time and go below the floor by this many bytes, which is little beside a floor of 256 MiB.
/// A smaller number would gain nothing: reading the free space takes microseconds, writing these
/// bytes takes milliseconds.
const UNCHECKED_BYTES: u64 = 8 * 1024 * 1024;

/// A spill that is being written.
pub(super) struct Spill<'a> {
    file: File,
    options: &'a ContentOptions,
    /// The size of the spill.
    bytes: u64,
    /// Bytes that were written since the free space was read.
    unchecked: u64,
}

impl<'a> Spill<'a> {
    /// Creates an empty spill.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if less than the floor is free. A later attempt may succeed.
    pub(super) fn begin(options: &'a ContentOptions) -> io::Result<Self> {
        check_floor(options)?;
        Ok(Self {
            file: tempfile::tempfile_in(&options.spill_dir)?,
            options,
            bytes: 0,
            unchecked: 0,
        })
    }

    /// Appends at most [`UNCHECKED_BYTES`] bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if the floor is reached.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unchecked >= UNCHECKED_BYTES {
            check_floor(self.options)?;
            self.unchecked = 0;
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.unchecked += bytes.len() as u64;
        Ok(())
    }

    /// Copies up to `bytes` bytes of a file. The kernel copies them, or lets both files share their
    /// blocks if the file system can.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] if the floor is reached.
    pub(super) fn copy(&mut self, from: &File, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(UNCHECKED_BYTES);
            let copied = io::copy(&mut from.take(piece), &mut self.file)?;
            self.bytes += copied;
            if copied < piece {
                break;
            }
            check_floor(self.options)?;
            left -= piece;
        }
        Ok(())
    }

    /// The file that was written.
    pub(super) fn end(self) -> Stored {
        Stored::private(self.file, self.bytes)
    }
}

fn check_floor(options: &ContentOptions) -> io::Result<()> {
    let (dir, floor) = (&options.spill_dir, options.spill_floor_bytes);
    let free = free_bytes(dir)?;
    if free >= floor {
        return Ok(());
    }
    let dir = dir.display();
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!("{dir} has {free} bytes free, less than disk_floor = {floor}"),
    ))
}
