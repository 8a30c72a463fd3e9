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
}

/// A directory's absolute path with links resolved, or the path as given if it does not exist.
#[must_use]
pub fn canonical(directory: &Path) -> String {
    let path = directory.canonicalize();
    path.as_deref().unwrap_or(directory).display().to_string()
}
