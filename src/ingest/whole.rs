//! The records of other files that rows of a removed file superseded: they are stored again, so that
//! the end of a reload leaves each file whole.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::neighbours::Again;
use super::shared::Shared;
use crate::retry::{GivenUp, until_ok};

/// Makes these files whole, each with the number of its records that are missing. Names those whose
/// records stay missing.
pub(super) async fn make_whole(
    shared: &Arc<Shared>,
    files: Vec<(u32, u64)>,
) -> Result<(), GivenUp> {
    for (file_no, records) in files {
        let problem = match restore(shared, file_no).await? {
            Ok(again) => {
                if again.records > 0 {
                    let (rows, records) = (again.rows, again.records);
                    let what = "stored records again whose keys rows of a removed file had";
                    tracing::info!(file_no, records, rows, "{what}");
                }
                continue;
            }
            Err(problem) => problem,
        };
        shared.tally().missing.fetch_add(records, Relaxed);
        tracing::warn!(
            file_no,
            records,
            problem,
            "records of this file are missing: rows of a removed file had their keys; bring the file \
             again, and run `task_runner files restore` with this number"
        );
    }
    Ok(())
}

/// See [`Neighbours::restore`](super::Neighbours::restore).
pub(super) async fn restore(
    shared: &Arc<Shared>,
    file_no: u32,
) -> Result<Result<Again, String>, GivenUp> {
    let Some(neighbours) = &shared.ingest.neighbours else {
        return Ok(Err("this engine has no way to read the file".to_owned()));
    };
    let restore = || neighbours.restore(file_no);
    let restored = until_ok("storing records again", &shared.stop, |_| {}, restore).await?;
    if let Ok(again) = &restored {
        shared.tally().restored.fetch_add(again.rows, Relaxed);
    }
    Ok(restored)
}
