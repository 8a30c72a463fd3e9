//! The files below a path, found one after the other in the order of their names.
//!
//! A walk holds the names of one directory of each level and no list of all files, so that memory
//! does not grow with an archive.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{fs, mem};

use super::claim::{Claimed, claimed};
use super::markers::Markers;

/// Why a file is not loaded, and the next step.
const TEMPORARY: &str =
    "its name is hidden, or temporary by `temporary_files`: rename it once it is whole";

/// An archive: a file, or a directory with all files below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its path.
    pub path: PathBuf,
    /// Paths below it whose files do not belong to it.
    pub left_out: Vec<PathBuf>,
    /// Which files are passed over.
    pub markers: Markers,
}

/// What a walk finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A file of the archive.
    File(Claimed),
    /// A file that is passed over: a marker, one with a temporary name, or no regular file.
    PassedOver,
}

impl Archive {
    /// The archive at a path, with all files below it.
    #[must_use]
    pub fn all_of(path: &Path, markers: &Markers) -> Self {
        Self {
            path: path.to_owned(),
            left_out: Vec::new(),
            markers: markers.clone(),
        }
    }

    /// The files of the archive as a list, and how many files are passed over.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    pub fn list(self) -> io::Result<(Vec<Claimed>, u64)> {
        let (mut files, mut passed_over) = (Vec::new(), 0);
        for found in self.walk() {
            match found? {
                Found::File(file) => files.push(file),
                Found::PassedOver => passed_over += 1,
            }
        }
        Ok((files, passed_over))
    }

    /// All regular files of the archive, without following links, in the order of their paths.
    /// Files that vanish meanwhile are left out.
    ///
    /// An item is an error if a directory or file cannot be read, or if the archive is one file that
    /// is not loaded: no regular file, or one with a temporary name. The error names it.
    #[must_use]
    pub fn walk(self) -> Walk {
        Walk {
            begin: Some(self.path),
            open: Vec::new(),
            left_out: self.left_out,
            markers: self.markers,
        }
    }
}

/// A walk through an archive: see [`Archive::walk`].
#[derive(Debug)]
pub struct Walk {
    /// The path of the archive, until it was visited.
    begin: Option<PathBuf>,
    /// The directories that are being listed, each below the one before.
    open: Vec<Directory>,
    left_out: Vec<PathBuf>,
    markers: Markers,
}

/// A directory whose entries are visited.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    /// All names, one after the other: a million of them as separate strings would take three times
    /// the memory.
    bytes: Vec<u8>,
    /// The names that were not visited, the next one last.
    names: Vec<Name>,
}

impl Iterator for Walk {
    type Item = io::Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let visited = match self.begin.take() {
                Some(path) => self.visit(path, true),
                None => match self.open.last_mut()?.next() {
                    None => {
                        self.open.pop();
                        continue;
                    }
                    Some(path) => match self.visit(path, false) {
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        visited => visited,
                    },
                },
            };
            if let Some(found) = visited.transpose() {
                return Some(found);
            }
        }
    }
}

impl Walk {
    /// What a path is. `None` for a directory, whose entries are visited next, and for all that is
    /// left out. `is_archive` says whether it is the path of the archive.
    fn visit(&mut self, path: PathBuf, is_archive: bool) -> io::Result<Option<Found>> {
        let about =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        if self.left_out.contains(&path) {
            return Ok(None);
        }
        let metadata = fs::symlink_metadata(&path).map_err(about)?;
        if metadata.is_dir() {
            let directory = Directory::list(&path).map_err(about)?;
            self.open.push(directory);
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default();
        let why = if !metadata.is_file() {
            Some("it is no regular file")
        } else if self.markers.is_temporary(name) {
            Some(TEMPORARY)
        } else {
            None
        };
        if let Some(why) = why.filter(|_| is_archive) {
            return Err(about(io::Error::new(ErrorKind::InvalidInput, why)));
        }
        if why.is_some() || self.markers.has(name) {
            return Ok(Some(Found::PassedOver));
        }
        Ok(Some(Found::File(claimed(path, &metadata)?)))
    }
}

/// The place of a name: where it begins, and in the lowest 16 bits its length. No file system of Linux
/// has names of more than 4,096 bytes.
#[derive(Debug, Clone, Copy)]
struct Name(u64);

impl Name {
    const fn range(self) -> Range<usize> {
        let start = (self.0 >> 16) as usize;
        start..start + (self.0 & 0xffff) as usize
    }
}

impl Directory {
    fn list(path: &Path) -> io::Result<Self> {
        let (mut bytes, mut names) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(path)? {
            let name = entry?.file_name();
            names.push(Name((bytes.len() as u64) << 16 | name.len() as u64));
            bytes.extend_from_slice(name.as_bytes());
        }
        bytes.shrink_to_fit();
        names.shrink_to_fit();
        let name = |name: &Name| &bytes[name.range()];
        names.sort_unstable_by(|a, b| name(b).cmp(name(a)));
        Ok(Self {
            path: path.to_owned(),
            bytes,
            names,
        })
    }

    fn next(&mut self) -> Option<PathBuf> {
        let name = self.names.pop()?;
        let path = self.path.join(OsStr::from_bytes(&self.bytes[name.range()]));
        if self.names.is_empty() {
            // The memory is free while the last entry is visited, which may be a directory.
            drop(mem::take(&mut self.bytes));
        }
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_finds_all_files_in_the_order_of_their_paths() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for directory in ["a", "a-b", "a/c/d", "own/x", "empty"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        let names = [
            "a/2", "a/10", "a/c/d/1", "a-b/1", "a.json", "own/x/1", "z", "_SUCCESS", ".hidden",
            "half.tmp",
        ];
        for name in names {
            fs::write(at(name), name).unwrap();
        }
        std::os::unix::fs::symlink(at("z"), at("a/link")).unwrap();
        let archive = Archive {
            path: dir.path().to_owned(),
            left_out: vec![at("own")],
            markers: Markers::new(&["_SUCCESS".to_owned()], &["*.tmp".to_owned()]),
        };
        let mut found = Vec::new();
        let mut passed_over = 0;
        for one in archive.walk() {
            match one.unwrap() {
                Found::File(file) => found.push(file.path),
                Found::PassedOver => passed_over += 1,
            }
        }
        let expected: Vec<_> = ["a/10", "a/2", "a/c/d/1", "a-b/1", "a.json", "z"]
            .map(at)
            .to_vec();
        assert_eq!(found, expected);
        // The marker, the hidden and the temporary file, and the link.
        assert_eq!(passed_over, 4);
        assert!(found.is_sorted());

        let only = |name| Archive::all_of(&at(name), &Markers::default());
        let one: Vec<_> = only("z").walk().map(Result::unwrap).collect();
        assert!(matches!(&one[..], [Found::File(file)] if file.path == at("z")));
        for name in [".hidden", "half.tmp", "a/link"] {
            let error = only(name).walk().next().unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        let error = only("gone").walk().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("gone: "), "{error}");
    }

    #[test]
    fn a_file_that_vanishes_during_a_walk_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1", "2", "3"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let mut walk = Archive::all_of(dir.path(), &Markers::default()).walk();
        assert!(walk.next().is_some());
        fs::remove_file(dir.path().join("2")).unwrap();
        let rest: Vec<_> = walk.map(Result::unwrap).collect();
        assert!(matches!(&rest[..], [Found::File(file)] if file.name == "3"));
    }
}
