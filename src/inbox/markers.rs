//! Names of files that are passed over: marker files, which other programs put beside their data
//! (`_SUCCESS`, checksums) and which hold no records, and temporary files, which their writers have
//! not finished. The engine neither loads nor moves them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::names::is_hidden;
use super::tree::last;

/// Patterns for names of temporary files, unless a setting replaces them.
pub const TEMPORARY: [&str; 3] = ["*.tmp", "*.part", "*~"];

/// Patterns for names of files that are passed over. Each has at most one `*`, which matches any
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markers {
    passed_over: Arc<[String]>,
    temporary: Arc<[String]>,
    /// Whether the files of directories below inbound are taken.
    pub(super) directories: bool,
}

impl Default for Markers {
    /// No markers, and the usual temporary files.
    fn default() -> Self {
        Self::new(&[], &TEMPORARY.map(str::to_owned))
    }
}

impl Markers {
    /// Markers and temporary files by these patterns.
    #[must_use]
    pub fn new(markers: &[String], temporary: &[String]) -> Self {
        Self {
            passed_over: markers.into(),
            temporary: temporary.into(),
            directories: false,
        }
    }

    /// The same, and whether the files of directories below inbound are taken. Directories with the
    /// name of a temporary file are passed over.
    #[must_use]
    pub fn with_directories(self, directories: bool) -> Self {
        Self {
            directories,
            ..self
        }
    }

    /// Whether the files of this directory below inbound are taken.
    #[must_use]
    pub fn enters(&self, directory: &Path) -> bool {
        self.directories && !self.is_temporary(last(directory.as_os_str()))
    }

    /// Whether a file with this name is a marker.
    #[must_use]
    pub fn has(&self, name: &OsStr) -> bool {
        fits_any(&self.passed_over, name)
    }

    /// Whether the name of a file shows that its writer has not finished it: it fits a pattern, or
    /// begins with a point.
    #[must_use]
    pub fn is_temporary(&self, name: &OsStr) -> bool {
        is_hidden(name) || fits_any(&self.temporary, name)
    }
}

fn fits_any(patterns: &[String], name: &OsStr) -> bool {
    let name = name.as_bytes();
    patterns
        .iter()
        .any(|pattern| match pattern.split_once('*') {
            None => name == pattern.as_bytes(),
            Some((begin, end)) => {
                name.len() >= begin.len() + end.len()
                    && name.starts_with(begin.as_bytes())
                    && name.ends_with(end.as_bytes())
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_must_match_the_whole_name() {
        let patterns = ["_SUCCESS", "*.crc", "_part_*", "a*a"].map(str::to_owned);
        let markers = Markers::new(&patterns, &[]);
        let cases = [
            ("_SUCCESS", true),
            ("_SUCCESS.json", false),
            ("x_SUCCESS", false),
            ("a.json.crc", true),
            ("a.crc.json", false),
            ("_part_", true),
            ("_part_1", true),
            ("aa", true),
            ("a", false),
            ("", false),
        ];
        for (name, expected) in cases {
            assert_eq!(markers.has(OsStr::new(name)), expected, "{name}");
        }
        assert!(markers.has(OsStr::from_bytes(b"\xff.crc")));
        assert!(!Markers::default().has(OsStr::new("_SUCCESS")));
        let own = Markers::new(&[], &["*.writing".to_owned()]);
        for (name, usual, by_pattern) in [
            (".x", true, true),
            ("x.tmp", true, false),
            ("x.part", true, false),
            ("x~", true, false),
            ("x.writing", false, true),
            ("x.tmp.json", false, false),
        ] {
            let name = OsStr::new(name);
            assert_eq!(Markers::default().is_temporary(name), usual, "{name:?}");
            assert_eq!(own.is_temporary(name), by_pattern, "{name:?}");
        }
    }
}
