//! Keys of the queue that take no entry, and never will: of another type, or a stream whose ids are
//! used up. Redis is no truth, so such a key is deleted and its stream made anew. What was in it is
//! published again, since the ledger lacks it.

use std::sync::atomic::Ordering;

use fred::error::Error;
use fred::interfaces::{KeysInterface, StreamsInterface};

use super::queue::{GROUP, Queue, Stream};
use super::verdict::{Verdict, classify};

impl Queue {
    /// Deletes the key of a stream that takes no entry, and makes the stream anew. Its frames are
    /// published again, since the ledger lacks them.
    pub(super) async fn replace(&self, stream: &Stream) -> Result<(), Error> {
        let key = &*stream.key;
        tracing::error!(
            key,
            "the key takes no entry (it is of another type, or its ids are used up): it is replaced"
        );
        let pipeline = self.link.client().await?.pipeline();
        let () = pipeline.del(key).await?;
        let () = pipeline.xgroup_create(key, GROUP, "0", true).await?;
        for result in self.link.run(pipeline, 2).await? {
            match result {
                Err(error) if !error.details().starts_with("BUSYGROUP") => return Err(error),
                _ => {}
            }
        }
        stream.length.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Replaces the keys of another type among those of the streams.
    pub(super) async fn replace_unusable(&self) -> Result<(), Error> {
        let pipeline = self.link.client().await?.pipeline();
        for stream in &self.streams {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let lengths = self.link.run(pipeline, self.streams.len()).await?;
        for (stream, length) in self.streams.iter().zip(lengths) {
            match length {
                Err(error) if classify(&error) == Verdict::Unusable => self.replace(stream).await?,
                length => drop(length?),
            }
        }
        Ok(())
    }
}
