//! Counts the files and bytes in the directories, for metrics and status. Moves no file.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::directories::Directories;
use super::markers::Markers;
use super::moving::is_copy;
use super::open::Inbox;
use super::requeue::count_quarantined;
use super::times::arrived;
use super::tree::each_file;

/// The number, bytes and age of the files in a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many files the directory has.
    pub files: u64,
    /// The bytes of all files.
    pub bytes: u64,
    /// When the oldest file arrived in the directory, or was last written there. `None` if the
    /// directory has no file.
    pub oldest: Option<SystemTime>,
}

/// The counts of the directories whose files are not completely stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// The count of inbound.
    pub inbound: Count,
    /// The count of work.
    pub work: Count,
}

impl Inbox {
    /// Counts the files of inbound and work.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn census(&self) -> io::Result<Census> {
        Ok(Census {
            inbound: count(&self.directories.inbound, Some(&self.markers()))?,
            work: count(&self.directories.work, None)?,
        })
    }

    /// Counts the files of history. Reads the whole directory, which may have very many files.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn history(&self) -> io::Result<Count> {
        count(&self.directories.history, None)
    }

    /// Counts the files of quarantine, without the reasons beside them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn quarantine(&self) -> io::Result<u64> {
        count_quarantined(&self.directories.quarantine)
    }
}

/// Counts the files of inbound, work and quarantine, as an engine with these directories does. A
/// directory that does not exist counts as empty.
///
/// # Errors
/// A directory cannot be read. The error names it.
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
        inbound: about(inbound, count(inbound, Some(markers)))?,
        work: about(work, count(work, None))?,
    };
    let quarantined = about(quarantine, count_quarantined(quarantine))?;
    Ok((census, quarantined))
}

/// Counts the files of inbound, or without `markers` those of another directory, which are the
/// engine's own.
fn count(directory: &Path, markers: Option<&Markers>) -> io::Result<Count> {
    let mut count = Count::default();
    let enters = |directory: &Path| markers.is_none_or(|markers| markers.enters(directory));
    let usual = Markers::default();
    let markers = markers.unwrap_or(&usual);
    each_file(directory, enters, |_, entry| {
        // A hidden or temporary file in inbound has not arrived yet, or belongs to another program.
        // In work, it is the lock or the pause. A copy of a move counts: it takes the room of a
        // file.
        let name = entry.file_name();
        if (markers.is_temporary(&name) && !is_copy(&name)) || markers.has(&name) {
            return Ok(());
        }
        // A file may have been removed since the directory was read.
        let Some(metadata) = entry.metadata().ok().filter(Metadata::is_file) else {
            return Ok(());
        };
        let arrived = arrived(&metadata);
        count.files += 1;
        count.bytes += metadata.len();
        count.oldest = Some(count.oldest.map_or(arrived, |then| then.min(arrived)));
        Ok(())
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn files_are_counted_with_the_time_of_arrival_and_not_with_mtime() {
        let dir = tempfile::tempdir().unwrap();
        let made = SystemTime::now() - Duration::from_secs(1);
        let markers = Markers::new(&["*.crc".to_owned()], &["*.tmp".to_owned()]);
        assert_eq!(count(dir.path(), Some(&markers)).unwrap(), Count::default());
        for name in ["a", "b", ".hidden", "c.tmp", "a.crc"] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_len(10).unwrap();
            file.set_modified(UNIX_EPOCH).unwrap();
        }
        fs::create_dir(dir.path().join("d")).unwrap();
        let count = count(dir.path(), Some(&markers)).unwrap();
        assert_eq!((count.files, count.bytes), (2, 20));
        assert!(count.oldest.unwrap() > made);
    }
}
