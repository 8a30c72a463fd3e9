//! Whether the ledger and the tables of the datasets belong together.
//!
//! Rows and ledger entries commit together. So each row of a table has a file number that the
//! ledger gave, and a table has rows if the ledger has files with rows of it. Otherwise the ledger
//! or the table was lost, restored from another time, or written by another program, and the
//! ledger's coverage is wrong.
//!
//! Pure: holds the queries, for both dialects, and the meaning of their results.

use crate::batch::row_id;
use crate::fault::{Fault, Origin};
use crate::finding::Finding;

/// How a table and the ledger contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// The ledger has files with rows of a table that does not exist.
    Missing {
        /// The table.
        table: String,
    },
    /// The ledger has files with rows of a table that is empty.
    Empty {
        /// The table.
        table: String,
    },
    /// The table has rows of files that are not in the ledger.
    Unknown {
        /// The table.
        table: String,
        /// The dataset of the table.
        dataset: String,
        /// The highest file number of its rows.
        in_table: u32,
        /// The highest file number of the ledger. 0 if it is empty.
        in_ledger: u32,
    },
}

/// The table of the ledger's files. It may be missing when `doctor` runs.
pub(super) const LEDGER: &str = "ingest_files";

/// The highest number of a file in the ledger, as SQL.
pub(super) const LAST_FILE: &str = "SELECT COALESCE(MAX(file_no), 0) FROM ingest_files";

/// SQL that returns a row if the ledger has a file with rows of a dataset. Its parameter is the
/// dataset's name.
pub(super) const HAS_ROWS: &str = "SELECT 1 FROM ingest_files WHERE dataset = ? AND state = 'settled' \
                                   AND records > rejects LIMIT 1";

/// The name of the ledger entry that keeps numbers apart; see [`kept`].
pub(super) const KEPT_NAME: &str = "(rows of another ledger have the numbers below)";

/// The highest number of a file among the rows of a table, as SQL. 0 if no row belongs to a file.
/// Rows with ids above those of the largest file number are left out: no record can have such an
/// id.
pub(super) fn last_in_table(table: &str) -> String {
    format!(
        "SELECT COALESCE(MAX(`id`), 0) >> 32 FROM `{table}` WHERE `id` >= {} AND `id` <= {}",
        row_id(1, 0),
        i64::MAX
    )
}

impl Mismatch {
    fn problem(&self) -> String {
        match self {
            Self::Missing { table } => {
                format!("the table `{table}` is missing, but the ledger has files with rows of it")
            }
            Self::Empty { table } => {
                format!("the table `{table}` is empty, but the ledger has files with rows of it")
            }
            Self::Unknown {
                table,
                in_table,
                in_ledger,
                ..
            } => format!(
                "the table `{table}` has rows of file {in_table}, and the ledger ends at file {in_ledger}"
            ),
        }
    }

    fn next_step(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "restore the table from a backup; or run `task_runner files forget` for its files, and \
                 load them again; or, to load all files again, drop the ingest_* tables as well and \
                 load the files of history"
            }
            Self::Empty { .. } => {
                "restore the table from a backup; or run `task_runner files restore` for its files, \
                 which stores their rows again from history; or, to load all files again, drop the \
                 ingest_* tables as well and load the files of history"
            }
            Self::Unknown { .. } => {
                "restore the ingest_* tables that belong to these rows; or remove the rows, if another \
                 program stores rows with ids of 4294967296 and above; or run `task_runner migrate \
                 --keep-rows`, which keeps the rows, gives higher numbers to new files, and counts \
                 files that were loaded before as new"
            }
        }
    }

    /// As a finding of `doctor`.
    pub(super) fn finding(&self) -> Finding {
        Finding::fail(self.problem(), self.next_step())
    }
}

/// The fault for these mismatches. `None` if there are none.
pub(super) fn fault(mismatches: &[Mismatch]) -> Option<Fault> {
    let first = mismatches.first()?;
    let problems: Vec<String> = mismatches.iter().map(Mismatch::problem).collect();
    let doing = "comparing the ledger with the tables";
    Some(Fault::fatal(Origin::Sink, doing, problems.join("; ")).with_next_step(first.next_step()))
}

/// A ledger entry with a number above those of all rows that are not in the ledger: new files get
/// higher numbers, so no record has the id of such a row. Its number, hash and dataset. `None` if
/// all rows are in the ledger, or if a row has the highest number that exists.
pub(super) fn kept(mismatches: &[Mismatch]) -> Option<(u32, [u8; 16], &str)> {
    let unknown = mismatches.iter().filter_map(|mismatch| match mismatch {
        Mismatch::Unknown {
            in_table, dataset, ..
        } => Some((*in_table, dataset.as_str())),
        Mismatch::Missing { .. } | Mismatch::Empty { .. } => None,
    });
    let (in_table, dataset) = unknown.max()?;
    let file_no = in_table + 1;
    let hash = blake3::hash(format!("{KEPT_NAME} {file_no}").as_bytes());
    let identity = hash.as_bytes()[..16].try_into().expect("16 bytes are cut");
    i32::try_from(file_no)
        .is_ok()
        .then_some((file_no, identity, dataset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_number_is_above_all_rows() {
        let unknown = |in_table, dataset: &str| Mismatch::Unknown {
            table: "t".to_owned(),
            dataset: dataset.to_owned(),
            in_table,
            in_ledger: 0,
        };
        let empty = Mismatch::Empty {
            table: "t".to_owned(),
        };
        assert_eq!(kept(std::slice::from_ref(&empty)), None);
        let mixed = [unknown(3, "a"), empty, unknown(7, "b")];
        let (file_no, _, dataset) = kept(&mixed).unwrap();
        assert_eq!((file_no, dataset), (8, "b"));
        assert_eq!(kept(&[unknown(i32::MAX as u32, "a")]), None);
    }
}
