//! The last stage: moves a file to its directory, and counts it after the move.
//!
//! A move that fails does not delay other files. The file stays in work, the move is repeated until
//! it succeeds, and status lists the file until then.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::disposal::Disposal;
use super::item::{BadFile, Item, ItemOrigin};
use super::member::Member;
use super::outcome::{Destination, Outcome};
use super::reason::QuarantineReason;
use super::shared::{Ingest, Shared};
use super::tally::Tally;
use crate::content::{ContentError, ContentOptions};
use crate::fault::{Fault, Origin};
use crate::inbox::{Inbox, WaitReason, affects_every_file};
use crate::retry::{GivenUp, until_ok};
use crate::sink::SeenFile;
use crate::telemetry::{
    self,
    traces::{self, Ended},
};

/// The first and the longest pause before failed moves are repeated. Without a pause, the disk
/// would be busy with copies of large files that fail at their end.
const RETRY_PAUSE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// Most files that wait for their move while other files go on. With more, ingest waits, since the
/// cause is not a single file and work would grow without a limit.
const STUCK_MAX: usize = 1_024;

/// Repeats failed moves until `settled` is cancelled.
pub(super) async fn run(shared: Arc<Shared>, settled: CancellationToken) -> Result<(), GivenUp> {
    loop {
        tokio::select! {
            () = shared.disposals.wake.notified() => {}
            () = settled.cancelled() => return Ok(()),
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        }
        let mut pause = RETRY_PAUSE[0];
        while !shared.disposals.stuck.lock().is_empty() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
            }
            let some_moved = try_stuck(&shared).await;
            pause = if some_moved {
                RETRY_PAUSE[0]
            } else {
                RETRY_PAUSE[1].min(pause * 2)
            };
        }
        // Settle ends only when no file is stuck.
        shared.settle_soon.notify_one();
    }
}

/// Quarantines a file: the reason with its code is written to the ledger and beside the file.
pub(super) async fn quarantine(shared: &Arc<Shared>, file: BadFile) -> Result<(), GivenUp> {
    let BadFile {
        mut item,
        dataset,
        identity,
        reason,
    } = file;
    if item.is_counted() {
        tracing::debug!(file = ?item.file.path, code = reason.code(), %reason, "quarantined before");
    } else {
        tracing::warn!(file = ?item.file.path, code = reason.code(), %reason, "quarantined");
    }
    let (code, reason) = (reason.code(), reason.with_code());
    if let Some(identity) = identity {
        let file = item.new_file(dataset.as_deref(), &identity, 0);
        if let Some(trail) = &mut item.trail {
            trail.hash = Some(identity.hash);
        }
        let note = async || {
            shared.check_epoch().await?;
            shared.sink().quarantine(&file, &reason).await
        };
        until_ok("writing to the ledger", &shared.stop, |_| {}, note).await?;
    }
    let quarantined = Disposal {
        item,
        file_no: None,
        dataset,
        outcome: Outcome::Quarantined(code, reason.into()),
    };
    dispose(shared, vec![quarantined]).await
}

/// Leaves a file for a later load: a file of inbound goes back there.
pub(super) async fn leave(
    shared: &Arc<Shared>,
    item: Item,
    reason: &WaitReason,
) -> Result<(), GivenUp> {
    tracing::info!(file = ?item.file.path, code = reason.code(), %reason, "is left for later");
    let left = Disposal {
        item,
        file_no: None,
        dataset: None,
        outcome: Outcome::Left(reason.clone()),
    };
    dispose(shared, vec![left]).await
}

/// Moves the files of items to their directories, and counts them. A file of several parts is moved
/// with its last part. [`run`] repeats the moves that fail. Waits while more than [`STUCK_MAX`]
/// files cannot be moved.
pub(super) async fn dispose(shared: &Arc<Shared>, disposals: Vec<Disposal>) -> Result<(), GivenUp> {
    let _in_progress = shared.disposals.begin();
    let bytes = disposals.iter().map(|one| one.item.bytes_left()).sum();
    Tally::add(&shared.tally().bytes_done, bytes);
    let whole = disposals.into_iter().filter_map(Disposal::of_whole_file);
    let whole: Vec<_> = whole.collect();
    let stored: Vec<_> = whole
        .iter()
        .filter_map(|one| shared.seen.entry(one))
        .collect();
    let failed = move_and_count(shared, whole).await;
    // Files of archives are not moved, so none of `stored` is among the failed ones.
    remember(shared, &stored).await;
    if failed.is_empty() {
        return Ok(());
    }
    shared.disposals.stuck.lock().extend(failed);
    shared.disposals.wake.notify_one();
    let few = async || match shared.disposals.stuck.lock().len() {
        ..=STUCK_MAX => Ok(()),
        files => {
            let cause = format!("{files} files cannot be moved to their directories");
            Err(Fault::transient(Origin::Files, "moving files", cause))
        }
    };
    until_ok("moving files", &shared.stop, |_| {}, few).await
}

/// Keeps the states of stored files of archives. A failure costs the next load the time to read
/// them, so the call is not repeated.
async fn remember(shared: &Shared, stored: &[SeenFile]) {
    if stored.is_empty() {
        return;
    }
    if let Err(fault) = shared.sink().remember(stored).await {
        tracing::debug!(%fault, files = stored.len(), "are not remembered");
    }
}

/// Repeats all failed moves. Returns whether one of them succeeded.
async fn try_stuck(shared: &Arc<Shared>) -> bool {
    let _in_progress = shared.disposals.begin();
    let stuck = std::mem::take(&mut *shared.disposals.stuck.lock());
    let tried = stuck.len();
    let failed = move_and_count(shared, stuck).await;
    let (moved, left) = (tried - failed.len(), failed.len());
    if moved > 0 {
        tracing::info!(moved, left, "files that were stuck have been moved");
    }
    shared.disposals.stuck.lock().extend(failed);
    moved > 0
}

/// Moves items and counts them. Returns those that cannot be moved now, in the order in which they
/// are to be tried again.
async fn move_and_count(shared: &Arc<Shared>, disposals: Vec<Disposal>) -> Vec<Disposal> {
    if disposals.is_empty() {
        return disposals;
    }
    let shared = shared.clone();
    let moving = tokio::task::spawn_blocking(move || {
        let (mut failed, mut untried) = (Vec::new(), Vec::new());
        let mut closed = Vec::new();
        let mut stuck = Stuck::default();
        let mut disposals = VecDeque::from(disposals);
        while let Some(mut disposal) = disposals.pop_front() {
            let compared = compare(&mut disposal, &shared.ingest.options.content);
            let destination = disposal.outcome.destination();
            let moved = || move_file(&disposal, &shared.ingest.inbox);
            if closed.contains(&destination) {
                stuck.note(&shared, &disposal, "another file could not be moved there");
                untried.push(disposal);
            } else if let Err(error) = compared.and_then(|()| moved()) {
                if affects_every_file(&error) {
                    closed.push(destination);
                }
                stuck.note(&shared, &disposal, &error.to_string());
                failed.push(disposal);
            } else {
                shared.tally().note_unstuck(&disposal.item.file);
                count(&disposal, &shared.ingest);
                disposals.extend(disposal.of_container(&shared.counted));
            }
        }
        stuck.log();
        // Next time, the files after the one that failed are moved before it.
        untried.extend(failed);
        untried
    });
    moving.await.expect("a move does not panic")
}

/// Compares a file whose records are stored with its content as it was read, before it goes to
/// history. A file that has changed goes to quarantine instead, and one of an archive counts as
/// quarantined: its new content is not stored.
fn compare(disposal: &mut Disposal, options: &ContentOptions) -> io::Result<()> {
    let Item { file, origin, .. } = &disposal.item;
    let Some(as_read) = disposal.item.as_read else {
        return Ok(());
    };
    let in_place = *origin == ItemOrigin::Archive;
    // A member is in its container, which is compared at its own end.
    let is_member = disposal.item.member.is_some();
    if is_member || disposal.outcome.destination() != Destination::History {
        return Ok(());
    }
    match as_read.is_at(&file.path, options) {
        Ok(true) => return Ok(()),
        Ok(false) | Err(ContentError::NotRegular) => {}
        // The file was removed: the move reports it.
        Err(ContentError::Io(error)) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(ContentError::Io(error)) => return Err(error),
        Err(error) => return Err(io::Error::new(ErrorKind::ResourceBusy, error)),
    }
    let reason = QuarantineReason::ChangedAfterRead {
        file_nos: disposal.file_nos(),
        in_place,
    };
    let code = reason.code();
    tracing::warn!(file = ?file.path, code, %reason, "quarantined");
    disposal.outcome = Outcome::Quarantined(code, reason.with_code().into());
    Ok(())
}

/// Moves the file of an item, unless it is part of an archive. A member stays in its container; one
/// that cannot be loaded is copied.
fn move_file(disposal: &Disposal, inbox: &Inbox) -> io::Result<()> {
    let Item { file, origin, .. } = &disposal.item;
    if *origin == ItemOrigin::Archive {
        return Ok(());
    }
    if let Some(member) = &disposal.item.member {
        let Outcome::Quarantined(_, reason) = &disposal.outcome else {
            return Ok(());
        };
        return copy_member(member, &file.name, reason, inbox);
    }
    let read = disposal.item.as_read.map(|as_read| as_read.on_disk());
    let moved = match &disposal.outcome {
        Outcome::Settled | Outcome::Duplicate => inbox.to_history(file, read).map(drop),
        Outcome::Quarantined(_, reason) => inbox.to_quarantine(file, reason).map(drop),
        Outcome::Left(reason) => inbox.put_back(file, reason),
    };
    match moved {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if file.path.exists() {
                let what = "the directory that it belongs into is not there";
                return Err(io::Error::new(ErrorKind::NotFound, what));
            }
            tracing::warn!(file = ?file.path, "was gone before its move");
            Ok(())
        }
        moved => moved,
    }
}

/// Copies a member to quarantine. If the container was changed since it was read, there is no such
/// member any more, and the container itself goes to quarantine.
fn copy_member(member: &Member, name: &OsStr, reason: &str, inbox: &Inbox) -> io::Result<()> {
    let mut is_changed = false;
    let copied = inbox.copy_to_quarantine(name, reason, |file| {
        let write = |piece: &[u8]| file.write_all(piece);
        let copied = member.container.copy(member.index, write);
        copied.map_err(|error| match error {
            ContentError::Io(error) => error,
            other => {
                is_changed = true;
                io::Error::new(ErrorKind::ResourceBusy, other)
            }
        })
    });
    match copied {
        Err(_) if is_changed => Ok(()),
        copied => copied.map(drop),
    }
}

/// Counts an item that has been moved, and logs it. Of a container, its members are counted, each of
/// them once in the metrics if it waits and is read again.
fn count(disposal: &Disposal, Ingest { tally, options, .. }: &Ingest) {
    if disposal.item.is_container && disposal.outcome.destination() != Destination::Quarantine {
        let file = &disposal.item.file.name;
        tracing::debug!(?file, outcome = ?disposal.outcome, "all members of the container have ended");
        return;
    }
    let counter = match &disposal.outcome {
        Outcome::Settled => &tally.settled,
        Outcome::Duplicate => &tally.duplicates,
        Outcome::Quarantined(..) => &tally.quarantined,
        Outcome::Left(_) => &tally.left,
    };
    Tally::add(counter, 1);
    if disposal.item.is_counted() {
        return;
    }
    let dataset = disposal.dataset.as_ref();
    let dataset = dataset.map_or("", |dataset| &dataset.name);
    let (file, file_no) = (&disposal.item.file.name, disposal.file_no);
    let took = disposal.item.found_at.elapsed();
    let seconds = took.as_secs_f64();
    trace(disposal, dataset);
    match &disposal.outcome {
        Outcome::Settled => {
            telemetry::file_settled(dataset, "settled");
            telemetry::end_to_end(dataset, took);
            tracing::debug!(?file, file_no, seconds, "settled");
        }
        Outcome::Duplicate => {
            telemetry::file_settled(dataset, "duplicate");
            telemetry::end_to_end(dataset, took);
            // The ledger has the name of the first file with this content, so only the log names
            // this one.
            if options.names_stored {
                tracing::info!(?file, file_no, seconds, "is a duplicate");
            } else {
                tracing::debug!(?file, file_no, seconds, "is a duplicate");
            }
        }
        Outcome::Quarantined(code, _) => {
            telemetry::files_quarantined(code, 1);
            telemetry::file_settled(dataset, "quarantined");
        }
        Outcome::Left(_) => {}
    }
}

/// Keeps the spans of a file that has ended. A file that is left for later has not.
fn trace(disposal: &Disposal, dataset: &str) {
    let (outcome, reason) = match &disposal.outcome {
        Outcome::Settled => ("settled", None),
        Outcome::Duplicate => ("duplicate", None),
        Outcome::Quarantined(code, reason) => ("quarantined", Some((*code, &**reason))),
        Outcome::Left(_) => return,
    };
    let item = &disposal.item;
    let Some(trail) = &item.trail else { return };
    let ended = Ended {
        name: &item.file.name.to_string_lossy(),
        file_no: disposal.file_no,
        dataset,
        bytes: item.file.bytes,
        outcome,
        reason,
    };
    traces::file_ended(trail, ended);
}

/// The files that could not be moved for the first time: one line of the log has their number.
#[derive(Debug, Default)]
struct Stuck {
    files: u64,
    /// The first of them, and why it could not be moved.
    first: Option<(PathBuf, String)>,
}

impl Stuck {
    /// Lists a file as stuck in status.
    fn note(&mut self, shared: &Shared, disposal: &Disposal, error: &str) {
        let file = &disposal.item.file;
        let reason = WaitReason::move_failed(error);
        if shared.tally().note_stuck(file, reason) {
            self.files += 1;
            let first = || (file.path.clone(), error.to_owned());
            self.first.get_or_insert_with(first);
        }
    }

    fn log(self) {
        if let Some((first, error)) = self.first {
            let files = self.files;
            tracing::warn!(
                files,
                ?first,
                error,
                "cannot be moved; waits, and tries again until it works"
            );
        }
    }
}
