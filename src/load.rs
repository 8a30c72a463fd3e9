//! Loads files once: the interface for programs that use this crate.
//!
//! Does what the command `load` does, without progress bars and exit codes.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;

use crate::config::Settings;
use crate::config::cli::FileOrder;
use crate::fault::Fault;
use crate::ingest::ItemOrigin;
use crate::runner::{LoadPlan, open_to_load};
use crate::shutdown::Shutdown;

/// The result of a load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// Files whose records are all stored, without duplicates.
    pub files: u64,
    /// Rows of these files, less the rows that were superseded.
    pub rows: u64,
    /// Records that have no row, or none any more, since the row of another record has the same key.
    pub superseded: u64,
    /// Rejects of these files: in the table `ingest_rejects`, with reason, place and text.
    pub rejects: u64,
    /// Files whose content was already in the ledger. They add no rows.
    pub duplicates: u64,
    /// Files that cannot be read as a whole, or that no dataset takes.
    pub quarantined: u64,
    /// Files that were left in their place: incomplete, or still being written.
    pub left: u64,
    /// Whether the load reached its end. `false` after a shutdown: load again to go on.
    pub is_complete: bool,
}

/// Why a load failed. Nothing is lost: load again to go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A given path, or a directory of the engine, cannot be read.
    #[error(transparent)]
    Files(#[from] io::Error),
    /// The queue or the database cannot be reached, or refuses a request.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Loads the files below `paths`, and waits until each of their records is a row or a reject in the
/// database. Without a path, it loads the files of inbound, and moves them to history.
///
/// Creates the tables and the four directories if they do not exist. Files outside of inbound are
/// read in their place. A file that is loaded again adds nothing.
///
/// If the database or the queue fails during the load, the load waits without a limit. Cancel
/// `shutdown.drain` to end the load after the frames in flight, or `shutdown.abort` to end it at
/// once. The work directory is locked until the load ends, so a second load of the same directories
/// fails.
///
/// # Errors
/// See [`LoadError`]. It is also an error if a server cannot be reached at the start.
pub async fn load(
    settings: &Settings,
    paths: &[PathBuf],
    shutdown: &Shutdown,
) -> Result<Loaded, LoadError> {
    let Some(engine) = open_to_load(settings, None, shutdown).await? else {
        return Ok(Loaded::default());
    };
    let (archive, order) = (ItemOrigin::Archive, FileOrder::default());
    let plan = match LoadPlan::find(&engine, settings, paths, archive, order) {
        Ok(plan) => plan,
        Err(error) => {
            engine.leave().await;
            return Err(error.into());
        }
    };
    plan.load(&engine, shutdown).await?;
    engine.compact_history(&shutdown.drain).await;
    let tally = &engine.tally;
    Ok(Loaded {
        files: tally.settled.load(Relaxed),
        rows: engine.rows(),
        superseded: engine.superseded(),
        rejects: tally.rejects.load(Relaxed),
        duplicates: tally.duplicates.load(Relaxed),
        quarantined: tally.quarantined.load(Relaxed),
        left: tally.left.load(Relaxed),
        is_complete: !tally.cut_short.load(Relaxed) && tally.unfinished() == 0,
    })
}
