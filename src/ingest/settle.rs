//! Asks the ledger which files are stored as a whole, and lets them go; publishes again what is in
//! no queue and not in the ledger.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flight::Flight;
use super::prepare::{Bad, DEVICE_ATTEMPTS, is_of_device, other_ledger, quarantine};
use super::produce::{Job, missing_chunks};
use super::{Ended, Ending, Item, ItemOrigin, Shared, Tally};
use crate::batch::ContentHash;
use crate::content::{self, ContentError};
use crate::dataset::Dataset;
use crate::retry::{GivenUp, until_ok};
use crate::telemetry::{self, Stage};

/// Files asked about in one statement.
const ASK_FILES: usize = 500;

/// How long the loop waits at most between looks at the ledger. Workers in this process wake it;
/// this is for workers elsewhere.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest pause between two looks. A pause is as long as the look before it took, and ends early
/// where nothing more will come. In a load of small files commits come every few milliseconds, so
/// this lets some of them be settled together; it is short against the 250 ms that a file may take
/// to history.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A file that has not moved for this long, while the queue is empty, has lost frames.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A file that has been still for this much longer than the oldest frame is in the queue has lost
/// frames: its own would have been read before that one. As long as nobody reads, nothing is lost.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// A file that has not moved for this long has lost frames, whatever the queue holds. Should they
/// still be there, they are there twice, which is harmless.
const LOST_IN_ANY_CASE_AFTER: Duration = Duration::from_secs(60 * 60);

/// Why a file is set aside whose content is not what was registered.
pub(super) const CHANGED: &str = "it changed while it was read";

/// Settles until `prepared` is cancelled, no flight is left, and each file is where it belongs; then
/// cancels `settled`.
pub(super) async fn run(
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Vec<Job>>,
    prepared: CancellationToken,
    settled: CancellationToken,
) -> Result<(), GivenUp> {
    let _settled = settled.drop_guard();
    loop {
        if prepared.is_cancelled() && shared.flights().is_empty() && shared.endings.is_done() {
            return Ok(());
        }
        tokio::select! {
            () = shared.ingest.progress.changed() => {}
            () = shared.look.notified() => {}
            () = prepared.cancelled(), if !prepared.is_cancelled() => {}
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        }
        let began = Instant::now();
        shared.note_committed(shared.ingest.progress.take());
        let busy = telemetry::busy(Stage::Settle);
        look(&shared, &jobs).await?;
        drop(busy);
        tokio::select! {
            () = tokio::time::sleep(began.elapsed().clamp(LOOK_PAUSE, LOOK_INTERVAL)) => {}
            () = all_committed(&shared, &prepared) => {}
        }
    }
}

/// Waits until the last records of the last files are committed: there is nothing left to wait for.
async fn all_committed(shared: &Shared, prepared: &CancellationToken) {
    prepared.cancelled().await;
    while !shared.flights().values().all(Flight::is_committed) {
        let progress = &shared.ingest.progress;
        progress.changed().await;
        shared.note_committed(progress.take());
        // `take` has used up this notice, so ask for the next look explicitly.
        shared.look.notify_one();
    }
}

async fn look(shared: &Arc<Shared>, jobs: &mpsc::Sender<Vec<Job>>) -> Result<(), GivenUp> {
    let due = due(shared);
    let mut still = Vec::new();
    for asked in due.chunks(ASK_FILES) {
        let open = settle(shared, asked).await?;
        if open.is_empty() {
            continue;
        }
        let coverage = || shared.sink().coverage(&open);
        let covered = until_ok("reading the ledger", &shared.stop, |_| {}, coverage).await?;
        note_covered(shared, &open, &covered, &mut still);
    }
    publish_lost(shared, jobs, &still).await
}

/// Files about which to ask the ledger.
fn due(shared: &Shared) -> Vec<u32> {
    let flights = shared.flights();
    let mut due: Vec<u32> = flights
        .iter()
        .filter(|(_, flight)| flight.is_due(LOOK_INTERVAL))
        .map(|(file_no, _)| *file_no)
        .collect();
    due.sort_unstable();
    due
}

/// Notes what the ledger said of files that are not settled, and adds those that have not moved for
/// long to `still`.
fn note_covered(shared: &Shared, asked: &[u32], covered: &[Vec<Range<u64>>], still: &mut Vec<u32>) {
    let mut flights = shared.flights();
    for (file_no, covered) in asked.iter().zip(covered) {
        let Some(flight) = flights.get_mut(file_no) else {
            continue;
        };
        flight.note_covered(covered);
        if flight.still() >= LOST_AFTER {
            still.push(*file_no);
        }
    }
}

/// Settles the files that the ledger covers and moves them to history; returns the others.
async fn settle(shared: &Arc<Shared>, asked: &[u32]) -> Result<Vec<u32>, GivenUp> {
    let settle = || shared.sink().settle(asked);
    let settled = until_ok("settling files", &shared.stop, |_| {}, settle).await?;
    let done: HashSet<u32> = settled.iter().map(|file| file.file_no).collect();
    let mut endings = Vec::new();
    {
        let mut flights = shared.flights();
        for settled in settled {
            let Some(flight) = flights.remove(&settled.file_no) else {
                continue;
            };
            if flight.hash != settled.hash {
                return Err(GivenUp::Fatal(other_ledger(settled.file_no)));
            }
            count(shared, &flight, u64::from(settled.rejects));
            let dataset = flight.dataset;
            let ended = |item, ending| Ended {
                item,
                file_no: Some(settled.file_no),
                dataset: Some(dataset.clone()),
                ending,
            };
            endings.push(ended(flight.first, Ending::Settled));
            let copies = flight.copies.into_iter();
            endings.extend(copies.map(|copy| ended(copy, Ending::Duplicate)));
        }
    }
    shared.finish(endings).await?;
    let is_open = |file_no: &u32| !done.contains(file_no);
    Ok(asked.iter().copied().filter(is_open).collect())
}

fn count(shared: &Shared, flight: &Flight, rejects: u64) {
    let tally = shared.tally();
    let records = u64::from(flight.plan.records);
    Tally::add(&tally.records, records);
    Tally::add(&tally.rejects, rejects);
    Tally::add(&tally.rows, records.saturating_sub(rejects));
    Tally::add(&tally.bytes, flight.first.file.bytes);
    Tally::add(&tally.bytes_done, flight.bytes_left());
}

/// Publishes again what neither the queue nor the ledger has: the queue was emptied, or lost frames.
async fn publish_lost(
    shared: &Arc<Shared>,
    jobs: &mpsc::Sender<Vec<Job>>,
    still: &[u32],
) -> Result<(), GivenUp> {
    if still.is_empty() {
        return Ok(());
    }
    // A fault of the broker says nothing about the frames: look again after the interval.
    let broker = &shared.ingest.broker;
    let (Ok(depth), Ok(oldest)) = (broker.depth().await, broker.oldest().await) else {
        return Ok(());
    };
    let oldest = oldest.into_iter().map(|(_, age)| age).max();
    let oldest = oldest.unwrap_or_default();
    let is_lost = |flight: &Flight| is_lost(flight.still(), depth.frames, oldest);
    let lost: Vec<u32> = {
        let flights = shared.flights();
        still
            .iter()
            .copied()
            .filter(|no| flights.get(no).is_some_and(is_lost))
            .collect()
    };
    // Asked again after the depth: frames leave the queue only after they are in the ledger.
    let covered = || shared.sink().coverage(&lost);
    let covered = until_ok("reading the ledger", &shared.stop, |_| {}, covered).await?;
    let covered: HashMap<u32, _> = lost.into_iter().zip(covered).collect();
    for (file_no, covered) in covered {
        let Some(job) = reopen(shared, file_no, &covered).await? else {
            continue;
        };
        tracing::warn!(
            file_no,
            frames = job.chunks.len(),
            "frames are in neither queue nor ledger; they are published again"
        );
        telemetry::frames_lost(&job.dataset.name, job.chunks.len() as u64);
        if jobs.send(vec![job]).await.is_err() {
            return Err(GivenUp::Stopped);
        }
    }
    Ok(())
}

/// Whether frames of a file that has been still for so long are in no queue: of so many frames
/// there, the oldest is so old.
fn is_lost(still: Duration, queued: u64, oldest: Duration) -> bool {
    queued == 0 || still >= oldest + STUCK_AFTER || still >= LOST_IN_ANY_CASE_AFTER
}

/// Reads a file again for the chunks that are missing. `None` where that cannot be, now or ever.
async fn reopen(
    shared: &Arc<Shared>,
    file_no: u32,
    covered: &[Range<u64>],
) -> Result<Option<Job>, GivenUp> {
    let (path, plan, dataset, hash) = {
        let flights = shared.flights();
        let Some(flight) = flights.get(&file_no) else {
            return Ok(None);
        };
        let path = flight.first.file.path.clone();
        let (plan, dataset) = (flight.plan.clone(), flight.dataset.clone());
        (path, plan, dataset, flight.hash)
    };
    let chunks = missing_chunks(&plan, covered);
    let options = shared.ingest.options.content.clone();
    let opened = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || content::open(&path, &options))
    };
    let content = match opened.await.expect("reading does not panic") {
        Ok(content) if content.hash == hash => content,
        Ok(_) | Err(ContentError::Corrupt { .. } | ContentError::NotRegular) => {
            end_bad(shared, file_no, CHANGED).await?;
            return Ok(None);
        }
        Err(ContentError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            end_gone(shared, file_no);
            return Ok(None);
        }
        Err(error) => {
            tracing::error!(?path, %error, "cannot be read again; tries later");
            note_unreadable(shared, file_no, &error).await?;
            return Ok(None);
        }
    };
    let mut flights = shared.flights();
    let Some(flight) = flights.get_mut(&file_no) else {
        return Ok(None);
    };
    flight.publish_again(chunks.len());
    Ok(Some(Job {
        file_no,
        dataset,
        layout: plan.layout,
        content: Arc::new(content),
        chunks,
    }))
}

/// A file cannot be read just now. If the device fails to give it again and again, it is set aside.
pub(super) async fn note_unreadable(
    shared: &Arc<Shared>,
    file_no: u32,
    error: &ContentError,
) -> Result<(), GivenUp> {
    let is_of_device = matches!(error, ContentError::Io(io) if is_of_device(io));
    let attempts = match shared.flights().get_mut(&file_no) {
        Some(flight) => flight.note_unreadable(is_of_device),
        None => return Ok(()),
    };
    if is_of_device && attempts >= DEVICE_ATTEMPTS {
        end_bad(shared, file_no, &format!("it cannot be read: {error}")).await?;
    }
    Ok(())
}

/// Takes a file out of its flight that is no longer what was registered, or cannot be read any more.
///
/// Frames of it that were published before were made of good bytes: their rows are stored under its
/// number, with their ledger entries, and they stay. So to the ledger the file is in quarantine,
/// and covered in part; and what lies in quarantine has another content. If the old content comes
/// again, the same number is completed; the new content, if it is brought again, is a file of its
/// own. The file of an archive is not ours to move: it stays where it lies, and is pending in the
/// ledger.
///
/// If copies of the content have arrived meanwhile, the flight goes on with the next of them.
pub(super) async fn end_bad(shared: &Arc<Shared>, file_no: u32, why: &str) -> Result<(), GivenUp> {
    let _under_way = shared.endings.under_way();
    let Some((item, left)) = take_first(shared, file_no) else {
        return Ok(());
    };
    if item.origin == ItemOrigin::Archive {
        tracing::error!(file = ?item.file.path, why, "is not loaded as a whole; load it again");
        Tally::add(&shared.tally().left, 1);
        return Ok(());
    }
    let reason = format!("{why}; records that were read before may be stored as file {file_no}");
    let file = Bad {
        item,
        dataset: Some(left.dataset),
        // If there are copies, the file of the ledger lives on in them, and only this one is set
        // aside.
        hash: left.is_over.then_some(left.hash),
        reason,
    };
    quarantine(shared, file).await
}

/// Takes a file out of its flight that somebody has removed. If it was the last of its content,
/// what is not published is lost with it, and it stays pending in the ledger until the content
/// comes again.
fn end_gone(shared: &Shared, file_no: u32) {
    if let Some((item, _)) = take_first(shared, file_no) {
        tracing::error!(file = ?item.file.path, "was removed while it was loaded; bring it again");
        Tally::add(&shared.tally().left, 1);
    }
}

/// What is left of a flight that has lost its first file.
struct Remainder {
    dataset: Arc<Dataset>,
    hash: ContentHash,
    /// Whether no copy is left to go on with.
    is_over: bool,
}

/// Takes the first file out of its flight, and ends the flight if there is no copy to go on with.
fn take_first(shared: &Shared, file_no: u32) -> Option<(Item, Remainder)> {
    let mut flights = shared.flights();
    let flight = flights.get_mut(&file_no)?;
    let (dataset, hash) = (flight.dataset.clone(), flight.hash);
    let (item, is_over) = match flight.lose_first() {
        Some(item) => (item, false),
        None => (flights.remove(&file_no)?.first, true),
    };
    let left = Remainder {
        dataset,
        hash,
        is_over,
    };
    Some((item, left))
}

impl Shared {
    /// Takes note of what workers of this process have committed.
    fn note_committed(&self, committed: HashMap<u32, u64>) {
        let mut flights = self.flights();
        for (file_no, records) in committed {
            if let Some(flight) = flights.get_mut(&file_no) {
                let bytes = flight.note_committed(records);
                Tally::add(&self.tally().bytes_done, bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_lost_if_younger_ones_are_read_and_not_while_nobody_reads() {
        let seconds = Duration::from_secs;
        assert!(is_lost(seconds(2), 0, seconds(0)), "the queue is empty");
        assert!(
            !is_lost(seconds(30), 9, seconds(1)),
            "it may be its turn soon"
        );
        assert!(is_lost(seconds(70), 9, seconds(1)), "others came after it");
        // Nobody reads: what waits longest has waited as long as the file.
        for still in [70, 600, 3_000] {
            assert!(!is_lost(seconds(still), 9, seconds(still)), "{still}");
        }
        assert!(is_lost(seconds(3_600), 9, seconds(3_600)), "in any case");
    }
}
