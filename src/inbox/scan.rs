//! The scan of inbound: finds the files that can be claimed, and the files that must wait.

use std::collections::BinaryHeap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::open::Inbox;
use super::times::arrived;
use super::tree::{each_file, last};
use super::waiting::{WaitReason, Waits};
use crate::content::stamp;

/// Most files that one scan returns, oldest first. A directory of a million files is then scanned
/// about fifteen times, with a few megabytes of memory. A smaller number would mean more scans.
pub const SCAN_FILES_MAX: usize = 65_536;

/// A notification that has not arrived within this time counts as lost.
const NOTICE_WITHIN: Duration = Duration::from_millis(100);

/// The result of a scan of inbound.
#[derive(Debug, Default)]
pub struct Scan {
    /// Files that can be claimed, oldest first.
    pub ready: Vec<Candidate>,
    /// Files that must wait, and why.
    pub waiting: Waits,
    /// How many files inbound has, without markers.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
    /// How many marker files inbound has.
    pub markers: u64,
}

/// A file of inbound that can be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The file's path below inbound.
    pub name: OsString,
    /// The file's size in bytes.
    pub bytes: u64,
    /// When the file was last written.
    pub modified: SystemTime,
    /// When the file arrived in inbound, or was last written there.
    pub arrived: SystemTime,
}

impl Inbox {
    /// Examines every file of inbound. Returns the oldest [`SCAN_FILES_MAX`] that can be claimed.
    ///
    /// # Errors
    /// The directory cannot be read. The error names it.
    pub fn scan(&self) -> io::Result<Scan> {
        self.scan_inbound().map_err(|error| {
            let why = format!("{}: {error}", self.directories.inbound.display());
            io::Error::new(error.kind(), why)
        })
    }

    fn scan_inbound(&self) -> io::Result<Scan> {
        let markers = self.markers();
        let mut scan = Scan::default();
        let mut oldest_first = BinaryHeap::new();
        let enters = |directory: &Path| markers.enters(directory);
        each_file(&self.directories.inbound, enters, |name, entry| {
            // A file may have been removed since the directory was read.
            let Ok(metadata) = entry.metadata() else {
                return Ok(());
            };
            if !metadata.is_file() || markers.is_temporary(last(&name)) {
                return Ok(());
            }
            if markers.has(last(&name)) {
                scan.markers += 1;
                return Ok(());
            }
            let modified = metadata.modified()?;
            scan.files += 1;
            scan.bytes += metadata.len();
            if let Some(reason) = self.must_wait(&name, &metadata) {
                scan.waiting.add(name, reason);
                return Ok(());
            }
            oldest_first.push((modified, name, metadata.len(), arrived(&metadata)));
            if oldest_first.len() > SCAN_FILES_MAX {
                oldest_first.pop();
            }
            Ok(())
        })?;
        let ready = oldest_first.into_sorted_vec().into_iter();
        scan.ready = ready
            .map(|(modified, name, bytes, arrived)| Candidate {
                name,
                bytes,
                modified,
                arrived,
            })
            .collect();
        self.forget_incomplete(&scan);
        self.postponed.lock().forget(&self.directories.inbound);
        Ok(scan)
    }

    /// Why a file must wait. `None` if it need not wait. A file waits if it has a second name and
    /// `one_name` is set; if it was postponed a moment ago; or if it was incomplete, has
    /// not changed since, and may still grow.
    fn must_wait(&self, name: &OsStr, metadata: &Metadata) -> Option<WaitReason> {
        if self.has_other_name(metadata) {
            return Some(WaitReason::OtherName);
        }
        if let Some(reason) = self.postponed.lock().reason(name, metadata) {
            return Some(reason);
        }
        let incomplete = self.incomplete.lock();
        let unchanged = incomplete
            .get(name)
            .is_some_and(|then| *then == stamp(metadata));
        (unchanged && self.is_young(metadata)).then_some(WaitReason::Incomplete)
    }

    /// Removes files that no longer exist from the list of incomplete files, so that it stays
    /// bounded.
    fn forget_incomplete(&self, scan: &Scan) {
        let mut incomplete = self.incomplete.lock();
        if incomplete.len() as u64 > scan.waiting.files {
            let inbound = &self.directories.inbound;
            incomplete.retain(|name, _| inbound.join(name).symlink_metadata().is_ok());
        }
    }
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
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn files_that_notifications_missed_are_counted() {
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
