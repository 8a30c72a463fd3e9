//! Replaces keys of the queue that can never take an entry: a key of another type, or a stream
//! whose ids are used up. The key is deleted and its stream is created again. Its frames are
//! published again, since the ledger lacks their records.

use std::sync::atomic::Ordering;

use fred::error::Error;
use fred::interfaces::{KeysInterface, StreamsInterface};

use super::queue::{GROUP, Queue};
use super::streams::Stream;
use super::verdict::{Verdict, classify};

impl Queue {
    /// Deletes the key of a stream that takes no entry, and creates the stream again.
    pub(super) async fn replace(&self, stream: &Stream) -> Result<(), Error> {
        let key = &*stream.key;
        tracing::error!(
            key,
            "the key of a stream has another type, or its ids are used up: replacing it"
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

    /// Replaces each key of a stream that has another type.
    pub(super) async fn replace_unusable(&self) -> Result<(), Error> {
        let streams = self.streams.in_use();
        let pipeline = self.link.client().await?.pipeline();
        for stream in &*streams {
            let () = pipeline.xlen(&*stream.key).await?;
        }
        let lengths = self.link.run(pipeline, streams.len()).await?;
        for (stream, length) in streams.iter().zip(lengths) {
            match length {
                Err(error) if classify(&error) == Verdict::Unusable => self.replace(stream).await?,
                length => drop(length?),
            }
        }
        Ok(())
    }
}
