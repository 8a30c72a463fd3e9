//! Entries that the group will never deliver again, but that count as queued.
//!
//! Deleting a consumer (`XGROUP DELCONSUMER`) removes its pending entries from the group but not
//! from the stream. A failover can do the same. Enough of them would fill the queue for ever. A
//! stream has such entries if it has entries, but none that are pending or new. Then the group is
//! set back to the beginning of the stream and delivers them again. If the answers of Redis are
//! outdated by then, some work is done twice.

use fred::error::Error;
use fred::interfaces::StreamsInterface;
use fred::types::Value;

use super::queue::{GROUP, Queue};
use super::streams::Stream;

impl Queue {
    /// Makes the group deliver orphaned entries of all streams again.
    pub(super) async fn adopt_orphans(&self) -> Result<(), Error> {
        for stream in &*self.streams.in_use() {
            let Some(last_delivered) = self.all_delivered_none_pending(stream).await? else {
                continue;
            };
            let client = self.link.client().await?;
            let after = format!("({last_delivered}");
            let new = client.xrange::<Value, _, _, _>(&*stream.key, after, "+", Some(1));
            let new = self.link.ask(&client, new).await?;
            if new.array_len().unwrap_or(0) == 0 {
                tracing::warn!(
                    stream = &*stream.key,
                    "entries without a consumer: delivering again"
                );
                let set = client.xgroup_setid::<(), _, _, _>(&*stream.key, GROUP, "0");
                self.link.ask(&client, set).await?;
            }
        }
        Ok(())
    }

    /// The last delivered id, if the stream has entries and none is pending.
    async fn all_delivered_none_pending(&self, stream: &Stream) -> Result<Option<String>, Error> {
        let pipeline = self.link.client().await?.pipeline();
        let () = pipeline.xinfo_groups(&*stream.key).await?;
        let () = pipeline.xlen(&*stream.key).await?;
        let mut results = self.link.run(pipeline, 2).await?;
        let length = results
            .pop()
            .transpose()?
            .and_then(|length| length.as_u64());
        // An error means that the stream does not exist, so it has no orphans.
        let Some(Ok(Value::Array(groups))) = results.pop() else {
            return Ok(None);
        };
        let ours = groups.into_iter().find(|group| {
            field(group, "name")
                .and_then(Value::as_str)
                .is_some_and(|name| name == GROUP)
        });
        let pending = ours
            .as_ref()
            .and_then(|group| field(group, "pending")?.as_u64());
        if length.unwrap_or(0) == 0 || pending != Some(0) {
            return Ok(None);
        }
        Ok(ours
            .as_ref()
            .and_then(|group| field(group, "last-delivered-id")?.as_string()))
    }
}

/// The value of a field in a RESP2 map: `[name, value, …]`.
pub(super) fn field<'a>(map: &'a Value, name: &str) -> Option<&'a Value> {
    let Value::Array(parts) = map else {
        return None;
    };
    let mut pairs = parts.chunks_exact(2);
    pairs
        .find(|pair| pair[0].as_str().is_some_and(|given| given == name))
        .map(|pair| &pair[1])
}
