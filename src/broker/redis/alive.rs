//! Which consumers live: each gives a sign of life every second, and the frames of one that gives none
//! are taken over.
//!
//! The sign is a read of this consumer's pending entries after an id that no entry has. It returns
//! nothing, and changes nothing but the idle time of the consumer in the group, which begins again
//! from zero. So the sign is beside the entries: it needs no other key, no further right of the
//! account, and no clock but that of Redis. See docs/decisions/signs-of-life.md.

use std::sync::Arc;
use std::time::Duration;

use fred::error::Error;
use fred::interfaces::StreamsInterface;
use fred::types::Value;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::entry::{self, Entry};
use super::orphans::field;
use super::queue::{GROUP, Queue};
use super::silence::Held;
use super::verdict::{Verdict, classify};

/// The last id but one that an entry can have. After the last one, Redis begins from the first.
const AFTER_ALL: &str = "18446744073709551615-18446744073709551614";

/// Signs of life within the time after which a consumer counts as dead. One that is late, since its
/// host or Redis paused, kills no consumer.
const SIGNS: u32 = 5;

/// How much later the search for entries without a consumer comes than one for dead consumers. Only an
/// operator, or a failover, makes such entries.
const ORPHANS_AFTER: u32 = 6;

/// A consumer without entries that gave no sign for this long is removed from the group.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Gives signs of life until it is dropped.
pub(super) struct Signs(AbortHandle);

impl Drop for Signs {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A consumer, as XINFO CONSUMERS shows it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    name: String,
    pending: u64,
    idle: Duration,
}

impl Queue {
    /// Begins to give signs of life of a consumer, apart from its reads: a commit may take long.
    pub(super) fn give_signs(self: &Arc<Self>, consumer: &str) -> Signs {
        let (queue, consumer) = (Arc::clone(self), consumer.to_owned());
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(queue.options.dead_after / SIGNS);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Err(error) = queue.give_sign(&consumer).await {
                    // The worker reports a queue that does not answer.
                    tracing::debug!(%error, "no sign of life in redis");
                }
            }
        });
        Signs(task.abort_handle())
    }

    async fn give_sign(&self, consumer: &str) -> Result<(), Error> {
        let streams = self.streams.in_use();
        let pipeline = self.link.client().await?.pipeline();
        for stream in &*streams {
            let (keys, ids) = (vec![&*stream.key], vec![AFTER_ALL]);
            let () = pipeline
                .xreadgroup(GROUP, consumer, Some(1), None, false, keys, ids)
                .await?;
        }
        // A stream that does not exist has no group.
        self.link.run(pipeline, streams.len()).await.map(drop)
    }

    /// Searches for the dead consumers that have entries, unless another consumer of this process has
    /// just done it.
    pub(super) async fn dead_consumers(&self) -> Result<Vec<Held>, Error> {
        let dead_after = self.options.dead_after;
        if !self.searches.begin(dead_after / SIGNS) {
            return Ok(Vec::new());
        }
        let streams = self.streams.in_use();
        let pipeline = self.link.client().await?.pipeline();
        for stream in &*streams {
            let () = pipeline.xinfo_consumers(&*stream.key, GROUP).await?;
        }
        let replies = self.link.run(pipeline, streams.len()).await?;
        let mut silent = Vec::new();
        for (stream, reply) in streams.iter().zip(replies) {
            for shown in reply.map_or_else(|_| Vec::new(), |reply| consumers(&reply)) {
                if shown.pending > 0 && shown.idle >= dead_after {
                    silent.push((Arc::clone(&stream.key), shown.name));
                } else if shown.pending == 0 && shown.idle >= FORGOTTEN_AFTER {
                    self.remove_consumer(&stream.key, &shown.name).await?;
                }
            }
        }
        Ok(self.searches.dead(silent))
    }

    /// Whether it is time to search for entries without a consumer. Once for each time.
    pub(super) fn is_time_for_orphans(&self) -> bool {
        let pause = self.options.dead_after * ORPHANS_AFTER;
        self.searches.begin_for_orphans(pause)
    }

    /// Removes a consumer from the group. If it comes back meanwhile and receives entries, they have no
    /// consumer, and are delivered again.
    async fn remove_consumer(&self, key: &str, consumer: &str) -> Result<(), Error> {
        tracing::debug!(consumer, "removed from the group: it is long gone");
        let client = self.link.client().await?;
        let removed = client.xgroup_delconsumer::<(), _, _, _>(key, GROUP, consumer);
        self.link.ask(&client, removed).await
    }

    /// At most `max` entries that another consumer has, and that none has received for the time after
    /// which a consumer counts as dead. They belong to `heir` after the call. Whether there may be
    /// more.
    pub(super) async fn inherit(
        &self,
        heir: &str,
        (key, dead): &Held,
        max: u64,
    ) -> Result<(Vec<Entry>, bool), Error> {
        let client = self.link.client().await?;
        let range = ("-", "+", max, dead.as_str());
        let pending = client.xpending::<Value, _, _, _>(&**key, GROUP, range);
        let ids = match self.link.ask(&client, pending).await {
            Ok(pending) => ids(&pending),
            Err(error) if classify(&error) == Verdict::GroupMissing => Vec::new(),
            Err(error) => return Err(error),
        };
        if ids.is_empty() {
            return Ok((Vec::new(), false));
        }
        let more = ids.len() as u64 == max;
        let idle_ms = u64::try_from(self.options.dead_after.as_millis()).unwrap_or(u64::MAX);
        let claimed = client.xclaim::<Value, _, _, _, _>(
            &**key, GROUP, heir, idle_ms, ids, None, None, None, false, false,
        );
        let claimed = self.link.ask(&client, claimed).await?;
        Ok((entry::entries(claimed, Some(self.key())), more))
    }
}

/// A reply to XINFO CONSUMERS.
fn consumers(reply: &Value) -> Vec<Shown> {
    let Value::Array(consumers) = reply else {
        return Vec::new();
    };
    let shown = |consumer: &Value| {
        Some(Shown {
            name: field(consumer, "name")?.as_string()?,
            pending: field(consumer, "pending")?.as_u64()?,
            idle: Duration::from_millis(field(consumer, "idle")?.as_u64()?),
        })
    };
    consumers.iter().filter_map(shown).collect()
}

/// The ids of a reply to the extended form of XPENDING.
fn ids(reply: &Value) -> Vec<String> {
    let Value::Array(entries) = reply else {
        return Vec::new();
    };
    let id = |entry: &Value| match entry {
        Value::Array(parts) => parts.first()?.as_string(),
        _ => None,
    };
    entries.iter().filter_map(id).collect()
}
