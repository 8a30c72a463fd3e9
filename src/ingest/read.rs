//! Reads files, identifies them by their content, and cuts them into chunks of records.
//!
//! Small files are read in groups, in parallel. A file that cannot be read now, for a cause outside
//! of the file, is read again by a separate task while other files go on.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use rayon::prelude::*;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::item::{BadFile, Identity, Item, ItemOrigin, ReadOutcome, ReadyFile};
use super::job::Job;
use super::limits::{self, CutShort};
use super::member::Members;
use super::reason::QuarantineReason;
use super::register::start;
use super::shared::{Ingest, Shared};
use super::tally::Tally;
use crate::content::{self, Container, ContentError, Opened};
use crate::cut::{self, Unreadable};
use crate::dataset::{Dataset, PathValues};
use crate::fault::{Fault, Origin};
use crate::inbox::{self, WaitReason};
use crate::parse;
use crate::retry::{GivenUp, until_ok};
use crate::telemetry::traces::{Step, Trail};
use crate::telemetry::{self, Stage};

/// Files read and registered in one group, with one round trip to the ledger. More gain little, and
/// would delay the first frame.
const GROUP_FILES: usize = 256;

/// Bytes of the files of a group. Three groups are in memory at a time: one is being read, one
/// waits, one is being parsed. Files that are mapped take no memory of the process.
const GROUP_BYTES: u64 = 8 * 1024 * 1024;

/// How often a file is read that the device fails to return, before it is quarantined. A loose
/// cable, or a path that moves to another controller, recovers in a moment, and must not quarantine
/// a healthy file. A bad sector stays: with the pauses of the retries, all attempts take one or two
/// seconds.
pub(super) const DEVICE_ATTEMPTS: u32 = 8;

/// Most files that are read again while other files go on. With more, new files wait: else all
/// files of inbound would be claimed and stay unread in work. A group is read as a whole, so up to
/// twice as many files may be read again.
const RETRIED_FILES_MAX: usize = 256;

/// Reads items until their channel closes; then cancels `all_read`.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut items: mpsc::Receiver<Vec<Item>>,
    jobs: mpsc::Sender<Vec<Job>>,
    all_read: CancellationToken,
) -> Result<(), GivenUp> {
    // Cancelled on each return, so that settle never waits for a task that has ended.
    let _all_read = all_read.drop_guard();
    let turn = Mutex::new(());
    let mut retried = FuturesUnordered::new();
    loop {
        let arrived = tokio::select! {
            biased;
            () = shared.drain.cancelled() => {
                note_cut_short(&shared, &mut items);
                return Ok(());
            }
            arrived = items.recv() => arrived,
            Some(outcome) = retried.next() => {
                let not_read = go_on(&shared, vec![outcome?], &jobs).await?;
                retried.extend(not_read.into_iter().map(|item| retry_in_turn(&shared, item, &turn)));
                continue;
            }
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        };
        let Some(arrived) = arrived else {
            break;
        };
        Tally::add(&shared.tally().files, arrived.len() as u64);
        let mut groups = groups(arrived);
        while let Some(group) = groups.pop_front() {
            let busy = telemetry::busy(Stage::Read);
            let (outcomes, not_read) = read_all(&shared, group, &mut groups).await;
            drop(busy);
            if shared.drain.is_cancelled() {
                // The files stay in their place, where the next run finds them.
                note_cut_short(&shared, &mut items);
                return Ok(());
            }
            let of_members = go_on(&shared, outcomes, &jobs).await?;
            // After the other files have gone on, since they may hold the disk space or descriptors
            // that are missing.
            retried.extend(
                not_read
                    .into_iter()
                    .chain(of_members)
                    .map(|item| retry_in_turn(&shared, item, &turn)),
            );
            while let Some(outcome) = next_retried(&mut retried).await {
                let not_read = go_on(&shared, vec![outcome?], &jobs).await?;
                retried.extend(
                    not_read
                        .into_iter()
                        .map(|item| retry_in_turn(&shared, item, &turn)),
                );
            }
        }
    }
    loop {
        tokio::select! {
            outcome = retried.next() => match outcome {
                Some(outcome) => {
                    let not_read = go_on(&shared, vec![outcome?], &jobs).await?;
                    let again = not_read.into_iter();
                    retried.extend(again.map(|item| retry_in_turn(&shared, item, &turn)));
                }
                None => return Ok(()),
            },
            () = shared.drain.cancelled() => return Ok(()),
        }
    }
}

/// Starts files that were read, and reads and starts the members of containers, group by group.
/// Returns the members that cannot be read now.
async fn go_on(
    shared: &Arc<Shared>,
    outcomes: Vec<ReadOutcome>,
    jobs: &mpsc::Sender<Vec<Job>>,
) -> Result<Vec<Item>, GivenUp> {
    let (mut containers, mut files) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            ReadOutcome::Members(members) => containers.push(members),
            file => files.push(file),
        }
    }
    // Boxed, since the future is large and is awaited in several places.
    Box::pin(start(shared, files, jobs)).await?;
    let mut not_read = Vec::new();
    for members in containers {
        // The container itself was counted.
        Tally::add(&shared.tally().files, members.len() as u64 - 1);
        let mut groups = groups(members);
        while let Some(group) = groups.pop_front() {
            let (outcomes, again) = read_all(shared, group, &mut groups).await;
            if shared.drain.is_cancelled() {
                shared.tally().cut_short.store(true, Relaxed);
                return Ok(Vec::new());
            }
            Box::pin(start(shared, outcomes, jobs)).await?;
            not_read.extend(again);
        }
    }
    Ok(not_read)
}

/// Records that files were not taken. If all have been taken, the channel is closed.
fn note_cut_short(shared: &Shared, items: &mut mpsc::Receiver<Vec<Item>>) {
    if !matches!(items.try_recv(), Err(TryRecvError::Disconnected)) {
        shared.tally().cut_short.store(true, Relaxed);
    }
}

fn groups(items: Vec<Item>) -> VecDeque<Vec<Item>> {
    let mut groups: VecDeque<Vec<Item>> = VecDeque::new();
    let mut bytes = 0;
    for item in items {
        bytes += item.file.bytes;
        match groups.back_mut() {
            Some(group) if group.len() < GROUP_FILES && bytes <= GROUP_BYTES => group.push(item),
            _ => {
                bytes = item.file.bytes;
                groups.push_back(vec![item]);
            }
        }
    }
    groups
}

/// What became of an item of a group.
enum Attempt {
    Read(ReadOutcome),
    /// The item cannot be read now.
    NotRead(Item),
    /// A container ended the group before the item was begun.
    NotBegun(Item),
}

/// Reads a group of files. Returns the outcomes, and the items that cannot be read now.
///
/// A container ends its group, and the items that were not begun become the next one of `groups`. A
/// group of small containers could else hold 256 lists of members, and the bytes of all of them, at
/// a time; so it holds one for each thread.
async fn read_all(
    shared: &Arc<Shared>,
    group: Vec<Item>,
    groups: &mut VecDeque<Vec<Item>>,
) -> (Vec<ReadOutcome>, Vec<Item>) {
    let shared = shared.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let has_ended = AtomicBool::new(false);
        let attempt = |item: Item| {
            if has_ended.load(Relaxed) {
                return Attempt::NotBegun(item);
            }
            match read(&shared, item.clone(), 1) {
                Ok(outcome) => {
                    has_ended.fetch_or(matches!(outcome, ReadOutcome::Members(_)), Relaxed);
                    Attempt::Read(outcome)
                }
                Err(_) => Attempt::NotRead(item),
            }
        };
        group.into_par_iter().map(attempt).collect::<Vec<_>>()
    });
    let (mut outcomes, mut not_read, mut not_begun) = (Vec::new(), Vec::new(), Vec::new());
    for attempt in reading.await.expect("reading does not panic") {
        match attempt {
            Attempt::Read(outcome) => outcomes.push(outcome),
            Attempt::NotRead(item) => not_read.push(item),
            Attempt::NotBegun(item) => not_begun.push(item),
        }
    }
    if !not_begun.is_empty() {
        groups.push_front(not_begun);
    }
    (outcomes, not_read)
}

/// Reads a file again until it succeeds. One file at a time: several large files would use up the
/// disk space that one of them needs, and the outcomes wait in memory until their files are
/// registered.
async fn retry_in_turn(
    shared: &Arc<Shared>,
    item: Item,
    turn: &Mutex<()>,
) -> Result<ReadOutcome, GivenUp> {
    // The first attempt was made with its group.
    let attempts = Cell::new(2);
    let again = async || {
        let _turn = turn.lock().await;
        let (shared, item, attempt) = (shared.clone(), item.clone(), attempts.get());
        let reading = tokio::task::spawn_blocking(move || read(&shared, item, attempt));
        reading.await.expect("reading does not panic")
    };
    let failed = |fault: &Fault| {
        // Only errors of the device count, and not a full disk.
        let io = fault.cause.downcast_ref::<std::io::Error>();
        attempts.set(attempts.get() + u32::from(io.is_some_and(is_device_error)));
        let reason = WaitReason::read_failed(fault);
        shared.tally().note_stuck(&item.file, reason);
    };
    let outcome = until_ok("reading files", &shared.stop, failed, again).await;
    shared.tally().note_unstuck(&item.file);
    outcome
}

/// The next retried file that has been read. `None` if there is none yet, and fewer than
/// [`RETRIED_FILES_MAX`] files are being retried; with more, waits for one.
async fn next_retried<F: Future>(retried: &mut FuturesUnordered<F>) -> Option<F::Output> {
    if retried.len() < RETRIED_FILES_MAX {
        retried.next().now_or_never().flatten()
    } else {
        retried.next().await
    }
}

/// Reads, identifies and cuts a file. `attempt` is the number of this attempt, from 1.
///
/// # Errors
/// A transient fault: nothing is known about the file yet.
fn read(shared: &Shared, item: Item, attempt: u32) -> Result<ReadOutcome, Fault> {
    let _file = tracing::debug_span!("file", name = ?item.file.name).entered();
    let ingest = &shared.ingest;
    let item = Item {
        trail: Trail::begin(item.found_at),
        ..item
    };
    let path = path_of(ingest, &item);
    let path_bytes = path.as_os_str().as_encoded_bytes();
    let of = (ingest.datasets).of_file(path_bytes, ingest.options.dataset.as_ref());
    let cut = |bytes: &[u8]| {
        let of = of.as_ref().ok()?;
        let plans = cut::cut_each(bytes, of, ingest.options.chunk);
        Some(plans.map(|plans| (of.unmet(&plans), plans)))
    };
    let options = &ingest.options.content;
    let opened = match &item.member {
        None => content::open_any(&item.file.path, options, cut),
        Some(member) => {
            let opened = member.container.open_and(member.index, options, cut);
            opened.map(|(content, plans)| Opened::File(content, plans))
        }
    };
    let dataset = of.map(|of| Arc::clone(of.own));
    let (content, plans) = match opened {
        Ok(Opened::File(content, plans)) => (content, plans),
        Ok(Opened::Container(container)) => return Ok(members(shared, item, &container)),
        Err(error) => return not_opened(item, dataset.ok(), error, attempt),
    };
    if item.member.is_none() {
        telemetry::read_bytes(content.stored_bytes);
    }
    let item = Item {
        as_read: Some(content.as_read()),
        ..item
    };
    let bad = |item, (dataset, identity), reason| {
        Ok(ReadOutcome::Bad(BadFile {
            item,
            dataset,
            identity: Some(identity),
            reason,
        }))
    };
    let hash = content.hash;
    let identity = |dataset: &Dataset| Identity::new(hash, dataset.path_values(path_bytes));
    let dataset = match dataset {
        Ok(dataset) => dataset,
        Err(no_dataset) => {
            let of_bytes = Identity::new(hash, PathValues::default());
            let reason = QuarantineReason::NoDataset(no_dataset);
            return bad(item, (None, of_bytes), reason);
        }
    };
    match plans.expect("with a dataset, the file was cut") {
        Ok((unmet, plans)) => {
            let mut identified = Vec::with_capacity(plans.len());
            let mut beyond = Vec::new();
            for (dataset, plan) in plans {
                let identity = identity(&dataset);
                let values = identity.taken.as_ref().map(|taken| &taken.values);
                if let Some(problem) =
                    values.and_then(|it| parse::path_problem(&dataset, &path, it))
                {
                    let reason = QuarantineReason::PathValue(problem);
                    return bad(item, (Some(dataset), identity), reason);
                }
                match limits::beyond(shared, &content, (&dataset, &identity), &plan) {
                    Ok(limit) => beyond.extend(limit.map(|reason| (identified.len(), reason))),
                    Err(CutShort::Unread(error)) => {
                        return not_opened(item, Some(dataset), error, attempt);
                    }
                    // The next run begins with the file again.
                    Err(CutShort::Stopped) => {
                        let doing = format!("checking {}", item.file.path.display());
                        return Err(Fault::transient(Origin::Files, doing, "the run ends"));
                    }
                }
                identified.push((dataset, identity, plan));
            }
            let mut item = item;
            if let Some(trail) = &mut item.trail {
                trail.end(Step::Read);
            }
            Ok(ReadOutcome::Ready(ReadyFile {
                item,
                content: Arc::new(content),
                plans: identified,
                unmet,
                beyond,
            }))
        }
        Err(Unreadable::Incomplete { .. }) if ingest.may_wait(&item) => {
            let reason = WaitReason::Incomplete;
            Ok(ReadOutcome::Later { item, reason })
        }
        Err(unreadable) => {
            let reason = QuarantineReason::Unreadable(unreadable);
            let identity = identity(&dataset);
            bad(item, (Some(dataset), identity), reason)
        }
    }
}

/// The members of a container, as items of their own.
fn members(shared: &Shared, item: Item, container: &Arc<Container>) -> ReadOutcome {
    let ingest = &shared.ingest;
    telemetry::read_bytes(item.file.bytes);
    let is_passed_over = |name: &OsStr| ingest.inbox.passes_over(name);
    match Members::of(container, &item.file, is_passed_over, &shared.counted) {
        Ok(Members {
            members,
            passed_over,
        }) => {
            Tally::add(&ingest.tally.passed_over, passed_over.len() as u64);
            for name in passed_over {
                tracing::info!(member = ?name, "is passed over: its name is hidden, temporary or a marker's");
            }
            ReadOutcome::Members(item.of_members(members))
        }
        Err(reason) => ReadOutcome::Bad(BadFile {
            item,
            dataset: None,
            identity: Some(Identity::new(
                container.as_read().hash(),
                PathValues::default(),
            )),
            reason: QuarantineReason::UnsupportedFormat(reason),
        }),
    }
}

/// The path of a file, by which it belongs to a dataset, and of which columns may take parts: that
/// of an archive is absolute, so that the parts do not depend on the current directory. A file of
/// inbound, which is in work now, has its path below inbound.
fn path_of(ingest: &Ingest, item: &Item) -> PathBuf {
    let path = &item.file.path;
    let named = if path.starts_with(&ingest.inbox.directories().work) {
        PathBuf::from(&item.file.name)
    } else {
        std::path::absolute(path).unwrap_or_else(|_| path.clone())
    };
    inbox::as_delivered(path, named)
}

/// The outcome of a file that could not be opened as a whole.
///
/// # Errors
/// As [`read`].
fn not_opened(
    item: Item,
    dataset: Option<Arc<Dataset>>,
    error: ContentError,
    attempt: u32,
) -> Result<ReadOutcome, Fault> {
    let (hash, reason) = match error {
        ContentError::Busy => {
            let reason = WaitReason::BeingWritten;
            return Ok(ReadOutcome::Later { item, reason });
        }
        ContentError::Io(error)
            if is_transient(&error) || (is_device_error(&error) && attempt < DEVICE_ATTEMPTS) =>
        {
            let doing = format!("reading {}", item.file.path.display());
            return Err(Fault::transient(Origin::Files, doing, error));
        }
        ContentError::Io(error) if error.kind() == ErrorKind::NotFound => {
            let reason = WaitReason::Gone;
            return Ok(ReadOutcome::Later { item, reason });
        }
        ContentError::Corrupt { hash, detail } => (Some(hash), QuarantineReason::Damaged(detail)),
        ContentError::NotPacked { hash, detail } => {
            (Some(hash), QuarantineReason::UnsupportedFormat(detail))
        }
        ContentError::NotRead { hash, format } => {
            let reason = QuarantineReason::UnsupportedFormat(format.to_string());
            (Some(hash), reason)
        }
        error => {
            let error = error.to_string();
            let file_no = None;
            (None, QuarantineReason::ReadFailed { error, file_no })
        }
    };
    Ok(ReadOutcome::Bad(BadFile {
        item,
        dataset,
        identity: hash.map(|hash| Identity::new(hash, PathValues::default())),
        reason,
    }))
}

/// Whether an error is transient and has no cause in the file: no room, no memory, no descriptors,
/// a file server that does not answer.
fn is_transient(error: &std::io::Error) -> bool {
    const NO_DESCRIPTORS: [i32; 2] = [libc::EMFILE, libc::ENFILE];
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::OutOfMemory
            | ErrorKind::Interrupted
            | ErrorKind::WouldBlock
            | ErrorKind::ResourceBusy
            | ErrorKind::TimedOut
            | ErrorKind::StaleNetworkFileHandle
    ) || error
        .raw_os_error()
        .is_some_and(|code| NO_DESCRIPTORS.contains(&code))
}

/// Whether the device failed to read, for a while or for ever.
pub(super) fn is_device_error(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

impl Ingest {
    /// Whether an incomplete file may wait until the rest arrives.
    fn may_wait(&self, item: &Item) -> bool {
        self.options.incomplete_may_wait
            && item.origin != ItemOrigin::Archive
            && item.member.is_none()
            && self.inbox.may_grow(&item.file)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retried_files_are_waited_for_only_if_there_are_too_many() {
        let read_after = |seconds| async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            seconds
        };
        let mut retried = FuturesUnordered::new();
        assert_eq!(next_retried(&mut retried).await, None);
        for second in 1..RETRIED_FILES_MAX as u64 {
            retried.push(read_after(second));
        }
        assert_eq!(next_retried(&mut retried).await, None);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(next_retried(&mut retried).await, Some(1));
        assert_eq!(next_retried(&mut retried).await, Some(2));
        assert_eq!(next_retried(&mut retried).await, None);
        retried.extend([300, 300, 300].map(read_after));
        assert_eq!(next_retried(&mut retried).await, Some(3));
        assert_eq!(next_retried(&mut retried).await, None);
    }
}
