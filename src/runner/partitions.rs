//! Keeps the partitions of the datasets' tables: at the end of a load, and in the process that leads the
//! summary.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use crate::dataset::Dataset;
use crate::sink::{Kept, PARTITIONS_FULL, ROWS_MOVED_MAX};
use crate::telemetry;

/// Pause between two rounds. Partitions are days or months long, and are made three ahead.
const INTERVAL: Duration = Duration::from_secs(3_600);

/// Pause before the next round if a table was in use, the database did not answer, or rows were not in
/// the summary yet.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

impl Engine {
    /// Keeps the partitions of all datasets once. A failure is logged, since nothing waits for it.
    /// Returns whether the next round is due soon.
    pub(super) async fn keep_partitions(&self) -> bool {
        let Some(database) = self.database.as_deref() else {
            return false;
        };
        let mut is_due = false;
        match database.end_removals(&self.datasets).await {
            Ok(ended) => {
                for (table, kept) in ended {
                    is_due |= !kept.waiting.is_empty();
                    log(&table, None, &kept);
                }
            }
            Err(fault) => {
                is_due |= fault.is_transient();
                tracing::warn!(%fault, "removals that were begun are not ended yet; tries again");
            }
        }
        for dataset in self.datasets.iter().filter(|it| it.partition_by.is_some()) {
            let table = &dataset.table;
            match database.keep_partitions(dataset, false).await {
                Ok(kept) => {
                    is_due |= !kept.waiting.is_empty();
                    log(table, Some(dataset), &kept);
                }
                Err(fault) if fault.is_transient() => {
                    is_due = true;
                    tracing::warn!(table, %fault, "its partitions are not kept yet; tries again");
                }
                Err(fault) => {
                    let next_step = fault.next_step.as_deref().unwrap_or_default();
                    tracing::error!(table, %fault, next_step, "its partitions are not kept");
                }
            }
        }
        is_due
    }

    /// Keeps the partitions while this process leads the summary, until the service stops.
    pub(super) async fn go_on_keeping_partitions(&self, stop: &CancellationToken) {
        while self.until_leading(stop).await.is_some() {
            let is_due = tokio::select! {
                is_due = self.keep_partitions() => is_due,
                // The next process continues.
                () = stop.cancelled() => return,
            };
            let pause = if is_due { AGAIN_AFTER } else { INTERVAL };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Logs and counts what was done for a table.
fn log(table: &str, dataset: Option<&Dataset>, kept: &Kept) {
    if let Some(made) = &kept.made {
        tracing::info!(table, made, "partitions made");
    }
    for partition in &kept.retired {
        let (partition, rows) = (&partition.name, partition.rows);
        tracing::info!(
            table,
            partition,
            rows,
            "rows retired: they are no longer kept"
        );
        if let Some(dataset) = dataset {
            telemetry::retired(&dataset.name, rows);
        }
    }
    for partition in &kept.waiting {
        tracing::warn!(
            table,
            partition,
            "rows are not retired until their files are in the summary; `task_runner files list --state pending` \
             shows files that are not loaded to their end"
        );
    }
    if kept.is_full {
        tracing::error!(table, "{PARTITIONS_FULL}");
    }
    if kept.is_crowded {
        tracing::error!(
            table,
            "its last partition has more than {ROWS_MOVED_MAX} rows, so no partitions are made: divide it \
             with ALTER TABLE … REORGANIZE PARTITION, or correct the times of its rows"
        );
    } else if kept.in_last > 0 {
        let rows = kept.in_last;
        tracing::warn!(table, rows, "its last partition has rows of a far future");
    }
}
