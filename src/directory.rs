//! Creates the directories of the engine, private to its user.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Creates a directory and its missing parents, with access for this user only. Does nothing if the
/// directory exists.
///
/// # Errors
/// Errors of the file system.
pub(crate) fn create_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}
