//! The part of the seam that keeps the partitions of tables: makes them ahead, and removes those whose
//! rows are no longer kept.

use std::sync::Arc;

use async_trait::async_trait;

use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;

/// The operations for partitions. Contract and errors: see [`sink`](super).
#[async_trait]
pub trait Retention: Send + Sync {
    /// Makes partitions of the dataset's table ahead, and removes those of which no row is kept any
    /// more. With `dry_run`, reports what it would do, and changes nothing.
    ///
    /// It may be killed at any point: the ledger has each step, and the next call continues.
    /// Meanwhile each record of a removed partition is a row, or is counted as retired. Several
    /// processes may call it at once; one of them works. Does nothing for a dataset without
    /// partitions.
    ///
    /// Transient if the table is in use for longer than a few seconds: nothing waits behind it. Fatal
    /// if the account may not ALTER, CREATE and DROP.
    ///
    /// A database without partitions refuses such a dataset when it is migrated, and does nothing here.
    async fn keep_partitions(
        &self,
        _dataset: &Arc<Dataset>,
        _dry_run: bool,
    ) -> Result<Kept, Fault> {
        Ok(Kept::default())
    }

    /// Ends removals that were begun for tables which no dataset with partitions has any more: its
    /// settings were changed, or it was removed. What is still in the table stays. What was taken out
    /// of it is counted as retired. Returns the tables about which there is something to say.
    ///
    /// Errors and kills: as for [`keep_partitions`](Self::keep_partitions).
    async fn end_removals(&self, _datasets: &Datasets) -> Result<Vec<(String, Kept)>, Fault> {
        Ok(Vec::new())
    }
}

/// What [`Retention::keep_partitions`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Whether another process does it now.
    pub elsewhere: bool,
    /// The clause that made partitions ahead. `None` if they existed.
    pub made: Option<String>,
    /// Whether partitions ahead were not made, since the last one has too many rows to be divided.
    pub is_crowded: bool,
    /// Whether partitions ahead were not made, since the table would have more than a server allows.
    pub is_full: bool,
    /// Rows of the last partition, which takes what fits no other: at most [`ROWS_MOVED_MAX`] + 1.
    pub in_last: u64,
    /// Partitions whose rows were removed.
    pub retired: Vec<RetiredPartition>,
    /// Partitions that are not retired until rows of them are in the summary.
    pub waiting: Vec<String>,
}

/// A partition whose rows were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredPartition {
    /// Its name.
    pub name: String,
    /// Its rows.
    pub rows: u64,
}

/// Most rows of the last partition that are copied when it is divided: with more, statements would wait
/// for the copy.
pub const ROWS_MOVED_MAX: u64 = 10_000;

/// What to do about [`Kept::is_full`].
pub const PARTITIONS_FULL: &str = "no partitions made: it would have more than 8192, which the server \
    refuses; make one of several old ones with ALTER TABLE … REORGANIZE PARTITION, or set \
    `partition_every = \"month\"`";
