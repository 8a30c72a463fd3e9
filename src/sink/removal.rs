//! The rules of removing a file that both dialects share: which table has its rows, and what the
//! operator reads if they cannot be removed. Pure: holds queries and texts.

use crate::batch::row_id;
use crate::dataset::{Dataset, Datasets};

/// The next step if the table with the rows of a file is missing.
pub(super) const MISSING: &str = "if the table was renamed, rename it back, or give the dataset of \
    the file its new name as `table`; if it was dropped, create an empty one with its name and a \
    column `id` of the type BIGINT UNSIGNED; then run this again";

/// The next step if a table does not let its rows be removed.
pub(super) const REFUSED: &str = "remove the rows of other tables that refer to them, or the trigger \
    or the missing right that prevents it, and then run `task_runner files retry` for a file in \
    quarantine, or `task_runner files forget` again";

/// The next step if several rows have the ids of records.
pub(super) const DOUBLED: &str = "run `task_runner files forget`, which finds the row of each record by \
    its file; if no directory has the file, remove the rows of the other program, or give them other \
    ids, and then run this again";

/// The query, for both dialects, for [`Removed::superseded`](super::Removed::superseded).
pub(super) fn superseded_by(file_no: u32) -> String {
    format!(
        "SELECT file_no, COUNT(*) FROM ingest_superseded WHERE winner BETWEEN {} AND {} AND file_no <> \
         {file_no} GROUP BY file_no ORDER BY file_no",
        row_id(file_no, 0),
        row_id(file_no, u32::MAX)
    )
}

/// The statement, for both dialects, for [`Sink::end_removal`](super::Sink::end_removal).
pub(super) fn end(file_no: u32) -> String {
    format!("DELETE FROM ingest_files WHERE file_no = {file_no} AND state = 'removing'")
}

/// A place where the rows of a file may be if the table of its definition is missing.
pub(super) enum Instead<'a> {
    /// The present dataset still has that table, so each start reports that it is missing: it was
    /// dropped, and its rows with it.
    Dropped,
    /// The table that the dataset has now: the table may have been renamed.
    Present(&'a str),
    /// There is none.
    Nowhere,
}

/// Where the rows of a file of `dataset` may be if the table of its definition is missing.
pub(super) fn instead<'a>(dataset: &Dataset, datasets: &'a Datasets) -> Instead<'a> {
    match datasets.by_name(&dataset.name) {
        Some(present) if present.table == dataset.table => Instead::Dropped,
        Some(present) => Instead::Present(&present.table),
        None => Instead::Nowhere,
    }
}

/// The problem of a file whose rows are in a table that is missing.
pub(super) fn missing(file_no: u32, dataset: &Dataset, instead: &Instead<'_>) -> String {
    let table = &dataset.table;
    let more = match instead {
        Instead::Present(present) => {
            format!("; the table `{present}`, which its dataset has now, has none of them")
        }
        Instead::Dropped | Instead::Nowhere => String::new(),
    };
    format!("the rows of file {file_no} are in the table `{table}`, which is missing{more}")
}

/// The problem of a table that does not let its rows be removed.
pub(super) fn refused(file_no: u32, table: &str, cause: impl std::fmt::Display) -> String {
    format!("the rows of file {file_no} cannot be removed from the table `{table}`: {cause}")
}

/// The problem of a table with several rows for an id.
pub(super) fn doubled(file_no: u32, table: &str, ordinals: &[u32]) -> String {
    let first = ordinals.first().copied().unwrap_or_default();
    format!(
        "the table `{table}` has several rows with the id of record {file_no}:{first}, and of {} more; \
         only one of them is that of the record",
        ordinals.len().saturating_sub(1)
    )
}

/// A query, for both dialects, for the number of a file's records that are no rows, with those whose
/// rows are retired.
pub(super) fn no_rows(file_no: u32) -> String {
    format!(
        "SELECT COUNT(*) + (SELECT COALESCE(MAX(records), 0) FROM ingest_retired WHERE file_no = \
         {file_no}) FROM (SELECT ordinal FROM ingest_rejects WHERE file_no = {file_no} UNION \
         SELECT ordinal FROM ingest_purged WHERE file_no = {file_no} UNION SELECT ordinal FROM \
         ingest_erased WHERE file_no = {file_no} UNION SELECT ordinal FROM ingest_superseded WHERE file_no = {file_no}) r"
    )
}
