//! Erases single records in MySQL: [`Erasures`](crate::sink::Erasures).

use std::collections::HashSet;

use crate::batch::{ContentHash, provenance, row_id};
use crate::dataset::{Dataset, Datasets};
use crate::sink::erasures::{self, BEING_RETIRED, NOT_SETTLED, literal};
use crate::sink::{Blank, Erasure, KnownBytes, Standing, removal};

use super::definitions::loaded_by;
use super::errors::Failure;
use super::files::{FILES_PER_STATEMENT, coverage, identity, list};
use super::remove::{refused, remove_from_summary, table_of};
use super::session::Session;
use super::{audit, retired};

/// See [`Erasures::erase`](crate::sink::Erasures::erase).
pub(super) async fn erase(
    session: &mut Session,
    id: u64,
    datasets: &Datasets,
) -> Result<Erasure, Failure> {
    let (file_no, ordinal) = provenance(id);
    let not_settled = || Failure::Found {
        next_step: NOT_SETTLED,
        problem: erasures::not_settled(file_no),
    };
    let Some(dataset) = loaded_by(session, file_no, datasets).await? else {
        return Err(not_settled());
    };
    let covered = coverage(session, &[file_no]).await?.remove(0);
    let table = table_of(session, file_no, &covered, &dataset, datasets).await?;
    let mut dataset = Dataset::clone(&dataset);
    let mut was = Standing::Absent;
    let has_table = table.is_some();
    if let Some(table) = table {
        dataset.table = table;
        was = audit::standing(session, &dataset, id).await?;
    }
    let table = &dataset.table;
    session.begin().await?;
    // Commits of this file wait, and then find the mark.
    let sql = format!(
        "SELECT hex(COALESCE(i.content, f.hash)), f.bytes FROM ingest_files f LEFT JOIN \
         ingest_identities i ON i.hash = f.hash WHERE f.file_no = {file_no} AND f.state = 'settled' FOR \
         UPDATE"
    );
    let settled = session.rows::<(String, u64)>(&sql).await?;
    let Some((content, bytes)) = settled.into_iter().next() else {
        session.rollback().await?;
        return Err(not_settled());
    };
    let of_record = format!("file_no = {file_no} AND ordinal = {ordinal}");
    let mut rejects = 0;
    for of in ["ingest_rejects", "ingest_purged"] {
        rejects += session
            .run(&format!("DELETE FROM {of} WHERE {of_record}"))
            .await?;
    }
    if rejects > 0 {
        let sql = format!(
            "UPDATE ingest_files SET rejects = GREATEST(rejects, 1) - 1 WHERE file_no = {file_no}"
        );
        session.run(&sql).await?;
    } else if has_table && was != Standing::Erased {
        // Without a reject, the row with the id is that of the record. Read before the bound: then it is
        // there, or its partition is not being removed.
        let sql = format!("DELETE FROM `{table}` WHERE `id` = {id}");
        let rows = session.run(&sql).await;
        let rows = rows.map_err(|failure| refused(failure, file_no, table))?;
        if rows > 1 {
            session.rollback().await?;
            return Err(Failure::Found {
                next_step: removal::DOUBLED,
                problem: removal::doubled(file_no, table, &[ordinal]),
            });
        }
        let bound = retired::bound(session, table).await?;
        if rows == 0 && bound.is_some_and(|bound| bound.taken.is_some()) {
            session.rollback().await?;
            return Err(Failure::Found {
                next_step: BEING_RETIRED,
                problem: erasures::being_retired(table),
            });
        }
        if was == Standing::Retired && rows == 0 {
            let sql = format!(
                "UPDATE ingest_retired SET records = GREATEST(records, 1) - 1 WHERE file_no = {file_no}"
            );
            session.run(&sql).await?;
        }
        remove_from_summary(session, file_no, [id, id], &dataset).await?;
    }
    for of in ["ingest_superseded", "ingest_replays"] {
        session
            .run(&format!("DELETE FROM {of} WHERE {of_record}"))
            .await?;
    }
    session
        .run(&format!(
            "INSERT INTO ingest_erased (file_no, ordinal, erased_at) VALUES ({file_no}, {ordinal}, \
             UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE ordinal = ingest_erased.ordinal"
        ))
        .await?;
    session
        .run(&format!(
            "INSERT INTO ingest_erased_contents (content, hash, bytes) SELECT x'{content}', x'{content}', \
             {bytes} FROM (SELECT 1) o WHERE NOT EXISTS (SELECT 1 FROM ingest_erased_contents c WHERE \
             c.content = x'{content}')"
        ))
        .await?;
    session.commit().await?;
    let superseded = session.rows(&erasures::superseded_by(id)).await?;
    Ok(Erasure { was, superseded })
}

/// The statement that makes bytes stand for a content.
pub(super) fn insert(blank: &Blank) -> String {
    format!(
        "INSERT INTO ingest_erased_contents (content, hash, bytes) VALUES ({}, {}, {}) ON DUPLICATE KEY \
         UPDATE bytes = VALUES(bytes)",
        literal(blank.content),
        literal(blank.hash),
        blank.bytes
    )
}

/// See [`Erasures::end_blank`](crate::sink::Erasures::end_blank).
pub(super) async fn end_blank(
    session: &mut Session,
    blank: &Blank,
    file_nos: &[u32],
) -> Result<(), Failure> {
    session.begin().await?;
    session.run(&insert(blank)).await?;
    session
        .run(&format!(
            "DELETE FROM ingest_erased_contents WHERE content = {} AND hash <> {}",
            literal(blank.content),
            literal(blank.hash)
        ))
        .await?;
    session
        .run(&format!(
            "UPDATE ingest_erased SET blanked_at = UTC_TIMESTAMP(6) WHERE blanked_at IS NULL AND file_no \
             IN ({})",
            list(file_nos)
        ))
        .await?;
    session.commit().await
}

/// See [`Sink::known_bytes`](crate::sink::Sink::known_bytes).
pub(super) async fn known_bytes(
    session: &mut Session,
    hashes: &[ContentHash],
) -> Result<Vec<KnownBytes>, Failure> {
    let mut known = Vec::new();
    for hashes in hashes.chunks(FILES_PER_STATEMENT) {
        let hashes: Vec<String> = hashes.iter().map(|hash| literal(*hash)).collect();
        let sql = erasures::known_bytes(&hashes.join(","));
        for (content, hash, bytes, is_settled) in
            session.rows::<(Vec<u8>, Vec<u8>, u64, bool)>(&sql).await?
        {
            let blank = Blank {
                content: identity(content),
                hash: identity(hash),
                bytes,
            };
            known.push(KnownBytes { blank, is_settled });
        }
    }
    Ok(known)
}

/// The ids of the erased records of these files.
pub(super) async fn ids(session: &mut Session, file_nos: &[u32]) -> Result<HashSet<u64>, Failure> {
    if file_nos.is_empty() {
        return Ok(HashSet::new());
    }
    let sql = format!(
        "SELECT file_no, ordinal FROM ingest_erased WHERE file_no IN ({})",
        list(file_nos)
    );
    let found = session.rows::<(u32, u32)>(&sql).await?.into_iter();
    Ok(found
        .map(|(file_no, ordinal)| row_id(file_no, ordinal))
        .collect())
}
