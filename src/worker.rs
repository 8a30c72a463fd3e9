//! The stage from broker to sink: receives frames, commits them, acks them.
//!
//! A worker has no state that could be lost: frames that were not committed are delivered again by
//! the broker, or published again by ingest. It acks only after the commit. Knows nothing of files.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::batch::{Batch, Span};
use crate::broker::{Broker, Consumer, Delivery};
use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;
use crate::frame;
use crate::pace::Pace;
use crate::retry::{GivenUp, until_ok};
use crate::sink::{Committed, Sink};
use crate::summary::Accumulator;
use crate::telemetry::{self, Stage};

/// Records in one transaction: four statements of a thousand rows. More are not faster
/// (docs/performance.md), and would leave the other workers idle at the end of a load.
pub(crate) const COMMIT_RECORDS: u32 = 4_000;

/// Most bytes of the frames of one transaction, unless it is one frame. A transaction of ordinary
/// records has a megabyte or two. Each worker decodes as many bytes. With more, large records would
/// exceed the memory budget without a gain: their cost for the database depends on their bytes.
const COMMIT_BYTES: usize = 8 * 1024 * 1024;

/// Allows only one commit of more than [`COMMIT_BYTES`], which is one huge record, at a time in
/// this process. The driver makes three copies of the record, so several such commits would take
/// several times the memory budget.
static LARGE_COMMIT: Semaphore = Semaphore::const_new(1);

/// Most frames in one transaction, for small frames.
const COMMIT_FRAMES_MAX: usize = 256;

/// Wait after a failed receive, so that the worker does not spin while the queue is unavailable.
const RECEIVE_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Records committed by the workers of this process, by file. Ingest of the same process uses it to
/// query the ledger only for files that may be complete. A hint: redelivered records count twice.
#[derive(Debug, Default)]
pub struct Progress {
    committed: Mutex<HashMap<u32, u64>>,
    changed: Notify,
    frames: AtomicU64,
    records: AtomicU64,
    rows: AtomicU64,
    duplicates: AtomicU64,
    superseded: AtomicU64,
    replaced: AtomicU64,
    foreign: AtomicU64,
}

impl Progress {
    fn add(&self, spans: &[Span], by: &Committed) {
        self.frames.fetch_add(spans.len() as u64, Relaxed);
        self.rows.fetch_add(by.rows, Relaxed);
        self.duplicates.fetch_add(by.duplicates, Relaxed);
        self.superseded.fetch_add(by.superseded, Relaxed);
        self.replaced.fetch_add(by.replaced, Relaxed);
        self.foreign.fetch_add(by.foreign.len() as u64, Relaxed);
        let mut committed = self.committed.lock();
        for span in spans {
            self.records.fetch_add(u64::from(span.records), Relaxed);
            *committed.entry(span.file_no).or_default() += u64::from(span.records);
        }
        drop(committed);
        self.changed.notify_one();
    }

    /// Records committed since the last call, by file number.
    #[must_use]
    pub fn take(&self) -> HashMap<u32, u64> {
        std::mem::take(&mut *self.committed.lock())
    }

    /// Frames committed since the start.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Relaxed)
    }

    /// Rows stored since the start, and rows that were stored already.
    #[must_use]
    pub fn rows(&self) -> (u64, u64) {
        (self.rows.load(Relaxed), self.duplicates.load(Relaxed))
    }

    /// Records that were superseded instead of stored since the start, and stored rows that were
    /// superseded.
    #[must_use]
    pub fn superseded(&self) -> (u64, u64) {
        (self.superseded.load(Relaxed), self.replaced.load(Relaxed))
    }

    /// Dropped frames of other ledgers.
    #[must_use]
    pub fn foreign(&self) -> u64 {
        self.foreign.load(Relaxed)
    }

    /// Records committed since the start.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    /// Waits until a frame is committed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// A worker and its connections.
#[derive(Clone)]
pub struct Worker {
    /// Its name as a consumer. The same after a restart, so that it receives its unacked frames
    /// first.
    pub name: String,
    /// The source of frames.
    pub broker: Arc<dyn Broker>,
    /// The destination of rows.
    pub sink: Arc<dyn Sink>,
    /// The datasets of the frames.
    pub datasets: Datasets,
    /// Updated after each commit.
    pub progress: Arc<Progress>,
    /// Limits the records of all workers of this process.
    pub pace: Arc<Pace>,
    /// Receives the rows of each commit.
    pub summaries: Option<Arc<Accumulator>>,
}

impl Worker {
    /// Works until `drain` is cancelled, and then finishes the current commit. Returns at once if
    /// `abort` is cancelled.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn run(
        self,
        drain: CancellationToken,
        abort: CancellationToken,
    ) -> Result<(), Fault> {
        match self.work(&drain, &abort).await {
            Ok(()) | Err(GivenUp::Stopped) => Ok(()),
            Err(GivenUp::Fatal(fault)) => Err(fault),
        }
    }

    async fn work(
        &self,
        drain: &CancellationToken,
        abort: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let mut consumer = until_ok(
            "connecting to the queue",
            drain,
            |_| {},
            || self.broker.consumer(&self.name),
        )
        .await?;
        let mut take = 1;
        while !drain.is_cancelled() {
            let receiving = async {
                let _turn = self.pace.turn().await;
                let received = consumer.receive(take).await;
                if let Ok(deliveries) = &received {
                    self.pace.count(records_of(deliveries));
                }
                received
            };
            let received = tokio::select! {
                received = receiving => received,
                () = drain.cancelled() => break,
            };
            let deliveries = match received {
                Ok(deliveries) => deliveries,
                Err(fault) => {
                    // The connection recovers by itself. The pause prevents a busy loop until then.
                    if !fault.is_transient() {
                        return Err(GivenUp::Fatal(fault));
                    }
                    tracing::debug!(%fault, "receiving failed");
                    tokio::time::sleep(RECEIVE_AGAIN_AFTER).await;
                    continue;
                }
            };
            if !deliveries.is_empty() {
                take = frames_to_take(&deliveries);
                for part in by_weight(&deliveries) {
                    let _alone = alone(part, abort).await?;
                    self.commit(part, abort).await?;
                    self.ack(consumer.as_mut(), part).await;
                    if drain.is_cancelled() {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Commits the deliveries, in one transaction per dataset. Nearly always there is one dataset.
    async fn commit(
        &self,
        deliveries: &[Delivery],
        stop: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let mut batches = self.decode(deliveries);
        batches.sort_by(|a, b| a.dataset.name.cmp(&b.dataset.name));
        for batches in batches.chunk_by(|a, b| a.dataset.name == b.dataset.name) {
            let dataset = &batches[0].dataset;
            let span =
                tracing::debug_span!("commit", dataset = %dataset.name, frames = batches.len());
            let commit = self.commit_of(dataset, batches, stop);
            commit.instrument(span).await?;
        }
        Ok(())
    }

    async fn commit_of(
        &self,
        dataset: &Arc<Dataset>,
        batches: &[Batch],
        stop: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let began = Instant::now();
        let _busy = telemetry::busy(Stage::Commit);
        let failed = |fault: &Fault| {
            if fault.is_transient() {
                telemetry::sink_retry();
            }
        };
        let summaries = self.summaries.as_deref();
        let _committing = summaries.map(|summaries| summaries.begin(batches));
        let commit = || self.sink.commit(batches);
        let committed = until_ok("committing to the database", stop, failed, commit).await?;
        let name = &dataset.name;
        let rows = batches.iter().map(|batch| batch.rows.num_rows() as u64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        telemetry::commit_took(began.elapsed(), rows.sum(), now.unwrap_or_default());
        let waits = |file| committed.waiting.iter().any(|waiting| waiting.file == file);
        let is_ours = |batch: &&Batch| {
            let file = batch.file();
            !committed.foreign.contains(&file) && !waits(file)
        };
        let spans: Vec<Span> = batches
            .iter()
            .filter(is_ours)
            .map(|batch| batch.span)
            .collect();
        telemetry::frames_committed(name, spans.len() as u64);
        telemetry::commit(name, committed.rows, committed.duplicates);
        let superseded = committed.superseded + committed.replaced;
        if superseded > 0 {
            telemetry::superseded(name, superseded);
        }
        for code in &committed.refused {
            telemetry::rejects(name, *code, 1);
        }
        let foreign = committed.foreign.len() as u64;
        if foreign > 0 {
            telemetry::frames_foreign(foreign);
            tracing::error!(
                frames = foreign,
                "dropped frames of files that are not in this ledger: give each database a \
                 redis_prefix of its own; frames of a deleted ledger are gone now"
            );
        }
        // These frames are dropped. Ingest reads the reason in the ledger, puts the file aside for a
        // while, and publishes them again.
        for waiting in &committed.waiting {
            let (file_no, reason) = (waiting.file.file_no, &waiting.reason);
            tracing::warn!(
                file_no,
                reason,
                "a file waits until its table takes its rows"
            );
        }
        // Rows that the database refused, now or at an earlier delivery, and rows of another ledger
        // must not enter the summary. It is unknown which rows these are, so the refresh reads the
        // files of this commit from the table.
        let all_stored = committed.refused.is_empty()
            && committed.waiting.is_empty()
            && committed.duplicates + foreign == 0;
        if let Some(summaries) = summaries.filter(|_| all_stored) {
            summaries.add(batches);
            summaries.relieve(dataset, stop).await?;
        }
        let files = batches.iter().filter(is_ours).map(Batch::file);
        let frames = spans.len() as u64;
        let (rows, duplicates) = (committed.rows, committed.duplicates);
        telemetry::traces::committed(began, name, frames, rows, duplicates, files);
        self.progress.add(&spans, &committed);
        Ok(())
    }

    fn decode(&self, deliveries: &[Delivery]) -> Vec<Batch> {
        let decode = |delivery: &Delivery| match frame::decode(&delivery.frame, &self.datasets) {
            Ok(batch) => {
                let redelivered = u64::from(delivery.redelivered);
                telemetry::frames_redelivered(&batch.dataset.name, redelivered);
                Some(batch)
            }
            Err(error) => {
                // Acked with the others. The ledger lacks its records, so ingest publishes them
                // again.
                telemetry::frame_damaged();
                tracing::error!(entry = %delivery.tag.entry, %error, "a frame cannot be read");
                None
            }
        };
        deliveries.iter().filter_map(decode).collect()
    }

    async fn ack(&self, consumer: &mut dyn Consumer, deliveries: &[Delivery]) {
        if let Err(fault) = consumer.ack(deliveries).await {
            // Harmless: rows that are delivered again are stored already.
            tracing::debug!(%fault, "an ack was lost");
        }
    }
}

/// The records of frames. A frame of another program may claim any number, and a record has at least one
/// byte.
fn records_of(deliveries: &[Delivery]) -> u64 {
    let records = |delivery: &Delivery| {
        let frame = &delivery.frame;
        u64::from(frame.span.records).min(frame.weight() as u64)
    };
    deliveries.iter().map(records).sum()
}

/// Waits until no other large commit runs, if this is one.
async fn alone(
    part: &[Delivery],
    stop: &CancellationToken,
) -> Result<Option<SemaphorePermit<'static>>, GivenUp> {
    let bytes: usize = part.iter().map(|delivery| delivery.frame.weight()).sum();
    if bytes <= COMMIT_BYTES {
        return Ok(None);
    }
    tokio::select! {
        permit = LARGE_COMMIT.acquire() => Ok(Some(permit.expect("it is never closed"))),
        () = stop.cancelled() => Err(GivenUp::Stopped),
    }
}

/// The number of frames for the next transaction, estimated from the last ones.
fn frames_to_take(deliveries: &[Delivery]) -> usize {
    // Summed as u64, because a frame of another program may claim any number of records.
    let records: u64 = deliveries
        .iter()
        .map(|delivery| u64::from(delivery.frame.span.records))
        .sum();
    let bytes: usize = deliveries
        .iter()
        .map(|delivery| delivery.frame.weight())
        .sum();
    let frames = deliveries.len();
    let mean = (records / frames as u64).max(1);
    let by_records = (u64::from(COMMIT_RECORDS) / mean) as usize;
    let by_bytes = COMMIT_BYTES / (bytes / frames).max(1);
    by_records.min(by_bytes).clamp(1, COMMIT_FRAMES_MAX)
}

/// Splits the received frames into parts of at most [`COMMIT_BYTES`], or of one larger frame.
fn by_weight(deliveries: &[Delivery]) -> impl Iterator<Item = &[Delivery]> {
    let mut rest = deliveries;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fit = rest.iter().take_while(|delivery| {
            bytes += delivery.frame.weight();
            bytes <= COMMIT_BYTES
        });
        let (part, later) = rest.split_at(fit.count().max(1).min(rest.len()));
        rest = later;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Tag;
    use crate::dataset::Fingerprint;
    use crate::frame::Frame;

    fn delivery(records: u32, bytes: usize) -> Delivery {
        Delivery {
            tag: Tag {
                stream: "s".into(),
                entry: "e".to_owned(),
            },
            frame: Frame {
                dataset: "d".into(),
                definition: Fingerprint::default(),
                span: Span {
                    file_no: 1,
                    first_ordinal: 0,
                    records,
                },
                hash: [0; 16],
                rows: vec![0; bytes].into(),
                rejects: bytes::Bytes::new(),
            },
            redelivered: false,
        }
    }

    #[test]
    fn a_transaction_is_bounded_in_records_and_in_bytes() {
        let take = |records, bytes| frames_to_take(&[delivery(records, bytes)]);
        assert_eq!(take(2_000, 100), 2);
        assert_eq!(take(1, 100), COMMIT_FRAMES_MAX);
        assert_eq!(take(1, COMMIT_BYTES / 3), 3);
        assert_eq!(take(1, COMMIT_BYTES * 2), 1);
        assert_eq!(take(0, 0), COMMIT_FRAMES_MAX);

        let half = COMMIT_BYTES / 2;
        let weights = [half, half, 1, COMMIT_BYTES + 1, 7, 7];
        let all = weights.map(|bytes| delivery(1, bytes));
        let parts: Vec<usize> = by_weight(&all).map(<[_]>::len).collect();
        assert_eq!(parts, [2, 1, 1, 2]);
        assert_eq!(by_weight(&[]).count(), 0);
    }
}
