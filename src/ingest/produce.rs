//! Parses chunks into frames, in parallel.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rayon::prelude::*;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::job::{Job, in_strands};
use super::shared::Shared;
use super::tally::Tally;
use super::withdraw::{note_unreadable, withdraw_changed};
use crate::batch::{Batch, RejectCode};
use crate::chunks;
use crate::content::ContentError;
use crate::cut::Chunk;
use crate::frame::{Codec, Encoder, Frame};
use crate::parse::Parser;
use crate::retry::GivenUp;
use crate::telemetry::{self, Stage};

/// Most bytes of memory that a thread's buffer for a chunk keeps. A chunk has at most 1 MiB by
/// default. Without a limit, the buffer would keep the memory of one huge record as long as the
/// thread lives.
const BUFFER_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// A frame on its way to the broker, with its share of the byte budget.
pub(super) struct Produced {
    pub(super) frame: Frame,
    pub(super) budget: OwnedSemaphorePermit,
}

/// Parses jobs until their channel closes. A file that changes meanwhile is withdrawn.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut jobs: mpsc::Receiver<Vec<Job>>,
    frames: mpsc::Sender<Produced>,
) -> Result<(), GivenUp> {
    loop {
        let jobs = tokio::select! {
            biased;
            () = shared.drain.cancelled() => return Ok(()),
            jobs = jobs.recv() => jobs,
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        };
        let Some(jobs) = jobs else { return Ok(()) };
        let parsing = tokio::task::spawn_blocking({
            let (shared, frames, runtime) = (shared.clone(), frames.clone(), Handle::current());
            move || parse_all(&shared, &jobs, &frames, &runtime)
        });
        let unread = match parsing.await.expect("parsing does not panic") {
            Err(GivenUp::Stopped) if shared.drain.is_cancelled() => return Ok(()),
            unread => unread?,
        };
        for (file_no, error) in unread {
            match error {
                // Settle opens the file again, and then its missing chunks are parsed.
                ContentError::Io(_) => note_unreadable(&shared, file_no, &error).await?,
                _ => withdraw_changed(&shared, file_no).await?,
            }
        }
    }
}

/// Parses the chunks of jobs on all threads. Returns the files that could not be read or have
/// changed, each with its error.
fn parse_all(
    shared: &Shared,
    jobs: &[Job],
    frames: &mpsc::Sender<Produced>,
    runtime: &Handle,
) -> Result<BTreeMap<u32, ContentError>, GivenUp> {
    // Each strand is in the order of the file, so that the system reads its pages ahead. The next
    // free thread takes the next chunk.
    let strands = shared.ingest.sink.writers();
    let chunks = jobs
        .iter()
        .flat_map(|job| in_strands(&job.chunks, strands).map(move |chunk| (job, chunk)));
    let codec = shared.ingest.broker.codec();
    let unread = Mutex::new(BTreeMap::new());
    let done = chunks.par_bridge().try_for_each(|(job, chunk)| {
        if shared.drain.is_cancelled() {
            return Err(GivenUp::Stopped);
        }
        let busy = telemetry::busy(Stage::Parse);
        let budget = reserve(shared, &chunk, runtime)?;
        let frame = produce(shared, job, &chunk, codec);
        drop(busy);
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                unread.lock().insert(job.file_no, error);
                return Ok(());
            }
        };
        frames
            .blocking_send(Produced { frame, budget })
            .map_err(|_| GivenUp::Stopped)
    });
    done.map(|()| unread.into_inner())
}

/// Waits for a share of the byte budget: the bytes of the chunk.
fn reserve(
    shared: &Shared,
    chunk: &Chunk,
    runtime: &Handle,
) -> Result<OwnedSemaphorePermit, GivenUp> {
    let kib = u32::try_from((chunk.end - chunk.start) / 1024 + 1).unwrap_or(u32::MAX);
    // A record larger than the whole budget passes alone.
    let kib = kib.min(shared.budget_kib);
    if let Ok(permit) = shared.budget.clone().try_acquire_many_owned(kib) {
        shared.report_memory();
        return Ok(permit);
    }
    let _waiting = telemetry::backpressure(Stage::Parse);
    runtime.block_on(async {
        tokio::select! {
            permit = shared.budget.clone().acquire_many_owned(kib) => {
                shared.report_memory();
                Ok(permit.expect("it is never closed"))
            }
            () = shared.drain.cancelled() => Err(GivenUp::Stopped),
            () = shared.stop.cancelled() => Err(GivenUp::Stopped),
        }
    })
}

/// Makes the frame of a chunk.
///
/// # Errors
/// The file has changed since it was cut, or cannot be read. After a change, no chunk makes a
/// frame, even if its bytes are the same: its plan belongs to the former content.
fn produce(shared: &Shared, job: &Job, chunk: &Chunk, codec: Codec) -> Result<Frame, ContentError> {
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
    let _alone = shared.alone(chunk);
    let batch = PARSER.with_borrow_mut(|(parser, buffer)| {
        let (file, of) = (job.source_file(), (&*job.content, job.values.as_ref()));
        let batch = chunks::parse(parser, &job.dataset, file, chunk, of, buffer)?;
        buffer.truncate(BUFFER_KEPT_BYTES);
        buffer.shrink_to(BUFFER_KEPT_BYTES);
        Ok::<_, ContentError>(batch)
    })?;
    Tally::add(&shared.tally().read, u64::from(batch.span.records));
    Tally::add(&shared.tally().rejected, batch.rejects.len() as u64);
    count(&batch);
    Ok(ENCODER.with_borrow_mut(|encoder| encoder.encode(&batch, codec)))
}

/// Counts the records of a batch, and its rejects by their code.
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
