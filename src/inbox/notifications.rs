//! Notifications of inbound, which wake intake. They may be lost: they do not work on network file
//! systems, and the kernel drops them after an overflow. The scan finds the files all the same.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use notify::Watcher as _;
use tokio::sync::Notify;

use super::open::Inbox;
use crate::telemetry;

/// A running watch of inbound.
#[derive(Debug)]
pub struct Watch {
    _watcher: notify::RecommendedWatcher,
    /// Kept open, so that a directory made anew cannot get the same inode number.
    directory: File,
}

impl Inbox {
    /// Watches inbound, and wakes `wake` after a file may have arrived. The watch ends when the value
    /// is dropped.
    ///
    /// # Errors
    /// The kernel gives no watch (`fs.inotify.max_user_instances`); the periodic scan still works.
    pub fn watch(&self, wake: Arc<Notify>) -> notify::Result<Watch> {
        let on_event = move |event: notify::Result<notify::Event>| {
            match event {
                Ok(event) if event.need_rescan() => {
                    telemetry::watcher_overflow();
                    tracing::warn!("the kernel dropped notifications; the scan finds the files");
                }
                // Reading a file is an event, too. Waking for our own reading would never end.
                Ok(event) if is_reading(event.kind) => return,
                Ok(_) | Err(_) => {}
            }
            wake.notify_one();
        };
        let mut watcher = notify::recommended_watcher(on_event)?;
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

    /// Whether a watch is one of the directory that is inbound now. A directory that was removed and
    /// made again needs a new watch.
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
