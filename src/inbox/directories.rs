//! The four directories by name and path.

use std::path::{Path, PathBuf};

/// The four directories of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directories {
    /// Files arrive here.
    pub inbound: PathBuf,
    /// Claimed files, until their records are stored.
    pub work: PathBuf,
    /// Files whose records are all stored.
    pub history: PathBuf,
    /// Files that cannot be read as a whole, each with its reason beside it.
    pub quarantine: PathBuf,
}

impl Directories {
    /// The directories with their names, in the order of the flow.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &Path); 4] {
        [
            ("inbound", &self.inbound),
            ("work", &self.work),
            ("history", &self.history),
            ("quarantine", &self.quarantine),
        ]
    }

    /// Whether inbound is below the data directory, in which a first start creates all.
    #[must_use]
    pub fn has_inbound_in(&self, data_dir: &Path) -> bool {
        absolute(&self.inbound).starts_with(absolute(data_dir))
    }

    /// The directory above inbound, if it does not exist. Then the path of inbound is most likely
    /// mistyped, and if inbound were created, no file would ever arrive there. `None` below the data
    /// directory.
    #[must_use]
    pub fn missing_parent(&self, data_dir: &Path) -> Option<PathBuf> {
        let inbound = absolute(&self.inbound);
        let parent = inbound.parent()?;
        let is_expected = self.has_inbound_in(data_dir) || parent.exists();
        (!is_expected).then(|| parent.to_owned())
    }
}

/// The path itself if the current directory was removed.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A directory's absolute path with links resolved, or the path as given if it does not exist.
#[must_use]
pub fn canonical(directory: &Path) -> String {
    let path = directory.canonicalize();
    path.as_deref().unwrap_or(directory).display().to_string()
}
