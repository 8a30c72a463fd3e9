//! Retries an operation while its faults are transient: without limit, with backoff and jitter, and
//! with one log line per change of state.

use std::future::Future;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;

/// First wait. Short, because a deadlock is over at once.
const DELAY_MIN: Duration = Duration::from_millis(20);

/// Longest wait. Longer would leave a recovered database idle; shorter would burden a struggling
/// one.
const DELAY_MAX: Duration = Duration::from_secs(5);

/// A fault is logged once it has lasted this long, so that a deadlock is not.
const LOG_AFTER: Duration = Duration::from_secs(1);

/// Why an operation was given up.
#[derive(Debug)]
pub enum GivenUp {
    /// The engine is stopping.
    Stopped,
    /// A retry would not help.
    Fatal(Fault),
}

/// Runs `operation` until it succeeds, returns a fatal fault, or `stop` is cancelled. Calls
/// `failed` with each fault, for a counter. Logs one line when the fault has lasted for a second,
/// and one when it is over.
///
/// # Errors
/// [`GivenUp`].
pub async fn until_ok<T, F>(
    doing: &'static str,
    stop: &CancellationToken,
    failed: impl Fn(&Fault),
    mut operation: impl FnMut() -> F,
) -> Result<T, GivenUp>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut delays = None;
    let began = Instant::now();
    let mut logged = false;
    loop {
        // A stop cancels an attempt, which may otherwise take as long as its timeouts. This is as
        // safe as a lost connection: the ledger shows whether the attempt took effect.
        let attempt = tokio::select! {
            attempt = operation() => attempt,
            () = stop.cancelled() => return Err(GivenUp::Stopped),
        };
        let fault = match attempt {
            Ok(value) => {
                if logged {
                    tracing::info!(doing, seconds = began.elapsed().as_secs(), "works again");
                }
                return Ok(value);
            }
            Err(fault) => fault,
        };
        failed(&fault);
        if !fault.is_transient() {
            return Err(GivenUp::Fatal(fault));
        }
        if !logged && began.elapsed() >= LOG_AFTER {
            tracing::warn!(doing, %fault, "failed; retries until it works");
            logged = true;
        }
        let delays = delays.get_or_insert_with(|| {
            ExponentialBuilder::default()
                .with_min_delay(DELAY_MIN)
                .with_max_delay(DELAY_MAX)
                .with_jitter()
                .without_max_times()
                .build()
        });
        let delay = delays.next().unwrap_or(DELAY_MAX);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stop.cancelled() => return Err(GivenUp::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::fault::Origin;

    #[tokio::test(start_paused = true)]
    async fn transient_faults_are_retried() {
        let left = Cell::new(20);
        let failures = Cell::new(0);
        let result = until_ok(
            "testing",
            &CancellationToken::new(),
            |_| failures.set(failures.get() + 1),
            || async {
                left.set(left.get() - 1);
                if left.get() > 0 {
                    Err(Fault::transient(Origin::Sink, "x", "y"))
                } else {
                    Ok(7)
                }
            },
        )
        .await;
        assert!(matches!(result, Ok(7)));
        assert_eq!(failures.get(), 19);
    }

    #[tokio::test]
    async fn fatal_faults_end_at_once_and_a_stop_ends_the_wait() {
        let fatal = || async { Err::<(), _>(Fault::fatal(Origin::Sink, "x", "y")) };
        let stop = CancellationToken::new();
        let result = until_ok("testing", &stop, |_| {}, fatal).await;
        assert!(matches!(result, Err(GivenUp::Fatal(_))));
        stop.cancel();
        let transient = || async { Err::<(), _>(Fault::transient(Origin::Sink, "x", "y")) };
        let result = until_ok("testing", &stop, |_| {}, transient).await;
        assert!(matches!(result, Err(GivenUp::Stopped)));
    }
}
