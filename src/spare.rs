//! Lets the workers, and commands that store records, wait while a replica of the database is too far
//! behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::config::Settings;
use crate::fault::Fault;
use crate::pace::Pace;
use crate::sink::{Lag, Replicas};
use crate::telemetry;

/// Pause between two questions. A replica tells its delay in whole seconds.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A shorter wait is not logged.
const LOG_AFTER: Duration = Duration::from_secs(5);

/// The pace of a command by its settings. Asks the replicas until it is dropped.
pub(crate) struct Spared {
    pub(crate) pace: Arc<Pace>,
    _asking: Option<AbortOnDropHandle<()>>,
}

impl Spared {
    /// # Errors
    /// Fatal: a URL of the replicas is wrong.
    pub(crate) fn begin(settings: &Settings) -> Result<Self, Fault> {
        let pace = Arc::<Pace>::default();
        pace.set(settings.max_records_per_second);
        let replicas = settings.replica_url.as_deref().map(Replicas::new);
        let replicas = replicas.transpose()?;
        // Until they have answered once.
        pace.hold(replicas.is_some());
        let asking = replicas.map(|replicas| {
            let (pace, max_lag) = (pace.clone(), Mutex::new(settings.max_replica_lag));
            let asking = async move { spare(Some(&replicas), &pace, &max_lag).await };
            AbortOnDropHandle::new(tokio::spawn(asking))
        });
        Ok(Self {
            pace,
            _asking: asking,
        })
    }

    /// Waits until this many more records may be stored.
    pub(crate) async fn turn(&self, records: usize) {
        let _turn = self.pace.turn().await;
        self.pace.count(records as u64);
    }
}

/// Asks the replicas how far they are behind, and holds the workers of this pace while one is behind
/// by more than `max_lag`, which may change meanwhile. A replica that does not answer holds nobody:
/// it may have been removed. Never returns.
pub(crate) async fn spare(replicas: Option<&Replicas>, pace: &Pace, max_lag: &Mutex<Duration>) {
    let Some(replicas) = replicas else {
        return std::future::pending().await;
    };
    let (mut held_since, mut is_logged) = (None, false);
    let mut silent = BTreeSet::new();
    loop {
        let lags = known(replicas.lags().await, &mut silent);
        let max = *max_lag.lock();
        let slow = lags.into_iter().filter(|(_, lag)| *lag > Lag::Behind(max));
        let slowest = slow.max_by_key(|(_, lag)| *lag);
        pace.hold(slowest.is_some());
        if let Some((replica, lag)) = slowest {
            let since = held_since.get_or_insert_with(Instant::now);
            if !is_logged && since.elapsed() >= LOG_AFTER {
                let limit = max.as_secs();
                tracing::warn!(
                    replica,
                    "commits nothing while a replica is too far behind: {lag}, and at most {limit} s \
                     are allowed (max_replica_lag)"
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

/// How far the replicas that answer are behind. Logs once which ones do not answer.
fn known<'a>(
    lags: Vec<(&'a str, Result<Lag, Fault>)>,
    silent: &mut BTreeSet<&'a str>,
) -> Vec<(&'a str, Lag)> {
    let mut known = Vec::new();
    for (replica, lag) in lags {
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
        known.push((replica, lag));
    }
    known
}
