//! Containers: tar and zip archives, whose members are files of their own.
//!
//! A container is opened once. A member is a range of its bytes and has an identity of its own, that
//! of the file that unpacking would give. The members of a tar archive are read from where they lie;
//! those of a zip archive are inflated one after the other into one body, in memory or in a spill.
//! No member is ever written under its name.
//!
//! A path may lead into a container: `DIR/a.tar/x.json` is the member `x.json` of the file
//! `DIR/a.tar`. No such path exists on the disk, so it is never confused with that of a file.

mod kept;
mod member;
mod tar;
mod whole;
mod zip;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use kept::Keeping;
pub use member::Member;
pub use whole::Container;

use super::body::read_or_hold;
use super::error::ContentError;
use super::opened::{Content, Found, of_body};
use super::options::ContentOptions;
use super::regular::sample;

/// Opens the member to which a path leads: see the module.
///
/// # Errors
/// [`ContentError`]. `NotFound` if no container on the path has such a member.
pub(super) fn open_member<T: Send>(
    path: &Path,
    options: &ContentOptions,
    inspect: impl FnOnce(&[u8]) -> T + Send,
) -> Result<(Content, T), ContentError> {
    let not_found = || ContentError::Io(io::ErrorKind::NotFound.into());
    let (container, name) = located(path).ok_or_else(not_found)?;
    let container = opened(container, options)?.ok_or_else(not_found)?;
    let member = container.index(&name).ok_or_else(not_found)?;
    container.open_and(member, options, inspect)
}

/// The container at a path. `None` if the file is none.
pub(super) fn opened(
    path: PathBuf,
    options: &ContentOptions,
) -> Result<Option<Arc<Container>>, ContentError> {
    let found = sample(&path.symlink_metadata()?);
    if let Some(container) = kept::last(&path, found) {
        return Ok(Some(container));
    }
    let (body, sample) = read_or_hold(&path, options)?;
    let Found::Packed(packed) = of_body(body, sample, options, |_| ())? else {
        return Ok(None);
    };
    let container = Arc::new(Container::of(packed, options)?);
    kept::keep(path, &container);
    Ok(Some(container))
}

/// The container on a path, and the name of the member to which the path leads. `None` if no
/// directory of the path is a regular file.
#[must_use]
pub fn located(path: &Path) -> Option<(PathBuf, OsString)> {
    let mut above = path.ancestors().skip(1);
    let container = above.find(|above| above.symlink_metadata().is_ok())?;
    let is_file = container.symlink_metadata().is_ok_and(|it| it.is_file());
    let name = path.strip_prefix(container).ok()?;
    is_file.then(|| (container.to_owned(), name.as_os_str().to_owned()))
}

#[cfg(test)]
mod tests;
