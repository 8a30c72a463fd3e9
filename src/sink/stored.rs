//! Whether the tables still have the records of a settled file, asked when its content arrives again.
//! Pure: the query and its meaning, for both dialects.
//!
//! The question is cheap, so it cannot be complete: all records of a small file are counted, and of
//! any other only the first and the last are looked up. `verify` counts the records of each file.

use crate::batch::row_id;

/// Most records of a file that are counted. A count reads an index entry for each.
const COUNTED_MAX: u32 = 1_000;

/// Most files of one query. Each adds some 300 bytes, and SQLite takes at most 500 in one.
pub(super) const FILES_PER_QUERY: usize = 50;

/// A condition, as SQL, that the file of a row that supersedes the record of the entry `s` is being
/// removed: the end of the removal decides about the record again.
const REMOVING: &str = "EXISTS (SELECT 1 FROM ingest_files g WHERE g.file_no = s.winner >> 32 AND \
     g.state = 'removing')";

/// A query for these files, each with its number of records (at least one), whose rows are in
/// `tables`: the number of each file, and how many of the records that are asked about are stored.
pub(super) fn counts(files: &[(u32, u32)], tables: &[String]) -> String {
    let count = |&(file_no, records): &(u32, u32)| {
        let (first, last) = (row_id(file_no, 0), row_id(file_no, records - 1));
        let (ids, ordinals) = if records > COUNTED_MAX {
            (
                format!("IN ({first}, {last})"),
                format!(" AND ordinal IN (0, {})", records - 1),
            )
        } else {
            (format!("BETWEEN {first} AND {last}"), String::new())
        };
        let of_table = |table: &String| {
            format!(
                "(SELECT COUNT(*) FROM `{table}` WHERE id {ids}) + (SELECT COUNT(*) FROM \
                 ingest_superseded s WHERE file_no = {file_no}{ordinals} AND EXISTS (SELECT 1 FROM \
                 `{table}` w WHERE w.id = s.winner) AND NOT {REMOVING}) + "
            )
        };
        let of_tables: String = tables.iter().map(of_table).collect();
        format!(
            "SELECT {file_no}, {of_tables}(SELECT COUNT(*) FROM ingest_rejects WHERE file_no = \
             {file_no}{ordinals}) + (SELECT COUNT(*) FROM ingest_purged WHERE file_no = \
             {file_no}{ordinals}) + (SELECT COUNT(*) FROM ingest_erased WHERE file_no = \
             {file_no}{ordinals}) + (SELECT COUNT(*) FROM ingest_superseded s WHERE file_no = \
             {file_no}{ordinals} AND {REMOVING}) + (SELECT COALESCE(SUM(records), 0) FROM ingest_retired \
             WHERE file_no = {file_no})"
        )
    };
    files
        .iter()
        .map(count)
        .collect::<Vec<_>>()
        .join(" UNION ALL ")
}

/// Whether some of the records of a file are missing, if this many of those asked about are stored.
pub(super) fn lacks(records: u32, stored: u64) -> bool {
    let asked = if records > COUNTED_MAX { 2 } else { records };
    stored < u64::from(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_counted_and_a_large_one_is_looked_up() {
        for (records, condition, stored, expected) in [
            (1, "BETWEEN 4294967296 AND 4294967296", 1, false),
            (1_000, "BETWEEN 4294967296 AND 4294968295", 999, true),
            (1_001, "IN (4294967296, 4294968296)", 2, false),
            (1_001, "ordinal IN (0, 1000)", 1, true),
        ] {
            let sql = counts(&[(1, records)], &["t".to_owned()]);
            assert!(sql.contains(condition), "{sql}");
            assert_eq!(lacks(records, stored), expected, "{records}");
        }
        let two = counts(&[(1, 1), (2, 1)], &["t".to_owned(), "u".to_owned()]);
        assert_eq!(two.matches("UNION ALL").count(), 1);
        assert_eq!(two.matches("FROM `u` WHERE id").count(), 2);
    }
}
