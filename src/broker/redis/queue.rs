//! The queue over its streams: publish, depth, groups, and the deletion of entries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, StreamsInterface};
use fred::types::config::Config;
use fred::types::{ClusterHash, CustomCommand, Value};

use super::entry;
use super::link::Link;
use super::refused::{Refused, length_of};
use super::silence::Searches;
use super::streams::{Stream, Streams};
use super::verdict::{Verdict, classify};
use crate::broker::{BrokerOptions, Claim, Depth, Tag};
use crate::fault::Origin;
use crate::finding::Finding;
use crate::frame::{Frame, FrameKey};
use crate::reread::Login;
use crate::retry::Struggle;
use crate::telemetry::{self, Stage};

/// The consumer group of all workers.
pub(super) const GROUP: &str = "workers";

/// Shortest and longest wait between checks of a full queue. Short at first, because a commit may
/// end at any moment; never so long that workers run out of frames.
const FULL_WAIT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// What is said if INFO is not allowed.
const NO_INFO: &str = "this user of redis may not run INFO: the server's settings are not checked";

/// The state that publishers and consumers share.
pub(super) struct Queue {
    pub(super) login: Arc<Login<Config>>,
    pub(super) is_clustered: bool,
    pub(super) link: Link,
    pub(super) streams: Streams,
    pub(super) options: BrokerOptions,
    /// Whether the outcome of an XADD is unknown. If so, the lengths of the streams are queried
    /// before the next one.
    pub(super) is_unsure: AtomicBool,
    /// The address of the server for messages, without credentials.
    pub(super) address: String,
    pub(super) searches: Searches,
    /// The number of connections at the last claim of the prefix.
    pub(super) claimed: AtomicU64,
}

/// The value of a setting in the reply to INFO.
fn setting<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(of).map(str::trim)
}

impl Queue {
    /// The key of the checksums of frames.
    ///
    /// # Panics
    /// If the broker was opened only to count and list frames.
    pub(super) fn key(&self) -> &FrameKey {
        let key = self.options.key.as_ref();
        key.expect("a broker that publishes or receives was opened with a key")
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.is_clustered
    }

    /// Queries the server once, to check its address, the credentials, and whether it may evict
    /// keys.
    pub(super) async fn check_server(&self) -> Result<(), Error> {
        let Some(info) = self.info().await? else {
            tracing::warn!("{NO_INFO}");
            return Ok(());
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

    /// The reply to INFO. `None` if this user may not run it.
    async fn info(&self) -> Result<Option<String>, Error> {
        let client = self.link.client().await?;
        match self.link.ask(&client, client.info::<String>(None)).await {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.details().starts_with("NOPERM") => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn inspect(&self, ours: Option<&Claim>) -> Result<Vec<Finding>, Error> {
        let mut findings = match self.info().await? {
            Some(info) => self.inspect_settings(&info),
            None => vec![Finding::warn(NO_INFO, "give the ACL user `+info`")],
        };
        findings.push(self.inspect_owner(ours).await?);
        findings.extend(self.spread_over_masters().await?);
        Ok(findings)
    }

    /// The settings of the server by its reply to INFO.
    fn inspect_settings(&self, info: &str) -> Vec<Finding> {
        let of = |name| setting(info, name).unwrap_or("unknown");
        let version = of("redis_version");
        let policy = of("maxmemory_policy");
        let maxmemory = of("maxmemory");
        vec![
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
        ]
    }

    pub(super) async fn publish(&self, frames: &[Frame]) -> Result<(), Error> {
        self.look_around().await?;
        let mut left: Vec<&Frame> = frames.iter().collect();
        for frame in frames {
            self.streams.one_of(&frame.dataset).note_weight(frame);
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
            let is_full = !full.is_empty();
            left = full;
            for (frame, stream) in unusable {
                self.replace(&stream).await?;
                left.push(frame);
            }
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
    pub(super) async fn wait_for_room(&self, frames: &[&Frame]) -> Result<(), Error> {
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
    pub(super) fn estimate(&self) -> (u64, u64) {
        let in_use = self.streams.in_use();
        let streams = in_use.iter().map(|stream| {
            let length = stream.length.load(Ordering::Relaxed);
            (length, length * stream.mean())
        });
        streams.fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1))
    }

    /// Adds the frames in one round trip. Returns those that the server refused.
    pub(super) async fn add<'a>(&self, frames: &[&'a Frame]) -> Result<Refused<'a>, Error> {
        let pipeline = self.link.client().await?.pipeline();
        let places = self.streams.spread(frames);
        let streams = self.streams.in_use();
        for (frame, stream) in frames.iter().zip(&places) {
            let fields = entry::fields(frame, self.key());
            // Without a maximum length, which would delete unread entries.
            let () = pipeline
                .xadd(&*stream.key, false, None::<()>, "*", fields)
                .await?;
        }
        for stream in &*streams {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let mut results = self
            .link
            .run(pipeline, frames.len() + streams.len())
            .await?
            .into_iter();
        let mut refused = Refused::default();
        for ((frame, stream), result) in frames.iter().zip(places).zip(&mut results) {
            match result {
                Ok(_) => {}
                Err(error) => match classify(&error) {
                    Verdict::Full => refused.full.push(*frame),
                    Verdict::Unusable => refused.unusable.push((*frame, stream)),
                    _ => return Err(error),
                },
            }
        }
        for (stream, length) in streams.iter().zip(results) {
            stream.length.store(length_of(length)?, Ordering::Relaxed);
        }
        Ok(refused)
    }

    /// Queries the lengths of the streams.
    pub(super) async fn update_lengths(&self) -> Result<(), Error> {
        let streams = self.streams.in_use();
        let pipeline = self.link.client().await?.pipeline();
        for stream in &*streams {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let lengths = self.link.run(pipeline, streams.len()).await?;
        for (stream, length) in streams.iter().zip(lengths) {
            stream.length.store(length_of(length)?, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) async fn depth(&self) -> Result<Depth, Error> {
        self.look_around().await?;
        let streams = self.streams.in_use();
        let pipeline = self.link.client().await?.pipeline();
        for stream in &*streams {
            let () = pipeline.xlen(&*stream.key).await?;
            let () = pipeline.xpending(&*stream.key, GROUP, ()).await?;
        }
        let results = self.link.run(pipeline, streams.len() * 2).await?;
        let mut results = results.into_iter();
        let mut depth = Depth::default();
        for stream in &*streams {
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

    /// Bytes of a stream, estimated by a process that has not seen a frame of it.
    pub(super) async fn memory_usage(&self, stream: &Stream) -> Result<u64, Error> {
        let client = self.link.client().await?;
        let command = CustomCommand::new_static("MEMORY", ClusterHash::Offset(1), false);
        let words = vec!["USAGE", &*stream.key, "SAMPLES", "5"];
        let bytes = client.custom::<Value, _>(command, words);
        Ok(self.link.ask(&client, bytes).await?.as_u64().unwrap_or(0))
    }

    /// Creates missing streams and groups. A group starts at the beginning of its stream, so that
    /// frames published before it are delivered.
    pub(super) async fn make_groups(&self) -> Result<(), Error> {
        let streams = self.streams.in_use();
        let pipeline = self.link.client().await?.pipeline();
        for stream in &*streams {
            let () = pipeline
                .xgroup_create(&*stream.key, GROUP, "0", true)
                .await?;
        }
        let made = self.link.run(pipeline, streams.len()).await?;
        for (stream, made) in streams.iter().zip(made) {
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
    pub(super) async fn forget(&self, tags: &[&Tag]) -> Result<(), Error> {
        let pipeline = self.link.client().await?.pipeline();
        let mut ids: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for tag in tags {
            ids.entry(&*tag.stream).or_default().push(&*tag.entry);
        }
        if ids.is_empty() {
            return Ok(());
        }
        let commands = ids.len() * 2;
        for (key, ids) in ids {
            let () = pipeline.xdel(key, ids.clone()).await?;
            let () = pipeline.xack(key, GROUP, ids).await?;
        }
        self.link
            .run(pipeline, commands)
            .await?
            .into_iter()
            .try_for_each(|result| result.map(drop))
    }
}

/// A wait that grows each time, and counts as backpressure.
#[derive(Debug, Default)]
struct Pause {
    last: Duration,
}

impl Pause {
    pub(super) fn is_first(&self) -> bool {
        self.last.is_zero()
    }

    pub(super) async fn wait(&mut self) {
        self.last = (self.last * 2).clamp(FULL_WAIT.0, FULL_WAIT.1);
        let _backpressure = telemetry::backpressure(Stage::Publish);
        tokio::time::sleep(self.last).await;
    }
}
