//! Seam 1: the broker carries frames from ingest to the workers.
//!
//! It is transport, never truth. A broker may deliver a frame twice, deliver it after it was
//! acked, or lose it: the ledger tells ingest what has to be published again. What it must not do
//! is grow without bound; [`Broker::publish`] waits instead.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::batch::Span;
use crate::dataset::Datasets;
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::frame::{Codec, Frame};

pub mod memory;
pub mod redis;

/// What an operator may choose about a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerOptions {
    /// Most bytes of frames that the queue holds before publishers wait.
    pub queue_bytes_max: u64,
    /// The prefix of each key, so that several engines can share a server: letters, digits and
    /// `-`, `_`, `.`, `:`.
    pub namespace: String,
    /// How long a frame may stay in the hands of a consumer that shows no sign of life before
    /// another one takes it over. Shorter than a slow commit costs work done twice, never a row
    /// stored twice; longer delays what a dead worker held.
    pub claim_idle: Duration,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            // Seconds of work for a fast database, and small beside the memory of any server.
            queue_bytes_max: 256 << 20,
            namespace: "lemonade".to_owned(),
            claim_idle: Duration::from_secs(60),
        }
    }
}

/// The broker that the URL names: `memory:`, or one of [`redis::SCHEMES`]. Frames of the given
/// datasets may be published and are received; frames of another one are a bug of the caller.
///
/// A server is asked for once, so that a wrong password shows at the start and not in the night.
///
/// # Errors
/// Fatal where the URL, the options or the credentials are wrong; transient where the server
/// cannot be reached now: call again.
pub async fn open(
    url: &str,
    options: &BrokerOptions,
    datasets: &Datasets,
) -> Result<Arc<dyn Broker>, Fault> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    if scheme == "memory" {
        return Ok(Arc::new(memory::MemoryBroker::new(options.queue_bytes_max)));
    }
    if redis::SCHEMES.contains(&scheme) {
        return Ok(Arc::new(
            redis::RedisBroker::open(url, options, datasets).await?,
        ));
    }
    // The scheme alone: the rest of a URL may hold a password.
    Err(Fault::fatal(
        Origin::Broker,
        "cannot tell the broker from its URL; use `memory:`, `redis://host:6379` (`rediss://` with \
         TLS), `redis-cluster://host:6379?node=host:6379` or `redis+unix:///path`",
        format!("`{scheme}:` is none of them"),
    ))
}

/// The publishing side, and the way to the receiving one.
#[async_trait]
pub trait Broker: Send + Sync {
    /// How frames for this broker are best encoded.
    fn codec(&self) -> Codec;

    /// Hands frames over, in one pipeline where there is a wire. Waits while the queue holds more
    /// bytes than it may: this wait is the backpressure of the whole engine. A frame that is larger
    /// than the whole queue passes alone.
    ///
    /// # Errors
    /// After an error each of the frames may have arrived, or not: publish them all again, and
    /// leave the rest to the ledger.
    async fn publish(&self, frames: &[Frame]) -> Result<(), Fault>;

    /// A consumer of its own. What an earlier consumer of this name received and never acked is
    /// delivered first.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn consumer(&self, name: &str) -> Result<Box<dyn Consumer>, Fault>;

    /// What of the server's settings matters, for `doctor`.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn inspect(&self) -> Result<Vec<Finding>, Fault>;

    /// What is in the queue, delivered or not, and not yet acked. A frame that was published and
    /// is not acked counts; so `frames == 0` says that what the ledger lacks is in no queue.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn depth(&self) -> Result<Depth, Fault>;

    /// How long the oldest frame of each stream has been in it, by the name of its dataset, or
    /// `memory` for the one queue of a process; nothing where a stream is empty.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Fault>;

    /// The oldest `max` entries of each stream, oldest first, stream by stream. Takes none of them
    /// and changes nothing; each is told as it stood at some moment of the call.
    ///
    /// # Errors
    /// A fault of the connection.
    async fn peek(&self, max: usize) -> Result<Vec<Queued>, Fault>;
}

/// One receiver; it is owned by one worker.
#[async_trait]
pub trait Consumer: Send {
    /// Waits for frames and takes at most `max`. Returns none after a while without any, so that the
    /// caller can look whether it is to stop; dropping the future loses nothing that the broker
    /// would not deliver again. An entry that is no frame is forgotten (and counted): the ledger
    /// brings its records back.
    ///
    /// # Errors
    /// A fault of the connection; call again.
    async fn receive(&mut self, max: usize) -> Result<Vec<Delivery>, Fault>;

    /// Lets the broker forget these. Called after the commit, never before.
    ///
    /// # Errors
    /// After an error the frames may be delivered again; that is harmless.
    async fn ack(&mut self, deliveries: &[Delivery]) -> Result<(), Fault>;
}

/// A frame in a worker's hands.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The broker's own name of the entry.
    pub tag: Tag,
    /// The frame.
    pub frame: Frame,
    /// Whether the broker knows that it was delivered before.
    pub redelivered: bool,
}

/// A broker's own name of an entry: where it stands and which one it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The stream.
    pub stream: Arc<str>,
    /// The entry.
    pub entry: String,
}

/// An entry of the queue, seen in passing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The dataset of its stream.
    pub dataset: Arc<str>,
    /// The broker's own name of the entry.
    pub entry: String,
    /// Its records, and its weight in bytes; `None` where it is no frame, and will be forgotten.
    pub frame: Option<(Span, u64)>,
    /// How long it has been in the queue.
    pub age: Duration,
    /// Whose hands it is in; `None` where it waits.
    pub owner: Option<Owner>,
}

/// Who has an entry in hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The name of the consumer.
    pub consumer: String,
    /// For how long, since it was last delivered.
    pub held_for: Duration,
    /// How often it was delivered, to whomever.
    pub deliveries: u64,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depth {
    /// Frames published and not acked.
    pub frames: u64,
    /// Of these, the ones in a worker's hands.
    pub pending: u64,
    /// Their weight in bytes; over a wire an estimate.
    pub bytes: u64,
}
