//! How much lies in the directories, for whoever watches. Reads and never moves.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::requeue::count_quarantined;
use super::{Candidate, Directories, Inbox, Markers, is_temporary};

/// A notification that has not come within this time will not come.
const NOTICE_WITHIN: Duration = Duration::from_millis(100);

/// The files of a directory in sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first of them came into the directory, or was last written there.
    pub oldest: Option<SystemTime>,
}

/// The files that are not stored as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Those of inbound.
    pub inbound: Count,
    /// Those of work.
    pub work: Count,
}

impl Inbox {
    /// Counts the files of inbound and work.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn census(&self) -> io::Result<Census> {
        Ok(Census {
            inbound: count(&self.directories.inbound, &self.markers())?,
            work: count(&self.directories.work, &Markers::default())?,
        })
    }

    /// Counts the files of history: there may be very many.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn history(&self) -> io::Result<Count> {
        count(&self.directories.history, &Markers::default())
    }

    /// Counts the files of quarantine, without the reasons beside them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn quarantine(&self) -> io::Result<u64> {
        count_quarantined(&self.directories.quarantine)
    }
}

/// Counts the files of inbound and work, and of quarantine, as an engine of these directories does.
/// A directory that does not exist yet has none.
///
/// # Errors
/// A directory cannot be read; with its path.
pub fn count_files(directories: &Directories, markers: &Markers) -> io::Result<(Census, u64)> {
    fn about<T: Default>(path: &Path, counted: io::Result<T>) -> io::Result<T> {
        match counted {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("{}: {error}", path.display()),
            )),
            counted => counted,
        }
    }
    let Directories {
        inbound,
        work,
        quarantine,
        ..
    } = directories;
    let census = Census {
        inbound: about(inbound, count(inbound, markers))?,
        work: about(work, count(work, &Markers::default()))?,
    };
    let quarantined = about(quarantine, count_quarantined(quarantine))?;
    Ok((census, quarantined))
}

fn count(directory: &Path, markers: &Markers) -> io::Result<Count> {
    let mut count = Count::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // What is hidden or temporary is not there yet, or not ours; in work it is the lock and the
        // like.
        let name = entry.file_name();
        if is_temporary(&name) || markers.has(&name) {
            continue;
        }
        // A file may be gone since the directory was read.
        let Some(metadata) = entry.metadata().ok().filter(Metadata::is_file) else {
            continue;
        };
        let arrived = arrived(&metadata);
        count.files += 1;
        count.bytes += metadata.len();
        count.oldest = Some(count.oldest.map_or(arrived, |then| then.min(arrived)));
    }
    Ok(count)
}

/// When a file came to where it is, or was last written: its time of change (ctime), which a move
/// sets and nobody can set back. The time of its content says nothing: a copied archive may be
/// years old.
pub(super) fn arrived(metadata: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(metadata.ctime().try_into().unwrap_or_default());
    let rest = Duration::from_nanos(metadata.ctime_nsec().try_into().unwrap_or_default());
    UNIX_EPOCH + seconds + rest
}

/// Counts the files that arrived after the previous scan (`before`) and long enough before this one
/// (`now`) that a notification should have reported them. For scans that no notification caused.
#[must_use]
pub fn missed(found: &[Candidate], before: SystemTime, now: SystemTime) -> u64 {
    let is_missed = |file: &&Candidate| {
        let age = now.duration_since(file.arrived).unwrap_or_default();
        file.arrived > before && age > NOTICE_WITHIN
    };
    found.iter().filter(is_missed).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_by_when_they_came_not_by_how_old_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let made = SystemTime::now() - Duration::from_secs(1);
        let markers = Markers::new(&["*.crc".to_owned()]);
        assert_eq!(count(dir.path(), &markers).unwrap(), Count::default());
        for name in ["a", "b", ".hidden", "c.tmp", "a.crc"] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(10).unwrap();
            file.set_modified(UNIX_EPOCH).unwrap();
        }
        fs::create_dir(dir.path().join("d")).unwrap();
        let count = count(dir.path(), &markers).unwrap();
        assert_eq!((count.files, count.bytes), (2, 20));
        assert!(count.oldest.unwrap() > made);
    }

    #[test]
    fn missed_is_what_came_since_the_last_scan_and_had_time_to_be_told_of() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let file = |arrived| Candidate {
            name: "a".into(),
            bytes: 1,
            modified: at(0),
            arrived,
        };
        let just_now = at(20) - NOTICE_WITHIN;
        let found = [file(at(10)), file(at(15)), file(just_now), file(at(25))];
        assert_eq!(missed(&found, at(10), at(20)), 1);
        assert_eq!(missed(&found, at(9), at(20)), 2);
    }
}
