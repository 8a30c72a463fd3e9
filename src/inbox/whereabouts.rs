//! Where the bytes of a file of the ledger may be: the paths in the four directories and in its
//! archive that have its name and its size, and the paths of members of containers with its name.
//!
//! Reads no content: a hash decides whether a file at one of these paths is the file.

use std::fs;
use std::path::{Path, PathBuf};

use super::days::all_days;
use super::directories::Directories;
use super::markers::Markers;
use super::names::{COMPACTED_ENDING, without_ending};
use super::place::all_claims;
use super::walk::{Archive, Found};
use crate::content;

/// Most names to try in a directory. A file whose name is taken gets a suffix: `.1`, `.2` and so
/// on.
const SUFFIXES_MAX: u32 = 1_000;

/// The search ends after this many unused names. More than one, because users may have removed
/// files.
const FREE_SUFFIXES_MAX: u32 = 8;

/// A name of at least this many bytes may have been cut, so that a suffix fits within 255 bytes.
const LONG_NAME_BYTES: usize = 250;

/// The paths of files that may be the file with this name and one of these sizes: at its path in an
/// archive, if it has one, and in history, work, quarantine and inbound. The size of a member of a
/// container is not known here.
#[must_use]
pub fn candidates(
    directories: &Directories,
    name: &str,
    sizes: &[u64],
    archive: Option<&Path>,
) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = archive.into_iter().map(Path::to_owned).collect();
    let mut members: Vec<PathBuf> = archive.into_iter().filter_map(in_container).collect();
    let Directories {
        inbound,
        work,
        history,
        quarantine,
    } = directories;
    let claims = all_claims(work);
    let days = all_days(history);
    for dir in [history]
        .into_iter()
        .chain(&claims)
        .chain([quarantine, inbound])
    {
        if let Some(name) = exact_name(name) {
            let of_days = days.iter().filter(|_| dir == history);
            for day in of_days {
                found.extend(with_suffixes(day, name));
                members.extend(in_containers(day, name));
            }
            found.extend(with_suffixes(dir, name));
            members.extend(in_containers(dir, name));
        } else {
            let files = Archive::all_of(dir, &Markers::new(&[], &[])).walk();
            found.extend(files.filter_map(|found| match found {
                Ok(Found::File(file)) => Some(file.path),
                _ => None,
            }));
        }
    }
    // Only a file of the same size can have the same hash.
    found.retain(|path| has_size(path, sizes));
    found.extend(members);
    found
}

/// The paths in a directory that a file with this name may have, also as the member of a container.
#[must_use]
pub fn named(dir: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = with_suffixes(dir, name);
    found.extend(in_containers(dir, name));
    found
}

/// As [`named`], in the directories that history has for days. A day in which no file has the name
/// without a suffix is left out: most files that are looked for here were removed from history, and
/// there may be thousands of days.
#[must_use]
pub fn in_days(directories: &Directories, name: &str) -> Vec<PathBuf> {
    let first = name.split('/').next().unwrap_or(name);
    let days = all_days(&directories.history).into_iter();
    let exists = |path: PathBuf| fs::symlink_metadata(path).is_ok();
    let compacted = format!("{first}{COMPACTED_ENDING}");
    days.filter(|day| exists(day.join(first)) || exists(day.join(&compacted)))
        .flat_map(|day| named(&day, name))
        .collect()
}

/// Whether a file has one of these sizes, or had one before the engine compressed it.
pub(super) fn has_size(path: &Path, sizes: &[u64]) -> bool {
    let has = |bytes: u64| sizes.contains(&bytes);
    fs::symlink_metadata(path).is_ok_and(|found| has(found.len()))
        || (!sizes.is_empty() && content::compacted(path).is_some_and(|it| has(it.bytes)))
}

/// The file in a directory that has this name with the ending of a compressed file, and was not
/// compressed by the engine.
#[must_use]
pub fn beside(dir: &Path, name: &str) -> Option<PathBuf> {
    let path = dir.join(format!("{name}{COMPACTED_ENDING}"));
    let is_file = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    (is_file && content::compacted(&path).is_none()).then_some(path)
}

/// A name of the file at a path, without the ending that it has if the engine has compressed it.
#[must_use]
pub fn as_delivered(path: &Path, name: PathBuf) -> PathBuf {
    let stem = without_ending(&name);
    if stem != name && content::compacted(path).is_some() {
        return stem.to_owned();
    }
    name
}

/// The path itself if it leads to a member of a container.
fn in_container(path: &Path) -> Option<PathBuf> {
    content::located(path).map(|_| path.to_owned())
}

/// The paths of members of containers in a directory that a file with this name may be. A container
/// has its name, or the name with a suffix.
fn in_containers(dir: &Path, name: &str) -> Vec<PathBuf> {
    let ends = name.match_indices('/').map(|(at, _)| at);
    let member_of = |at: usize| {
        let containers = with_suffixes(dir, &name[..at]).into_iter();
        containers.map(move |container| container.join(&name[at + 1..]))
    };
    let paths = ends.flat_map(member_of);
    paths
        .filter(|path| content::located(path).is_some())
        .collect()
}

/// The name with which a file was delivered: its path below inbound. `None` if the name in the
/// ledger may be another one, because it was not UTF-8 or was cut.
#[must_use]
pub fn exact_name(name: &str) -> Option<&str> {
    let is_exact = !name.contains(char::REPLACEMENT_CHARACTER) && name.len() < LONG_NAME_BYTES;
    is_exact.then_some(name)
}

/// The paths in a directory that a file with this name may have: the name itself, and the name with
/// each suffix that later files got, each also with the ending of a file that the engine has compressed. A file that waited in inbound beside one of its name came again
/// with a suffix, and may have got another one in history: `NAME.1.1`.
fn with_suffixes(dir: &Path, name: &str) -> Vec<PathBuf> {
    let of = |name: &str| -> Vec<PathBuf> {
        let plain = dir.join(name);
        let compacted = dir.join(format!("{name}{COMPACTED_ENDING}"));
        let plain = fs::symlink_metadata(&plain).is_ok().then_some(plain);
        let compacted = content::compacted(&compacted).map(|_| compacted);
        plain.into_iter().chain(compacted).collect()
    };
    let mut found = of(name);
    let mut names = vec![name.to_owned()];
    while let Some(name) = names.pop() {
        let mut free = 0;
        for suffix in 1..SUFFIXES_MAX {
            let next = format!("{name}.{suffix}");
            let paths = of(&next);
            if !paths.is_empty() {
                found.extend(paths);
                names.push(next);
                continue;
            }
            free += 1;
            if free == FREE_SUFFIXES_MAX {
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_any_suffixes_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "a", "a.1", "a.1.1", "a.1.3", "a.2.1", "a.9", "a.1.x", "ab.1", "b.1",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let names = |name: &str| {
            let paths = with_suffixes(dir.path(), name);
            let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut names: Vec<String> = paths.into_iter().map(name).collect();
            names.sort();
            names
        };
        assert_eq!(names("a"), ["a", "a.1", "a.1.1", "a.1.3", "a.9"]);
        assert_eq!(names("b"), ["b.1"]);
        assert!(names("c").is_empty());
    }
}
