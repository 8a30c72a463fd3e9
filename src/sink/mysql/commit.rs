//! A commit: rows, rejects and ledger entries of some batches in one transaction.
//!
//! There are three ways, and the last one always works:
//! 1. LOAD DATA LOCAL, where the server is MySQL and takes it. It has IGNORE semantics even in
//!    strict mode, so it counts only if every row was stored and nothing was warned of.
//! 2. Plain multi-row INSERT: the fast path. A duplicate key ends it.
//! 3. The idempotent form: rows that are there are skipped, and nothing else. It also finds the rows
//!    that another unique key of the user's own table keeps out.
//!
//! In 2 and 3 a statement that the database refuses for its values is halved until the row is found,
//! which becomes a reject under its own id. Whatever goes wrong otherwise, the transaction is
//! rolled back, and the caller calls again.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;
use std::iter::once;
use std::ops::Range;

use crate::batch::{Batch, Reject, RejectCode, Span, row_id};
use crate::fault::Fault;
use crate::sink::Committed;
use crate::sink::cells::{RefusedRow, Row, Rows, by_dataset};
use crate::sink::table::quoted;

use super::bind::{self, VALUE_BYTES, fitting, limits};
use super::client::{Type, Values};
use super::errors::{Class, Failure};
use super::ledger::list;
use super::load_data;
use super::session::{Insert, Pool, Session};

/// Fewer rows than this are sent as INSERT even where LOAD DATA LOCAL could be had: it costs a round
/// trip more, and pays with the number of rows.
const LOAD_DATA_ROWS_MIN: usize = 500;

/// Statements that are on their way to a server at once which takes them in bulk. What stands before
/// other servers may not bear a client that does not wait: `ProxySQL` cuts the connection.
const STATEMENTS_AHEAD: usize = 4;

/// Rejects of a statement: each may hold 8 KiB of its record.
const REJECTS_PER_STATEMENT: usize = 128;

/// Ids of one `IN (...)` list: 20 KiB of text.
const IDS_PER_QUERY: usize = 1_000;

const SKIP_ROWS: &str = " ON DUPLICATE KEY UPDATE `id` = `id`";

/// How a transaction is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    LoadData,
    Plain,
    Idempotent,
}

/// One transaction on its way.
struct Transaction<'a> {
    session: &'a mut Session,
    rows_per_statement: usize,
    way: Way,
    committed: Committed,
    refused: Vec<RefusedRow>,
}

/// Commits batches; see [`Sink::commit`](crate::sink::Sink::commit).
pub(super) async fn commit(
    pool: &Pool,
    batches: &[Batch],
    rows_per_statement: usize,
) -> Result<Committed, Fault> {
    const DOING: &str = "committing to the database";
    let groups = by_dataset(batches);
    let mut lease = pool
        .session()
        .await
        .map_err(|failure| failure.into_fault(DOING))?;
    let session = &mut lease.session;
    let mut way = if session.server.load_data {
        Way::LoadData
    } else {
        Way::Plain
    };
    let outcome = loop {
        let transaction = Transaction {
            session: &mut *session,
            rows_per_statement,
            way,
            committed: Committed::default(),
            refused: Vec::new(),
        };
        let failure = match transaction.run(&groups, batches).await {
            Ok(Some(committed)) => break Ok(committed),
            Ok(None) => None,
            Err(failure) => Some(failure),
        };
        way = match (failure.as_ref().map(Failure::class), way) {
            (None | Some(Class::Duplicate), Way::LoadData | Way::Plain) => Way::Idempotent,
            (Some(Class::LocalRefused), Way::LoadData) => {
                // Switched off while we were connected: this session asks no more.
                session.server.load_data = false;
                Way::Plain
            }
            _ => match failure {
                Some(failure) => break Err(failure),
                None => unreachable!("the idempotent form has nothing to fall back to"),
            },
        };
        if let Err(failure) = session.rollback().await {
            break Err(failure);
        }
    };
    lease.finish(DOING, outcome).await
}

impl Transaction<'_> {
    /// Runs it. `None`: this way does not do, and the transaction is to be rolled back.
    async fn run(
        mut self,
        groups: &[Rows<'_>],
        batches: &[Batch],
    ) -> Result<Option<Committed>, Failure> {
        self.session.begin().await?;
        let mut spans = spans(batches);
        let idempotent = self.way == Way::Idempotent;
        if idempotent {
            // What is read here of rows and rejects holds until the end, also against a replay.
            let files = spans.iter().map(|span| span.file_no);
            self.lock(files, "LOCK IN SHARE MODE").await?;
        }
        for rows in groups {
            if self.way == Way::LoadData && rows.len() >= LOAD_DATA_ROWS_MIN {
                if !load_data::rows(self.session, rows).await? {
                    return Ok(None);
                }
                self.committed.rows += rows.len() as u64;
            } else {
                self.rows(rows, batches).await?;
            }
        }
        let rejects = self.rejects(batches).await?;
        // What is told of here for the first time may be all of a file. Otherwise settle sees to it.
        if !idempotent && !self.settle_whole(&mut spans, &rejects).await? {
            return Ok(None);
        }
        if !spans.is_empty() && !self.entries(&spans, &rejects).await? {
            return Ok(None);
        }
        self.session.commit().await?;
        Ok(Some(self.committed))
    }

    /// Stores the rows of a dataset by multi-row INSERT.
    async fn rows(&mut self, rows: &Rows<'_>, batches: &[Batch]) -> Result<(), Failure> {
        let insert = row_insert(rows, self.way);
        let limits = limits(&insert, self.session.server, self.rows_per_statement);
        // A stack of what is still to be stored, the first rows on top.
        let mut pieces = match self.way {
            Way::Idempotent => self.without_rejected(rows, batches).await?,
            Way::LoadData | Way::Plain => once(0..rows.len()).collect(),
        };
        // So the server is never without a statement while we write the next one.
        let ahead = if self.session.server.bulk {
            STATEMENTS_AHEAD
        } else {
            1
        };
        let mut sent = VecDeque::new();
        loop {
            if sent.len() < ahead
                && let Some(piece) = pieces.pop()
            {
                let Some(now) = bind::first(rows, piece.clone(), limits) else {
                    let too_large = rows.refused(piece.start, RejectCode::RefusedByDatabase);
                    self.refuse(too_large);
                    pieces.extend(some(piece.start + 1..piece.end));
                    continue;
                };
                pieces.extend(some(now.end..piece.end));
                let write = |values: &mut Values<'_>| bind::rows(rows, now.clone(), values);
                self.session.send(&insert, now.len(), write).await?;
                sent.push_back(now);
                continue;
            }
            let Some(now) = sent.pop_front() else {
                return Ok(());
            };
            match self.session.outcome().await {
                Ok(stored) => self.tally(rows, now, stored).await?,
                Err(failure) => match (failure.class(), self.way) {
                    (Class::Data, _) if now.len() == 1 => {
                        self.refuse(rows.refused(now.start, RejectCode::RefusedByDatabase));
                    }
                    // The idempotent form skips duplicates; one that it meets all the same is in a
                    // place that only the user knows of, such as a trigger.
                    (Class::Duplicate, Way::Idempotent) if now.len() == 1 => {
                        self.refuse(rows.refused(now.start, RejectCode::DuplicateKeyInTable));
                    }
                    (Class::Data, _) | (Class::Duplicate, Way::Idempotent) => {
                        let middle = now.start + now.len() / 2;
                        pieces.extend([middle..now.end, now.start..middle]);
                    }
                    _ => return Err(failure),
                },
            }
        }
    }

    /// Counts what a statement did to its rows. Where it stored fewer, those that are not there even
    /// now met another unique key.
    async fn tally(
        &mut self,
        rows: &Rows<'_>,
        sent: Range<usize>,
        stored: u64,
    ) -> Result<(), Failure> {
        self.committed.rows += stored;
        let others = (sent.len() as u64).saturating_sub(stored);
        if others == 0 {
            return Ok(());
        }
        let ids: Vec<u64> = rows.range(sent.clone()).map(Row::id).collect();
        let there = self.stored(&rows.dataset.table, &ids).await?;
        let mut missing = 0;
        for (at, id) in sent.zip(ids) {
            if !there.contains(&id) {
                missing += 1;
                self.refuse(rows.refused(at, RejectCode::DuplicateKeyInTable));
            }
        }
        self.committed.duplicates += others - missing;
        Ok(())
    }

    fn refuse(&mut self, row: RefusedRow) {
        self.committed.refused += 1;
        self.refused.push(row);
    }

    /// The places of the rows whose records are not rejects already: a record is a row or a reject,
    /// also where a table or a definition was changed between two deliveries. Last piece first.
    async fn without_rejected(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
    ) -> Result<Vec<Range<usize>>, Failure> {
        let rejected: HashSet<u64> = self.rejected(&spans(batches)).await?;
        let mut pieces = Vec::new();
        let mut start = 0;
        if !rejected.is_empty() {
            for (at, row) in rows.range(0..rows.len()).enumerate() {
                if rejected.contains(&row.id()) {
                    self.committed.duplicates += 1;
                    pieces.extend(some(start..at));
                    start = at + 1;
                }
            }
        }
        pieces.extend(some(start..rows.len()));
        pieces.reverse();
        Ok(pieces)
    }

    /// The ids of the rejects that are there in these spans.
    async fn rejected(&mut self, spans: &[Span]) -> Result<HashSet<u64>, Failure> {
        let mut ids = HashSet::new();
        for span in spans {
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

    /// Which of these ids the table holds.
    async fn stored(&mut self, table: &str, ids: &[u64]) -> Result<HashSet<u64>, Failure> {
        let mut there = HashSet::with_capacity(ids.len());
        for ids in ids.chunks(IDS_PER_QUERY) {
            let sql = format!("SELECT `id` FROM `{table}` WHERE `id` IN ({})", list(ids));
            there.extend(self.session.rows::<u64>(&sql).await?);
        }
        Ok(there)
    }

    /// Writes the entries. `false` if this way does not do: a file is settled already, so this is a late
    /// redelivery; or some of the records were rejects before, under another definition of their
    /// dataset. Either way even rows that seem new have to be held against the rejects.
    async fn entries(&mut self, spans: &[Span], rejects: &Rejects) -> Result<bool, Failure> {
        if self.way == Way::Idempotent {
            let sql = entries_sql(spans, Entries::Any);
            return self.session.run(&sql).await.map(|_| true);
        }
        let sql = entries_sql(spans, Entries::OfFilesWithoutRejects);
        let mut stored = self.session.run(&sql).await?;
        if stored < spans.len() as u64 {
            stored += self.session.run(&entries_sql(spans, Entries::Any)).await?;
            // Only now: with the files locked, nobody's rejects of them are under way.
            let ours: HashSet<u64> = rejects.0.iter().copied().collect();
            if !self.rejected(spans).await?.is_subset(&ours) {
                return Ok(false);
            }
        }
        Ok(stored == spans.len() as u64)
    }

    /// Locks files until the end of the transaction.
    async fn lock(&mut self, files: impl Iterator<Item = u32>, how: &str) -> Result<(), Failure> {
        let files: Vec<u32> = files.collect();
        if files.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "SELECT file_no FROM ingest_files WHERE file_no IN ({}) ORDER BY file_no {how}",
            list(&files)
        );
        self.session.rows::<u32>(&sql).await.map(drop)
    }

    /// Settles the pending files of which a span has every record: an entry of such a span would only
    /// be folded again. Leaves the other spans. Of rows stored before, the INSERT would have told; what
    /// entries of rejects there may be is left to [`settle`](super::ledger::settle). `false` if one of
    /// the files was settled by the time that it was to be written, or has other rejects than these.
    async fn settle_whole(
        &mut self,
        spans: &mut Vec<Span>,
        rejects: &Rejects,
    ) -> Result<bool, Failure> {
        let first: Vec<u32> = spans
            .iter()
            .filter(|span| span.first_ordinal == 0)
            .map(|span| span.file_no)
            .collect();
        if first.is_empty() {
            return Ok(true);
        }
        // Read without locks: the first frame of a large file must not hold up its others.
        let sql = format!(
            "SELECT file_no, records FROM ingest_files WHERE file_no IN ({}) AND state = 'pending'",
            list(&first)
        );
        let pending: HashMap<u32, u32> = self.session.rows(&sql).await?.into_iter().collect();
        let is_whole = |span: &Span| {
            span.first_ordinal == 0 && pending.get(&span.file_no) == Some(&span.records)
        };
        let whole: Vec<u32> = spans
            .iter()
            .filter(|span| is_whole(span))
            .map(|span| span.file_no)
            .collect();
        spans.retain(|span| !is_whole(span));
        if whole.is_empty() {
            return Ok(true);
        }
        let mut counts = String::from("0");
        if !rejects.0.is_empty() {
            counts = String::from("CASE f.file_no");
            for file_no in &whole {
                write!(counts, " WHEN {file_no} THEN {}", rejects.of_file(*file_no))
                    .expect("writing to a string does not fail");
            }
            counts.push_str(" END");
        }
        let settled = self
            .session
            .run(&format!(
                "UPDATE ingest_files f SET rejects = {counts}, state = 'settled', settled_at = \
                 UTC_TIMESTAMP(6) WHERE file_no IN ({}) AND state = 'pending' AND {counts} = (SELECT \
                 COUNT(*) FROM ingest_rejects r WHERE r.file_no = f.file_no)",
                list(&whole)
            ))
            .await?;
        Ok(settled == whole.len() as u64)
    }

    /// Stores the rejects of the batches, and of the rows that were refused; those that are there
    /// stay as they are, and so do records that are rows already.
    async fn rejects(&mut self, batches: &[Batch]) -> Result<Rejects, Failure> {
        let refused = std::mem::take(&mut self.refused);
        let mut due: Vec<(u32, &Reject)> = refused
            .iter()
            .map(|row| (row.file_no, &row.reject))
            .collect();
        let with_rejects = || batches.iter().filter(|batch| !batch.rejects.is_empty());
        // Who stores one of these records as a row, under another definition of the dataset, has either
        // written the file's entry by now, and is waited for; or waits, and then sees the reject.
        let files = with_rejects().map(|batch| batch.span.file_no);
        self.lock(files, "FOR UPDATE").await?;
        for batch in with_rejects() {
            let file_no = batch.span.file_no;
            let ids: Vec<u64> = batch
                .rejects
                .iter()
                .map(|reject| row_id(file_no, reject.ordinal))
                .collect();
            let rows = self.stored(&batch.dataset.table, &ids).await?;
            let rejects = batch.rejects.iter().zip(ids);
            due.extend(
                rejects
                    .filter(|(_, id)| !rows.contains(id))
                    .map(|(r, _)| (file_no, r)),
            );
        }
        let id = |(file_no, reject): &(u32, &Reject)| row_id(*file_no, reject.ordinal);
        due.sort_unstable_by_key(id);
        // A frame may have been published twice, and be here twice.
        due.dedup_by_key(|reject| id(reject));
        let insert = Insert {
            head: "INSERT INTO ingest_rejects (file_no, ordinal, code, field, byte_offset, raw, \
                   rejected_at)"
                .to_owned(),
            group: Cow::Borrowed("(?,?,?,?,?,?,UTC_TIMESTAMP(6))"),
            types: Cow::Borrowed(&[
                Type::UNSIGNED,
                Type::UNSIGNED,
                Type::BYTES,
                Type::BYTES,
                Type::UNSIGNED,
                Type::BYTES,
            ]),
            tail: Cow::Borrowed(" ON DUPLICATE KEY UPDATE ordinal = ordinal"),
        };
        let limits = limits(&insert, self.session.server, REJECTS_PER_STATEMENT);
        let mut rest = due.as_slice();
        while !rest.is_empty() {
            let sizes = rest
                .iter()
                .map(|(_, reject)| reject.raw.len() + 6 * VALUE_BYTES + 300);
            let (now, later) = rest.split_at(fitting(sizes, limits).max(1));
            let write = |values: &mut Values<'_>| {
                for (file_no, reject) in now {
                    values.unsigned((*file_no).into());
                    values.unsigned(reject.ordinal.into());
                    values.bytes(reject.code.as_str().as_bytes());
                    match &reject.field {
                        Some(field) => values.bytes(field.as_bytes()),
                        None => values.null(),
                    }
                    values.unsigned(reject.byte_offset);
                    values.bytes(&reject.raw);
                }
            };
            self.session.insert(&insert, now.len(), write).await?;
            rest = later;
        }
        Ok(Rejects(due.iter().map(id).collect()))
    }
}

/// The ids of the rejects that a transaction is about, ascending.
struct Rejects(Vec<u64>);

impl Rejects {
    /// How many a file has of them.
    fn of_file(&self, file_no: u32) -> usize {
        let before = |file_no| self.0.partition_point(|id| *id < row_id(file_no, 0));
        before(file_no + 1) - before(file_no)
    }
}

/// The INSERT into the table of a dataset.
pub(super) fn row_insert(rows: &Rows<'_>, way: Way) -> Insert {
    let schema = rows.dataset.schema();
    let columns = schema.fields().len();
    let names = quoted(schema.fields().iter().map(|field| field.name().as_str()));
    Insert {
        head: format!("INSERT INTO `{}` ({names})", rows.dataset.table),
        group: Cow::Owned(format!("({})", vec!["?"; columns].join(","))),
        types: bind::types(&schema).into(),
        tail: Cow::Borrowed(if way == Way::Idempotent {
            SKIP_ROWS
        } else {
            ""
        }),
    }
}

/// The spans that have records, each once, in the order in which all of us lock files.
fn spans(batches: &[Batch]) -> Vec<Span> {
    let mut spans: Vec<Span> = batches
        .iter()
        .map(|batch| batch.span)
        .filter(|span| span.records > 0)
        .collect();
    spans.sort_unstable();
    spans.dedup();
    spans
}

/// Which ledger entries are written; of settled files none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entries {
    /// Those of files that have no rejects: most have none, and to find that out is one look at an index.
    OfFilesWithoutRejects,
    /// Those that are not there already.
    Any,
}

/// Writes ledger entries. The shared lock on the file's row makes a settle of it wait for this
/// transaction, and this transaction see the settle: so a late redelivery leaves no entry behind.
fn entries_sql(spans: &[Span], which: Entries) -> String {
    let mut sql = String::from(
        "INSERT INTO ingest_frames (file_no, first_ordinal, records) \
         SELECT e.file_no, e.first_ordinal, e.records FROM (",
    );
    for (at, span) in spans.iter().enumerate() {
        let Span {
            file_no,
            first_ordinal,
            records,
        } = span;
        let entry = if at == 0 {
            format!(
                "SELECT {file_no} AS file_no, {first_ordinal} AS first_ordinal, {records} AS records"
            )
        } else {
            format!(" UNION ALL SELECT {file_no}, {first_ordinal}, {records}")
        };
        sql.push_str(&entry);
    }
    sql.push_str(
        ") e STRAIGHT_JOIN ingest_files f ON f.file_no = e.file_no WHERE f.state <> 'settled'",
    );
    sql.push_str(match which {
        Entries::OfFilesWithoutRejects => {
            " AND NOT EXISTS (SELECT 1 FROM ingest_rejects r WHERE r.file_no = f.file_no) LOCK IN SHARE \
             MODE"
        }
        Entries::Any => {
            " LOCK IN SHARE MODE ON DUPLICATE KEY UPDATE records = ingest_frames.records"
        }
    });
    sql
}

fn some(range: Range<usize>) -> Option<Range<usize>> {
    (!range.is_empty()).then_some(range)
}
