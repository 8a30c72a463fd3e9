//! Why a file waits, and the list of waiting files: all are counted, and the first of them are
//! named.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Most waiting files that are named. People remove the common cause, so they need no more names.
/// The names take a few kilobytes of a status that is requested every second.
const NAMED_MAX: usize = 100;

/// Most characters of an error. A file system may report an error text of any length.
const DETAIL_CHARS_MAX: usize = 500;

/// Why a file of inbound or work waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// The file has a second name, and `hard_links` is `wait`.
    OtherName,
    /// A process has the file open for writing.
    BeingWritten,
    /// The file was written within `quiet_time`, and the file system does not report writers.
    JustWritten,
    /// The document does not close, and the file is younger than `incomplete_after`.
    Incomplete,
    /// The file was removed, or its name now belongs to a directory or link.
    Gone,
    /// This user may not read or move the file.
    NotPermitted,
    /// The move to work failed. Holds the error.
    ClaimFailed(String),
    /// The file is in work, and reading it failed. Holds the fault.
    ReadFailed(String),
    /// The file is in work, and the move out of work failed. Holds the error.
    MoveFailed(String),
    /// Its table refuses its rows now. Holds the message of the database and the next step.
    TableRefuses(Arc<str>),
    /// A file with other content was begun in its place, and has this number. Its bytes are gone, and
    /// some of its records are stored.
    EarlierContent(u32),
}

impl WaitReason {
    /// Every code.
    pub const CODES: [&str; 11] = [
        "other_name",
        "being_written",
        "just_written",
        "incomplete",
        "gone",
        "not_permitted",
        "claim_failed",
        "read_failed",
        "move_failed",
        "table_refuses",
        "earlier_content",
    ];

    /// The reason of a file whose claim failed.
    #[must_use]
    pub fn claim_failed(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied {
            Self::NotPermitted
        } else {
            Self::ClaimFailed(detail(error))
        }
    }

    /// The reason of a file that could not be read.
    #[must_use]
    pub fn read_failed(fault: impl fmt::Display) -> Self {
        Self::ReadFailed(detail(fault))
    }

    /// The reason of a file that could not be moved out of work.
    #[must_use]
    pub fn move_failed(error: impl fmt::Display) -> Self {
        Self::MoveFailed(detail(error))
    }

    /// The reason of a file whose table refuses its rows.
    #[must_use]
    pub fn table_refuses(reason: impl fmt::Display) -> Self {
        Self::TableRefuses(detail(reason).into())
    }

    /// The reason as one word for programs, the same in status, metrics and the runbook.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::OtherName => "other_name",
            Self::BeingWritten => "being_written",
            Self::JustWritten => "just_written",
            Self::Incomplete => "incomplete",
            Self::Gone => "gone",
            Self::NotPermitted => "not_permitted",
            Self::ClaimFailed(_) => "claim_failed",
            Self::ReadFailed(_) => "read_failed",
            Self::MoveFailed(_) => "move_failed",
            Self::TableRefuses(_) => "table_refuses",
            Self::EarlierContent(_) => "earlier_content",
        }
    }
}

fn detail(error: impl fmt::Display) -> String {
    error.to_string().chars().take(DETAIL_CHARS_MAX).collect()
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherName => "it has another name (a hard link), and `hard_links` is `wait`",
            Self::BeingWritten => "it is still being written",
            Self::JustWritten => "it was written a moment ago",
            Self::Incomplete => "the document is not complete yet",
            Self::Gone => "it was removed, or is no regular file",
            Self::NotPermitted => "this user may not read or move it",
            Self::ClaimFailed(error) => return write!(f, "it cannot be claimed: {error}"),
            Self::ReadFailed(fault) => return f.write_str(fault),
            Self::TableRefuses(reason) => return f.write_str(reason),
            Self::EarlierContent(file_no) => {
                return write!(
                    f,
                    "file {file_no} was begun here with other content, which no directory has any more: \
                     `task_runner files forget {file_no}` removes what is stored of it, and then this \
                     file is loaded; if this is not a later version of it, give it another name"
                );
            }
            Self::MoveFailed(error) => {
                return write!(f, "it cannot be moved out of work: {error}");
            }
        })
    }
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The file's name.
    pub name: OsString,
    /// Why the file waits.
    pub reason: WaitReason,
}

/// The files of inbound that wait.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    /// How many files wait.
    pub files: u64,
    /// How many files wait for each reason, by its code.
    pub by_code: BTreeMap<&'static str, u64>,
    /// The first hundred waiting files.
    pub named: Vec<Waiting>,
}

impl Waits {
    /// Adds a file. Returns whether it is in `named`.
    pub fn add(&mut self, name: OsString, reason: WaitReason) -> bool {
        self.files += 1;
        *self.by_code.entry(reason.code()).or_default() += 1;
        let is_named = self.named.len() < NAMED_MAX;
        if is_named {
            self.named.push(Waiting { name, reason });
        }
        is_named
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_failed_claim_is_the_reason_of_the_wait() {
        let of = |errno: Errno| WaitReason::claim_failed(&errno.into());
        assert_eq!(of(Errno::PERM), WaitReason::NotPermitted);
        let eio = "it cannot be claimed: Input/output error (os error 5)";
        assert_eq!(of(Errno::IO).to_string(), eio);
        let long = WaitReason::claim_failed(&io::Error::other("x".repeat(10_000)));
        let chars = "it cannot be claimed: ".len() + DETAIL_CHARS_MAX;
        assert_eq!(long.to_string().chars().count(), chars);
    }

    #[test]
    fn every_reason_has_its_code() {
        let error = || io::Error::from(Errno::IO);
        let reasons = [
            WaitReason::OtherName,
            WaitReason::BeingWritten,
            WaitReason::JustWritten,
            WaitReason::Incomplete,
            WaitReason::Gone,
            WaitReason::NotPermitted,
            WaitReason::claim_failed(&error()),
            WaitReason::read_failed(error()),
            WaitReason::move_failed(error()),
            WaitReason::table_refuses("full"),
            WaitReason::EarlierContent(7),
        ];
        let codes: Vec<&str> = reasons.iter().map(WaitReason::code).collect();
        assert_eq!(codes, WaitReason::CODES);
        let mut waits = Waits::default();
        for reason in reasons.iter().chain(&reasons[..2]).cloned() {
            waits.add("a".into(), reason);
        }
        assert_eq!(waits.by_code["being_written"], 2);
        assert_eq!(waits.by_code.values().sum::<u64>(), waits.files);
    }

    #[test]
    fn all_are_counted_and_the_first_are_named() {
        let mut waits = Waits::default();
        let files = 0..NAMED_MAX + 7;
        let add = |number: &usize| waits.add(number.to_string().into(), WaitReason::Incomplete);
        assert_eq!(files.filter(add).count(), NAMED_MAX);
        assert_eq!((waits.files, waits.named.len()), (107, NAMED_MAX));
        assert_eq!(waits.named[99].name, "99");
    }
}
