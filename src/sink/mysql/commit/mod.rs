//! A commit: rows, rejects and ledger entries of some batches in one transaction.
//!
//! There are three ways to write it, and the last one always works:
//! 1. LOAD DATA LOCAL, where the server is MySQL and takes it. It has IGNORE semantics even in
//!    strict mode, so it counts only if every row was stored and the server warned of nothing.
//! 2. Plain multi-row INSERT: the fast path. A duplicate key ends it.
//! 3. The idempotent form: rows that are there already are skipped, and nothing else is. It also
//!    finds the rows that another unique key of the user's own table keeps out.
//!
//! In 2 and 3 a statement that the database refuses for its values is halved until the row is found,
//! which becomes a reject under its own id. Whatever else goes wrong, the transaction is rolled
//! back, and the caller calls again.
//!
//! Batches of files that this ledger does not have are met by the last way only, which all of them
//! lead to: no entry can be written for them. They are left out, and the others are written anew. A
//! node of a Galera cluster may only lag behind the one where they were registered, so it catches up
//! first.

use std::borrow::Cow;

use crate::batch::{Batch, SourceFile};
use crate::fault::Fault;
use crate::sink::Committed;
use crate::sink::cells::{RefusedRow, Rows, by_dataset};

use super::errors::{Class, Failure};
use super::session::{Pool, Session};

pub(super) use rows::row_insert;

mod ledger;
mod rows;

/// How a transaction is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    LoadData,
    Plain,
    Idempotent,
}

/// Why a transaction did not get to its COMMIT. It is still open, and must be rolled back.
enum Unfinished {
    /// Its way is not enough: what is stored already has to be held against what is to be stored.
    /// Never of the idempotent way.
    NeedsIdempotent,
    /// Some of the batches are of files that this ledger does not have: the ones of these files.
    /// Of the idempotent way only.
    Foreign(Vec<SourceFile>),
    /// A statement failed.
    Failed(Failure),
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
    let mut lease = pool
        .session()
        .await
        .map_err(|failure| failure.into_fault(DOING))?;
    let session = &mut lease.session;
    let outcome = one_way_or_another(session, batches, rows_per_statement).await;
    lease.finish(DOING, outcome).await
}

/// Tries the fastest way that the server takes, and the next one where it is not enough.
async fn one_way_or_another(
    session: &mut Session,
    batches: &[Batch],
    rows_per_statement: usize,
) -> Result<Committed, Failure> {
    let mut batches = Cow::Borrowed(batches);
    let (mut foreign, mut caught_up) = (Vec::new(), false);
    let mut way = if session.server.load_data {
        Way::LoadData
    } else {
        Way::Plain
    };
    loop {
        let transaction = Transaction {
            session: &mut *session,
            rows_per_statement,
            way,
            committed: Committed::default(),
            refused: Vec::new(),
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
                let is_foreign = |batch: &Batch| files.contains(&batch.file());
                foreign = batches
                    .iter()
                    .filter(|batch| is_foreign(batch))
                    .map(Batch::file)
                    .collect();
                batches.to_mut().retain(|batch| !is_foreign(batch));
            }
            Err(unfinished) => way = unfinished.next_way(way)?,
        }
        if way == Way::Plain {
            // LOAD DATA LOCAL was switched off while we were connected: this session asks no more.
            session.server.load_data = false;
        }
        session.rollback().await?;
    }
}

impl Transaction<'_> {
    /// Runs it to its end.
    async fn run(
        mut self,
        groups: &[Rows<'_>],
        batches: &[Batch],
    ) -> Result<Committed, Unfinished> {
        self.session.begin().await?;
        let mut entries = ledger::entries_of(batches);
        if self.way == Way::Idempotent {
            // What is read here of rows and rejects holds until the end, also against a replay.
            let files = entries.iter().map(|(span, _)| span.file_no);
            let known = self.lock(files, "LOCK IN SHARE MODE").await?;
            let is_foreign = |file: &SourceFile| !known.contains(file);
            let foreign: Vec<SourceFile> = ledger::files_of(&entries).filter(is_foreign).collect();
            if !foreign.is_empty() {
                return Err(Unfinished::Foreign(foreign));
            }
        }
        for rows in groups {
            self.rows(rows, batches).await?;
        }
        let rejects = self.rejects(batches).await?;
        if self.way != Way::Idempotent {
            // What is told of here for the first time may be all of a file. Otherwise settle sees
            // to it.
            self.settle_whole(&mut entries, &rejects).await?;
        }
        if !entries.is_empty() {
            self.entries(&entries, &rejects).await?;
        }
        self.session.commit().await?;
        Ok(self.committed)
    }
}

impl Unfinished {
    /// The way to try after `way`; the failure where no other way would help.
    fn next_way(self, way: Way) -> Result<Way, Failure> {
        match self {
            Self::NeedsIdempotent => {
                assert!(
                    way != Way::Idempotent,
                    "the idempotent form has nothing to fall back to"
                );
                Ok(Way::Idempotent)
            }
            Self::Foreign(_) => Ok(way),
            Self::Failed(failure) => match (failure.class(), way) {
                (Class::Duplicate, Way::LoadData | Way::Plain) => Ok(Way::Idempotent),
                (Class::LocalRefused, Way::LoadData) => Ok(Way::Plain),
                _ => Err(failure),
            },
        }
    }
}

impl From<Failure> for Unfinished {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}
