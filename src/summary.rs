//! The daily summary: the last record of each key on each UTC day, kept in the database.
//!
//! Incremental, and independent of the order of arrival: a candidate with a later time, or the same
//! time and a larger id, replaces what is there, and nothing else does. Merging twice changes
//! nothing. So workers may reduce the rows that pass through their hands ([`Accumulator`]), and a
//! refresh reads only those settled files from the table whose rows passed elsewhere, or before a
//! restart. It never reads the whole table: LIMITS shows what that costs.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMicrosecondType, UInt64Type};
use hashbrown::{DefaultHashBuilder, HashTable};
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, row_id};
use crate::coverage;
use crate::dataset::{Dataset, Datasets, Summary};
use crate::fault::Fault;
use crate::retry::{GivenUp, until_ok};
use crate::sink::{LastEvent, Sink};
use crate::telemetry;

/// Most (key, day) pairs kept in memory, some 30 MB of them. More would merge less often into the
/// database, at the cost of the memory that is promised to others.
const PAIRS_MAX: usize = 200_000;

/// Most files whose coverage is kept in memory between two refreshes; further ones are read.
const FILES_MAX: usize = 100_000;

/// Candidates merged in one transaction.
const MERGE_PAIRS: usize = 10_000;

/// Rows read at a time from the table, about 5 MB.
const SCAN_ROWS: usize = 50_000;

/// Settled files looked at in one round.
const ROUND_FILES: usize = 1_000;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What a refresh did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Files that the summary contains now and did not before.
    pub files: u64,
    /// Rows that had to be read from the table.
    pub rows_read: u64,
    /// Candidates merged.
    pub pairs: u64,
}

/// The last event of each key and day seen so far. One table of both, since each row of a load is
/// looked up here, and each level of maps costs a miss of the processor's cache or two.
#[derive(Debug, Default)]
struct Reduced {
    pairs: HashTable<Last>,
    hasher: DefaultHashBuilder,
}

/// The last event of a key on a day.
#[derive(Debug)]
struct Last {
    /// The key, and behind it the value: they are looked at together, and so lie together.
    text: String,
    key_bytes: usize,
    time_us: i64,
    id: u64,
}

/// The UTC day of a moment, from the epoch.
fn day_of(time_us: i64) -> i64 {
    time_us.div_euclid(MICROS_PER_DAY)
}

impl Last {
    fn key(&self) -> &str {
        &self.text[..self.key_bytes]
    }

    fn value(&self) -> &str {
        &self.text[self.key_bytes..]
    }

    fn day(&self) -> i64 {
        day_of(self.time_us)
    }
}

impl Reduced {
    fn add(&mut self, key: &str, time_us: i64, id: u64, value: &str) {
        let Self { pairs, hasher } = self;
        let day = day_of(time_us);
        let hash = hasher.hash_one((key, day));
        match pairs.find_mut(hash, |last| last.day() == day && last.key() == key) {
            None => {
                let mut text = String::with_capacity(key.len() + value.len());
                text.push_str(key);
                text.push_str(value);
                let last = Last {
                    text,
                    key_bytes: key.len(),
                    time_us,
                    id,
                };
                pairs.insert_unique(hash, last, |last| hasher.hash_one((last.key(), last.day())));
            }
            Some(last) if (time_us, id) > (last.time_us, last.id) => {
                (last.time_us, last.id) = (time_us, id);
                if last.value() != value {
                    last.text.truncate(last.key_bytes);
                    last.text.push_str(value);
                }
            }
            Some(_) => {}
        }
    }

    fn add_rows(&mut self, batch: &Batch, summary: &Summary) {
        let column = |name: &str| {
            batch
                .rows
                .column_by_name(name)
                .expect("a batch has the columns of its dataset")
        };
        let ids = batch.rows.column(0).as_primitive::<UInt64Type>();
        let keys = column(&summary.key).as_string::<i32>();
        let times = column(&summary.time).as_primitive::<TimestampMicrosecondType>();
        let values = column(&summary.value).as_string::<i32>();
        for row in 0..batch.rows.num_rows() {
            self.add(
                keys.value(row),
                times.value(row),
                ids.value(row),
                values.value(row),
            );
        }
    }

    /// The candidates in the order of the table's key: an upsert in key order touches each page once.
    fn into_sorted(self) -> Vec<LastEvent> {
        let candidates = self.pairs.into_iter().map(|mut last| LastEvent {
            value: last.text.split_off(last.key_bytes),
            key: last.text,
            time_us: last.time_us,
            id: last.id,
        });
        let mut all: Vec<LastEvent> = candidates.collect();
        all.sort_unstable_by(|a, b| (&a.key, a.time_us).cmp(&(&b.key, b.time_us)));
        all
    }
}

/// Reduces the rows that workers of this process commit, so that a refresh need not read them.
///
/// It is told of rows only after their commit. What it holds is lost in a crash, and then read.
#[derive(Debug, Default)]
pub struct Accumulator {
    seen: Mutex<HashMap<String, Seen>>,
    /// Held while candidates that were taken out are on their way into the database. A refresh that
    /// believed the coverage meanwhile could mark files whose candidates are lost in a crash.
    merging: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Seen {
    reduced: Reduced,
    coverage: HashMap<u32, Vec<Range<u64>>>,
}

impl Accumulator {
    /// Takes in committed batches.
    pub fn add(&self, batches: &[Batch]) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for batch in batches {
            let Some(summary) = &batch.dataset.summary else {
                continue;
            };
            if !all.contains_key(&batch.dataset.name) {
                all.insert(batch.dataset.name.clone(), Seen::default());
            }
            let seen = all.get_mut(&batch.dataset.name).expect("inserted above");
            seen.reduced.add_rows(batch, summary);
            let room = seen.coverage.len() < FILES_MAX;
            if room || seen.coverage.contains_key(&batch.span.file_no) {
                let covered = seen.coverage.entry(batch.span.file_no).or_default();
                coverage::insert(covered, batch.span.ordinals());
            }
        }
    }

    /// Merges early what would become too much for memory.
    ///
    /// # Errors
    /// As [`until_ok`].
    pub async fn relieve(
        &self,
        sink: &dyn Sink,
        dataset: &Arc<Dataset>,
        stop: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let is_full = || {
            let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            all.get(&dataset.name)
                .is_some_and(|seen| seen.reduced.pairs.len() > PAIRS_MAX)
        };
        if !is_full() {
            return Ok(());
        }
        let _merging = self.merging.lock().await;
        // Another worker may have done it while this one waited.
        if is_full() {
            let reduced = self.take(&dataset.name);
            merge(sink, dataset, reduced, &[], stop).await?;
        }
        Ok(())
    }

    /// Takes the candidates out.
    fn take(&self, dataset: &str) -> Reduced {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.get_mut(dataset);
        seen.map(|seen| std::mem::take(&mut seen.reduced))
            .unwrap_or_default()
    }

    /// Takes the candidates out; and tells of each file, by its number of records, whether all of its
    /// rows have passed here.
    fn take_with(&self, dataset: &str, files: &[(u32, u64)]) -> (Reduced, Vec<bool>) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = all.get_mut(dataset) else {
            return (Reduced::default(), vec![false; files.len()]);
        };
        let passed = |&(file_no, records): &(u32, u64)| {
            let covered = seen.coverage.get(&file_no);
            covered.is_some_and(|covered| coverage::is_whole(covered, records))
        };
        let passed = files.iter().map(passed).collect();
        (std::mem::take(&mut seen.reduced), passed)
    }

    fn forget(&self, dataset: &str, file_nos: &[u32]) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = all.get_mut(dataset) {
            for file_no in file_nos {
                seen.coverage.remove(file_no);
            }
        }
    }
}

/// Brings the summaries of all datasets up to date with the settled files.
///
/// # Errors
/// As [`until_ok`]; what was merged stays, and the rest is done by the next refresh.
pub async fn refresh(
    sink: &dyn Sink,
    datasets: &Datasets,
    accumulator: &Accumulator,
    stop: &CancellationToken,
) -> Result<Refreshed, GivenUp> {
    let began = Instant::now();
    let mut done = Refreshed::default();
    for dataset in datasets.iter().filter(|dataset| dataset.summary.is_some()) {
        let _merging = accumulator.merging.lock().await;
        while round(sink, dataset, accumulator, &mut done, stop).await? {}
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    telemetry::summary_refreshed(began.elapsed(), now);
    Ok(done)
}

/// Empties the summaries and makes them again from the tables.
///
/// # Errors
/// As [`until_ok`].
pub async fn rebuild(
    sink: &dyn Sink,
    datasets: &Datasets,
    stop: &CancellationToken,
) -> Result<Refreshed, GivenUp> {
    for dataset in datasets.iter().filter(|dataset| dataset.summary.is_some()) {
        until_ok("emptying the summary", stop, ignore, || {
            sink.summary_reset(dataset)
        })
        .await?;
    }
    refresh(sink, datasets, &Accumulator::default(), stop).await
}

/// Brings some of the pending files in; returns whether there may be more.
async fn round(
    sink: &dyn Sink,
    dataset: &Arc<Dataset>,
    accumulator: &Accumulator,
    done: &mut Refreshed,
    stop: &CancellationToken,
) -> Result<bool, GivenUp> {
    let pending = || sink.summary_pending(dataset, ROUND_FILES);
    let files = until_ok("reading the ledger", stop, ignore, pending).await?;
    if files.is_empty() {
        return Ok(false);
    }
    let whole = || sink.coverage(&files);
    let whole = until_ok("reading the ledger", stop, ignore, whole).await?;
    let sizes: Vec<(u32, u64)> = files
        .iter()
        .zip(&whole)
        .map(|(file_no, whole)| (*file_no, coverage::len(whole)))
        .collect();
    let (mut reduced, passed) = accumulator.take_with(&dataset.name, &sizes);
    for ((file_no, records), passed) in sizes.into_iter().zip(passed) {
        if !passed {
            done.rows_read +=
                read(sink, dataset, file_no, records, &mut reduced, done, stop).await?;
        }
    }
    done.files += files.len() as u64;
    done.pairs += reduced.pairs.len() as u64;
    merge(sink, dataset, reduced, &files, stop).await?;
    accumulator.forget(&dataset.name, &files);
    Ok(files.len() == ROUND_FILES)
}

/// Reads the rows of a file; returns how many there were.
async fn read(
    sink: &dyn Sink,
    dataset: &Arc<Dataset>,
    file_no: u32,
    records: u64,
    reduced: &mut Reduced,
    done: &mut Refreshed,
    stop: &CancellationToken,
) -> Result<u64, GivenUp> {
    let mut ids = row_id(file_no, 0)..row_id(file_no, 0) + records;
    let mut rows = 0;
    while !ids.is_empty() {
        let page = || sink.summary_scan(dataset, ids.clone(), SCAN_ROWS);
        let page = until_ok("reading rows for the summary", stop, ignore, page).await?;
        let Some(last) = page.last() else { break };
        ids.start = last.id + 1;
        rows += page.len() as u64;
        for event in &page {
            reduced.add(&event.key, event.time_us, event.id, &event.value);
        }
        if reduced.pairs.len() > PAIRS_MAX {
            done.pairs += reduced.pairs.len() as u64;
            merge(sink, dataset, std::mem::take(reduced), &[], stop).await?;
        }
    }
    Ok(rows)
}

/// Merges candidates, in bounded transactions; the files are marked with the last one.
async fn merge(
    sink: &dyn Sink,
    dataset: &Arc<Dataset>,
    reduced: Reduced,
    file_nos: &[u32],
    stop: &CancellationToken,
) -> Result<(), GivenUp> {
    let candidates = reduced.into_sorted();
    let mut parts = candidates.chunks(MERGE_PAIRS).peekable();
    if parts.peek().is_none() && !file_nos.is_empty() {
        let none = || sink.summary_merge(dataset, &[], file_nos);
        return until_ok("merging into the summary", stop, ignore, none).await;
    }
    while let Some(part) = parts.next() {
        let files = if parts.peek().is_none() {
            file_nos
        } else {
            &[]
        };
        let merge = || sink.summary_merge(dataset, part, files);
        until_ok("merging into the summary", stop, ignore, merge).await?;
    }
    Ok(())
}

fn ignore(_: &Fault) {}
