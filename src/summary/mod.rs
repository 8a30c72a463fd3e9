//! The daily summary: the last record of each key on each day, stored in the database.
//!
//! Incremental, and independent of the order of arrival: a candidate replaces the stored record
//! only if its time is later, or if its time is equal and its id larger. Merging a candidate twice
//! changes nothing. So workers reduce the rows that they commit ([`Accumulator`]), and a refresh
//! reads from the table only settled files whose rows were committed by another process or before a
//! restart. It never reads the whole table, whose size has no bound.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};
use indexmap::IndexSet;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, SummaryColumns, row_id};
use crate::coverage;
use crate::dataset::{Dataset, Datasets};
use crate::fault::Fault;
use crate::retry::{GivenUp, until_ok};
use crate::sink::{LastEvent, Merged, NodeId, SummaryStore, Unsummarised};
use crate::telemetry;
use crate::zone::Zone;

/// Most entries in memory: pairs of key and day, and their texts. A hash table of 2^20 slots of 25
/// bytes (26 MB) takes this many before it doubles: 30,000 vehicles for a month. With fewer, a pair
/// is merged more often, and each merge costs the database as much as a row.
const ENTRIES_MAX: usize = (1 << 20) / 8 * 7;

/// Most files whose coverage is kept in memory between two refreshes. Further files are read from
/// the table.
const FILES_MAX: usize = 100_000;

/// How often a refresh reads all files again because candidates were left out: records may be erased
/// while it runs.
const REPEATED_MAX: u32 = 3;

/// Candidates merged in one transaction.
const MERGE_PAIRS: usize = 5_000;

/// Files marked as summarised in one transaction.
const MARK_FILES: usize = 1_000;

/// Concurrent merge transactions. They use connections that the workers no longer need at the end
/// of a load.
const MERGES_AT_ONCE: usize = 3;

/// Rows read from the table at a time: about 5 MB.
const SCAN_ROWS: usize = 50_000;

/// Settled files processed in one round.
const ROUND_FILES: usize = 10_000;

/// The result of a refresh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Files added to the summary.
    pub files: u64,
    /// Rows read from the table.
    pub rows_read: u64,
    /// Candidates merged.
    pub pairs: u64,
}

/// The last event of each key and day so far. Each row of a load is looked up here, so entries are
/// small: each text is stored once, outside of them.
#[derive(Debug, Default)]
struct Reduced {
    keys: Texts,
    values: Texts,
    pairs: HashTable<LastOfDay>,
    hasher: DefaultHashBuilder,
}

/// Texts, each stored once and identified by its index.
type Texts = IndexSet<Box<str>, DefaultHashBuilder>;

fn number_of(text: &str, texts: &mut Texts) -> u32 {
    let at = texts.get_index_of(text);
    at.unwrap_or_else(|| texts.insert_full(text.into()).0) as u32
}

/// The last event of a key on the day of its time.
#[derive(Debug)]
struct LastOfDay {
    key: u32,
    value: u32,
    time_us: i64,
    id: u64,
}

impl LastOfDay {
    fn pair(&self, zone: &Zone) -> (u32, i32) {
        (self.key, zone.day(self.time_us))
    }
}

impl Reduced {
    fn add(&mut self, event: &LastEvent, zone: &Zone) {
        let LastEvent {
            key,
            time_us,
            value,
            id,
        } = event;
        let pair = self.pair(key, *time_us, zone);
        self.add_to(pair, *time_us, *id, value, zone);
    }

    fn pair(&mut self, key: &str, time_us: i64, zone: &Zone) -> (u32, i32) {
        (number_of(key, &mut self.keys), zone.day(time_us))
    }

    fn add_to(&mut self, pair: (u32, i32), time_us: i64, id: u64, value: &str, zone: &Zone) {
        let Self {
            values,
            pairs,
            hasher,
            ..
        } = self;
        let entry = pairs.entry(
            hasher.hash_one(pair),
            // Most others have another key, and their day need not be computed.
            |last| last.key == pair.0 && last.pair(zone) == pair,
            |last| hasher.hash_one(last.pair(zone)),
        );
        let is_later = |last: &LastOfDay| (time_us, id) > (last.time_us, last.id);
        if matches!(&entry, Entry::Occupied(last) if !is_later(last.get())) {
            return;
        }
        entry.insert(LastOfDay {
            key: pair.0,
            value: number_of(value, values),
            time_us,
            id,
        });
    }

    fn add_rows(&mut self, columns: SummaryColumns<'_>) {
        let SummaryColumns {
            ids,
            keys,
            times,
            values,
            zone,
        } = columns;
        // Few entries are in the processor's cache. In a loop of their own, several lookups
        // overlap.
        let pairs: Vec<(u32, i32)> = (0..ids.len())
            .map(|row| self.pair(keys.value(row), times.value(row), zone))
            .collect();
        for (row, pair) in pairs.into_iter().enumerate() {
            let (time_us, id) = (times.value(row), ids.value(row));
            self.add_to(pair, time_us, id, values.value(row), zone);
        }
    }

    /// Whether it has reached [`ENTRIES_MAX`].
    fn is_full(&self) -> bool {
        self.pairs.len() + self.keys.len() + self.values.len() > ENTRIES_MAX
    }

    /// The candidates in the order of the table's key, split into transactions. Merging in key
    /// order touches each page once.
    fn into_parts(self) -> impl Iterator<Item = Vec<LastEvent>> {
        let (keys, values) = (self.keys, self.values);
        // Each text is compared here, so that sorting the pairs compares only ranks.
        let mut by_text: Vec<u32> = (0..keys.len() as u32).collect();
        by_text.sort_unstable_by_key(|key| &keys[*key as usize]);
        let mut ranks = vec![0_u32; keys.len()];
        for (rank, key) in by_text.into_iter().enumerate() {
            ranks[key as usize] = rank as u32;
        }
        let mut pairs: Vec<LastOfDay> = self.pairs.into_iter().collect();
        pairs.sort_unstable_by_key(|last| (ranks[last.key as usize], last.time_us));
        let parts = pairs.len().div_ceil(MERGE_PAIRS);
        (0..parts).map(move |part| {
            let start = part * MERGE_PAIRS;
            let end = (start + MERGE_PAIRS).min(pairs.len());
            let candidates = pairs[start..end].iter().map(|last| LastEvent {
                key: keys[last.key as usize].to_string(),
                time_us: last.time_us,
                value: values[last.value as usize].to_string(),
                id: last.id,
            });
            candidates.collect()
        })
    }
}

/// Reduces the rows that the workers of this process commit, so that a refresh does not read them.
///
/// Receives rows only after their commit. A crash loses its content; then the refresh reads the
/// rows from the table.
pub struct Accumulator {
    store: Arc<dyn SummaryStore>,
    states: Mutex<HashMap<String, DatasetState>>,
    /// Files with commits in progress, and the number of these commits.
    committing: Mutex<HashMap<u32, u32>>,
    /// Locked while candidates are being written to the database. A refresh that used the coverage
    /// at that time could mark files whose candidates a crash then loses.
    merging: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct DatasetState {
    reduced: Reduced,
    coverage: HashMap<u32, Vec<Range<u64>>>,
}

/// A commit in progress; see [`Accumulator::begin`].
pub struct Committing<'a> {
    of: &'a Accumulator,
    file_nos: Vec<u32>,
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        let mut committing = self.of.committing();
        for file_no in &self.file_nos {
            if let Some(commits) = committing.get_mut(file_no) {
                *commits -= 1;
                if *commits == 0 {
                    committing.remove(file_no);
                }
            }
        }
    }
}

impl Accumulator {
    /// An empty accumulator that merges into `store`.
    #[must_use]
    pub fn new(store: Arc<dyn SummaryStore>) -> Self {
        Self {
            store,
            states: Mutex::default(),
            committing: Mutex::default(),
            merging: tokio::sync::Mutex::default(),
        }
    }

    /// Registers a commit of these batches. Until the value is dropped, no refresh includes their
    /// files: the commit may settle a file before [`Accumulator::add`] receives its rows.
    pub fn begin(&self, batches: &[Batch]) -> Committing<'_> {
        let summarised = |batch: &&Batch| batch.dataset.summary.is_some();
        let file_nos = batches
            .iter()
            .filter(summarised)
            .map(|batch| batch.span.file_no);
        let file_nos: Vec<u32> = file_nos.collect();
        let mut committing = self.committing();
        for file_no in &file_nos {
            *committing.entry(*file_no).or_default() += 1;
        }
        drop(committing);
        Committing { of: self, file_nos }
    }

    fn committing(&self) -> MutexGuard<'_, HashMap<u32, u32>> {
        self.committing.lock()
    }

    /// Adds the rows of committed batches.
    pub fn add(&self, batches: &[Batch]) {
        let mut all = self.states.lock();
        for batch in batches {
            let Some(columns) = batch.summary_columns() else {
                continue;
            };
            if !all.contains_key(&batch.dataset.name) {
                all.insert(batch.dataset.name.clone(), DatasetState::default());
            }
            let state = all.get_mut(&batch.dataset.name).expect("inserted above");
            state.reduced.add_rows(columns);
            let room = state.coverage.len() < FILES_MAX;
            if room || state.coverage.contains_key(&batch.span.file_no) {
                let covered = state.coverage.entry(batch.span.file_no).or_default();
                coverage::insert(covered, batch.span.ordinals());
            }
        }
    }

    /// Merges the candidates of a dataset into the database once they have reached their limit in
    /// memory. If the table of the summary refuses them, drops them: a refresh reads their rows from
    /// the table, and reports the fault.
    ///
    /// # Errors
    /// The engine is stopping.
    pub async fn relieve(
        &self,
        dataset: &Arc<Dataset>,
        stop: &CancellationToken,
    ) -> Result<(), GivenUp> {
        let is_full = || {
            let all = self.states.lock();
            all.get(&dataset.name)
                .is_some_and(|state| state.reduced.is_full())
        };
        if !is_full() {
            return Ok(());
        }
        let _merging = self.merging.lock().await;
        // Another worker may have done it while this one waited.
        if is_full() {
            let reduced = self.take(&dataset.name);
            match merge(&self.store, dataset, reduced, &[], None, stop).await {
                Err(GivenUp::Fatal(fault)) => {
                    tracing::debug!(%fault, "candidates of the summary are dropped");
                    self.lose(&dataset.name);
                }
                merged => drop(merged?),
            }
        }
        Ok(())
    }

    /// Candidates of the dataset are lost: a refresh reads the rows of all files from the table.
    fn lose(&self, dataset: &str) {
        if let Some(state) = self.states.lock().get_mut(dataset) {
            state.coverage.clear();
        }
    }

    /// Removes and returns the candidates.
    fn take(&self, dataset: &str) -> Reduced {
        let mut all = self.states.lock();
        let state = all.get_mut(dataset);
        state
            .map(|state| std::mem::take(&mut state.reduced))
            .unwrap_or_default()
    }

    /// Removes and returns the candidates, and for each file whether they include all of its rows.
    fn take_with(&self, dataset: &str, files: &[Unsummarised]) -> (Reduced, Vec<bool>) {
        let mut all = self.states.lock();
        let Some(state) = all.get_mut(dataset) else {
            return (Reduced::default(), vec![false; files.len()]);
        };
        let passed = |file: &Unsummarised| {
            let covered = state.coverage.get(&file.file_no);
            !file.must_be_read()
                && covered.is_some_and(|covered| coverage::is_whole(covered, file.records))
        };
        let passed = files.iter().map(passed).collect();
        (std::mem::take(&mut state.reduced), passed)
    }

    fn forget(&self, dataset: &str, files: &[Unsummarised]) {
        let mut all = self.states.lock();
        if let Some(state) = all.get_mut(dataset) {
            for file in files {
                state.coverage.remove(&file.file_no);
            }
        }
    }
}

/// Brings the summaries of all datasets up to date with the settled files. If `leader` is given, it
/// ends as if it was stopped once another process leads.
///
/// # Errors
/// As [`until_ok`], once the summaries of the other datasets are up to date. Merged candidates stay
/// merged, and the next refresh continues.
pub async fn refresh(
    accumulator: &Accumulator,
    datasets: &Datasets,
    leader: Option<&NodeId>,
    stop: &CancellationToken,
) -> Result<Refreshed, GivenUp> {
    let began = Instant::now();
    let mut done = Refreshed::default();
    let mut failed = None;
    for dataset in datasets.iter().filter(|dataset| dataset.summary.is_some()) {
        let _merging = accumulator.merging.lock().await;
        let mut cut = 0;
        loop {
            match round(accumulator, dataset, &mut done, leader, stop).await {
                Ok(Round { more, is_whole }) => {
                    cut += u32::from(!is_whole);
                    // The next refresh goes on.
                    if cut > REPEATED_MAX || (is_whole && !more) {
                        break;
                    }
                }
                Err(given_up) => {
                    accumulator.lose(&dataset.name);
                    failed.get_or_insert(given_up);
                    break;
                }
            }
        }
    }
    if let Some(given_up) = failed {
        return Err(given_up);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    telemetry::summary_refreshed(began.elapsed(), now);
    Ok(done)
}

/// Empties the summaries and rebuilds them from the tables.
///
/// # Errors
/// As [`until_ok`].
pub async fn rebuild(
    store: &Arc<dyn SummaryStore>,
    datasets: &Datasets,
    stop: &CancellationToken,
) -> Result<Refreshed, GivenUp> {
    for dataset in datasets.iter().filter(|dataset| dataset.summary.is_some()) {
        until_ok("emptying the summary", stop, ignore, || {
            store.summary_reset(dataset)
        })
        .await?;
    }
    refresh(&Accumulator::new(store.clone()), datasets, None, stop).await
}

/// What one round has left.
struct Round {
    /// Whether there may be more files.
    more: bool,
    /// Whether no candidate was left out: otherwise all files are read again.
    is_whole: bool,
}

/// Adds some of the pending files.
async fn round(
    accumulator: &Accumulator,
    dataset: &Arc<Dataset>,
    done: &mut Refreshed,
    leader: Option<&NodeId>,
    stop: &CancellationToken,
) -> Result<Round, GivenUp> {
    let store = &accumulator.store;
    let pending = || store.summary_pending(dataset, ROUND_FILES);
    let mut files = until_ok("reading the ledger", stop, ignore, pending).await?;
    let is_last = files.len() < ROUND_FILES;
    {
        // The next refresh adds these files.
        let committing = accumulator.committing();
        files.retain(|file| !committing.contains_key(&file.file_no));
    }
    let mut is_whole = true;
    if files.is_empty() {
        let more = false;
        return Ok(Round { more, is_whole });
    }
    let (mut reduced, passed) = accumulator.take_with(&dataset.name, &files);
    let unread = files.iter().zip(passed).filter(|(_, passed)| !passed);
    let unread: Vec<&Unsummarised> = unread.map(|(file, _)| file).collect();
    // The rows of files with consecutive numbers stand together: one query reads those of many small
    // files.
    for run in unread.chunk_by(|a, b| a.file_no.checked_add(1) == Some(b.file_no)) {
        let [first, last] = [run[0], run[run.len() - 1]];
        let ids = row_id(first.file_no, 0)..row_id(last.file_no, 0) + last.records;
        is_whole &= read(store, dataset, ids, &mut reduced, done, leader, stop).await?;
    }
    done.files += files.len() as u64;
    done.pairs += reduced.pairs.len() as u64;
    is_whole &= Box::pin(merge(store, dataset, reduced, &files, leader, stop)).await?;
    accumulator.forget(&dataset.name, &files);
    let more = !is_last;
    Ok(Round { more, is_whole })
}

/// Reads the rows with these ids. Returns whether no candidate was left out.
async fn read(
    store: &Arc<dyn SummaryStore>,
    dataset: &Arc<Dataset>,
    mut ids: Range<u64>,
    reduced: &mut Reduced,
    done: &mut Refreshed,
    leader: Option<&NodeId>,
    stop: &CancellationToken,
) -> Result<bool, GivenUp> {
    let summary = dataset.summary.as_ref();
    let zone = &summary
        .expect("only datasets with a summary are read")
        .time_zone;
    let mut is_whole = true;
    while !ids.is_empty() {
        let page = || store.summary_scan(dataset, ids.clone(), SCAN_ROWS);
        let page = until_ok("reading rows for the summary", stop, ignore, page).await?;
        let Some(last) = page.last() else { break };
        ids.start = last.id + 1;
        done.rows_read += page.len() as u64;
        for event in &page {
            reduced.add(event, zone);
        }
        if reduced.is_full() {
            done.pairs += reduced.pairs.len() as u64;
            let full = std::mem::take(reduced);
            is_whole &= Box::pin(merge(store, dataset, full, &[], leader, stop)).await?;
        }
    }
    Ok(is_whole)
}

/// Merges candidates and then marks the files, in bounded transactions. Returns whether no candidate
/// was left out.
async fn merge(
    store: &Arc<dyn SummaryStore>,
    dataset: &Arc<Dataset>,
    reduced: Reduced,
    files: &[Unsummarised],
    leader: Option<&NodeId>,
    stop: &CancellationToken,
) -> Result<bool, GivenUp> {
    let is_whole = Arc::new(AtomicBool::new(true));
    let one = |part: Vec<LastEvent>, files: Vec<Unsummarised>| {
        let (store, dataset, stop) = (Arc::clone(store), Arc::clone(dataset), stop.clone());
        let (leader, is_whole) = (leader.cloned(), is_whole.clone());
        async move {
            let merge = || store.summary_merge(&dataset, &part, &files, leader.as_ref());
            match until_ok("merging into the summary", &stop, ignore, merge).await? {
                Merged::All => {}
                Merged::InPart => is_whole.store(false, Relaxed),
                Merged::Deposed => return Err(GivenUp::Stopped),
            }
            Ok(())
        }
    };
    // The parts have different pairs, so they do not wait for each other's locks.
    all(reduced.into_parts().map(|part| one(part, Vec::new()))).await?;
    let marks = files.chunks(MARK_FILES);
    all(marks.map(|files| one(Vec::new(), files.to_vec()))).await?;
    Ok(is_whole.load(Relaxed))
}

/// Runs transactions, a few at a time. Each is a task, so that one binds its values while others
/// wait for the database.
async fn all<T>(transactions: impl Iterator<Item = T>) -> Result<(), GivenUp>
where
    T: Future<Output = Result<(), GivenUp>> + Send + 'static,
{
    let mut running = JoinSet::new();
    for transaction in transactions {
        if running.len() == MERGES_AT_ONCE {
            join_one(&mut running).await?;
        }
        running.spawn(transaction);
    }
    while !running.is_empty() {
        join_one(&mut running).await?;
    }
    Ok(())
}

async fn join_one(running: &mut JoinSet<Result<(), GivenUp>>) -> Result<(), GivenUp> {
    let joined = running.join_next().await;
    joined.map_or(Ok(()), |merged| merged.expect("merging does not panic"))
}

fn ignore(_: &Fault) {}

#[cfg(test)]
mod tests;
