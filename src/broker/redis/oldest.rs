//! The age of the oldest frame of each stream. An entry's id begins with the time of its arrival.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fred::error::Error;
use fred::interfaces::StreamsInterface;
use fred::types::Value;

use super::queue::{GROUP, Queue, Stream};
use super::verdict::{Verdict, classify};

impl Queue {
    /// The age of the oldest entry of each stream.
    pub(super) async fn oldest(&self) -> Result<Vec<(Arc<str>, Duration)>, Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline.xpending(&*stream.key, GROUP, ()).await?;
        }
        let pending = self.link.run(pipeline, self.streams.len()).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let mut oldest = Vec::with_capacity(self.streams.len());
        for (stream, pending) in self.streams.iter().zip(pending) {
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
            let age = arrived.map_or(Duration::ZERO, |arrived| now.saturating_sub(arrived));
            oldest.push((Arc::clone(&stream.dataset), age));
        }
        Ok(oldest)
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
