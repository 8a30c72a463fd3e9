//! The watch over inbound, which wakes whoever waits for files. It is only a wake-up: it is blind
//! on network file systems and after an overflow, and the scan is the truth.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use notify::Watcher as _;
use tokio::sync::Notify;

use super::Inbox;
use crate::telemetry;

/// A running watch of inbound.
#[derive(Debug)]
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
    /// Held open, so that a directory made anew cannot get the same inode number.
    directory: File,
}

impl Inbox {
    /// Watches inbound: wakes `wake` after something may have arrived. The watch ends when the
    /// value is dropped.
    ///
    /// # Errors
    /// No watch could be had (`fs.inotify.max_user_instances`); the periodic scan still works.
    pub fn watch(&self, wake: Arc<Notify>) -> notify::Result<Watch> {
        let told = move |event: notify::Result<notify::Event>| {
            match event {
                Ok(event) if event.need_rescan() => {
                    telemetry::watcher_overflow();
                    tracing::warn!("the kernel dropped notifications; the scan finds the files");
                }
                // Reading a file is an event, too; waking for our own reading would never end.
                Ok(event) if is_reading(event.kind) => return,
                Ok(_) | Err(_) => {}
            }
            wake.notify_one();
        };
        let mut watcher = notify::recommended_watcher(told)?;
        watcher.watch(
            &self.directories.inbound,
            notify::RecursiveMode::NonRecursive,
        )?;
        let directory = File::open(&self.directories.inbound).map_err(notify::Error::io)?;
        Ok(Watch {
            _watcher: watcher,
            directory,
        })
    }

    /// Whether a watch still looks at the directory of inbound: one that was removed and made again
    /// needs a new watch.
    #[must_use]
    pub fn is_watched_by(&self, watch: &Watch) -> bool {
        let same =
            |now: Metadata, then: Metadata| (now.dev(), now.ino()) == (then.dev(), then.ino());
        match (
            fs::metadata(&self.directories.inbound),
            watch.directory.metadata(),
        ) {
            (Ok(now), Ok(then)) => same(now, then),
            _ => false,
        }
    }
}

fn is_reading(kind: notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    matches!(kind, EventKind::Access(_)) && kind != written
}
