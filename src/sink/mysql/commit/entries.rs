//! The writes of a commit after its rows: rejects, and the ledger entries of the spans. If a span
//! has all records of a file, the file is settled at once, without an entry.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use mysql_async::Value;

use crate::batch::{Batch, ContentHash, Reject, SourceFile, Span, row_id};
use crate::dataset::Fingerprint;
use crate::sink::cells::RefusedRow;
use crate::sink::mysql::bind::{VALUE_BYTES, fitting, limits};
use crate::sink::mysql::erase;
use crate::sink::mysql::errors::Failure;
use crate::sink::mysql::files::{identity, list};
use crate::sink::mysql::session::Insert;

use super::transaction::{LoadedFile, Strategy, Transaction, Unfinished};

/// Most rejects of a statement. Each may hold 8 KiB of its record, so a statement has up to 1 MiB.
const REJECTS_PER_STATEMENT: usize = 128;

/// Most bytes of a reject without its raw record. Its field has at most 255 characters.
const REJECT_BYTES: usize = 7 * VALUE_BYTES + 300;

/// A ledger entry to be written: a span, the identity of its file, and the fingerprint of the
/// definition of its rows.
pub(super) type Entry = (Span, ContentHash, Fingerprint);

/// A reject that is to be stored.
struct Due<'a> {
    file_no: u32,
    reject: &'a Reject,
    /// The message of the database about the row.
    message: Option<&'a str>,
}

/// The ids of the rejects of a transaction, ascending.
pub(super) struct Rejects(Vec<u64>);

/// Selects the ledger entries that a statement writes. It writes no entry of a settled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entries {
    /// The entries of files without rejects, which most files are. The server finds this by one
    /// lookup in an index.
    OfFilesWithoutRejects,
    /// All entries that do not exist yet, of files of which no row was retired.
    Any,
    /// All entries that do not exist yet. Their records were compared with what is stored.
    AfterComparison,
}

impl Transaction<'_> {
    /// Locks files until the end of the transaction. Returns the files that the ledger has, without
    /// files that are being removed.
    pub(super) async fn lock(
        &mut self,
        files: impl Iterator<Item = u32>,
        how: &str,
    ) -> Result<Vec<LoadedFile>, Failure> {
        let files: Vec<u32> = files.collect();
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT file_no, hash, definition FROM ingest_files WHERE file_no IN ({}) AND state <> \
             'removing' ORDER BY file_no {how}",
            list(&files)
        );
        let files = self.session.rows::<FileRow>(&sql).await?.into_iter();
        Ok(files.filter_map(loaded_file).collect())
    }

    /// Stores the rejects of the batches and of the refused rows. A reject that is already stored
    /// does not change, and a record that is already a row does not become a reject.
    pub(super) async fn rejects(
        &mut self,
        refused: &[RefusedRow],
        batches: &[Batch],
    ) -> Result<Rejects, Failure> {
        let due = self.due(refused, batches).await?;
        let insert = reject_insert();
        let limits = limits(&insert, self.session.server, REJECTS_PER_STATEMENT);
        let mut rest = due.as_slice();
        while !rest.is_empty() {
            let sizes = rest
                .iter()
                .map(|due| due.reject.raw.len() + due.message.map_or(0, str::len) + REJECT_BYTES);
            let (now, later) = rest.split_at(fitting(sizes, limits).max(1));
            let rows = now.iter().map(|due| due.values().into_iter());
            self.session.insert(&insert, now.len(), rows).await?;
            rest = later;
        }
        Ok(Rejects(due.iter().map(Due::id).collect()))
    }

    /// The rejects to be stored, each once, by ascending id.
    async fn due<'r>(
        &mut self,
        refused: &'r [RefusedRow],
        batches: &'r [Batch],
    ) -> Result<Vec<Due<'r>>, Failure> {
        let of_database = |row: &'r RefusedRow| Due {
            file_no: row.file_no,
            reject: &row.reject,
            message: row.message.as_deref(),
        };
        let mut due: Vec<Due<'_>> = refused.iter().map(of_database).collect();
        let with_rejects = || batches.iter().filter(|batch| !batch.rejects.is_empty());
        // Another transaction may store one of these records as a row, by another definition of the
        // dataset. If it has locked the file first, this one waits for it. Else it waits for this
        // one, and then sees the reject.
        let files = with_rejects().map(|batch| batch.span.file_no);
        self.lock(files, "FOR UPDATE").await?;
        for batch in with_rejects() {
            let file_no = batch.span.file_no;
            let ids: Vec<u64> = batch
                .rejects
                .iter()
                .map(|reject| row_id(file_no, reject.ordinal))
                .collect();
            let mut rows = self.stored(&batch.dataset.table, &ids).await?;
            if !rows.is_empty() {
                // A row that the ledger does not cover belongs to another program.
                let found: Vec<u64> = rows.iter().copied().collect();
                let covered = self.covers(&found).await?;
                let foreign = found.iter().zip(covered).filter(|(_, covered)| !covered);
                for (id, _) in foreign {
                    rows.remove(id);
                }
            }
            let rejects = batch.rejects.iter().zip(ids);
            let no_rows = rejects.filter(|(_, id)| !rows.contains(id));
            due.extend(no_rows.map(|(reject, _)| Due {
                file_no,
                reject,
                message: None,
            }));
        }
        if self.strategy == Strategy::Idempotent && !due.is_empty() {
            // Records are erased in settled files only, which the fast forms do not take.
            let files: Vec<u32> = due.iter().map(|due| due.file_no).collect();
            let erased = erase::ids(self.session, &files).await?;
            due.retain(|due| !erased.contains(&due.id()));
        }
        due.sort_unstable_by_key(Due::id);
        // A frame that was published twice may be twice in one commit.
        due.dedup_by_key(|due| due.id());
        Ok(due)
    }

    /// The ids of the stored rejects in the spans of these entries.
    pub(super) async fn rejected(&mut self, entries: &[Entry]) -> Result<HashSet<u64>, Failure> {
        let mut ids = HashSet::new();
        for (span, ..) in entries {
            let sql = format!(
                "SELECT file_no, ordinal FROM ingest_rejects WHERE file_no = {} AND ordinal \
                 BETWEEN {} AND {}",
                span.file_no,
                span.first_ordinal,
                span.ordinals().end - 1
            );
            let found = self.session.rows::<(u32, u32)>(&sql).await?;
            ids.extend(
                found
                    .into_iter()
                    .map(|(file_no, ordinal)| row_id(file_no, ordinal)),
            );
        }
        Ok(ids)
    }

    /// Settles each pending file whose records are all in one span. Removes its entry from the
    /// list, since settle would only remove it from the ledger later. No row of these files was
    /// stored before: the INSERT would have failed with a duplicate key.
    ///
    /// Needs the idempotent form if one of the files was settled meanwhile, has other rejects than
    /// these, or is so old that its rows may have been retired.
    pub(super) async fn settle_whole(
        &mut self,
        entries: &mut Vec<Entry>,
        rejects: &Rejects,
    ) -> Result<(), Unfinished> {
        let whole = self.take_whole(entries).await?;
        if whole.is_empty() {
            return Ok(());
        }
        let (counts, never_taken) = (rejects.counts_sql(&whole), self.never_taken);
        let settled = self
            .session
            .run(&format!(
                "UPDATE ingest_files f SET rejects = {counts}, state = 'settled', reason = NULL, \
                 settled_at = UTC_TIMESTAMP(6) WHERE file_no IN ({}) AND state = 'pending' AND {counts} = (SELECT \
                 COUNT(*) FROM ingest_rejects r WHERE r.file_no = f.file_no) AND {never_taken}",
                list(&whole)
            ))
            .await?;
        if settled != whole.len() as u64 {
            return Err(Unfinished::NeedsIdempotent);
        }
        Ok(())
    }

    /// Removes the entries that have every record of a pending file from the list. Returns the
    /// files.
    async fn take_whole(&mut self, entries: &mut Vec<Entry>) -> Result<Vec<u32>, Failure> {
        type Found = (u32, Vec<u8>, Option<Vec<u8>>, u32);
        let first: Vec<u32> = entries
            .iter()
            .filter(|(span, ..)| span.first_ordinal == 0)
            .map(|(span, ..)| span.file_no)
            .collect();
        if first.is_empty() {
            return Ok(Vec::new());
        }
        // Read without locks: the first frame of a large file must not block its other frames.
        let sql = format!(
            "SELECT file_no, hash, definition, records FROM ingest_files WHERE file_no IN ({}) AND \
             state = 'pending'",
            list(&first)
        );
        let pending = self.session.rows::<Found>(&sql).await?;
        let pending: HashMap<u32, (LoadedFile, u32)> = pending
            .into_iter()
            .filter_map(|(file_no, hash, definition, records)| {
                let file = loaded_file((file_no, hash, definition))?;
                Some((file_no, (file, records)))
            })
            .collect();
        let is_whole = |entry: &mut Entry| {
            let span = entry.0;
            let all = Some(&(file_of(entry), span.records));
            span.first_ordinal == 0 && pending.get(&span.file_no) == all
        };
        let whole = entries.extract_if(.., is_whole);
        Ok(whole.map(|(span, ..)| span.file_no).collect())
    }

    /// Writes the entries.
    ///
    /// Needs the idempotent form if a file is already settled (after a late redelivery), if some of
    /// the records are rejects by another definition of their dataset, if rows of the file may have
    /// been retired, or if a file is not in this ledger. In the first three cases, even rows that seem
    /// new must be compared with what is stored.
    pub(super) async fn entries(
        &mut self,
        entries: &[Entry],
        rejects: &Rejects,
    ) -> Result<(), Unfinished> {
        if self.strategy == Strategy::Idempotent {
            self.session
                .run(&entries_sql(
                    entries,
                    Entries::AfterComparison,
                    self.never_taken,
                ))
                .await?;
            return Ok(());
        }
        let sql = entries_sql(entries, Entries::OfFilesWithoutRejects, self.never_taken);
        let mut stored = self.session.run(&sql).await?;
        if stored < entries.len() as u64 {
            stored += self
                .session
                .run(&entries_sql(entries, Entries::Any, self.never_taken))
                .await?;
            // Read after the files are locked, so that no other transaction can add rejects.
            let ours: HashSet<u64> = rejects.0.iter().copied().collect();
            if !self.rejected(entries).await?.is_subset(&ours) {
                return Err(Unfinished::NeedsIdempotent);
            }
        }
        if stored != entries.len() as u64 {
            return Err(Unfinished::NeedsIdempotent);
        }
        Ok(())
    }
}

impl Rejects {
    /// An SQL expression for the number of these rejects that belong to the file `f.file_no`.
    fn counts_sql(&self, files: &[u32]) -> String {
        if self.0.is_empty() {
            return String::from("0");
        }
        let mut sql = String::from("CASE f.file_no");
        for file_no in files {
            write!(sql, " WHEN {file_no} THEN {}", self.of_file(*file_no))
                .expect("writing to a string does not fail");
        }
        sql.push_str(" END");
        sql
    }

    /// How many of the rejects belong to a file.
    fn of_file(&self, file_no: u32) -> usize {
        let before = |file_no| self.0.partition_point(|id| *id < row_id(file_no, 0));
        before(file_no + 1) - before(file_no)
    }
}

/// The INSERT of rejects. A reject that is already stored does not change.
fn reject_insert() -> Insert {
    Insert {
        head:
            "INSERT INTO ingest_rejects (file_no, ordinal, code, field, byte_offset, raw, message, \
               rejected_at)"
                .to_owned(),
        group: Cow::Borrowed("(?,?,?,?,?,?,?,UTC_TIMESTAMP(6))"),
        columns: 7,
        tail: Cow::Borrowed(" ON DUPLICATE KEY UPDATE ordinal = ordinal"),
    }
}

impl Due<'_> {
    fn id(&self) -> u64 {
        row_id(self.file_no, self.reject.ordinal)
    }

    fn values(&self) -> [Value; 7] {
        let reject = self.reject;
        [
            self.file_no.into(),
            reject.ordinal.into(),
            reject.code.as_str().into(),
            reject.field.as_deref().into(),
            reject.byte_offset.into(),
            reject.raw.as_slice().into(),
            self.message.into(),
        ]
    }
}

/// The ledger entries of the batches: one for each span that has records. They are in ascending
/// order, as in all transactions, so that no two transactions lock the same files in different
/// orders.
pub(super) fn entries_of(batches: &[Batch]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = batches
        .iter()
        .map(|batch| (batch.span, batch.hash, batch.dataset.fingerprint))
        .filter(|(span, ..)| span.records > 0)
        .collect();
    entries.sort_unstable();
    entries.dedup();
    entries
}

/// The file of an entry.
pub(super) fn file_of((span, hash, definition): &Entry) -> LoadedFile {
    let file = SourceFile {
        file_no: span.file_no,
        hash: *hash,
    };
    (file, *definition)
}

/// A file's number, hash and definition in the ledger.
type FileRow = (u32, Vec<u8>, Option<Vec<u8>>);

/// The file of a row. `None` for a file without a definition: it has no frames, since `register`
/// records the definition.
fn loaded_file((file_no, hash, definition): FileRow) -> Option<LoadedFile> {
    let hash = identity(hash);
    let definition = Fingerprint::from_bytes(identity(definition?));
    Some((SourceFile { file_no, hash }, definition))
}

/// The statement that writes ledger entries. By its shared lock on the file's row, a settle waits
/// for this transaction, or this transaction waits for the settle and sees the settled file. So a
/// late redelivery leaves no entry.
fn entries_sql(entries: &[Entry], which: Entries, never_taken: &str) -> String {
    let mut sql = String::from(
        "INSERT INTO ingest_frames (file_no, first_ordinal, records) \
         SELECT e.file_no, e.first_ordinal, e.records FROM (",
    );
    for (at, (span, hash, definition)) in entries.iter().enumerate() {
        let Span {
            file_no,
            first_ordinal,
            records,
        } = span;
        let hash = u128::from_be_bytes(*hash);
        let entry = if at == 0 {
            format!(
                "SELECT {file_no} AS file_no, x'{hash:032x}' AS hash, x'{definition}' AS definition, \
                 {first_ordinal} AS first_ordinal, {records} AS records"
            )
        } else {
            format!(
                " UNION ALL SELECT {file_no}, x'{hash:032x}', x'{definition}', {first_ordinal}, \
                 {records}"
            )
        };
        sql.push_str(&entry);
    }
    sql.push_str(
        ") e STRAIGHT_JOIN ingest_files f ON f.file_no = e.file_no AND f.hash = e.hash AND \
         f.definition = e.definition WHERE f.state NOT IN ('settled', 'removing')",
    );
    if which != Entries::AfterComparison {
        sql.push_str(" AND ");
        sql.push_str(never_taken);
    }
    sql.push_str(match which {
        Entries::OfFilesWithoutRejects => {
            " AND NOT EXISTS (SELECT 1 FROM ingest_rejects r WHERE r.file_no = f.file_no) LOCK IN SHARE \
             MODE"
        }
        Entries::Any | Entries::AfterComparison => {
            " LOCK IN SHARE MODE ON DUPLICATE KEY UPDATE records = ingest_frames.records"
        }
    });
    sql
}
