//! Recognises stored files of archives by their state on the disk, without opening them.
//!
//! For each path, the ledger has a digest of everything that must be equal: device, inode, size,
//! mtime and ctime of the file; the hash of the content that was read; how many datasets it was
//! loaded into; and the definitions of all datasets. If the digest is another one, the file is read,
//! and its hash decides. A program can set mtime but not ctime, so a file that was replaced or
//! written in its place has another digest.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::disposal::Disposal;
use super::item::ItemOrigin;
use super::outcome::Destination;
use crate::batch::ContentHash;
use crate::content::Sample;
use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;
use crate::inbox::Claimed;
use crate::sink::{Digest, SeenFile, Sink};

/// How much older than the read of a file its ctime must be. A clock of the file system moves in
/// steps of some milliseconds, on some systems of two seconds: a file that is written again within a
/// step keeps its ctime.
const CTIME_MARGIN: Duration = Duration::from_secs(2);

/// Recognises files by the definitions of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    definitions: Digest,
}

impl Seen {
    /// `only` is the dataset of all files; `None` if the name of each file decides.
    pub(super) fn new(datasets: &Datasets, only: Option<&Arc<Dataset>>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for dataset in only.into_iter().chain(datasets.iter()) {
            hasher.update(&dataset.fingerprint.to_bytes());
            hasher.update(dataset.name.as_bytes());
            hasher.update(b"\0");
        }
        // A dataset that is named for all files is one more in the list.
        Self {
            definitions: digest(&hasher),
        }
    }

    /// Which of the files are stored, in their order.
    ///
    /// # Errors
    /// Those of the sink.
    pub(super) async fn stored(
        self,
        sink: &dyn Sink,
        files: &[&Claimed],
    ) -> Result<Vec<bool>, Fault> {
        let paths: Vec<Digest> = files.iter().map(|file| path_digest(&file.path)).collect();
        // The database needs longer than this process: two connections keep two of its cores busy.
        let (first, second) = paths.split_at(paths.len() / 2);
        let (mut known, others) =
            tokio::try_join!(sink.remembered(first), sink.remembered(second))?;
        known.extend(others);
        let is_stored = |(file, path): (&&Claimed, &Digest)| {
            let Some(parts) = known.get(path) else {
                return false;
            };
            let is_like = |(state, hash): &(Digest, ContentHash)| {
                *state == self.state(&file.sample, parts.len(), hash)
            };
            parts.iter().all(is_like)
        };
        Ok(files.iter().zip(&paths).map(is_stored).collect())
    }

    /// What the ledger keeps about a file of an archive whose records are all stored. `None` for
    /// another file, and if the file was written so shortly before it was read that a later change
    /// could leave its state as it is.
    pub(super) fn entry(self, disposal: &Disposal) -> Option<SeenFile> {
        let item = &disposal.item;
        let as_read = item.as_read?;
        let is_stored = disposal.outcome.destination() == Destination::History;
        // Nothing is remembered of a container: its members are recognised by their content.
        if item.origin != ItemOrigin::Archive || !is_stored || item.member.is_some() {
            return None;
        }
        let sample = as_read.sample();
        let read_after = SystemTime::now().checked_sub(item.found_at.elapsed())?;
        if !is_old(&sample, read_after) {
            return None;
        }
        let file_nos = disposal.file_nos();
        Some(SeenFile {
            path: path_digest(&item.file.path),
            state: self.state(&sample, file_nos.len(), &as_read.hash()),
            file_nos,
        })
    }

    fn state(self, sample: &Sample, parts: usize, hash: &ContentHash) -> Digest {
        let ((device, inode, bytes, mtime, mtime_nanos), ctime, ctime_nanos) = *sample;
        let mut hasher = blake3::Hasher::new();
        for number in [device, inode, bytes, parts as u64] {
            hasher.update(&number.to_le_bytes());
        }
        for number in [mtime, mtime_nanos, ctime, ctime_nanos] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(hash);
        hasher.update(&self.definitions);
        digest(&hasher)
    }
}

/// Whether a file that was read after `read_after` was last changed so long before that its ctime
/// shows each later change.
fn is_old((_, seconds, nanos): &Sample, read_after: SystemTime) -> bool {
    let changed = || {
        let since = Duration::new((*seconds).try_into().ok()?, (*nanos).try_into().ok()?);
        UNIX_EPOCH.checked_add(since)?.checked_add(CTIME_MARGIN)
    };
    changed().is_some_and(|changed| changed <= read_after)
}

fn path_digest(path: &Path) -> Digest {
    let mut hasher = blake3::Hasher::new();
    // Columns may take parts of the absolute path.
    let absolute = std::path::absolute(path);
    let path = absolute.as_deref().unwrap_or(path);
    hasher.update(path.as_os_str().as_bytes());
    digest(&hasher)
}

fn digest(hasher: &blake3::Hasher) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&hasher.finalize().as_bytes()[..size_of::<Digest>()]);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_gives_another_state() {
        let seen = Seen {
            definitions: [1; 16],
        };
        let sample: Sample = ((1, 2, 3, 4, 5), 6, 7);
        let same = seen.state(&sample, 1, &[9; 16]);
        assert_eq!(same, seen.state(&sample, 1, &[9; 16]));
        let changed: [Sample; 7] = [
            ((0, 2, 3, 4, 5), 6, 7),
            ((1, 0, 3, 4, 5), 6, 7),
            ((1, 2, 0, 4, 5), 6, 7),
            ((1, 2, 3, 0, 5), 6, 7),
            ((1, 2, 3, 4, 0), 6, 7),
            ((1, 2, 3, 4, 5), 0, 7),
            ((1, 2, 3, 4, 5), 6, 0),
        ];
        for changed in changed {
            assert_ne!(seen.state(&changed, 1, &[9; 16]), same, "{changed:?}");
        }
        assert_ne!(seen.state(&sample, 2, &[9; 16]), same);
        assert_ne!(seen.state(&sample, 1, &[8; 16]), same);
        let other = Seen {
            definitions: [2; 16],
        };
        assert_ne!(other.state(&sample, 1, &[9; 16]), same);
    }

    #[test]
    fn a_file_that_was_changed_just_before_it_was_read_is_not_old() {
        let is_old = |seconds: i64, nanos: i64| {
            let sample: Sample = ((1, 2, 3, 4, 5), seconds, nanos);
            is_old(&sample, UNIX_EPOCH + Duration::from_secs(1_000))
        };
        for (seconds, nanos, expected) in [
            (0, 0, true),
            (998, 0, true),
            (998, 1, false),
            (1_000, 0, false),
            (2_000, 0, false),
            (i64::MAX, 0, false),
            (-1, 0, false),
        ] {
            assert_eq!(is_old(seconds, nanos), expected, "{seconds} {nanos}");
        }
    }

    #[test]
    fn another_definition_or_a_named_dataset_is_another_recogniser() {
        let datasets = Datasets::new(vec![]).unwrap();
        let any = Seen::new(&datasets, None);
        assert_eq!(any, Seen::new(&datasets, None));
        for dataset in datasets.iter() {
            assert_ne!(Seen::new(&datasets, Some(dataset)), any);
        }
    }
}
