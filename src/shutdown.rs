//! Ends a run in two steps, and then the program. No step loses a record.
//!
//! The ledger has the stored records, and all other records are still in files of work or an
//! archive.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a run that was aborted by a signal has to end by itself. It waits twice for up to two
/// seconds for a database that does not answer.
const EXIT_AFTER: Duration = Duration::from_secs(5);

/// How a run is ended from outside.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled first: begin no further file and no further frame, and finish the current ones.
    pub drain: CancellationToken,
    /// Cancelled second: leave at once.
    pub abort: CancellationToken,
    /// Cancelled third, by signals only: the program may end the process, whatever still runs. The
    /// engine takes no notice of it.
    pub exit: CancellationToken,
}

impl Shutdown {
    /// A shutdown by SIGINT, SIGTERM, or SIGHUP, which a terminal sends when it closes. The first
    /// signal drains. A second signal, or the end of `drain_timeout` after the first, aborts. A
    /// third signal, or the end of five seconds after the second one, cancels `exit`.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signals(drain_timeout: Duration) -> std::io::Result<Self> {
        Self::begin(drain_timeout, Some(SignalKind::hangup()))
    }

    /// A shutdown of a service by SIGINT or SIGTERM. SIGHUP makes a service reload its settings.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn of_service(drain_timeout: Duration) -> std::io::Result<Self> {
        Self::begin(drain_timeout, None)
    }

    /// A shutdown by SIGINT, SIGTERM and the signal `more`.
    fn begin(drain_timeout: Duration, more: Option<SignalKind>) -> std::io::Result<Self> {
        let mut more = more.map(signal).transpose()?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = Self::default();
        let Self { drain, abort, exit } = shutdown.clone();
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
                "stopping: takes no further file, and finishes the running commits; signal again to exit now"
            );
            drain.cancel();
            let is_second = tokio::select! {
                () = next() => true,
                () = tokio::time::sleep(drain_timeout) => false,
            };
            abort.cancel();
            if !is_second {
                next().await;
            }
            tokio::select! {
                () = next() => {}
                () = tokio::time::sleep(EXIT_AFTER) => {}
            }
            exit.cancel();
        });
        Ok(shutdown)
    }

    /// Waits for `opening`, such as connecting. `None` if the shutdown begins before it ends.
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

/// Waits for the next signal of a kind. Waits for ever if `signal` is `None`.
async fn next_of(signal: Option<&mut Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
