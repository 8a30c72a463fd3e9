//! Keeps history within its limits while a service runs.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use crate::fault::{Fault, Origin};
use crate::inbox::blocking;
use crate::telemetry;

/// Pause between two passes over history.
const INTERVAL: Duration = Duration::from_secs(60);

/// A slow pass is repeated less often: it takes at most one part in this many of the time.
const SHARE: u32 = 20;

const REMOVING: &str = "removing files from history";

impl Engine {
    /// Removes files of history beyond its limits, at the start and then at intervals, until `stop`.
    /// If that fails, it logs once, and tries again.
    pub(super) async fn keep_history(&self, stop: &CancellationToken) {
        let limits = self.options.history_limits;
        let mut has_failed = false;
        loop {
            let began = Instant::now();
            let inbox = self.inbox.clone();
            let pruning = blocking(REMOVING, move || inbox.prune_history(limits));
            let pruned = tokio::select! {
                pruned = pruning => pruned,
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
}
