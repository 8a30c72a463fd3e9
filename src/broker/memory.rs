//! The in-process queue: the contract of Redis, for an engine in one process.
//!
//! One lock protects the state; it is held briefly and never across an await. A frame either waits
//! or is delivered to a consumer. Its bytes count until it is acked, as in Redis. Nothing in the
//! queue belongs to a tokio runtime.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{Broker, Claim, Consumer, Delivery, Depth, Owner, Queued, Tag};
use crate::fault::Fault;
use crate::finding::Finding;
use crate::frame::{Codec, Frame};
use crate::telemetry::{self, Stage};

/// How long `receive` waits for a frame before it returns none. Longer would delay a shutdown;
/// shorter would wake an idle process more often.
const IDLE_WAIT: Duration = Duration::from_millis(500);

/// A queue in this process.
#[derive(Debug)]
pub struct MemoryBroker {
    queue: Arc<Queue>,
}

#[derive(Debug)]
struct Queue {
    bytes_max: u64,
    stream: Arc<str>,
    state: Mutex<State>,
    /// Lets one publisher in at a time, in order: otherwise small frames of other publishers could
    /// keep a large one waiting for ever.
    entrance: tokio::sync::Mutex<()>,
    room: Notify,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// Sorted by number, so that the frames of a dropped consumer return in their old order.
    delivered: BTreeMap<u64, Delivered>,
    bytes: u64,
    entries: u64,
    consumers: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    frame: Frame,
    arrived: Instant,
    deliveries: u64,
}

#[derive(Debug)]
struct Delivered {
    consumer: u64,
    name: Arc<str>,
    since: Instant,
    entry: Entry,
}

impl MemoryBroker {
    /// An empty queue for at most `bytes_max` bytes of frames, or for one larger frame.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let queue = Queue {
            bytes_max,
            stream: "memory".into(),
            state: Mutex::default(),
            entrance: tokio::sync::Mutex::default(),
            room: Notify::new(),
            arrived: Notify::new(),
        };
        Self {
            queue: Arc::new(queue),
        }
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn codec(&self) -> Codec {
        Codec::Plain
    }

    async fn publish(&self, frames: &[Frame]) -> Result<(), Fault> {
        let _turn = self.queue.entrance.lock().await;
        for frame in frames {
            // `Notify` stores a notification that arrives between the refusal and the wait.
            while !self.queue.push(frame) {
                let _backpressure = telemetry::backpressure(Stage::Publish);
                self.queue.room.notified().await;
            }
        }
        Ok(())
    }

    async fn consumer(&self, name: &str) -> Result<Box<dyn Consumer>, Fault> {
        let mut state = self.queue.lock();
        state.consumers += 1;
        let consumer = MemoryConsumer {
            queue: Arc::clone(&self.queue),
            number: state.consumers,
            name: name.into(),
        };
        let returned = state.give_back(|delivered| *delivered.name == *name);
        drop(state);
        if returned {
            self.queue.arrived.notify_one();
        }
        Ok(Box::new(consumer))
    }

    async fn inspect(&self, _: Option<&Claim>) -> Result<Vec<Finding>, Fault> {
        Ok(vec![Finding::ok("the queue is in this process")])
    }

    async fn depth(&self) -> Result<Depth, Fault> {
        let state = self.queue.lock();
        let pending = state.delivered.len() as u64;
        Ok(Depth {
            frames: state.waiting.len() as u64 + pending,
            pending,
            bytes: state.bytes,
        })
    }

    async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Fault> {
        let state = self.queue.lock();
        // The map is sorted by number, so its first frame is the oldest delivered one. Returned
        // frames are at the front of the waiting ones.
        let delivered = state
            .delivered
            .values()
            .next()
            .map(|delivered| delivered.entry.arrived);
        let oldest = state.waiting.front().map(|entry| entry.arrived);
        let oldest = oldest.into_iter().chain(delivered).min();
        let age = oldest.map_or(Duration::ZERO, |arrived| arrived.elapsed());
        Ok(vec![(Arc::clone(&self.queue.stream), age)])
    }

    async fn unread_for(&self) -> Result<Duration, Fault> {
        Ok(Duration::ZERO)
    }

    async fn peek(&self, max: usize) -> Result<Vec<Queued>, Fault> {
        let state = self.queue.lock();
        let delivered = state
            .delivered
            .values()
            .map(|delivered| (&delivered.entry, Some(delivered)));
        let waiting = state.waiting.iter().map(|entry| (entry, None));
        let mut entries: Vec<(&Entry, Option<&Delivered>)> = delivered.chain(waiting).collect();
        entries.sort_unstable_by_key(|(entry, _)| entry.number);
        let queued = |(entry, delivered): (&Entry, Option<&Delivered>)| Queued {
            dataset: Arc::clone(&entry.frame.dataset),
            stream: Arc::clone(&self.queue.stream),
            entry: entry.number.to_string(),
            frame: Some((entry.frame.span, entry.frame.weight() as u64)),
            age: entry.arrived.elapsed(),
            owner: delivered.map(|delivered| Owner {
                consumer: delivered.name.to_string(),
                held_for: delivered.since.elapsed(),
                deliveries: entry.deliveries,
            }),
        };
        Ok(entries.into_iter().take(max).map(queued).collect())
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Appends the frame if there is room. Returns whether it did.
    fn push(&self, frame: &Frame) -> bool {
        let weight = frame.weight() as u64;
        let mut state = self.lock();
        if state.bytes > 0 && state.bytes + weight > self.bytes_max {
            return false;
        }
        state.bytes += weight;
        state.entries += 1;
        let entry = Entry {
            number: state.entries,
            frame: frame.clone(),
            arrived: Instant::now(),
            deliveries: 0,
        };
        state.waiting.push_back(entry);
        drop(state);
        self.arrived.notify_one();
        true
    }
}

impl State {
    /// Returns the frames of the selected consumers to the front of the waiting ones. Returns
    /// whether there were any.
    fn give_back(&mut self, whose: impl Fn(&Delivered) -> bool) -> bool {
        let numbers: Vec<u64> = self
            .delivered
            .iter()
            .filter(|(_, delivered)| whose(delivered))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers.iter().rev() {
            let delivered = self
                .delivered
                .remove(number)
                .expect("the number was read from this map");
            self.waiting.push_front(delivered.entry);
        }
        !numbers.is_empty()
    }

    /// Deletes an entry, delivered or waiting: it may have been returned since its delivery.
    fn forget(&mut self, number: u64) {
        let frame = match self.delivered.remove(&number) {
            Some(delivered) => Some(delivered.entry.frame),
            None => self
                .waiting
                .iter()
                .position(|entry| entry.number == number)
                .and_then(|at| self.waiting.remove(at))
                .map(|entry| entry.frame),
        };
        if let Some(frame) = frame {
            self.bytes -= frame.weight() as u64;
        }
    }
}

/// Dropping it returns its frames to the queue.
#[derive(Debug)]
struct MemoryConsumer {
    queue: Arc<Queue>,
    number: u64,
    name: Arc<str>,
}

impl MemoryConsumer {
    fn take(&self, max: usize) -> Vec<Delivery> {
        let mut state = self.queue.lock();
        let count = max.min(state.waiting.len());
        let taken: Vec<Entry> = state.waiting.drain(..count).collect();
        let mut deliveries = Vec::with_capacity(count);
        for mut entry in taken {
            deliveries.push(Delivery {
                tag: Tag {
                    stream: Arc::clone(&self.queue.stream),
                    entry: entry.number.to_string(),
                },
                frame: entry.frame.clone(),
                redelivered: entry.deliveries > 0,
            });
            entry.deliveries += 1;
            let delivered = Delivered {
                consumer: self.number,
                name: Arc::clone(&self.name),
                since: Instant::now(),
                entry,
            };
            state.delivered.insert(delivered.entry.number, delivered);
        }
        let more = !state.waiting.is_empty();
        drop(state);
        // Several pushes may have become one notification, so a consumer that leaves frames wakes
        // the next one.
        if more {
            self.queue.arrived.notify_one();
        }
        deliveries
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Fault> {
        let wait = async {
            loop {
                let taken = self.take(max);
                if !taken.is_empty() || max == 0 {
                    return taken;
                }
                self.queue.arrived.notified().await;
            }
        };
        Ok(tokio::time::timeout(IDLE_WAIT, wait)
            .await
            .unwrap_or_default())
    }

    async fn ack(&mut self, deliveries: &[Delivery]) -> Result<(), Fault> {
        let mut state = self.queue.lock();
        for delivery in deliveries {
            if let Ok(number) = delivery.tag.entry.parse() {
                state.forget(number);
            }
        }
        drop(state);
        self.queue.room.notify_one();
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let returned = self
            .queue
            .lock()
            .give_back(|delivered| delivered.consumer == self.number);
        if returned {
            self.queue.arrived.notify_one();
        }
    }
}
