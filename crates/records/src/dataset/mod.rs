//! What a dataset is: one definition from which parsing, the Arrow schema, the table and the INSERT
//! follow. Two datasets are built in, and users add their own. No other module knows a dataset by
//! name.
//!
//! [`Datasets::new`] checks all definitions once. The names in a [`Dataset`] that it returns are
//! safe SQL identifiers.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::zone::Zone;

pub use crate::timestamp::EpochUnit;
pub use column::{Column, ColumnType, Encoding, FileFact, OnError, Pointers};
pub use definition::Fingerprint;
pub use key::OnConflict;
pub use limits::{Every, Ratio};
pub use of_file::{FileDatasets, NoDataset};
pub use of_path::{FileValues, PathValues};
pub(crate) use outer::{Outer, Part};
pub use partitions::{PartitionEvery, Retain};

mod column;
mod definition;
mod index;
mod key;
mod limits;
mod of_file;
mod of_path;
mod outer;
mod partitions;

/// Name of the primary key column of each table: `file_no << 32 | ordinal`.
pub const ID_COLUMN: &str = "id";

/// Name of the column for the fields of a record that no other column takes.
pub const RESCUE_COLUMN: &str = "_rescued";

/// The segment of the pointer `records` that leads to each element or member.
pub const EACH: &str = "*";

/// Most segments of a pointer with [`EACH`]: a record has at most 32 levels, and the walk through an
/// envelope recurses by segments.
const EACH_SEGMENTS_MAX: usize = 64;

/// Largest index by which a column takes an element of a record that is an array. A record has at
/// most 16 MiB, and the parser keeps a list of this length.
const INDEX_MAX: usize = 65_536;

/// Longest identifier that MySQL and MariaDB accept.
pub(crate) const IDENTIFIER_CHARS_MAX: usize = 64;

/// A kind of record, and the table that its rows go to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The name, as the ledger, a metric label and the key of the Redis stream hold it.
    pub name: String,
    /// Whether the dataset exists. `false` takes a built-in dataset away. Default: yes.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub enabled: bool,
    /// A file belongs to this dataset if its name contains this text. A text with `*`, `?`, `[` or
    /// `/` is a glob for the whole name, or for the end of the path if it has a `/`. Default: the
    /// name.
    #[serde(default)]
    pub files: String,
    /// Whether this dataset takes the files whose name contains `files` in addition to the dataset
    /// that they belong to. Default: no, it is the one that they belong to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub also: bool,
    /// Where the array of records is in a document that is an object, as a JSON pointer
    /// (`/vehicle_events`, `/data/status_changes`, `/data/0/x`). A `*` in it stands for each element
    /// or member (`/orders/*/items`). Default: `/` and the name. With an empty text, an object is a
    /// record and never holds such an array.
    #[serde(default)]
    pub records: Option<String>,
    /// How the records of a file are separated. Default: `auto`.
    #[serde(default)]
    pub format: Format,
    /// The table. Default: the name.
    #[serde(default)]
    pub table: String,
    /// The columns, in the order of the table.
    #[serde(default)]
    pub columns: Vec<Column>,
    /// What the parser does with a field that no column takes. Default: `rescue`.
    #[serde(default)]
    pub on_unknown_field: OnUnknownField,
    /// Whether a value must have the JSON type of its column. Default: a number or boolean in a
    /// string, `10.0` for an integer, and `1` or `0` for a boolean are values as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
    /// Secondary indexes of the table: for each one, its columns in order. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub indexes: Vec<Vec<String>>,
    /// Most rejects of a file, as a part of its records from 0 to 1. A file with more goes to
    /// quarantine before any of it is stored. Default: any part.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<f64>")]
    pub max_reject_ratio: Option<Ratio>,
    /// Fewest records of a file. A file with fewer goes to quarantine before any of it is stored.
    /// Default: any number.
    #[serde(default, skip_serializing)]
    pub min_records: Option<u32>,
    /// How often at least a file comes, such as `24h`. An alert fires if none came for that long.
    /// Default: no alert.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub expected_every: Option<Every>,
    /// The columns that name an event, if producers may deliver it more than once: of several
    /// records with the same values, one is the row. Default: each record is an event of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// Which of several records with the same key is the row. Default: `reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<OnConflict>,
    /// The column by which `first` and `last` order records with the same key: a required integer,
    /// unsigned, timestamp or date column. Of records with equal values, the hash of the file
    /// decides, then the ordinal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_by: Option<String>,
    /// The column by whose time the table is partitioned, in MySQL and MariaDB: a required timestamp
    /// or date column. Default: the table has no partitions.
    #[serde(default, skip_serializing)]
    pub partition_by: Option<String>,
    /// How long a partition lasts. Default: `month`.
    #[serde(default, skip_serializing)]
    pub partition_every: Option<PartitionEvery>,
    /// How long rows are kept, such as `400 days`: a partition whose rows are all older is removed.
    /// Default: for ever.
    #[serde(default, skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub retain: Option<Retain>,
    /// A view of the rows of settled files, with the time in a column `settled_at`. Default: none.
    #[serde(default, skip_serializing)]
    pub settled_view: Option<String>,
    /// The daily summary of this dataset. Default: no summary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What all of this means for ordinals and rows. [`Datasets::new`] fills it in.
    #[serde(skip)]
    #[schemars(skip)]
    pub fingerprint: Fingerprint,
}

/// The column that [`Dataset::settled_view`] adds.
pub const SETTLED_AT: &str = "settled_at";

/// How the records of a file are separated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `document` if the file is one JSON value, else `lines`; [`cut`](crate::cut) has the exact
    /// rule.
    #[default]
    Auto,
    /// One JSON value: an array of records, an object that holds such an array, or one record.
    Document,
    /// A record on each line (NDJSON).
    Lines,
    /// JSON values one after another, with anything or nothing between them: records, arrays of
    /// records, or objects that hold such an array.
    Sequence,
}

/// What the parser does with a field that no column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnknownField {
    /// Stores it in the column `_rescued`, a JSON object.
    #[default]
    Rescue,
    /// Drops it.
    Ignore,
    /// Rejects the record.
    Reject,
}

const fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_yes(value: &bool) -> bool {
    *value
}

/// The daily summary of a dataset: the last record of each key on each day.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The table.
    pub table: String,
    /// The column by whose values records are grouped: a required text column.
    pub key: String,
    /// The column that decides which record of a day is the last: a required timestamp column. Of
    /// records with equal times, the one with the largest `id` is the last.
    pub time: String,
    /// The column of the last record that the summary keeps: a required text column.
    pub value: String,
    /// The time zone of its days, by its name in the IANA database. Default: UTC.
    #[serde(default, skip_serializing_if = "Zone::is_utc")]
    pub time_zone: Zone,
}

impl Dataset {
    /// The schema of a batch of this dataset: `id` (`UInt64`), the columns, `_rescued` (Utf8,
    /// nullable).
    ///
    /// Text and JSON are Utf8, timestamps are microseconds in UTC. The table has the same columns
    /// in the same order.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let mut fields = vec![Field::new(ID_COLUMN, DataType::UInt64, false)];
        fields.extend(
            self.columns.iter().map(|column| {
                Field::new(&column.name, column.kind.data_type(), column.is_nullable())
            }),
        );
        fields.push(Field::new(RESCUE_COLUMN, DataType::Utf8, true));
        Arc::new(Schema::new(fields))
    }

    /// The JSON pointer to the array of records in an envelope. Empty if no file is an envelope.
    #[must_use]
    pub fn pointer(&self) -> &str {
        self.records.as_deref().unwrap_or_default()
    }

    /// Whether a record may be an array, of which a column takes an element by its index.
    pub(crate) fn is_by_position(&self) -> bool {
        self.fields().iter().any(|(key, _)| index(key).is_some())
    }

    /// Whether the pointer to the records may lead to several arrays.
    pub(crate) fn has_each(&self) -> bool {
        segments(self.pointer()).any(|segment| segment == EACH)
    }

    /// Whether a column takes its value from the file around the record: a field of the envelope, or
    /// a key or index.
    #[must_use]
    pub fn takes_around(&self) -> bool {
        let mut columns = self.columns.iter();
        columns.any(|column| column.envelope.is_some() || column.key.is_some())
    }

    /// Whether a value of a sequence holds records only in the array at `records`. By itself, a value
    /// does not show whether it is a record of this dataset or an envelope of the file's own one.
    pub(crate) fn takes_only_arrays(&self) -> bool {
        self.also && self.format == Format::Sequence && !self.pointer().is_empty()
    }

    /// Whether a value must have the JSON type of its column.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.strict.unwrap_or(false)
    }

    /// The keys of the members of a record that columns take values from, each with the index of
    /// the column.
    pub(crate) fn fields(&self) -> Vec<(String, usize)> {
        let columns = self.columns.iter().enumerate();
        let fields =
            columns.flat_map(|(at, column)| column.fields().iter().map(move |it| (it, at)));
        fields
            .filter_map(|(pointer, at)| Some((segments(pointer).next()?, at)))
            .collect()
    }

    /// The column with this name, and its index in `columns`.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<(usize, &Column)> {
        self.columns
            .iter()
            .enumerate()
            .find(|(_, column)| column.name == name)
    }

    /// The tables of the dataset: its own, that of its summary, and its view.
    fn tables(&self) -> impl Iterator<Item = &str> {
        let summary = self.summary.iter().map(|summary| summary.table.as_str());
        let view = self.settled_view.as_deref();
        std::iter::once(self.table.as_str())
            .chain(summary)
            .chain(view)
    }

    fn fill_defaults(&mut self) {
        let or = |value: &mut String, default: String| {
            if value.is_empty() {
                *value = default;
            }
        };
        or(&mut self.files, self.name.clone());
        self.records
            .get_or_insert_with(|| format!("/{}", self.name));
        or(&mut self.table, self.name.clone());
        self.strict.get_or_insert(false);
        for column in &mut self.columns {
            column.fill_field();
        }
    }
}

/// The datasets of this process, checked.
#[derive(Debug, Clone)]
pub struct Datasets(Vec<Arc<Dataset>>);

/// Why a definition cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("dataset `{dataset}`: {problem}")]
pub struct InvalidDataset {
    /// The dataset's name as the user wrote it.
    pub dataset: String,
    /// The name of the column that has the problem. `None` if the dataset as a whole has it.
    pub column: Option<String>,
    /// What is wrong, and how to correct it.
    pub problem: String,
}

impl Datasets {
    /// The built-in datasets and those of the user. A user's dataset replaces a built-in one of the
    /// same name.
    ///
    /// # Errors
    /// A name is not an SQL identifier, two datasets have the same name or table, a pointer does
    /// not begin with `/`, or a summary names a column that is missing or has the wrong type.
    pub fn new(users: Vec<Dataset>) -> Result<Self, InvalidDataset> {
        let mut all: Vec<Dataset> = builtin();
        all.retain(|dataset| !users.iter().any(|user| user.name == dataset.name));
        all.extend(users);
        all.retain(|dataset| dataset.enabled);
        for at in 0..all.len() {
            all[at].fill_defaults();
            check(&all[at])?;
            check_apart(&all[..at], &all[at])?;
            all[at].fingerprint = Fingerprint::of(&all[at]);
        }
        Ok(Self(all.into_iter().map(Arc::new).collect()))
    }

    /// All datasets, in the order of their definitions.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Dataset>> {
        self.0.iter()
    }

    /// The dataset with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<Dataset>> {
        self.0.iter().find(|dataset| dataset.name == name)
    }
}

/// The segments of a JSON pointer (RFC 6901), unescaped.
pub fn segments(pointer: &str) -> impl Iterator<Item = String> {
    pointer
        .split('/')
        .skip(1)
        .map(|segment| segment.replace("~1", "/").replace("~0", "~"))
}

/// A key as a segment of a JSON pointer (RFC 6901).
#[must_use]
pub fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The index that a segment of a JSON pointer is in an array. `None` if it is none, or larger than
/// the elements that a record may have.
pub(crate) fn index(segment: &str) -> Option<usize> {
    let index = segment.parse::<usize>().ok()?;
    (index < INDEX_MAX && index.to_string() == segment).then_some(index)
}

fn builtin() -> Vec<Dataset> {
    let column = Column::new;
    let dataset = |name: &str, columns, summary| Dataset {
        name: name.to_owned(),
        enabled: true,
        files: String::new(),
        also: false,
        records: None,
        format: Format::Auto,
        table: String::new(),
        columns,
        on_unknown_field: OnUnknownField::Rescue,
        strict: None,
        indexes: Vec::new(),
        max_reject_ratio: None,
        min_records: None,
        expected_every: None,
        key: Vec::new(),
        on_conflict: None,
        order_by: None,
        partition_by: None,
        partition_every: None,
        retain: None,
        settled_view: None,
        summary,
        fingerprint: Fingerprint::default(),
    };
    let mut extra = column("event_extra_data", ColumnType::Json);
    extra.required = false;
    extra.default = Some("{}".to_owned());
    vec![
        dataset(
            "vehicle_events",
            vec![
                column("vehicle_id", ColumnType::Text),
                column("event_time", ColumnType::Timestamp),
                column("event_source", ColumnType::Text),
                column("event_type", ColumnType::Text),
                column("event_value", ColumnType::Text),
                extra,
            ],
            Some(Summary {
                table: "daily_summary".to_owned(),
                key: "vehicle_id".to_owned(),
                time: "event_time".to_owned(),
                value: "event_type".to_owned(),
                time_zone: Zone::default(),
            }),
        ),
        dataset(
            "vehicle_status",
            vec![
                column("vehicle_id", ColumnType::Text),
                column("report_time", ColumnType::Timestamp),
                column("status_source", ColumnType::Text),
                column("status", ColumnType::Text),
            ],
            None,
        ),
    ]
}

fn invalid(dataset: &Dataset, problem: impl Into<String>) -> InvalidDataset {
    InvalidDataset {
        dataset: dataset.name.clone(),
        column: None,
        problem: problem.into(),
    }
}

/// Checks that no two datasets share a name or a table, and that no two of those that files belong to
/// share both their files and their pointer.
fn check_apart(others: &[Dataset], dataset: &Dataset) -> Result<(), InvalidDataset> {
    if others.iter().any(|other| other.name == dataset.name) {
        return Err(invalid(
            dataset,
            "two datasets have this name: rename one of them",
        ));
    }
    let same = |other: &&Dataset| {
        let is_owner = !other.also && !dataset.also;
        is_owner && other.files == dataset.files && other.records == dataset.records
    };
    if let Some(other) = others.iter().find(same) {
        let problem = format!(
            "it takes the same files and the same `records` as `{}`: change `files` or `records` of \
             one of them, or set `also = true` for one of them if both are to take the records",
            other.name
        );
        return Err(invalid(dataset, problem));
    }
    for (at, table) in dataset.tables().enumerate() {
        // Names that differ only in case are the same name in SQLite.
        let is_it = |other: &str| other.eq_ignore_ascii_case(table);
        let of_other = others.iter().find(|other| other.tables().any(is_it));
        let owner = match of_other {
            Some(other) => format!("`{}`", other.name),
            None if dataset.tables().take(at).any(is_it) => "its own records".to_owned(),
            None => continue,
        };
        let problem = format!("the table `{table}` already belongs to {owner}: name another one");
        return Err(invalid(dataset, problem));
    }
    Ok(())
}

fn check(dataset: &Dataset) -> Result<(), InvalidDataset> {
    let fail = |problem: String| Err(invalid(dataset, problem));
    let names = std::iter::once(dataset.name.as_str()).chain(dataset.tables());
    for name in names.chain(dataset.columns.iter().map(|column| column.name.as_str())) {
        if !is_identifier(name) {
            return fail(format!(
                "`{name}` is not a name: use letters, digits and `_`, at most 64"
            ));
        }
    }
    for table in dataset.tables().map(str::to_ascii_lowercase) {
        if table.starts_with("ingest_") {
            return fail(format!(
                "`{table}`: tables named `ingest_…` belong to the ledger"
            ));
        }
        if table.starts_with("sqlite_") {
            return fail(format!(
                "`{table}`: SQLite reserves names that begin with `sqlite_`"
            ));
        }
    }
    if let Some(problem) = dataset.glob_problem() {
        return fail(problem);
    }
    if dataset.columns.is_empty() {
        return fail("it has no columns".to_owned());
    }
    let pointer = dataset.pointer();
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return fail(format!(
            "`records = \"{pointer}\"` must begin with `/`, or be empty if no document holds an \
             array of records"
        ));
    }
    if dataset.has_each() {
        if dataset.format == Format::Lines {
            return fail(format!(
                "`records = \"{pointer}\"` has `*`, and with `format = \"lines\"` each line is a \
                 record: for an envelope on each line, set `format = \"sequence\"`"
            ));
        }
        if segments(pointer).count() > EACH_SEGMENTS_MAX {
            return fail(format!(
                "`records` has `*` and more than {EACH_SEGMENTS_MAX} segments"
            ));
        }
    }
    for (at, column) in dataset.columns.iter().enumerate() {
        let fail = |problem: &str| {
            Err(InvalidDataset {
                column: Some(column.name.clone()),
                ..invalid(dataset, format!("column `{}`: {problem}", column.name))
            })
        };
        if let Some(problem) = column.problem().or_else(|| column.outside_problem(dataset)) {
            return fail(&problem);
        }
        let same = |other: &Column| {
            let same_field = || (other.fields().iter()).any(|it| column.fields().contains(it));
            other.name.eq_ignore_ascii_case(&column.name) || same_field()
        };
        if dataset.columns[..at].iter().any(same) {
            return fail("another column has the same name or field");
        }
    }
    if let Some(problem) = dataset.index_problem() {
        return fail(problem);
    }
    if dataset.settled_view.is_some() && dataset.column(SETTLED_AT).is_some() {
        return fail(format!(
            "`settled_view` adds a column `{SETTLED_AT}`, which the dataset has: rename the column"
        ));
    }
    dataset.check_key()?;
    dataset.check_partitions()?;
    match &dataset.summary {
        Some(summary) => check_summary(dataset, summary),
        None => Ok(()),
    }
}

fn check_summary(dataset: &Dataset, summary: &Summary) -> Result<(), InvalidDataset> {
    let wanted = [
        (&summary.key, ColumnType::Text),
        (&summary.time, ColumnType::Timestamp),
        (&summary.value, ColumnType::Text),
    ];
    for (name, kind) in wanted {
        let fits = dataset
            .column(name)
            .is_some_and(|(_, c)| c.kind == kind && c.required);
        if !fits {
            let kind = format!("{kind:?}").to_lowercase();
            let problem = format!("summary: `{name}` must be a required {kind} column");
            return Err(invalid(dataset, problem));
        }
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first
        && name.len() <= IDENTIFIER_CHARS_MAX
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests;
