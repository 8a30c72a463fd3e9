//! How files are read: the limits, and the memory that all reads share.

use std::path::PathBuf;

use super::room::{Room, Windows};

/// How files are read.
#[derive(Debug, Clone)]
pub struct ContentOptions {
    /// Most bytes that a compressed file may inflate to.
    pub inflated_bytes_max: u64,
    /// Directory for inflated data that is too large for memory. Must be on a disk, not on a tmpfs.
    pub spill_dir: PathBuf,
    /// Bytes of the disk of `spill_dir` that must stay free for other processes. A file that would
    /// need them fails with [`StorageFull`](std::io::ErrorKind::StorageFull); a later attempt may
    /// succeed.
    pub spill_floor_bytes: u64,
    /// Memory for inflated data. Clones of these options share it.
    pub room: Room,
    /// Memory for the windows that inflating takes. Clones of these options share it.
    pub windows: Windows,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            // 4 GiB, of the 10 GB of disk that the engine, Redis and the database share.
            inflated_bytes_max: 4 << 30,
            spill_dir: std::env::temp_dir(),
            // 0: a short command need not leave room for other processes.
            spill_floor_bytes: 0,
            room: Room::default(),
            windows: Windows::default(),
        }
    }
}
