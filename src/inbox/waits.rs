//! Files of inbound that cannot be taken now: all are counted, and the first of them named.
//!
//! An error of a claim is the file's own, which waits while the others go on: a damaged inode or a
//! stale handle must not hold up what lies behind it. Only errors that each further file would meet,
//! too, end a claim of many.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io;

use rustix::io::Errno;

use super::{Candidate, Claimed, Inbox};

/// Waiting files that are named, whatever waits: enough for people, who mend the cause and not each
/// file, and a few kilobytes for a status that is asked for every second.
const NAMED_MAX: usize = 100;

/// Most characters of why a file waits. A file system may put anything into an error.
const WHY_CHARS_MAX: usize = 200;

/// A file of inbound that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub name: OsString,
    /// What it waits for.
    pub why: Cow<'static, str>,
}

/// The files of inbound that wait.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    /// How many.
    pub files: u64,
    /// The first hundred of them.
    pub named: Vec<Waiting>,
}

impl Waits {
    /// Adds a file, and says whether it is one of those that are named.
    pub fn add(&mut self, file: Waiting) -> bool {
        self.files += 1;
        let is_named = self.named.len() < NAMED_MAX;
        if is_named {
            self.named.push(file);
        }
        is_named
    }
}

impl Inbox {
    /// Claims files in the order given. A file that has to wait, or whose claim fails, is added to
    /// `waits`.
    ///
    /// Returns what is claimed, which has to go on (nobody else looks into work), and the error that
    /// ended it, if it concerns all files.
    pub fn claim_all(
        &self,
        files: &[Candidate],
        waits: &mut Waits,
    ) -> (Vec<Claimed>, Option<io::Error>) {
        let mut claimed = Vec::new();
        for file in files {
            let mut wait = |why: Cow<'static, str>| {
                let name = file.name.clone();
                waits.add(Waiting { name, why })
            };
            match self.claim(file) {
                Ok(Ok(file)) => claimed.push(file),
                Ok(Err(why)) => {
                    wait(why.into());
                }
                Err(error) if concerns_all(&error) => return (claimed, Some(error)),
                Err(error) => {
                    let is_named = wait(why(&error));
                    // Of very many files the log names the first, too.
                    if is_named {
                        tracing::warn!(name = ?file.name, %error, "cannot be claimed, and waits");
                    }
                }
            }
        }
        (claimed, None)
    }
}

/// Whether the error of a move would be that of each other file, too: no room, no memory, no
/// descriptors, or no directory to move it into (a file that is gone itself is no error).
#[must_use]
pub fn concerns_all(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, OutOfMemory, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        error.kind(),
        StorageFull | QuotaExceeded | ReadOnlyFilesystem | OutOfMemory | NotFound
    ) || matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

/// Why a file waits whose claim failed, for people.
fn why(error: &io::Error) -> Cow<'static, str> {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return "this user may not read or move it".into();
    }
    let why = format!("it cannot be claimed: {error}");
    why.chars().take(WHY_CHARS_MAX).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_each_file_would_meet_concern_all() {
        let of = |errno: Errno| concerns_all(&errno.into());
        for errno in [
            Errno::NOSPC,
            Errno::DQUOT,
            Errno::ROFS,
            Errno::NOMEM,
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOENT,
        ] {
            assert!(of(errno), "{errno}");
        }
        for errno in [
            Errno::IO,
            Errno::UCLEAN,
            Errno::STALE,
            Errno::BUSY,
            Errno::ACCESS,
            Errno::PERM,
            Errno::TIMEDOUT,
            Errno::INVAL,
        ] {
            assert!(!of(errno), "{errno}");
        }
    }

    #[test]
    fn a_file_waits_for_what_its_claim_failed_at() {
        let of = |errno: Errno| why(&errno.into());
        assert_eq!(of(Errno::PERM), "this user may not read or move it");
        let eio = "it cannot be claimed: Input/output error (os error 5)";
        assert_eq!(of(Errno::IO), eio);
        let long = why(&io::Error::other("x".repeat(10_000)));
        assert_eq!(long.chars().count(), WHY_CHARS_MAX);
    }

    #[test]
    fn all_are_counted_and_the_first_are_named() {
        let mut waits = Waits::default();
        let files = 0..NAMED_MAX + 7;
        let named = files.filter(|number| {
            waits.add(Waiting {
                name: number.to_string().into(),
                why: "open".into(),
            })
        });
        assert_eq!(named.count(), NAMED_MAX);
        assert_eq!((waits.files, waits.named.len()), (107, NAMED_MAX));
        assert_eq!(waits.named[99].name, "99");
    }
}
