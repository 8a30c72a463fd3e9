//! The ledger in MySQL: coverage and settling of files. `register` enters them.
//!
//! Statements contain numbers as text: a number cannot change the meaning of a statement, and the
//! statement need not be prepared. All values from outside are bound as parameters.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::iter::once;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt as _;

use crate::batch::ContentHash;
use crate::coverage;
use crate::fault::{Fault, Origin};
use crate::frame::FrameKey;
use crate::sink::keys::{FRAME_KEY, NO_KEY, NOT_A_KEY, SETTINGS, key_of, new_key};
use crate::sink::mismatch::is_file;
use crate::sink::{Begun, FileState, NewFile, RELEASED, Settled, past_limits};

use super::errors::Failure;
use super::session::Session;

/// Most files of one statement: 500 hashes are 18 KiB of text.
pub(super) const FILES_PER_STATEMENT: usize = 500;

pub(super) const NEWER: &str = "install the newer release that wrote to this database";

/// See [`Sink::waiting`](crate::sink::Sink::waiting).
pub(super) async fn waiting(
    session: &mut Session,
    file_nos: &[u32],
) -> Result<Vec<(u32, String)>, Failure> {
    if file_nos.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT file_no, reason FROM ingest_files WHERE file_no IN ({}) AND state = 'pending' AND \
         reason IS NOT NULL",
        list(file_nos)
    );
    session.rows(&sql).await
}

/// See [`Sink::coverage`](crate::sink::Sink::coverage).
pub(super) async fn coverage(
    session: &mut Session,
    file_nos: &[u32],
) -> Result<Vec<Vec<Range<u64>>>, Failure> {
    let mut ranges: HashMap<u32, Vec<Range<u64>>> = HashMap::new();
    for file_nos in file_nos.chunks(FILES_PER_STATEMENT) {
        // The entries are read before the states: if a settle between the two statements removes
        // the entries, the second statement sees the settled file.
        ranges.extend(entries(session, file_nos).await?);
        let sql = format!(
            "SELECT file_no, records FROM ingest_files WHERE file_no IN ({}) AND state = 'settled'",
            list(file_nos)
        );
        for (file_no, records) in session.rows::<(u32, u64)>(&sql).await? {
            ranges.insert(file_no, coverage::union(once(0..records)));
        }
    }
    let of = |file_no| ranges.get(file_no).cloned().unwrap_or_default();
    Ok(file_nos.iter().map(of).collect())
}

/// The ranges that the entries of files cover, for the files that have entries.
pub(super) async fn entries(
    session: &mut Session,
    file_nos: &[u32],
) -> Result<HashMap<u32, Vec<Range<u64>>>, Failure> {
    let sql = format!(
        "SELECT file_no, first_ordinal, records FROM ingest_frames WHERE file_no IN ({})",
        list(file_nos)
    );
    let mut ranges: HashMap<u32, Vec<Range<u64>>> = HashMap::new();
    for (file_no, first, records) in session.rows::<(u32, u64, u64)>(&sql).await? {
        let of_file = ranges.entry(file_no).or_default();
        coverage::insert(of_file, first..first + records);
    }
    Ok(ranges)
}

/// See [`Sink::settle`](crate::sink::Sink::settle).
pub(super) async fn settle(
    session: &mut Session,
    file_nos: &[u32],
) -> Result<Vec<Settled>, Failure> {
    let mut settled: HashMap<u32, Settled> = HashMap::new();
    for file_nos in file_nos.chunks(FILES_PER_STATEMENT) {
        // Read before the states, as above. Coverage never shrinks.
        let covered = entries(session, file_nos).await?;
        let mut due = Vec::new();
        for (file, is_settled) in states(session, file_nos).await? {
            let covered = covered.get(&file.file_no).map_or(&[][..], Vec::as_slice);
            if is_settled && covered.is_empty() {
                settled.insert(file.file_no, file);
            } else if is_settled || coverage::is_whole(covered, file.records.into()) {
                due.push(file.file_no);
            }
        }
        if due.is_empty() {
            continue;
        }
        fold(session, &due).await?;
        let files = states(session, &due).await?;
        settled.extend(files.into_iter().map(|(file, _)| (file.file_no, file)));
    }
    Ok(file_nos
        .iter()
        .filter_map(|file_no| settled.get(file_no).copied())
        .collect())
}

/// Files of the ledger, each with whether it is settled.
async fn states(session: &mut Session, file_nos: &[u32]) -> Result<Vec<(Settled, bool)>, Failure> {
    type Found = (u32, Vec<u8>, u32, u32, String);
    let sql = format!(
        "SELECT file_no, hash, records, rejects, state FROM ingest_files WHERE file_no IN ({})",
        list(file_nos)
    );
    let files = session.rows::<Found>(&sql).await?;
    let mut unknown: HashSet<u32> = file_nos.iter().copied().collect();
    for (file_no, ..) in &files {
        unknown.remove(file_no);
    }
    if let Some(file_no) = unknown.into_iter().min() {
        return Err(unknown_file(file_no));
    }
    let state = |(file_no, hash, records, rejects, state): Found| {
        let file = Settled {
            file_no,
            hash: identity(hash),
            records,
            rejects,
        };
        Ok((file, file_state(&state)? == FileState::Settled))
    };
    files.into_iter().map(state).collect()
}

/// Settles files that their entries cover: removes the entries, and sets state and rejects.
async fn fold(session: &mut Session, file_nos: &[u32]) -> Result<(), Failure> {
    let list = list(file_nos);
    session.begin().await?;
    session
        .run(&format!(
            "UPDATE ingest_files f SET f.rejects = (SELECT COUNT(*) FROM ingest_rejects r WHERE \
             r.file_no = f.file_no), f.state = 'settled', f.reason = NULL, f.settled_at = \
             UTC_TIMESTAMP(6) WHERE f.file_no IN ({list}) AND f.state <> 'settled'"
        ))
        .await?;
    session
        .run(&format!(
            "DELETE FROM ingest_frames WHERE file_no IN ({list})"
        ))
        .await?;
    session.commit().await
}

/// Converts the `hash` column of a row.
pub(super) fn identity(hash: Vec<u8>) -> ContentHash {
    hash.try_into().expect("the column is BINARY(16)")
}

fn unknown_file(file_no: u32) -> Failure {
    Failure::Found {
        next_step: "start the service again: its ledger was emptied while it was running",
        problem: format!("file {file_no} is not in ingest_files"),
    }
}

/// Parses the state of a file in `ingest_files`.
pub(super) fn file_state(state: &str) -> Result<FileState, Failure> {
    FileState::parse(state).ok_or_else(|| Failure::Found {
        next_step: NEWER,
        problem: format!("`{state}` is not a state of a file"),
    })
}

/// A list of numbers with commas, ascending, so that all transactions lock rows in the same order.
pub(super) fn list<T: Copy + Ord + ToString>(numbers: &[T]) -> String {
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    texts.join(",")
}

/// See [`Sink::begun`](crate::sink::Sink::begun).
pub(super) async fn begun(session: &mut Session, max: usize) -> Result<Vec<Begun>, Failure> {
    type Found = (u32, Vec<u8>, String, String, Option<Vec<u8>>, u64);
    let begun = |(file_no, content, dataset, name, path, bytes): Found| Begun {
        file_no,
        content: identity(content),
        dataset,
        name,
        path: path.map(|path| OsString::from_vec(path).into()),
        bytes,
    };
    let found = session.rows::<Found>(&crate::sink::begun(max)).await?;
    Ok(found.into_iter().map(begun).collect())
}

/// The key of the checksums of frames. If several processes make a key at the same time, the first
/// one is kept.
pub(super) async fn frame_key(session: &mut Session) -> Result<FrameKey, Failure> {
    if let Some(key) = stored_frame_key(session).await? {
        return Ok(key);
    }
    let made = new_key()
        .map_err(|error| Fault::fatal(Origin::Sink, "making the key of the frames", error))?;
    let insert = "INSERT INTO ingest_settings (name, value) VALUES (?, ?) ON DUPLICATE KEY UPDATE \
                  name = name";
    session.run_with(insert, (FRAME_KEY, made.to_vec())).await?;
    stored_frame_key(session).await?.ok_or_else(not_a_key)
}

/// See [`Schema::stored_frame_key`](crate::sink::Schema::stored_frame_key).
pub(super) async fn stored_frame_key(session: &mut Session) -> Result<Option<FrameKey>, Failure> {
    if !session.has_table(SETTINGS).await? {
        return Ok(None);
    }
    let sql = format!("SELECT value FROM ingest_settings WHERE name = '{FRAME_KEY}'");
    let values = session.rows::<Vec<u8>>(&sql).await?;
    let key = |value: &Vec<u8>| key_of(value).ok_or_else(not_a_key);
    values.first().map(key).transpose()
}

fn not_a_key() -> Failure {
    Failure::Found {
        next_step: NO_KEY,
        problem: NOT_A_KEY.to_owned(),
    }
}

/// See [`Sink::is_past_limits`](crate::sink::Sink::is_past_limits).
pub(super) async fn is_past_limits(session: &mut Session, file: &NewFile) -> Result<bool, Failure> {
    let params = (file.hash.as_slice(), &file.dataset);
    let entries = session.rows_with::<u64>(&past_limits(), params).await?;
    Ok(entries.first().is_some_and(|entries| *entries > 0))
}

/// See [`Operators::release`](crate::sink::Operators::release).
pub(super) async fn release(session: &mut Session, file_no: u32) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE ingest_files SET reason = '{RELEASED}' WHERE file_no = {file_no} AND state = \
         'quarantined'"
    );
    session.run(&sql).await.map(drop)
}

/// See [`Operators::last_settled`](crate::sink::Operators::last_settled).
pub(super) async fn last_settled(session: &mut Session) -> Result<Vec<(String, i64)>, Failure> {
    let sql = format!(
        "SELECT dataset, TIMESTAMPDIFF(SECOND, '1970-01-01', MAX(settled_at)) FROM ingest_files WHERE \
         state = 'settled' AND settled_at IS NOT NULL AND {} GROUP BY dataset",
        is_file()
    );
    session.rows(&sql).await
}
