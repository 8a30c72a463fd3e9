//! Notifications of inbound, which wake intake. They may be lost: network file systems have none,
//! and the kernel drops them after an overflow. A scan finds such files later.

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
    /// Kept open, so that no new directory can get the same inode number.
    directory: File,
    /// Whether the directories below inbound are watched.
    below: bool,
}

impl Inbox {
    /// Watches inbound, and wakes `wake` after a file may have arrived. The watch ends when the
    /// value is dropped.
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
                // Reading a file is an event as well. If intake woke for its own reads, it would
                // scan without end.
                Ok(event) if is_reading(event.kind) => return,
                Ok(_) | Err(_) => {}
            }
            wake.notify_one();
        };
        // Directories that links lead to are not scanned either.
        let config = notify::Config::default().with_follow_symlinks(false);
        let mut watcher = notify::RecommendedWatcher::new(on_event, config)?;
        let below = self.markers().directories;
        let mode = if below {
            notify::RecursiveMode::Recursive
        } else {
            notify::RecursiveMode::NonRecursive
        };
        watcher.watch(&self.directories.inbound, mode)?;
        let directory = File::open(&self.directories.inbound).map_err(notify::Error::io)?;
        Ok(Watch {
            _watcher: watcher,
            directory,
            below,
        })
    }

    /// Whether `watch` watches the current directory of inbound, and what a setting says of the
    /// directories below it. A new one of these is watched a moment after it was created: the
    /// periodic scan finds the files of that moment. If the directory was removed and
    /// created again, it needs a new watch.
    #[must_use]
    pub fn is_watched_by(&self, watch: &Watch) -> bool {
        let same =
            |now: Metadata, then: Metadata| (now.dev(), now.ino()) == (then.dev(), then.ino());
        match (
            fs::metadata(&self.directories.inbound),
            watch.directory.metadata(),
        ) {
            (Ok(now), Ok(then)) => same(now, then) && watch.below == self.markers().directories,
            _ => false,
        }
    }
}

fn is_reading(kind: notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
    matches!(kind, EventKind::Access(_)) && kind != written
}
