//! Limits on memory for inflated data, and for the windows of decoders.
//!
//! The inflated size of a compressed file is known only after it is inflated, so a group of small
//! files could take gigabytes. All files share one room; data that does not fit in it goes to the
//! disk. A window must be in memory, so a file waits until there is room for its window.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::{Condvar, Mutex};

use super::format::{Compression, NotRead};

/// Bytes that all inflated files together may take in memory: room for one large file on each of a
/// few cores, and for the inflated files that wait to be parsed, which are mostly small. More would
/// exceed the memory budget; with less, ordinary files would be written to the disk.
const ROOM_BYTES: usize = 32 * 1024 * 1024;

/// The bytes that are left of the room. Clones share it.
#[derive(Debug, Clone)]
pub struct Room(Arc<AtomicUsize>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(ROOM_BYTES)))
    }
}

impl Room {
    /// Takes `bytes` bytes of the room. `None` if fewer are left.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Relaxed, Relaxed, less).ok()?;
        Some(Taken {
            room: self.clone(),
            bytes,
        })
    }
}

/// A part of the room. Dropping it returns the part.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    bytes: usize,
}

impl Taken {
    /// Keeps `bytes` bytes and returns the rest to the room.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let beyond = self.bytes.saturating_sub(bytes);
        self.bytes -= beyond;
        self.room.0.fetch_add(beyond, Relaxed);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Bytes for all windows unless a setting gives another number: one window of 128 MiB, the largest
/// that zstd uses at its highest levels.
const WINDOWS_BYTES_DEFAULT: u64 = 128 << 20;

/// Memory for windows: what decoders keep of the data, such as dictionaries and blocks. Clones share
/// it.
#[derive(Debug, Clone)]
pub struct Windows(Arc<WindowsLeft>);

#[derive(Debug)]
struct WindowsLeft {
    bytes_max: u64,
    left: Mutex<u64>,
    returned: Condvar,
}

impl Default for Windows {
    fn default() -> Self {
        Self::new(WINDOWS_BYTES_DEFAULT)
    }
}

impl Windows {
    /// Room for `bytes_max` bytes of windows. A single window may take all of them.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(WindowsLeft {
            bytes_max,
            left: Mutex::new(bytes_max),
            returned: Condvar::new(),
        }))
    }

    fn bytes_max(&self) -> u64 {
        self.0.bytes_max
    }

    /// Takes room for what a decoder of `compression` keeps in memory. Waits as [`Self::take`].
    ///
    /// # Errors
    /// [`NotRead::Window`] if it is larger than all of the room.
    pub(super) fn take_for(
        &self,
        compression: Compression,
        bytes: u64,
    ) -> Result<TakenWindow, NotRead> {
        let bytes_max = self.bytes_max();
        if bytes <= bytes_max {
            return Ok(self.take(bytes));
        }
        Err(NotRead::Window {
            compression,
            bytes,
            bytes_max,
        })
    }

    /// Takes room for a window. Blocks the thread until other files have returned enough. A thread
    /// that holds a window only inflates and writes, so the wait ends.
    ///
    /// # Panics
    /// If the window is larger than all of the room.
    fn take(&self, bytes: u64) -> TakenWindow {
        assert!(bytes <= self.0.bytes_max, "a window that fits");
        let mut left = self.0.left.lock();
        self.0.returned.wait_while(&mut left, |left| *left < bytes);
        *left -= bytes;
        let windows = self.clone();
        TakenWindow { windows, bytes }
    }
}

/// Room for a window. Dropping it returns the room.
#[derive(Debug)]
pub(super) struct TakenWindow {
    windows: Windows,
    bytes: u64,
}

impl Drop for TakenWindow {
    fn drop(&mut self) {
        *self.windows.0.left.lock() += self.bytes;
        self.windows.0.returned.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_waits_until_there_is_room_for_it() {
        let windows = Windows::new(100);
        let (small, large) = (windows.take(40), windows.take(60));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| windows.take(100).bytes);
            drop(small);
            assert!(!waits.is_finished());
            drop(large);
            assert_eq!(waits.join().unwrap(), 100);
        });
    }

    #[test]
    fn a_dropped_part_is_free_again() {
        let room = Room::default();
        let mut most = room.take(ROOM_BYTES - 1).unwrap();
        assert!(room.take(2).is_none());
        most.shrink_to(10);
        let rest = room.take(ROOM_BYTES - 10).unwrap();
        assert!(room.take(1).is_none());
        drop((most, rest));
        assert!(room.clone().take(ROOM_BYTES).is_some());
    }
}
