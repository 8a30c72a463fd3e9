//! The tables that a dataset needs, for both dialects: its own, and that of its summary.
//!
//! Pure. The dialects turn a [`Table`] into DDL, and compare existing tables with it.

use std::fmt::Write as _;

use crate::dataset::{ColumnType, Dataset, Datasets, ID_COLUMN, RESCUE_COLUMN, Summary};
use crate::finding::Finding;

use super::partitions::Partitions;

/// Longest name of an index in MySQL. Names of tables and columns are ASCII.
const NAME_BYTES_MAX: usize = 64;

/// A table that a dataset needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<TableColumn>,
    /// The columns of the primary key.
    pub(super) key: Vec<String>,
    /// The unique key over the columns by which a dataset knows its events. The table must have it,
    /// or another one over the same columns.
    pub(super) unique: Option<Index>,
    /// The secondary indexes.
    pub(super) indexes: Vec<Index>,
    /// How the table is partitioned. `None` if the definition does not say.
    pub(super) partitions: Option<Partitions>,
    /// The dataset that the table summarises. Such a table is computed from the dataset's table, so
    /// it can be computed again. `None` for a table of rows.
    pub(super) summary_of: Option<String>,
}

/// A secondary index. It is not part of what a table must have: rows are stored without it as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
}

impl Index {
    /// The index over these columns. Its name has the name of the table, because names of indexes
    /// in SQLite differ in the whole database.
    fn new(prefix: &str, table: &str, columns: &[String]) -> Self {
        let mut name = format!("{prefix}_{table}_{}", columns.join("_"));
        if name.len() > NAME_BYTES_MAX {
            let hash = blake3::hash(name.as_bytes()).to_hex();
            name.truncate(NAME_BYTES_MAX - 17);
            name = format!("{name}_{}", &hash[..16]);
        }
        Self {
            name,
            columns: columns.to_vec(),
        }
    }

    /// Whether a unique key of a table is one that `migrate` made for these columns, by its name.
    pub(super) fn is_made_for(name: &str, table: &str, columns: &[String]) -> bool {
        Self::new("uk", table, columns).name == name
    }

    /// Whether a unique key over the columns `found` serves as this one: in any order.
    pub(super) fn is_unique_by(&self, found: &[String]) -> bool {
        let is_found = |own: &String| found.iter().any(|other| own.eq_ignore_ascii_case(other));
        found.len() == self.columns.len() && self.columns.iter().all(is_found)
    }

    /// Whether an index over the columns `found`, in their order, serves as this one.
    pub(super) fn is_served_by(&self, found: &[String]) -> bool {
        let mut pairs = self.columns.iter().zip(found);
        found.len() >= self.columns.len()
            && pairs.all(|(own, other)| own.eq_ignore_ascii_case(other))
    }
}

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableColumn {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) nullable: bool,
}

/// The type of a column, for both dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `file_no << 32 | ordinal`.
    RowId,
    /// Text of at most this many characters, compared byte by byte with trailing spaces.
    Text(u32),
    /// A moment, with microseconds.
    Timestamp,
    /// A calendar day.
    Day,
    /// A time of day, with microseconds.
    Time,
    Integer,
    /// A 64-bit unsigned integer.
    Unsigned,
    /// An exact number: most digits, and how many of them are after the point.
    Decimal(u8, u8),
    /// Bytes.
    Binary,
    Float,
    Boolean,
    Json,
}

/// All tables of all datasets, without the ledger.
pub(super) fn tables(datasets: &Datasets) -> Vec<Table> {
    let own = datasets.iter().map(|dataset| dataset_table(dataset));
    let summaries = datasets
        .iter()
        .filter_map(|dataset| Some(summary_table(dataset, dataset.summary.as_ref()?)));
    own.chain(summaries).collect()
}

/// The table of a dataset's rows: the columns of [`Dataset::schema`], in its order.
pub(super) fn dataset_table(dataset: &Dataset) -> Table {
    let mut columns = vec![column(ID_COLUMN, Kind::RowId)];
    columns.extend(dataset.columns.iter().map(|of| TableColumn {
        name: of.name.clone(),
        nullable: of.is_nullable(),
        kind: match of.kind {
            ColumnType::Text => Kind::Text(of.max_chars),
            ColumnType::Integer => Kind::Integer,
            ColumnType::Unsigned => Kind::Unsigned,
            ColumnType::Decimal { precision, scale } => Kind::Decimal(precision, scale),
            ColumnType::Date => Kind::Day,
            ColumnType::Time => Kind::Time,
            ColumnType::Binary => Kind::Binary,
            ColumnType::Float => Kind::Float,
            ColumnType::Boolean => Kind::Boolean,
            ColumnType::Timestamp => Kind::Timestamp,
            ColumnType::Json => Kind::Json,
        },
    }));
    columns.push(TableColumn {
        nullable: true,
        ..column(RESCUE_COLUMN, Kind::Json)
    });
    Table {
        name: dataset.table.clone(),
        columns,
        // The primary key of a partitioned table must have the column that it is partitioned by.
        key: std::iter::once(ID_COLUMN.to_owned())
            .chain(dataset.partition_by.clone())
            .collect(),
        partitions: Partitions::of(dataset),
        unique: (!dataset.key.is_empty()).then(|| Index::new("uk", &dataset.table, &dataset.key)),
        indexes: dataset
            .indexes
            .iter()
            .map(|columns| Index::new("ix", &dataset.table, columns))
            .collect(),
        summary_of: None,
    }
}

/// The table of a dataset's summary: key, day, and the last record of that day.
pub(super) fn summary_table(dataset: &Dataset, summary: &Summary) -> Table {
    let chars = |name: &str| {
        dataset
            .column(name)
            .map_or(255, |(_, column)| column.max_chars)
    };
    let names = SummaryNames::of(summary);
    Table {
        name: summary.table.clone(),
        columns: vec![
            column(names.key, Kind::Text(chars(&summary.key))),
            column(names.day, Kind::Day),
            column(&names.time, Kind::Timestamp),
            column(&names.value, Kind::Text(chars(&summary.value))),
            column(names.id, Kind::RowId),
        ],
        key: vec![names.key.to_owned(), names.day.to_owned()],
        unique: None,
        indexes: Vec::new(),
        partitions: None,
        summary_of: Some(dataset.name.clone()),
    }
}

/// The columns of a summary table.
pub(super) struct SummaryNames<'a> {
    pub(super) key: &'a str,
    pub(super) day: &'static str,
    pub(super) time: String,
    pub(super) value: String,
    pub(super) id: &'static str,
}

impl<'a> SummaryNames<'a> {
    /// The name of a summarised column is `last_` and the name of the dataset's column.
    pub(super) fn of(summary: &'a Summary) -> Self {
        Self {
            key: &summary.key,
            day: "day",
            time: format!("last_{}", summary.time),
            value: format!("last_{}", summary.value),
            id: "last_id",
        }
    }
}

/// The summary of a dataset that has one.
pub(super) fn summary_of(dataset: &Dataset) -> &Summary {
    dataset
        .summary
        .as_ref()
        .expect("the contract: called only for a dataset with a summary")
}

/// The finding for an index that a table lacks, and the statement that adds it.
pub(super) fn missing_index(what: String, sql: &str) -> Finding {
    Finding::warn(what, format!("run `task_runner migrate --add`, or: {sql};"))
}

/// A list of names in backticks, with commas. Both dialects accept it.
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut list = String::new();
    for name in names {
        let comma = if list.is_empty() { "" } else { ", " };
        write!(list, "{comma}`{name}`").expect("writing to a string does not fail");
    }
    list
}

fn column(name: &str, kind: Kind) -> TableColumn {
    TableColumn {
        name: name.to_owned(),
        kind,
        nullable: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_served_by_a_longer_one() {
        let columns = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let index = Index::new("ix", "t", &columns(&["a", "b"]));
        assert_eq!(index.name, "ix_t_a_b");
        assert!(index.is_served_by(&columns(&["A", "b", "c"])));
        assert!(
            !index.is_served_by(&columns(&["b", "a"])) && !index.is_served_by(&columns(&["a"]))
        );
        assert!(index.is_unique_by(&columns(&["B", "a"])));
        assert!(!index.is_unique_by(&columns(&["a", "b", "c"])));
        assert!(!index.is_unique_by(&columns(&["a"])));
        let long = Index::new("ix", "t", &columns(&[&"x".repeat(64)])).name;
        assert_eq!(long.len(), 64);
        assert_ne!(
            long,
            Index::new("ix", "t", &columns(&[&"x".repeat(63)])).name
        );
    }

    #[test]
    fn the_built_in_tables() {
        let tables = tables(&Datasets::new(vec![]).unwrap());
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["vehicle_events", "vehicle_status", "daily_summary"]);
        let columns = quoted(tables[2].columns.iter().map(|column| column.name.as_str()));
        assert_eq!(
            columns,
            "`vehicle_id`, `day`, `last_event_time`, `last_event_type`, `last_id`"
        );
        let extra = &tables[0].columns[6];
        assert_eq!(
            (extra.name.as_str(), extra.nullable),
            ("event_extra_data", false)
        );
        assert!(tables[0].columns[7].nullable);
    }
}
