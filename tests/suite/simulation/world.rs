//! The simulated world: what survives crashes of the engine, and a broker that fails, loses,
//! duplicates and reorders as a seed decides.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lemonade_task::broker::{Broker, Claim, Consumer, Delivery, Depth, Queued, Tag};
use lemonade_task::fault::{Fault, Origin};
use lemonade_task::finding::Finding;
use lemonade_task::frame::{Codec, Frame};

use super::database::Database;

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
    /// The directory that holds the engine's directories and its database.
    pub root: PathBuf,
    pub database: Database,
    pub queue: Mutex<Queue>,
    /// A rule of the design that this world breaks on purpose.
    pub broken: Option<Broken>,
    /// Extra time of a query of the coverage, in addition to that of every call.
    pub query_time: Duration,
    /// Number of these queries.
    pub queries: AtomicU32,
    pub faults: Mutex<BTreeMap<&'static str, u64>>,
    /// The values of the records by which files have grown.
    pub grown: Mutex<Vec<String>>,
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
    /// Any row with the id of a record is taken for the row of the record.
    EveryRowIsOurs,
    /// A start does not compare the ledger with the tables.
    LedgerTrusted,
    /// A moved file replaces one of the same name.
    MovesReplace,
    /// A frame is acked before it is committed. Harmless: ingest publishes lost frames again.
    AckBeforeCommit,
}

#[derive(Default)]
pub struct Queue {
    pub next: u64,
    pub waiting: VecDeque<(u64, Frame, bool)>,
    pub pending: BTreeMap<u64, (String, Frame)>,
}

impl World {
    pub fn new(root: &Path, random: Random, broken: Option<Broken>) -> Self {
        Self {
            random: Mutex::new(random),
            healed: Mutex::new(false),
            root: root.to_owned(),
            database: Database::open(&root.join("test.db")),
            queue: Mutex::default(),
            broken,
            query_time: Duration::ZERO,
            queries: AtomicU32::default(),
            faults: Mutex::default(),
            grown: Mutex::default(),
        }
    }

    /// Whether a fault happens now.
    pub fn happens(&self, one_in: u64) -> bool {
        let healed = *self.healed.lock().unwrap();
        !healed && self.random.lock().unwrap().one_in(one_in)
    }

    /// As [`happens`](Self::happens), and counts the fault.
    pub fn chance(&self, name: &'static str, one_in: u64) -> bool {
        let hit = self.happens(one_in);
        if hit {
            self.note(name);
        }
        hit
    }

    /// A random number below `n`.
    pub fn below(&self, n: u64) -> u64 {
        self.random.lock().unwrap().below(n)
    }

    /// Counts a fault that has happened.
    pub fn note(&self, name: &'static str) {
        *self.faults.lock().unwrap().entry(name).or_default() += 1;
    }

    /// Each call takes some time, so that the order of events differs between seeds.
    pub async fn takes_time(&self) {
        let micros = self.random.lock().unwrap().below(20_000);
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }

    pub fn fault(origin: Origin) -> Fault {
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

    async fn inspect(&self, _: Option<&Claim>) -> Result<Vec<Finding>, Fault> {
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

    async fn unread_for(&self) -> Result<Duration, Fault> {
        Ok(Duration::ZERO)
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
