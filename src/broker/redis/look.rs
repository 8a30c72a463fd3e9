//! Where the frames are: in streams of another number of shards, and on which masters of a cluster.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use fred::error::Error;
use fred::interfaces::{ClientLike, StreamsInterface};
use fred::types::{ClusterHash, CustomCommand, Value};
use fred::util::redis_keyslot;

use super::queue::Queue;
use super::refused::length_of;
use super::silence::is_due;
use super::streams::Stream;
use crate::finding::Finding;

/// How often a process looks for streams of another number of shards. A process that has another
/// number publishes into them until it is restarted.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Queue {
    /// Looks for streams that frames of another number of shards are in, if it is time.
    pub(super) async fn look_around(&self) -> Result<(), Error> {
        if !is_due(&mut self.streams.look.lock(), LOOK_AGAIN) {
            return Ok(());
        }
        let looked = self.look().await;
        if looked.is_err() {
            *self.streams.look.lock() = None;
        }
        looked
    }

    /// On how many masters of a cluster the frames of a dataset are.
    pub(super) async fn spread_over_masters(&self) -> Result<Option<Finding>, Error> {
        if !self.is_cluster() {
            return Ok(None);
        }
        let client = self.link.client().await?;
        let command = CustomCommand::new_static("CLUSTER", ClusterHash::Random, false);
        let ranges = client.custom::<Value, _>(command, vec!["SLOTS"]);
        let ranges = masters(&self.link.ask(&client, ranges).await?);
        let all: BTreeSet<&str> = ranges.iter().map(|(_, master)| &**master).collect();
        let in_use = self.streams.in_use();
        let first = in_use.first().map(|stream| Arc::clone(&stream.dataset));
        let current = in_use
            .iter()
            .filter(|stream| stream.is_current && Some(&stream.dataset) == first.as_ref());
        let of = |stream: &Arc<Stream>| {
            let slot = redis_keyslot(stream.key.as_bytes());
            let range = ranges.iter().find(|(slots, _)| slots.contains(&slot));
            range.map(|(_, master)| &**master)
        };
        let used: BTreeSet<&str> = current.filter_map(of).collect();
        let (shards, used, all) = (self.options.shards, used.len(), all.len());
        Ok(Some(Finding::ok(format!(
            "queue_shards is {shards}: the frames of a dataset are on {used} of {all} masters"
        ))))
    }

    async fn look(&self) -> Result<(), Error> {
        let all = self.streams.all.iter().enumerate();
        let others: Vec<_> = all.filter(|(_, stream)| !stream.is_current).collect();
        let pipeline = self.link.client().await?.pipeline();
        for (_, stream) in &others {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let replies = self.link.run(pipeline, others.len()).await?;
        let lengths = others.iter().zip(replies);
        let lengths = lengths.map(|((at, _), reply)| Ok((*at, length_of(reply)?)));
        let lengths = lengths.collect::<Result<Vec<_>, Error>>()?;
        self.streams.use_those_with_frames(&lengths);
        Ok(())
    }
}

/// The ranges of slots and the master of each, from the reply to CLUSTER SLOTS:
/// `[[first, last, [host, port, id, …], …], …]`.
fn masters(reply: &Value) -> Vec<(RangeInclusive<u16>, String)> {
    let parts = |value: &Value| match value {
        Value::Array(parts) => parts.clone(),
        _ => Vec::new(),
    };
    let slot = |value: &Value| u16::try_from(value.as_u64()?).ok();
    let range = |range: &Value| {
        let range = parts(range);
        let master = parts(range.get(2)?).get(2)?.as_string()?;
        Some((slot(range.first()?)?..=slot(range.get(1)?)?, master))
    };
    parts(reply).iter().filter_map(range).collect()
}
