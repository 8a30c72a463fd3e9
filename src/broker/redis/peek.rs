//! Reads the streams without changing them: XRANGE and XPENDING, and no XREADGROUP.
//!
//! Redis cannot return an entry without its payload. So only the listed entries are read, a few at
//! a time, and each payload is dropped after its checksum was compared, if the key is known.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fred::error::Error;
use fred::interfaces::StreamsInterface;
use fred::types::Value;

use super::entry::{self, Entry};
use super::oldest::time_of;
use super::queue::{GROUP, Queue};
use super::streams::Stream;
use super::verdict::{Verdict, classify};
use crate::broker::{Owner, Queued};
use crate::frame::Frame;

/// Entries in one round trip: about as many bytes as a publisher sends at a time. More would delay
/// other commands; fewer would cost more round trips.
const PAGE_ENTRIES: usize = 16;

impl Queue {
    /// The oldest `max` entries of each dataset.
    pub(super) async fn peek(&self, max: usize) -> Result<Vec<Queued>, Error> {
        self.look_around().await?;
        let mut queued = Vec::new();
        let streams = self.streams.in_use();
        for of_dataset in streams.chunk_by(|one, next| one.dataset == next.dataset) {
            let mut entries = Vec::new();
            for stream in of_dataset {
                entries.extend(self.peek_into(stream, max).await?);
            }
            entries.sort_by_key(|entry| place_of(&entry.entry));
            entries.truncate(max);
            queued.extend(entries);
        }
        Ok(queued)
    }

    /// The oldest `max` entries of a stream.
    async fn peek_into(&self, stream: &Stream, max: usize) -> Result<Vec<Queued>, Error> {
        let mut queued = Vec::new();
        let (mut from, mut left) = ("-".to_owned(), max);
        while left > 0 {
            let page = self.page(stream, &from, left.min(PAGE_ENTRIES)).await?;
            let Some((last, _)) = page.last() else { break };
            from = format!("({last}");
            left -= page.len();
            let owners = self.owners(stream, &page).await?;
            let entries = page.into_iter().zip(owners);
            queued.extend(entries.map(|(entry, owner)| as_queued(stream, entry, owner)));
        }
        Ok(queued)
    }

    async fn page(&self, stream: &Stream, from: &str, count: usize) -> Result<Vec<Entry>, Error> {
        let client = self.link.client().await?;
        let reply = client.xrange::<Value, _, _, _>(&*stream.key, from, "+", Some(count as u64));
        Ok(entry::entries(
            self.link.ask(&client, reply).await?,
            self.options.key.as_ref(),
        ))
    }

    /// The owner of each entry. One command per entry, because a range of ids may contain any
    /// number of deleted entries that are still pending.
    async fn owners(
        &self,
        stream: &Stream,
        entries: &[Entry],
    ) -> Result<Vec<Option<Owner>>, Error> {
        let pipeline = self.link.client().await?.pipeline();
        for (id, _) in entries {
            let only = (id.as_str(), id.as_str(), 1);
            let () = pipeline.xpending(&*stream.key, GROUP, only).await?;
        }
        let pending = self.link.run(pipeline, entries.len()).await?;
        let owner = |pending| match pending {
            Ok(pending) => Ok(owner(&pending)),
            // No consumer has received any entry yet.
            Err(error) if classify(&error) == Verdict::GroupMissing => Ok(None),
            Err(error) => Err(error),
        };
        pending.into_iter().map(owner).collect()
    }
}

/// The two numbers of an id: the time, and the place among the entries of this time.
fn place_of(id: &str) -> Option<(u64, u64)> {
    let (time, place) = id.split_once('-')?;
    Some((time.parse().ok()?, place.parse().ok()?))
}

fn as_queued(stream: &Stream, (id, frame): Entry, owner: Option<Owner>) -> Queued {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let arrived = time_of(&id);
    let weighed = |frame: Frame| (frame.span, frame.weight() as u64);
    Queued {
        dataset: stream.dataset.clone(),
        stream: stream.key.clone(),
        frame: frame.map(weighed),
        age: arrived.map_or(Duration::ZERO, |arrived| {
            now.unwrap_or_default().saturating_sub(arrived)
        }),
        entry: id,
        owner,
    }
}

/// Parses a reply of the extended form of XPENDING: `[[id, consumer, idle ms, deliveries]]`, or
/// `[]`.
fn owner(reply: &Value) -> Option<Owner> {
    let Value::Array(entries) = reply else {
        return None;
    };
    let Some(Value::Array(parts)) = entries.first() else {
        return None;
    };
    let [_, consumer, idle_ms, deliveries] = parts.as_slice() else {
        return None;
    };
    Some(Owner {
        consumer: consumer.as_string()?,
        held_for: Duration::from_millis(idle_ms.as_u64()?),
        deliveries: deliveries.as_u64()?,
    })
}
