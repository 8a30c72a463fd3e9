//! Redis Streams: one stream per dataset, one consumer group over all of them.
//!
//! An entry is a frame. It is deleted when it is acked, so the length of a stream is the number of
//! its frames that are not committed. The length bounds the queue: publishers wait, and nothing is
//! ever trimmed. Redis may lose everything at any time (FLUSHALL, a restart without data, a
//! failover): streams and groups are then created again, and ingest publishes the frames that the
//! ledger lacks.
//!
//! Publishing, acks and queries are pipelined over one connection. Each consumer has its own,
//! because a blocked read delays all later commands.

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
use self::replace::{Refused, length_of};
use self::verdict::{Verdict, classify, fault};
use super::{Broker, BrokerOptions, Consumer, Depth, Queued, Tag};
use crate::dataset::Datasets;
use crate::fault::{Fault, Origin};
use crate::finding::Finding;
use crate::frame::{Codec, Frame};
use crate::retry::Struggle;
use crate::telemetry::{self, Stage};
use crate::tls::split_ca;

mod consumer;
mod entry;
mod link;
mod oldest;
mod orphans;
mod peek;
mod replace;
mod verdict;

/// The URL schemes of this broker.
pub const SCHEMES: [&str; 5] = [
    "redis",
    "rediss",
    "redis-cluster",
    "rediss-cluster",
    "redis+unix",
];

/// The consumer group of all workers.
const GROUP: &str = "workers";

/// Most bytes of frames in one round trip. More would delay other commands on the shared
/// connection; fewer would cost more round trips.
const ROUND_TRIP_BYTES_MAX: u64 = 2 << 20;

/// A round trip fills at most one part in this many of the queue. Otherwise a publisher would wait
/// until a small queue is almost empty.
const ROUND_TRIP_QUEUE_PART: u64 = 4;

/// Shortest and longest wait between checks of a full queue. Short at first, because a commit may
/// end at any moment; never so long that workers run out of frames.
const FULL_WAIT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Frames after which a mean weight halves the weight of older frames: enough to be steady, few
/// enough to follow a change of files.
const MEAN_FRAMES_MAX: u64 = 1024;

/// The queue in Redis Streams.
pub struct RedisBroker {
    queue: Arc<Queue>,
}

/// The state that publishers and consumers share.
struct Queue {
    config: Config,
    link: Link,
    streams: Vec<Stream>,
    options: BrokerOptions,
    /// Whether the outcome of an XADD is unknown. If so, the lengths of the streams are queried
    /// before the next one.
    is_unsure: AtomicBool,
    /// The address of the server for messages, without credentials.
    address: String,
}

struct Stream {
    dataset: Arc<str>,
    key: Arc<str>,
    /// Its length at the last reply.
    length: AtomicU64,
    weight: Mutex<Mean>,
}

/// The value of a setting in the reply to INFO.
fn setting<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(of).map(str::trim)
}

/// The sums for a mean over the latest frames.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    frames: u64,
    bytes: u64,
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
        let config = config_of(url).map_err(|error| fault("reading its URL", error))?;
        check_namespace(&options.namespace)?;
        let address = |server: &Server| match server.port {
            0 => server.host.to_string(),
            port => format!("{}:{port}", server.host),
        };
        let streams = datasets.iter().map(|dataset| Stream {
            dataset: dataset.name.as_str().into(),
            // A cluster assigns the key to a server by the part in braces.
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

    /// The bytes of the queue are an estimate: the lengths of the streams, which all publishers
    /// share, times the mean weight of the frames that this process has seen. Each publisher may
    /// exceed the bound by one round trip. A server that is out of memory counts as a full queue.
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

    /// Ages are measured as in [`oldest`](Broker::oldest).
    async fn peek(&self, max: usize) -> Result<Vec<Queued>, Fault> {
        let queued = self.queue.peek(max).await;
        queued.map_err(|error| fault("listing the queue in redis", error))
    }
}

/// The client's configuration for a URL, including the trusted certificates.
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

/// The number of frames for the next round trip; at least one.
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
        "the namespace of the queue is invalid; use letters, digits and `-`, `_`, `.`, `:`",
        format!("`{namespace}` is not a valid namespace"),
    ))
}

impl Queue {
    fn is_cluster(&self) -> bool {
        self.config.server.is_clustered()
    }

    /// Queries the server once, to check its address, the credentials, and whether it may evict
    /// keys.
    async fn check_server(&self) -> Result<(), Error> {
        let client = self.link.client().await?;
        let info = match self.link.ask(&client, client.info::<String>(None)).await {
            Ok(info) => info,
            Err(error) if error.details().starts_with("NOPERM") => {
                tracing::warn!(
                    "this user of redis may not run INFO: the server's settings are not checked"
                );
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let setting = |name| setting(&info, name);
        if setting("cluster_enabled") == Some("1") && !self.is_cluster() {
            return Err(Error::new(
                ErrorKind::Unknown,
                "CROSSSLOT streams of a cluster are on several servers",
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
                "set a limit well above `queue_bytes`, so that another program cannot use up all \
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
        let mut struggle = None;
        loop {
            self.wait_for_room(&left).await?;
            let added = self.add(&left).await;
            if added.is_err() {
                self.is_unsure.store(true, Ordering::Relaxed);
            }
            let Refused { full, unusable } = added?;
            for frame in &unusable {
                self.replace(self.stream_of(&frame.dataset)).await?;
            }
            let is_full = !full.is_empty();
            left = [full, unusable].concat();
            if left.is_empty() {
                return Ok(());
            }
            telemetry::broker_error();
            if !is_full {
                continue;
            }
            if pause.is_first() {
                tracing::warn!("redis is out of memory: publishing waits until memory is free");
            }
            let out_of_memory = "publishing to redis: it is out of memory";
            struggle
                .get_or_insert_with(|| Struggle::begin(Origin::Broker))
                .note(out_of_memory.to_owned());
            pause.wait().await;
        }
    }

    /// Waits while the queue is full, as [`Broker::publish`] defines it.
    async fn wait_for_room(&self, frames: &[&Frame]) -> Result<(), Error> {
        let bytes: u64 = frames.iter().map(|frame| frame.weight() as u64).sum();
        let has_room = || match self.estimate() {
            (0, _) => true,
            (_, queued) => queued + bytes <= self.options.queue_bytes_max,
        };
        if !self.is_unsure.load(Ordering::Relaxed) && has_room() {
            return Ok(());
        }
        // The lengths are those of the last reply: query them before waiting.
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

    /// Frames and bytes in the queue at the last reply.
    fn estimate(&self) -> (u64, u64) {
        let streams = self.streams.iter().map(|stream| {
            let length = stream.length.load(Ordering::Relaxed);
            (length, length * stream.mean())
        });
        streams.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1))
    }

    /// Adds the frames in one round trip. Returns those that the server refused.
    async fn add<'a>(&self, frames: &[&'a Frame]) -> Result<Refused<'a>, Error> {
        let pipeline = self.link.client().await?.pipeline();
        for frame in frames {
            let key = &*self.stream_of(&frame.dataset).key;
            // Without a maximum length, which would delete unread entries.
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
        let mut refused = Refused::default();
        for (frame, result) in frames.iter().zip(&mut results) {
            match result {
                Ok(_) => {}
                Err(error) => match classify(&error) {
                    Verdict::Full => refused.full.push(*frame),
                    Verdict::Unusable => refused.unusable.push(*frame),
                    _ => return Err(error),
                },
            }
        }
        for (stream, length) in self.streams.iter().zip(results) {
            stream.length.store(length_of(length)?, Ordering::Relaxed);
        }
        Ok(refused)
    }

    /// Queries the lengths of the streams.
    async fn update_lengths(&self) -> Result<(), Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let lengths = self.link.run(pipeline, self.streams.len()).await?;
        for (stream, length) in self.streams.iter().zip(lengths) {
            stream.length.store(length_of(length)?, Ordering::Relaxed);
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

    /// Bytes of a stream, for a process that has seen none of its frames.
    async fn memory_usage(&self, stream: &Stream) -> Result<u64, Error> {
        let client = self.link.client().await?;
        let command = CustomCommand::new_static("MEMORY", ClusterHash::Offset(1), false);
        let words = vec!["USAGE", &*stream.key, "SAMPLES", "5"];
        let bytes = client.custom::<Value, _>(command, words);
        Ok(self.link.ask(&client, bytes).await?.as_u64().unwrap_or(0))
    }

    /// Creates missing streams and groups. A group starts at the beginning of its stream, so that
    /// frames published before it are delivered.
    async fn make_groups(&self) -> Result<(), Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline
                .xgroup_create(&*stream.key, GROUP, "0", true)
                .await?;
        }
        let made = self.link.run(pipeline, self.streams.len()).await?;
        for (stream, made) in self.streams.iter().zip(made) {
            match made {
                Err(error) if classify(&error) == Verdict::Unusable => self.replace(stream).await?,
                Err(error) if !error.details().starts_with("BUSYGROUP") => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Deletes and acks these entries in one round trip, in this order. If only the deletion takes
    /// effect, a consumer finds the entry pending without content and deletes it again. If only the
    /// ack took effect, the entry would count as queued for ever.
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

    /// The mean weight of the stream's frames in bytes; 0 if no frame was seen.
    fn mean(&self) -> u64 {
        let mean = *self.weight.lock();
        mean.bytes.checked_div(mean.frames).unwrap_or(0)
    }
}

/// A wait that grows each time, and counts as backpressure.
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
        let _backpressure = telemetry::backpressure(Stage::Publish);
        tokio::time::sleep(self.last).await;
    }
}
