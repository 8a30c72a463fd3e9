//! Whether the ledger and the tables of the datasets belong together.
//!
//! Rows and ledger entries commit together. So each row of a table has a file number that the
//! ledger gave, and the table has rows of each file that has rows by the ledger. Otherwise the
//! ledger or the table was lost, restored from another time, or written by another program, and the
//! ledger's coverage is wrong.
//!
//! A start compares the highest numbers alone, since it cannot read every row: that of the rows
//! with that of the ledger, and the newest files of the ledger with the rows. `verify` compares
//! each file.
//!
//! Pure: holds the queries, for both dialects, and the meaning of their results.

use std::borrow::Cow;

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
    /// The ledger has a file with rows of a table that has none of these rows.
    Lost {
        /// The table.
        table: String,
        /// The number of the file.
        file_no: u32,
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

/// SQL for the newest settled file of a dataset that has rows, and the newest pending or quarantined
/// file that has rows, with a further condition. Its parameters are the dataset's name, twice.
pub(super) fn files_with_rows(condition: &str) -> String {
    format!(
        "SELECT file_no FROM (SELECT file_no FROM ingest_files WHERE dataset = ? AND state = 'settled' \
         AND records > rejects + (SELECT COUNT(*) FROM ingest_superseded u WHERE u.file_no = \
         ingest_files.file_no) + (SELECT COUNT(*) FROM ingest_erased z WHERE z.file_no = \
         ingest_files.file_no) + (SELECT COALESCE(MAX(t.records), 0) FROM ingest_retired t WHERE t.file_no \
         = ingest_files.file_no){condition} ORDER BY file_no DESC LIMIT 1) s UNION ALL SELECT file_no FROM \
         (SELECT f.file_no FROM ingest_files f JOIN ingest_frames e ON e.file_no = f.file_no WHERE \
         f.dataset = ? AND f.state IN ('pending', 'quarantined'){condition} AND NOT EXISTS (SELECT 1 FROM \
         ingest_retired t WHERE t.file_no = f.file_no) AND e.records > (SELECT \
         COUNT(*) FROM ingest_rejects r WHERE r.file_no = e.file_no AND r.ordinal >= e.first_ordinal AND \
         r.ordinal < e.first_ordinal + e.records) + (SELECT COUNT(*) FROM ingest_purged p WHERE p.file_no \
         = e.file_no AND p.ordinal >= e.first_ordinal AND p.ordinal < e.first_ordinal + e.records) + (SELECT \
         COUNT(*) FROM ingest_superseded u WHERE u.file_no = e.file_no AND u.ordinal >= e.first_ordinal \
         AND u.ordinal < e.first_ordinal + e.records) ORDER \
         BY f.file_no DESC LIMIT 1) o"
    )
}

/// The name of the ledger entry that keeps numbers apart; see [`kept`].
pub(super) const KEPT_NAME: &str = "(rows of another ledger have the numbers below)";

/// A condition, as SQL, that an entry of the ledger is a file, and not the one that keeps numbers
/// apart. All that lists or counts files for operators has it.
pub(super) fn is_file() -> String {
    format!("NOT (name = '{KEPT_NAME}' AND bytes = 0 AND records = 0)")
}

/// SQL for the highest number of an entry that keeps numbers apart. 0 if there is none.
pub(super) fn last_kept() -> String {
    format!(
        "SELECT COALESCE(MAX(file_no), 0) FROM ingest_files WHERE NOT ({})",
        is_file()
    )
}

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

/// SQL that returns a row if a table has a row of a file.
pub(super) fn has_row_of(table: &str, file_no: u32) -> String {
    format!(
        "SELECT 1 FROM `{table}` WHERE `id` >= {} AND `id` <= {} LIMIT 1",
        row_id(file_no, 0),
        row_id(file_no, u32::MAX)
    )
}

/// The statement that removes the rows of a table that the ledger does not cover. `last` is the highest
/// number of the ledger.
fn remove_uncovered(table: &str, last: u32) -> String {
    let first = u64::from(last) + 1;
    format!(
        "DELETE FROM `{table}` WHERE id >= (SELECT COALESCE(MIN(o.file_no), {first}) << 32 FROM \
         ingest_files o WHERE o.state <> 'settled') AND id <= {} AND NOT EXISTS (SELECT 1 FROM \
         ingest_files f WHERE f.file_no = id >> 32 AND f.state = 'settled') AND NOT EXISTS (SELECT 1 \
         FROM ingest_frames e WHERE e.file_no = id >> 32 AND (id & 4294967295) >= e.first_ordinal AND \
         (id & 4294967295) < e.first_ordinal + e.records)",
        i64::MAX
    )
}

impl Mismatch {
    fn problem(&self) -> String {
        match self {
            Self::Missing { table } => {
                format!("the table `{table}` is missing, but the ledger has files with rows of it")
            }
            Self::Lost { table, file_no } => format!(
                "the table `{table}` has no row of file {file_no}, but the ledger has rows of this file"
            ),
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

    fn next_step(&self) -> Cow<'static, str> {
        match self {
            Self::Missing { .. } => {
                "restore the table from a backup; or run `task_runner files reload` with the numbers of \
                 its files (`task_runner files list` has them) and load them, which makes the table \
                 again, also after it was renamed; or, to load all files again, drop the ingest_* tables as well and \
                 load the files of history"
                    .into()
            }
            Self::Lost { .. } => {
                "restore the table from a backup; or run `task_runner files restore --all`, which stores \
                 missing rows again from the files; or, if the rows were removed on purpose, run \
                 `task_runner files forget` for their files"
                    .into()
            }
            Self::Unknown {
                table,
                in_table,
                in_ledger,
                ..
            } => {
                let otherwise = if above(*in_table).is_some() {
                    "run `task_runner migrate --keep-rows`, which keeps them, gives higher numbers to \
                     new files, and counts files that were loaded before as new"
                } else {
                    "give the dataset another `table`: these rows have the highest number of a file"
                };
                format!(
                    "restore the ingest_* tables that belong to these rows; or, to load the files of \
                     these rows again, remove the rows that the ledger does not cover with \"{}\" and \
                     run `task_runner load PATH` with the path of history; or, if the rows are of \
                     another program, {otherwise}",
                    remove_uncovered(table, *in_ledger)
                )
                .into()
            }
        }
    }

    /// As a finding of `doctor`.
    pub(super) fn finding(&self) -> Finding {
        Finding::refused(refusal(self.problem(), self.next_step()))
    }
}

/// The fault for these mismatches. `None` if there are none.
pub(super) fn fault(mismatches: &[Mismatch]) -> Option<Fault> {
    let first = mismatches.first()?;
    let problems: Vec<String> = mismatches.iter().map(Mismatch::problem).collect();
    Some(refusal(problems.join("; "), first.next_step()))
}

fn refusal(problem: String, next_step: Cow<'static, str>) -> Fault {
    let doing = "comparing the ledger with the tables";
    Fault::fatal(Origin::Sink, doing, problem).with_next_step(next_step)
}

/// A ledger entry with a number above those of all rows that are not in the ledger: new files get
/// higher numbers, so no record has the id of such a row. Its number, hash and dataset. `None` if
/// all rows are in the ledger, or if a row has the highest number that exists.
pub(super) fn kept(mismatches: &[Mismatch]) -> Option<(u32, [u8; 16], &str)> {
    let unknown = mismatches.iter().filter_map(|mismatch| match mismatch {
        Mismatch::Unknown {
            in_table, dataset, ..
        } => Some((*in_table, dataset.as_str())),
        Mismatch::Missing { .. } | Mismatch::Lost { .. } => None,
    });
    let (in_table, dataset) = unknown.max()?;
    let file_no = above(in_table)?;
    let hash = blake3::hash(format!("{KEPT_NAME} {file_no}").as_bytes());
    let identity = hash.as_bytes()[..16].try_into().expect("16 bytes are cut");
    Some((file_no, identity, dataset))
}

/// The number after this number of a file. `None` if no file can have it.
fn above(file_no: u32) -> Option<u32> {
    let next = file_no.checked_add(1)?;
    i32::try_from(next).is_ok().then_some(next)
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
        let lost = Mismatch::Lost {
            table: "t".to_owned(),
            file_no: 9,
        };
        assert_eq!(kept(std::slice::from_ref(&lost)), None);
        let mixed = [unknown(3, "a"), lost, unknown(7, "b")];
        let (file_no, _, dataset) = kept(&mixed).unwrap();
        assert_eq!((file_no, dataset), (8, "b"));
        let highest = unknown(i32::MAX as u32, "a");
        assert!(!highest.next_step().contains("--keep-rows"));
        assert!(unknown(7, "a").next_step().contains("--keep-rows"));
        assert_eq!(kept(&[highest]), None);
    }
}
