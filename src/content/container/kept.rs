//! The container that was opened last, kept for commands that read its members one after the other.
//!
//! Without it, each member would cost the time to read, and perhaps to inflate, the whole container.
//! The service keeps none, since a container may hold gigabytes of the disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::whole::Container;
use crate::content::regular::Sample;

/// `None` if no container is kept.
static KEPT: Mutex<Option<Last>> = Mutex::new(None);

/// The last container, with its path. `None` before the first one.
type Last = Option<(PathBuf, Arc<Container>)>;

/// Keeps the container that was opened last, until it is dropped.
#[derive(Debug)]
pub struct Keeping(());

impl Keeping {
    /// Begins to keep containers in this process.
    #[must_use]
    pub fn begin() -> Self {
        *KEPT.lock() = Some(None);
        Self(())
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        *KEPT.lock() = None;
    }
}

/// The container at a path if it is the one that is kept, and its file is in the state `found`.
pub(super) fn last(path: &Path, found: Sample) -> Option<Arc<Container>> {
    let kept = KEPT.lock();
    let (at, container) = kept.as_ref()?.as_ref()?;
    let is_it = at == path && container.as_read().sample() == found;
    is_it.then(|| container.clone())
}

/// Keeps a container, if containers are kept.
pub(super) fn keep(path: PathBuf, container: &Arc<Container>) {
    if let Some(last) = &mut *KEPT.lock() {
        *last = Some((path, container.clone()));
    }
}
