//! The key of a dataset: the columns that name an event, and which of several records with the same
//! values in them is the row.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::index::columns_problem;
use super::{ColumnType, Dataset, InvalidDataset, invalid};

/// Which of several records with the same key is the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// The one that is stored first. Each other one is a reject.
    #[default]
    Reject,
    /// The one with the smallest value in the column `order_by`. Each other one is superseded.
    First,
    /// The one with the largest value in the column `order_by`. Each other one is superseded.
    Last,
}

/// What the key means for rows, as the fingerprint has it.
#[derive(Debug, Serialize)]
pub(super) struct KeyRules<'a> {
    key: &'a [String],
    on_conflict: OnConflict,
    order_by: Option<&'a str>,
}

impl Dataset {
    /// Which of several records with the same key is the row. `None` without a key.
    #[must_use]
    pub fn conflict(&self) -> Option<OnConflict> {
        (!self.key.is_empty()).then(|| self.on_conflict.unwrap_or_default())
    }

    /// Whether a record may be superseded: it has a key, and another record with it is the row.
    #[must_use]
    pub fn supersedes(&self) -> bool {
        matches!(self.conflict(), Some(OnConflict::First | OnConflict::Last))
    }

    /// The indexes of the columns of the key.
    pub fn key_columns(&self) -> impl Iterator<Item = usize> {
        let columns = self.key.iter().filter_map(|name| self.column(name));
        columns.map(|(at, _)| at)
    }

    /// The index of the column that orders records with the same key. `None` if records are not
    /// superseded.
    #[must_use]
    pub fn order_column(&self) -> Option<usize> {
        let (at, _) = self.column(self.order_by.as_deref()?)?;
        self.supersedes().then_some(at)
    }

    /// `None` for a dataset without a key, whose fingerprint is that of earlier releases.
    pub(super) fn key_rules(&self) -> Option<KeyRules<'_>> {
        Some(KeyRules {
            on_conflict: self.conflict()?,
            key: &self.key,
            order_by: self.order_by.as_deref(),
        })
    }

    /// Checks `key`, `on_conflict` and `order_by`.
    pub(super) fn check_key(&self) -> Result<(), InvalidDataset> {
        let fail = |problem: String| Err(invalid(self, problem));
        let of_column = |name: &str, problem: String| {
            Err(InvalidDataset {
                column: Some(name.to_owned()),
                ..invalid(self, problem)
            })
        };
        if self.key.is_empty() {
            return match (self.on_conflict, &self.order_by) {
                (None, None) => Ok(()),
                _ => fail("`on_conflict` and `order_by` need a `key`".to_owned()),
            };
        }
        if let Some(problem) = columns_problem(self, &self.key) {
            return fail(format!("the key [{}]: {problem}", self.key.join(", ")));
        }
        for (_, column) in self.key.iter().filter_map(|name| self.column(name)) {
            let name = &column.name;
            if column.is_nullable() {
                return of_column(
                    name,
                    format!(
                        "the key has `{name}`, which may be null, and records without a value have no \
                         key: set `required = true` for it, or a `default`"
                    ),
                );
            }
            if !(column.kind == ColumnType::Text || is_ordered(column.kind)) {
                return of_column(
                    name,
                    format!(
                        "the key has `{name}`, which is {}: a key has columns of the types text, \
                         integer, unsigned, timestamp and date",
                        column.kind
                    ),
                );
            }
        }
        if !self.supersedes() {
            return match self.order_by {
                None => Ok(()),
                Some(_) => fail(
                    "`order_by` is only for `on_conflict = \"first\"` or `\"last\"`: with `\"reject\"`, \
                     the record that is stored first is the row"
                        .to_owned(),
                ),
            };
        }
        let Some(name) = self.order_by.as_deref() else {
            return fail(
                "`on_conflict` is `first` or `last`: name the column that decides which record that \
                 is, with `order_by`"
                    .to_owned(),
            );
        };
        let Some((_, column)) = self.column(name) else {
            return fail(format!("`order_by`: the dataset has no column `{name}`"));
        };
        if column.is_nullable() || !is_ordered(column.kind) {
            return of_column(
                name,
                format!(
                    "`order_by` is `{name}`: it must be a required column (or have a `default`) of the \
                     type integer, unsigned, timestamp or date"
                ),
            );
        }
        if self.summary.is_some() {
            return fail(
                "it has a `summary` and supersedes rows, which the summary would have counted: set \
                 `on_conflict = \"reject\"`, or make the summary a view of the table"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Whether values of a type have an order that each database gives them.
const fn is_ordered(kind: ColumnType) -> bool {
    matches!(
        kind,
        ColumnType::Integer | ColumnType::Unsigned | ColumnType::Timestamp | ColumnType::Date
    )
}
