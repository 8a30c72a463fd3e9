//! Lets the workers wait while a replica of the database is too far behind.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::engine::Engine;
use crate::sink::{Lag, Replicas};
use crate::telemetry;

/// Pause between two questions. A replica tells its delay in whole seconds.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A shorter wait is not logged.
const LOG_AFTER: Duration = Duration::from_secs(5);

impl Engine {
    /// Asks the replicas how far they are behind, and holds the workers meanwhile. A replica that
    /// does not answer holds nobody: it may have been removed. Never returns.
    pub(super) async fn spare_replicas(&self) {
        let Some(replicas) = &self.options.replicas else {
            return std::future::pending().await;
        };
        let (mut held_since, mut is_logged) = (None, false);
        let mut silent = BTreeSet::new();
        loop {
            let slow = self.slowest(replicas, &mut silent).await;
            self.pace.hold(slow.is_some());
            if let Some((replica, lag)) = slow {
                let since = held_since.get_or_insert_with(Instant::now);
                if !is_logged && since.elapsed() >= LOG_AFTER {
                    let limit = self.max_replica_lag.lock().as_secs();
                    tracing::warn!(
                        replica,
                        "commits nothing while a replica is too far behind: {lag}, and at most \
                         {limit} s are allowed (max_replica_lag)"
                    );
                    is_logged = true;
                }
            } else {
                if is_logged {
                    tracing::info!("the replicas have caught up; commits again");
                }
                (held_since, is_logged) = (None, false);
            }
            sleep(ASK_EVERY).await;
        }
    }

    /// The replica that is furthest behind, of those that are too far behind. Logs once which ones
    /// do not answer.
    async fn slowest<'a>(
        &self,
        replicas: &'a Replicas,
        silent: &mut BTreeSet<&'a str>,
    ) -> Option<(&'a str, Lag)> {
        let mut slow = Vec::new();
        for (replica, lag) in replicas.lags().await {
            let lag = match lag {
                Ok(lag) => lag,
                Err(fault) => {
                    if silent.insert(replica) {
                        tracing::warn!(replica, %fault, "goes on without knowing how far a replica is \
                                                         behind; asks again");
                    }
                    continue;
                }
            };
            if silent.remove(replica) {
                tracing::info!(replica, "a replica tells again how far it is behind");
            }
            telemetry::replica_lag(replica, lag.seconds());
            slow.push((replica, lag));
        }
        let max = *self.max_replica_lag.lock();
        slow.retain(|(_, lag)| *lag > Lag::Behind(max));
        slow.into_iter().max_by_key(|(_, lag)| *lag)
    }
}
