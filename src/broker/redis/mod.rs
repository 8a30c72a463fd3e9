//! Redis Streams: one stream per dataset, one consumer group over all of them.
//!
//! An entry is a frame; it is deleted when it is acked, so a stream holds what is not committed and
//! nothing else, and its length is the length of the queue. That length bounds the queue: publishers
//! wait, and nothing is ever trimmed. Redis may lose everything at any time (FLUSHALL, an empty
//! restart, a failover): streams and groups are made again on the way, and what is missing then
//! is the ledger's business.
//!
//! Publishing, acks and questions share one connection and are pipelined; each consumer has one of
//! its own, since a blocked read holds up what is behind it.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, StreamsInterface};
use fred::rustls::pki_types::CertificateDer;
use fred::rustls::pki_types::pem::PemObject;
use fred::rustls::{ClientConfig, RootCertStore};
use fred::types::config::{Config, Server, TlsConnector};
use fred::types::{ClusterHash, CustomCommand, Value};
use parking_lot::Mutex;

use self::consumer::RedisConsumer;
use self::link::{Link, REPLY_TIMEOUT};
use self::verdict::{Verdict, classify, fault};
use super::{Broker, BrokerOptions, Consumer, Depth, Queued, Tag};
use crate::dataset::Datasets;
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::frame::{Codec, Frame};
use crate::telemetry::{self, Stage};
use crate::tls::split_ca;

mod consumer;
mod entry;
mod link;
mod oldest;
mod orphans;
mod peek;
mod verdict;

/// The schemes of the URLs that lead here.
pub const SCHEMES: [&str; 5] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis+unix",
];

/// The consumer group of all workers.
const GROUP: &str = "workers";

/// Bytes of frames in one round trip. Larger keeps others on the shared connection waiting;
/// smaller pays for more round trips.
const ROUND_TRIP_BYTES_MAX: u64 = 2 << 20;

/// The part of the queue that a round trip may fill: a publisher should not wait until a small
/// queue is empty because it wants to add much at once.
const ROUND_TRIP_QUEUE_PART: u64 = 4;

/// Waits between looks at a full queue: short at first, since a commit may end at any moment, and
/// never so long that workers run dry.
const FULL_WAIT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Frames after which a mean weight halves what it remembers: enough to be steady, few enough to
/// follow when other files come.
const MEAN_FRAMES_MAX: u64 = 1024;

/// Frames in Redis Streams.
pub struct RedisBroker {
    queue: Arc<Queue>,
}

/// What publishers and consumers share.
struct Queue {
    config: Config,
    link: Link,
    streams: Vec<Stream>,
    options: BrokerOptions,
    /// Whether frames were sent of which no reply says that they are in the queue or not: the
    /// lengths of the streams are to be asked for.
    is_unsure: AtomicBool,
    /// Where it is waited for, for messages: no credentials.
    address: String,
}

struct Stream {
    dataset: Arc<str>,
    key: Arc<str>,
    /// Its length when it was last asked for.
    length: AtomicU64,
    weight: Mutex<Mean>,
}

/// A line of the answer to INFO.
fn setting<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(of).map(str::trim)
}

/// A mean over the frames seen lately.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    frames: u64,
    bytes: u64,
}

impl RedisBroker {
    /// Connects, and looks whether the server is fit for a queue.
    ///
    /// # Errors
    /// See [`super::open`].
    pub async fn open(
        url: &str,
        options: &BrokerOptions,
        datasets: &Datasets,
    ) -> Result<Self, Fault> {
        let config = config_of(url).map_err(|error| fault("reading its URL", error))?;
        check_namespace(&options.namespace)?;
        let address = |server: &Server| match server.port {
            0 => server.host.to_string(),
            port => format!("{}:{port}", server.host),
        };
        let streams = datasets.iter().map(|dataset| Stream {
            dataset: dataset.name.as_str().into(),
            // Braces: the part that a cluster places the key by.
            key: format!("{}:{{{}}}:frames", options.namespace, dataset.name).into(),
            length: AtomicU64::new(0),
            weight: Mutex::default(),
        });
        let queue = Queue {
            link: Link::new(&config, REPLY_TIMEOUT),
            streams: streams.collect(),
            options: options.clone(),
            is_unsure: AtomicBool::new(false),
            address: config
                .server
                .hosts()
                .iter()
                .map(address)
                .collect::<Vec<_>>()
                .join(", "),
            config,
        };
        let doing = || format!("connecting to redis at {}", queue.address);
        queue
            .check_server()
            .await
            .map_err(|error| fault(&doing(), error))?;
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

    /// The bytes of the queue are an estimate: the streams' lengths, which all publishers share,
    /// times the mean weight of the frames that this process has seen. It may be exceeded by a
    /// round trip a publisher. A server out of memory is waited for like a full queue.
    async fn publish(&self, frames: &[Frame]) -> Result<(), Fault> {
        let part = self.queue.options.queue_bytes_max / ROUND_TRIP_QUEUE_PART;
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

    async fn inspect(&self) -> Result<Vec<Finding>, Fault> {
        let found = self.queue.inspect().await;
        found.map_err(|error| fault("asking redis how it is", error))
    }

    async fn depth(&self) -> Result<Depth, Fault> {
        self.queue
            .depth()
            .await
            .map_err(|error| fault("asking redis for its depth", error))
    }

    /// By this machine's clock, where the names of entries are by that of Redis.
    async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Fault> {
        let oldest = self.queue.oldest().await;
        oldest.map_err(|error| fault("asking redis for its oldest frames", error))
    }

    /// Ages by this machine's clock, as those of [`oldest`](Broker::oldest).
    async fn peek(&self, max: usize) -> Result<Vec<Queued>, Fault> {
        let queued = self.queue.peek(max).await;
        queued.map_err(|error| fault("looking into the queue in redis", error))
    }
}

/// The client's configuration for a URL, with whom it trusts.
fn config_of(url: &str) -> Result<Config, Error> {
    fn wrong(error: impl Display) -> Error {
        Error::new(ErrorKind::Tls, error.to_string())
    }
    let (url, authority) = split_ca(url).map_err(wrong)?;
    let mut config = Config::from_url(&url)?;
    let Some(certificates) = authority else {
        return Ok(config);
    };
    if config.tls.is_none() {
        return Err(Error::new(ErrorKind::Config, "`ca` needs TLS: `rediss://`"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&certificates) {
        roots.add(certificate.map_err(wrong)?)?;
    }
    let client = ClientConfig::builder().with_root_certificates(roots);
    config.tls = Some(TlsConnector::from(client.with_no_client_auth()).into());
    Ok(config)
}

/// How many frames go into the next round trip: at least one.
fn round_trip(frames: &[Frame], bytes_max: u64) -> usize {
    let mut bytes = 0;
    let fit = frames.iter().take_while(|frame| {
        bytes += frame.weight() as u64;
        bytes <= bytes_max
    });
    fit.count().max(1)
}

fn check_namespace(namespace: &str) -> Result<(), Fault> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if !namespace.is_empty() && namespace.bytes().all(fits) {
        return Ok(());
    }
    Err(Fault::fatal(
        Origin::Broker,
        "cannot name the keys of the queue; use letters, digits and `-`, `_`, `.`, `:`",
        format!("`{namespace}` is no namespace"),
    ))
}

impl Queue {
    fn is_cluster(&self) -> bool {
        self.config.server.is_clustered()
    }

    /// One question that shows whether the server can be reached with these credentials, and
    /// whether it keeps what it is given.
    async fn check_server(&self) -> Result<(), Error> {
        let client = self.link.client().await?;
        let info = match self.link.ask(&client, client.info::<String>(None)).await {
            Ok(info) => info,
            Err(error) if error.details().starts_with("NOPERM") => {
                tracing::warn!("redis does not let this user see INFO: its settings are unchecked");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let setting = |name| setting(&info, name);
        if setting("cluster_enabled") == Some("1") && !self.is_cluster() {
            return Err(Error::new(
                ErrorKind::Unknown,
                "CROSSSLOT streams of a cluster lie on several servers",
            ));
        }
        if let Some(policy) = setting("maxmemory_policy").filter(|policy| *policy != "noeviction") {
            tracing::warn!(
                policy,
                "redis may evict the queue: set maxmemory-policy to noeviction on this server"
            );
        }
        Ok(())
    }

    async fn inspect(&self) -> Result<Vec<Finding>, Error> {
        let client = self.link.client().await?;
        let info = self.link.ask(&client, client.info::<String>(None)).await?;
        let of = |name| setting(&info, name).unwrap_or("unknown");
        let version = of("redis_version");
        let policy = of("maxmemory_policy");
        let maxmemory = of("maxmemory");
        Ok(vec![
            Finding::ok(format!("redis {version} at {}", self.address)),
            Finding::expect(
                policy == "noeviction",
                format!("maxmemory-policy is {policy}"),
                "set it to noeviction: another policy may evict the queue, whose records are then \
                 read from the files again",
            ),
            Finding::expect(
                maxmemory != "0",
                format!("maxmemory is {maxmemory} bytes"),
                "set a limit well above `queue_bytes`, so that a mistake elsewhere cannot take all \
                 memory",
            ),
        ])
    }

    fn stream_of(&self, dataset: &str) -> &Stream {
        let stream = self
            .streams
            .iter()
            .find(|stream| *stream.dataset == *dataset);
        stream.expect("frames are of the datasets that the broker was opened with")
    }

    async fn publish(&self, frames: &[Frame]) -> Result<(), Error> {
        let mut left: Vec<&Frame> = frames.iter().collect();
        for frame in frames {
            self.stream_of(&frame.dataset).note_weight(frame);
        }
        let mut pause = Pause::default();
        loop {
            self.wait_for_room(&left).await?;
            let added = self.add(&left).await;
            if added.is_err() {
                self.is_unsure.store(true, Ordering::Relaxed);
            }
            left = added?;
            if left.is_empty() {
                return Ok(());
            }
            telemetry::broker_error();
            if pause.is_first() {
                tracing::warn!("redis is out of memory: publishing waits until it has some");
            }
            pause.wait().await;
        }
    }

    /// Waits while the queue is full; see [`Broker::publish`] on what full means.
    async fn wait_for_room(&self, frames: &[&Frame]) -> Result<(), Error> {
        let bytes: u64 = frames.iter().map(|frame| frame.weight() as u64).sum();
        let has_room = || match self.estimate() {
            (0, _) => true,
            (_, queued) => queued + bytes <= self.options.queue_bytes_max,
        };
        if !self.is_unsure.load(Ordering::Relaxed) && has_room() {
            return Ok(());
        }
        // The lengths are as old as the last reply: ask before waiting.
        let mut pause = Pause::default();
        loop {
            self.update_lengths().await?;
            self.is_unsure.store(false, Ordering::Relaxed);
            if has_room() {
                return Ok(());
            }
            pause.wait().await;
        }
    }

    /// Frames and bytes in the queue, as of the last reply.
    fn estimate(&self) -> (u64, u64) {
        let streams = self.streams.iter().map(|stream| {
            let length = stream.length.load(Ordering::Relaxed);
            (length, length * stream.mean())
        });
        streams.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1))
    }

    /// Adds the frames in one round trip, and gives those back for which the server had no memory.
    async fn add<'a>(&self, frames: &[&'a Frame]) -> Result<Vec<&'a Frame>, Error> {
        let pipeline = self.link.client().await?.pipeline();
        for frame in frames {
            let key = &*self.stream_of(&frame.dataset).key;
            // Without a limit of length: that would throw away what nobody has read.
            let () = pipeline
                .xadd(key, false, None::<()>, "*", entry::fields(frame))
                .await?;
        }
        for stream in &self.streams {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let mut results = self
            .link
            .run(pipeline, frames.len() + self.streams.len())
            .await?
            .into_iter();
        let mut refused = Vec::new();
        for (frame, result) in frames.iter().zip(&mut results) {
            match result {
                Ok(_) => {}
                Err(error) if classify(&error) == Verdict::Full => refused.push(*frame),
                Err(error) => return Err(error),
            }
        }
        for (stream, result) in self.streams.iter().zip(results) {
            stream
                .length
                .store(result?.as_u64().unwrap_or(0), Ordering::Relaxed);
        }
        Ok(refused)
    }

    /// Asks for the lengths of the streams.
    async fn update_lengths(&self) -> Result<(), Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let lengths = self.link.run(pipeline, self.streams.len()).await?;
        for (stream, length) in self.streams.iter().zip(lengths) {
            stream
                .length
                .store(length?.as_u64().unwrap_or(0), Ordering::Relaxed);
        }
        Ok(())
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline.xlen(&*stream.key).await?;
            let () = pipeline.xpending(&*stream.key, GROUP, ()).await?;
        }
        let results = self.link.run(pipeline, self.streams.len() * 2).await?;
        let mut results = results.into_iter();
        let mut depth = Depth::default();
        for stream in &self.streams {
            let length = results
                .next()
                .transpose()?
                .and_then(|length| length.as_u64());
            let length = length.unwrap_or(0);
            stream.length.store(length, Ordering::Relaxed);
            depth.frames += length;
            depth.bytes += match stream.mean() {
                0 if length > 0 => self.memory_usage(stream).await?,
                mean => length * mean,
            };
            // The summary: [count, lowest id, highest id, consumers].
            match results.next() {
                Some(Ok(Value::Array(summary))) => {
                    depth.pending += summary.first().and_then(Value::as_u64).unwrap_or(0);
                }
                Some(Err(error)) if classify(&error) != Verdict::GroupMissing => return Err(error),
                _ => {}
            }
        }
        Ok(depth)
    }

    /// For a process that has seen no frame of this stream.
    async fn memory_usage(&self, stream: &Stream) -> Result<u64, Error> {
        let client = self.link.client().await?;
        let command = CustomCommand::new_static("MEMORY", ClusterHash::Offset(1), false);
        let words = vec!["USAGE", &*stream.key, "SAMPLES", "5"];
        let bytes = client.custom::<Value, _>(command, words);
        Ok(self.link.ask(&client, bytes).await?.as_u64().unwrap_or(0))
    }

    /// Makes what is not there of streams and groups. A group begins at the stream's beginning, so
    /// what was published before it is not lost.
    async fn make_groups(&self) -> Result<(), Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline
                .xgroup_create(&*stream.key, GROUP, "0", true)
                .await?;
        }
        for result in self.link.run(pipeline, self.streams.len()).await? {
            match result {
                Err(error) if !error.details().starts_with("BUSYGROUP") => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes and acks these entries in one round trip. In this order: where only the first takes
    /// effect, the group still names the entry, and a consumer that meets the name forgets it;
    /// the other way round, an entry that no group knows would count as queued for ever.
    async fn forget(&self, tags: &[&Tag]) -> Result<(), Error> {
        let pipeline = self.link.client().await?.pipeline();
        let mut commands = 0;
        for stream in &self.streams {
            let of_stream = tags.iter().filter(|tag| tag.stream == stream.key);
            let ids: Vec<&str> = of_stream.map(|tag| tag.entry.as_str()).collect();
            if ids.is_empty() {
                continue;
            }
            let () = pipeline.xdel(&*stream.key, ids.clone()).await?;
            let () = pipeline.xack(&*stream.key, GROUP, ids).await?;
            commands += 2;
        }
        if commands == 0 {
            return Ok(());
        }
        self.link
            .run(pipeline, commands)
            .await?
            .into_iter()
            .try_for_each(|result| result.map(drop))
    }
}

impl Stream {
    fn note_weight(&self, frame: &Frame) {
        let mut mean = self.weight.lock();
        if mean.frames == MEAN_FRAMES_MAX {
            *mean = Mean {
                frames: mean.frames / 2,
                bytes: mean.bytes / 2,
            };
        }
        mean.frames += 1;
        mean.bytes += frame.weight() as u64;
    }

    /// The mean weight of the stream's frames in bytes; 0 where none was seen.
    fn mean(&self) -> u64 {
        let mean = *self.weight.lock();
        mean.bytes.checked_div(mean.frames).unwrap_or(0)
    }
}

/// A wait that grows, and counts as backpressure.
#[derive(Debug, Default)]
struct Pause {
    last: Duration,
}

impl Pause {
    fn is_first(&self) -> bool {
        self.last.is_zero()
    }

    async fn wait(&mut self) {
        self.last = (self.last * 2).clamp(FULL_WAIT.0, FULL_WAIT.1);
        let _held_up = telemetry::backpressure(Stage::Publish);
        tokio::time::sleep(self.last).await;
    }
}
