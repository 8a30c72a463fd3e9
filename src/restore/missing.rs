//! Stores records of a file again that are missing from the tables.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::contents::{Comparison, Wrong};
use crate::batch::Batch;
use crate::config::Settings;
use crate::coverage;
use crate::fault::Fault;
use crate::ingest::{self, Again};
use crate::sink::{Database, DifferenceKind, FileState, LedgerFile};
use crate::spare::Spared;

/// Records that are stored again in one transaction.
const RECORDS_AT_ONCE: usize = 500;

/// What was stored again of a file.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) rows: u64,
    pub(crate) rejects: u64,
    /// Records that the row of another record supersedes.
    pub(crate) superseded: u64,
    /// Rows that differ from their records. They stay as they are.
    pub(crate) others: u64,
}

impl Restored {
    /// The records that were stored again.
    pub(crate) const fn records(&self) -> u64 {
        self.rows + self.rejects + self.superseded
    }
}

/// Stores the missing records of a file again, at the pace of `spared`. Of one that is not settled,
/// only those that the ledger covers: a load stores the others.
///
/// # Errors
/// The file or the database cannot be read, or a commit fails.
pub(crate) async fn missing(
    settings: &Settings,
    database: &dyn Database,
    file: &LedgerFile,
    spared: &Spared,
) -> anyhow::Result<Restored> {
    let covered = database.coverage(&[file.entry.file_no]).await?.remove(0);
    if covered.is_empty() {
        return Ok(Restored::default());
    }
    let comparison = Comparison::open(settings, database, file).await?;
    let is_covered = |ordinal: u32| {
        let ordinal = u64::from(ordinal);
        coverage::holds(&covered, &(ordinal..ordinal + 1))
    };
    store(database, comparison, is_covered, Some(spared)).await
}

/// Decides again about the records of a file that rows superseded which are gone. Other records that
/// are missing stay missing: an operator may have removed their rows. The inner error says why the
/// file cannot be read.
///
/// # Errors
/// The database does not answer now.
pub(crate) async fn superseded(
    settings: &Settings,
    database: &dyn Database,
    file_no: u32,
) -> Result<Result<Restored, String>, Fault> {
    // A load may move the file while it is looked for.
    let mut result = once(settings, database, file_no).await;
    if result.is_err() {
        result = once(settings, database, file_no).await;
    }
    match result {
        Ok(restored) => Ok(Ok(restored)),
        Err(error) => match error.downcast::<Fault>() {
            Ok(fault) if fault.is_transient() => Err(fault),
            Ok(fault) => Ok(Err(fault.to_string())),
            Err(error) => Ok(Err(format!("{error:#}"))),
        },
    }
}

async fn once(
    settings: &Settings,
    database: &dyn Database,
    file_no: u32,
) -> anyhow::Result<Restored> {
    let numbers = file_no..file_no.saturating_add(1);
    let file = database.files(numbers, None, 1).await?.pop();
    // The records of a file that is being removed go as well.
    let Some(file) = file.filter(|file| file.entry.state != FileState::Removing) else {
        return Ok(Restored::default());
    };
    let mut comparison = Comparison::open(settings, database, &file).await?;
    let wanted = comparison.keep_superseded().await?;
    let is_wanted = |ordinal| wanted.binary_search(&ordinal).is_ok();
    store(database, comparison, is_wanted, None).await
}

/// Stores the missing records again that are `wanted`, and counts the other differences.
async fn store(
    database: &dyn Database,
    comparison: Comparison<'_>,
    wanted: impl Fn(u32) -> bool,
    spared: Option<&Spared>,
) -> anyhow::Result<Restored> {
    let mut restored = Restored::default();
    let found = async |wrong: Vec<Wrong>| {
        let mut missing = Vec::new();
        for wrong in wrong {
            match (wrong.difference.kind, wrong.record) {
                (DifferenceKind::Missing, Some(record)) => {
                    if wanted(wrong.difference.ordinal) {
                        missing.push(record);
                    }
                }
                _ => restored.others += 1,
            }
        }
        // A commit takes the columns of a dataset from its first batch, and replays may have
        // others.
        for alike in missing.chunk_by(|a, b| a.dataset == b.dataset) {
            for records in alike.chunks(RECORDS_AT_ONCE) {
                if let Some(spared) = spared {
                    spared.turn(records.len()).await;
                }
                let committed = database.commit(records).await?;
                restored.rows += committed.rows;
                restored.superseded += committed.superseded;
                let of_record = |record: &Batch| record.rejects.len() as u64;
                restored.rejects += records.iter().map(of_record).sum::<u64>();
                restored.rejects += committed.refused.len() as u64;
            }
        }
        Ok(())
    };
    comparison.run(&mut { found }).await?;
    Ok(restored)
}

/// What a load needs to store records of other files again, whose superseding rows it removes.
pub(crate) struct Neighbours {
    pub(crate) settings: Settings,
    pub(crate) database: Arc<dyn Database>,
}

#[async_trait]
impl ingest::Neighbours for Neighbours {
    async fn restore(&self, file_no: u32) -> Result<Result<Again, String>, Fault> {
        let (settings, database) = (self.settings.clone(), self.database.clone());
        let runtime = Handle::current();
        let (mut answer, restored) = oneshot::channel();
        // Reading and parsing the file takes a thread.
        tokio::task::spawn_blocking(move || {
            let restored = runtime.block_on(async {
                tokio::select! {
                    // The caller has given up.
                    () = answer.closed() => None,
                    restored = superseded(&settings, database.as_ref(), file_no) => Some(restored),
                }
            });
            if let Some(restored) = restored {
                let _ = answer.send(restored);
            }
        });
        let restored = restored.await.expect("the thread answers")?;
        Ok(restored.map(|restored| Again {
            rows: restored.rows,
            records: restored.records(),
        }))
    }
}
