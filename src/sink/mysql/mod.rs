//! The sink in MySQL and MariaDB, and in what speaks their protocol.
//!
//! Owns the protocol: nothing else knows of it. One statement language for all servers: no
//! `INSERT ... AS new`, no `VALUES ROW`. Batches go in over a few connections of their own; the
//! ledger's small statements have others, so that registering a file never waits behind a commit.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use crate::batch::{Batch, RejectCode};
use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;
use crate::finding::Finding;

use super::cells::by_dataset;
use super::{
    Audit, Committed, FileEntry, FileState, LastEvent, Ledger, LedgerFile, NewFile, OpenReject,
    Purge, Registered, RejectQuery, Replayed, Settled, Sink, SinkOptions, Standing, Totals,
    Unsummarised,
};
use client::{Address, Values};
use commit::Way;
use errors::Failure;
use session::{Lease, Mode, Pool};

mod bind;
mod client;
mod commit;
mod errors;
mod inspect;
mod ledger;
mod load_data;
mod operators;
mod schema;
mod session;
mod summary;

/// Connections for everything but commits: one for the stages, one for operators.
const LEDGER_CONNECTIONS: usize = 2;

/// The sink of a `mysql://` URL.
#[derive(Debug)]
pub struct MysqlSink {
    commits: Pool,
    ledger: Pool,
    writers: usize,
    rows_per_statement: usize,
}

impl MysqlSink {
    /// The sink of a URL. Connects once, so that a wrong password or a missing database shows at once.
    ///
    /// # Errors
    /// Fatal where it is not a database URL, or the server refuses it; transient where the server is
    /// not there.
    pub async fn open(url: &str, options: &SinkOptions) -> Result<Self, Fault> {
        const DOING: &str = "connecting to the database";
        let address =
            Address::parse(url).map_err(|error| Failure::from(error).into_fault(DOING))?;
        let writers = options.connections.max(1);
        let sink = Self {
            commits: Pool::new(address.clone(), Mode::Transactions, writers),
            ledger: Pool::new(address, Mode::AutoCommit, LEDGER_CONNECTIONS),
            writers,
            rows_per_statement: options.rows_per_statement,
        };
        sink.lease(DOING).await?.finish(DOING, Ok(())).await?;
        Ok(sink)
    }

    async fn lease(&self, doing: &str) -> Result<Lease<'_>, Fault> {
        self.ledger
            .session()
            .await
            .map_err(|failure| failure.into_fault(doing))
    }
}

/// Appends the rows of batches of one dataset as a commit sends them to MariaDB: the payload of a bulk
/// execution. For benchmarks, so that no server slows them down.
pub fn bind(batches: &[Batch], payload: &mut Vec<u8>) {
    for rows in by_dataset(batches) {
        let insert = commit::row_insert(&rows, Way::Plain);
        let mut values = Values::in_bulk(payload, 0, &insert.types);
        bind::rows(&rows, 0..rows.len(), &mut values);
    }
}

#[async_trait]
impl Sink for MysqlSink {
    async fn migrate(&self, datasets: &Datasets) -> Result<(), Fault> {
        let mut lease = self.lease("migrating the database").await?;
        // A failed migration may hold its lock: the session is kept only after success.
        schema::migrate(&mut lease.session, datasets).await?;
        lease.finish("migrating the database", Ok(())).await
    }

    fn writers(&self) -> usize {
        self.writers
    }

    async fn inspect(&self, datasets: &Datasets) -> Result<Vec<Finding>, Fault> {
        const DOING: &str = "asking the database how it is";
        let mut lease = self.lease(DOING).await?;
        let outcome = inspect::inspect(&mut lease.session, datasets).await;
        lease.finish(DOING, outcome).await
    }

    async fn schema(&self, datasets: &Datasets) -> Result<Vec<String>, Fault> {
        const DOING: &str = "asking the database what it is";
        let lease = self.lease(DOING).await?;
        let statements = schema::statements(datasets, lease.session.server.mariadb);
        lease.finish(DOING, Ok(statements)).await
    }

    async fn register(&self, files: &[NewFile]) -> Result<Vec<Registered>, Fault> {
        const DOING: &str = "registering files";
        let mut lease = self.lease(DOING).await?;
        let outcome = ledger::register(&mut lease.session, files).await;
        lease.finish(DOING, outcome).await
    }

    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault> {
        commit::commit(&self.commits, batches, self.rows_per_statement).await
    }

    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault> {
        const DOING: &str = "reading the ledger";
        let mut lease = self.lease(DOING).await?;
        let outcome = ledger::coverage(&mut lease.session, file_nos).await;
        lease.finish(DOING, outcome).await
    }

    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault> {
        const DOING: &str = "settling files";
        let mut lease = self.lease(DOING).await?;
        let outcome = ledger::settle(&mut lease.session, file_nos).await;
        lease.finish(DOING, outcome).await
    }

    async fn quarantine(&self, file: &NewFile, reason: &str) -> Result<(), Fault> {
        const DOING: &str = "noting a quarantined file";
        let mut lease = self.lease(DOING).await?;
        let outcome = ledger::quarantine(&mut lease.session, file, reason).await;
        lease.finish(DOING, outcome).await
    }

    async fn summary_pending(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<Unsummarised>, Fault> {
        const DOING: &str = "reading the ledger";
        let mut lease = self.lease(DOING).await?;
        let outcome = summary::pending(&mut lease.session, dataset, max).await;
        lease.finish(DOING, outcome).await
    }

    async fn summary_scan(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault> {
        const DOING: &str = "reading rows for the summary";
        let mut lease = self.lease(DOING).await?;
        let outcome = summary::scan(&mut lease.session, dataset, ids, max).await;
        lease.finish(DOING, outcome).await
    }

    async fn summary_merge(
        &self,
        dataset: &Arc<Dataset>,
        candidates: &[LastEvent],
        files: &[Unsummarised],
    ) -> Result<(), Fault> {
        const DOING: &str = "writing the summary";
        let mut lease = self.lease(DOING).await?;
        let outcome = summary::merge(&mut lease.session, dataset, candidates, files).await;
        lease.finish(DOING, outcome).await
    }

    async fn summary_reset(&self, dataset: &Arc<Dataset>) -> Result<(), Fault> {
        const DOING: &str = "emptying the summary";
        let mut lease = self.lease(DOING).await?;
        let outcome = summary::reset(&mut lease.session, dataset).await;
        lease.finish(DOING, outcome).await
    }

    async fn summary_head(
        &self,
        dataset: &Arc<Dataset>,
        max: usize,
    ) -> Result<Vec<LastEvent>, Fault> {
        const DOING: &str = "reading the summary";
        let mut lease = self.lease(DOING).await?;
        let outcome = summary::head(&mut lease.session, dataset, max).await;
        lease.finish(DOING, outcome).await
    }

    async fn totals(&self) -> Result<Totals, Fault> {
        const DOING: &str = "reading the ledger";
        let mut lease = self.lease(DOING).await?;
        let outcome = ledger::totals(&mut lease.session).await;
        lease.finish(DOING, outcome).await
    }

    async fn files(&self, max: usize) -> Result<Vec<FileEntry>, Fault> {
        let files = self.ledger_files(0..u32::MAX, None, max).await?;
        Ok(files.into_iter().map(|file| file.entry).collect())
    }

    async fn reject_codes(&self, max: usize) -> Result<Vec<RejectCode>, Fault> {
        const DOING: &str = "reading the rejects";
        let mut lease = self.lease(DOING).await?;
        let outcome = ledger::reject_codes(&mut lease.session, max).await;
        lease.finish(DOING, outcome).await
    }

    async fn count_rows(&self, dataset: &Arc<Dataset>) -> Result<u64, Fault> {
        const DOING: &str = "counting rows";
        let mut lease = self.lease(DOING).await?;
        let outcome = summary::count(&mut lease.session, dataset).await;
        lease.finish(DOING, outcome).await
    }
}

#[async_trait]
impl Ledger for MysqlSink {
    async fn ledger_files(
        &self,
        file_nos: Range<u32>,
        state: Option<FileState>,
        max: usize,
    ) -> Result<Vec<LedgerFile>, Fault> {
        const DOING: &str = "reading the ledger";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::files(&mut lease.session, &file_nos, state, max).await;
        lease.finish(DOING, outcome).await
    }

    async fn audit(&self, dataset: &Arc<Dataset>, file_nos: &[u32]) -> Result<Vec<Audit>, Fault> {
        const DOING: &str = "auditing files";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::audit(&mut lease.session, dataset, file_nos).await;
        lease.finish(DOING, outcome).await
    }

    async fn row_ids(
        &self,
        dataset: &Arc<Dataset>,
        ids: Range<u64>,
        max: usize,
    ) -> Result<Vec<u64>, Fault> {
        const DOING: &str = "reading ids";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::row_ids(&mut lease.session, dataset, &ids, max).await;
        lease.finish(DOING, outcome).await
    }

    async fn standing(&self, dataset: &Arc<Dataset>, id: u64) -> Result<Standing, Fault> {
        const DOING: &str = "looking for a record";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::standing(&mut lease.session, dataset, id).await;
        lease.finish(DOING, outcome).await
    }

    async fn find_rejects(
        &self,
        query: &RejectQuery,
        max: usize,
    ) -> Result<Vec<OpenReject>, Fault> {
        const DOING: &str = "reading the rejects";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::rejects(&mut lease.session, query, max).await;
        lease.finish(DOING, outcome).await
    }

    async fn replay(&self, records: &[Batch]) -> Result<Vec<Replayed>, Fault> {
        const DOING: &str = "replaying rejects";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::replay(&mut lease.session, records).await;
        lease.finish(DOING, outcome).await
    }

    async fn count_purge(&self, purge: &Purge) -> Result<u64, Fault> {
        const DOING: &str = "counting rejects";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::count_purge(&mut lease.session, purge).await;
        lease.finish(DOING, outcome).await
    }

    async fn purge(&self, purge: &Purge, max: usize) -> Result<u64, Fault> {
        const DOING: &str = "purging rejects";
        let mut lease = self.lease(DOING).await?;
        let outcome = operators::purge(&mut lease.session, purge, max).await;
        lease.finish(DOING, outcome).await
    }
}
