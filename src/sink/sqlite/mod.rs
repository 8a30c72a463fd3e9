//! The sink in SQLite: the same contract in one file, with no server.
//!
//! The only module that uses the driver of SQLite. One connection, on its own thread, runs all jobs
//! in the order of their arrival: SQLite has one writer, and waits for the disk must not block the
//! async runtime. A job runs to its end even if its caller was dropped. The contract allows that,
//! since each job may run twice.

use std::ops::Range;
use std::sync::{Arc, mpsc};
use std::thread;

use async_trait::async_trait;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use crate::batch::{Batch, ContentHash, RejectCode, Span};
use crate::dataset::{Dataset, Datasets};
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::frame::FrameKey;

use super::contents::digest_name;
use super::operators::ACKNOWLEDGED;
use super::partitions::without_partitions;
use super::removal;
use super::{
    Acknowledged, Audit, Begun, Committed, Contents, Difference, Digest, FieldCount, FileState,
    Indexes, KeptReplay, KnownBytes, LastEvent, LedgerFile, Merged, Migration, NewFile, NodeId,
    OpenReject, Operators, ProblemDigest, Purge, Registered, RejectQuery, Remembered, Removed,
    Replay, Replayed, Retention, Schema, SeenFile, Settled, Sink, Standing, SummaryStore, Totals,
    Unsummarised,
};
use connect::connect;
use errors::Failure;

mod commit;
mod connect;
mod contents;
mod definitions;
mod erase;
mod erased;
mod erasures;
mod errors;
mod files;
mod indexes;
mod inspect;
mod keyed;
mod lease;
mod nodes;
mod now;
mod operators;
mod remove;
mod schema;
mod seen;
mod settled;
mod summary;
mod triggers;
mod views;
mod waits;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The sink of a `sqlite:` URL.
#[derive(Debug)]
pub struct SqliteSink {
    jobs: mpsc::Sender<Job>,
}

impl SqliteSink {
    /// The sink of a database file. Creates the file and its directory if they do not exist. `//`
    /// before an absolute path is part of the URL and is removed.
    ///
    /// # Errors
    /// Fatal if the file cannot be opened or is not a database. Transient if it is locked.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub async fn open(path: &str) -> Result<Self, Fault> {
        const DOING: &str = "opening the database file";
        let path = path.strip_prefix("//").unwrap_or(path).to_owned();
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, outcome) = oneshot::channel();
        let work = move || {
            let mut connection = match connect(&path) {
                Ok(connection) => {
                    // If the opener was dropped, no job is ever sent, and the loop below ends.
                    opened.send(Ok(())).ok();
                    connection
                }
                Err(fault) => {
                    opened.send(Err(fault)).ok();
                    return;
                }
            };
            for job in queue {
                job(&mut connection);
            }
        };
        thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(work)
            .expect("the system can start a thread");
        let gone = |_| Fault::fatal(Origin::Sink, DOING, "its thread ended");
        outcome.await.map_err(gone)??;
        Ok(Self { jobs })
    }

    /// Runs `work` in a transaction on the connection's thread. An error rolls the transaction
    /// back.
    async fn transact<T: Send + 'static>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Fault> {
        let (done, outcome) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            // IMMEDIATE takes the write lock at the start: a transaction that begins as a reader
            // cannot wait for it later.
            let result = connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(Failure::from)
                .and_then(|transaction| {
                    let value = work(&transaction)?;
                    transaction.commit()?;
                    Ok(value)
                });
            // If the receiver is gone, the caller was dropped, and the work will be repeated.
            done.send(result.map_err(|failure| failure.into_fault(doing)))
                .ok();
        });
        self.jobs
            .send(job)
            .expect("the thread ends only by a panic, or when this is dropped");
        outcome
            .await
            .expect("the thread answers each job, or has panicked")
    }
}

#[async_trait]
impl Sink for SqliteSink {
    fn writers(&self) -> usize {
        1
    }

    async fn register(
        &self,
        files: &[NewFile],
        datasets: &Datasets,
    ) -> Result<Vec<Registered>, Fault> {
        let (files, datasets) = (files.to_vec(), datasets.clone());
        let work = move |db: &Transaction<'_>| files::register(db, &files, &datasets);
        self.transact("registering files", work).await
    }

    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault> {
        // The arrays are shared, not copied.
        let batches = batches.to_vec();
        self.transact("committing to the database", move |db| {
            commit::commit(db, &batches)
        })
        .await
    }

    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault> {
        let file_nos = file_nos.to_vec();
        self.transact("reading the ledger", move |db| {
            files::coverage(db, &file_nos)
        })
        .await
    }

    async fn waiting(&self, file_nos: &[u32]) -> Result<Vec<(u32, String)>, Fault> {
        let file_nos = file_nos.to_vec();
        let work = move |db: &Transaction<'_>| waits::waiting(db, &file_nos);
        self.transact("reading the ledger", work).await
    }

    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault> {
        let file_nos = file_nos.to_vec();
        self.transact("settling files", move |db| files::settle(db, &file_nos))
            .await
    }

    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault> {
        let (file, reason) = (file.clone(), reason.to_owned());
        let work = move |db: &Transaction<'_>| files::quarantine(db, &file, &reason);
        self.transact("recording a quarantined file", work).await
    }

    async fn is_past_limits(&self, file: &NewFile) -> Result<bool, Fault> {
        let file = file.clone();
        let work = move |db: &Transaction<'_>| files::is_past_limits(db, &file);
        self.transact("reading the ledger", work).await
    }

    async fn remember(&self, files: &[SeenFile]) -> Result<(), Fault> {
        let files = files.to_vec();
        self.transact("remembering files", move |db| seen::remember(db, &files))
            .await
    }

    async fn remembered(&self, paths: &[Digest]) -> Result<Remembered, Fault> {
        let paths = paths.to_vec();
        self.transact("reading the ledger", move |db| seen::remembered(db, &paths))
            .await
    }

    async fn lacking(&self, file_nos: &[u32], datasets: &Datasets) -> Result<Vec<u32>, Fault> {
        let (file_nos, datasets) = (file_nos.to_vec(), datasets.clone());
        let work = move |db: &Transaction<'_>| settled::lacking(db, &file_nos, &datasets);
        self.transact("reading the ledger", work).await
    }

    async fn known_bytes(&self, hashes: &[ContentHash]) -> Result<Vec<KnownBytes>, Fault> {
        let hashes = hashes.to_vec();
        let work = move |db: &Transaction<'_>| erase::known_bytes(db, &hashes);
        self.transact("reading the ledger", work).await
    }

    async fn begun(&self, max: usize) -> Result<Vec<Begun>, Fault> {
        self.transact("reading the ledger", move |db| files::begun(db, max))
            .await
    }

    async fn remove(&self, file_no: u32, datasets: &Datasets) -> Result<Removed, Fault> {
        let datasets = datasets.clone();
        let work = move |db: &Transaction<'_>| remove::remove(db, file_no, &datasets);
        self.transact("removing a file", work).await
    }

    async fn end_removal(&self, file_no: u32) -> Result<(), Fault> {
        let work = move |db: &Transaction<'_>| Ok(db.execute(&removal::end(file_no), [])?);
        self.transact("removing a file", work).await.map(drop)
    }
}

#[async_trait]
impl Schema for SqliteSink {
    async fn migrate(&self, datasets: &Datasets) -> Result<(), Fault> {
        let datasets = datasets.clone();
        self.transact("migrating the database", move |db| {
            schema::migrate(db, &datasets, Migration::default())
        })
        .await
    }

    async fn migrate_as(&self, datasets: &Datasets, asked: Migration) -> Result<(), Fault> {
        let datasets = datasets.clone();
        self.transact("migrating the database", move |db| {
            schema::migrate(db, &datasets, asked)
        })
        .await
    }

    async fn frame_key(&self) -> Result<FrameKey, Fault> {
        self.transact("reading the key of the frames", files::frame_key)
            .await
    }

    async fn stored_frame_key(&self) -> Result<Option<FrameKey>, Fault> {
        self.transact("reading the key of the frames", files::stored_frame_key)
            .await
    }

    async fn schema(&self, datasets: &Datasets) -> Result<Vec<String>, Fault> {
        without_partitions(datasets)?;
        Ok(schema::statements(datasets))
    }

    async fn inspect(&self, datasets: &Datasets) -> Result<Vec<Finding>, Fault> {
        let datasets = datasets.clone();
        let work = move |db: &Transaction<'_>| inspect::inspect(db, &datasets);
        self.transact("reading the schema", work).await
    }
}

impl Indexes for SqliteSink {}

impl Retention for SqliteSink {}

#[async_trait]
impl SummaryStore for SqliteSink {
    async fn summary_pending(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<Unsummarised>, Fault> {
        let dataset = dataset.clone();
        self.transact("reading the ledger", move |db| {
            summary::pending(db, &dataset, max)
        })
        .await
    }

    async fn summary_scan(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault> {
        let dataset = dataset.clone();
        let work = move |db: &Transaction<'_>| summary::scan(db, &dataset, &ids, max);
        self.transact("reading rows for the summary", work).await
    }

    async fn summary_merge(
        &self,
        dataset: &Arc<Dataset>,
        candidates: &[LastEvent],
        files: &[Unsummarised],
        leader: Option<&NodeId>,
    ) -> Result<Merged, Fault> {
        let (dataset, candidates) = (dataset.clone(), candidates.to_vec());
        let (files, leader) = (files.to_vec(), leader.cloned());
        let work = move |db: &Transaction<'_>| {
            summary::merge(db, &dataset, &candidates, &files, leader.as_ref())
        };
        self.transact("writing the summary", work).await
    }

    async fn summary_reset(&self, dataset: &Arc<Dataset>) -> Result<(), Fault> {
        let dataset = dataset.clone();
        self.transact("emptying the summary", move |db| {
            summary::reset(db, &dataset)
        })
        .await
    }

    async fn summary_head(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault> {
        let dataset = dataset.clone();
        self.transact("reading the summary", move |db| {
            summary::head(db, &dataset, max)
        })
        .await
    }
}

#[async_trait]
impl Contents for SqliteSink {
    async fn differences(&self, batch: &Batch) -> Result<Vec<Difference>, Fault> {
        let batch = batch.clone();
        self.transact("reading rows", move |db| contents::differences(db, &batch))
            .await
    }

    async fn replayed(&self, span: Span) -> Result<Vec<u32>, Fault> {
        self.transact("reading the ledger", move |db| contents::replayed(db, span))
            .await
    }

    async fn unsuperseded(&self, dataset: &Dataset, span: Span) -> Result<Vec<u32>, Fault> {
        let table = dataset.table.clone();
        let work = move |db: &Transaction<'_>| contents::gone(db, &table, span);
        self.transact("reading the ledger", work).await
    }

    async fn replay_of(&self, file_no: u32, ordinal: u32) -> Result<Option<KeptReplay>, Fault> {
        let work = move |db: &Transaction<'_>| contents::replay_of(db, file_no, ordinal);
        self.transact("reading the ledger", work).await
    }

    /// None: the id is the only key of a table that the migration accepts.
    async fn doubled(&self, _file_no: u32, _datasets: &Datasets) -> Result<Vec<u32>, Fault> {
        Ok(Vec::new())
    }

    async fn separate(&self, _record: &Batch) -> Result<bool, Fault> {
        Ok(false)
    }

    async fn loaded_by(
        &self,
        file_no: u32,
        datasets: &Datasets,
    ) -> Result<Option<Arc<Dataset>>, Fault> {
        let datasets = datasets.clone();
        let work = move |db: &Transaction<'_>| definitions::loaded_by(db, file_no, &datasets);
        self.transact("reading the ledger", work).await
    }

    async fn tables(&self) -> Result<Vec<(String, String)>, Fault> {
        self.transact("reading the ledger", definitions::tables)
            .await
    }

    async fn acknowledge(&self, file_no: u32, digest: ProblemDigest) -> Result<(), Fault> {
        let work = move |db: &Transaction<'_>| contents::keep(db, &digest_name(file_no), &digest);
        self.transact("acknowledging a file", work).await
    }

    async fn acknowledged(&self, file_no: u32) -> Result<Option<ProblemDigest>, Fault> {
        let work = move |db: &Transaction<'_>| contents::kept(db, &digest_name(file_no));
        let kept = self.transact("reading the ledger", work).await?;
        Ok(kept.and_then(|value| value.try_into().ok()))
    }

    async fn begin_removal(&self, file_no: u32, datasets: &Datasets) -> Result<(), Fault> {
        let datasets = datasets.clone();
        let work = move |db: &Transaction<'_>| remove::begin(db, file_no, &datasets).map(drop);
        self.transact("removing a file", work).await
    }
}

#[async_trait]
impl Operators for SqliteSink {
    async fn totals(&self) -> Result<Totals, Fault> {
        self.transact("reading the ledger", operators::totals).await
    }

    async fn last_settled(&self) -> Result<Vec<(String, i64)>, Fault> {
        self.transact("reading the ledger", files::last_settled)
            .await
    }

    async fn acknowledged_totals(&self) -> Result<Acknowledged, Fault> {
        let work = |db: &Transaction<'_>| contents::kept(db, ACKNOWLEDGED);
        let kept = self.transact("reading the ledger", work).await?;
        Ok(Acknowledged::from_bytes(kept.as_deref()))
    }

    async fn acknowledge_totals(&self, totals: Acknowledged) -> Result<(), Fault> {
        let value = totals.to_bytes();
        let work = move |db: &Transaction<'_>| contents::keep(db, ACKNOWLEDGED, &value);
        self.transact("acknowledging", work).await
    }

    async fn lower_acknowledged(&self, from: Acknowledged, to: Acknowledged) -> Result<(), Fault> {
        let (from, to) = (from.to_bytes(), to.to_bytes());
        let work = move |db: &Transaction<'_>| contents::replace(db, ACKNOWLEDGED, &from, &to);
        self.transact("lowering what is acknowledged", work).await
    }

    async fn release(&self, file_no: u32) -> Result<(), Fault> {
        let work = move |db: &Transaction<'_>| files::release(db, file_no);
        self.transact("releasing a file", work).await
    }

    async fn files(
        &self,
        file_nos: Range<u32>,
        state: Option<FileState>,
        max: usize,
    ) -> Result<Vec<LedgerFile>, Fault> {
        let work = move |db: &Transaction<'_>| operators::files(db, &file_nos, state, max);
        self.transact("reading the ledger", work).await
    }

    async fn kept_below(&self) -> Result<u32, Fault> {
        self.transact("reading the ledger", operators::kept_below)
            .await
    }

    async fn count_rows(&self, dataset: &Arc<Dataset>) -> Result<u64, Fault> {
        let dataset = dataset.clone();
        self.transact("counting rows", move |db| {
            operators::count_rows(db, &dataset)
        })
        .await
    }

    async fn audit(&self, dataset: &Arc<Dataset>, file_nos: &[u32]) -> Result<Vec<Audit>, Fault> {
        let (dataset, file_nos) = (dataset.clone(), file_nos.to_vec());
        let work = move |db: &Transaction<'_>| operators::audit(db, &dataset, &file_nos);
        self.transact("auditing files", work).await
    }

    async fn row_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<u64>, Fault> {
        let dataset = dataset.clone();
        let work = move |db: &Transaction<'_>| operators::row_ids(db, &dataset, &ids, max);
        self.transact("reading ids", work).await
    }

    async fn count_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: &[Range<u64>],
    ) -> Result<Vec<u64>, Fault> {
        let (dataset, ids) = (dataset.clone(), ids.to_vec());
        let work = move |db: &Transaction<'_>| operators::count_ids(db, &dataset, &ids);
        self.transact("counting rows", work).await
    }

    async fn standing(&self, dataset: &Arc<Dataset>, id: u64) -> Result<Standing, Fault> {
        let dataset = dataset.clone();
        let work = move |db: &Transaction<'_>| operators::standing(db, &dataset, id);
        self.transact("finding a record", work).await
    }

    async fn reject_counts(&self) -> Result<Vec<(RejectCode, u64)>, Fault> {
        self.transact("counting the rejects", operators::reject_counts)
            .await
    }

    async fn newest_rejects_by_field(
        &self,
        newest: usize,
        max: usize,
    ) -> Result<Vec<FieldCount>, Fault> {
        self.transact("counting the rejects", move |db| {
            operators::newest_rejects_by_field(db, newest, max)
        })
        .await
    }

    async fn find_rejects(
        &self,
        query: &RejectQuery,
        max: usize,
    ) -> Result<Vec<OpenReject>, Fault> {
        let query = *query;
        let work = move |db: &Transaction<'_>| operators::rejects(db, &query, max);
        self.transact("reading the rejects", work).await
    }

    async fn replay(&self, records: &[Replay]) -> Result<Vec<Replayed>, Fault> {
        let records = records.to_vec();
        let work = move |db: &Transaction<'_>| operators::replay(db, &records);
        self.transact("replaying rejects", work).await
    }

    async fn count_purge(&self, purge: &Purge) -> Result<u64, Fault> {
        let purge = *purge;
        let work = move |db: &Transaction<'_>| operators::count_purge(db, &purge);
        self.transact("counting rejects", work).await
    }

    async fn purge(&self, purge: &Purge, max: usize) -> Result<u64, Fault> {
        let purge = *purge;
        let work = move |db: &Transaction<'_>| operators::purge(db, &purge, max);
        self.transact("purging rejects", work).await
    }
}
