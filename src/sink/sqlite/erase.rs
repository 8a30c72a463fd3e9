//! Erases single records in SQLite: [`Erasures`](crate::sink::Erasures).
//!
//! SQLite keeps deleted values in the pages of its file and of its log until it writes over them. So
//! the pages are overwritten at once (`secure_delete`), and the log is emptied, unless another process
//! reads it just then.

use rusqlite::{OptionalExtension, Transaction, params};

use crate::batch::{ContentHash, provenance};
use crate::dataset::{Dataset, Datasets};
use crate::sink::erasures::{self, NOT_SETTLED, literal};
use crate::sink::{Blank, Erasure, KnownBytes, Standing};

use super::definitions::loaded_by;
use super::errors::Failure;
use super::now::now;
use super::remove::{refused, remove_from_summary, table_of};
use super::{files, operators};

/// Hashes of one query.
const HASHES_PER_QUERY: usize = 500;

/// The numbers that a query returns.
pub(super) fn numbers(db: &Transaction<'_>, sql: &str) -> Result<Vec<u32>, Failure> {
    let mut find = db.prepare(sql)?;
    let found = find.query_map([], |row| row.get(0))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// See [`Erasures::erase`](crate::sink::Erasures::erase).
pub(super) fn erase(
    db: &Transaction<'_>,
    id: u64,
    datasets: &Datasets,
) -> Result<Erasure, Failure> {
    let (file_no, ordinal) = provenance(id);
    let not_settled = || Failure::Found {
        next_step: NOT_SETTLED.to_owned(),
        problem: erasures::not_settled(file_no),
    };
    let settled = db
        .query_row(
            "SELECT COALESCE(i.content, f.hash), f.bytes FROM ingest_files f LEFT JOIN ingest_identities i \
             ON i.hash = f.hash WHERE f.file_no = ? AND f.state = 'settled'",
            [file_no],
            |row| Ok((row.get::<_, ContentHash>(0)?, row.get::<_, u64>(1)?)),
        )
        .optional()?;
    let (content, bytes) = settled.ok_or_else(not_settled)?;
    let dataset = loaded_by(db, file_no, datasets)?.ok_or_else(not_settled)?;
    let covered = files::coverage(db, &[file_no])?.remove(0);
    let table = table_of(db, file_no, &covered, &dataset, datasets)?;
    db.execute_batch("PRAGMA secure_delete = ON")?;
    let mut dataset = Dataset::clone(&dataset);
    let mut was = Standing::Absent;
    let has_table = table.is_some();
    if let Some(table) = table {
        dataset.table = table;
        was = operators::standing(db, &dataset, id)?;
    }
    let table = &dataset.table;
    let delete = |of: &str| {
        let sql = format!("DELETE FROM {of} WHERE file_no = ? AND ordinal = ?");
        db.execute(&sql, [file_no, ordinal])
    };
    let rejects = delete("ingest_rejects")? + delete("ingest_purged")?;
    if rejects > 0 {
        db.execute(
            "UPDATE ingest_files SET rejects = MAX(rejects, 1) - 1 WHERE file_no = ?",
            [file_no],
        )?;
    } else if has_table && was != Standing::Erased {
        // Without a reject, the row with the id is that of the record.
        let sql = format!("DELETE FROM `{table}` WHERE `id` = ?");
        db.execute(&sql, [id])
            .map_err(|error| refused(error, file_no, table))?;
        remove_from_summary(db, file_no, [id, id], &dataset)?;
    }
    delete("ingest_superseded")?;
    delete("ingest_replays")?;
    db.execute(
        "INSERT INTO ingest_erased (file_no, ordinal, erased_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        params![file_no, ordinal, now()],
    )?;
    db.execute(
        "INSERT INTO ingest_erased_contents (content, hash, bytes) SELECT ?1, ?1, ?2 WHERE NOT EXISTS \
         (SELECT 1 FROM ingest_erased_contents WHERE content = ?1)",
        params![content, bytes],
    )?;
    let mut find = db.prepare(&erasures::superseded_by(id))?;
    let superseded = find.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let superseded = superseded.collect::<Result<_, _>>()?;
    Ok(Erasure { was, superseded })
}

/// Makes bytes stand for a content.
pub(super) fn insert(db: &Transaction<'_>, blank: &Blank) -> Result<(), Failure> {
    db.execute(
        "INSERT INTO ingest_erased_contents (content, hash, bytes) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        params![blank.content, blank.hash, blank.bytes],
    )?;
    Ok(())
}

/// See [`Erasures::end_blank`](crate::sink::Erasures::end_blank).
pub(super) fn end_blank(
    db: &Transaction<'_>,
    blank: &Blank,
    file_nos: &[u32],
) -> Result<(), Failure> {
    insert(db, blank)?;
    db.execute(
        "DELETE FROM ingest_erased_contents WHERE content = ? AND hash <> ?",
        params![blank.content, blank.hash],
    )?;
    for file_no in file_nos {
        db.execute(
            "UPDATE ingest_erased SET blanked_at = ? WHERE blanked_at IS NULL AND file_no = ?",
            params![now(), file_no],
        )?;
    }
    Ok(())
}

/// See [`Sink::known_bytes`](crate::sink::Sink::known_bytes).
pub(super) fn known_bytes(
    db: &Transaction<'_>,
    hashes: &[ContentHash],
) -> Result<Vec<KnownBytes>, Failure> {
    let mut known = Vec::new();
    for hashes in hashes.chunks(HASHES_PER_QUERY) {
        let hashes: Vec<String> = hashes.iter().map(|hash| literal(*hash)).collect();
        let mut find = db.prepare(&erasures::known_bytes(&hashes.join(",")))?;
        let mut rows = find.query([])?;
        while let Some(row) = rows.next()? {
            let blank = Blank {
                content: row.get(0)?,
                hash: row.get(1)?,
                bytes: row.get(2)?,
            };
            known.push(KnownBytes {
                blank,
                is_settled: row.get(3)?,
            });
        }
    }
    Ok(known)
}
