//! The age of the oldest frame of each stream. An entry's id begins with the time of its arrival.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fred::error::Error;
use fred::interfaces::StreamsInterface;
use fred::types::Value;

use super::queue::{GROUP, Queue};
use super::streams::Stream;
use super::verdict::{Verdict, classify};

impl Queue {
    /// The age of the oldest entry of each dataset.
    pub(super) async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Error> {
        let streams = self.streams.in_use();
        let ages = self.ages(&streams).await?;
        let mut oldest: Vec<(Arc<str>, Duration)> = Vec::new();
        for (stream, age) in streams.iter().zip(ages) {
            match oldest.last_mut() {
                // The streams of a dataset are next to each other.
                Some((dataset, oldest)) if *dataset == stream.dataset => *oldest = age.max(*oldest),
                _ => oldest.push((Arc::clone(&stream.dataset), age)),
            }
        }
        Ok(oldest)
    }

    /// The age of the oldest entry of each of these streams, zero for an empty one.
    pub(super) async fn ages(&self, streams: &[Arc<Stream>]) -> Result<Vec<Duration>, Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in streams {
            let () = pipeline.xpending(&*stream.key, GROUP, ()).await?;
        }
        let pending = self.link.run(pipeline, streams.len()).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let mut ages = Vec::with_capacity(streams.len());
        for (stream, pending) in streams.iter().zip(pending) {
            // The lowest pending id. If there is none, no worker is busy, and reading a whole entry
            // delays no other command.
            let mut first = match pending {
                Ok(Value::Array(summary)) => summary.get(1).and_then(Value::as_string),
                Err(error) if classify(&error) != Verdict::GroupMissing => return Err(error),
                _ => None,
            };
            if first.is_none() && stream.length.load(Ordering::Relaxed) > 0 {
                first = self.first(stream).await?;
            }
            let arrived = first.as_deref().and_then(time_of);
            ages.push(arrived.map_or(Duration::ZERO, |arrived| now.saturating_sub(arrived)));
        }
        Ok(ages)
    }

    /// The id of the first entry of a stream.
    async fn first(&self, stream: &Stream) -> Result<Option<String>, Error> {
        let client = self.link.client().await?;
        let entries = client.xrange::<Value, _, _, _>(&*stream.key, "-", "+", Some(1));
        let Value::Array(entries) = self.link.ask(&client, entries).await? else {
            return Ok(None);
        };
        Ok(match entries.first() {
            Some(Value::Array(entry)) => entry.first().and_then(Value::as_string),
            _ => None,
        })
    }
}

/// The time at which an entry arrived, since the epoch, by the clock of Redis: the part of its id
/// before the dash.
pub(super) fn time_of(id: &str) -> Option<Duration> {
    let (milliseconds, _) = id.split_once('-')?;
    Some(Duration::from_millis(milliseconds.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_contains_the_time_of_arrival() {
        assert_eq!(time_of("1500-3"), Some(Duration::from_millis(1500)));
        assert_eq!(time_of("no id"), None);
    }
}
