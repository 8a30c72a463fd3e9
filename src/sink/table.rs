//! The tables that a dataset needs, for both dialects: its own, and that of its summary.
//!
//! Pure. The dialects turn a [`Table`] into DDL, and compare existing tables with it.

use std::fmt::Write as _;

use crate::dataset::{ColumnType, Dataset, Datasets, ID_COLUMN, RESCUE_COLUMN, Summary};

/// A table that a dataset needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) columns: Vec<TableColumn>,
    /// The columns of the primary key.
    pub(super) key: Vec<String>,
    /// The dataset that the table summarises. Such a table is computed from the dataset's table, so
    /// it can be computed again. `None` for a table of rows.
    pub(super) summary_of: Option<String>,
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
        nullable: !of.required && of.default.is_none(),
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
        key: vec![ID_COLUMN.to_owned()],
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
