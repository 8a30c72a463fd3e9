//! Registers files in the ledger, and quarantines them: which entry a file has, and how it changes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::slice;

use mysql_async::Value;

use crate::batch::ContentHash;
use crate::dataset::{Datasets, Fingerprint, PathValues};
use crate::sink::elsewhere::{self, Elsewhere, Entry};
use crate::sink::identities::{Identified, Likeness, likeness};
use crate::sink::{EarlierState, FileState, NUMBERS_USED_UP, NewFile, Registered};

use super::definitions::has_table_of;
use super::errors::Failure;
use super::files::{FILES_PER_STATEMENT, entries, file_state, identity};
use super::session::{Insert, Session};

/// The highest number of a file: an id has 63 bits in SQLite.
const FILE_NO_MAX: u32 = i32::MAX.unsigned_abs();

/// Attempts to enter a file. While nodes of a Galera cluster come and go, one may give a number that
/// another one has given: then nothing is entered, and the next attempt gets another number.
const ENTER_ATTEMPTS: u32 = 3;

/// Most characters of the reason of a quarantine that the ledger keeps.
const REASON_CHARS_MAX: usize = 1_000;

/// Files of the ledger by content. The ledger may have the same content for several datasets, and with
/// several values of the path.
type Known = HashMap<ContentHash, Vec<Entered>>;

struct Entered {
    file_no: u32,
    hash: ContentHash,
    /// What its definition took from the path. `None` if nothing.
    values: Option<PathValues>,
    registered_at_us: i64,
    state: FileState,
    dataset: String,
    name: String,
    records: u32,
    /// `None` for a file of an earlier release, or without a dataset.
    definition: Option<Fingerprint>,
    path: Option<Vec<u8>>,
    /// Whether it has a reason. If it is pending, that is why it waits.
    waits: bool,
}

impl Entered {
    fn entry(&self) -> Entry<'_> {
        Entry {
            file_no: self.file_no,
            state: self.state,
            dataset: &self.dataset,
            name: &self.name,
            records: self.records,
        }
    }

    fn registered(&self, earlier: EarlierState) -> Registered {
        Registered {
            file_no: self.file_no,
            earlier,
            registered_at_us: self.registered_at_us,
        }
    }

    fn likeness(&self, file: &NewFile) -> Likeness {
        let identified = Identified {
            hash: self.hash,
            values: self.values.as_ref(),
            name: &self.name,
            path: self.path.as_deref(),
        };
        likeness(&identified, file)
    }

    /// Whether the entry has the definition with which `file` is read.
    fn is_like(&self, file: &NewFile) -> bool {
        self.dataset == file.dataset
            && self.hash == file.hash
            && self.records == file.records
            && self
                .definition
                .is_none_or(|own| Some(own) == file.definition)
    }
}

/// The entry of a file for its dataset. If it has none: the entry of the same content in quarantine
/// for another dataset, unless `files` has the content for that dataset.
fn entry_of<'a>(
    known: &'a mut Known,
    file: &NewFile,
    files: &[NewFile],
) -> Option<&'a mut Entered> {
    let entries = known.get_mut(&file.content())?;
    let of_dataset = |likeness: Likeness| {
        let mut entries = entries.iter();
        entries.position(|it| it.dataset == file.dataset && it.likeness(file) == likeness)
    };
    let is_free = |entered: &Entered| {
        let is_its =
            |other: &NewFile| other.content() == file.content() && other.dataset == entered.dataset;
        entered.state == FileState::Quarantined
            && entered.dataset != file.dataset
            && entered.likeness(file) != Likeness::Other
            && !files.iter().any(is_its)
    };
    let at = of_dataset(Likeness::Same)
        .or_else(|| of_dataset(Likeness::Retaken))
        .or_else(|| entries.iter().position(is_free))?;
    entries.get_mut(at)
}

/// See [`Sink::register`](crate::sink::Sink::register).
pub(super) async fn register(
    session: &mut Session,
    files: &[NewFile],
    datasets: &Datasets,
) -> Result<Vec<Registered>, Failure> {
    let mut known = Known::new();
    note_identities(session, files).await?;
    look_up(session, files.iter(), &mut known).await?;
    let elsewhere = of_others(session, files, &known, datasets).await?;
    let mut missing = missing(files, &elsewhere, &mut known);
    let mut fresh: HashSet<(ContentHash, &str)> = missing.iter().map(|file| key(file)).collect();
    for _ in 0..ENTER_ATTEMPTS {
        enter(session, &missing).await?;
        look_up(session, missing.iter().copied(), &mut known).await?;
        missing.retain(|file| entry_of(&mut known, file, files).is_none());
        if missing.is_empty() {
            break;
        }
    }

    let mut registered = Vec::with_capacity(files.len());
    for (at, file) in files.iter().enumerate() {
        if let Some(registered_elsewhere) = elsewhere.get(&at) {
            registered.push(*registered_elsewhere);
            continue;
        }
        // The entry is missing if no file number was left.
        let entered = entry_of(&mut known, file, files).ok_or_else(used_up)?;
        let file_no = entered.file_no;
        if !(1..=FILE_NO_MAX).contains(&file_no) {
            // With these entries, the counter cannot be set back.
            let sql = format!("DELETE FROM ingest_files WHERE file_no > {FILE_NO_MAX}");
            session.run(&sql).await?;
            return Err(used_up());
        }
        if path_bytes(file).is_some_and(|path| entered.path.as_deref() != Some(path)) {
            note_path(session, file_no, file).await?;
        }
        let like = entered.is_like(file);
        // If `files` has the same content twice, the first made it pending, and the second finds
        // that.
        let earlier = match entered.state {
            FileState::Settled => EarlierState::Settled,
            FileState::Removing => EarlierState::BegunOtherwise,
            FileState::Quarantined if !like && !entries(session, &[file_no]).await?.is_empty() => {
                EarlierState::BegunOtherwise
            }
            FileState::Quarantined => {
                reopen(session, file_no, file).await?;
                *entered = Entered {
                    file_no,
                    hash: file.hash,
                    values: file.taken.as_ref().map(|taken| taken.values.clone()),
                    registered_at_us: entered.registered_at_us,
                    state: FileState::Pending,
                    dataset: file.dataset.clone(),
                    name: file.name.clone(),
                    records: file.records,
                    definition: file.definition,
                    path: path_bytes(file).map(<[u8]>::to_vec),
                    waits: false,
                };
                EarlierState::New
            }
            FileState::Pending if !like => EarlierState::OtherDefinition,
            FileState::Pending if fresh.remove(&key(file)) => EarlierState::New,
            FileState::Pending => {
                if entered.waits {
                    end_wait(session, file_no).await?;
                }
                if entered.definition.is_none() && file.definition.is_some() {
                    note_definition(session, file_no, file).await?;
                    entered.definition = file.definition;
                }
                EarlierState::Pending
            }
        };
        registered.push(entered.registered(earlier));
    }
    Ok(registered)
}

fn used_up() -> Failure {
    Failure::Found {
        next_step: NUMBERS_USED_UP,
        problem: "the ledger has no file number left".to_owned(),
    }
}

fn key(file: &NewFile) -> (ContentHash, &str) {
    (file.hash, &file.dataset)
}

/// The files that are not in the ledger, each content once for each dataset.
fn missing<'a>(
    files: &'a [NewFile],
    elsewhere: &HashMap<usize, Registered>,
    known: &mut Known,
) -> Vec<&'a NewFile> {
    let (mut seen, mut taken) = (HashSet::new(), HashSet::new());
    let mut is_missing = |file: &&'a NewFile| {
        // An entry in quarantine of another dataset can become the entry of one file only.
        seen.insert(key(file))
            && entry_of(known, file, files).is_none_or(|entered| {
                entered.dataset != file.dataset && !taken.insert(entered.file_no)
            })
    };
    let own = files.iter().enumerate();
    own.filter(|(at, file)| !elsewhere.contains_key(at) && is_missing(file))
        .map(|(_, file)| file)
        .collect()
}

/// The files of which another dataset has the entry, by their places; see [`elsewhere`]. An entry
/// that another dataset has begun goes to quarantine.
async fn of_others(
    session: &mut Session,
    files: &[NewFile],
    known: &Known,
    datasets: &Datasets,
) -> Result<HashMap<usize, Registered>, Failure> {
    let mut found = HashMap::new();
    for (at, file) in files.iter().enumerate() {
        // Most contents are new, or have the entry of the file alone.
        let Some(of_content) = known.get(&file.content()) else {
            continue;
        };
        let its = of_content
            .iter()
            .filter(|entered| entered.likeness(file).is_same_file());
        let entries: Vec<Entry<'_>> = its.map(Entered::entry).collect();
        let (file_no, earlier) = match elsewhere::elsewhere(file, files, &entries, datasets) {
            None => continue,
            Some(Elsewhere::Earlier(file_no, earlier)) => (file_no, earlier),
            Some(Elsewhere::PerhapsRenamed(file_no)) => {
                if !has_table_of(session, file_no, file, datasets).await? {
                    continue;
                }
                (file_no, EarlierState::Settled)
            }
        };
        if earlier == EarlierState::OtherDefinition {
            let sql = "UPDATE ingest_files SET state = 'quarantined', reason = ? WHERE file_no = ? AND \
                       state = 'pending'";
            let params = (elsewhere::reason(file), file_no);
            session.run_with(sql, params).await?;
        }
        let entry = of_content.iter().find(|it| it.file_no == file_no);
        found.extend(entry.map(|entry| (at, entry.registered(earlier))));
    }
    Ok(found)
}

/// Reads the entries with the contents of files.
async fn look_up<'a>(
    session: &mut Session,
    files: impl Iterator<Item = &'a NewFile>,
    known: &mut Known,
) -> Result<(), Failure> {
    type Found = (
        Vec<u8>,
        Option<Vec<u8>>,
        Option<String>,
        i64,
        u32,
        String,
        String,
        String,
        u32,
        Option<Vec<u8>>,
        Option<Vec<u8>>,
        bool,
    );
    let mut contents: Vec<ContentHash> = files.map(NewFile::content).collect();
    contents.sort_unstable();
    contents.dedup();
    for content in &contents {
        known.remove(content);
    }
    for contents in contents.chunks(FILES_PER_STATEMENT) {
        let mut list = String::new();
        for (at, content) in contents.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let content = u128::from_be_bytes(*content);
            write!(list, "{comma}x'{content:032x}'").expect("writing to a string does not fail");
        }
        // Without values of the path, the identity is the content's hash.
        let columns = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', registered_at), file_no, state, \
                       dataset, name, records, definition, path, reason IS NOT NULL";
        // In a new ledger, the server's statistics say for a while that the tables are empty, and it
        // would read them as a whole for each list.
        let by_content = "FORCE INDEX (ingest_files_content)";
        let sql = format!(
            "SELECT hash, NULL, NULL, {columns} FROM ingest_files {by_content} WHERE hash IN ({list}) \
             UNION ALL SELECT f.hash, i.content, i.path_values, {columns} FROM ingest_identities i \
             FORCE INDEX (ingest_identities_content) JOIN ingest_files f {by_content} ON f.hash = \
             i.hash WHERE i.content IN ({list})"
        );
        for row in session.rows::<Found>(&sql).await? {
            let (
                hash,
                content,
                values,
                registered_at_us,
                file_no,
                state,
                dataset,
                name,
                records,
                definition,
                path,
                waits,
            ) = row;
            let entered = Entered {
                file_no,
                hash: identity(hash),
                values: values.and_then(|text| PathValues::from_text(&text)),
                registered_at_us,
                state: file_state(&state)?,
                dataset,
                name,
                records,
                definition: definition.map(|bytes| Fingerprint::from_bytes(identity(bytes))),
                path,
                waits,
            };
            let content = content.map_or(entered.hash, identity);
            known.entry(content).or_default().push(entered);
        }
    }
    Ok(())
}

/// Notes what the identities of files consist of, before the files are entered.
async fn note_identities(session: &mut Session, files: &[NewFile]) -> Result<(), Failure> {
    let taken: Vec<_> = files
        .iter()
        .filter_map(|file| Some((file.hash, file.taken.as_ref()?)))
        .collect();
    let insert = Insert {
        head: "INSERT INTO ingest_identities (hash, content, path_values)".to_owned(),
        group: Cow::Borrowed("(?,?,?)"),
        columns: 3,
        tail: Cow::Borrowed(" ON DUPLICATE KEY UPDATE hash = hash"),
    };
    let mut rest = &taken[..];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(1 << rest.len().min(FILES_PER_STATEMENT).ilog2());
        let rows = now.iter().map(|(hash, taken)| {
            let values: [Value; 3] = [
                hash.as_slice().into(),
                taken.content.as_slice().into(),
                taken.values.to_text().into(),
            ];
            values.into_iter()
        });
        session.insert(&insert, now.len(), rows).await?;
        rest = later;
    }
    Ok(())
}

/// Enters files that were not in the ledger when it was read. If another process has entered one of
/// them since, that entry stays.
async fn enter(session: &mut Session, files: &[&NewFile]) -> Result<(), Failure> {
    let insert = Insert {
        head: "INSERT INTO ingest_files (hash, dataset, name, path, bytes, records, definition, \
               mark, state, registered_at)"
            .to_owned(),
        group: Cow::Borrowed("(?,?,?,?,?,?,?,?,'pending',UTC_TIMESTAMP(6))"),
        columns: 8,
        tail: Cow::Borrowed(" ON DUPLICATE KEY UPDATE file_no = file_no"),
    };
    let mut rest = files;
    while !rest.is_empty() {
        // Powers of two, so that few statements have to be prepared.
        let (now, later) = rest.split_at(1 << rest.len().min(FILES_PER_STATEMENT).ilog2());
        let rows = now.iter().map(|file| {
            let values: [Value; 8] = [
                file.hash.as_slice().into(),
                file.dataset.as_str().into(),
                file.name.as_str().into(),
                path_bytes(file).into(),
                file.bytes.into(),
                file.records.into(),
                definition(file),
                file.mark.into(),
            ];
            values.into_iter()
        });
        session.insert(&insert, now.len(), rows).await?;
        rest = later;
    }
    Ok(())
}

fn definition(file: &NewFile) -> Value {
    file.definition
        .map(|definition| definition.to_bytes().to_vec())
        .into()
}

/// Ends the wait of a file that is tried again. If the table still refuses its rows, the commit
/// writes the reason again.
async fn end_wait(session: &mut Session, file_no: u32) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE ingest_files SET reason = NULL WHERE file_no = {file_no} AND state = 'pending'"
    );
    session.run(&sql).await.map(drop)
}

/// See [`Sink::quarantine`](crate::sink::Sink::quarantine). A settled file stays settled: its
/// content was loaded completely under another name.
pub(super) async fn quarantine(
    session: &mut Session,
    file: &NewFile,
    reason: &str,
) -> Result<(), Failure> {
    note_identities(session, slice::from_ref(file)).await?;
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    // The reason is assigned before the state: the server assigns from left to right, and both
    // conditions need the old state. The hash is another one if the new number belongs to another file.
    let sql = "INSERT INTO ingest_files (hash, dataset, name, path, bytes, records, definition, \
               state, reason, registered_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'quarantined', ?, \
               UTC_TIMESTAMP(6)) \
               ON DUPLICATE KEY UPDATE reason = IF(hash <> VALUES(hash) OR state IN ('settled', \
               'removing'), reason, VALUES(reason)), state = IF(hash <> VALUES(hash) OR state IN \
               ('settled', 'removing'), state, VALUES(state))";
    let hash = file.hash.as_slice();
    for _ in 0..ENTER_ATTEMPTS {
        let params = (
            hash,
            &file.dataset,
            &file.name,
            path_bytes(file),
            file.bytes,
            file.records,
            definition(file),
            &reason,
        );
        session.run_with(sql, params).await?;
        let entered = "SELECT 1 FROM ingest_files WHERE hash = ? AND dataset = ?";
        let entered = session.rows_with::<u64>(entered, (hash, &file.dataset));
        if !entered.await?.is_empty() {
            return Ok(());
        }
    }
    Err(used_up())
}

/// Records the current path of a file of an archive, which was moved or copied.
async fn note_path(session: &mut Session, file_no: u32, file: &NewFile) -> Result<(), Failure> {
    let sql = "UPDATE ingest_files SET path = ? WHERE file_no = ?";
    let noted = session.run_with(sql, (path_bytes(file), file_no)).await;
    noted.map(drop)
}

fn path_bytes(file: &NewFile) -> Option<&[u8]> {
    Some(file.path.as_ref()?.as_os_str().as_bytes())
}

/// Makes a quarantined file pending, with its current name, dataset, size and definition.
async fn reopen(session: &mut Session, file_no: u32, file: &NewFile) -> Result<(), Failure> {
    let sql = "UPDATE ingest_files SET state = 'pending', reason = NULL, hash = ?, dataset = ?, name \
               = ?, path = ?, bytes = ?, records = ?, definition = ?, mark = ? WHERE file_no = ? AND \
               state = 'quarantined'";
    let params = (
        file.hash.as_slice(),
        &file.dataset,
        &file.name,
        path_bytes(file),
        file.bytes,
        file.records,
        definition(file),
        file.mark,
        file_no,
    );
    session.run_with(sql, params).await.map(drop)
}

/// Records the definition of a pending file of an earlier release.
async fn note_definition(
    session: &mut Session,
    file_no: u32,
    file: &NewFile,
) -> Result<(), Failure> {
    let sql = "UPDATE ingest_files SET definition = ? WHERE file_no = ? AND definition IS NULL";
    session
        .run_with(sql, (definition(file), file_no))
        .await
        .map(drop)
}
