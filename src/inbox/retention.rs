//! Removes the oldest files of history beyond its limits. By default history has none, and no file
//! is removed.

use std::collections::BinaryHeap;
use std::fs::{self, DirEntry, Metadata};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::names::{is_hidden, without_ending};
use super::open::Inbox;
use super::times::arrived;
use super::tree::{each_file, remove_empty};
use crate::content;

/// Paths that a pass over history holds: the oldest ones. One or two MB with usual paths, 40 MB with
/// the longest.
const FILES_AT_ONCE: usize = 10_000;

/// What history may hold. `None`: any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HistoryLimits {
    /// How long a file stays, from its move to history.
    pub age: Option<Duration>,
    /// The bytes of all files.
    pub bytes: Option<u64>,
}

impl HistoryLimits {
    /// Whether there is a limit.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.age.is_some() || self.bytes.is_some()
    }
}

/// What a pass over history removed.
#[derive(Debug, Default)]
pub struct Pruned {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether history may still be beyond a limit: the pass removed as many files as it can.
    pub is_partial: bool,
    /// The first file that could not be removed. The others were removed all the same.
    pub failed: Option<io::Error>,
}

impl Inbox {
    /// Removes files from history: those older than the limit, and the oldest until the rest has
    /// at most the bytes of the limit. The age is that at the time `now`. Files under hidden names
    /// stay, since they are in the middle of a move. Removes directories that are empty. Reads the
    /// whole directory, which may have very many files.
    ///
    /// # Errors
    /// History cannot be read.
    pub fn prune_history(&self, limits: HistoryLimits, now: SystemTime) -> io::Result<Pruned> {
        let remove = |path: &Path| fs::remove_file(path);
        self.prune(limits, now, FILES_AT_ONCE, remove)
    }

    fn prune(
        &self,
        limits: HistoryLimits,
        now: SystemTime,
        at_once: usize,
        remove: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<Pruned> {
        let history = &self.directories.history;
        // The youngest of the oldest files is the greatest.
        let mut oldest: BinaryHeap<(SystemTime, PathBuf, u64)> = BinaryHeap::new();
        let mut total = 0;
        each_file(
            history,
            |_| true,
            |below, entry| {
                let metadata = entry.metadata().ok().filter(Metadata::is_file);
                let Some(metadata) = metadata.filter(|_| !is_hidden(&entry.file_name())) else {
                    return Ok(());
                };
                total += metadata.len();
                oldest.push((moved(entry, &metadata), below.into(), metadata.len()));
                if oldest.len() > at_once {
                    oldest.pop();
                }
                Ok(())
            },
        )?;
        let is_old = |arrived: SystemTime| {
            let age = now.duration_since(arrived).unwrap_or_default();
            limits.age.is_some_and(|limit| age > limit)
        };
        let mut pruned = Pruned::default();
        let may_be_more = oldest.len() == at_once;
        let mut all_removed = true;
        for (arrived, below, bytes) in oldest.into_sorted_vec() {
            if !is_old(arrived) && limits.bytes.is_none_or(|limit| total <= limit) {
                all_removed = false;
                break;
            }
            match remove(&history.join(&below)) {
                Ok(()) => {
                    pruned.files += 1;
                    pruned.bytes += bytes;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    let text = format!("{}: {error}", history.join(below).display());
                    pruned
                        .failed
                        .get_or_insert(io::Error::new(error.kind(), text));
                    // Another file has to make room.
                    continue;
                }
            }
            total -= bytes;
        }
        if pruned.files > 0 {
            remove_empty(history);
        }
        pruned.is_partial = may_be_more && all_removed && pruned.failed.is_none();
        Ok(pruned)
    }
}

/// When a file was moved to history. One that was compressed since tells it.
fn moved(entry: &DirEntry, metadata: &Metadata) -> SystemTime {
    let path = entry.path();
    let compacted = (without_ending(&path) != path).then(|| content::compacted(&path));
    let moved = compacted.flatten().map(|it| it.moved());
    moved.unwrap_or_else(|| arrived(metadata))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{Directories, Patience};

    fn inbox(root: &Path) -> Inbox {
        let directories = Directories {
            inbound: root.join("inbound"),
            work: root.join("work"),
            history: root.join("history"),
            quarantine: root.join("quarantine"),
        };
        let patience = Patience {
            quiet_time: Duration::ZERO,
            incomplete_after: Duration::ZERO,
            one_name: false,
        };
        Inbox::open(directories, patience, "a").unwrap()
    }

    /// Files of 10 bytes, by the order of their arrival, some in directories.
    const NAMES: [&str; 5] = [
        "day=1/b.json",
        "a.tmp",
        "day=1/a.json",
        "c.json",
        "day=2/x/c.json",
    ];

    /// The files that remain, by age and bytes, and what one pass of at most two files leaves to the
    /// next.
    #[test]
    fn the_oldest_files_are_removed_until_history_is_within_its_limits() {
        let day = Duration::from_secs(86_400);
        let limits = |age, bytes| HistoryLimits { age, bytes };
        for (limits, ahead, kept) in [
            (limits(None, None), day * 1_000, 5),
            (limits(Some(day), None), day / 2, 5),
            (limits(Some(day), None), day * 2, 0),
            (limits(None, Some(50)), Duration::ZERO, 5),
            (limits(None, Some(49)), Duration::ZERO, 4),
            (limits(None, Some(25)), Duration::ZERO, 2),
            (limits(None, Some(9)), Duration::ZERO, 0),
            (limits(None, Some(0)), Duration::ZERO, 0),
            (limits(Some(day), Some(25)), day / 2, 2),
            (limits(Some(day), Some(25)), day * 2, 0),
        ] {
            for at_once in [1, 2, 5, 100] {
                let dir = tempfile::tempdir().unwrap();
                let inbox = inbox(dir.path());
                let history = &inbox.directories.history;
                for name in NAMES {
                    let path = history.join(name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(&path, "0123456789").unwrap();
                    // The clock of ctime has steps of up to 10 ms.
                    std::thread::sleep(Duration::from_millis(12));
                }
                fs::write(history.join(".lemonade-moving-abcdef"), "x").unwrap();
                let (mut removed, mut passes) = (0, 0);
                loop {
                    let now = SystemTime::now() + ahead;
                    let remove = |path: &Path| fs::remove_file(path);
                    let pruned = inbox.prune(limits, now, at_once, remove).unwrap();
                    assert_eq!(pruned.bytes, pruned.files * 10);
                    removed += pruned.files;
                    passes += 1;
                    if !pruned.is_partial {
                        break;
                    }
                }
                let about = format!("{limits:?} {ahead:?} {at_once}");
                assert_eq!(removed as usize, NAMES.len() - kept, "{about}");
                let youngest = &NAMES[NAMES.len() - kept..];
                for name in NAMES {
                    let stays = youngest.contains(&name);
                    assert_eq!(history.join(name).exists(), stays, "{about}: {name}");
                }
                assert!(
                    passes <= NAMES.len() / at_once + 1,
                    "{about}: {passes} passes"
                );
                assert!(history.join(".lemonade-moving-abcdef").exists());
                let has_directory = youngest.iter().any(|name| name.starts_with("day=1"));
                assert_eq!(history.join("day=1").exists(), has_directory, "{about}");
            }
        }
    }

    #[test]
    fn a_file_that_cannot_be_removed_is_named_and_another_one_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = inbox(dir.path());
        let history = &inbox.directories.history;
        for name in ["a", "b", "c"] {
            fs::write(history.join(name), "0123456789").unwrap();
            std::thread::sleep(Duration::from_millis(12));
        }
        let limits = HistoryLimits {
            age: None,
            bytes: Some(20),
        };
        let remove = |path: &Path| {
            if path.ends_with("a") {
                Err(ErrorKind::PermissionDenied.into())
            } else {
                fs::remove_file(path)
            }
        };
        let pruned = inbox.prune(limits, SystemTime::now(), 100, remove).unwrap();
        assert_eq!((pruned.files, pruned.bytes), (1, 10));
        let error = pruned.failed.unwrap();
        assert!(error.to_string().contains("history/a: "), "{error}");
        let left = ["a", "b", "c"].map(|name| history.join(name).exists());
        assert_eq!(left, [true, false, true]);
        fs::remove_dir_all(history).unwrap();
        let error = inbox.prune_history(limits, SystemTime::now()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
