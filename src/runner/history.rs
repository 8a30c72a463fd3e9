//! Keeps history within its limits while a service runs.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use crate::inbox::{Pruned, blocking};
use crate::telemetry;

/// Pause between two passes over history.
const INTERVAL: Duration = Duration::from_secs(60);

/// A slow pass is repeated less often: it takes at most one part in this many of the time.
const SHARE: u32 = 20;

impl Engine {
    /// Removes files of history beyond its limits, at the start and then at intervals, until `stop`.
    /// If that fails, it logs once, and tries again.
    pub(super) async fn keep_history(&self, stop: &CancellationToken) {
        let limits = self.options.history_limits;
        let mut has_failed = false;
        loop {
            let began = Instant::now();
            let inbox = self.inbox.clone();
            let pruning = blocking("removing files from history", move || {
                inbox.prune_history(limits)
            });
            let mut is_behind = false;
            let pruned = tokio::select! {
                pruned = pruning => pruned,
                // The pass ends by itself.
                () = stop.cancelled() => return,
            };
            match pruned {
                Ok(Pruned {
                    files,
                    bytes,
                    is_partial,
                }) => {
                    if files > 0 {
                        tracing::info!(files, bytes, "removed the oldest files of history");
                        telemetry::history_removed(files);
                    }
                    is_behind = is_partial;
                    has_failed = false;
                }
                Err(fault) => {
                    if !has_failed {
                        tracing::warn!(%fault, "history is not within its limits; tries again");
                    }
                    has_failed = true;
                }
            }
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
