//! Records with the same key, for both dialects: which of them is the row.
//!
//! Pure. The order is total and does not depend on the ledger: the value of the column `order_by`,
//! then the identity of the file, then the ordinal. File numbers are left out, since they follow the
//! order of arrival.

use std::cmp::Ordering;

use crate::batch::{ContentHash, Span, provenance};
use crate::dataset::{ColumnType, Dataset, OnConflict};
use crate::{dates, timestamp};

use super::cells::{Cell, Rare, Row};
use super::mismatch::is_file;

/// The values of the columns of a key, as the database gives them as text.
pub(super) type Key = Vec<String>;

/// The place of a record among those with the same key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    by: By,
    hash: ContentHash,
    ordinal: u32,
}

/// The value of the column `order_by`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// No column orders the records, or a row of another program has no value.
    Nothing,
    Number(i128),
    /// A time or a day, whose texts have the order of their values.
    Text(String),
}

/// A row of the table that has the key of a record.
#[derive(Debug, Clone)]
pub(super) struct StoredRow {
    pub(super) id: u64,
    /// The text of its value in the column `order_by`.
    pub(super) by: Option<String>,
    /// The identity of its file. `None` if another program wrote the row.
    pub(super) hash: Option<ContentHash>,
}

impl Rank {
    /// The rank of a record that is not stored.
    pub(super) fn of_row(dataset: &Dataset, row: Row<'_>, hash: ContentHash) -> Self {
        let by = dataset.order_column().map(|at| text(row.cell(at + 1)));
        Self {
            by: by_of(dataset, by),
            hash,
            ordinal: provenance(row.id()).1,
        }
    }

    /// The rank of a row of the table. `None` if another program wrote it.
    pub(super) fn of_stored(dataset: &Dataset, stored: &StoredRow) -> Option<Self> {
        Some(Self {
            by: by_of(dataset, stored.by.clone()),
            hash: stored.hash?,
            ordinal: provenance(stored.id).1,
        })
    }

    /// Whether a record of this rank is the row, and one of the rank `other` is not.
    pub(super) fn wins(&self, dataset: &Dataset, other: &Self) -> bool {
        match dataset.conflict() {
            Some(OnConflict::First) => self.cmp(other) == Ordering::Less,
            Some(OnConflict::Last) => self.cmp(other) == Ordering::Greater,
            // The row that is stored stays.
            Some(OnConflict::Reject) | None => false,
        }
    }
}

fn by_of(dataset: &Dataset, text: Option<String>) -> By {
    let column = dataset.order_column().map(|at| &dataset.columns[at]);
    match (column, text) {
        (Some(column), Some(text)) => match column.kind {
            ColumnType::Integer | ColumnType::Unsigned => {
                text.parse().map_or(By::Nothing, By::Number)
            }
            _ => By::Text(text),
        },
        _ => By::Nothing,
    }
}

/// The key of a row.
pub(super) fn key(dataset: &Dataset, row: Row<'_>) -> Key {
    dataset
        .key_columns()
        .map(|at| text(row.cell(at + 1)))
        .collect()
}

/// A value of a key as text: equal for equal values, and as both dialects give it.
fn text(cell: Cell<'_>) -> String {
    match cell {
        Cell::Text(text) => text.to_owned(),
        Cell::Integer(number) => number.to_string(),
        Cell::Timestamp(time_us) => timestamp::text(time_us),
        Cell::Rare(Rare::Unsigned(number)) => number.to_string(),
        Cell::Rare(Rare::Date(days)) => dates::date_text(days),
        other => unreachable!("a definition with {other:?} in its key is refused"),
    }
}

/// The query for the rows of a dataset with a key, from SELECT up to WHERE: the id, the value of
/// `order_by` and the columns of the key, as text.
pub(super) fn select_keys(dataset: &Dataset, text_type: &str) -> String {
    let as_text = |at: usize| {
        let column = &dataset.columns[at];
        match column.kind {
            ColumnType::Text => format!("`{}`", column.name),
            _ => format!("CAST(`{}` AS {text_type})", column.name),
        }
    };
    let by = dataset.order_column().map(as_text);
    let keys: Vec<String> = dataset.key_columns().map(as_text).collect();
    format!(
        "SELECT `id`, {}, {} FROM `{}`",
        by.unwrap_or_else(|| "NULL".to_owned()),
        keys.join(", "),
        dataset.table
    )
}

/// The condition for one key, with a parameter for each of its columns.
pub(super) fn is_key(dataset: &Dataset) -> String {
    let columns: Vec<String> = dataset
        .key
        .iter()
        .map(|name| format!("`{name}` = ?"))
        .collect();
    columns.join(" AND ")
}

/// A query, for both dialects, for the files of these rows (at most a few hundred): id and identity.
/// Without rows that another program wrote: those of no file, those with the id of a reject, and
/// those whose record is neither in the ledger nor stored by this commit, as `is_of_commit` tells.
pub(super) fn owners(ids: &[u64], is_of_commit: impl Fn(u64) -> bool) -> String {
    let owner = |id: &u64| {
        let (file_no, ordinal) = provenance(*id);
        let is_stored = if is_of_commit(*id) {
            "1 = 1".to_owned()
        } else {
            format!(
                "(state = 'settled' OR EXISTS (SELECT 1 FROM ingest_frames e WHERE e.file_no = {file_no} \
                 AND e.first_ordinal <= {ordinal} AND e.first_ordinal + e.records > {ordinal}))"
            )
        };
        let is_none_of = |table: &str| {
            format!(
                "NOT EXISTS (SELECT 1 FROM {table} r WHERE r.file_no = {file_no} AND r.ordinal = \
                 {ordinal})"
            )
        };
        format!(
            "SELECT {id}, hash FROM ingest_files WHERE file_no = {file_no} AND {is_stored} AND {} AND {} \
             AND {} AND {}",
            is_file(),
            is_none_of("ingest_rejects"),
            is_none_of("ingest_purged"),
            is_none_of("ingest_erased")
        )
    };
    ids.iter()
        .map(owner)
        .collect::<Vec<_>>()
        .join(" UNION ALL ")
}

/// A query, for both dialects, for the superseded records of a span: the ordinal, whether the
/// table has the row that supersedes it, and the id of that row.
pub(super) fn superseded_sql(table: &str, span: Span) -> String {
    let (file_no, ordinals) = (span.file_no, span.ordinals());
    format!(
        "SELECT s.ordinal, EXISTS (SELECT 1 FROM `{table}` w WHERE w.`id` = s.winner), s.winner FROM \
         ingest_superseded s WHERE s.file_no = {file_no} AND s.ordinal >= {} AND s.ordinal < {} ORDER \
         BY s.ordinal",
        ordinals.start, ordinals.end
    )
}

/// The span of one record.
pub(super) fn span_of(id: u64) -> Span {
    let (file_no, first_ordinal) = provenance(id);
    Span {
        file_no,
        first_ordinal,
        records: 1,
    }
}

/// What a reject says of the row that has the key of its record.
pub(super) fn taken(stored: u64) -> String {
    format!("row {stored} has the same key")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Datasets;

    fn dataset(on_conflict: &str) -> std::sync::Arc<Dataset> {
        let text = format!(
            "name = 'k'\nkey = ['a']\non_conflict = '{on_conflict}'\norder_by = 'n'\ncolumns = [{{name = \
             'a', type = 'text'}}, {{name = 'n', type = 'integer'}}]"
        );
        let datasets = Datasets::new(vec![toml::from_str(&text).unwrap()]).unwrap();
        datasets.by_name("k").unwrap().clone()
    }

    #[test]
    fn the_order_is_total_and_does_not_depend_on_file_numbers() {
        let (first, last) = (dataset("first"), dataset("last"));
        let rank = |by: &str, hash: u8, file_no: u64, ordinal: u64| {
            let stored = StoredRow {
                id: file_no << 32 | ordinal,
                by: Some(by.to_owned()),
                hash: Some([hash; 16]),
            };
            Rank::of_stored(&last, &stored).unwrap()
        };
        for (smaller, larger) in [
            (rank("9", 9, 9, 9), rank("10", 1, 1, 1)),
            (rank("-2", 9, 9, 9), rank("-1", 1, 1, 1)),
            (rank("7", 1, 9, 9), rank("7", 2, 1, 1)),
            (rank("7", 1, 9, 0), rank("7", 1, 9, 1)),
        ] {
            assert!(larger.wins(&last, &smaller) && !smaller.wins(&last, &larger));
            assert!(smaller.wins(&first, &larger) && !larger.wins(&first, &smaller));
            assert!(!larger.wins(&last, &larger));
        }
        let of_other = StoredRow {
            id: 7,
            by: None,
            hash: None,
        };
        assert_eq!(Rank::of_stored(&last, &of_other), None);
    }
}
