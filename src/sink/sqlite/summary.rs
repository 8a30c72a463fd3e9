//! The daily summary in SQLite: read by ranges of the primary key, merged entry by entry.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use rusqlite::{Row, Transaction, params};

use crate::batch::row_id;
use crate::dataset::{Dataset, Datasets, Summary};
use crate::sink::keys::SETTINGS;
use crate::sink::summary::{
    self, OTHER_ZONE, not_taken, other_mark, other_zone, reduce, taken_ids, zone_setting,
};
use crate::sink::table::{SummaryNames, quoted, summary_of};
use crate::sink::{LastEvent, Merged, NodeId, Unsummarised};
use crate::timestamp;

use super::contents::{keep, kept};
use super::errors::{Class, Failure, classify};
use super::lease::still_leads;

/// Length of `YYYY-MM-DD`, the beginning of a timestamp.
const DAY_CHARS: usize = 10;

/// See [`SummaryStore::summary_pending`](crate::sink::SummaryStore::summary_pending).
pub(super) fn pending(
    db: &Transaction<'_>,
    dataset: &Dataset,
    max: usize,
) -> Result<Vec<Unsummarised>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT file_no, records, summarised FROM ingest_files WHERE dataset = ? AND state = \
         'settled' AND summarised <> 1 ORDER BY summarised, file_no LIMIT ?",
    )?;
    let found = find.query_map(params![dataset.name, max], |row| {
        Ok(Unsummarised {
            file_no: row.get(0)?,
            records: row.get(1)?,
            mark: row.get(2)?,
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// See [`SummaryStore::summary_scan`](crate::sink::SummaryStore::summary_scan).
pub(super) fn scan(
    db: &Transaction<'_>,
    dataset: &Dataset,
    ids: &Range<u64>,
    max: usize,
) -> Result<Vec<LastEvent>, Failure> {
    let summary = summary_of(dataset);
    let is_taken = db.prepare(&taken_ids(ids))?.exists([])?;
    let condition = if is_taken { not_taken() } else { String::new() };
    let sql = format!(
        "SELECT {} FROM `{}` WHERE `id` >= ? AND `id` < ?{condition} ORDER BY `id` LIMIT ?",
        quoted(["id", &summary.key, &summary.time, &summary.value]),
        dataset.table
    );
    // The end may be above the largest integer of SQLite. No id is above it.
    let bound = |id: u64| i64::try_from(id).unwrap_or(i64::MAX);
    let mut find = db.prepare_cached(&sql)?;
    let found = find.query_and_then(params![bound(ids.start), bound(ids.end), max], event)?;
    found.collect()
}

/// See [`SummaryStore::summary_merge`](crate::sink::SummaryStore::summary_merge).
pub(super) fn merge(
    db: &Transaction<'_>,
    dataset: &Dataset,
    candidates: &[LastEvent],
    files: &[Unsummarised],
    leader: Option<&NodeId>,
) -> Result<Merged, Failure> {
    if let Some(leader) = leader
        && !still_leads(db, leader)?
    {
        return Ok(Merged::Deposed);
    }
    let present = present(db, candidates)?;
    let mut merged = Merged::All;
    if present.len() < candidates.len() {
        merged = Merged::InPart;
        // An earlier event of the pair may be the last one now.
        self::mark(db, &dataset.name)?;
    }
    upsert(db, dataset, &present)?;
    let mut mark = db.prepare_cached(
        "UPDATE ingest_files SET summarised = 1 WHERE file_no = ? AND summarised = ?",
    )?;
    for file in files {
        mark.execute(params![file.file_no, file.mark])?;
    }
    Ok(merged)
}

/// The candidates whose records are there: they may have been erased, or their file may have been
/// removed, since they were stored.
fn present<'a>(
    db: &Transaction<'_>,
    candidates: &'a [LastEvent],
) -> Result<Cow<'a, [LastEvent]>, Failure> {
    let file_nos: BTreeSet<u32> = candidates.iter().map(LastEvent::file_no).collect();
    let (mut there, mut erased) = (HashSet::new(), HashSet::new());
    let mut file =
        db.prepare_cached("SELECT 1 FROM ingest_files WHERE file_no = ? AND state <> 'removing'")?;
    let mut of_file = db.prepare_cached("SELECT ordinal FROM ingest_erased WHERE file_no = ?")?;
    for file_no in file_nos {
        if file.exists([file_no])? {
            there.insert(file_no);
        }
        let ordinals = of_file.query_map([file_no], |row| row.get::<_, u32>(0))?;
        for ordinal in ordinals {
            erased.insert(row_id(file_no, ordinal?));
        }
    }
    Ok(summary::present(candidates, &there, &erased))
}

/// Merges candidates within the transaction of the caller.
pub(super) fn upsert(
    db: &Transaction<'_>,
    dataset: &Dataset,
    candidates: &[LastEvent],
) -> Result<(), Failure> {
    if candidates.is_empty() {
        return Ok(());
    }
    let summary = summary_of(dataset);
    check_zone(db, summary)?;
    let SummaryNames {
        key,
        day,
        time,
        value,
        id,
    } = SummaryNames::of(summary);
    let sql = format!(
        "INSERT INTO `{}` ({}) VALUES (?, ?, ?, ?, ?) ON CONFLICT (`{key}`, `{day}`) DO UPDATE SET \
         `{time}` = excluded.`{time}`, `{value}` = excluded.`{value}`, `{id}` = excluded.`{id}` \
         WHERE (excluded.`{time}`, excluded.`{id}`) > (`{time}`, `{id}`)",
        summary.table,
        quoted([key, day, time.as_str(), value.as_str(), id]),
    );
    let mut upsert = db.prepare_cached(&sql)?;
    for event in reduce(candidates, &summary.time_zone) {
        let time = timestamp::text(event.time_us);
        let day = match &summary.time_zone {
            utc if utc.is_utc() => time.clone(),
            zone => timestamp::text(zone.date(event.time_us)),
        };
        let values = params![event.key, &day[..DAY_CHARS], time, event.value, event.id];
        let upserted = upsert.execute(values);
        upserted.map_err(|error| refused(error, &summary.table))?;
    }
    Ok(())
}

/// Keeps the time zones of summaries whose tables do not exist yet, and checks those of the others
/// unless `any_zone`.
pub(super) fn keep_zones(
    db: &Transaction<'_>,
    datasets: &Datasets,
    any_zone: bool,
) -> Result<(), Failure> {
    if !any_zone {
        check_zones(db, datasets)?;
    }
    for summary in datasets.iter().filter_map(|it| it.summary.as_ref()) {
        if !db.table_exists(None::<&str>, summary.table.as_str())? {
            keep_zone(db, summary)?;
        }
    }
    Ok(())
}

/// Checks the time zones of summaries whose tables exist. The ledger may lack its settings, which
/// a start makes again.
pub(super) fn check_zones(db: &Transaction<'_>, datasets: &Datasets) -> Result<(), Failure> {
    let has_settings = db.table_exists(None::<&str>, SETTINGS)?;
    for summary in datasets.iter().filter_map(|it| it.summary.as_ref()) {
        if !db.table_exists(None::<&str>, summary.table.as_str())? {
            continue;
        }
        if has_settings {
            check_zone(db, summary)?;
        } else {
            compare_zone(summary, None)?;
        }
    }
    Ok(())
}

fn check_zone(db: &Transaction<'_>, summary: &Summary) -> Result<(), Failure> {
    let kept = kept(db, &zone_setting(&summary.table))?;
    compare_zone(summary, kept.as_deref())
}

fn compare_zone(summary: &Summary, kept: Option<&[u8]>) -> Result<(), Failure> {
    other_zone(summary, kept).map_or(Ok(()), |problem| {
        Err(Failure::Found {
            next_step: OTHER_ZONE.to_owned(),
            problem,
        })
    })
}

fn keep_zone(db: &Transaction<'_>, summary: &Summary) -> Result<(), Failure> {
    let name = zone_setting(&summary.table);
    if summary.time_zone.is_utc() && kept(db, &name)?.is_none() {
        return Ok(());
    }
    keep(db, &name, summary.time_zone.name().as_bytes())
}

/// The failure of an upsert, with the name of the table if it refuses the values.
fn refused(error: rusqlite::Error, table: &str) -> Failure {
    match classify(&error) {
        Class::Duplicate | Class::Data => Failure::Found {
            next_step: summary::REFUSED.to_owned(),
            problem: summary::refused(table, error),
        },
        _ => error.into(),
    }
}

/// See [`SummaryStore::summary_reset`](crate::sink::SummaryStore::summary_reset).
pub(super) fn reset(db: &Transaction<'_>, dataset: &Dataset) -> Result<(), Failure> {
    db.execute(&format!("DELETE FROM `{}`", summary_of(dataset).table), [])?;
    keep_zone(db, summary_of(dataset))?;
    mark(db, &dataset.name)
}

/// Marks all files of a dataset, so that their rows are read again.
pub(super) fn mark(db: &Transaction<'_>, dataset: &str) -> Result<(), Failure> {
    let mark = other_mark();
    let sql = format!("UPDATE ingest_files SET summarised = {mark} WHERE dataset = ?");
    db.execute(&sql, [dataset])?;
    Ok(())
}

/// See [`SummaryStore::summary_head`](crate::sink::SummaryStore::summary_head).
pub(super) fn head(
    db: &Transaction<'_>,
    dataset: &Dataset,
    max: usize,
) -> Result<Vec<LastEvent>, Failure> {
    let summary = summary_of(dataset);
    let SummaryNames {
        key,
        day,
        time,
        value,
        id,
    } = SummaryNames::of(summary);
    let sql = format!(
        "SELECT {} FROM `{}` ORDER BY `{day}` DESC, `{key}` LIMIT ?",
        quoted([id, key, time.as_str(), value.as_str()]),
        summary.table
    );
    let mut find = db.prepare_cached(&sql)?;
    find.query_and_then([max], event)?.collect()
}

fn event(row: &Row<'_>) -> Result<LastEvent, Failure> {
    let id: u64 = row.get(0)?;
    let time: String = row.get(2)?;
    let time_us = timestamp::parse(&time).ok_or_else(|| Failure::Found {
        next_step: "run `task_runner migrate`, which checks the tables".to_owned(),
        problem: format!("row {id} has `{time}` in its time column"),
    })?;
    Ok(LastEvent {
        key: row.get(1)?,
        time_us,
        value: row.get(3)?,
        id,
    })
}
