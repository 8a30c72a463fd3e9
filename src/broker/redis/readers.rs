//! How long frames wait while no worker reads the queue.

use std::time::Duration;

use fred::error::Error;
use fred::interfaces::StreamsInterface;
use fred::types::Value;

use super::orphans::field;
use super::queue::{GROUP, Queue};
use super::verdict::{Verdict, classify};

/// The beginning of the server's error for a stream that does not exist.
const NO_STREAM: &str = "ERR no such key";

impl Queue {
    /// The longest time for which frames of a stream have waited and no consumer has read that stream
    /// or given a sign of life.
    pub(super) async fn unread_for(&self) -> Result<Duration, Error> {
        let streams = self.streams.in_use();
        let ages = self.ages(&streams).await?;
        if ages.iter().all(Duration::is_zero) {
            return Ok(Duration::ZERO);
        }
        let pipeline = self.link.client().await?.pipeline();
        for stream in &*streams {
            let () = pipeline.xinfo_consumers(&*stream.key, GROUP).await?;
        }
        let replies = self.link.run(pipeline, streams.len()).await?;
        let mut longest = Duration::ZERO;
        for (age, reply) in ages.into_iter().zip(replies) {
            longest = longest.max(unread(age, reply)?);
        }
        Ok(longest)
    }
}

/// The age of the oldest frame of a stream, or the time since the last read if that is shorter.
/// `consumers` is the reply to XINFO CONSUMERS.
fn unread(age: Duration, consumers: Result<Value, Error>) -> Result<Duration, Error> {
    let consumers = match consumers {
        Ok(Value::Array(consumers)) => consumers,
        Ok(_) => Vec::new(),
        Err(error) => {
            let is_missing =
                error.details().starts_with(NO_STREAM) || classify(&error) == Verdict::GroupMissing;
            return if is_missing { Ok(age) } else { Err(error) };
        }
    };
    let idle = consumers
        .iter()
        .filter_map(|consumer| field(consumer, "idle")?.as_u64());
    let idle = idle.min().map(Duration::from_millis);
    Ok(idle.map_or(age, |idle| age.min(idle)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fred::error::ErrorKind;

    #[test]
    fn a_stream_is_unread_since_its_last_read_or_its_oldest_frame() {
        let consumers = |idle: &[i64]| {
            let one = |idle: &i64| Value::Array(vec!["idle".into(), (*idle).into()]);
            Ok(Value::Array(idle.iter().map(one).collect()))
        };
        let fails = |text: &'static str| Err(Error::new(ErrorKind::Unknown, text));
        let age = Duration::from_secs(9);
        for (reply, expected) in [
            (consumers(&[]), Some(9_000)),
            (consumers(&[20_000, 10_000]), Some(9_000)),
            (consumers(&[20_000, 300]), Some(300)),
            (fails("ERR no such key"), Some(9_000)),
            (
                fails("NOGROUP No such key 'k' or consumer group"),
                Some(9_000),
            ),
            (fails("NOPERM this user has no permissions"), None),
            (
                fails("LOADING Redis is loading the dataset in memory"),
                None,
            ),
        ] {
            let shown = format!("{reply:?}");
            let unread = unread(age, reply).ok();
            assert_eq!(unread, expected.map(Duration::from_millis), "{shown}");
        }
    }
}
