//! The check that no two of the four directories overlap: no two are the same directory, and none
//! lies in another.
//!
//! Compares device and inode, so that links, bind mounts and `..` do not hide an overlap. For a
//! directory that does not exist yet, it compares the nearest existing directory above it, and the
//! path from there.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::directories::Directories;
use crate::fault::{Fault, Origin};

/// Two directories are the same, or one lies in the other, or one is a link that leads nowhere. Holds
/// a sentence that names them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Overlap(String);

/// The place of a directory, which may not exist yet.
struct Place {
    /// Device and inode of each existing directory on the path to it, from the root.
    existing: Vec<(u64, u64)>,
    /// The rest of the path, below the last existing directory. Empty if the directory exists.
    below: PathBuf,
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut below = PathBuf::new();
        for ancestor in path.ancestors() {
            match ancestor.canonicalize() {
                Ok(real) => {
                    return Ok(Self {
                        existing: ids(&real)?,
                        below,
                    });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) if ancestor.is_symlink() => {
                    let link = ancestor.display();
                    let why = format!(
                        "the link {link} leads nowhere: create the directory that it names"
                    );
                    return Err(io::Error::other(Overlap(why)));
                }
                Err(_) => {}
            }
            let name = ancestor.file_name().unwrap_or_default();
            below = if below.as_os_str().is_empty() {
                name.into()
            } else {
                Path::new(name).join(below)
            };
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// Whether this place is the other one, or lies below it.
    fn is_in(&self, other: &Self) -> bool {
        let Some(last) = other.existing.last() else {
            return false;
        };
        if other.below.as_os_str().is_empty() {
            return self.existing.contains(last);
        }
        self.existing.last() == Some(last) && self.below.starts_with(&other.below)
    }
}

/// Device and inode of each directory on a path without links, from the root.
fn ids(real: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut ids = Vec::new();
    for ancestor in real.ancestors() {
        let metadata = fs::metadata(ancestor)?;
        ids.push((metadata.dev(), metadata.ino()));
    }
    ids.reverse();
    Ok(ids)
}

/// Checks that no two directories overlap.
///
/// # Errors
/// Fatal: two directories overlap, with an [`Overlap`] as the cause; or the metadata of a directory
/// cannot be read.
pub fn check_distinct(directories: &Directories) -> Result<(), Fault> {
    let named = directories.named();
    let mut places = Vec::new();
    for (name, path) in named {
        let place = Place::of(path).map_err(|error| {
            let doing = format!("cannot read the metadata of {name} {}", path.display());
            match error.downcast::<Overlap>() {
                Ok(dangling) => Fault::fatal(Origin::Files, doing, dangling),
                Err(error) => Fault::fatal(Origin::Files, doing, error),
            }
        })?;
        places.push((name, path, place));
    }
    for (at, one) in places.iter().enumerate() {
        for other in &places[..at] {
            if let Some(overlap) = overlap(one, other) {
                let doing = "the four directories must be different, and none may lie in another";
                return Err(Fault::fatal(Origin::Files, doing, overlap));
            }
        }
    }
    Ok(())
}

type Named<'a> = (&'static str, &'a Path, Place);

fn overlap(one: &Named<'_>, other: &Named<'_>) -> Option<Overlap> {
    let shown = |(name, path, _): &Named<'_>| format!("{name} {}", path.display());
    let (one_in, other_in) = (one.2.is_in(&other.2), other.2.is_in(&one.2));
    let what = match (one_in, other_in) {
        (true, true) => format!("{} and {} are the same directory", shown(other), shown(one)),
        (true, false) => format!("{} lies in {}", shown(one), shown(other)),
        (false, true) => format!("{} lies in {}", shown(other), shown(one)),
        (false, false) => return None,
    };
    Some(Overlap(what))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn check(dir: &Path, paths: [&str; 4]) -> Result<(), String> {
        let [inbound, work, history, quarantine] = paths.map(|path| dir.join(path));
        let directories = Directories {
            inbound,
            work,
            history,
            quarantine,
        };
        check_distinct(&directories).map_err(|fault| {
            assert!(fault.cause.is::<Overlap>(), "{fault}");
            fault.to_string()
        })
    }

    /// The paths exist or do not exist yet, and lead through links.
    #[test]
    fn overlapping_directories_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for name in ["a", "b", "c", "d", "a/inner"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        symlink("a", dir.join("link")).unwrap();
        symlink(dir.join("a/inner"), dir.join("deep")).unwrap();
        symlink(".", dir.join("here")).unwrap();
        symlink("a/none", dir.join("dangling")).unwrap();
        for good in [
            ["a", "b", "c", "d"],
            ["a", "b", "new", "newer"],
            ["new", "new-2", "b", "d"],
            ["here/a", "here/here/b", "c", "d"],
            ["link", "b", "here/c", "d"],
        ] {
            assert_eq!(check(dir, good), Ok(()), "{good:?}");
        }
        for (bad, what) in [
            (["a", "b", "a", "d"], "are the same"),
            (["a", "b", "dangling", "d"], "leads nowhere"),
            (["a", "b", "dangling/below", "d"], "leads nowhere"),
            (["a", "b", "link", "d"], "are the same"),
            (["a", "link", "c", "d"], "are the same"),
            (["here/new", "b", "c", "new"], "are the same"),
            (["a", "b", "c/../a", "d"], "are the same"),
            (["a", "b", "link/inner", "d"], "history"),
            (["deep", "b", "a", "d"], "inbound"),
            (["a", "a/work", "c", "d"], "lies in inbound"),
            (["a", "link/new/work", "c", "d"], "lies in inbound"),
            (["new/in", "b", "here/new", "d"], "lies in history"),
            (["new/in", "new", "c", "d"], "lies in work"),
            ([".", "b", "c", "d"], "lies in inbound"),
        ] {
            let error = check(dir, bad).unwrap_err();
            assert!(error.contains(what), "{bad:?}: {error}");
        }
    }
}
