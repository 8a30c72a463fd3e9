//! The way back from quarantine to inbound, and the list of the files in quarantine.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::aside::Aside;
use super::days::without_day;
use super::directories::Directories;
use super::moving::move_into;
use super::names::{is_hidden, reason_name, reason_path};
use super::tree::{each_file, last};

/// Moves a file of quarantine back to inbound, to be loaded again, and removes its reason. Safe
/// beside a running service, which only adds files to quarantine. Returns the path in inbound.
///
/// `keeps_directories` says whether the files of directories below inbound are taken. If not, the
/// file moves to inbound itself: it was a member of a container.
///
/// # Errors
/// A system call fails. `NotFound` if quarantine has no such file; `InvalidInput` if `name` cannot
/// be the name of a file in it.
pub fn requeue(
    directories: &Directories,
    name: &OsStr,
    keeps_directories: bool,
) -> io::Result<PathBuf> {
    let from = directories.quarantine.join(name);
    let mut segments = Path::new(name).components();
    let is_below = segments.all(|segment| matches!(segment, Component::Normal(_)));
    if !is_below || !fs::symlink_metadata(&from)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // The reason is removed first: once the file is in inbound, a service may quarantine it again, and
    // its new reason must stay. After a kill in between, the file has its reason in the ledger alone.
    let reason = reason_path(&from);
    let text = fs::read(&reason).ok();
    match fs::remove_file(&reason) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = ?reason, %error, "the reason could not be removed");
        }
        _ => {}
    }
    let to = if keeps_directories { name } else { last(name) };
    let moved = move_into(&from, &directories.inbound, to);
    if moved.is_err()
        && let Some(text) = text
    {
        fs::write(&reason, text)?;
    }
    moved
}

/// Moves a file of history back to inbound, to be loaded again, under the name with which it was
/// delivered, if that is known, and removes the directories of history that are empty then. Returns the path in inbound.
///
/// # Errors
/// A system call fails. Then the file is in history.
pub fn return_from_history(
    directories: &Directories,
    aside: Aside,
    delivered: Option<&OsStr>,
) -> io::Result<PathBuf> {
    let Directories {
        inbound, history, ..
    } = directories;
    let former = aside.former().to_owned();
    let name = former.strip_prefix(history);
    let name = without_day(name.map_err(|_| io::ErrorKind::InvalidInput)?);
    let name = delivered.unwrap_or(name.as_os_str());
    let moved = aside.move_into(inbound, name)?;
    let below = former.ancestors().skip(1);
    for emptied in below.take_while(|parent| *parent != history) {
        // Fails if it is not empty.
        if fs::remove_dir(emptied).is_err() {
            break;
        }
    }
    Ok(moved)
}

/// The names of the files in quarantine, which are paths below it, in order, without the reasons
/// beside them.
///
/// # Errors
/// The directory cannot be read.
pub fn quarantined(quarantine: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    each_file(
        quarantine,
        |_| true,
        |name, entry| {
            if !is_hidden(last(&name)) && entry.file_type()?.is_file() {
                names.push(name);
            }
            Ok(())
        },
    )?;
    // `x.reason` is a reason only if quarantine has the file `x`. Otherwise it is a file itself.
    let reasons: HashSet<OsString> = names.iter().filter_map(|name| reason_name(name)).collect();
    names.retain(|name| !reasons.contains(name));
    names.sort();
    Ok(names)
}

/// Counts the files that [`quarantined`] lists, without keeping their names: there may be very
/// many.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn count_quarantined(quarantine: &Path) -> io::Result<u64> {
    let is_file = |name: OsString| {
        let metadata = quarantine.join(name).symlink_metadata();
        metadata.is_ok_and(|metadata| metadata.is_file())
    };
    let (mut all, mut reasons) = (0_u64, 0);
    each_file(
        quarantine,
        |_| true,
        |name, entry| {
            if !is_hidden(last(&name)) && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                all += 1;
                reasons += u64::from(reason_name(&name).is_some_and(is_file));
            }
            Ok(())
        },
    )?;
    // The directory may change while it is read, so the difference may be below zero.
    Ok(all.saturating_sub(reasons))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_removed_with_its_file_and_stays_if_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let directories = Directories {
            inbound: at("inbound"),
            work: at("work"),
            history: at("history"),
            quarantine: at("quarantine"),
        };
        fs::create_dir(&directories.quarantine).unwrap();
        let (file, reason) = (at("quarantine/a"), at("quarantine/a.reason"));
        fs::write(&file, "a").unwrap();
        fs::write(&reason, "why").unwrap();
        let name = OsStr::new("a");
        requeue(&directories, name, false).expect_err("inbound is missing");
        assert_eq!(fs::read_to_string(&reason).unwrap(), "why");
        fs::create_dir(&directories.inbound).unwrap();
        let path = requeue(&directories, name, false).unwrap();
        assert_eq!(path, at("inbound/a"));
        assert!(!file.exists() && !reason.exists());
    }
}
