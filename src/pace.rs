//! How many records a second the workers of a process may commit, so that a backfill spares a
//! database that serves others.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// The pace that the workers of a process share. By default there is no limit.
#[derive(Debug)]
pub struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Most records a second. `None`: any number.
    per_second: Option<u32>,
    /// When the records that were committed so far are within the limit.
    due: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Mutex::new(State {
            per_second: None,
            due: Instant::now(),
        }))
    }
}

impl Pace {
    /// Sets the most records a second from now on. `None`: any number.
    pub fn set(&self, per_second: Option<u32>) {
        let mut state = self.0.lock();
        if state.per_second != per_second {
            state.per_second = per_second;
            state.due = Instant::now();
        }
    }

    /// Waits until the records that were committed so far are within the limit. A worker waits before
    /// it receives frames, so that none is idle in its hands. It then commits one transaction, so
    /// the first second may have one for each worker more.
    pub async fn wait(&self) {
        loop {
            let due = self.0.lock().due;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }

    /// Counts committed records.
    pub fn count(&self, records: u64) {
        let mut state = self.0.lock();
        if let Some(per_second) = state.per_second {
            let now = Instant::now();
            let takes = Duration::from_secs_f64(records as f64 / f64::from(per_second));
            state.due = state.due.max(now) + takes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Seconds in which workers commit transactions of 4,000 records each.
    async fn seconds(pace: Arc<Pace>, workers: u64, transactions: u64) -> u64 {
        let began = Instant::now();
        let work = (0..workers).map(|_| {
            let pace = pace.clone();
            tokio::spawn(async move {
                for _ in 0..transactions {
                    pace.wait().await;
                    sleep_until(Instant::now() + Duration::from_millis(50)).await;
                    pace.count(4_000);
                }
            })
        });
        for worker in work.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        pace.wait().await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn workers_together_keep_the_pace() {
        for (per_second, workers, transactions, expected) in [
            (None, 3, 100, 5..6),
            (Some(4_000), 1, 10, 10..11),
            (Some(4_000), 3, 10, 30..31),
            (Some(40_000), 3, 10, 3..4),
            // The database is slower than the limit.
            (Some(1_000_000), 1, 20, 1..2),
        ] {
            let pace = Arc::new(Pace::default());
            pace.set(per_second);
            let took = seconds(pace, workers, transactions).await;
            assert!(
                expected.contains(&took),
                "{per_second:?} {workers}: {took} s"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_at_once() {
        let pace = Arc::new(Pace::default());
        pace.set(Some(1));
        pace.count(1_000_000);
        pace.set(Some(1_000));
        let began = Instant::now();
        pace.wait().await;
        pace.count(5_000);
        // The same limit again, as a reload sets it, changes nothing.
        pace.set(Some(1_000));
        pace.wait().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        pace.set(None);
        pace.count(u64::MAX);
        pace.wait().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }
}
