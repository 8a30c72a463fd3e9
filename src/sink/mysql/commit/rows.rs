//! Sends and counts the rows of a commit, one dataset after the other. A statement that the
//! database refuses is halved until the row is found.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Display;
use std::iter::once;
use std::ops::Range;

use crate::batch::{Batch, RejectCode, provenance};
use crate::coverage::holds;
use crate::sink::cells::{RECORD_TOO_LARGE, RefusedRow, Row, Rows};
use crate::sink::mysql::errors::{Class, Failure};
use crate::sink::mysql::files::{coverage, list};
use crate::sink::mysql::session::Insert;
use crate::sink::mysql::{bind, load_data};
use crate::sink::table::quoted;

use super::compare::{Found, compare};
use super::entries::entries_of;
use super::transaction::{Strategy, Transaction, Unfinished};

/// Fewer rows than this are sent as INSERT even if the server takes LOAD DATA LOCAL, which needs
/// one more round trip.
const LOAD_DATA_ROWS_MIN: usize = 500;

/// Most ids of one `IN (...)` list: 20 KiB of text.
const IDS_PER_QUERY: usize = 1_000;

const SKIP_ROWS: &str = " ON DUPLICATE KEY UPDATE `id` = `id`";

impl Transaction<'_> {
    /// Stores the rows of a dataset.
    pub(super) async fn rows(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
    ) -> Result<(), Unfinished> {
        if self.strategy == Strategy::LoadData && rows.len() >= LOAD_DATA_ROWS_MIN {
            if !load_data::rows(self.session, rows).await? {
                return Err(Unfinished::NeedsIdempotent);
            }
            self.committed.rows += rows.len() as u64;
            return Ok(());
        }
        Ok(self.insert(rows, batches).await?)
    }

    /// Stores the rows by multi-row INSERT.
    async fn insert(&mut self, rows: &Rows<'_>, batches: &[Batch]) -> Result<(), Failure> {
        let insert = row_insert(rows, self.strategy);
        let limits = bind::limits(&insert, self.session.server, self.rows_per_statement);
        // A stack of the pieces that are not stored yet, with the first rows on top.
        let mut pieces = match self.strategy {
            Strategy::Idempotent => self.without_rejected(rows, batches).await?,
            Strategy::LoadData | Strategy::Plain => once(0..rows.len()).collect(),
        };
        while let Some(piece) = pieces.pop() {
            let Some(now) = bind::first(rows, piece.clone(), limits) else {
                let code = RejectCode::RefusedByDatabase;
                self.refuse(rows.refused(piece.start, code, Some(&RECORD_TOO_LARGE)));
                pieces.extend(non_empty(piece.start + 1..piece.end));
                continue;
            };
            pieces.extend(non_empty(now.end..piece.end));
            let values = rows.range(now.clone()).map(bind::values);
            match self.session.insert(&insert, now.len(), values).await {
                Ok(stored) => self.tally(rows, now, stored).await?,
                Err(failure) => pieces.extend(self.narrow(rows, now, failure)?),
            }
        }
        Ok(())
    }

    /// Counts the result of a statement for its rows. If it stored fewer rows than it has, the
    /// table already had, for each row that was not stored, one of these: the same row, another row
    /// with its id, or a row with the same value of another unique key.
    async fn tally(
        &mut self,
        rows: &Rows<'_>,
        sent: Range<usize>,
        stored: u64,
    ) -> Result<(), Failure> {
        self.committed.rows += stored;
        let mut others = (sent.len() as u64).saturating_sub(stored);
        if others == 0 {
            return Ok(());
        }
        let ids: Vec<u64> = rows.range(sent.clone()).map(Row::id).collect();
        let covered = self.covers(&ids).await?;
        let found = if covered.contains(&false) {
            compare(self.session, rows, sent.clone()).await?
        } else {
            let there = self.stored(&rows.dataset.table, &ids).await?;
            let found = |id: &u64| {
                if there.contains(id) {
                    Found::Equal
                } else {
                    Found::Nothing
                }
            };
            ids.iter().map(found).collect()
        };
        let mut refused = 0;
        for (at, (found, covered)) in sent.zip(found.into_iter().zip(covered)) {
            let code = match found {
                Found::Nothing => RejectCode::DuplicateKeyInTable,
                Found::Other if !covered => RejectCode::IdTaken,
                Found::Equal | Found::Other => continue,
            };
            let mut message = None;
            if code == RejectCode::DuplicateKeyInTable {
                message = self.insert_plainly(rows, at).await?;
                if message.is_none() {
                    // The row with this key was removed meanwhile.
                    self.committed.rows += 1;
                    others -= 1;
                    continue;
                }
            }
            refused += 1;
            let message = message.as_ref().map(|message| message as &dyn Display);
            self.refuse(rows.refused(at, code, message));
        }
        self.committed.duplicates += others - refused;
        Ok(())
    }

    /// Inserts a row that the idempotent form skipped although its id is not in the table: the
    /// plain INSERT reports the key that refuses it. `None` if the row is stored now.
    async fn insert_plainly(
        &mut self,
        rows: &Rows<'_>,
        at: usize,
    ) -> Result<Option<Failure>, Failure> {
        let insert = row_insert(rows, Strategy::Plain);
        let values = rows.range(at..at + 1).map(bind::values);
        match self.session.insert(&insert, 1, values).await {
            Ok(_) => Ok(None),
            Err(failure) if failure.class() == Class::Duplicate => Ok(Some(failure)),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the ledger covers the record, for each of these ids.
    pub(super) async fn covers(&mut self, ids: &[u64]) -> Result<Vec<bool>, Failure> {
        let mut files: Vec<u32> = ids.iter().map(|id| provenance(*id).0).collect();
        files.sort_unstable();
        files.dedup();
        files.retain(|file_no| !self.covered.contains_key(file_no));
        let covered = coverage(self.session, &files).await?;
        self.covered.extend(files.into_iter().zip(covered));
        let is_covered = |id: &u64| {
            let (file_no, ordinal) = provenance(*id);
            let ordinal = u64::from(ordinal);
            holds(&self.covered[&file_no], &(ordinal..ordinal + 1))
        };
        Ok(ids.iter().map(is_covered).collect())
    }

    /// Halves a statement whose rows were refused, and puts both halves on the stack, the first one
    /// on top. A single row becomes a reject instead.
    fn narrow(
        &mut self,
        rows: &Rows<'_>,
        sent: Range<usize>,
        failure: Failure,
    ) -> Result<Vec<Range<usize>>, Failure> {
        let code = match (failure.class(), self.strategy) {
            (Class::Data, _) => RejectCode::RefusedByDatabase,
            // The idempotent form skips duplicates. If it reports a duplicate key, that is from
            // another table, such as one that a trigger writes to.
            (Class::Duplicate, Strategy::Idempotent) => RejectCode::DuplicateKeyInTable,
            _ => return Err(failure),
        };
        if sent.len() == 1 {
            self.refuse(rows.refused(sent.start, code, Some(&failure)));
            return Ok(Vec::new());
        }
        let middle = sent.start + sent.len() / 2;
        Ok(vec![middle..sent.end, sent.start..middle])
    }

    fn refuse(&mut self, row: RefusedRow) {
        self.committed.refused.push(row.reject.code);
        self.refused.push(row);
    }

    /// The ranges of the rows whose records are not stored as rejects, the last range first. A
    /// record is a row or a reject, even if a table or a definition was changed between two
    /// deliveries.
    async fn without_rejected(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
    ) -> Result<Vec<Range<usize>>, Failure> {
        let rejected: HashSet<u64> = self.rejected(&entries_of(batches)).await?;
        let mut pieces = Vec::new();
        let mut start = 0;
        if !rejected.is_empty() {
            for (at, row) in rows.range(0..rows.len()).enumerate() {
                if rejected.contains(&row.id()) {
                    self.committed.duplicates += 1;
                    pieces.extend(non_empty(start..at));
                    start = at + 1;
                }
            }
        }
        pieces.extend(non_empty(start..rows.len()));
        pieces.reverse();
        Ok(pieces)
    }

    /// The ids that are in the table.
    pub(super) async fn stored(
        &mut self,
        table: &str,
        ids: &[u64],
    ) -> Result<HashSet<u64>, Failure> {
        let mut there = HashSet::with_capacity(ids.len());
        for ids in ids.chunks(IDS_PER_QUERY) {
            let sql = format!("SELECT `id` FROM `{table}` WHERE `id` IN ({})", list(ids));
            there.extend(self.session.rows::<u64>(&sql).await?);
        }
        Ok(there)
    }
}

/// The INSERT into the table of a dataset.
pub(in crate::sink::mysql) fn row_insert(rows: &Rows<'_>, strategy: Strategy) -> Insert {
    let schema = rows.dataset.schema();
    let columns = schema.fields().len();
    let names = quoted(schema.fields().iter().map(|field| field.name().as_str()));
    Insert {
        head: format!("INSERT INTO `{}` ({names})", rows.dataset.table),
        group: Cow::Owned(format!("({})", vec!["?"; columns].join(","))),
        columns,
        tail: Cow::Borrowed(if strategy == Strategy::Idempotent {
            SKIP_ROWS
        } else {
            ""
        }),
    }
}

fn non_empty(range: Range<usize>) -> Option<Range<usize>> {
    (!range.is_empty()).then_some(range)
}
