//! How a run is ended: in two steps, neither of which loses anything.
//!
//! The ledger knows what is stored, and what it lacks is still in work or in its archive.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How a run is ended from outside.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled first: begin no further file and no further frame, and finish what is under way.
    pub drain: CancellationToken,
    /// Cancelled second: leave at once.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// A shutdown of a run that ends: by SIGINT, SIGTERM, and SIGHUP, which its terminal sends when
    /// it closes. The first signal drains. The second, or the end of `drain_timeout` after the
    /// first, aborts.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signals(drain_timeout: Duration) -> std::io::Result<Self> {
        Self::begin(drain_timeout, Some(SignalKind::hangup()))
    }

    /// The same of a service, for which SIGHUP means something else.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn of_service(drain_timeout: Duration) -> std::io::Result<Self> {
        Self::begin(drain_timeout, None)
    }

    /// A shutdown by SIGINT, SIGTERM and one signal more.
    fn begin(drain_timeout: Duration, more: Option<SignalKind>) -> std::io::Result<Self> {
        let mut more = more.map(signal).transpose()?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = Self::default();
        let Self { drain, abort } = shutdown.clone();
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    Some(()) = next_of(more.as_mut()) => {}
                }
            };
            next().await;
            tracing::info!(
                ?drain_timeout,
                "stopping: takes no further file, and ends the commits under way; again to leave now"
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

/// The next signal of a kind; never, if there is none.
async fn next_of(signal: Option<&mut Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
