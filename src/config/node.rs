//! The name of this process among those that share a work directory and a database.

use std::fs;
use std::path::{Path, PathBuf};

use super::Settings;

/// Longest name, in characters. It is the name of a directory, and the beginning of names in Redis.
const NAME_CHARS_MAX: usize = 100;

impl Settings {
    /// The name of this process: the same after a restart, and that of no other process at the same
    /// time. Without the setting `node`, it is made of the host and the work directory.
    #[must_use]
    pub fn node_name(&self) -> String {
        self.node
            .clone()
            .unwrap_or_else(|| default_name(&self.dirs.work))
    }

    /// Why the name cannot be used.
    pub(super) fn bad_node(&self) -> Option<String> {
        let node = self.node.as_ref()?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name = !node.is_empty() && !node.starts_with('.') && node.bytes().all(fits);
        (!is_name || node.len() > NAME_CHARS_MAX).then(|| {
            format!(
                "node: `{node}`: write at most {NAME_CHARS_MAX} letters, digits and `-`, `_`, `.`, the \
                 first of them no `.`"
            )
        })
    }
}

fn default_name(work: &Path) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let place = blake3::hash(resolved(work).as_os_str().as_encoded_bytes()).to_hex();
    format!("{}-{}", host.trim(), &place[..8])
}

/// A path without links. The same before and after its last directories are created.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for existing in absolute.ancestors() {
        if let Ok(real) = existing.canonicalize() {
            let below = absolute.strip_prefix(existing).unwrap_or(Path::new(""));
            return real.components().chain(below.components()).collect();
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;

    #[test]
    fn the_default_name_is_the_same_before_and_after_work_is_created() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let before = default_name(&link.join("data/work"));
        fs::create_dir_all(dir.path().join("data/work")).unwrap();
        assert_eq!(default_name(&link.join("data/work")), before);
        assert_eq!(default_name(&dir.path().join("data/work")), before);
        assert_ne!(default_name(&dir.path().join("data/other")), before);
    }

    #[test]
    fn a_name_that_is_no_name_of_a_directory_is_refused() {
        let named = |node: &str| {
            Settings::from_options(Options {
                node: Some(node.to_owned()),
                ..Options::default()
            })
        };
        for good in ["a", "host-1_b.example"] {
            assert_eq!(named(good).unwrap().node_name(), good);
        }
        let long = "x".repeat(NAME_CHARS_MAX + 1);
        for bad in ["", ".a", "..", "a/b", "a b", "é", &long] {
            let error = named(bad).unwrap_err().to_string();
            assert!(error.contains("node: `"), "{error}");
        }
    }
}
