//! Files that are back in inbound because their table refuses their rows, or because a file that was
//! begun in their place has to be removed first. Each is tried again after a pause, which doubles.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::waiting::WaitReason;
use crate::content::{Stamp, stamp};

/// The first pause and the longest. Each try reads the file and sends its rows to the database, so
/// shorter pauses would burden the database. With longer ones, a file would wait after its table
/// was corrected.
const PAUSE: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(120)];

/// Most files whose reason is kept here. A reason has at most some hundred bytes. The ledger has
/// the reasons of all files.
const REASONS_MAX: usize = 1_000;

/// The reason of further files.
const REASON_IN_LEDGER: &str =
    "its table refuses its rows; `task_runner files list` has the reason";

/// The files that are postponed.
#[derive(Debug, Default)]
pub(super) struct Postponed(HashMap<OsString, PostponedFile>);

#[derive(Debug)]
struct PostponedFile {
    stamp: Stamp,
    until: Instant,
    pause: Duration,
    reason: WaitReason,
}

impl Postponed {
    /// Postpones a file of inbound for a pause, twice as long as the last one.
    pub(super) fn postpone(&mut self, name: &OsStr, metadata: &Metadata, reason: &WaitReason) {
        let stamp = stamp(metadata);
        let last = self.0.get(name).filter(|file| file.stamp == stamp);
        let pause = last.map_or(PAUSE[0], |file| PAUSE[1].min(file.pause * 2));
        let reason = match reason {
            WaitReason::TableRefuses(_) if self.0.len() >= REASONS_MAX => {
                WaitReason::table_refuses(REASON_IN_LEDGER)
            }
            reason => reason.clone(),
        };
        let file = PostponedFile {
            stamp,
            until: Instant::now() + pause,
            pause,
            reason,
        };
        self.0.insert(name.to_owned(), file);
    }

    /// Why a file is postponed. `None` if it need not wait, or has changed since.
    pub(super) fn reason(&self, name: &OsStr, metadata: &Metadata) -> Option<WaitReason> {
        let file = self.0.get(name)?;
        let is_postponed = file.stamp == stamp(metadata) && Instant::now() < file.until;
        is_postponed.then(|| file.reason.clone())
    }

    /// Forgets files that left inbound and were not postponed again for the longest pause: they are
    /// stored or were removed.
    pub(super) fn forget(&mut self, inbound: &Path) {
        let now = Instant::now();
        self.0.retain(|name, file| {
            now < file.until + PAUSE[1] || inbound.join(name).symlink_metadata().is_ok()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pause_doubles_until_the_file_changes_or_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (name, path) = (OsStr::new("file"), dir.path().join("file"));
        std::fs::write(&path, "1").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let mut postponed = Postponed::default();
        assert_eq!(postponed.reason(name, &metadata), None);
        let full = WaitReason::table_refuses("full");
        for seconds in [5, 10, 20, 40, 80, 120, 120] {
            postponed.postpone(name, &metadata, &full);
            tokio::time::advance(Duration::from_millis(seconds * 1_000 - 1)).await;
            let reason = postponed.reason(name, &metadata);
            assert_eq!(reason, Some(full.clone()), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(postponed.reason(name, &metadata), None, "{seconds}");
            postponed.forget(Path::new("/none"));
        }
        tokio::time::advance(PAUSE[1]).await;
        postponed.forget(dir.path());
        assert_eq!(postponed.0.len(), 1);
        std::fs::write(&path, "12").unwrap();
        let changed = std::fs::metadata(&path).unwrap();
        postponed.postpone(name, &metadata, &full);
        assert_eq!(postponed.reason(name, &changed), None);
        postponed.postpone(name, &changed, &full);
        assert_eq!(postponed.0[name].pause, PAUSE[0]);
        tokio::time::advance(PAUSE[0] + PAUSE[1]).await;
        postponed.forget(Path::new("/none"));
        assert!(postponed.0.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_reasons_of_many_files_are_in_the_ledger() {
        let metadata = std::fs::metadata(".").unwrap();
        let mut postponed = Postponed::default();
        for number in 0..=REASONS_MAX {
            let name = number.to_string();
            postponed.postpone(
                OsStr::new(&name),
                &metadata,
                &WaitReason::table_refuses("full"),
            );
        }
        let reason = |number: usize| postponed.reason(OsStr::new(&number.to_string()), &metadata);
        let refuses = |text: &str| Some(WaitReason::table_refuses(text));
        assert_eq!(reason(REASONS_MAX - 1), refuses("full"));
        assert_eq!(reason(REASONS_MAX), refuses(REASON_IN_LEDGER));
    }
}
