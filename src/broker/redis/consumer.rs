//! The receiving side: first its own pending entries, then those of dead consumers, then new ones.
//!
//! Redis marks an entry as pending for this consumer when it sends the entry. So a lost reply (a
//! lost connection, a dropped future) loses no entry: the next call reads all pending entries of
//! this name again, and skips those that it has already returned.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fred::clients::Client;
use fred::error::Error;
use fred::interfaces::{ClientLike, StreamsInterface};
use fred::types::Value;

use super::alive::Signs;
use super::entry::{self, Entry};
use super::link::{Link, REPLY_TIMEOUT};
use super::queue::{GROUP, Queue};
use super::silence::Held;
use super::streams::InUse;
use super::verdict::{Verdict, classify, fault};
use crate::broker::{Consumer, Delivery, Tag};
use crate::fault::Fault;
use crate::telemetry;

/// How long a read waits at the server if the queue is empty. Longer would delay a shutdown.
const BLOCK: Duration = Duration::from_millis(500);

/// The same in a cluster, where a read waits for one stream and the other streams wait meanwhile.
const BLOCK_CLUSTER: Duration = Duration::from_millis(100);

/// The id with which a walk over pending entries begins. Redis returns it at the end of the walk.
const START: &str = "0-0";

pub(super) struct RedisConsumer {
    queue: Arc<Queue>,
    /// A connection of its own, because a blocked read delays all later commands.
    link: Link,
    name: String,
    /// Entries received beyond what the caller asked for: a read returns up to `max` of each
    /// stream.
    ready: VecDeque<Delivery>,
    /// Entries received and not acked, including `ready`.
    held: HashSet<Tag>,
    /// Entries that are not frames, to be deleted.
    damaged: Vec<Tag>,
    /// Whether the last read may have left entries pending that this consumer did not receive.
    torn: bool,
    /// The connection of the last read.
    connection: u64,
    /// The streams whose pending entries of this consumer have to be read, and the id to start
    /// after.
    pending: Vec<(Arc<str>, String)>,
    /// The dead consumers whose entries it takes over.
    dead: Vec<Held>,
    /// The streams at the last read.
    streams: InUse,
    /// In a cluster: the index of the stream to read next.
    turn: usize,
    /// Given until this is dropped.
    _signs: Signs,
}

/// Why the server returned entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// They are pending for this consumer. Entries that it has already received are among them.
    Own,
    /// They were pending for a dead consumer.
    Abandoned,
    /// They were not delivered before.
    New,
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Fault> {
        if self.ready.is_empty() && max > 0 {
            self.queue.claim_if_reconnected().await?;
            match self.fill(max as u64).await {
                Ok(()) => {}
                Err(error) if classify(&error) == Verdict::GroupMissing => {
                    tracing::info!(
                        "the queue in redis is new or was deleted: creating its streams"
                    );
                    self.queue.claim().await?;
                    let made = self.queue.make_groups().await;
                    made.map_err(|error| fault("creating the streams in redis", error))?;
                }
                Err(error) if classify(&error) == Verdict::Unusable => {
                    let replaced = self.queue.replace_unusable().await;
                    replaced.map_err(|error| fault("replacing a key in redis", error))?;
                }
                Err(error) => return Err(fault("receiving from redis", error)),
            }
        }
        Ok(self.ready.drain(..max.min(self.ready.len())).collect())
    }

    async fn ack(&mut self, deliveries: &[Delivery]) -> Result<(), Fault> {
        let tags: Vec<&Tag> = deliveries.iter().map(|delivery| &delivery.tag).collect();
        for tag in &tags {
            self.held.remove(*tag);
        }
        // Set until the reply arrives, so that pending entries are read again after an error.
        let torn = std::mem::replace(&mut self.torn, true);
        let done = self.queue.forget(&tags).await;
        done.map_err(|error| fault("acking in redis", error))?;
        self.torn = torn;
        Ok(())
    }
}

impl RedisConsumer {
    pub(super) async fn new(queue: Arc<Queue>, name: &str) -> Result<Self, Error> {
        queue.make_groups().await?;
        let link = Link::new(queue.login.clone(), BLOCK + REPLY_TIMEOUT);
        link.client().await?;
        Ok(Self {
            _signs: queue.give_signs(name),
            streams: queue.streams.in_use(),
            // Another one than that of the next consumer.
            turn: queue.streams.turn(),
            queue,
            link,
            name: name.to_owned(),
            ready: VecDeque::new(),
            held: HashSet::new(),
            damaged: Vec::new(),
            // An earlier consumer of this name may have left pending entries.
            torn: true,
            connection: 0,
            pending: Vec::new(),
            dead: Vec::new(),
        })
    }

    /// Adds at least one delivery to `ready`, unless none arrives in time.
    async fn fill(&mut self, max: u64) -> Result<(), Error> {
        let torn = std::mem::replace(&mut self.torn, true);
        self.queue.look_around().await?;
        let streams = self.queue.streams.in_use();
        let before = std::mem::replace(&mut self.streams, streams);
        // One that was empty and has entries again may be that of a promoted replica, too.
        let torn = torn || !Arc::ptr_eq(&before, &self.streams);
        let client = self.link.client().await?;
        // A new connection may lead to another server: a promoted replica that lacks the latest
        // acks. The entries of those acks are still pending there, and no other consumer takes them
        // over while this one is alive.
        let connection = self.link.connections();
        if torn || connection != std::mem::replace(&mut self.connection, connection) {
            self.pending = self.all_from_start();
        }
        let filled = self.fill_from(&client, max).await;
        if let Err(error) = &filled {
            self.link.end_if_hung(client.id(), error).await;
        }
        filled?;
        self.torn = false;
        Ok(())
    }

    async fn fill_from(&mut self, client: &Client, max: u64) -> Result<(), Error> {
        self.read_pending(client, max).await?;
        if self.ready.is_empty() {
            self.take_over(max).await?;
        }
        if self.ready.is_empty() {
            self.read_new(client, max).await?;
        }
        Ok(())
    }

    fn all_from_start(&self) -> Vec<(Arc<str>, String)> {
        let streams = self.streams.iter();
        streams
            .map(|stream| (Arc::clone(&stream.key), START.to_owned()))
            .collect()
    }

    async fn read_pending(&mut self, client: &Client, max: u64) -> Result<(), Error> {
        while self.ready.is_empty() {
            let Some((key, after)) = self.pending.pop() else {
                break;
            };
            let reply = self
                .read(client, max, None, vec![&*key], vec![&*after])
                .await?;
            let entries = entry::by_key(reply, Some(self.queue.key()))
                .pop()
                .map(|(_, entries)| entries);
            let entries = entries.unwrap_or_default();
            // Continues after the last id, until a read returns no entry.
            if let Some((last, _)) = entries.last() {
                self.pending.push((Arc::clone(&key), last.clone()));
            }
            self.absorb(&key, entries, Source::Own);
            self.forget_damaged().await?;
        }
        Ok(())
    }

    /// Takes over entries of dead consumers, and has those without a consumer delivered again.
    async fn take_over(&mut self, max: u64) -> Result<(), Error> {
        let queue = Arc::clone(&self.queue);
        if self.dead.is_empty() {
            self.dead = queue.dead_consumers().await?;
            if queue.is_time_for_orphans() {
                queue.adopt_orphans().await?;
            }
        }
        while self.ready.is_empty() {
            let Some(held) = self.dead.pop() else {
                break;
            };
            let (entries, more) = queue.inherit(&self.name, &held, max).await?;
            if more && !entries.is_empty() {
                self.dead.push(held.clone());
            }
            self.absorb(&held.0, entries, Source::Abandoned);
            self.forget_damaged().await?;
        }
        Ok(())
    }

    async fn read_new(&mut self, client: &Client, max: u64) -> Result<(), Error> {
        let keys: Vec<Arc<str>> = self.streams.iter().map(|it| Arc::clone(&it.key)).collect();
        if !self.queue.is_cluster() {
            let datasets = self
                .streams
                .chunk_by(|one, next| one.dataset == next.dataset);
            // Of each stream, so that all shards of a dataset together return about `max`.
            let shards = keys.len() / datasets.count().max(1);
            let share = max.div_ceil(shards.max(1) as u64);
            return self.read_new_of(client, share, Some(BLOCK), &keys).await;
        }
        // In a cluster, one read cannot cover streams on several servers. So they are read in turn,
        // each by one read.
        let until = Instant::now() + BLOCK;
        while self.ready.is_empty() && Instant::now() < until {
            for _ in 0..keys.len() {
                let left = max.saturating_sub(self.ready.len() as u64);
                if left == 0 {
                    return Ok(());
                }
                let key = self.next_of(&keys);
                self.read_new_of(client, left, None, key).await?;
            }
            if self.ready.is_empty() {
                let key = self.next_of(&keys);
                self.read_new_of(client, max, Some(BLOCK_CLUSTER), key)
                    .await?;
            }
        }
        Ok(())
    }

    /// The key whose turn it is.
    fn next_of<'a>(&mut self, keys: &'a [Arc<str>]) -> &'a [Arc<str>] {
        self.turn = (self.turn + 1) % keys.len();
        std::slice::from_ref(&keys[self.turn])
    }

    async fn read_new_of(
        &mut self,
        client: &Client,
        max: u64,
        block: Option<Duration>,
        keys: &[Arc<str>],
    ) -> Result<(), Error> {
        let ids = vec![">"; keys.len()];
        let names = keys.iter().map(|key| &**key).collect();
        let reply = self.read(client, max, block, names, ids).await?;
        for (name, entries) in entry::by_key(reply, Some(self.queue.key())) {
            if let Some(key) = keys.iter().find(|key| ***key == *name) {
                self.absorb(key, entries, Source::New);
            }
        }
        self.forget_damaged().await
    }

    async fn read(
        &self,
        client: &Client,
        max: u64,
        block: Option<Duration>,
        keys: Vec<&str>,
        ids: Vec<&str>,
    ) -> Result<Value, Error> {
        let block = block.map(|block| u64::try_from(block.as_millis()).unwrap_or(u64::MAX));
        client
            .xreadgroup(GROUP, &*self.name, Some(max), block, false, keys, ids)
            .await
    }

    /// Turns entries into deliveries.
    fn absorb(&mut self, key: &Arc<str>, entries: Vec<Entry>, source: Source) {
        let streams = Arc::clone(&self.streams);
        let stream = streams.iter().find(|stream| stream.key == *key);
        for (id, frame) in entries {
            let tag = Tag {
                stream: Arc::clone(key),
                entry: id,
            };
            let Some(frame) = frame else {
                telemetry::frame_damaged();
                self.damaged.push(tag);
                continue;
            };
            if source == Source::Own && self.held.contains(&tag) {
                continue;
            }
            if let Some(stream) = stream {
                stream.note_weight(&frame);
            }
            self.held.insert(tag.clone());
            self.ready.push_back(Delivery {
                tag,
                frame,
                redelivered: source != Source::New,
            });
        }
    }

    async fn forget_damaged(&mut self) -> Result<(), Error> {
        if self.damaged.is_empty() {
            return Ok(());
        }
        tracing::warn!(
            entries = self.damaged.len(),
            "deleting entries in redis that are not frames of this ledger: damaged ones, or those of \
             another program; give each database a redis_prefix of its own"
        );
        self.queue
            .forget(&self.damaged.iter().collect::<Vec<_>>())
            .await?;
        self.damaged.clear();
        Ok(())
    }
}
