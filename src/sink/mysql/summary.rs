//! The daily summary in MySQL: read by ranges of the primary key, written sorted and in bulk.
//!
//! No statement reads the whole table of a dataset: with five million rows, that takes a minute and
//! more than a gigabyte of the server's memory.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use mysql_async::Value;

use crate::batch::row_id;
use crate::dataset::{Dataset, Datasets, Summary};
use crate::sink::keys::SETTINGS;
use crate::sink::summary::{
    self, OTHER_ZONE, not_taken, other_mark, other_zone, reduce, taken_ids, zone_setting,
};
use crate::sink::table::{SummaryNames, quoted, summary_of};
use crate::sink::{LastEvent, Merged, NodeId, Unsummarised};
use crate::timestamp::{self, Civil};

use super::bind::{datetime, limits};
use super::contents::{keep, kept};
use super::errors::{Class, Failure};
use super::files::{FILES_PER_STATEMENT, list};
use super::lease::still_leads;
use super::retired::{Moment, bound};
use super::session::{Insert, Session};

/// Entries of one upsert.
const ENTRIES_PER_STATEMENT: usize = 1_000;

/// A row as it is read: id, key, time, value.
type Read = (u64, String, Value, String);

/// See [`SummaryStore::summary_pending`](crate::sink::SummaryStore::summary_pending).
pub(super) async fn pending(
    session: &mut Session,
    dataset: &Dataset,
    max: usize,
) -> Result<Vec<Unsummarised>, Failure> {
    let sql = format!(
        "SELECT file_no, records, summarised FROM ingest_files WHERE dataset = ? AND state = \
         'settled' AND summarised <> 1 ORDER BY summarised, file_no LIMIT {max}"
    );
    let rows = session.rows_with(&sql, (&dataset.name,)).await?;
    let file = |(file_no, records, mark)| Unsummarised {
        file_no,
        records,
        mark,
    };
    Ok(rows.into_iter().map(file).collect())
}

/// See [`SummaryStore::summary_scan`](crate::sink::SummaryStore::summary_scan).
pub(super) async fn scan(
    session: &mut Session,
    dataset: &Dataset,
    ids: Range<u64>,
    max: usize,
) -> Result<Vec<LastEvent>, Failure> {
    let summary = summary_of(dataset);
    let taken = session.rows::<u64>(&taken_ids(&ids)).await?;
    let condition = if taken.is_empty() {
        String::new()
    } else {
        not_taken()
    };
    let columns = quoted(["id", &summary.key, &summary.time, &summary.value]);
    let of = |table: &str| {
        format!(
            "SELECT {columns} FROM `{table}` WHERE `id` >= ? AND `id` < ?{condition} ORDER BY `id` LIMIT \
             {max}"
        )
    };
    let (table, between) = (&dataset.table, (ids.start, ids.end));
    let mut rows = session.rows_with::<Read>(&of(table), between).await?;
    // Read after the rows: if no partition is being taken out, rows that the table does not have are in
    // the summary, since their files are before they are counted as retired.
    if bound(session, table)
        .await?
        .is_some_and(|it| it.taken.is_some())
    {
        rows = loop {
            let moment = Moment::begin(session, table).await?;
            let found = rows_of(session, &moment.tables, of, between).await;
            if let Some(found) = moment.end(session, found).await? {
                break found;
            }
        };
        rows.sort_unstable_by_key(|(id, ..)| *id);
        rows.truncate(max);
    }
    rows.into_iter().map(event).collect()
}

/// The rows of several tables.
async fn rows_of(
    session: &mut Session,
    tables: &[String],
    query: impl Fn(&str) -> String,
    between: (u64, u64),
) -> Result<Vec<Read>, Failure> {
    let mut rows = Vec::new();
    for table in tables {
        rows.extend(session.rows_with(&query(table), between).await?);
    }
    Ok(rows)
}

/// See [`SummaryStore::summary_merge`](crate::sink::SummaryStore::summary_merge).
pub(super) async fn merge(
    session: &mut Session,
    dataset: &Dataset,
    candidates: &[LastEvent],
    files: &[Unsummarised],
    leader: Option<&NodeId>,
) -> Result<Merged, Failure> {
    session.begin().await?;
    let present = present(session, candidates).await?;
    let mut merged = Merged::All;
    if present.len() < candidates.len() {
        merged = Merged::InPart;
        // An earlier event of the pair may be the last one now.
        mark(session, &dataset.name).await?;
    }
    upsert(session, dataset, &present).await?;
    for files in files.chunk_by(|a, b| a.mark == b.mark) {
        let sql = format!(
            "UPDATE ingest_files SET summarised = 1 WHERE file_no IN ({}) AND summarised = {}",
            list(&files.iter().map(|file| file.file_no).collect::<Vec<_>>()),
            files[0].mark
        );
        session.run(&sql).await?;
    }
    if let Some(leader) = leader
        && !still_leads(session, leader).await?
    {
        session.rollback().await?;
        return Ok(Merged::Deposed);
    }
    session.commit().await?;
    Ok(merged)
}

/// The candidates whose records are there: they may have been erased, or their file may have been
/// removed, since they were stored. Locks their files: an erasure or a removal that begins later
/// finds the merged entries.
async fn present<'a>(
    session: &mut Session,
    candidates: &'a [LastEvent],
) -> Result<Cow<'a, [LastEvent]>, Failure> {
    let file_nos: BTreeSet<u32> = candidates.iter().map(LastEvent::file_no).collect();
    let file_nos: Vec<u32> = file_nos.into_iter().collect();
    let (mut there, mut erased) = (HashSet::new(), HashSet::new());
    for file_nos in file_nos.chunks(FILES_PER_STATEMENT) {
        let file_nos = list(file_nos);
        // The statistics of a table that was just made say that it is empty.
        let sql = format!(
            "SELECT file_no FROM ingest_files FORCE INDEX (PRIMARY) WHERE file_no IN ({file_nos}) AND \
             state <> 'removing' ORDER BY file_no LOCK IN SHARE MODE"
        );
        there.extend(session.rows::<u32>(&sql).await?);
        let sql = format!(
            "SELECT file_no, ordinal FROM ingest_erased WHERE file_no IN ({file_nos}) LOCK IN SHARE MODE"
        );
        let found = session.rows::<(u32, u32)>(&sql).await?.into_iter();
        erased.extend(found.map(|(file_no, ordinal)| row_id(file_no, ordinal)));
    }
    Ok(summary::present(candidates, &there, &erased))
}

/// Merges candidates within the transaction of the caller.
pub(super) async fn upsert(
    session: &mut Session,
    dataset: &Dataset,
    candidates: &[LastEvent],
) -> Result<(), Failure> {
    if candidates.is_empty() {
        return Ok(());
    }
    let zone = &summary_of(dataset).time_zone;
    check_zone(session, summary_of(dataset)).await?;
    let insert = upsert_sql(dataset);
    let candidates = reduce(candidates, zone);
    let limits = limits(&insert, session.server, ENTRIES_PER_STATEMENT);
    let mut rest = candidates.as_slice();
    while !rest.is_empty() {
        let rows = limits.shape(rest.len());
        let (now, later) = rest.split_at(rows);
        let values = now.iter().map(|event| {
            let at = timestamp::civil(event.time_us);
            let values: [Value; 5] = [
                event.key.as_str().into(),
                datetime(&timestamp::civil(zone.date(event.time_us))),
                event.value.as_str().into(),
                event.id.into(),
                datetime(&at),
            ];
            values.into_iter()
        });
        let inserted = session.insert(&insert, rows, values).await;
        inserted.map_err(|failure| refused(failure, dataset))?;
        rest = later;
    }
    Ok(())
}

/// Keeps the time zones of summaries whose tables do not exist yet, and checks those of the others
/// unless `any_zone`.
pub(super) async fn keep_zones(
    session: &mut Session,
    datasets: &Datasets,
    any_zone: bool,
) -> Result<(), Failure> {
    if !any_zone {
        check_zones(session, datasets).await?;
    }
    for summary in datasets.iter().filter_map(|it| it.summary.as_ref()) {
        if !session.has_table(&summary.table).await? {
            keep_zone(session, summary).await?;
        }
    }
    Ok(())
}

/// Checks the time zones of summaries whose tables exist. The ledger may lack its settings, which
/// a start makes again.
pub(super) async fn check_zones(session: &mut Session, datasets: &Datasets) -> Result<(), Failure> {
    let has_settings = session.has_table(SETTINGS).await?;
    for summary in datasets.iter().filter_map(|it| it.summary.as_ref()) {
        if !session.has_table(&summary.table).await? {
            continue;
        }
        if has_settings {
            check_zone(session, summary).await?;
        } else {
            compare_zone(summary, None)?;
        }
    }
    Ok(())
}

async fn check_zone(session: &mut Session, summary: &Summary) -> Result<(), Failure> {
    let kept = kept(session, &zone_setting(&summary.table)).await?;
    compare_zone(summary, kept.as_deref())
}

fn compare_zone(summary: &Summary, kept: Option<&[u8]>) -> Result<(), Failure> {
    other_zone(summary, kept).map_or(Ok(()), |problem| {
        Err(Failure::Found {
            next_step: OTHER_ZONE,
            problem,
        })
    })
}

async fn keep_zone(session: &mut Session, summary: &Summary) -> Result<(), Failure> {
    let name = zone_setting(&summary.table);
    if summary.time_zone.is_utc() && kept(session, &name).await?.is_none() {
        return Ok(());
    }
    keep(session, &name, summary.time_zone.name().into()).await
}

/// The failure of an upsert, with the name of the table if it refuses the values.
fn refused(failure: Failure, dataset: &Dataset) -> Failure {
    match failure.class() {
        Class::Duplicate | Class::Data => Failure::Found {
            next_step: summary::REFUSED,
            problem: summary::refused(&summary_of(dataset).table, failure),
        },
        _ => failure,
    }
}

/// The upsert that keeps the larger pair of time and id. The server assigns from left to right, and
/// each condition must see the old time and id. So it assigns the value first, then the id, then
/// the time.
fn upsert_sql(dataset: &Dataset) -> Insert {
    let summary = summary_of(dataset);
    let SummaryNames {
        key,
        day,
        time,
        value,
        id,
    } = SummaryNames::of(summary);
    let later = format!(
        "VALUES(`{time}`) > `{time}` OR (VALUES(`{time}`) = `{time}` AND VALUES(`{id}`) > `{id}`)"
    );
    Insert {
        head: format!(
            "INSERT INTO `{}` ({})",
            summary.table,
            quoted([key, day, value.as_str(), id, time.as_str()])
        ),
        group: Cow::Borrowed("(?,?,?,?,?)"),
        columns: 5,
        tail: Cow::Owned(format!(
            " ON DUPLICATE KEY UPDATE `{value}` = IF({later}, VALUES(`{value}`), `{value}`), `{id}` \
             = IF({later}, VALUES(`{id}`), `{id}`), `{time}` = GREATEST(`{time}`, VALUES(`{time}`))"
        )),
    }
}

/// See [`SummaryStore::summary_reset`](crate::sink::SummaryStore::summary_reset).
pub(super) async fn reset(session: &mut Session, dataset: &Dataset) -> Result<(), Failure> {
    let summary = summary_of(dataset);
    session.begin().await?;
    // First, so that rows which are being retired are read again before they are counted. If they were
    // counted before, the bound is known.
    mark(session, &dataset.name).await?;
    keep_zone(session, summary).await?;
    let bound = bound(session, &dataset.table).await?;
    let kept = bound.and_then(|it| it.kept_days(summary));
    // Entries of days whose rows are retired cannot be computed again, and stay.
    let condition = kept.map_or(String::new(), |days| format!(" WHERE {days}"));
    session
        .run_scan(&format!("DELETE FROM `{}`{condition}", summary.table))
        .await?;
    session.commit().await
}

/// Marks all files of a dataset, so that their rows are read again.
pub(super) async fn mark(session: &mut Session, dataset: &str) -> Result<(), Failure> {
    let mark = other_mark();
    let sql = format!("UPDATE ingest_files SET summarised = {mark} WHERE dataset = ?");
    session.run_with(&sql, (dataset,)).await.map(drop)
}

/// See [`SummaryStore::summary_head`](crate::sink::SummaryStore::summary_head).
pub(super) async fn head(
    session: &mut Session,
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
        "SELECT {} FROM `{}` ORDER BY `{day}` DESC, `{key}` LIMIT {max}",
        quoted([id, key, time.as_str(), value.as_str()]),
        summary.table,
    );
    let rows = session.rows_with::<Read>(&sql, ()).await?;
    rows.into_iter().map(event).collect()
}

fn event((id, key, time, value): Read) -> Result<LastEvent, Failure> {
    let Value::Date(year, month, day, hour, minute, second, micros) = time else {
        return Err(Failure::Found {
            next_step: "run `task_runner migrate`, which checks the tables",
            problem: format!("row {id} has no DATETIME in its time column"),
        });
    };
    let at = Civil {
        year,
        month,
        day,
        hour,
        minute,
        second,
        micros,
    };
    Ok(LastEvent {
        key,
        time_us: at.timestamp(),
        value,
        id,
    })
}
