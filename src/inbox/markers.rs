//! Marker files: files that other programs put beside their data, such as `_SUCCESS` and checksums.
//! They hold no records, so the engine neither loads nor moves them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

/// Patterns for names of marker files. Each has at most one `*`, which matches any characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Markers(Arc<[String]>);

impl Markers {
    /// Markers by these patterns.
    #[must_use]
    pub fn new(patterns: &[String]) -> Self {
        Self(patterns.into())
    }

    /// Whether a file with this name is a marker.
    #[must_use]
    pub fn has(&self, name: &OsStr) -> bool {
        let name = name.as_bytes();
        self.0.iter().any(|pattern| match pattern.split_once('*') {
            None => name == pattern.as_bytes(),
            Some((begin, end)) => {
                name.len() >= begin.len() + end.len()
                    && name.starts_with(begin.as_bytes())
                    && name.ends_with(end.as_bytes())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_must_match_the_whole_name() {
        let markers = Markers::new(&["_SUCCESS", "*.crc", "_part_*", "a*a"].map(str::to_owned));
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
    }
}
