//! The partitions of a table by time: which ones a table needs, which ones are due, and the clauses
//! that make them. Pure, for MySQL and MariaDB.
//!
//! A table has partitions by RANGE COLUMNS of one column. The first takes all that is older, and the
//! last (MAXVALUE) what fits no other.

use std::collections::VecDeque;

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, tz::TimeZone};

use crate::dataset::{Dataset, Datasets, PartitionEvery, Retain};
use crate::fault::{Fault, Origin};

/// Partitions that are made ahead of the present one: the service may be down for a while, and rows
/// with a wrong clock are not far in the future.
const AHEAD: usize = 3;

/// Most partitions that are made at once: those of the time that rows may be kept, and those ahead. If
/// more are missing, since a table was not kept for years, one partition takes all of the older time.
const MADE_MAX: usize = 1_024;

/// Most partitions that a table may have, in MySQL and MariaDB.
const PARTITIONS_MAX: usize = 8_192;

/// The name of the partition that takes what fits no other.
const LATER: &str = "p_later";

/// How a table is partitioned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partitions {
    /// The column with the time.
    pub(super) column: String,
    pub(super) every: PartitionEvery,
    pub(super) retain: Option<Retain>,
}

/// A partition that a table has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Partition {
    pub(super) name: String,
    /// The time below which its rows are. `None` for MAXVALUE.
    pub(super) below: Option<DateTime>,
}

/// The partitions that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ahead {
    /// None.
    Nothing,
    /// The clause of an ALTER TABLE that makes them.
    Make(String),
    /// With them, the table would have too many.
    Full,
}

/// The time in UTC.
pub(super) fn now() -> DateTime {
    TimeZone::UTC.to_datetime(Timestamp::now())
}

impl Partition {
    /// A partition as `information_schema` describes it. `None` if its bound is no time.
    pub(super) fn parse(name: String, description: &str) -> Option<Self> {
        let below = match description {
            "MAXVALUE" => None,
            text => Some(text.trim_matches('\'').parse().ok()?),
        };
        Some(Self { name, below })
    }
}

impl Partitions {
    /// `None` if the definition has no partitions.
    pub(super) fn of(dataset: &Dataset) -> Option<Self> {
        Some(Self {
            column: dataset.partition_by.clone()?,
            every: dataset.partition_length(),
            retain: dataset.retain,
        })
    }

    /// The clause of a new table, or of one that has no partitions yet.
    pub(super) fn clause(&self, now: DateTime) -> String {
        let mut all = self.missing(&[], now);
        all.push(max_value(LATER));
        format!(
            "PARTITION BY RANGE COLUMNS(`{}`) ({})",
            self.column,
            all.join(", ")
        )
    }

    /// The partitions that are to be made ahead. They divide the partition with MAXVALUE, if there is
    /// one.
    pub(super) fn ahead(&self, existing: &[Partition], now: DateTime) -> Ahead {
        let mut all = self.missing(existing, now);
        let last = existing.iter().find(|it| it.below.is_none());
        if all.is_empty() && last.is_some() {
            return Ahead::Nothing;
        }
        if existing.len() + all.len() + usize::from(last.is_none()) > PARTITIONS_MAX {
            return Ahead::Full;
        }
        let Some(last) = last else {
            all.push(max_value(&free(LATER, existing)));
            return Ahead::Make(format!("ADD PARTITION ({})", all.join(", ")));
        };
        all.push(max_value(&last.name));
        Ahead::Make(format!(
            "REORGANIZE PARTITION `{}` INTO ({})",
            last.name,
            all.join(", ")
        ))
    }

    /// The last [`MADE_MAX`] of the partitions that are missing up to [`AHEAD`] of the present one.
    /// Without any, those of the time that rows are kept, too.
    fn missing(&self, existing: &[Partition], now: DateTime) -> Vec<String> {
        let present = self.every.first_day(now);
        let kept = self
            .retain
            .map(|retain| self.every.first_day(retain.before(now)));
        let last = existing.iter().filter_map(|it| it.below).max();
        let mut first = match last.map(|last| self.aligned(last)) {
            // What was not made in time and is not kept gets no partition of its own.
            Some(last) => kept.map_or(last, |kept| last.max(kept)),
            None => kept.unwrap_or(present),
        };
        let mut end = present;
        for _ in 0..=AHEAD {
            end = self.every.next(end).unwrap_or(end);
        }
        let mut missing = VecDeque::new();
        while first < end {
            let Some(next) = self.every.next(first) else {
                break;
            };
            if missing.len() == MADE_MAX {
                missing.pop_front();
            }
            missing.push_back((first, next));
            first = next;
        }
        let clause = |(first, next): (Date, Date)| {
            let name = free(&self.every.name(first), existing);
            format!("PARTITION `{name}` VALUES LESS THAN ('{next}')")
        };
        missing.into_iter().map(clause).collect()
    }

    /// The first day of a partition that begins at this bound, or of the first one after it.
    fn aligned(&self, bound: DateTime) -> Date {
        let first = self.every.first_day(bound);
        if first.to_datetime(jiff::civil::Time::midnight()) == bound {
            return first;
        }
        self.every.next(first).unwrap_or(first)
    }

    /// The partitions of which no row is kept any more, in the order of the table.
    pub(super) fn due<'a>(&self, existing: &'a [Partition], now: DateTime) -> Vec<&'a Partition> {
        let Some(before) = self.retain.map(|retain| retain.before(now)) else {
            return Vec::new();
        };
        let is_due = |it: &&Partition| it.below.is_some_and(|below| below <= before);
        existing.iter().filter(is_due).collect()
    }
}

/// The clause of an ALTER TABLE that makes the last of these partitions take the rows of all. `None`
/// for one partition.
pub(super) fn merged(due: &[&Partition]) -> Option<String> {
    let (last, others) = due.split_last()?;
    let below = last.below.filter(|_| !others.is_empty())?;
    let names: Vec<String> = due.iter().map(|it| format!("`{}`", it.name)).collect();
    Some(format!(
        "REORGANIZE PARTITION {} INTO (PARTITION `{}` VALUES LESS THAN ('{}'))",
        names.join(", "),
        last.name,
        literal(below)
    ))
}

/// A time as SQL text without its quotes. A bound of a DATE column takes no time of day.
pub(super) fn literal(time: DateTime) -> String {
    if time.time() == jiff::civil::Time::midnight() {
        return time.date().to_string();
    }
    time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

fn max_value(name: &str) -> String {
    format!("PARTITION `{name}` VALUES LESS THAN (MAXVALUE)")
}

/// This name, with a number if a partition has it.
fn free(name: &str, existing: &[Partition]) -> String {
    let is_taken = |name: &str| existing.iter().any(|it| it.name.eq_ignore_ascii_case(name));
    let mut free = name.to_owned();
    let mut number = 2;
    while is_taken(&free) {
        free = format!("{name}_{number}");
        number += 1;
    }
    free
}

/// Refuses definitions with partitions, which SQLite does not have.
///
/// # Errors
/// Fatal: a definition has `partition_by`.
pub fn without_partitions(datasets: &Datasets) -> Result<(), Fault> {
    let mut partitioned = datasets.iter().filter(|it| it.partition_by.is_some());
    let Some(dataset) = partitioned.next() else {
        return Ok(());
    };
    let cause = format!(
        "the dataset `{}` has `partition_by`, and SQLite has no partitions",
        dataset.name
    );
    Err(Fault::fatal(Origin::Sink, "creating the tables", cause).with_next_step(
        "remove `partition_by`, `partition_every` and `retain` from it, or use a database of MySQL or \
         MariaDB",
    ))
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn monthly(retain: Option<&str>) -> Partitions {
        Partitions {
            column: "at".to_owned(),
            every: PartitionEvery::Month,
            retain: retain.map(|text| Retain::try_from(text.to_owned()).unwrap()),
        }
    }

    fn existing(all: &[(&str, &str)]) -> Vec<Partition> {
        let parse = |(name, below): &(&str, &str)| Partition::parse((*name).to_owned(), below);
        all.iter().map(|it| parse(it).unwrap()).collect()
    }

    fn now() -> DateTime {
        date(2026, 11, 28).at(2, 30, 0, 0)
    }

    #[test]
    fn a_new_table_has_partitions_of_the_kept_time_and_ahead() {
        let clause = monthly(None).clause(now());
        assert_eq!(
            clause,
            "PARTITION BY RANGE COLUMNS(`at`) (PARTITION `p202611` VALUES LESS THAN ('2026-12-01'), \
             PARTITION `p202612` VALUES LESS THAN ('2027-01-01'), PARTITION `p202701` VALUES LESS THAN \
             ('2027-02-01'), PARTITION `p202702` VALUES LESS THAN ('2027-03-01'), PARTITION `p_later` \
             VALUES LESS THAN (MAXVALUE))"
        );
        let clause = monthly(Some("60 days")).clause(now());
        assert!(
            clause.contains("(PARTITION `p202609` VALUES LESS THAN ('2026-10-01'), "),
            "{clause}"
        );
        let daily = Partitions {
            every: PartitionEvery::Day,
            ..monthly(Some("2 days"))
        };
        let clause = daily.clause(now());
        assert!(
            clause.contains("(PARTITION `p20261126` VALUES LESS THAN ('2026-11-27'), "),
            "{clause}"
        );
        assert!(clause.contains("`p20261201`") && !clause.contains("`p20261202`"));
    }

    #[test]
    fn partitions_are_made_ahead_of_those_that_exist() {
        let ahead = |all: &[(&str, &str)]| monthly(None).ahead(&existing(all), now());
        let whole = [("a", "'2027-03-01'"), ("z", "MAXVALUE")];
        assert_eq!(ahead(&whole), Ahead::Nothing);
        // Bounds of other programs: with a time, between two months, without MAXVALUE.
        for (all, clause) in [
            (
                vec![("a", "'2027-02-01 00:00:00.000000'"), ("z", "MAXVALUE")],
                "REORGANIZE PARTITION `z` INTO (PARTITION `p202702` VALUES LESS THAN ('2027-03-01'), \
                 PARTITION `z` VALUES LESS THAN (MAXVALUE))",
            ),
            (
                vec![("P202702", "'2027-01-15'"), ("z", "MAXVALUE")],
                "REORGANIZE PARTITION `z` INTO (PARTITION `p202702_2` VALUES LESS THAN ('2027-03-01'), \
                 PARTITION `z` VALUES LESS THAN (MAXVALUE))",
            ),
            (
                vec![("a", "'2027-03-01'")],
                "ADD PARTITION (PARTITION `p_later` VALUES LESS THAN (MAXVALUE))",
            ),
        ] {
            assert_eq!(ahead(&all), Ahead::Make(clause.to_owned()), "{all:?}");
        }
        assert_eq!(Partition::parse("a".to_owned(), "'x'"), None);
    }

    /// A table of days that was not kept for years, and one with as many partitions as there may be.
    #[test]
    fn no_more_partitions_are_made_than_a_server_takes() {
        let daily = Partitions {
            every: PartitionEvery::Day,
            ..monthly(None)
        };
        let old = existing(&[("a", "'2000-01-01'"), ("z", "MAXVALUE")]);
        let Ahead::Make(clause) = daily.ahead(&old, now()) else {
            panic!("partitions are missing");
        };
        assert_eq!(clause.matches("VALUES LESS THAN").count(), MADE_MAX + 1);
        assert!(clause.starts_with(
            "REORGANIZE PARTITION `z` INTO (PARTITION `p20240212` VALUES LESS THAN ('2024-02-13'), "
        ));
        assert!(clause.contains("PARTITION `p20261201` VALUES LESS THAN ('2026-12-02'), "));
        let mut many = vec![old[0].clone(); PARTITIONS_MAX - 4];
        many[0].below = Some(date(2026, 11, 28).at(0, 0, 0, 0));
        many.push(old[1].clone());
        assert_eq!(daily.ahead(&many, now()), Ahead::Full);
        many.swap_remove(1);
        assert!(matches!(daily.ahead(&many, now()), Ahead::Make(_)));
    }

    #[test]
    fn partitions_are_due_once_each_of_their_rows_is_older_and_are_merged_into_the_last() {
        let all = existing(&[
            ("a", "'2026-08-01'"),
            ("b", "'2026-09-01'"),
            ("c", "'2026-10-01'"),
            ("z", "MAXVALUE"),
        ]);
        let names = |retain: Option<&str>| {
            let due = monthly(retain).due(&all, now());
            due.iter().map(|it| it.name.clone()).collect::<Vec<_>>()
        };
        assert!(names(None).is_empty() && names(Some("400 days")).is_empty());
        assert_eq!(names(Some("60 days")), ["a", "b"]);
        assert_eq!(names(Some("1 day")), ["a", "b", "c"]);
        let due: Vec<&Partition> = all[..2].iter().collect();
        assert_eq!(
            merged(&due).unwrap(),
            "REORGANIZE PARTITION `a`, `b` INTO (PARTITION `b` VALUES LESS THAN ('2026-09-01'))"
        );
        assert_eq!(merged(&due[..1]), None);
        let odd = date(2026, 9, 1).at(6, 0, 0, 0);
        assert_eq!(literal(odd), "2026-09-01 06:00:00.000000");
    }
}
