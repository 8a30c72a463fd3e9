//! How a run is ended: in two steps, neither of which loses anything.
//!
//! The ledger knows what is stored, and what it lacks is still in work or in its archive.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How a run is ended from outside.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled first: take no further files, and finish those in flight.
    pub drain: CancellationToken,
    /// Cancelled second: leave at once.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// A shutdown by SIGINT and SIGTERM. The first signal drains. The second, or the end of
    /// `drain_timeout` after the first, aborts.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signals(drain_timeout: Duration) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = Self::default();
        let Self { drain, abort } = shutdown.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            };
            next().await;
            tracing::info!(
                ?drain_timeout,
                "stopping: finishes what is in flight; again to leave now"
            );
            drain.cancel();
            tokio::select! {
                () = next() => {}
                () = tokio::time::sleep(drain_timeout) => {}
            }
            abort.cancel();
        });
        Ok(shutdown)
    }

    /// Does what comes before the work, such as connecting. `None` if the shutdown began first.
    ///
    /// # Errors
    /// Those of `opening`.
    pub async fn unless_draining<T, E>(
        &self,
        opening: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, E> {
        tokio::select! {
            opened = opening => opened.map(Some),
            () = self.drain.cancelled() => Ok(None),
        }
    }
}
