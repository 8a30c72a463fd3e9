//! The check that no two of the four directories overlap: no two are the same directory, and none
//! lies in another.
//!
//! Compares device and inode, so that links and `..` do not hide an overlap. For a directory that
//! does not exist yet, it compares the nearest existing directory above it, and the path from there.
//! Compares paths within their file systems as well: a directory that is mounted elsewhere, such as
//! a `subPath` of a volume in Kubernetes, has no parent in common with the directory around it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
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
    /// The place in its file system. `None` if the system does not tell it.
    mounted: Option<Mounted>,
}

/// File systems of the network beside the versions of NFS, by their names in `mountinfo`.
const REMOTE: [&[u8]; 8] = [
    b"9p", b"afs", b"beegfs", b"ceph", b"cifs", b"gpfs", b"lustre", b"smb3",
];

/// The place of a directory in its file system.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    /// The device of the file system, as in `8:1`.
    device: String,
    /// The path from the root of the file system.
    path: PathBuf,
}

impl Mounted {
    /// The place of a path without links. `mounts` has the form of `/proc/self/mountinfo`. `None` for a
    /// file system of the network: mounts of several of its directories may have the same device and
    /// the same root there. NFS names `/` as the root of each mount (`nfs_show_path` in
    /// fs/nfs/super.c), and mounts of one export share the device.
    fn of(path: &Path, mounts: &[u8]) -> Option<Self> {
        let lines = mounts.split(|byte| *byte == b'\n');
        let around = lines.filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let device = fields.nth(2)?;
            let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
            let below = path.strip_prefix(&point).ok()?;
            // Optional fields lie before the separator.
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            let is_remote = kind.starts_with(b"nfs") || REMOTE.contains(&kind);
            Some((point, (!is_remote).then(|| (device, root.join(below)))))
        });
        // Of several mounts on one directory, the last one is seen.
        let (_, place) = around.max_by_key(|(point, _)| point.components().count())?;
        let (device, path) = place?;
        let device = String::from_utf8_lossy(device).into_owned();
        Some(Self { device, path })
    }
}

/// A path of `mountinfo`, which has a blank, tab, newline or backslash as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut path = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        path.push(byte.unwrap_or(*first));
        rest = &after[if byte.is_some() { 3 } else { 0 }..];
    }
    OsString::from_vec(path).into()
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut below = PathBuf::new();
        for ancestor in path.ancestors() {
            match ancestor.canonicalize() {
                Ok(real) => {
                    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
                    return Ok(Self {
                        existing: ids(&real)?,
                        mounted: Mounted::of(&real.join(&below), &mounts),
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
        if let (Some(this), Some(other)) = (&self.mounted, &other.mounted)
            && this.device == other.device
            && this.path.starts_with(&other.path)
        {
            return true;
        }
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

    #[test]
    fn the_place_in_a_file_system_is_that_of_the_nearest_mount() {
        let mounts = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            2 1 8:2 / /data rw shared:1 - ext4 /dev/sdb rw\n\
            3 1 8:2 /in/history /history rw - ext4 /dev/sdb rw\n\
            4 1 0:9 / /a\\040b\\134 rw - tmpfs tmpfs rw\n\
            5 1 8:2 /other /history rw - ext4 /dev/sdb rw\nbroken\n";
        for (path, device, within) in [
            ("/srv/x", "8:1", "/srv/x"),
            ("/data/in", "8:2", "/in"),
            ("/database", "8:1", "/database"),
            ("/data", "8:2", "/"),
            ("/history/2026", "8:2", "/other/2026"),
            ("/a b\\/c", "0:9", "/c"),
        ] {
            let expected = Mounted {
                device: device.to_owned(),
                path: within.into(),
            };
            assert_eq!(Mounted::of(path.as_ref(), mounts), Some(expected), "{path}");
        }
        assert_eq!(Mounted::of("/x".as_ref(), b""), None);
    }

    #[test]
    fn two_mounts_of_the_network_are_not_taken_for_the_same_directory() {
        let mounts = b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
            2 1 0:50 / /in rw shared:3 master:1 - nfs4 server:/export/in rw\n\
            3 1 0:50 / /history rw - nfs server:/export/history rw\n\
            4 3 8:1 /b /history/disk rw - ext4 /dev/sda1 rw\n\
            5 1 0:51 / /share rw - cifs //server/share rw\n";
        for (path, is_known) in [
            ("/in", false),
            ("/in/a", false),
            ("/history", false),
            ("/history/disk/a", true),
            ("/inner", true),
            ("/share/in", false),
        ] {
            let place = Mounted::of(path.as_ref(), mounts);
            assert_eq!(place.is_some(), is_known, "{path}");
        }
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
