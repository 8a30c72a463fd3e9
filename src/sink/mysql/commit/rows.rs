//! Sends and counts the rows of a commit, one dataset after the other. A statement that the
//! database refuses is halved until the row is found. No row becomes a reject before the table has
//! been searched for it.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::iter::once;
use std::ops::Range;

use crate::batch::{Batch, RejectCode, provenance};
use crate::coverage::holds;
use crate::sink::cells::{RECORD_TOO_LARGE, RefusedRow, Row, Rows};
use crate::sink::mysql::errors::{Class, Failure};
use crate::sink::mysql::files::{coverage, list};
use crate::sink::mysql::session::Insert;
use crate::sink::mysql::{bind, erase, load_data, retired};
use crate::sink::table::quoted;

use super::compare::{Found, compare};
use super::entries::entries_of;
use super::keyed::Keyed;
use super::transaction::{Refusal, Strategy, Transaction, Unfinished};
use super::waits::of_rows;

/// Fewer rows than this are sent as INSERT even if the server takes LOAD DATA LOCAL, which needs
/// one more round trip.
const LOAD_DATA_ROWS_MIN: usize = 500;

/// Most ids of one `IN (...)` list: 20 KiB of text.
const IDS_PER_QUERY: usize = 1_000;

impl Transaction<'_> {
    /// Stores the rows of a dataset. Returns those that the table refuses.
    pub(super) async fn rows(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
    ) -> Result<Vec<Refusal>, Unfinished> {
        if self.strategy == Strategy::LoadData && rows.len() >= LOAD_DATA_ROWS_MIN {
            match load_data::rows(self.session, rows).await {
                Ok(true) => {}
                Ok(false) => return Err(Unfinished::NeedsIdempotent),
                Err(failure) => return Err(of_rows(self.session, rows, failure).await.into()),
            }
            self.committed.rows += rows.len() as u64;
            return Ok(Vec::new());
        }
        self.insert(rows, batches).await
    }

    /// Stores the rows by multi-row INSERT.
    async fn insert(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
    ) -> Result<Vec<Refusal>, Unfinished> {
        let insert = row_insert(rows);
        let limits = bind::limits(&insert, self.session.server, self.rows_per_statement);
        let mut refusals = Vec::new();
        let mut keyed = Keyed::new(&insert, limits);
        // A stack of the pieces that are not stored yet, with the first rows on top.
        let mut pieces = match self.strategy {
            Strategy::Idempotent => {
                let due = self.due_rows(rows, batches, &mut refusals).await?;
                self.decide(rows, due, &mut keyed, &mut refusals).await?
            }
            Strategy::LoadData | Strategy::Plain => once(0..rows.len()).collect(),
        };
        loop {
            let Some(piece) = pieces.pop() else {
                // The database refused the better ones of these rows.
                let again = keyed.without_winner(rows, &refusals);
                if again.is_empty() {
                    break;
                }
                pieces = self.decide(rows, again, &mut keyed, &mut refusals).await?;
                continue;
            };
            let Some(now) = bind::first(rows, piece.clone(), limits) else {
                if self.strategy != Strategy::Idempotent {
                    return Err(Unfinished::NeedsIdempotent);
                }
                let code = RejectCode::RefusedByDatabase;
                refusals.push(Refusal::new(piece.start, code, Some(&RECORD_TOO_LARGE)));
                pieces.extend(non_empty(piece.start + 1..piece.end));
                continue;
            };
            pieces.extend(non_empty(now.end..piece.end));
            let values = rows.range(now.clone()).map(bind::values);
            match self.session.insert(&insert, now.len(), values).await {
                Ok(stored) => self.committed.rows += stored,
                Err(failure) => {
                    let narrowed = self.narrow(rows, now, failure, &mut keyed, &mut refusals);
                    pieces.extend(narrowed.await?);
                }
            }
        }
        self.supersede(rows, keyed, &mut refusals).await?;
        Ok(refusals)
    }

    /// Halves a statement whose rows were refused, and returns both halves, the first one last. A
    /// single row is refused instead. If a key of the table refused the statement, only the rows
    /// that the table still lacks are tried again.
    async fn narrow(
        &mut self,
        rows: &Rows<'_>,
        sent: Range<usize>,
        failure: Failure,
        keyed: &mut Keyed<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> Result<Vec<Range<usize>>, Failure> {
        let code = match (failure.class(), self.strategy) {
            (Class::Data, Strategy::Idempotent) => RejectCode::RefusedByDatabase,
            (Class::Duplicate, Strategy::Idempotent) => RejectCode::DuplicateKeyInTable,
            _ => return Err(of_rows(self.session, rows, failure).await),
        };
        if code == RejectCode::DuplicateKeyInTable {
            // Another transaction may have stored some of these rows meanwhile, or their keys.
            let due = self.not_stored(rows, sent.clone(), refusals).await?;
            let due = self.decide(rows, due, keyed, refusals).await?;
            if due != [sent.clone()] {
                return Ok(due);
            }
        }
        if sent.len() == 1 {
            refusals.push(Refusal::new(sent.start, code, Some(&failure)));
            return Ok(Vec::new());
        }
        let middle = sent.start + sent.len() / 2;
        Ok(vec![middle..sent.end, sent.start..middle])
    }

    /// The rejects for refused rows.
    ///
    /// A trigger can refuse a row before the server compares its key, and the row may be stored all
    /// the same, by an earlier delivery. So the files are locked, which waits for the transactions
    /// that store rows of them, and the table is searched again. A transaction that has not locked
    /// its files yet finds these rejects when it does, and is repeated.
    pub(super) async fn confirmed(
        &mut self,
        groups: &[Rows<'_>],
        refusals: Vec<Vec<Refusal>>,
    ) -> Result<Vec<RefusedRow>, Failure> {
        let files: BTreeSet<u32> = (groups.iter().zip(&refusals))
            .flat_map(|(rows, refusals)| refusals.iter().map(|refusal| rows.row(refusal.at).id()))
            .map(|id| provenance(id).0)
            .collect();
        self.lock(files.into_iter(), "FOR UPDATE").await?;
        let mut refused = Vec::new();
        for (rows, mut refusals) in groups.iter().zip(refusals) {
            refusals.sort_unstable_by_key(|refusal| refusal.at);
            for run in refusals.chunk_by(|a, b| a.at + 1 == b.at) {
                let found = self.find(rows, run[0].at..run[0].at + run.len()).await?;
                for (refusal, found) in run.iter().zip(found) {
                    let message = refusal.message.as_ref();
                    let (code, message) = match found {
                        Found::Nothing => (refusal.code, message.map(|text| text as &dyn Display)),
                        Found::Other => (RejectCode::IdTaken, None),
                        Found::Equal => {
                            self.committed.duplicates += 1;
                            continue;
                        }
                    };
                    self.committed.refused.push(code);
                    refused.push(rows.refused(refusal.at, code, message));
                }
            }
        }
        Ok(refused)
    }

    /// The rows that must be stored: neither rejects nor in the table. The last range is the first.
    async fn due_rows(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
        refusals: &mut Vec<Refusal>,
    ) -> Result<Vec<Range<usize>>, Failure> {
        let mut due = Vec::new();
        for piece in self.without_rejected(rows, batches).await? {
            due.extend(self.not_stored(rows, piece, refusals).await?);
        }
        Ok(due)
    }

    /// The rows at these indexes that the table does not have, the last range first. Of the others,
    /// those of the engine are duplicates, and those of other programs are refused.
    ///
    /// The table is searched before the INSERT, and no form of INSERT skips rows: ON DUPLICATE KEY
    /// UPDATE would run the triggers of an UPDATE, and those of an INSERT once more.
    async fn not_stored(
        &mut self,
        rows: &Rows<'_>,
        places: Range<usize>,
        refusals: &mut Vec<Refusal>,
    ) -> Result<Vec<Range<usize>>, Failure> {
        let found = self.find(rows, places.clone()).await?;
        let mut due = Vec::new();
        let mut start = places.start;
        for (at, found) in places.clone().zip(found) {
            match found {
                Found::Nothing => continue,
                Found::Equal => self.committed.duplicates += 1,
                Found::Other => refusals.push(Refusal::new(at, RejectCode::IdTaken, None)),
            }
            due.extend(non_empty(start..at));
            start = at + 1;
        }
        due.extend(non_empty(start..places.end));
        due.reverse();
        Ok(due)
    }

    /// Searches the table for the rows at these indexes. A row that the ledger covers is equal,
    /// whatever a trigger has made of it.
    async fn find(&mut self, rows: &Rows<'_>, places: Range<usize>) -> Result<Vec<Found>, Failure> {
        let mut found = compare(self.session, rows, places.clone()).await?;
        if found.contains(&Found::Nothing) {
            self.find_retired(rows, places.clone(), &mut found).await?;
        }
        if found.contains(&Found::Other) {
            // Read after the rows: a transaction that commits in between adds entries, and its rows
            // were not found.
            let ids: Vec<u64> = rows.range(places).map(Row::id).collect();
            for (found, is_covered) in found.iter_mut().zip(self.covers(&ids).await?) {
                if *found == Found::Other && is_covered {
                    *found = Found::Equal;
                }
            }
        }
        Ok(found)
    }

    /// A row that the table does not have counts as found if the ledger covers its record, its time is
    /// before the bound of the table, and rows of its file were retired. The bound is read after the
    /// table.
    async fn find_retired(
        &mut self,
        rows: &Rows<'_>,
        places: Range<usize>,
        found: &mut [Found],
    ) -> Result<(), Failure> {
        let Some(bound) = retired::bound(self.session, &rows.dataset.table).await? else {
            return Ok(());
        };
        let is_old = |at: usize| bound.is_before(rows.dataset, rows.row(at));
        let mut due: Vec<usize> = places
            .clone()
            .zip(found.iter())
            .filter(|(at, found)| **found == Found::Nothing && is_old(*at))
            .map(|(at, _)| at)
            .collect();
        let file = |at: &usize| provenance(rows.row(*at).id()).0;
        let mut files: Vec<u32> = due.iter().map(file).collect();
        files.dedup();
        let with_retired = retired::with_retired(self.session, &bound, &files).await?;
        due.retain(|at| with_retired.contains(&file(at)));
        let ids: Vec<u64> = due.iter().map(|at| rows.row(*at).id()).collect();
        for (at, is_covered) in due.iter().zip(self.covers(&ids).await?) {
            if is_covered {
                found[at - places.start] = Found::Equal;
            }
        }
        Ok(())
    }

    /// Whether the ledger covers the record, for each of these ids.
    pub(super) async fn covers(&mut self, ids: &[u64]) -> Result<Vec<bool>, Failure> {
        let mut files: Vec<u32> = ids.iter().map(|id| provenance(*id).0).collect();
        files.sort_unstable();
        files.dedup();
        let coverage = coverage(self.session, &files).await?;
        let covered: HashMap<u32, Vec<Range<u64>>> = files.into_iter().zip(coverage).collect();
        let is_covered = |id: &u64| {
            let (file_no, ordinal) = provenance(*id);
            let ordinal = u64::from(ordinal);
            holds(&covered[&file_no], &(ordinal..ordinal + 1))
        };
        Ok(ids.iter().map(is_covered).collect())
    }

    /// The ranges of the rows whose records are not stored as rejects, and not erased, the last range
    /// first, each row once. A record is a row or a reject, even if a table or a definition was changed between
    /// two deliveries.
    async fn without_rejected(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
    ) -> Result<Vec<Range<usize>>, Failure> {
        // A frame that was published twice may be twice in one commit.
        let mut passed: HashSet<u64> = self.rejected(&entries_of(batches)).await?;
        let files: Vec<u32> = batches.iter().map(|batch| batch.span.file_no).collect();
        passed.extend(erase::ids(self.session, &files).await?);
        if rows.dataset.supersedes() {
            passed.extend(self.superseded(rows, batches).await?);
        }
        let mut pieces = Vec::new();
        let mut start = 0;
        for (at, row) in rows.range(0..rows.len()).enumerate() {
            if !passed.insert(row.id()) {
                self.committed.duplicates += 1;
                pieces.extend(non_empty(start..at));
                start = at + 1;
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
pub(in crate::sink::mysql) fn row_insert(rows: &Rows<'_>) -> Insert {
    let schema = rows.dataset.schema();
    let columns = schema.fields().len();
    let names = quoted(schema.fields().iter().map(|field| field.name().as_str()));
    Insert {
        head: format!("INSERT INTO `{}` ({names})", rows.dataset.table),
        group: Cow::Owned(format!("({})", vec!["?"; columns].join(","))),
        columns,
        tail: Cow::Borrowed(""),
    }
}

fn non_empty(range: Range<usize>) -> Option<Range<usize>> {
    (!range.is_empty()).then_some(range)
}
