//! Redis Streams: one stream per dataset and shard, one consumer group over all of them.
//!
//! An entry is a frame. It is deleted when it is acked, so the length of a stream is the number of
//! its frames that are not committed. The length bounds the queue: publishers wait, and nothing is
//! ever trimmed. Redis may lose everything at any time (FLUSHALL, a restart without data, a
//! failover): streams and groups are then created again, and ingest publishes the frames that the
//! ledger lacks.
//!
//! Publishing, acks and queries are pipelined over one connection. Each consumer has its own,
//! because a blocked read delays all later commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use async_trait::async_trait;
use fred::error::Error;
use fred::types::config::Server;

use self::address::config_of;
use self::consumer::RedisConsumer;
use self::link::{Link, REPLY_TIMEOUT};
use self::queue::Queue;
pub use self::shards::SHARDS_MAX;
use self::silence::Searches;
use self::streams::Streams;
use self::verdict::fault;
use super::{Broker, BrokerOptions, Claim, Consumer, Depth, Queued};
use crate::dataset::Datasets;
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::frame::{Codec, Frame};
use crate::reread::Login;

mod address;
mod alive;
mod consumer;
mod entry;
mod link;
mod look;
mod oldest;
mod orphans;
mod owner;
mod peek;
mod queue;
mod readers;
mod refused;
mod replace;
mod shards;
mod silence;
mod streams;
mod verdict;

/// Pauses between attempts to claim the prefix at the start: the client may be reconnecting.
const CLAIM_PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
];

/// The URL schemes of this broker.
pub const SCHEMES: [&str; 5] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis+unix",
];

/// Most bytes of frames in one round trip. More would delay other commands on the shared
/// connection; fewer would cost more round trips.
const ROUND_TRIP_BYTES_MAX: u64 = 2 << 20;

/// A round trip fills at most one part in this many of the queue. Otherwise a publisher would wait
/// until a small queue is almost empty.
const ROUND_TRIP_QUEUE_PART: u64 = 4;

/// The queue in Redis Streams.
pub struct RedisBroker {
    queue: Arc<Queue>,
}

impl RedisBroker {
    /// Connects, and checks whether the server suits a queue.
    ///
    /// # Errors
    /// See [`super::open`].
    pub async fn open(
        url: &str,
        options: &BrokerOptions,
        datasets: &Datasets,
    ) -> Result<Self, Fault> {
        let config = config_of(url).map_err(|error| bad_url(&error))?;
        check_namespace(&options.namespace)?;
        let address = |server: &Server| match server.port {
            0 => server.host.to_string(),
            port => format!("{}:{port}", server.host),
        };
        if !(1..=SHARDS_MAX).contains(&options.shards) {
            let cause = format!("{} is not a number from 1 to {SHARDS_MAX}", options.shards);
            return Err(
                Fault::fatal(Origin::Broker, "dividing the queue into shards", cause)
                    .with_next_step("correct queue_shards"),
            );
        }
        let names = datasets.iter().map(|dataset| dataset.name.as_str());
        let streams = Streams::new(&options.namespace, names, options.shards);
        let is_clustered = config.server.is_clustered();
        let hosts = config.server.hosts();
        let hosts = hosts.iter().map(address).collect::<Vec<_>>().join(", ");
        let login = Arc::new(Login::new(url, config, options.reread.clone()));
        let queue = Queue {
            link: Link::new(login.clone(), REPLY_TIMEOUT),
            streams,
            options: options.clone(),
            is_unsure: AtomicBool::new(false),
            address: hosts,
            is_clustered,
            login,
            searches: Searches::default(),
            claimed: AtomicU64::new(0),
        };
        let doing = || format!("connecting to redis at {}", queue.address);
        queue
            .check_server()
            .await
            .map_err(|error| fault(&doing(), error))?;
        // A lost request or reply costs further attempts, as it does in all that follows.
        let mut pauses = CLAIM_PAUSES.into_iter();
        while let Err(fault) = queue.claim().await {
            match pauses.next() {
                Some(pause) if fault.is_transient() => tokio::time::sleep(pause).await,
                _ => return Err(fault),
            }
        }
        let looked = queue.look_around().await;
        looked.map_err(|error| fault(&doing(), error))?;
        Ok(Self {
            queue: Arc::new(queue),
        })
    }
}

#[async_trait]
impl Broker for RedisBroker {
    fn codec(&self) -> Codec {
        Codec::Lz4
    }

    /// The bytes of the queue are an estimate: the lengths of the streams, which all publishers
    /// share, times the mean weight of the frames that this process has seen. Each publisher may
    /// exceed the bound by one round trip. A server that is out of memory counts as a full queue.
    async fn publish(&self, frames: &[Frame]) -> Result<(), Fault> {
        let part = self.queue.options.queue_bytes_max / ROUND_TRIP_QUEUE_PART;
        self.queue.claim_if_reconnected().await?;
        let mut rest = frames;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(round_trip(rest, part.min(ROUND_TRIP_BYTES_MAX)));
            self.queue
                .publish(now)
                .await
                .map_err(|error| fault("publishing to redis", error))?;
            rest = later;
        }
        Ok(())
    }

    async fn consumer(&self, name: &str) -> Result<Box<dyn Consumer>, Fault> {
        let consumer = RedisConsumer::new(Arc::clone(&self.queue), name).await;
        let consumer = consumer.map_err(|error| fault("joining the group in redis", error))?;
        Ok(Box::new(consumer))
    }

    async fn inspect(&self, ours: Option<&Claim>) -> Result<Vec<Finding>, Fault> {
        let found = self.queue.inspect(ours).await;
        found.map_err(|error| fault("checking redis", error))
    }

    async fn depth(&self) -> Result<Depth, Fault> {
        self.queue
            .depth()
            .await
            .map_err(|error| fault("reading the length of the queue in redis", error))
    }

    /// Compares the clock of this machine with ids of entries, which are by the clock of Redis.
    async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Fault> {
        let oldest = self.queue.oldest().await;
        oldest.map_err(|error| fault("reading the age of the queue in redis", error))
    }

    /// A worker that lives reads the queue, also while it waits for the database.
    async fn unread_for(&self) -> Result<Duration, Fault> {
        let unread = self.queue.unread_for().await;
        unread.map_err(|error| fault("asking redis for the readers of the queue", error))
    }

    /// Ages are measured as in [`oldest`](Broker::oldest).
    async fn peek(&self, max: usize) -> Result<Vec<Queued>, Fault> {
        let queued = self.queue.peek(max).await;
        queued.map_err(|error| fault("listing the queue in redis", error))
    }
}

/// The fault of a URL that cannot be read. The client has no kind for some of these errors, such as a
/// database that is no number.
fn bad_url(error: &Error) -> Fault {
    let next_step = "check the URL of the broker: redis://HOST:PORT/DATABASE, where DATABASE is the \
                     number of a database of the server, or nothing";
    let known = fault("reading the URL of redis", error.clone());
    if known.is_transient() {
        let (doing, cause) = ("reading the URL of redis failed", error.clone());
        return Fault::fatal(Origin::Broker, doing, cause).with_next_step(next_step);
    }
    known
}

/// The number of frames for the next round trip; at least one.
fn round_trip(frames: &[Frame], bytes_max: u64) -> usize {
    let mut bytes = 0;
    let fit = frames.iter().take_while(|frame| {
        bytes += frame.weight() as u64;
        bytes <= bytes_max
    });
    fit.count().max(1)
}

/// Whether a text can begin the keys of a queue. Braces and blanks would change what a key means to
/// a cluster or an ACL.
#[must_use]
pub fn is_prefix(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    !text.is_empty() && text.bytes().all(fits)
}

fn check_namespace(namespace: &str) -> Result<(), Fault> {
    if is_prefix(namespace) {
        return Ok(());
    }
    let cause = format!("`{namespace}` is not a valid namespace");
    Err(
        Fault::fatal(Origin::Broker, "naming the keys of the queue", cause)
            .with_next_step("use letters, digits and `-`, `_`, `.`, `:`"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_read_is_fatal() {
        for url in ["redis://h:1/abc", "redis://h:1/-1", "redis://h:99999"] {
            let Err(error) = config_of(url) else {
                panic!("{url} is read");
            };
            let fault = bad_url(&error);
            assert!(!fault.is_transient(), "{url}: {fault}");
            assert!(fault.to_string().contains("URL of the broker"), "{fault}");
        }
    }
}
