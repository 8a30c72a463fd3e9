//! The simulated world: a broker and a database that fail, lose, duplicate and reorder as a seed
//! decides, and that survive crashes of the engine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use async_trait::async_trait;
use lemonade_task::batch::{Batch, ContentHash, RejectCode, Span, provenance};
use lemonade_task::broker::{Broker, Consumer, Delivery, Depth, Queued, Tag};
use lemonade_task::coverage;
use lemonade_task::dataset::{Datasets, Fingerprint};
use lemonade_task::fault::{Fault, Origin};
use lemonade_task::finding::Finding;
use lemonade_task::frame::{Codec, Frame};
use lemonade_task::sink::{
    Committed, EarlierState, NewFile, Registered, Settled, Sink, WaitingFile,
};

/// Why a table does not take the rows of a file.
const REASON: &str = "the table is full";

/// A small random number generator that repeats for a seed (splitmix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The state that survives a crash of the engine.
pub struct World {
    pub random: Mutex<Random>,
    /// Whether faults have ended, so that the last run can finish.
    pub healed: Mutex<bool>,
    pub database: Mutex<Database>,
    pub queue: Mutex<Queue>,
    /// A rule of the design that this world breaks on purpose.
    pub broken: Option<Broken>,
    /// Extra time of a query of the coverage, in addition to that of every call.
    pub query_time: Duration,
    /// Number of these queries.
    pub queries: AtomicU32,
    pub faults: Mutex<BTreeMap<&'static str, u64>>,
}

/// Rules that a test breaks on purpose, to check that the simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// The ledger is written although the rows are not.
    LedgerWithoutRows,
    /// A file is reported as complete before it is.
    SettleTooEarly,
    /// A stored row is written again under another id.
    IdsByArrival,
    /// Rejects are not stored.
    RejectsDropped,
    /// A file goes on under another definition than it was begun by.
    DefinitionsMixed,
    /// A moved file replaces one of the same name.
    MovesReplace,
    /// A frame is acked before it is committed. Harmless: ingest publishes lost frames again.
    AckBeforeCommit,
}

#[derive(Default)]
pub struct Database {
    pub files: BTreeMap<u32, Entry>,
    /// The last number that was given to a file.
    pub last_number: u32,
    pub rows: BTreeMap<u64, String>,
    pub rejects: BTreeMap<(u32, u32), RejectCode>,
    pub frames: BTreeSet<Span>,
    /// The files whose rows the table did not take.
    pub waiting: BTreeSet<u32>,
}

pub struct Entry {
    pub hash: ContentHash,
    pub dataset: String,
    pub definition: Option<Fingerprint>,
    pub records: u32,
    pub state: &'static str,
}

impl Database {
    /// The number of a file: that of its dataset; else one in quarantine.
    fn find(&self, file: &NewFile) -> Option<u32> {
        let same = |entry: &Entry| entry.hash == file.hash;
        let of_dataset = |entry: &Entry| same(entry) && entry.dataset == file.dataset;
        let in_quarantine = |entry: &Entry| same(entry) && entry.state == "quarantined";
        let number = |is: &dyn Fn(&Entry) -> bool| {
            self.files
                .iter()
                .find(|(_, entry)| is(entry))
                .map(|(no, _)| *no)
        };
        number(&of_dataset).or_else(|| number(&in_quarantine))
    }

    fn enter(&mut self, file_no: Option<u32>, file: &NewFile, state: &'static str) -> u32 {
        let file_no = file_no.unwrap_or_else(|| {
            self.last_number += 1;
            self.last_number
        });
        let entry = Entry {
            hash: file.hash,
            dataset: file.dataset.clone(),
            definition: file.definition,
            records: file.records,
            state,
        };
        self.files.insert(file_no, entry);
        file_no
    }

    fn has_entries(&self, file_no: u32) -> bool {
        self.frames.iter().any(|span| span.file_no == file_no)
    }
}

#[derive(Default)]
pub struct Queue {
    pub next: u64,
    pub waiting: VecDeque<(u64, Frame, bool)>,
    pub pending: BTreeMap<u64, (String, Frame)>,
}

impl World {
    fn chance(&self, name: &'static str, one_in: u64) -> bool {
        let healed = *self.healed.lock().unwrap();
        let hit = !healed && self.random.lock().unwrap().one_in(one_in);
        if hit {
            *self.faults.lock().unwrap().entry(name).or_default() += 1;
        }
        hit
    }

    /// Each call takes some time, so that the order of events differs between seeds.
    async fn takes_time(&self) {
        let micros = self.random.lock().unwrap().below(20_000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    fn fault(origin: Origin) -> Fault {
        Fault::transient(origin, "a simulated call", "a simulated fault")
    }
}

pub struct SimBroker(pub Arc<World>);

struct SimConsumer {
    world: Arc<World>,
    name: String,
}

#[async_trait]
impl Broker for SimBroker {
    fn codec(&self) -> Codec {
        Codec::Plain
    }

    async fn publish(&self, frames: &[Frame]) -> Result<(), Fault> {
        self.0.takes_time().await;
        let mut arrive = frames.len();
        let fails = self.0.chance("publish fails, some frames arrived", 8);
        if fails {
            let part = self.0.random.lock().unwrap().below(frames.len() as u64 + 1);
            arrive = usize::try_from(part).unwrap();
        }
        for frame in &frames[..arrive] {
            let lost = self.0.chance("a frame is lost", 30);
            let doubled = self.0.chance("a frame is doubled", 20);
            let mut queue = self.0.queue.lock().unwrap();
            for _ in 0..(usize::from(!lost) + usize::from(doubled)) {
                queue.next += 1;
                let entry = queue.next;
                queue.waiting.push_back((entry, frame.clone(), false));
            }
        }
        if self.0.chance("the queue is wiped", 40) {
            let mut queue = self.0.queue.lock().unwrap();
            queue.waiting.clear();
            queue.pending.clear();
        }
        if fails {
            Err(World::fault(Origin::Broker))
        } else {
            Ok(())
        }
    }

    async fn consumer(&self, name: &str) -> Result<Box<dyn Consumer>, Fault> {
        if self.0.chance("no connection to the queue", 6) {
            return Err(World::fault(Origin::Broker));
        }
        let mut queue = self.0.queue.lock().unwrap();
        let own: Vec<u64> = queue
            .pending
            .iter()
            .filter(|(_, (of, _))| of == name)
            .map(|(entry, _)| *entry)
            .collect();
        for entry in own {
            let (_, frame) = queue.pending.remove(&entry).unwrap();
            queue.waiting.push_front((entry, frame, true));
        }
        Ok(Box::new(SimConsumer {
            world: self.0.clone(),
            name: name.to_owned(),
        }))
    }

    async fn inspect(&self) -> Result<Vec<Finding>, Fault> {
        Ok(Vec::new())
    }

    async fn depth(&self) -> Result<Depth, Fault> {
        self.0.takes_time().await;
        if self.0.chance("depth fails", 6) {
            return Err(World::fault(Origin::Broker));
        }
        let queue = self.0.queue.lock().unwrap();
        let frames = (queue.waiting.len() + queue.pending.len()) as u64;
        Ok(Depth {
            frames,
            pending: queue.pending.len() as u64,
            bytes: 0,
        })
    }

    async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Fault> {
        Ok(Vec::new())
    }

    async fn peek(&self, _max: usize) -> Result<Vec<Queued>, Fault> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Consumer for SimConsumer {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Fault> {
        self.world.takes_time().await;
        if self.world.chance("receive fails", 10) {
            return Err(World::fault(Origin::Broker));
        }
        let mut queue = self.world.queue.lock().unwrap();
        // Some seeds deliver out of order.
        if self.world.chance("frames are out of order", 10) {
            queue.waiting.make_contiguous().reverse();
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < max {
            let Some((entry, frame, redelivered)) = queue.waiting.pop_front() else {
                break;
            };
            if self.world.broken != Some(Broken::AckBeforeCommit) {
                let taken = (self.name.clone(), frame.clone());
                queue.pending.insert(entry, taken);
            }
            let tag = Tag {
                stream: "sim".into(),
                entry: entry.to_string(),
            };
            deliveries.push(Delivery {
                tag,
                frame,
                redelivered,
            });
        }
        Ok(deliveries)
    }

    async fn ack(&mut self, deliveries: &[Delivery]) -> Result<(), Fault> {
        self.world.takes_time().await;
        let lost = self.world.chance("an ack is lost", 8);
        let mut queue = self.world.queue.lock().unwrap();
        for delivery in deliveries {
            let entry = delivery.tag.entry.parse().unwrap();
            if let Some((_, frame)) = queue.pending.remove(&entry)
                && lost
            {
                queue.waiting.push_back((entry, frame, true));
            }
        }
        if lost {
            Err(World::fault(Origin::Broker))
        } else {
            Ok(())
        }
    }
}

pub struct SimSink(pub Arc<World>);

impl SimSink {
    /// A call that may fail before it has an effect.
    async fn call(&self) -> Result<(), Fault> {
        self.0.takes_time().await;
        if self.0.chance("a call to the database fails before", 12) {
            Err(World::fault(Origin::Sink))
        } else {
            Ok(())
        }
    }

    /// A call that may fail after it had its effect: the reply is lost.
    fn answer<T>(&self, value: T) -> Result<T, Fault> {
        if self.0.chance("the database's answer is lost", 12) {
            Err(World::fault(Origin::Sink))
        } else {
            Ok(value)
        }
    }

    fn store(&self, batch: &Batch) -> Committed {
        let mut database = self.0.database.lock().unwrap();
        let broken = |rule: Broken| self.0.broken == Some(rule);
        let mut committed = Committed::default();
        let is_known = database.files.get(&batch.span.file_no).is_some_and(|file| {
            (file.hash, file.definition) == (batch.hash, Some(batch.dataset.fingerprint))
        });
        if !is_known && !broken(Broken::DefinitionsMixed) {
            committed.foreign.push(batch.file());
            return committed;
        }
        let values = batch
            .rows
            .column_by_name("event_value")
            .unwrap()
            .as_string::<i32>();
        let ids = batch.rows.column(0).as_primitive::<UInt64Type>();
        for row in 0..batch.rows.num_rows() {
            if broken(Broken::LedgerWithoutRows) && self.0.chance("broken: row not written", 50) {
                continue;
            }
            let mut id = ids.value(row);
            if broken(Broken::IdsByArrival) {
                id = (1 << 60) + database.rows.len() as u64;
            }
            match database.rows.insert(id, values.value(row).to_owned()) {
                None => committed.rows += 1,
                Some(_) => committed.duplicates += 1,
            }
        }
        if !broken(Broken::RejectsDropped) {
            for reject in &batch.rejects {
                database
                    .rejects
                    .insert((batch.span.file_no, reject.ordinal), reject.code);
            }
        }
        let Database { files, frames, .. } = &mut *database;
        let Some(file) = files.get_mut(&batch.span.file_no) else {
            return committed;
        };
        let nothing_before = || frames.iter().all(|span| span.file_no != batch.span.file_no);
        let all = 0..u64::from(file.records);
        if file.state == "pending" && batch.span.ordinals() == all && nothing_before() {
            file.state = "settled";
        } else if file.state != "settled" {
            frames.insert(batch.span);
        }
        committed
    }
}

#[async_trait]
impl Sink for SimSink {
    fn writers(&self) -> usize {
        3
    }

    async fn register(&self, files: &[NewFile]) -> Result<Vec<Registered>, Fault> {
        self.call().await?;
        let registered = {
            let mut database = self.0.database.lock().unwrap();
            let mut registered = Vec::new();
            for file in files {
                let found = database.find(file);
                let is_like = |entry: &Entry| {
                    (&entry.dataset, entry.definition, entry.records)
                        == (&file.dataset, file.definition, file.records)
                };
                let earlier = match found.map(|no| (no, &database.files[&no])) {
                    None => EarlierState::New,
                    Some((_, entry)) if entry.state == "settled" => EarlierState::Settled,
                    Some((no, entry)) if entry.state == "quarantined" => {
                        if !is_like(entry) && database.has_entries(no) {
                            EarlierState::BegunOtherwise
                        } else {
                            EarlierState::New
                        }
                    }
                    Some((_, entry)) if is_like(entry) => EarlierState::Pending,
                    Some(_) if self.0.broken == Some(Broken::DefinitionsMixed) => {
                        EarlierState::Pending
                    }
                    Some(_) => EarlierState::OtherDefinition,
                };
                let file_no = match (earlier, found) {
                    (EarlierState::New, _) => database.enter(found, file, "pending"),
                    (_, Some(found)) => found,
                    (_, None) => unreachable!("a file that is not found is new"),
                };
                database.waiting.remove(&file_no);
                registered.push(Registered { file_no, earlier });
            }
            registered
        };
        self.answer(registered)
    }

    async fn commit(&self, batches: &[Batch]) -> Result<Committed, Fault> {
        self.call().await?;
        let mut committed = Committed::default();
        for batch in batches {
            if self.0.chance("a table refuses a file", 40) {
                self.0
                    .database
                    .lock()
                    .unwrap()
                    .waiting
                    .insert(batch.span.file_no);
                committed.waiting.push(WaitingFile {
                    file: batch.file(),
                    reason: REASON.to_owned(),
                });
                continue;
            }
            let one = self.store(batch);
            committed.rows += one.rows;
            committed.duplicates += one.duplicates;
            committed.foreign.extend(one.foreign);
        }
        self.answer(committed)
    }

    async fn coverage(&self, file_nos: &[u32]) -> Result<Vec<Vec<Range<u64>>>, Fault> {
        self.call().await?;
        let database = self.0.database.lock().unwrap();
        let of = |file_no: &u32| {
            let whole = database
                .files
                .get(file_no)
                .map_or(0, |file| u64::from(file.records));
            let is_settled = database
                .files
                .get(file_no)
                .is_some_and(|f| f.state == "settled");
            if is_settled || self.0.broken == Some(Broken::SettleTooEarly) {
                return coverage::union(std::iter::once(0..whole));
            }
            let spans = database
                .frames
                .iter()
                .filter(|span| span.file_no == *file_no);
            coverage::union(spans.map(|span| span.ordinals()))
        };
        Ok(file_nos.iter().map(of).collect())
    }

    async fn waiting(&self, file_nos: &[u32]) -> Result<Vec<(u32, String)>, Fault> {
        self.call().await?;
        let database = self.0.database.lock().unwrap();
        let waits = |file_no: &&u32| {
            let is_pending = database.files[file_no].state == "pending";
            is_pending && database.waiting.contains(file_no)
        };
        let waiting = file_nos.iter().filter(waits);
        Ok(waiting
            .map(|file_no| (*file_no, REASON.to_owned()))
            .collect())
    }

    async fn settle(&self, file_nos: &[u32]) -> Result<Vec<Settled>, Fault> {
        self.call().await?;
        self.0.queries.fetch_add(1, Relaxed);
        tokio::time::sleep(self.0.query_time).await;
        let settled = {
            let mut database = self.0.database.lock().unwrap();
            let database = &mut *database;
            let mut settled = Vec::new();
            for &file_no in file_nos {
                let file = database.files.get_mut(&file_no).unwrap();
                let spans = database.frames.iter().filter(|s| s.file_no == file_no);
                let covered = coverage::union(spans.map(|span| span.ordinals()));
                if file.state != "settled"
                    && self.0.broken != Some(Broken::SettleTooEarly)
                    && !coverage::is_whole(&covered, file.records.into())
                {
                    continue;
                }
                file.state = "settled";
                let rejects = database
                    .rejects
                    .range((file_no, 0)..=(file_no, u32::MAX))
                    .count();
                database.frames.retain(|span| span.file_no != file_no);
                let rejects = u32::try_from(rejects).unwrap();
                settled.push(Settled {
                    file_no,
                    hash: file.hash,
                    records: file.records,
                    rejects,
                });
            }
            settled
        };
        self.answer(settled)
    }

    async fn quarantine(&self, file: &NewFile, _: &str) -> Result<(), Fault> {
        self.call().await?;
        {
            let mut database = self.0.database.lock().unwrap();
            match database.find(file) {
                Some(file_no) => {
                    let entry = database.files.get_mut(&file_no).unwrap();
                    if entry.state != "settled" {
                        entry.state = "quarantined";
                    }
                }
                None => drop(database.enter(None, file, "quarantined")),
            }
        }
        self.answer(())
    }

    async fn remove(&self, file_no: u32, _: &Datasets) -> Result<u64, Fault> {
        self.call().await?;
        let rows = {
            let mut database = self.0.database.lock().unwrap();
            let of_file = |id: u64| provenance(id).0 == file_no;
            let before = database.rows.len();
            database.rows.retain(|id, _| !of_file(*id));
            database.rejects.retain(|(no, _), _| *no != file_no);
            database.frames.retain(|span| span.file_no != file_no);
            database.files.remove(&file_no);
            before - database.rows.len()
        };
        self.answer(rows as u64)
    }
}
