//! Asks the ledger which files are stored as a whole, settles them, and hands them to dispose.
//! Files without progress go to republish.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::disposal::Disposal;
use super::dispose::dispose;
use super::flight::Flight;
use super::job::Job;
use super::outcome::Outcome;
use super::republish::{LOST_AFTER, republish_lost};
use super::shared::Shared;
use super::tally::Tally;
use crate::retry::{GivenUp, until_ok};
use crate::telemetry::traces::Step;
use crate::telemetry::{self, Stage};

/// Files asked about in one statement.
const ASK_FILES: usize = 500;

/// Longest pause between two rounds. Workers of this process wake settle earlier; this is for the
/// commits of other processes.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest pause between two rounds. A pause is as long as the last round, and ends early if no
/// further commit will come. In a load of small files, commits come every few milliseconds, so that
/// several files are settled together. A much longer pause would delay files on their way to
/// history, which should take 250 ms at most.
const ROUND_PAUSE: Duration = Duration::from_millis(10);

/// Settles until `all_read` is cancelled, no flight is left, and every file has been moved; then
/// cancels `settled`.
pub(super) async fn run(
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Vec<Job>>,
    all_read: CancellationToken,
    settled: CancellationToken,
) -> Result<(), GivenUp> {
    let _settled = settled.drop_guard();
    loop {
        if all_read.is_cancelled() && no_flight_goes_on(&shared) && shared.disposals.is_done() {
            return Ok(());
        }
        tokio::select! {
            () = shared.ingest.progress.changed() => {}
            () = shared.settle_soon.notified() => {}
            () = all_read.cancelled(), if !all_read.is_cancelled() => {}
            () = tokio::time::sleep(ROUND_INTERVAL) => {}
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        }
        let began = Instant::now();
        note_committed(&shared, shared.ingest.progress.take());
        let busy = telemetry::busy(Stage::Settle);
        settle_due(&shared, &jobs).await?;
        drop(busy);
        tokio::select! {
            () = tokio::time::sleep(began.elapsed().clamp(ROUND_PAUSE, ROUND_INTERVAL)) => {}
            () = all_committed(&shared, &all_read) => {}
        }
    }
}

/// Whether no flight is left, except flights with chunks that the shutdown keeps from being
/// published.
fn no_flight_goes_on(shared: &Shared) -> bool {
    let flights = shared.flights();
    let is_cut = |flight: &Flight| shared.all_published.is_cancelled() && flight.has_unpublished();
    flights.values().all(is_cut)
}

/// Waits until all files are read and all their records are committed: no further commit will come.
async fn all_committed(shared: &Shared, all_read: &CancellationToken) {
    all_read.cancelled().await;
    while !shared.flights().values().all(Flight::is_committed) {
        let progress = &shared.ingest.progress;
        progress.changed().await;
        note_committed(shared, progress.take());
        // `take` has used up this notice, so ask for the next round explicitly.
        shared.settle_soon.notify_one();
    }
}

/// Records how many records of each file the workers of this process have committed.
fn note_committed(shared: &Shared, committed: HashMap<u32, u64>) {
    let mut flights = shared.flights();
    for (file_no, records) in committed {
        if let Some(flight) = flights.get_mut(&file_no) {
            let bytes = flight.note_committed(records);
            Tally::add(&shared.tally().bytes_done, bytes);
        }
    }
}

/// One round: asks the ledger about the files that are due, settles the files that it covers, and
/// publishes lost frames of the other files again.
async fn settle_due(shared: &Arc<Shared>, jobs: &mpsc::Sender<Vec<Job>>) -> Result<(), GivenUp> {
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
    republish_lost(shared, jobs, &still).await
}

/// Files about which to ask the ledger.
fn due(shared: &Shared) -> Vec<u32> {
    let flights = shared.flights();
    let mut due: Vec<u32> = flights
        .iter()
        .filter(|(_, flight)| flight.is_due(ROUND_INTERVAL))
        .map(|(file_no, _)| *file_no)
        .collect();
    due.sort_unstable();
    due
}

/// Records the ledger's coverage of files that are not settled. Adds files without progress for
/// [`LOST_AFTER`] to `still`.
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

/// Settles the files that the ledger covers as a whole, and hands them to dispose. Returns the
/// other files.
async fn settle(shared: &Arc<Shared>, asked: &[u32]) -> Result<Vec<u32>, GivenUp> {
    let began = Instant::now();
    let settle = async || {
        shared.check_epoch().await?;
        shared.sink().settle(asked).await
    };
    let settled = until_ok("settling files", &shared.stop, |_| {}, settle).await?;
    let done: HashSet<u32> = settled.iter().map(|file| file.file_no).collect();
    let mut disposals = Vec::new();
    {
        let mut flights = shared.flights();
        for settled in settled {
            let Some(mut flight) = flights.remove(&settled.file_no) else {
                continue;
            };
            flight.check_identity(settled.file_no, settled.hash)?;
            count(shared, &flight, u64::from(settled.rejects));
            if let Some(trail) = &mut flight.first.trail {
                trail.rejects = Some(settled.rejects);
                trail.end_at(Step::Commit, began);
                trail.end(Step::Settle);
            }
            let dataset = flight.dataset;
            let disposal = |item, outcome| Disposal {
                item,
                file_no: Some(settled.file_no),
                dataset: Some(dataset.clone()),
                outcome,
            };
            disposals.push(disposal(flight.first, Outcome::Settled));
            let copies = flight.copies.into_iter();
            disposals.extend(copies.map(|copy| disposal(copy, Outcome::of_copy(settled.records))));
        }
    }
    dispose(shared, disposals).await?;
    let is_open = |file_no: &u32| !done.contains(file_no);
    Ok(asked.iter().copied().filter(is_open).collect())
}

fn count(shared: &Shared, flight: &Flight, rejects: u64) {
    let tally = shared.tally();
    let records = u64::from(flight.plan.records);
    Tally::add(&tally.records, records);
    Tally::add(&tally.rejects, rejects);
    Tally::add(&tally.rows, records.saturating_sub(rejects));
    Tally::add(&tally.bytes, flight.first.bytes());
}
