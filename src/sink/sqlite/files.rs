//! The ledger in SQLite: the files and their entries, as the engine writes and reads them.

use std::ffi::OsString;
use std::iter::once;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rusqlite::{OptionalExtension, Transaction, params};

use crate::batch::ContentHash;
use crate::coverage;
use crate::dataset::{Datasets, Fingerprint, PathValues};
use crate::fault::{Fault, Origin};
use crate::frame::FrameKey;
use crate::sink::elsewhere::{self, Elsewhere, Entry};
use crate::sink::identities::{Identified, Likeness, likeness};
use crate::sink::keys::{FRAME_KEY, NO_KEY, NOT_A_KEY, SETTINGS, key_of, new_key};
use crate::sink::mismatch::is_file;
use crate::sink::{
    Begun, EarlierState, FileState, NUMBERS_USED_UP, NewFile, RELEASED, Registered, Settled,
    past_limits,
};
use crate::timestamp;

use super::definitions::has_table_of;
use super::errors::Failure;
use super::now::now;
use super::schema::has_table;

pub(super) const NEWER: &str = "install the newer release that wrote to this database";

/// An entry of the ledger with the content of a file.
struct Found {
    file_no: u32,
    state: FileState,
    dataset: String,
    name: String,
    records: u32,
    hash: ContentHash,
    registered_at_us: i64,
    /// Whether its definition is unknown, or that of the file.
    has_definition: bool,
    has_entries: bool,
    likeness: Likeness,
}

impl Found {
    fn registered(&self, earlier: EarlierState) -> Registered {
        Registered {
            file_no: self.file_no,
            earlier,
            registered_at_us: self.registered_at_us,
        }
    }

    /// Whether the entry has the definition with which `file` is read.
    fn is_like(&self, file: &NewFile) -> bool {
        self.dataset == file.dataset
            && self.hash == file.hash
            && self.records == file.records
            && self.has_definition
    }
}

/// See [`Sink::register`](crate::sink::Sink::register).
pub(super) fn register(
    db: &Transaction<'_>,
    files: &[NewFile],
    datasets: &Datasets,
) -> Result<Vec<Registered>, Failure> {
    let mut registered = Vec::with_capacity(files.len());
    for file in files {
        note_identity(db, file)?;
        let found = find(db, file)?;
        if let Some(of_other) = of_other(db, file, files, &found, datasets)? {
            registered.push(of_other);
            continue;
        }
        let known = match entry_of(&found, file, files) {
            None => enter(db, file)?,
            Some(known) => known.registered(go_on(db, known, file)?),
        };
        if i32::try_from(known.file_no).is_err() {
            return Err(Failure::Found {
                next_step: NUMBERS_USED_UP.to_owned(),
                problem: "the ledger has no file number left".to_owned(),
            });
        }
        registered.push(known);
    }
    Ok(registered)
}

/// Notes what the identity of a file consists of.
fn note_identity(db: &Transaction<'_>, file: &NewFile) -> Result<(), Failure> {
    let Some(taken) = &file.taken else {
        return Ok(());
    };
    let mut note = db.prepare_cached(
        "INSERT OR IGNORE INTO ingest_identities (hash, content, path_values) VALUES (?, ?, ?)",
    )?;
    note.execute(params![file.hash, taken.content, taken.values.to_text()])?;
    Ok(())
}

/// The entries with the content of a file.
fn find(db: &Transaction<'_>, file: &NewFile) -> Result<Vec<Found>, Failure> {
    let mut find = db.prepare_cached(
        "SELECT f.file_no, f.state, f.dataset, f.name, f.path, f.records, f.hash, f.registered_at, \
         f.definition IS NULL OR f.definition IS ?3, EXISTS (SELECT 1 FROM ingest_frames e WHERE \
         e.file_no = f.file_no), i.path_values FROM (SELECT ?1 AS hash UNION SELECT ?2 UNION SELECT \
         hash FROM ingest_identities WHERE content = ?2) c JOIN ingest_files f ON f.hash = c.hash \
         LEFT JOIN ingest_identities i ON i.hash = f.hash ORDER BY f.file_no",
    )?;
    let params = params![file.hash, file.content(), definition(file)];
    let found = find.query_and_then(params, |row| {
        let (name, path): (String, Option<Vec<u8>>) = (row.get(3)?, row.get(4)?);
        let hash = row.get(6)?;
        let values: Option<String> = row.get(10)?;
        let values = values.and_then(|text| PathValues::from_text(&text));
        let identified = Identified {
            hash,
            values: values.as_ref(),
            name: &name,
            path: path.as_deref(),
        };
        let likeness = likeness(&identified, file);
        let registered_at: String = row.get(7)?;
        Ok(Found {
            file_no: row.get(0)?,
            state: file_state(&row.get::<_, String>(1)?)?,
            dataset: row.get(2)?,
            records: row.get(5)?,
            registered_at_us: timestamp::parse(&registered_at).unwrap_or_default(),
            has_definition: row.get(8)?,
            has_entries: row.get(9)?,
            name,
            hash,
            likeness,
        })
    })?;
    found.collect()
}

/// The entry of a file for its dataset. If it has none: the entry of the same content in quarantine
/// for another dataset, unless `files` has the content for that dataset.
fn entry_of<'a>(found: &'a [Found], file: &NewFile, files: &[NewFile]) -> Option<&'a Found> {
    let of_dataset = |likeness: Likeness| {
        let is_it =
            move |found: &&Found| found.likeness == likeness && found.dataset == file.dataset;
        found.iter().find(is_it)
    };
    let is_free = |found: &&Found| {
        let is_its =
            |other: &NewFile| other.content() == file.content() && other.dataset == found.dataset;
        found.state == FileState::Quarantined
            && found.likeness != Likeness::Other
            && found.dataset != file.dataset
            && !files.iter().any(is_its)
    };
    of_dataset(Likeness::Same)
        .or_else(|| of_dataset(Likeness::Retaken))
        .or_else(|| found.iter().find(is_free))
}

/// Enters a new file.
fn enter(db: &Transaction<'_>, file: &NewFile) -> Result<Registered, Failure> {
    let mut enter = db.prepare_cached(
        "INSERT INTO ingest_files (hash, dataset, name, path, bytes, records, definition, mark, state, \
         registered_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)",
    )?;
    let now = now();
    let number = enter.insert(params![
        file.hash,
        file.dataset,
        file.name,
        path_bytes(file),
        file.bytes,
        file.records,
        definition(file),
        file.mark.map(u64::cast_signed),
        now
    ])?;
    Ok(Registered {
        file_no: u32::try_from(number).unwrap_or(u32::MAX),
        earlier: EarlierState::New,
        registered_at_us: timestamp::parse(&now).unwrap_or_default(),
    })
}

/// Makes a known file pending where it may go on. Returns its state before.
fn go_on(db: &Transaction<'_>, known: &Found, file: &NewFile) -> Result<EarlierState, Failure> {
    let (path, definition) = (path_bytes(file), definition(file));
    if path.is_some() {
        // A file of an archive may have been moved since it was registered.
        let mut note_path = db.prepare_cached(
            "UPDATE ingest_files SET path = ?1 WHERE file_no = ?2 AND path IS NOT ?1",
        )?;
        note_path.execute(params![path, known.file_no])?;
    }
    let is_alike = known.is_like(file);
    Ok(match known.state {
        FileState::Pending if is_alike => {
            let mut note = db.prepare_cached(
                "UPDATE ingest_files SET definition = ?, reason = NULL WHERE file_no = ? AND \
                 (definition IS NULL OR reason IS NOT NULL)",
            )?;
            note.execute(params![definition, known.file_no])?;
            EarlierState::Pending
        }
        FileState::Pending => EarlierState::OtherDefinition,
        FileState::Settled => EarlierState::Settled,
        FileState::Removing => EarlierState::BegunOtherwise,
        FileState::Quarantined if known.has_entries && !is_alike => EarlierState::BegunOtherwise,
        FileState::Quarantined => {
            let mut reopen = db.prepare_cached(
                "UPDATE ingest_files SET state = 'pending', reason = NULL, hash = ?, dataset = ?, \
                 name = ?, path = ?, bytes = ?, records = ?, definition = ?, mark = ? WHERE file_no = ?",
            )?;
            reopen.execute(params![
                file.hash,
                file.dataset,
                file.name,
                path,
                file.bytes,
                file.records,
                definition,
                file.mark.map(u64::cast_signed),
                known.file_no
            ])?;
            EarlierState::New
        }
    })
}

/// The result for a file of which another dataset has the entry; see [`elsewhere`]. `None` if there is
/// none. An entry that another dataset has begun goes to quarantine.
fn of_other(
    db: &Transaction<'_>,
    file: &NewFile,
    files: &[NewFile],
    found: &[Found],
    datasets: &Datasets,
) -> Result<Option<Registered>, Failure> {
    let its = found.iter().filter(|found| found.likeness.is_same_file());
    let entries: Vec<Entry<'_>> = its
        .map(|found| Entry {
            file_no: found.file_no,
            state: found.state,
            dataset: &found.dataset,
            name: &found.name,
            records: found.records,
        })
        .collect();
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
    let entry = found.iter().find(|found| found.file_no == file_no);
    Ok(entry.map(|entry| entry.registered(earlier)))
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

/// See [`Sink::begun`](crate::sink::Sink::begun).
pub(super) fn begun(db: &Transaction<'_>, max: usize) -> Result<Vec<Begun>, Failure> {
    let mut find = db.prepare_cached(&crate::sink::begun(max))?;
    let begun = find.query_map([], |row| {
        let path: Option<Vec<u8>> = row.get(4)?;
        Ok(Begun {
            file_no: row.get(0)?,
            content: row.get(1)?,
            dataset: row.get(2)?,
            name: row.get(3)?,
            path: path.map(|path| OsString::from_vec(path).into()),
            bytes: row.get(5)?,
        })
    })?;
    Ok(begun.collect::<Result<_, _>>()?)
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
    note_identity(db, file)?;
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
    if let Some(key) = stored_frame_key(db)? {
        return Ok(key);
    }
    let made = new_key()
        .map_err(|error| Fault::fatal(Origin::Sink, "making the key of the frames", error))?;
    let insert = "INSERT INTO ingest_settings (name, value) VALUES (?, ?)";
    db.execute(insert, params![FRAME_KEY, made])?;
    Ok(FrameKey::new(made))
}

/// See [`Schema::stored_frame_key`](crate::sink::Schema::stored_frame_key).
pub(super) fn stored_frame_key(db: &Transaction<'_>) -> Result<Option<FrameKey>, Failure> {
    if !has_table(db, SETTINGS)? {
        return Ok(None);
    }
    let mut find = db.prepare_cached("SELECT value FROM ingest_settings WHERE name = ?")?;
    let stored: Option<Vec<u8>> = find.query_row([FRAME_KEY], |row| row.get(0)).optional()?;
    let Some(value) = stored else {
        return Ok(None);
    };
    key_of(&value).map(Some).ok_or_else(|| Failure::Found {
        next_step: NO_KEY.to_owned(),
        problem: NOT_A_KEY.to_owned(),
    })
}

/// See [`Sink::is_past_limits`](crate::sink::Sink::is_past_limits).
pub(super) fn is_past_limits(db: &Transaction<'_>, file: &NewFile) -> Result<bool, Failure> {
    let mut entries = db.prepare_cached(&past_limits())?;
    let entries: u64 = entries.query_row(params![file.hash, file.dataset], |row| row.get(0))?;
    Ok(entries > 0)
}

/// See [`Operators::release`](crate::sink::Operators::release).
pub(super) fn release(db: &Transaction<'_>, file_no: u32) -> Result<(), Failure> {
    let sql = "UPDATE ingest_files SET reason = ? WHERE file_no = ? AND state = 'quarantined'";
    db.execute(sql, params![RELEASED, file_no])?;
    Ok(())
}

/// See [`Operators::last_settled`](crate::sink::Operators::last_settled).
pub(super) fn last_settled(db: &Transaction<'_>) -> Result<Vec<(String, i64)>, Failure> {
    let sql = format!(
        "SELECT dataset, MAX(settled_at) FROM ingest_files WHERE state = 'settled' AND settled_at IS NOT \
         NULL AND {} GROUP BY dataset",
        is_file()
    );
    let mut newest = db.prepare_cached(&sql)?;
    let newest = newest.query_and_then([], |row| {
        let (dataset, settled_at): (String, String) = (row.get(0)?, row.get(1)?);
        let us = timestamp::parse(&settled_at).unwrap_or_default();
        Ok((dataset, us.div_euclid(1_000_000)))
    })?;
    newest.collect()
}
