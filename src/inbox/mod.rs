//! The four directories, and every move between them.
//!
//! A file is in exactly one of inbound, work, history and quarantine. It moves by rename, never
//! replaces another file, and keeps its name; if the name is taken, a number is added. A claim is
//! the rename into the directory of a process in work. The scan of inbound finds all
//! files; notifications only make it start earlier.
//!
//! No directory is synced after a rename within a device: a rename that a power cut undoes is
//! repeated, since the ledger identifies the file by its content. Knows nothing of records or
//! datasets.
//!
//! In the order of the flow: `open` locks the directories, `place` has those of processes in work,
//! `takeover` takes what others have left there, `notifications` wakes intake, `scan`
//! lists inbound, `claim` moves files to work, `release` moves them out of work, `requeue` moves
//! files from quarantine to inbound. `postponed` lets files wait whose table refuses their rows,
//! or whose place belongs to a file that was begun. `copying` copies members of containers to
//! quarantine. `retention` removes the oldest files of history, `replacing` replaces one by other
//! bytes, and `compacting` compresses them. `whereabouts` says where the bytes
//! of a file may be, and `days` which directories history has for days. `moving` does each move, with
//! names from `names`, and `clearing` cleans up after a move that was killed. `arriving` writes a file
//! into work that comes from elsewhere than inbound.
//!
//! The name of a file is its path below its directory: with [`Markers::with_directories`], files of
//! directories below inbound are taken as well, and keep this path.

mod arriving;
mod aside;
mod census;
mod claim;
mod clearing;
mod compacting;
mod copying;
mod days;
mod directories;
mod distinct;
mod free;
mod lock;
mod markers;
mod moving;
mod names;
mod notifications;
mod open;
mod pause;
mod place;
mod postponed;
mod release;
mod replacing;
mod requeue;
mod retention;
mod scan;
mod takeover;
mod times;
mod tree;
mod waiting;
mod walk;
mod whereabouts;

pub use arriving::Arriving;
pub use aside::Aside;
pub use census::{Census, Count, count_files};
pub use claim::{Claim, Claimed, affects_every_file};
pub use clearing::clear_up_all;
pub use compacting::Compacting;
pub use days::days_of;
pub use directories::{Directories, canonical};
pub use distinct::{Overlap, check_distinct};
pub use free::FreeRoom;
pub use markers::{Markers, TEMPORARY};
pub use moving::try_move;
pub use notifications::Watch;
pub use open::{Inbox, Patience, blocking};
pub use pause::{is_paused, pause, resume};
pub use place::{has_claimed, holder};
pub use replacing::{Replacement, with_size};
pub use requeue::{quarantined, requeue, return_from_history};
pub use retention::{HistoryLimits, Pruned};
pub use scan::{Candidate, SCAN_FILES_MAX, Scan, missed};
pub use waiting::{WaitReason, Waiting, Waits};
pub use walk::{Archive, Found, Walk};
pub use whereabouts::{as_delivered, beside, candidates, exact_name, in_days, named};

#[cfg(test)]
mod tests;
