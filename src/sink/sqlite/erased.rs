//! Which records are erased, for the writers of rows.

use rusqlite::{Transaction, params};

use crate::batch::{Span, row_id};

use super::errors::Failure;

/// The ids of the erased records of a span.
pub(super) fn ids(db: &Transaction<'_>, span: Span) -> Result<Vec<u64>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT ordinal FROM ingest_erased WHERE file_no = ?1 AND ordinal >= ?2 AND ordinal < ?3",
    )?;
    let ordinals = span.ordinals();
    let found = find.query_map(params![span.file_no, ordinals.start, ordinals.end], |row| {
        Ok(row_id(span.file_no, row.get(0)?))
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}
