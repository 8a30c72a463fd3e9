//! Records with the same key of their dataset: which of them is the row, and what becomes of the
//! others.
//!
//! The rows of the table that have the keys are locked until the end of the transaction, so two
//! transactions decide about a key one after the other. If both find no row, one of them waits in its
//! INSERT, then fails with a duplicate key, and decides again. Keys are locked in ascending order;
//! transactions that lock each other all the same are repeated, as after any deadlock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;

use mysql_async::Value;

use crate::batch::{Batch, RejectCode, provenance, row_id};
use crate::dataset::OnConflict;
use crate::sink::cells::{RECORD_TOO_LARGE, Rows};
use crate::sink::conflict::{
    Key, Rank, StoredRow, is_key, key, owners, select_keys, superseded_sql, taken,
};
use crate::sink::mysql::bind::{self, Limits, fitting};
use crate::sink::mysql::errors::{Class, Failure};
use crate::sink::mysql::files::{identity, list};
use crate::sink::mysql::retired;
use crate::sink::mysql::session::{Insert, Session};
use crate::sink::table::quoted;

use super::transaction::{Refusal, Transaction};
use super::waits::of_rows;

/// Keys that one query reads and locks. Each has up to 16 parameters.
const KEYS_PER_QUERY: usize = 128;

/// Most entries of a statement for superseded records: 30 KiB of text.
const ENTRIES_PER_STATEMENT: usize = 500;

/// What is decided about the keys of a dataset in one commit.
pub(super) struct Keyed<'a> {
    /// The INSERT of the rows.
    insert: &'a Insert,
    limits: Limits,
    /// Rows of the commit that another one beats: the index, and the id of the other one.
    beaten: Vec<(usize, u64)>,
    /// Rows of the table that were replaced: the id, and that of the row in its place.
    replaced: Vec<(u64, u64)>,
}

impl<'a> Keyed<'a> {
    pub(super) fn new(insert: &'a Insert, limits: Limits) -> Self {
        Self {
            insert,
            limits,
            beaten: Vec::new(),
            replaced: Vec::new(),
        }
    }

    /// Takes the rows that were beaten by a row that has become a reject, as ranges.
    pub(super) fn without_winner(
        &mut self,
        rows: &Rows<'_>,
        refusals: &[Refusal],
    ) -> Vec<Range<usize>> {
        if self.beaten.is_empty() {
            return Vec::new();
        }
        let refused: HashSet<u64> = refusals
            .iter()
            .map(|refusal| rows.row(refusal.at).id())
            .collect();
        let is_void = |beaten: &mut (usize, u64)| refused.contains(&beaten.1);
        let void = self.beaten.extract_if(.., is_void);
        ranges(void.map(|(at, _)| at).collect())
    }
}

impl Transaction<'_> {
    /// Decides about the rows in these ranges that share their key with another one or with a row of
    /// the table. Returns those that are to be stored, the last range first. All of them if the
    /// dataset has no key.
    pub(super) async fn decide(
        &mut self,
        rows: &Rows<'_>,
        due: Vec<Range<usize>>,
        keyed: &mut Keyed<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> Result<Vec<Range<usize>>, Failure> {
        let dataset = rows.dataset;
        if dataset.conflict().is_none() || due.is_empty() {
            return Ok(due);
        }
        let mut by_key: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        for at in due.into_iter().rev().flatten() {
            let places = by_key.entry(key(dataset, rows.row(at))).or_default();
            places.push(at);
        }
        let stored = self.rows_of_keys(rows, &by_key).await?;
        let refused: HashSet<u64> = refusals
            .iter()
            .map(|refusal| rows.row(refusal.at).id())
            .collect();
        let rank = |at: usize| Rank::of_row(dataset, rows.row(at), rows.hash(at));
        let (mut to_insert, mut to_replace) = (Vec::new(), Vec::new());
        for (key, mut places) in by_key {
            let stored = stored.get(&key);
            let id = |at: usize| rows.row(at).id();
            let own = stored.and_then(|stored| places.iter().position(|at| id(*at) == stored.id));
            let own = own.map(|own| places.remove(own));
            let best = places.iter().copied().reduce(|best, at| {
                if rank(at).wins(dataset, &rank(best)) {
                    at
                } else {
                    best
                }
            });
            let mut winner = best.map_or(0, id);
            if let Some(stored) = stored {
                // The row with the id of a refused record is that of another program.
                let theirs =
                    Rank::of_stored(dataset, stored).filter(|_| !refused.contains(&stored.id));
                let (Some(best), Some(theirs)) = (best, theirs) else {
                    // The row of another program stays. A record whose row was stored meanwhile is
                    // found by its id.
                    let message = taken(stored.id);
                    let refused = places
                        .into_iter()
                        .map(|at| Refusal::new(at, RejectCode::KeyTaken, Some(&message)));
                    refusals.extend(refused);
                    to_insert.extend(own);
                    continue;
                };
                if rank(best).wins(dataset, &theirs) {
                    to_replace.push((best, stored.id));
                    self.committed.duplicates += u64::from(own.is_some());
                } else {
                    winner = stored.id;
                    keyed.beaten.push((best, winner));
                    to_insert.extend(own);
                }
            } else {
                to_insert.extend(best);
            }
            let others = places.into_iter().filter(|at| Some(*at) != best);
            keyed.beaten.extend(others.map(|at| (at, winner)));
        }
        self.replace(rows, to_replace, keyed, refusals).await?;
        Ok(ranges(to_insert))
    }

    /// The rows of the table that have these keys, locked.
    async fn rows_of_keys(
        &mut self,
        rows: &Rows<'_>,
        by_key: &BTreeMap<Key, Vec<usize>>,
    ) -> Result<HashMap<Key, StoredRow>, Failure> {
        let dataset = rows.dataset;
        let columns: Vec<usize> = dataset.key_columns().collect();
        let firsts: Vec<usize> = by_key.values().map(|places| places[0]).collect();
        let (select, one) = (select_keys(dataset, "CHAR"), is_key(dataset));
        let order = quoted(dataset.key.iter().map(String::as_str));
        let mut found = HashMap::new();
        for firsts in firsts.chunks(KEYS_PER_QUERY) {
            let conditions = vec![format!("({one})"); firsts.len()].join(" OR ");
            let sql = format!("{select} WHERE {conditions} ORDER BY {order} FOR UPDATE");
            let values: Vec<Value> = firsts
                .iter()
                .flat_map(|at| columns.iter().map(|column| (*at, *column)))
                .map(|(at, column)| bind::value(rows.row(at).cell(column + 1)))
                .collect();
            let stored = self
                .session
                .rows_with::<mysql_async::Row>(&sql, values)
                .await?;
            for row in stored {
                let text = |at: usize| row.get::<Option<String>, _>(at).flatten();
                let id = row.get(0).expect("the first column is the id");
                let key = (0..columns.len()).map(|at| text(at + 2).unwrap_or_default());
                let stored = StoredRow {
                    id,
                    by: text(1),
                    hash: None,
                };
                found.insert(key.collect::<Key>(), stored);
            }
        }
        let ids: Vec<u64> = found.values().map(|stored| stored.id).collect();
        let mut hashes = HashMap::new();
        for ids in ids.chunks(KEYS_PER_QUERY) {
            let found = self
                .session
                .rows::<(u64, Vec<u8>)>(&owners(ids, |id| rows.has(id, rows.len())))
                .await?;
            hashes.extend(found.into_iter().map(|(id, hash)| (id, identity(hash))));
        }
        for stored in found.values_mut() {
            stored.hash = hashes.get(&stored.id).copied();
        }
        Ok(found)
    }

    /// Stores rows in the place of rows of the table. If the database refuses a row, the row of the
    /// table stays.
    async fn replace(
        &mut self,
        rows: &Rows<'_>,
        pairs: Vec<(usize, u64)>,
        keyed: &mut Keyed<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> Result<(), Failure> {
        let mut pieces: Vec<&[(usize, u64)]> = Vec::from([pairs.as_slice()]);
        while let Some(piece) = pieces.pop() {
            let Some((at, _)) = piece.first() else {
                continue;
            };
            if bind::first(rows, *at..at + 1, keyed.limits).is_none() {
                let code = RejectCode::RefusedByDatabase;
                refusals.push(Refusal::new(*at, code, Some(&RECORD_TOO_LARGE)));
                pieces.push(&piece[1..]);
                continue;
            }
            let sizes = piece.iter().map(|(at, _)| {
                let texts = rows.text_bytes(*at..at + 1);
                keyed.insert.columns * bind::VALUE_BYTES + texts
            });
            let (now, later) = piece.split_at(fitting(sizes, keyed.limits));
            pieces.push(later);
            let olds: Vec<u64> = now.iter().map(|(_, old)| *old).collect();
            self.session.run("SAVEPOINT replaced").await?;
            let table = &rows.dataset.table;
            let delete = format!("DELETE FROM `{table}` WHERE `id` IN ({})", list(&olds));
            let values = now.iter().map(|(at, _)| bind::values(rows.row(*at)));
            // The table may refuse the removal as well: a trigger, or rows that refer to the row.
            let deleted = self.session.run(&delete).await;
            let stored = match deleted {
                Ok(_) => self.session.insert(keyed.insert, now.len(), values).await,
                Err(failure) => Err(failure),
            };
            match stored {
                Ok(stored) => {
                    self.committed.rows += stored;
                    let pairs: Vec<(u64, u64)> = now
                        .iter()
                        .map(|(at, old)| (*old, rows.row(*at).id()))
                        .collect();
                    self.follow(&pairs).await?;
                    keyed.replaced.extend(pairs);
                }
                Err(failure) => {
                    let code = match failure.class() {
                        Class::Data => RejectCode::RefusedByDatabase,
                        Class::Duplicate => RejectCode::DuplicateKeyInTable,
                        _ => return Err(of_rows(self.session, rows, failure).await),
                    };
                    self.session.run("ROLLBACK TO SAVEPOINT replaced").await?;
                    if let [(at, _)] = now {
                        refusals.push(Refusal::new(*at, code, Some(&failure)));
                    } else {
                        let (first, second) = now.split_at(now.len() / 2);
                        pieces.extend([second, first]);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes records that earlier commits superseded point to the row that has their key now.
    async fn follow(&mut self, replaced: &[(u64, u64)]) -> Result<(), Failure> {
        let mut sql = String::from("UPDATE ingest_superseded SET winner = CASE winner");
        for (old, new) in replaced {
            write!(sql, " WHEN {old} THEN {new}").expect("writing to a string does not fail");
        }
        let olds: Vec<u64> = replaced.iter().map(|(old, _)| *old).collect();
        write!(sql, " END WHERE winner IN ({})", list(&olds))
            .expect("writing to a string does not fail");
        self.session.run(&sql).await.map(drop)
    }

    /// Ends the decisions about a dataset: the beaten rows are superseded, or refused.
    pub(super) async fn supersede(
        &mut self,
        rows: &Rows<'_>,
        keyed: Keyed<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> Result<(), Failure> {
        let beaten = keyed
            .beaten
            .iter()
            .map(|(at, winner)| (rows.row(*at).id(), *winner));
        let lost: BTreeMap<u64, u64> = beaten.chain(keyed.replaced.iter().copied()).collect();
        // A row that has beaten another one may be beaten itself, by a row of another transaction.
        let row_of = |mut winner: u64| {
            while let Some(next) = lost.get(&winner) {
                winner = *next;
            }
            winner
        };
        if rows.dataset.conflict() == Some(OnConflict::Reject) {
            let refused = keyed.beaten.iter().map(|(at, winner)| {
                Refusal::new(*at, RejectCode::KeyTaken, Some(&taken(row_of(*winner))))
            });
            refusals.extend(refused);
            return Ok(());
        }
        let all: Vec<(u64, u64)> = lost
            .iter()
            .map(|(id, winner)| (*id, row_of(*winner)))
            .collect();
        for some in all.chunks(ENTRIES_PER_STATEMENT) {
            let entries: Vec<String> = some
                .iter()
                .map(|(id, winner)| {
                    let (file_no, ordinal) = provenance(*id);
                    format!("({file_no},{ordinal},{winner},UTC_TIMESTAMP(6))")
                })
                .collect();
            let sql = format!(
                "INSERT INTO ingest_superseded (file_no, ordinal, winner, superseded_at) VALUES {} ON \
                 DUPLICATE KEY UPDATE winner = VALUES(winner)",
                entries.join(",")
            );
            self.session.run(&sql).await?;
        }
        self.committed.superseded += keyed.beaten.len() as u64;
        self.committed.replaced += keyed.replaced.len() as u64;
        Ok(())
    }

    /// The ids of the records of these batches that are superseded by a row of the table. Removes
    /// the entries of those whose row is gone: they are decided about again.
    pub(super) async fn superseded(
        &mut self,
        rows: &Rows<'_>,
        batches: &[Batch],
    ) -> Result<Vec<u64>, Failure> {
        let dataset = rows.dataset;
        let (mut superseded, mut all_void) = (Vec::new(), Vec::new());
        for batch in batches
            .iter()
            .filter(|batch| batch.dataset.name == dataset.name)
        {
            let file_no = batch.span.file_no;
            let sql = superseded_sql(&dataset.table, batch.span);
            let found = self.session.rows::<(u32, bool, u64)>(&sql).await?;
            let (valid, void): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, is, _)| *is);
            superseded.extend(valid.iter().map(|(ordinal, ..)| row_id(file_no, *ordinal)));
            let void: Vec<u32> = void.into_iter().map(|(ordinal, ..)| ordinal).collect();
            all_void.push((file_no, void));
        }
        // Entries of rows that are on their way out of the table are counted with them.
        let is_taken = async |session: &mut Session| {
            let bound = retired::bound(session, &dataset.table).await?;
            Ok::<_, Failure>(bound.is_some_and(|bound| bound.taken.is_some()))
        };
        if all_void.iter().all(|(_, void)| void.is_empty()) || is_taken(self.session).await? {
            return Ok(superseded);
        }
        for (file_no, void) in all_void {
            for void in void.chunks(ENTRIES_PER_STATEMENT) {
                let sql = format!(
                    "DELETE FROM ingest_superseded WHERE file_no = {file_no} AND ordinal IN ({})",
                    list(void)
                );
                self.session.run(&sql).await?;
            }
        }
        Ok(superseded)
    }
}

/// These indexes as ranges, the last range first.
fn ranges(mut places: Vec<usize>) -> Vec<Range<usize>> {
    places.sort_unstable();
    let runs = places.chunk_by(|a, b| a + 1 == *b);
    let mut ranges: Vec<Range<usize>> = runs.map(|run| run[0]..run[run.len() - 1] + 1).collect();
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_become_ranges_with_the_last_first() {
        assert_eq!(ranges(vec![3, 0, 1, 7]), [7..8, 3..4, 0..2]);
        assert!(ranges(Vec::new()).is_empty());
    }
}
