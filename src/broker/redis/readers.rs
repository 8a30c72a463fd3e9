//! How long frames wait while no worker reads the queue.

use std::time::Duration;

use fred::error::Error;
use fred::interfaces::StreamsInterface;
use fred::types::Value;

use super::orphans::field;
use super::queue::{GROUP, Queue};

impl Queue {
    /// The time for which frames have waited and no consumer has read or claimed any: the age of
    /// the oldest frame, or the time since the last read if that is shorter.
    pub(super) async fn unread_for(&self) -> Result<Duration, Error> {
        let oldest = self.oldest().await?.into_iter().map(|(_, age)| age).max();
        let oldest = oldest.unwrap_or_default();
        if oldest.is_zero() {
            return Ok(oldest);
        }
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline.xinfo_consumers(&*stream.key, GROUP).await?;
        }
        let replies = self.link.run(pipeline, self.streams.len()).await?;
        // An error means that a stream does not exist, so it has no consumers.
        let consumers = replies
            .into_iter()
            .flatten()
            .filter_map(|reply| match reply {
                Value::Array(consumers) => Some(consumers),
                _ => None,
            });
        let idle = consumers
            .flatten()
            .filter_map(|consumer| field(&consumer, "idle")?.as_u64())
            .min();
        Ok(idle.map_or(oldest, |idle| oldest.min(Duration::from_millis(idle))))
    }
}
