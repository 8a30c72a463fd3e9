//! Seam 1: the broker carries frames from ingest to the workers.
//!
//! A broker is transport, never truth. It may deliver a frame twice, deliver it after it was acked,
//! or lose it: ingest finds in the ledger what to publish again. A broker must not grow without
//! bound; [`Broker::publish`] waits instead.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::batch::Span;
use crate::fault::Fault;
use crate::finding::Finding;
use crate::frame::{Codec, Frame, FrameKey};
use crate::reread::Reread;

pub mod memory;
mod open;
pub mod redis;

pub use open::open;

/// The prefix of the keys in Redis, if no other is set.
pub const PREFIX: &str = "lemonade";

/// The options of a broker.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Bytes of frames in the queue above which publishers wait.
    pub queue_bytes_max: u64,
    /// The prefix of each key, so that engines can share a server. Letters, digits, `-`, `_`, `.`,
    /// `:`.
    pub namespace: String,
    /// Streams into which the frames of a dataset are published, from 1 to
    /// [`redis::SHARDS_MAX`]: in a Redis Cluster, each is on the server of its slot. Frames in
    /// streams of another number are received as well. Not used by the in-process queue.
    pub shards: u16,
    /// The key of the checksums of frames. A queue on a server needs it to publish and to receive.
    /// `None` if frames are only counted and listed, or for the in-process queue.
    pub key: Option<FrameKey>,
    /// The ledger whose queue this is. A queue on a server is refused if it is of another ledger.
    /// `None` if frames are only counted and listed, or for the in-process queue.
    pub claim: Option<Claim>,
    /// A consumer that gives no sign of life for this long is dead, and another one takes over its
    /// frames, at most 1.6 times as long after the last sign. If shorter than a pause of a host, work
    /// is done twice, but never a row stored twice. If longer, the frames of a dead worker wait longer.
    pub dead_after: Duration,
    /// Where the URL is read again if the server refuses the login. `None` if it is in no file.
    pub reread: Option<Reread>,
}

/// The ledger that a queue belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What tells it from any other ledger. Empty for one that no start has made yet.
    pub ledger: String,
    /// The database that it is in, for messages, without a login.
    pub database: String,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            // Seconds of work for a fast database, and little memory for any server.
            queue_bytes_max: 256 << 20,
            namespace: PREFIX.to_owned(),
            shards: 1,
            key: None,
            claim: None,
            dead_after: Duration::from_secs(5),
            reread: None,
        }
    }
}

/// The publishing side of the queue. Opens consumers for the receiving side.
#[async_trait]
pub trait Broker: Send + Sync {
    /// The encoding of frames that suits this broker best.
    fn codec(&self) -> Codec;

    /// Publishes frames, in one round trip if the broker is a server. Waits while the queue is
    /// full: this wait is the backpressure of the whole engine. A frame larger than the queue
    /// passes alone.
    ///
    /// # Errors
    /// After an error, it is unknown for each frame whether it was published. Publish all of them
    /// again: the ledger ignores frames that arrive twice.
    async fn publish(&self, frames: &[Frame]) -> Result<(), Fault>;

    /// Opens a consumer. It first receives the frames that an earlier consumer of this name
    /// received and did not ack. Until it is dropped, it gives signs of life, however long its owner
    /// works on a frame: no other consumer takes over its frames.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn consumer(&self, name: &str) -> Result<Box<dyn Consumer>, Fault>;

    /// Checks the settings of the server, for `doctor`, and whether it lets in the ledger of `ours`.
    /// `None`: it is not known which ledger it is. Claims nothing.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn inspect(&self, ours: Option<&Claim>) -> Result<Vec<Finding>, Fault>;

    /// Counts the frames in the queue: published and not acked, delivered or not. So with `frames
    /// == 0`, frames that the ledger lacks are not in the queue.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn depth(&self) -> Result<Depth, Fault>;

    /// The age of the oldest frame of each dataset, zero if none is in the queue. The name is that of
    /// the dataset, or `memory` for the in-process queue.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Fault>;

    /// How long frames have waited while no worker of any process has read the queue. Zero if the
    /// queue is empty, or is in this process.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn unread_for(&self) -> Result<Duration, Fault>;

    /// The oldest `max` entries of each dataset, dataset by dataset. The entries stay in the queue,
    /// and nothing changes. Each entry is reported as of some moment during the call.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn peek(&self, max: usize) -> Result<Vec<Queued>, Fault>;
}

/// A receiver, owned by one worker.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for frames and returns at most `max`. Returns none after a while without frames, so
    /// that the caller can stop. If the future is dropped, the broker delivers its frames again. An
    /// entry that is not a frame is counted and deleted: ingest publishes its records again.
    ///
    /// # Errors
    /// A fault of the connection; call again.
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Fault>;

    /// Deletes these frames from the queue. Called after the commit, never before.
    ///
    /// # Errors
    /// After an error, the frames may be delivered again, which is harmless.
    async fn ack(&mut self, deliveries: &[Delivery]) -> Result<(), Fault>;
}

/// A frame that a worker has received.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The broker's name of the entry.
    pub tag: Tag,
    /// The frame.
    pub frame: Frame,
    /// Whether the broker knows that the frame was delivered before.
    pub redelivered: bool,
}

/// A broker's name of an entry: its stream and its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The key of the stream.
    pub stream: Arc<str>,
    /// The id of the entry in the stream.
    pub entry: String,
}

/// An entry of the queue, as [`Broker::peek`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The dataset of its stream.
    pub dataset: Arc<str>,
    /// The key of its stream, `memory` for the in-process queue.
    pub stream: Arc<str>,
    /// The broker's name of the entry.
    pub entry: String,
    /// Its records, and its weight in bytes. `None` if the entry is not a frame and will be
    /// deleted.
    pub frame: Option<(Span, u64)>,
    /// How long it has been in the queue.
    pub age: Duration,
    /// The consumer that has received it; `None` if it waits.
    pub owner: Option<Owner>,
}

/// The consumer that has received an entry and not acked it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The name of the consumer.
    pub consumer: String,
    /// Time since the last delivery.
    pub held_for: Duration,
    /// Number of deliveries, to any consumer.
    pub deliveries: u64,
}

/// The size of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Frames published and not acked.
    pub frames: u64,
    /// How many of the frames workers have received.
    pub pending: u64,
    /// The bytes of all frames. An estimate if the queue is in Redis.
    pub bytes: u64,
}
