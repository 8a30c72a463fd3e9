//! Files without a name, on the disk of the work directory, for bytes that find no place in memory.
//!
//! Redis and the database may have the same disk, and they fail where it is full. So a spill stops at
//! the floor that is to stay free. How much it takes shows only as it is written (inflated data) or
//! not even then (a copy may share the blocks of its original), so the disk is asked all the while.
//! What a spill has taken is free again once it is dropped, whatever ends the process.

use std::fs::File;
use std::io::{self, Read, Write};

use super::mapping::Mapping;
use super::{ContentOptions, free_bytes};

/// Bytes that are written before the disk is asked again. Each core may write a spill at the same
/// time, so all of them go below the floor by this for each core: a small part of a floor of 256
/// MiB. Less would gain little; a question costs some microseconds, these bytes some milliseconds.
const UNASKED_BYTES: u64 = 8 * 1024 * 1024;

/// A file that is being written.
pub(super) struct Spill<'a> {
    file: File,
    options: &'a ContentOptions,
    /// Bytes that were written since the disk was asked.
    unasked: u64,
}

impl<'a> Spill<'a> {
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where the disk has less than the floor already. It passes.
    pub(super) fn begin(options: &'a ContentOptions) -> io::Result<Self> {
        leaves_the_floor(options)?;
        Ok(Self {
            file: tempfile::tempfile_in(&options.spill_dir)?,
            options,
            unasked: 0,
        })
    }

    /// Writes bytes, [`UNASKED_BYTES`] at most.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] where the floor is reached.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.unasked >= UNASKED_BYTES {
            leaves_the_floor(self.options)?;
            self.unasked = 0;
        }
        self.file.write_all(bytes)?;
        self.unasked += bytes.len() as u64;
        Ok(())
    }

    /// Copies up to so many bytes of a file. The kernel does it, and shares their blocks where the
    /// file system can.
    ///
    /// # Errors
    /// As of `write`.
    pub(super) fn copy(&mut self, from: &File, bytes: u64) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(UNASKED_BYTES);
            if io::copy(&mut from.take(piece), &mut self.file)? < piece {
                break;
            }
            leaves_the_floor(self.options)?;
            left -= piece;
        }
        Ok(())
    }

    /// Maps what was written.
    pub(super) fn map(self) -> io::Result<Mapping> {
        Mapping::private(&self.file)
    }
}

fn leaves_the_floor(options: &ContentOptions) -> io::Result<()> {
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
