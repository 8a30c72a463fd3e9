//! Files of archives that are recognised by their state on the disk, in the transaction of the
//! caller.

use rusqlite::{Transaction, params};

use crate::sink::{Digest, Remembered, SeenFile};

use super::errors::Failure;

/// See [`Sink::remember`](crate::sink::Sink::remember).
pub(super) fn remember(db: &Transaction<'_>, files: &[SeenFile]) -> Result<(), Failure> {
    let mut delete = db.prepare_cached("DELETE FROM ingest_seen WHERE path = ?")?;
    let mut insert = db.prepare_cached(
        "INSERT OR REPLACE INTO ingest_seen (path, file_no, state) VALUES (?, ?, ?)",
    )?;
    for file in files {
        delete.execute([file.path])?;
        for file_no in &file.file_nos {
            insert.execute(params![file.path, file_no, file.state])?;
        }
    }
    Ok(())
}

/// See [`Sink::remembered`](crate::sink::Sink::remembered).
pub(super) fn remembered(db: &Transaction<'_>, paths: &[Digest]) -> Result<Remembered, Failure> {
    let mut found = Remembered::new();
    let mut select = db.prepare_cached(
        "SELECT s.state, COALESCE(i.content, f.hash) FROM ingest_seen s JOIN ingest_files f ON \
         f.file_no = s.file_no LEFT JOIN ingest_identities i ON i.hash = f.hash WHERE s.path = ? AND \
         f.state = 'settled'",
    )?;
    for path in paths {
        let mut rows = select.query([path])?;
        while let Some(row) = rows.next()? {
            let of_path = found.entry(*path).or_default();
            of_path.push((row.get(0)?, row.get(1)?));
        }
    }
    Ok(found)
}
