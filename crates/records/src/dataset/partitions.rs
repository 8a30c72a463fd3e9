//! The partitions of a dataset's table by time: by which column, how long a partition lasts, and how
//! long rows are kept. No part of what a record means, so the ledger keeps none of it.

use std::fmt;

use jiff::civil::{Date, DateTime};
use jiff::{Span, ToSpan as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ColumnType, Dataset, InvalidDataset, invalid};

/// Most partitions of the time that rows are kept. MySQL allows 8,192 in a table, and opens each of
/// them with the table.
const KEPT_MAX: i64 = 1_000;

/// How long a partition lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartitionEvery {
    /// A calendar month in UTC.
    #[default]
    Month,
    /// A day in UTC.
    Day,
}

impl PartitionEvery {
    /// The first day of the partition with this time.
    #[must_use]
    pub fn first_day(self, time: DateTime) -> Date {
        match self {
            Self::Month => time.date().first_of_month(),
            Self::Day => time.date(),
        }
    }

    /// The first day of the partition after the one that begins on this day. `None` after the last
    /// year of the calendar.
    #[must_use]
    pub fn next(self, first_day: Date) -> Option<Date> {
        let next = match self {
            Self::Month => 1.month(),
            Self::Day => 1.day(),
        };
        first_day.checked_add(next).ok()
    }

    /// The name of the partition that begins on this day.
    #[must_use]
    pub fn name(self, first_day: Date) -> String {
        match self {
            Self::Month => first_day.strftime("p%Y%m").to_string(),
            Self::Day => first_day.strftime("p%Y%m%d").to_string(),
        }
    }
}

/// How long rows are kept: a number of calendar months and days, such as `400 days`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Retain {
    months: i32,
    days: i32,
}

impl Retain {
    /// The time before which rows are no longer kept.
    #[must_use]
    pub fn before(self, now: DateTime) -> DateTime {
        let length = Span::new().months(self.months).days(self.days);
        now.checked_sub(length).unwrap_or(DateTime::MIN)
    }

    /// About how many days it is, at most.
    fn days_max(self) -> i64 {
        i64::from(self.months) * 31 + i64::from(self.days)
    }
}

impl TryFrom<String> for Retain {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed: Option<Span> = text.parse().ok();
        let whole = |span: &Span| {
            let days = span.years(0).months(0).weeks(0).days(0);
            days.is_zero() && span.is_positive()
        };
        let retain = parsed.filter(whole).map(|span| {
            let months = i32::from(span.get_years()) * 12 + span.get_months();
            let days = span.get_weeks() * 7 + span.get_days();
            Self { months, days }
        });
        // A span of more would not reach back to a year that a timestamp can have.
        retain
            .filter(|retain| retain.days_max() < 1_000 * 366)
            .ok_or_else(|| {
                format!(
                    "`{text}` is not a number of days: write one such as \"400 days\" or \"13 months\""
                )
            })
    }
}

impl fmt::Display for Retain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.months, self.days) {
            (0, days) => write!(f, "{days} days"),
            (months, 0) => write!(f, "{months} months"),
            (months, days) => write!(f, "{months} months {days} days"),
        }
    }
}

impl Dataset {
    /// How long a partition lasts.
    #[must_use]
    pub fn partition_length(&self) -> PartitionEvery {
        self.partition_every.unwrap_or_default()
    }

    /// Checks `partition_by`, `partition_every` and `retain`.
    pub(super) fn check_partitions(&self) -> Result<(), InvalidDataset> {
        let fail = |problem: String| Err(invalid(self, problem));
        let Some(name) = self.partition_by.as_deref() else {
            return match (self.partition_every, self.retain) {
                (None, None) => Ok(()),
                _ => fail(
                    "`partition_every` and `retain` need `partition_by`, the column with the time"
                        .to_owned(),
                ),
            };
        };
        let Some((_, column)) = self.column(name) else {
            return fail(format!(
                "`partition_by`: the dataset has no column `{name}`"
            ));
        };
        if column.is_nullable() || !matches!(column.kind, ColumnType::Timestamp | ColumnType::Date)
        {
            return Err(InvalidDataset {
                column: Some(name.to_owned()),
                ..invalid(
                    self,
                    format!(
                        "`partition_by` is `{name}`: it must be a required column (or have a `default`) of \
                         the type timestamp or date"
                    ),
                )
            });
        }
        if !self.key.is_empty() && !self.key.iter().any(|of_key| of_key == name) {
            return fail(format!(
                "the key [{}] does not have `{name}`, by which the table is partitioned: a unique key of \
                 a partitioned table must have it; add it to `key`, or remove `partition_by`",
                self.key.join(", ")
            ));
        }
        let Some(retain) = self.retain else {
            return Ok(());
        };
        if self.partition_length() == PartitionEvery::Day && retain.days_max() > KEPT_MAX {
            return fail(format!(
                "`retain` is {retain}, which are more than {KEPT_MAX} partitions of a day: set \
                 `partition_every = \"month\"`"
            ));
        }
        match &self.summary {
            Some(summary) if summary.time != name => fail(format!(
                "it has `retain` and a summary whose `time` is `{}`: both must be by the same column, \
                 `{name}`, so that the days of retired rows are known",
                summary.time
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_retention_is_written_in_days_and_months() {
        let now = date(2026, 11, 28).at(2, 30, 0, 0);
        for (text, before, shown) in [
            ("400 days", date(2025, 10, 24), "400 days"),
            ("1 day", date(2026, 11, 27), "1 days"),
            ("2 weeks", date(2026, 11, 14), "14 days"),
            ("13 months", date(2025, 10, 28), "13 months"),
            ("2 years", date(2024, 11, 28), "24 months"),
            ("1 year 3 days", date(2025, 11, 25), "12 months 3 days"),
            ("400d", date(2025, 10, 24), "400 days"),
        ] {
            let retain = Retain::try_from(text.to_owned()).unwrap();
            assert_eq!(retain.before(now), before.at(2, 30, 0, 0), "{text}");
            assert_eq!(retain.to_string(), shown);
        }
        for wrong in [
            "",
            "0 days",
            "-3 days",
            "400",
            "24h",
            "1 day 2 hours",
            "3000 years",
            "ever",
        ] {
            let message = Retain::try_from(wrong.to_owned()).unwrap_err();
            assert!(message.contains(&format!("`{wrong}`")), "{message}");
        }
    }

    #[test]
    fn partitions_follow_one_another_without_a_gap() {
        let time = date(2026, 12, 31).at(23, 59, 59, 0);
        for (every, first, next, name) in [
            (
                PartitionEvery::Month,
                date(2026, 12, 1),
                date(2027, 1, 1),
                "p202612",
            ),
            (
                PartitionEvery::Day,
                date(2026, 12, 31),
                date(2027, 1, 1),
                "p20261231",
            ),
        ] {
            assert_eq!(every.first_day(time), first);
            assert_eq!(every.next(first), Some(next));
            assert_eq!(every.name(first), name);
        }
        assert_eq!(PartitionEvery::Month.next(Date::MAX.first_of_month()), None);
    }
}
