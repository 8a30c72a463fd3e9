//! Room in memory for inflated data. How much a compressed file becomes shows only when it is
//! inflated, so a group of small ones could take gigabytes: all of them share one room, and what
//! finds none goes to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that all inflated files together may have in memory. Each core inflates one file at a
/// time, and these may be large; those that are inflated and wait to be parsed are mostly small.
const ROOM_BYTES: usize = 32 * 1024 * 1024;

/// What is left of the room. Clones share it.
#[derive(Debug, Clone)]
pub struct Room(Arc<AtomicUsize>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(ROOM_BYTES)))
    }
}

impl Room {
    /// Takes this many bytes of it; `None` where fewer are left.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Relaxed, Relaxed, less).ok()?;
        Some(Taken {
            room: self.clone(),
            bytes,
        })
    }
}

/// A part of the room, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    bytes: usize,
}

impl Taken {
    /// Keeps this many bytes and gives back the rest.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
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
