//! Asks the ledger which files are stored as a whole, and lets them go; publishes again what is in
//! no queue and not in the ledger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::produce::{Job, missing_chunks};
use super::{Ending, Flight, LOOK_INTERVAL, Shared, Tally};
use crate::content;
use crate::coverage;
use crate::retry::{GivenUp, until_ok};
use crate::telemetry;

/// Files asked about in one statement.
const ASK_FILES: usize = 500;

/// Shortest time between two looks. Commits come every few milliseconds in a load of small files; so
/// some of them are settled together. Short against the 250 ms that a file may take to history.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// A file that has not moved for this long, while the queue is empty, has lost frames.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A file that has not moved for this long has lost frames, whatever the queue holds: longer than a
/// full queue takes to drain. If it was too short, the frames are there twice, which is harmless.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Settles until `prepared` is cancelled and no flight is left.
pub(super) async fn run(
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Vec<Job>>,
    prepared: CancellationToken,
) -> Result<(), GivenUp> {
    loop {
        if prepared.is_cancelled() && shared.flights().is_empty() {
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
        look(&shared, &jobs).await?;
        tokio::time::sleep(LOOK_PAUSE.max(began.elapsed())).await;
    }
}

async fn look(shared: &Arc<Shared>, jobs: &mpsc::Sender<Vec<Job>>) -> Result<(), GivenUp> {
    let due = due(shared);
    let mut still = Vec::new();
    for asked in due.chunks(ASK_FILES) {
        let coverage = || shared.sink().coverage(asked);
        let covered = until_ok("reading the ledger", &shared.stop, |_| {}, coverage).await?;
        let whole = note_covered(shared, asked, &covered, &mut still);
        settle(shared, &whole).await?;
    }
    publish_lost(shared, jobs, &still).await
}

/// Files worth a look: all published, and either committed as far as this process knows, or not
/// asked about for a while.
fn due(shared: &Shared) -> Vec<u32> {
    let is_due = |flight: &Flight| {
        flight.unpublished == 0
            && (flight.committed >= flight.missing
                || flight
                    .asked
                    .is_none_or(|asked| asked.elapsed() >= LOOK_INTERVAL))
    };
    let flights = shared.flights();
    let mut due: Vec<u32> = flights
        .iter()
        .filter(|(_, flight)| is_due(flight))
        .map(|(file_no, _)| *file_no)
        .collect();
    due.sort_unstable();
    due
}

/// Notes what the ledger said; returns the files that are whole, and adds the others that have not
/// moved for long to `still`.
fn note_covered(
    shared: &Shared,
    asked: &[u32],
    covered: &[Vec<std::ops::Range<u64>>],
    still: &mut Vec<u32>,
) -> Vec<u32> {
    let mut flights = shared.flights();
    let mut whole = Vec::new();
    for (file_no, covered) in asked.iter().zip(covered) {
        let Some(flight) = flights.get_mut(file_no) else {
            continue;
        };
        if coverage::is_whole(covered, u64::from(flight.plan.records)) {
            whole.push(*file_no);
            continue;
        }
        let now = coverage::len(covered);
        if now != flight.covered {
            flight.covered = now;
            flight.moved = Instant::now();
        }
        // The hint was wrong, or is not there: look again after the interval.
        flight.committed = flight.committed.min(flight.missing.saturating_sub(1));
        flight.asked = Some(Instant::now());
        if flight.moved.elapsed() >= LOST_AFTER {
            still.push(*file_no);
        }
    }
    whole
}

/// Settles files and moves them to history.
async fn settle(shared: &Arc<Shared>, whole: &[u32]) -> Result<(), GivenUp> {
    if whole.is_empty() {
        return Ok(());
    }
    let settle = || shared.sink().settle(whole);
    let settled = until_ok("settling files", &shared.stop, |_| {}, settle).await?;
    let mut endings = Vec::new();
    {
        let mut flights = shared.flights();
        for settled in settled {
            let Some(flight) = flights.remove(&settled.file_no) else {
                continue;
            };
            count(shared, &flight, u64::from(settled.rejects));
            for (copy, item) in flight.items.into_iter().enumerate() {
                let ending = if copy == 0 {
                    Ending::Settled
                } else {
                    Ending::Duplicate
                };
                endings.push((item, flight.dataset.clone(), ending));
            }
        }
    }
    shared.finish(endings).await
}

fn count(shared: &Shared, flight: &Flight, rejects: u64) {
    let tally = shared.tally();
    let records = u64::from(flight.plan.records);
    Tally::add(&tally.records, records);
    Tally::add(&tally.rejects, rejects);
    Tally::add(&tally.rows, records - rejects);
    let bytes = flight.items[0].file.bytes;
    Tally::add(&tally.bytes, bytes);
    let copies = bytes * (flight.items.len() as u64 - 1);
    Tally::add(
        &tally.bytes_done,
        bytes.saturating_sub(flight.bytes_done) + copies,
    );
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
    let Ok(depth) = shared.ingest.broker.depth().await else {
        return Ok(());
    };
    let is_lost = |flight: &Flight| depth.frames == 0 || flight.moved.elapsed() >= STUCK_AFTER;
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
        let Some(job) = reopen(shared, file_no, &covered).await else {
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

/// Reads a file again for the chunks that are missing.
async fn reopen(
    shared: &Arc<Shared>,
    file_no: u32,
    covered: &[std::ops::Range<u64>],
) -> Option<Job> {
    let (path, plan, dataset, hash) = {
        let flights = shared.flights();
        let flight = flights.get(&file_no)?;
        let path = flight.items[0].file.path.clone();
        (
            path,
            flight.plan.clone(),
            flight.dataset.clone(),
            flight.hash,
        )
    };
    let chunks = missing_chunks(&plan, covered);
    let options = shared.ingest.options.content.clone();
    let opened = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || content::open(&path, &options))
    };
    let content = match opened.await.expect("reading does not panic") {
        Ok(content) if content.hash == hash => content,
        Ok(_) => {
            // Only a file of an archive can: what is in work is ours alone. It is another file now,
            // and this run has no place for it; the next one takes it.
            tracing::error!(?path, "was changed while it was loaded; load it again");
            shared.flights().remove(&file_no);
            Tally::add(&shared.tally().left, 1);
            return None;
        }
        Err(error) => {
            tracing::error!(?path, %error, "cannot be read again; tries later");
            return None;
        }
    };
    let mut flights = shared.flights();
    let flight = flights.get_mut(&file_no)?;
    flight.unpublished = chunks.len();
    flight.moved = Instant::now();
    Some(Job {
        file_no,
        dataset,
        layout: plan.layout,
        content: Arc::new(content),
        chunks,
    })
}
