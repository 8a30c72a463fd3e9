//! The sink in MySQL, MariaDB and other servers with their protocol.
//!
//! The only module that knows the protocol. All servers get the same SQL: no `INSERT ... AS new`,
//! no `VALUES ROW`. Commits have a few connections of their own, and the small statements of the
//! ledger have others, so that registering a file never waits for a commit.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::batch::{Batch, ContentHash, RejectCode, Span};
use crate::dataset::{Dataset, Datasets};
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::frame::FrameKey;

use super::contents::digest_name;
use super::operators::ACKNOWLEDGED;
use super::{
    Acknowledged, Audit, Begun, Charge, Committed, Contents, Difference, Digest, FieldCount,
    FileState, IndexedTable, Indexes, Kept, KeptIndex, KeptReplay, KnownBytes, LastEvent,
    LedgerFile, Merged, Migration, NewFile, NodeId, OpenReject, Operators, ProblemDigest, Purge,
    Registered, RejectQuery, Remembered, Removed, Replay, Replayed, Retention, Schema, SeenFile,
    Settled, Sink, SinkOptions, Standing, SummaryStore, Totals, Unsummarised,
};
use errors::Failure;
use hosts::Hosts;
use pool::Pool;
use session::Session;

mod audit;
mod bind;
mod commit;
mod contents;
mod definitions;
mod doubled;
mod erase;
mod erasures;
mod ddl;
mod errors;
mod files;
mod hosts;
mod indexes;
mod inspect;
mod lease;
mod load_data;
mod login;
mod misfit;
mod nodes;
mod operators;
mod options;
mod pool;
mod register;
mod remove;
mod replicas;
mod retention;
mod retired;
mod schema;
mod search;
mod seen;
mod session;
mod settled;
mod standing;
mod summary;
mod trial;
mod views;

pub use bind::bind;
pub use replicas::{Lag, Replicas};

/// Connections for everything except commits: one for the stages, one for operators.
const CONTROL_CONNECTIONS: usize = 2;

/// Most tables whose indexes are built at a time, each on its own connection: a build keeps one core
/// of the server busy, and more of them would share its disk and its memory.
const BUILD_CONNECTIONS: usize = 2;

const READING_LEDGER: &str = "reading the ledger";
const READING_KEY: &str = "reading the key of the frames";
const READING_REJECTS: &str = "reading the rejects";
const DEFERRING: &str = "deferring indexes";

/// The sink of a `mysql://` URL.
#[derive(Debug)]
pub struct MysqlSink {
    hosts: Arc<Hosts>,
    commits: Pool,
    control: Pool,
    builds: Pool,
    beats: Pool,
    /// The session with the lock of the deferred indexes.
    charge: Mutex<Option<Session>>,
    writers: usize,
    rows_per_statement: usize,
}

impl MysqlSink {
    /// The sink of a URL. Connects once, so that a wrong password or a missing database is reported
    /// at the start.
    ///
    /// # Errors
    /// Fatal if it is not a database URL, or the server refuses the login. Transient if the server
    /// cannot be reached.
    pub async fn open(url: &str, options: &SinkOptions) -> Result<Self, Fault> {
        const DOING: &str = "connecting to the database";
        let hosts = Hosts::new(url, options.reread.clone());
        let hosts = Arc::new(hosts.map_err(|failure| failure.into_fault(DOING))?);
        let writers = options.connections.max(1);
        let sink = Self {
            commits: Pool::of_stages(hosts.clone(), writers),
            control: Pool::of_stages(hosts.clone(), CONTROL_CONNECTIONS),
            builds: Pool::new(hosts.clone(), BUILD_CONNECTIONS),
            beats: Pool::new(hosts.clone(), 1),
            hosts,
            charge: Mutex::default(),
            writers,
            rows_per_statement: options.rows_per_statement,
        };
        sink.control.on_session(DOING, async |_| Ok(())).await?;
        Ok(sink)
    }
}

impl Drop for MysqlSink {
    fn drop(&mut self) {
        if let Some(session) = self.charge.get_mut().take() {
            session.close();
        }
    }
}

#[async_trait]
impl Sink for MysqlSink {
    fn writers(&self) -> usize {
        self.writers
    }

    async fn register(
        &self,
        files: &[NewFile],
        datasets: &Datasets,
    ) -> Result<Vec<Registered>, Fault> {
        let work = async |session: &mut Session| register::register(session, files, datasets).await;
        self.control.on_session("registering files", work).await
    }

    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault> {
        let rows = self.rows_per_statement;
        let work = async |session: &mut Session| commit::commit(session, batches, rows).await;
        self.commits
            .on_session("committing to the database", work)
            .await
    }

    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault> {
        let work = async |session: &mut Session| files::coverage(session, file_nos).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn waiting(&self, file_nos: &[u32]) -> Result<Vec<(u32, String)>, Fault> {
        let work = async |session: &mut Session| files::waiting(session, file_nos).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault> {
        let work = async |session: &mut Session| files::settle(session, file_nos).await;
        self.control.on_session("settling files", work).await
    }

    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault> {
        let work = async |session: &mut Session| register::quarantine(session, file, reason).await;
        self.control
            .on_session("recording a quarantined file", work)
            .await
    }

    async fn is_past_limits(&self, file: &NewFile) -> Result<bool, Fault> {
        let work = async |session: &mut Session| files::is_past_limits(session, file).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn remember(&self, files: &[SeenFile]) -> Result<(), Fault> {
        let work = async |session: &mut Session| seen::remember(session, files).await;
        self.control.on_session("remembering files", work).await
    }

    async fn remembered(&self, paths: &[Digest]) -> Result<Remembered, Fault> {
        let work = async |session: &mut Session| seen::remembered(session, paths).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn lacking(&self, file_nos: &[u32], datasets: &Datasets) -> Result<Vec<u32>, Fault> {
        let work =
            async |session: &mut Session| settled::lacking(session, file_nos, datasets).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn known_bytes(&self, hashes: &[ContentHash]) -> Result<Vec<KnownBytes>, Fault> {
        let work = async |session: &mut Session| erase::known_bytes(session, hashes).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn begun(&self, max: usize) -> Result<Vec<Begun>, Fault> {
        let work = async |session: &mut Session| files::begun(session, max).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn remove(&self, file_no: u32, datasets: &Datasets) -> Result<Removed, Fault> {
        let work = async |session: &mut Session| remove::remove(session, file_no, datasets).await;
        self.control.on_session("removing a file", work).await
    }

    async fn end_removal(&self, file_no: u32) -> Result<(), Fault> {
        let work = async |session: &mut Session| remove::end(session, file_no).await;
        self.control.on_session("removing a file", work).await
    }
}

#[async_trait]
impl Schema for MysqlSink {
    async fn migrate(&self, datasets: &Datasets) -> Result<(), Fault> {
        self.migrate_as(datasets, Migration::default()).await
    }

    async fn migrate_as(&self, datasets: &Datasets, asked: Migration) -> Result<(), Fault> {
        const DOING: &str = "migrating the database";
        let work = async |session: &mut Session| schema::migrate(session, datasets, asked).await;
        self.control.on_session(DOING, work).await
    }

    async fn frame_key(&self) -> Result<FrameKey, Fault> {
        let work = async |session: &mut Session| files::frame_key(session).await;
        self.control.on_session(READING_KEY, work).await
    }

    async fn stored_frame_key(&self) -> Result<Option<FrameKey>, Fault> {
        let work = async |session: &mut Session| files::stored_frame_key(session).await;
        self.control.on_session(READING_KEY, work).await
    }

    async fn schema(&self, datasets: &Datasets) -> Result<Vec<String>, Fault> {
        const DOING: &str = "asking the database for its version";
        let statements =
            async |session: &mut Session| Ok(schema::statements(datasets, session.server.mariadb));
        self.control.on_session(DOING, statements).await
    }

    async fn inspect(&self, datasets: &Datasets) -> Result<Vec<Finding>, Fault> {
        const DOING: &str = "asking the database for its settings";
        let work = async |session: &mut Session| inspect::inspect(session, datasets).await;
        let mut findings = self.hosts.inspect().await;
        findings.extend(self.control.on_session(DOING, work).await?);
        Ok(findings)
    }
}

#[async_trait]
impl SummaryStore for MysqlSink {
    async fn summary_pending(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<Unsummarised>, Fault> {
        let work = async |session: &mut Session| summary::pending(session, dataset, max).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn summary_scan(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault> {
        const DOING: &str = "reading rows for the summary";
        let work = async |session: &mut Session| summary::scan(session, dataset, ids, max).await;
        self.control.on_session(DOING, work).await
    }

    async fn summary_merge(
        &self,
        dataset: &Arc<Dataset>,
        candidates: &[LastEvent],
        files: &[Unsummarised],
        leader: Option<&NodeId>,
    ) -> Result<Merged, Fault> {
        let work =
            async |s: &mut Session| summary::merge(s, dataset, candidates, files, leader).await;
        self.control.on_session("writing the summary", work).await
    }

    async fn summary_reset(&self, dataset: &Arc<Dataset>) -> Result<(), Fault> {
        let work = async |session: &mut Session| summary::reset(session, dataset).await;
        self.control.on_session("emptying the summary", work).await
    }

    async fn summary_head(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault> {
        let work = async |session: &mut Session| summary::head(session, dataset, max).await;
        self.control.on_session("reading the summary", work).await
    }
}

#[async_trait]
impl Contents for MysqlSink {
    async fn differences(&self, batch: &Batch) -> Result<Vec<Difference>, Fault> {
        let work = async |session: &mut Session| contents::differences(session, batch).await;
        self.commits.on_session("reading rows", work).await
    }

    async fn replayed(&self, span: Span) -> Result<Vec<u32>, Fault> {
        let work = async |session: &mut Session| contents::replayed(session, span).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn unsuperseded(&self, dataset: &Dataset, span: Span) -> Result<Vec<u32>, Fault> {
        let work = async |session: &mut Session| contents::gone(session, dataset, span).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn replay_of(&self, file_no: u32, ordinal: u32) -> Result<Option<KeptReplay>, Fault> {
        let work =
            async |session: &mut Session| contents::replay_of(session, file_no, ordinal).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn doubled(&self, file_no: u32, datasets: &Datasets) -> Result<Vec<u32>, Fault> {
        let work = async |session: &mut Session| doubled::doubled(session, file_no, datasets).await;
        self.control.on_session("reading rows", work).await
    }

    async fn separate(&self, record: &Batch) -> Result<bool, Fault> {
        let work = async |session: &mut Session| doubled::separate(session, record).await;
        self.control.on_session("removing a row", work).await
    }

    async fn loaded_by(
        &self,
        file_no: u32,
        datasets: &Datasets,
    ) -> Result<Option<Arc<Dataset>>, Fault> {
        let work =
            async |session: &mut Session| definitions::loaded_by(session, file_no, datasets).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn tables(&self) -> Result<Vec<(String, String)>, Fault> {
        let work = async |session: &mut Session| definitions::tables(session).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn acknowledge(&self, file_no: u32, digest: ProblemDigest) -> Result<(), Fault> {
        let name = digest_name(file_no);
        let work =
            async |session: &mut Session| contents::keep(session, &name, digest.to_vec()).await;
        self.control.on_session("acknowledging a file", work).await
    }

    async fn acknowledged(&self, file_no: u32) -> Result<Option<ProblemDigest>, Fault> {
        let name = digest_name(file_no);
        let work = async |session: &mut Session| contents::kept(session, &name).await;
        let kept = self.control.on_session(READING_LEDGER, work).await?;
        Ok(kept.and_then(|value| value.try_into().ok()))
    }

    async fn begin_removal(&self, file_no: u32, datasets: &Datasets) -> Result<(), Fault> {
        let work = async |session: &mut Session| remove::begin(session, file_no, datasets).await;
        let begun = self.control.on_session("removing a file", work).await;
        begun.map(drop)
    }
}

#[async_trait]
impl Operators for MysqlSink {
    async fn totals(&self) -> Result<Totals, Fault> {
        let work = async |session: &mut Session| operators::totals(session).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn last_settled(&self) -> Result<Vec<(String, i64)>, Fault> {
        let work = async |session: &mut Session| files::last_settled(session).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn acknowledged_totals(&self) -> Result<Acknowledged, Fault> {
        let work = async |session: &mut Session| contents::kept(session, ACKNOWLEDGED).await;
        let kept = self.control.on_session(READING_LEDGER, work).await?;
        Ok(Acknowledged::from_bytes(kept.as_deref()))
    }

    async fn acknowledge_totals(&self, totals: Acknowledged) -> Result<(), Fault> {
        let value = totals.to_bytes();
        let work = async |session: &mut Session| {
            contents::keep(session, ACKNOWLEDGED, value.clone()).await
        };
        self.control.on_session("acknowledging", work).await
    }

    async fn lower_acknowledged(&self, from: Acknowledged, to: Acknowledged) -> Result<(), Fault> {
        let work = async |session: &mut Session| {
            contents::replace(session, ACKNOWLEDGED, from.to_bytes(), to.to_bytes()).await
        };
        self.control
            .on_session("lowering what is acknowledged", work)
            .await
    }

    async fn release(&self, file_no: u32) -> Result<(), Fault> {
        let work = async |session: &mut Session| files::release(session, file_no).await;
        self.control.on_session("releasing a file", work).await
    }

    async fn files(
        &self,
        file_nos: Range<u32>,
        state: Option<FileState>,
        max: usize,
    ) -> Result<Vec<LedgerFile>, Fault> {
        let work =
            async |session: &mut Session| operators::files(session, &file_nos, state, max).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn kept_below(&self) -> Result<u32, Fault> {
        let work = async |session: &mut Session| operators::kept_below(session).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn count_rows(&self, dataset: &Arc<Dataset>) -> Result<u64, Fault> {
        let work = async |session: &mut Session| operators::count_rows(session, dataset).await;
        self.control.on_session("counting rows", work).await
    }

    async fn audit(&self, dataset: &Arc<Dataset>, file_nos: &[u32]) -> Result<Vec<Audit>, Fault> {
        let work = async |session: &mut Session| audit::audit(session, dataset, file_nos).await;
        self.control.on_session("auditing files", work).await
    }

    async fn row_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<u64>, Fault> {
        let work =
            async |session: &mut Session| operators::row_ids(session, dataset, &ids, max).await;
        self.control.on_session("reading ids", work).await
    }

    async fn count_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: &[Range<u64>],
    ) -> Result<Vec<u64>, Fault> {
        let work = async |session: &mut Session| operators::count_ids(session, dataset, ids).await;
        self.control.on_session("counting rows", work).await
    }

    async fn standing(&self, dataset: &Arc<Dataset>, id: u64) -> Result<Standing, Fault> {
        let work = async |session: &mut Session| audit::standing(session, dataset, id).await;
        self.control.on_session("finding a record", work).await
    }

    async fn reject_counts(&self) -> Result<Vec<(RejectCode, u64)>, Fault> {
        let work = async |session: &mut Session| operators::reject_counts(session).await;
        self.control.on_session(READING_REJECTS, work).await
    }

    async fn newest_rejects_by_field(
        &self,
        newest: usize,
        max: usize,
    ) -> Result<Vec<FieldCount>, Fault> {
        let work = async |session: &mut Session| {
            operators::newest_rejects_by_field(session, newest, max).await
        };
        self.control.on_session("counting the rejects", work).await
    }

    async fn find_rejects(
        &self,
        query: &RejectQuery,
        max: usize,
    ) -> Result<Vec<OpenReject>, Fault> {
        let work = async |session: &mut Session| operators::rejects(session, query, max).await;
        self.control.on_session(READING_REJECTS, work).await
    }

    async fn replay(&self, records: &[Replay]) -> Result<Vec<Replayed>, Fault> {
        let work = async |session: &mut Session| operators::replay(session, records).await;
        self.control.on_session("replaying rejects", work).await
    }

    async fn count_purge(&self, purge: &Purge) -> Result<u64, Fault> {
        let work = async |session: &mut Session| operators::count_purge(session, purge).await;
        self.control.on_session("counting rejects", work).await
    }

    async fn purge(&self, purge: &Purge, max: usize) -> Result<u64, Fault> {
        let work = async |session: &mut Session| operators::purge(session, purge, max).await;
        self.control.on_session("purging rejects", work).await
    }
}

#[async_trait]
impl Indexes for MysqlSink {
    async fn take_indexes(&self) -> Result<Charge, Fault> {
        let failed = |failure: Failure| failure.into_fault(DEFERRING);
        let mut charge = self.charge.lock().await;
        if let Some(mut session) = charge.take() {
            // On another server, the reservation would not hold against other processes.
            if self.hosts.prefers(&session) && session.run("DO 1").await.is_ok() {
                *charge = Some(session);
                return Ok(Charge::Taken);
            }
            session.abandon();
        }
        let mut session = self.builds.connect().await.map_err(failed)?;
        let taken = async {
            Ok(match indexes::unsupported(&mut session).await? {
                Some(why) => Charge::Unsupported(why),
                None if indexes::take(&mut session).await? => Charge::Taken,
                None => Charge::Elsewhere,
            })
        };
        match taken.await {
            Ok(Charge::Taken) => {
                *charge = Some(session);
                Ok(Charge::Taken)
            }
            Ok(other) => {
                session.close();
                Ok(other)
            }
            Err(failure) => {
                session.abandon();
                Err(failed(failure))
            }
        }
    }

    async fn leave_indexes(&self) {
        if let Some(session) = self.charge.lock().await.take() {
            session.close();
        }
    }

    async fn deferrable(&self, datasets: &Datasets) -> Result<Vec<IndexedTable>, Fault> {
        let work = async |session: &mut Session| indexes::deferrable(session, datasets).await;
        self.builds.on_session("reading the indexes", work).await
    }

    async fn defer_indexes(&self, table: &str) -> Result<Option<String>, Fault> {
        let mut charge = self.charge.lock().await;
        let Some(mut session) = charge.take() else {
            let cause = "the connection that reserves the indexes has ended";
            return Err(Fault::transient(Origin::Sink, DEFERRING, cause));
        };
        match indexes::defer(&mut session, table).await {
            Ok(refusal) => {
                *charge = Some(session);
                Ok(refusal)
            }
            Err(failure) => {
                session.abandon();
                Err(failure.into_fault(DEFERRING))
            }
        }
    }

    async fn kept_indexes(&self) -> Result<Vec<KeptIndex>, Fault> {
        let work = async |session: &mut Session| indexes::kept_indexes(session).await;
        self.control.on_session(READING_LEDGER, work).await
    }

    async fn build_indexes(&self, table: &str) -> Result<(), Fault> {
        let work = async |session: &mut Session| indexes::build(session, table).await;
        self.builds.on_session("building indexes", work).await
    }
}

#[async_trait]
impl Retention for MysqlSink {
    async fn keep_partitions(&self, dataset: &Arc<Dataset>, dry_run: bool) -> Result<Kept, Fault> {
        let work = async |session: &mut Session| retention::keep(session, dataset, dry_run).await;
        self.builds.on_session("keeping partitions", work).await
    }

    async fn end_removals(&self, datasets: &Datasets) -> Result<Vec<(String, Kept)>, Fault> {
        let work = async |session: &mut Session| retention::end_removals(session, datasets).await;
        self.builds.on_session("retiring rows", work).await
    }
}

#[cfg(test)]
mod hostile;
