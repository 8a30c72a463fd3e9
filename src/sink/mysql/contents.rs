//! Reads rows and compares them with their records, in MySQL.

use std::collections::HashSet;
use std::slice;

use crate::batch::{Batch, Span, provenance, row_id};
use crate::dataset::Dataset;
use crate::sink::cells::by_dataset;
use crate::sink::conflict::superseded_sql;
use crate::sink::contents::{
    self, Change, Difference, DifferenceKind, KeptReplay, Stored, rejects_sql, replay_sql,
    replayed_sql, rows_sql,
};
use crate::sink::definitions::recorded;

use super::commit::differing;
use super::errors::Failure;
use super::retired::{bound, with_retired};
use super::session::Session;

/// See [`Contents::differences`](crate::sink::Contents::differences).
pub(super) async fn differences(
    session: &mut Session,
    batch: &Batch,
) -> Result<Vec<Difference>, Failure> {
    let ordinals = batch.span.ordinals();
    let first = row_id(batch.span.file_no, 0);
    let sql = rows_sql(&batch.dataset);
    // Prepared, so that the server sends each value in its type.
    let ids = (first + ordinals.start, first + ordinals.end);
    let rows = session.rows_with::<mysql_async::Row>(&sql, ids).await?;
    let ordinal = |row: &mysql_async::Row| {
        let id = row.get::<u64, _>(0).expect("the first column is the id");
        provenance(id).1
    };
    let rejects = session
        .rows::<(u32, bool)>(&rejects_sql(&batch.dataset.table, batch.span))
        .await?;
    let stored = Stored {
        rows: rows.into_iter().map(|row| (ordinal(&row), row)).collect(),
        rejects,
    };
    let schema = batch.dataset.schema();
    let groups = by_dataset(slice::from_ref(batch));
    let changed = |place: usize, row: &mysql_async::Row| {
        let columns = differing(groups[0].row(place), row);
        let change = |at: usize| {
            let stored = row.as_ref(at).map(|value| value.as_sql(true));
            Change::new(schema.field(at).name(), &stored.unwrap_or_default())
        };
        columns.map(change).collect()
    };
    let mut found = contents::differences(batch, stored, changed);
    let is_missing = |it: &Difference| it.kind == DifferenceKind::Missing;
    if let Some(rows) = groups.first().filter(|_| found.iter().any(is_missing))
        && let Some(bound) = bound(session, &batch.dataset.table).await?
        && !with_retired(session, &bound, &[batch.span.file_no])
            .await?
            .is_empty()
    {
        let old: HashSet<u32> = rows
            .range(0..rows.len())
            .filter(|row| bound.is_before(&batch.dataset, *row))
            .map(|row| provenance(row.id()).1)
            .collect();
        // How many of them are retired, the counts of the file say.
        found.retain(|it| !(is_missing(it) && old.contains(&it.ordinal)));
    }
    Ok(found)
}

/// See [`Contents::replayed`](crate::sink::Contents::replayed).
pub(super) async fn replayed(session: &mut Session, span: Span) -> Result<Vec<u32>, Failure> {
    session.rows::<u32>(&replayed_sql(span)).await
}

/// See [`Contents::unsuperseded`](crate::sink::Contents::unsuperseded).
pub(super) async fn gone(
    session: &mut Session,
    dataset: &Dataset,
    span: Span,
) -> Result<Vec<u32>, Failure> {
    let sql = superseded_sql(&dataset.table, span);
    let found = session.rows::<(u32, bool, u64)>(&sql).await?;
    let gone = found.into_iter().filter(|(_, is_valid, _)| !is_valid);
    Ok(gone.map(|(ordinal, ..)| ordinal).collect())
}

/// See [`Contents::replay_of`](crate::sink::Contents::replay_of).
pub(super) async fn replay_of(
    session: &mut Session,
    file_no: u32,
    ordinal: u32,
) -> Result<Option<KeptReplay>, Failure> {
    let sql = replay_sql(file_no, ordinal);
    let replays = session.rows::<(Vec<u8>, Option<String>)>(&sql).await?;
    let Some((text, definition)) = replays.into_iter().next() else {
        return Ok(None);
    };
    let dataset = definition.as_deref().map(recorded).transpose();
    let dataset = dataset.map_err(|(next_step, problem)| Failure::Found { next_step, problem })?;
    Ok(Some(KeptReplay { text, dataset }))
}

/// Keeps a value in `ingest_settings`, in the place of an earlier one of this name.
pub(super) async fn keep(session: &mut Session, name: &str, value: Vec<u8>) -> Result<(), Failure> {
    let insert = "INSERT INTO ingest_settings (name, value) VALUES (?, ?) ON DUPLICATE KEY UPDATE \
                  value = VALUES(value)";
    session.run_with(insert, (name, value)).await.map(drop)
}

/// Replaces the value of this name in `ingest_settings`. Does nothing if it is not `from`.
pub(super) async fn replace(
    session: &mut Session,
    name: &str,
    from: Vec<u8>,
    to: Vec<u8>,
) -> Result<(), Failure> {
    let update = "UPDATE ingest_settings SET value = ? WHERE name = ? AND value = ?";
    session.run_with(update, (to, name, from)).await.map(drop)
}

/// The value of this name in `ingest_settings`. `None` if there is none.
pub(super) async fn kept(session: &mut Session, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let sql = "SELECT value FROM ingest_settings WHERE name = ?";
    let values = session.rows_with::<Vec<u8>>(sql, (name,)).await?;
    Ok(values.into_iter().next())
}
