//! Keeps history within its limits, and compresses its files.

use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use crate::fault::{Fault, Origin};
use crate::inbox::{Compacting, Pruned, blocking};
use crate::telemetry;

/// Pause between two passes over history.
const INTERVAL: Duration = Duration::from_secs(60);

/// A slow pass is repeated less often: it takes at most one part in this many of the time.
const SHARE: u32 = 20;

/// Longest time by which the clock of a file system may be behind that of this machine.
const CLOCKS_DIFFER: Duration = Duration::from_secs(600);

/// A wall clock that has gained this much on the monotonic clock has jumped, or the host was
/// suspended.
const JUMPED: Duration = Duration::from_secs(3_600);

const COMPACTING: &str = "compressing files of history";

const REMOVING: &str = "removing files from history";

impl Engine {
    /// Removes files of history beyond its limits, at the start and then at intervals, until `stop`.
    /// If that fails, it logs once, and tries again.
    pub(super) async fn keep_history(&self, stop: &CancellationToken) {
        let mut clock = Clock::begin();
        let mut has_failed = false;
        loop {
            let began = Instant::now();
            let pruned = tokio::select! {
                pruned = self.prune_history(&mut clock) => pruned,
                // The pass ends by itself.
                () = stop.cancelled() => return,
            };
            let mut is_behind = false;
            let failed = match pruned {
                Ok(pruned) => {
                    let (files, bytes) = (pruned.files, pruned.bytes);
                    if files > 0 {
                        tracing::info!(files, bytes, "removed the oldest files of history");
                        telemetry::history_removed(files);
                    }
                    is_behind = pruned.is_partial;
                    let fault = |error| Fault::transient(Origin::Files, REMOVING, error);
                    pruned.failed.map(fault)
                }
                Err(fault) => Some(fault),
            };
            if let Some(fault) = failed.as_ref().filter(|_| !has_failed) {
                tracing::warn!(%fault, "history is not within its limits; tries again");
            }
            has_failed = failed.is_some();
            let pause = if is_behind {
                Duration::ZERO
            } else {
                INTERVAL.max(began.elapsed() * SHARE)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Removes files of history once.
    async fn prune_history(&self, clock: &mut Clock) -> Result<Pruned, Fault> {
        let limits = self.options.history_limits;
        let now = match limits.age {
            Some(_) => self.time_behind(clock).await?,
            None => SystemTime::now(),
        };
        let inbox = self.inbox.clone();
        blocking(REMOVING, move || inbox.prune_history(limits, now)).await
    }

    /// The time by the clock that is behind: that of the database, or that of this process. A clock
    /// that is ahead removes no file.
    async fn time_behind(&self, clock: &mut Clock) -> Result<SystemTime, Fault> {
        let ours = clock.now();
        match self.database.as_deref() {
            Some(database) => Ok(database.time().await?.min(ours)),
            None => Ok(ours),
        }
    }

    /// Compresses the files of history, at the start and then at intervals, until `stop`. If that fails,
    /// it logs once, and tries again.
    pub(super) async fn go_on_compacting(&self, stop: &CancellationToken) {
        // The files that were there before are visited until all of them were compressed.
        let (mut since, mut has_failed) = (None, false);
        loop {
            let began = (Instant::now(), SystemTime::now());
            let failed = self.compact_since(since, stop).await;
            if stop.is_cancelled() {
                return;
            }
            if let Some(fault) = failed.as_ref().filter(|_| !has_failed) {
                tracing::warn!(%fault, "files of history are not compressed; tries again");
            }
            has_failed = failed.is_some();
            if !has_failed {
                since = began.1.checked_sub(CLOCKS_DIFFER);
            }
            let pause = INTERVAL.max(began.0.elapsed() * SHARE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Compresses the files of history once, if the settings say so.
    pub async fn compact_history(&self, stop: &CancellationToken) {
        if !self.options.compacts_history {
            return;
        }
        if let Some(fault) = self.compact_since(None, stop).await {
            tracing::warn!(%fault, "files of history are not compressed; the next run tries again");
        }
    }

    async fn compact_since(
        &self,
        since: Option<SystemTime>,
        stop: &CancellationToken,
    ) -> Option<Fault> {
        let (inbox, stop) = (self.inbox.clone(), stop.clone());
        let floor_bytes = self.options.disk_floor_bytes;
        let pass = move || inbox.compact_history(since, floor_bytes, &|| stop.is_cancelled());
        let Compacting {
            files,
            bytes_before,
            bytes_now,
            failed,
        } = match blocking(COMPACTING, pass).await {
            Ok(done) => done,
            Err(fault) => return Some(fault),
        };
        if files > 0 {
            tracing::info!(
                files,
                bytes_before,
                bytes_now,
                "compressed files of history"
            );
        }
        failed.map(|error| Fault::transient(Origin::Files, COMPACTING, error))
    }
}

/// The time of this process, without the jumps of its wall clock to the future.
struct Clock {
    began: (Instant, SystemTime),
    has_jumped: bool,
}

impl Clock {
    fn begin() -> Self {
        Self {
            began: (Instant::now(), SystemTime::now()),
            has_jumped: false,
        }
    }

    /// The time by the wall clock, or by the monotonic clock since the start, whichever is behind.
    /// Logs a jump once.
    fn now(&mut self) -> SystemTime {
        let (began, started_at) = self.began;
        let (wall, steady) = (SystemTime::now(), started_at + began.elapsed());
        let ahead = wall.duration_since(steady).unwrap_or_default();
        let has_jumped = ahead > JUMPED;
        if has_jumped && !self.has_jumped {
            tracing::warn!(
                seconds = ahead.as_secs(),
                "the clock of this host has jumped ahead, or it was suspended; the age of files in \
                 history counts without this time until the next start"
            );
        }
        self.has_jumped = has_jumped;
        wall.min(steady)
    }
}
