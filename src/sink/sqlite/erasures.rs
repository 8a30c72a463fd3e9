//! [`Erasures`] of SQLite: each method is a transaction.

use async_trait::async_trait;
use rusqlite::Transaction;
use tokio::sync::oneshot;

use crate::batch::ContentHash;
use crate::dataset::Datasets;
use crate::fault::Fault;
use crate::sink::erasures::{self, literal};
use crate::sink::{Blank, Erasure, Erasures};

use super::{SqliteSink, erase};

#[async_trait]
impl Erasures for SqliteSink {
    async fn erase(&self, id: u64, datasets: &Datasets) -> Result<Erasure, Fault> {
        let datasets = datasets.clone();
        let work = move |db: &Transaction<'_>| erase::erase(db, id, &datasets);
        let erasure = self.transact("erasing a record", work).await?;
        self.empty_log().await;
        Ok(erasure)
    }

    async fn erased(&self, file_no: u32) -> Result<Vec<u32>, Fault> {
        let work = move |db: &Transaction<'_>| erase::numbers(db, &erasures::erased(file_no));
        self.transact("reading the ledger", work).await
    }

    async fn with_content(&self, content: ContentHash) -> Result<Vec<u32>, Fault> {
        let sql = erasures::with_content(&literal(content));
        let work = move |db: &Transaction<'_>| erase::numbers(db, &sql);
        self.transact("reading the ledger", work).await
    }

    async fn begin_blank(&self, blank: Blank) -> Result<(), Fault> {
        let work = move |db: &Transaction<'_>| erase::insert(db, &blank);
        self.transact("erasing a record", work).await
    }

    async fn end_blank(&self, blank: Blank, file_nos: &[u32]) -> Result<(), Fault> {
        let file_nos = file_nos.to_vec();
        let work = move |db: &Transaction<'_>| erase::end_blank(db, &blank, &file_nos);
        self.transact("erasing a record", work).await
    }
}

impl SqliteSink {
    /// Moves what is in the log to the file, and empties the log. Does less while another process
    /// reads.
    async fn empty_log(&self) {
        let (done, outcome) = oneshot::channel();
        let work = move |connection: &mut rusqlite::Connection| {
            let emptied = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
            if let Err(error) = emptied {
                tracing::debug!(%error, "the log of the database is not emptied");
            }
            done.send(()).ok();
        };
        self.jobs
            .send(Box::new(work))
            .expect("the thread ends only by a panic, or when this is dropped");
        outcome.await.ok();
    }
}
