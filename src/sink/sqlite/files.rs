//! The ledger in SQLite: the files and their entries, as the engine writes and reads them.

use std::iter::once;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;

use rusqlite::{OptionalExtension, Transaction, params};

use crate::batch::ContentHash;
use crate::coverage;
use crate::dataset::{Datasets, Fingerprint};
use crate::fault::{Fault, Origin};
use crate::frame::FrameKey;
use crate::sink::elsewhere::{self, Elsewhere, Entry};
use crate::sink::keys::{FRAME_KEY, NO_KEY, NOT_A_KEY, key_of, new_key};
use crate::sink::{EarlierState, FileState, NUMBERS_USED_UP, NewFile, Registered, Settled};

use super::definitions::has_table_of;
use super::errors::Failure;
use super::now::now;

pub(super) const NEWER: &str = "install the newer release that wrote to this database";

/// See [`Sink::register`](crate::sink::Sink::register).
pub(super) fn register(
    db: &Transaction<'_>,
    files: &[NewFile],
    datasets: &Datasets,
) -> Result<Vec<Registered>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT file_no, state, dataset, records = ?3 AND (definition IS NULL OR definition IS ?4), \
         EXISTS (SELECT 1 FROM ingest_frames e WHERE e.file_no = f.file_no) FROM ingest_files f \
         WHERE hash = ?1 AND (dataset = ?2 OR state = 'quarantined') ORDER BY dataset = ?2 DESC",
    )?;
    let mut enter = db.prepare_cached(
        "INSERT INTO ingest_files (hash, dataset, name, path, bytes, records, definition, state, \
         registered_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', ?)",
    )?;
    let mut note = db.prepare_cached(
        "UPDATE ingest_files SET definition = ? WHERE file_no = ? AND definition IS NULL",
    )?;
    let mut reopen = db.prepare_cached(
        "UPDATE ingest_files SET state = 'pending', reason = NULL, dataset = ?, name = ?, path = ?, \
         bytes = ?, records = ?, definition = ? WHERE file_no = ?",
    )?;
    // A file of an archive may have been moved since it was registered.
    let mut note_path = db.prepare_cached(
        "UPDATE ingest_files SET path = ?1 WHERE file_no = ?2 AND path IS NOT ?1",
    )?;
    let mut registered = Vec::with_capacity(files.len());
    for file in files {
        if let Some(of_other) = of_other(db, file, files, datasets)? {
            registered.push(of_other);
            continue;
        }
        let NewFile {
            hash,
            dataset,
            name,
            bytes,
            records,
            ..
        } = file;
        let (path, definition) = (path_bytes(file), definition(file));
        // The entry of a file for its dataset. If it has none: the entry of the same content in
        // quarantine for another dataset, unless `files` has the content for that dataset.
        let mut found = find.query(params![hash, dataset, records, definition])?;
        let mut known: Option<(u32, String, bool, bool)> = None;
        while let Some(row) = found.next()? {
            let of: String = row.get(2)?;
            let is_own = of == *dataset;
            if is_own || !has(files, *hash, &of) {
                known = Some((row.get(0)?, row.get(1)?, is_own && row.get(3)?, row.get(4)?));
                break;
            }
        }
        let (file_no, earlier) = match known {
            None => {
                let number = enter.insert(params![
                    hash,
                    dataset,
                    name,
                    path,
                    bytes,
                    records,
                    definition,
                    now()
                ])?;
                (u32::try_from(number).unwrap_or(u32::MAX), EarlierState::New)
            }
            Some((file_no, state, is_alike, has_entries)) => {
                if path.is_some() {
                    note_path.execute(params![path, file_no])?;
                }
                let earlier = match file_state(&state)? {
                    FileState::Pending if is_alike => {
                        note.execute(params![definition, file_no])?;
                        EarlierState::Pending
                    }
                    FileState::Pending => EarlierState::OtherDefinition,
                    FileState::Settled => EarlierState::Settled,
                    FileState::Removing => EarlierState::BegunOtherwise,
                    FileState::Quarantined if has_entries && !is_alike => {
                        EarlierState::BegunOtherwise
                    }
                    FileState::Quarantined => {
                        reopen.execute(params![
                            dataset, name, path, bytes, records, definition, file_no
                        ])?;
                        EarlierState::New
                    }
                };
                (file_no, earlier)
            }
        };
        if i32::try_from(file_no).is_err() {
            return Err(Failure::Found {
                next_step: NUMBERS_USED_UP.to_owned(),
                problem: "the ledger has no file number left".to_owned(),
            });
        }
        registered.push(Registered { file_no, earlier });
    }
    Ok(registered)
}

/// The result for a file of which another dataset has the entry; see [`elsewhere`]. `None` if there is
/// none. An entry that another dataset has begun goes to quarantine.
fn of_other(
    db: &Transaction<'_>,
    file: &NewFile,
    files: &[NewFile],
    datasets: &Datasets,
) -> Result<Option<Registered>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT file_no, state, dataset, name, records FROM ingest_files WHERE hash = ?",
    )?;
    let found = find.query_map([file.hash], |row| {
        let texts: (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
        Ok((row.get(0)?, texts, row.get(4)?))
    })?;
    let found: Vec<(u32, (String, String, String), u32)> = found.collect::<Result<_, _>>()?;
    let entries = found
        .iter()
        .map(|(file_no, (state, dataset, name), records)| {
            Ok(Entry {
                file_no: *file_no,
                state: file_state(state)?,
                dataset,
                name,
                records: *records,
            })
        });
    let entries: Vec<Entry<'_>> = entries.collect::<Result<_, Failure>>()?;
    let (file_no, earlier) = match elsewhere::elsewhere(file, files, &entries, datasets) {
        None => return Ok(None),
        Some(Elsewhere::Earlier(file_no, earlier)) => (file_no, earlier),
        Some(Elsewhere::PerhapsRenamed(file_no)) => {
            if !has_table_of(db, file_no, file, datasets)? {
                return Ok(None);
            }
            (file_no, EarlierState::Settled)
        }
    };
    if earlier == EarlierState::OtherDefinition {
        db.execute(
            "UPDATE ingest_files SET state = 'quarantined', reason = ? WHERE file_no = ?",
            params![elsewhere::reason(file), file_no],
        )?;
    }
    Ok(Some(Registered { file_no, earlier }))
}

/// See [`Sink::coverage`](crate::sink::Sink::coverage).
pub(super) fn coverage(
    db: &Transaction<'_>,
    file_nos: &[u32],
) -> Result<Vec<Vec<Range<u64>>>, Failure> {
    let mut settled = db.prepare_cached(
        "SELECT records FROM ingest_files WHERE file_no = ? AND state = 'settled'",
    )?;
    let mut entries =
        db.prepare_cached("SELECT first_ordinal, records FROM ingest_frames WHERE file_no = ?")?;
    let mut coverage = Vec::with_capacity(file_nos.len());
    for file_no in file_nos {
        let records: Option<u64> = settled.query_row([file_no], |row| row.get(0)).optional()?;
        let ranges: Vec<_> = match records {
            Some(records) => once(0..records).collect(),
            None => entries
                .query_map([file_no], |row| {
                    let (first, records): (u64, u64) = (row.get(0)?, row.get(1)?);
                    Ok(first..first + records)
                })?
                .collect::<Result<_, _>>()?,
        };
        coverage.push(coverage::union(ranges));
    }
    Ok(coverage)
}

/// See [`Sink::settle`](crate::sink::Sink::settle).
pub(super) fn settle(db: &Transaction<'_>, file_nos: &[u32]) -> Result<Vec<Settled>, Failure> {
    let mut fold = db.prepare_cached(
        "UPDATE ingest_files SET rejects = (SELECT COUNT(*) FROM ingest_rejects r WHERE r.file_no = \
         ingest_files.file_no), state = 'settled', reason = NULL, settled_at = ?2 WHERE file_no = \
         ?1 AND state <> 'settled'",
    )?;
    let mut drop_entries = db.prepare_cached("DELETE FROM ingest_frames WHERE file_no = ?")?;
    let mut read =
        db.prepare_cached("SELECT records, rejects, hash FROM ingest_files WHERE file_no = ?")?;
    let mut read = |file_no: u32| {
        let file = read.query_row([file_no], |row| {
            Ok(Settled {
                file_no,
                records: row.get(0)?,
                rejects: row.get(1)?,
                hash: row.get(2)?,
            })
        });
        file.optional()?.ok_or_else(|| Failure::Found {
            next_step: "start the service again: its ledger was emptied while it was running"
                .to_owned(),
            problem: format!("file {file_no} is not in ingest_files"),
        })
    };
    let covered = coverage(db, file_nos)?;
    let mut settled = Vec::with_capacity(file_nos.len());
    for (&file_no, covered) in file_nos.iter().zip(covered) {
        let file = read(file_no)?;
        if coverage::is_whole(&covered, file.records.into()) {
            fold.execute(params![file_no, now()])?;
            drop_entries.execute([file_no])?;
            settled.push(read(file_no)?);
        }
    }
    Ok(settled)
}

/// See [`Sink::quarantine`](crate::sink::Sink::quarantine). A settled file stays settled: its
/// content was loaded completely under another name.
pub(super) fn quarantine(
    db: &Transaction<'_>,
    file: &NewFile,
    reason: &str,
) -> Result<(), Failure> {
    let NewFile {
        hash,
        dataset,
        name,
        bytes,
        records,
        ..
    } = file;
    let (path, definition) = (path_bytes(file), definition(file));
    db.execute(
        "INSERT INTO ingest_files (hash, dataset, name, path, bytes, records, definition, state, \
         reason, registered_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'quarantined', ?, ?) ON CONFLICT (hash, dataset) DO \
         UPDATE SET state = excluded.state, reason = excluded.reason WHERE state NOT IN ('settled', \
         'removing')",
        params![
            hash, dataset, name, path, bytes, records, definition, reason, now()
        ],
    )?;
    Ok(())
}

/// Whether `files` has this content for this dataset.
fn has(files: &[NewFile], hash: ContentHash, dataset: &str) -> bool {
    files
        .iter()
        .any(|file| file.hash == hash && file.dataset == dataset)
}

fn path_bytes(file: &NewFile) -> Option<&[u8]> {
    Some(file.path.as_ref()?.as_os_str().as_bytes())
}

fn definition(file: &NewFile) -> Option<[u8; 16]> {
    file.definition.map(Fingerprint::to_bytes)
}

/// Parses the state of a file in `ingest_files`.
pub(super) fn file_state(state: &str) -> Result<FileState, Failure> {
    FileState::parse(state).ok_or_else(|| Failure::Found {
        next_step: NEWER.to_owned(),
        problem: format!("`{state}` is not a state of a file"),
    })
}

/// The key of the checksums of frames.
pub(super) fn frame_key(db: &Transaction<'_>) -> Result<FrameKey, Failure> {
    let mut find = db.prepare_cached("SELECT value FROM ingest_settings WHERE name = ?")?;
    let stored: Option<Vec<u8>> = find.query_row([FRAME_KEY], |row| row.get(0)).optional()?;
    let value = if let Some(value) = stored {
        value
    } else {
        let made = new_key()
            .map_err(|error| Fault::fatal(Origin::Sink, "making the key of the frames", error))?;
        let insert = "INSERT INTO ingest_settings (name, value) VALUES (?, ?)";
        db.execute(insert, params![FRAME_KEY, made])?;
        made.to_vec()
    };
    key_of(&value).ok_or_else(|| Failure::Found {
        next_step: NO_KEY.to_owned(),
        problem: NOT_A_KEY.to_owned(),
    })
}
