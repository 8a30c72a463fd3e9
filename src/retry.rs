//! Retries an operation while its faults are transient: without limit, with backoff and jitter, and
//! with one log line per change of state.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::fault::{Fault, Origin};

/// First wait. Short, because a deadlock ends at once.
const DELAY_MIN: Duration = Duration::from_millis(20);

/// Longest wait. A longer one would leave a recovered database idle; a shorter one would burden an
/// overloaded one.
const DELAY_MAX: Duration = Duration::from_secs(5);

/// A fault is logged once it has lasted this long. Without this delay, each deadlock would be
/// logged.
const LOG_AFTER: Duration = Duration::from_secs(1);

/// The operations that fail now, and since when.
static STRUGGLES: Mutex<BTreeMap<u64, Failing>> = Mutex::new(BTreeMap::new());

/// An operation that fails and is tried again.
#[derive(Debug, Clone)]
pub struct Failing {
    /// The queue, the database or the files, whichever fails.
    pub origin: Origin,
    /// The text of the last fault.
    pub detail: String,
    /// The time of the first fault after the last success.
    pub since: Instant,
}

/// Lists an operation of this process as failing until it is dropped. One list holds all operations
/// of the process, since most of them fail for the same reason.
#[derive(Debug)]
pub struct Struggle(u64);

impl Struggle {
    /// The operation has failed for the first time.
    #[must_use]
    pub fn begin(origin: Origin) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let failing = Failing {
            origin,
            detail: String::new(),
            since: Instant::now(),
        };
        STRUGGLES.lock().insert(id, failing);
        Self(id)
    }

    /// The operation has failed again, with this text.
    pub fn note(&self, detail: String) {
        if let Some(failing) = STRUGGLES.lock().get_mut(&self.0) {
            failing.detail = detail;
        }
    }
}

impl Drop for Struggle {
    fn drop(&mut self) {
        STRUGGLES.lock().remove(&self.0);
    }
}

/// The operation that has failed for the longest time, if that is at least `time`. Faults of single
/// files are not listed here: status lists the files.
#[must_use]
pub fn failing_for(time: Duration) -> Option<Failing> {
    let struggles = STRUGGLES.lock();
    let servers = struggles
        .values()
        .filter(|failing| failing.origin != Origin::Files);
    let oldest = servers.min_by_key(|failing| failing.since)?;
    (oldest.since.elapsed() >= time).then(|| oldest.clone())
}

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
    let mut struggle = None;
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
        struggle
            .get_or_insert_with(|| Struggle::begin(fault.origin))
            .note(fault.to_string());
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

    #[tokio::test]
    async fn a_failing_operation_is_listed_until_it_succeeds_unless_it_is_of_a_file() {
        let attempts = Cell::new(0);
        let operation = |origin| {
            attempts.set(attempts.get() + 1);
            let attempt = attempts.get();
            let cause = format!("attempt {attempt} is refused");
            let listed = failing_for(Duration::ZERO).map(|failing| failing.detail);
            let before = format!("attempt {} is refused", attempt - 1);
            let is_listed = listed.is_some_and(|detail| detail.contains(&before));
            assert_eq!(
                is_listed,
                attempt > 1 && origin == Origin::Sink,
                "{attempt}"
            );
            async move {
                if attempt < 3 {
                    Err(Fault::transient(origin, "testing this", cause))
                } else {
                    Ok(())
                }
            }
        };
        for origin in [Origin::Sink, Origin::Files] {
            attempts.set(0);
            let stop = CancellationToken::new();
            until_ok("testing", &stop, |_| {}, || operation(origin))
                .await
                .unwrap();
        }
        let failing = failing_for(Duration::ZERO);
        assert!(!failing.is_some_and(|failing| failing.detail.contains("testing this")));
    }
}
