//! Retries an operation while its faults are transient: without limit, with backoff and jitter, and
//! with one log line for all operations that fail at the same time.

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

/// Longest wait, to which up to as much is added by chance. A longer one would leave a recovered
/// database idle for more than a second; a shorter one would burden an overloaded one.
const DELAY_MAX: Duration = Duration::from_millis(500);

/// A part of the outside that fails is logged once it has failed for this long. Without this delay,
/// each failover of a few seconds would leave two lines and not one.
pub const LOG_AFTER: Duration = Duration::from_secs(10);

/// A part that has failed for less than this leaves no line. Otherwise each deadlock would.
const LOG_MIN: Duration = Duration::from_secs(1);

/// What fails now, and since when.
static STRUGGLES: Mutex<Struggles> = Mutex::new(Struggles {
    failing: BTreeMap::new(),
    events: BTreeMap::new(),
});

/// The operations that fail, and the events that they belong to.
#[derive(Debug, Default)]
struct Struggles {
    failing: BTreeMap<u64, Failing>,
    /// By the number of the operation that failed first.
    events: BTreeMap<u64, Event>,
}

/// A time during which operations on a part of the outside fail. However many fail, it leaves one
/// line at its end, and one more after [`LOG_AFTER`] if it is that long.
///
/// An event of which only one operation has failed for [`LOG_AFTER`] takes no further operations:
/// its cause is probably the operation's own, such as an index that cannot be built. The next
/// operation that fails begins another event, and so a later outage is logged.
#[derive(Debug)]
struct Event {
    origin: Origin,
    began: Instant,
    /// The number of its operations that fail now.
    operations: usize,
    /// The time since which only one fails.
    alone_since: Option<Instant>,
    failures: u64,
    is_logged: bool,
}

impl Event {
    fn takes(&self, origin: Origin) -> bool {
        let is_closed = |since: Instant| since.elapsed() >= LOG_AFTER;
        self.origin == origin && !self.alone_since.is_some_and(is_closed)
    }

    fn count(&mut self, operations: usize) {
        self.operations = operations;
        self.alone_since = (operations == 1).then(Instant::now);
    }

    /// The line of its end. `None` if it was too short for one. `is_over` is whether its last
    /// operation has succeeded.
    fn last_line(&self, is_over: bool) -> Option<&'static str> {
        match (is_over, self.is_logged) {
            (true, false) if self.began.elapsed() < LOG_MIN => None,
            (true, _) => Some("works again after a fault"),
            (false, true) => Some("given up after a fault"),
            (false, false) => None,
        }
    }
}

impl Struggles {
    fn begin(&mut self, id: u64, origin: Origin) {
        let since = Instant::now();
        let detail = String::new();
        let joined = self
            .events
            .iter_mut()
            .find(|(_, event)| event.takes(origin));
        let event_id = if let Some((event_id, event)) = joined {
            event.count(event.operations + 1);
            *event_id
        } else {
            let event = Event {
                origin,
                began: since,
                operations: 1,
                alone_since: Some(since),
                failures: 0,
                is_logged: false,
            };
            self.events.insert(id, event);
            id
        };
        self.failing.insert(
            id,
            Failing {
                origin,
                detail,
                since,
                event_id,
            },
        );
    }

    /// Counts a failure. Returns whether to log it.
    fn note(&mut self, id: u64, detail: String) -> bool {
        let Some(failing) = self.failing.get_mut(&id) else {
            return false;
        };
        failing.detail = detail;
        let Some(event) = self.events.get_mut(&failing.event_id) else {
            return false;
        };
        event.failures += 1;
        let is_due = !event.is_logged && event.began.elapsed() >= LOG_AFTER;
        event.is_logged |= is_due;
        is_due
    }

    /// Returns the event that ends with this operation, and the text of its last fault. `None` if
    /// other operations of the event still fail.
    fn end(&mut self, id: u64) -> Option<(Event, String)> {
        let ended = self.failing.remove(&id)?;
        let event = self.events.get_mut(&ended.event_id)?;
        if event.operations > 1 {
            event.count(event.operations - 1);
            return None;
        }
        Some((self.events.remove(&ended.event_id)?, ended.detail))
    }
}

/// An operation that fails and is tried again.
#[derive(Debug, Clone)]
pub struct Failing {
    /// The queue, the database or the files, whichever fails.
    pub origin: Origin,
    /// The text of the last fault.
    pub detail: String,
    /// The time of the first fault after the last success.
    pub since: Instant,
    event_id: u64,
}

/// Lists an operation of this process as failing until it is dropped. One list holds all operations
/// of the process, since most of them fail for the same reason.
#[derive(Debug)]
pub struct Struggle {
    id: u64,
    /// Whether the operation has succeeded.
    is_over: bool,
}

impl Struggle {
    /// The operation has failed for the first time.
    #[must_use]
    pub fn begin(origin: Origin) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        STRUGGLES.lock().begin(id, origin);
        Self { id, is_over: false }
    }

    /// The operation has failed again, with this text.
    pub fn note(&self, detail: String) {
        let fault = detail.clone();
        if STRUGGLES.lock().note(self.id, detail) {
            tracing::warn!(fault, "failed; retries until it works");
        }
    }

    /// The operation has succeeded.
    pub fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Struggle {
    fn drop(&mut self) {
        let Some((event, fault)) = STRUGGLES.lock().end(self.id) else {
            return;
        };
        if let Some(line) = event.last_line(self.is_over) {
            let lasted = event.began.elapsed();
            let seconds = (lasted.as_secs_f64() * 10.0).round() / 10.0;
            let failures = event.failures;
            tracing::info!(seconds, failures, fault, "{line}");
        }
    }
}

/// The operation that has failed for the longest time, if that is at least `time`. Faults of single
/// files are not listed here: status lists the files.
#[must_use]
pub fn failing_for(time: Duration) -> Option<Failing> {
    let struggles = STRUGGLES.lock();
    let servers = struggles
        .failing
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
/// `failed` with each fault, for a counter. All operations that fail at the same time for the same
/// [`Origin`] leave one line in the log, and one more if it lasts.
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
    let mut struggle: Option<Struggle> = None;
    loop {
        // A stop cancels an attempt, which may otherwise take as long as its timeouts. This is as
        // safe as a lost connection: the ledger shows whether the attempt took effect.
        let attempt = tokio::select! {
            attempt = operation() => attempt,
            () = stop.cancelled() => return Err(GivenUp::Stopped),
        };
        let fault = match attempt {
            Ok(value) => {
                if let Some(struggle) = struggle {
                    struggle.end();
                }
                return Ok(value);
            }
            Err(fault) => fault,
        };
        failed(&fault);
        tracing::debug!(doing, %fault, "failed");
        if !fault.is_transient() {
            return Err(GivenUp::Fatal(fault));
        }
        struggle
            .get_or_insert_with(|| Struggle::begin(fault.origin))
            .note(fault.to_string());
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

    /// However many operations fail, there is one event, which ends with the last of them.
    #[test]
    fn operations_that_fail_at_the_same_time_are_one_event() {
        let mut struggles = Struggles::default();
        for (id, origin) in [(1, Origin::Sink), (2, Origin::Sink), (3, Origin::Broker)] {
            struggles.begin(id, origin);
            assert!(
                !struggles.note(id, format!("fault {id}")),
                "too early for a line"
            );
        }
        assert!(struggles.end(1).is_none(), "the other one still fails");
        assert!(!struggles.note(2, "fault 4".to_owned()));
        let (event, fault) = struggles.end(2).unwrap();
        assert_eq!((event.failures, &*fault), (3, "fault 4"));
        assert_eq!(struggles.end(3).unwrap().0.failures, 1);
        assert!(struggles.end(3).is_none());

        struggles.begin(4, Origin::Sink);
        let event = struggles.events.get_mut(&4).unwrap();
        event.began = Instant::now().checked_sub(LOG_AFTER).unwrap();
        let logged = [(); 3].map(|()| struggles.note(4, "fault".to_owned()));
        assert_eq!(logged, [true, false, false]);
    }

    /// An operation that has failed alone for long does not hide a later outage.
    #[test]
    fn an_event_of_one_operation_takes_no_further_ones_after_a_while() {
        let mut struggles = Struggles::default();
        let is_other = |struggles: &Struggles, id| struggles.events.contains_key(&id);
        for id in [1, 2] {
            struggles.begin(id, Origin::Sink);
        }
        let past = Instant::now().checked_sub(LOG_AFTER).unwrap();
        assert!(struggles.end(2).is_none());
        struggles.events.get_mut(&1).unwrap().alone_since = Some(past);
        for id in [3, 4] {
            struggles.begin(id, Origin::Sink);
        }
        assert!(is_other(&struggles, 3) && !is_other(&struggles, 4));
        struggles.events.get_mut(&3).unwrap().began = past;
        assert!(struggles.note(3, "outage".to_owned()));
        assert!(struggles.end(4).is_none());
        assert_eq!(struggles.end(3).unwrap().0.failures, 1);
        assert_eq!(struggles.end(1).unwrap().0.failures, 0);
    }

    #[test]
    fn an_event_that_was_logged_has_a_last_line() {
        let now = Instant::now();
        let past = now.checked_sub(LOG_MIN).unwrap();
        for (began, is_logged, is_over, expected) in [
            (now, false, true, None),
            (past, false, true, Some("works again after a fault")),
            (past, false, false, None),
            (past, true, true, Some("works again after a fault")),
            (past, true, false, Some("given up after a fault")),
        ] {
            let event = Event {
                origin: Origin::Sink,
                began,
                operations: 1,
                alone_since: None,
                failures: 1,
                is_logged,
            };
            assert_eq!(event.last_line(is_over), expected, "{is_logged} {is_over}");
        }
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
