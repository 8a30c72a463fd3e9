//! The settings as options of the queue and the database.

use super::Settings;
use super::url::place;
use crate::broker::{BrokerOptions, Claim};
use crate::frame::FrameKey;
use crate::sink::SinkOptions;

impl Settings {
    /// How the database is used, with as many connections as workers.
    #[must_use]
    pub fn sink_options(&self) -> SinkOptions {
        SinkOptions {
            connections: self.workers,
            reread: self.database_again.clone(),
            ..SinkOptions::default()
        }
    }

    /// How the queue is used. Without a key for frames, which is in the database.
    #[must_use]
    pub fn broker_options(&self) -> BrokerOptions {
        BrokerOptions {
            queue_bytes_max: self.queue_bytes_max,
            namespace: self.redis_prefix.clone(),
            shards: self.queue_shards,
            reread: self.broker_again.clone(),
            ..BrokerOptions::default()
        }
    }

    /// The same to publish and to receive, for the ledger that has this key.
    #[must_use]
    pub fn queue_options(&self, key: FrameKey) -> BrokerOptions {
        BrokerOptions {
            claim: Some(self.claim(Some(&key))),
            key: Some(key),
            ..self.broker_options()
        }
    }

    /// The ledger that has this key. `None`: no start has made it yet.
    #[must_use]
    pub fn claim(&self, key: Option<&FrameKey>) -> Claim {
        Claim {
            ledger: key.map(FrameKey::ledger).unwrap_or_default(),
            database: place(&self.database_url),
        }
    }
}
