//! A commit: rows, rejects and ledger entries of some batches in one transaction.
//!
//! A commit tries up to three strategies. The last one always works:
//! 1. LOAD DATA LOCAL, on MySQL servers that allow it. It behaves like IGNORE even in strict mode,
//!    so its rows count as stored only if all of them were stored and the server gave no warning.
//! 2. Plain multi-row INSERT: the fast path. It fails on a duplicate key, and on a refused row.
//! 3. The idempotent form: it searches the table for the rows, and sends the same INSERT with those
//!    that the table lacks. No trigger runs for a row that is already stored.
//!
//! A row of the table counts as that of a record if the ledger covers the record, or if it equals
//! the record in every column. Any other row belongs to another program, and the record becomes a
//! reject.
//!
//! In 3, a statement whose values or keys the database refuses is halved until the row is found,
//! which becomes a reject with the same id if the table still lacks it. If the table refuses rows
//! whatever they hold, the batches are committed in halves. A batch that is refused alone is left
//! out, and its file waits. After any other error, the transaction is rolled back, and the caller
//! calls again.
//!
//! Of records with the same key of their dataset, one is the row. A commit without a conflict takes
//! the fast path, since the table has a unique key. The idempotent form reads the rows that have the
//! keys, locks them, and decides (`keyed`).
//!
//! Only the idempotent form finds batches of files that this ledger does not have. The other
//! strategies fail and fall back to it, since no ledger entry can be written for such a batch.
//! These batches are left out, and the other batches are committed. In a Galera cluster, another
//! node may have registered the files, so this node first applies the commits of the other nodes.

use std::borrow::Cow;
use std::collections::BTreeSet;

use crate::batch::Batch;
use crate::sink::Committed;
use crate::sink::cells::{Rows, by_dataset};

use super::errors::{Class, Failure, TableFault};
use super::retired;
use super::session::Session;

pub(super) use compare::{Found, compare, differing};
pub(super) use rows::row_insert;
use transaction::{LoadedFile, Strategy, Transaction, Unfinished};

mod compare;
mod entries;
mod keyed;
mod rows;
mod transaction;
mod waits;

/// Commits batches, and leaves out those that a table refuses now; see
/// [`Sink::commit`](crate::sink::Sink::commit).
pub(super) async fn commit(
    session: &mut Session,
    batches: &[Batch],
    rows_per_statement: usize,
) -> Result<Committed, Failure> {
    let failure = match commit_all(session, batches, rows_per_statement).await {
        Err(failure) => failure,
        committed => return committed,
    };
    let Class::Table(fault) = failure.class() else {
        return Err(failure);
    };
    session.rollback().await?;
    if fault == TableFault::Full && waits::is_disk_full(session, batches).await? {
        return Err(failure);
    }
    if let [batch] = batches {
        return waits::leave_out(session, batch, fault, &failure).await;
    }
    // Halves, until each batch that is refused is alone: the table may take the others.
    let (first, second) = batches.split_at(batches.len() / 2);
    let mut committed = Box::pin(commit(session, first, rows_per_statement)).await?;
    committed.add(Box::pin(commit(session, second, rows_per_statement)).await?);
    Ok(committed)
}

/// Commits batches with the fastest strategy that the server supports, and falls back to the next
/// one if it fails.
async fn commit_all(
    session: &mut Session,
    batches: &[Batch],
    rows_per_statement: usize,
) -> Result<Committed, Failure> {
    let tables: BTreeSet<&str> = batches.iter().map(|it| it.dataset.table.as_str()).collect();
    let never_taken = retired::never_taken(tables.into_iter());
    let mut batches = Cow::Borrowed(batches);
    let (mut foreign, mut caught_up) = (Vec::new(), false);
    let mut strategy = if session.server.load_data {
        Strategy::LoadData
    } else {
        Strategy::Plain
    };
    loop {
        let transaction = Transaction {
            session: &mut *session,
            rows_per_statement,
            strategy,
            never_taken: &never_taken,
            committed: Committed::default(),
        };
        match transaction.run(&by_dataset(&batches), &batches).await {
            Ok(committed) => {
                return Ok(Committed {
                    foreign,
                    ..committed
                });
            }
            Err(Unfinished::Foreign(_)) if !caught_up => {
                session.rollback().await?;
                session.catch_up().await;
                caught_up = true;
                continue;
            }
            Err(Unfinished::Foreign(files)) => {
                let is_foreign =
                    |batch: &Batch| files.contains(&(batch.file(), batch.dataset.fingerprint));
                foreign = batches
                    .iter()
                    .filter(|batch| is_foreign(batch))
                    .map(Batch::file)
                    .collect();
                batches.to_mut().retain(|batch| !is_foreign(batch));
            }
            Err(unfinished) => strategy = unfinished.fall_back(strategy)?,
        }
        if strategy == Strategy::Plain {
            // LOAD DATA LOCAL was switched off while this session was connected.
            session.server.load_data = false;
        }
        session.rollback().await?;
    }
}

impl Transaction<'_> {
    /// Writes everything and commits.
    async fn run(
        mut self,
        groups: &[Rows<'_>],
        batches: &[Batch],
    ) -> Result<Committed, Unfinished> {
        self.session.begin().await?;
        let mut entries = entries::entries_of(batches);
        if self.strategy == Strategy::Idempotent {
            // From here on, no other transaction, such as a replay, changes rows or rejects of
            // these files.
            let files = entries.iter().map(|(span, ..)| span.file_no);
            let known = self.lock(files, "LOCK IN SHARE MODE").await?;
            let is_foreign = |file: &LoadedFile| !known.contains(file);
            let foreign: Vec<LoadedFile> = entries
                .iter()
                .map(entries::file_of)
                .filter(is_foreign)
                .collect();
            if !foreign.is_empty() {
                return Err(Unfinished::Foreign(foreign));
            }
        }
        let mut refusals = Vec::with_capacity(groups.len());
        for rows in groups {
            refusals.push(self.rows(rows, batches).await?);
        }
        let refused = self.confirmed(groups, refusals).await?;
        let rejects = self.rejects(&refused, batches).await?;
        if self.strategy != Strategy::Idempotent {
            // Fast path: if this commit has every record of a pending file, settles the file
            // without an entry that settle would remove later.
            self.settle_whole(&mut entries, &rejects).await?;
        }
        if !entries.is_empty() {
            self.entries(&entries, &rejects).await?;
        }
        self.session.commit().await?;
        Ok(self.committed)
    }
}
