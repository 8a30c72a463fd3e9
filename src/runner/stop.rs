//! How a run is ended: in two steps, neither of which loses anything.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How a run is ended from outside.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Take no further files, finish the ones in flight.
    pub quiet: CancellationToken,
    /// Leave at once.
    pub now: CancellationToken,
}

impl Stop {
    /// A stop that listens to SIGINT and SIGTERM: the first drains, within a limit; the second
    /// leaves at once.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn on_signals(drain_timeout: Duration) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = Self::default();
        let told = stop.clone();
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
            told.quiet.cancel();
            tokio::select! {
                () = next() => {}
                () = tokio::time::sleep(drain_timeout) => {}
            }
            told.now.cancel();
        });
        Ok(stop)
    }

    /// Does what comes before the work, such as connecting; `None` where the stop came first.
    ///
    /// # Errors
    /// Those of what is done.
    pub async fn unless_stopped<T, E>(
        &self,
        opening: impl Future<Output = Result<T, E>>,
    ) -> Result<Option<T>, E> {
        tokio::select! {
            opened = opening => opened.map(Some),
            () = self.quiet.cancelled() => Ok(None),
        }
    }
}
