//! Parses chunks into frames, in parallel, and hands them to the broker.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::settle::{CHANGED, end_bad, note_unreadable};
use super::{Shared, Tally};
use crate::batch::{Batch, RejectCode, SourceFile};
use crate::content::{Content, ContentError};
use crate::coverage;
use crate::cut::{Chunk, Layout, Plan};
use crate::dataset::Dataset;
use crate::frame::{Codec, Encoder, Frame};
use crate::parse::{self, Parser};
use crate::retry::{GivenUp, until_ok};
use crate::telemetry::{self, Stage};
use crate::worker::COMMIT_RECORDS;

/// Most frames handed to the broker in one pipeline. More would delay the first of them; a dozen
/// already pay for a round trip.
const PIPELINE_FRAMES: usize = 32;

/// A thread's copy of a chunk keeps this much memory between chunks, which have at most a megabyte
/// by default.
const COPY_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Chunks of a file that have to be parsed and published.
pub(super) struct Job {
    pub(super) file_no: u32,
    pub(super) dataset: Arc<Dataset>,
    pub(super) layout: Layout,
    pub(super) content: Arc<Content>,
    pub(super) chunks: Vec<Chunk>,
}

impl Job {
    fn file(&self) -> SourceFile {
        SourceFile {
            file_no: self.file_no,
            hash: self.content.hash,
        }
    }
}

/// A frame on its way to the broker, with its share of the byte budget.
pub(super) struct Produced {
    frame: Frame,
    budget: OwnedSemaphorePermit,
}

/// The chunks of a plan that hold a record which the ledger lacks.
pub(super) fn missing_chunks(plan: &Plan, covered: &[Range<u64>]) -> Vec<Chunk> {
    let ordinals = |chunk: &Chunk| {
        let first = u64::from(chunk.first_ordinal);
        first..first + u64::from(chunk.records)
    };
    let missing = plan
        .chunks
        .iter()
        .filter(|chunk| !coverage::holds(covered, &ordinals(chunk)));
    missing.copied().collect()
}

/// The chunks of a file in the order in which they are parsed: a transaction's worth from each of
/// `strands` distant places in turn. So the workers insert into distant parts of a table's key,
/// where the connections of a server wait less for each other than they do side by side.
fn in_strands(chunks: &[Chunk], strands: usize) -> impl Iterator<Item = Chunk> {
    let strand = chunks.len().div_ceil(strands).max(1);
    let mut rests: Vec<&[Chunk]> = chunks.chunks(strand).collect();
    let mut order = Vec::with_capacity(chunks.len());
    while order.len() < chunks.len() {
        for rest in &mut rests {
            let mut records = 0;
            let more = rest.iter().take_while(|chunk| {
                records += u64::from(chunk.records);
                records <= u64::from(COMMIT_RECORDS)
            });
            let (now, later) = rest.split_at(more.count().max(1).min(rest.len()));
            order.extend_from_slice(now);
            *rest = later;
        }
    }
    order.into_iter()
}

/// Parses jobs until their channel closes. The flight of a file that changes meanwhile ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Vec<Job>>,
    frames: mpsc::Sender<Produced>,
) -> Result<(), GivenUp> {
    loop {
        let job = tokio::select! {
            job = jobs.recv() => job,
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        };
        let Some(jobs) = job else { return Ok(()) };
        let of_flights = shared.clone();
        let (shared, frames) = (shared.clone(), frames.clone());
        let runtime = Handle::current();
        let parsing = tokio::task::spawn_blocking(move || {
            // Each strand is in the order of the file, so that its pages are read ahead and then
            // left behind; whichever thread is free takes the next chunk.
            let strands = shared.ingest.sink.writers();
            let chunks = jobs
                .iter()
                .flat_map(|job| in_strands(&job.chunks, strands).map(move |chunk| (job, chunk)));
            let codec = shared.ingest.broker.codec();
            let harmed = Mutex::new(BTreeMap::new());
            let done = chunks.par_bridge().try_for_each(|(job, chunk)| {
                let busy = telemetry::busy(Stage::Parse);
                let budget = reserve(&shared, chunk, &runtime)?;
                let frame = produce(&shared, job, chunk, codec);
                drop(busy);
                let Some(frame) = frame else {
                    let harm = job.content.harm().unwrap_or(ContentError::Busy);
                    harmed.lock().insert(job.file_no, harm);
                    return Ok(());
                };
                frames
                    .blocking_send(Produced { frame, budget })
                    .map_err(|_| GivenUp::Stopped)
            });
            done.map(|()| harmed.into_inner())
        });
        for (file_no, harm) in parsing.await.expect("parsing does not panic")? {
            match harm {
                // It is opened again, and what is missing of it is parsed then.
                ContentError::Io(_) => note_unreadable(&of_flights, file_no, &harm).await?,
                _ => end_bad(&of_flights, file_no, CHANGED).await?,
            }
        }
    }
}

/// Waits for a share of the byte budget: the bytes of the chunk.
fn reserve(
    shared: &Shared,
    chunk: Chunk,
    runtime: &Handle,
) -> Result<OwnedSemaphorePermit, GivenUp> {
    let kib = u32::try_from((chunk.end - chunk.start) / 1024 + 1).unwrap_or(u32::MAX);
    // A record larger than the whole budget passes alone.
    let kib = kib.min(shared.budget_kib);
    if let Ok(permit) = shared.budget.clone().try_acquire_many_owned(kib) {
        shared.tell_memory();
        return Ok(permit);
    }
    let _held_up = telemetry::backpressure(Stage::Parse);
    runtime.block_on(async {
        tokio::select! {
            permit = shared.budget.clone().acquire_many_owned(kib) => {
                shared.tell_memory();
                Ok(permit.expect("it is never closed"))
            }
            () = shared.stop.cancelled() => Err(GivenUp::Stopped),
        }
    })
}

/// Makes the frame of a chunk; `None` if the file is not what it was. No frame is made of bytes
/// that were read after a change, even of a chunk that did not change: the plan is that of another
/// file.
fn produce(shared: &Shared, job: &Job, chunk: Chunk, codec: Codec) -> Option<Frame> {
    thread_local! {
        static PARSER: RefCell<(Parser, Vec<u8>)> = RefCell::default();
        static ENCODER: RefCell<Encoder> = RefCell::default();
    }
    let _frame = tracing::debug_span!(
        "frame",
        file_no = job.file_no,
        first = chunk.first_ordinal,
        records = chunk.records
    )
    .entered();
    let offset = |at: u64| usize::try_from(at).expect("a chunk lies in memory");
    let range = offset(chunk.start)..offset(chunk.end);
    let batch = PARSER.with_borrow_mut(|(parser, copy)| {
        let bytes = if parse::is_one_too_large(chunk.records, chunk.end - chunk.start) {
            &job.content[range]
        } else {
            job.content.stable(range, copy)?
        };
        let batch = parser.parse(&job.dataset, job.file(), job.layout, chunk, bytes);
        // One huge record must not hold its memory for as long as the thread lives.
        copy.shrink_to(COPY_KEPT_BYTES);
        Some(batch)
    })?;
    if !job.content.is_intact() {
        return None;
    }
    Tally::add(&shared.tally().rejected, batch.rejects.len() as u64);
    count(&batch);
    Some(ENCODER.with_borrow_mut(|encoder| encoder.encode(&batch, codec)))
}

fn count(batch: &Batch) {
    let dataset = &batch.dataset.name;
    telemetry::records(
        dataset,
        batch.rows.num_rows() as u64,
        batch.rejects.len() as u64,
    );
    if batch.rejects.is_empty() {
        return;
    }
    for code in RejectCode::ALL {
        let rejects = batch
            .rejects
            .iter()
            .filter(|reject| reject.code == code)
            .count();
        if rejects > 0 {
            telemetry::rejects(dataset, code, rejects as u64);
        }
    }
}

/// Hands frames to the broker until their channel closes.
pub(super) async fn publish(
    shared: Arc<Shared>,
    mut produced: mpsc::Receiver<Produced>,
) -> Result<(), GivenUp> {
    let mut taken = Vec::with_capacity(PIPELINE_FRAMES);
    while produced.recv_many(&mut taken, PIPELINE_FRAMES).await > 0 {
        let (frames, budget): (Vec<Frame>, Vec<OwnedSemaphorePermit>) =
            taken.drain(..).map(|one| (one.frame, one.budget)).unzip();
        let busy = telemetry::busy(Stage::Publish);
        let broker = &shared.ingest.broker;
        let publish = || broker.publish(&frames);
        // The queue may be full, and nobody there to empty it: a stop ends the wait.
        until_ok("publishing to the queue", &shared.stop, |_| {}, publish).await?;
        drop(busy);
        drop(budget);
        shared.tell_memory();
        note_published(&shared, &frames);
    }
    Ok(())
}

impl Shared {
    /// Tells how much of the byte budget is taken.
    pub(super) fn tell_memory(&self) {
        let held = self.budget_kib as usize - self.budget.available_permits();
        telemetry::memory(u64::from(self.budget_kib) * 1024, held as u64 * 1024);
    }
}

fn note_published(shared: &Shared, frames: &[Frame]) {
    let mut flights = shared.flights();
    for frame in frames {
        telemetry::frames_published(&frame.dataset, 1);
        if let Some(flight) = flights.get_mut(&frame.span.file_no)
            && flight.note_published()
        {
            shared.look.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(count: u32, records: u32) -> Vec<Chunk> {
        let chunk = |at| Chunk {
            start: u64::from(at) * 100,
            end: u64::from(at + 1) * 100,
            first_ordinal: at * records,
            records,
        };
        (0..count).map(chunk).collect()
    }

    #[test]
    fn strands_take_turns_by_transactions() {
        let order: Vec<u32> = in_strands(&chunks(14, COMMIT_RECORDS / 2), 3)
            .map(|chunk| chunk.start as u32 / 100)
            .collect();
        assert_eq!(order, [0, 1, 5, 6, 10, 11, 2, 3, 7, 8, 12, 13, 4, 9]);
    }

    #[test]
    fn strands_lose_no_chunk_and_keep_one_strand_in_order() {
        for count in [0, 1, 2, 5, 100] {
            for records in [1, COMMIT_RECORDS / 3, COMMIT_RECORDS, COMMIT_RECORDS + 1] {
                let chunks = chunks(count, records);
                assert!(in_strands(&chunks, 1).eq(chunks.iter().copied()));
                for strands in [2, 3, 64] {
                    let mut order: Vec<Chunk> = in_strands(&chunks, strands).collect();
                    order.sort_by_key(|chunk| chunk.start);
                    assert_eq!(order, chunks, "{strands} strands of {records} records");
                }
            }
        }
    }
}
