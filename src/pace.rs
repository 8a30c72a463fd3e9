//! How many records a second the workers of a process may commit, and whether they may commit at
//! all, so that a backfill spares a database that serves others, and its replicas.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{MutexGuard, Notify};
use tokio::time::{Instant, sleep_until};

/// The pace that the workers of a process share. By default there is no limit.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    /// Held by the worker that waits or receives.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Most records a second. `None`: any number.
    per_second: Option<u32>,
    /// When the records that were received so far are within the limit.
    due: Instant,
    /// Whether the workers wait whatever the limit.
    is_held: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                per_second: None,
                due: Instant::now(),
                is_held: false,
            }),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Pace {
    /// Sets the most records a second from now on. `None`: any number.
    pub fn set(&self, per_second: Option<u32>) {
        let mut state = self.state.lock();
        if state.per_second != per_second {
            state.per_second = per_second;
            state.due = Instant::now();
            self.changed.notify_one();
        }
    }

    /// From now on, the workers wait before they receive, or no longer wait.
    pub fn hold(&self, is_held: bool) {
        self.state.lock().is_held = is_held;
        self.changed.notify_one();
    }

    /// Waits while the workers are held, and until the records that were received so far are within
    /// the limit. With a limit, lets one worker after the other receive: until it drops its turn, the
    /// others wait. `None` without a limit. A worker waits before it receives frames, so none are
    /// idle in its hands.
    pub async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        if self.is_free() {
            return None;
        }
        let turn = self.turn.lock().await;
        loop {
            if self.is_free() {
                return None;
            }
            let (due, is_held) = {
                let state = self.state.lock();
                (state.due, state.is_held)
            };
            if !is_held && due <= Instant::now() {
                return Some(turn);
            }
            tokio::select! {
                () = sleep_until(due), if !is_held => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Whether a worker may receive without a turn.
    fn is_free(&self) -> bool {
        let state = self.state.lock();
        state.per_second.is_none() && !state.is_held
    }

    /// Counts received records.
    pub fn count(&self, records: u64) {
        let mut state = self.state.lock();
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

    /// Seconds in which workers receive 4,000 records at a time, and commit them within 50 ms.
    async fn seconds(pace: Arc<Pace>, workers: u64, transactions: u64) -> u64 {
        let began = Instant::now();
        let work = (0..workers).map(|_| {
            let pace = pace.clone();
            tokio::spawn(async move {
                for _ in 0..transactions {
                    let turn = pace.turn().await;
                    pace.count(4_000);
                    drop(turn);
                    sleep_until(Instant::now() + Duration::from_millis(50)).await;
                }
            })
        });
        for worker in work.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        pace.turn().await;
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
    async fn workers_receive_one_after_the_other() {
        let pace = Pace::default();
        pace.set(Some(4_000));
        let began = Instant::now();
        for second in 0..16 {
            let turn = pace.turn().await;
            assert_eq!(began.elapsed().as_secs(), second);
            pace.count(4_000);
            drop(turn);
        }
        let _turn = pace.turn().await;
        let other = tokio::time::timeout(Duration::from_secs(60), pace.turn());
        assert!(other.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_holds_at_once() {
        let pace = Arc::new(Pace::default());
        pace.set(Some(1));
        pace.count(1_000_000);
        let waiting = {
            let pace = pace.clone();
            tokio::spawn(async move { pace.turn().await.is_some() })
        };
        tokio::time::sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        pace.set(Some(1_000));
        assert!(waiting.await.unwrap());
        assert_eq!(began.elapsed(), Duration::ZERO);
        pace.count(5_000);
        // The same limit again, as a reload sets it, changes nothing.
        pace.set(Some(1_000));
        drop(pace.turn().await);
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        pace.set(None);
        pace.count(u64::MAX);
        assert!(pace.turn().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn held_workers_wait_with_and_without_a_limit() {
        for per_second in [None, Some(4_000)] {
            let pace = Arc::new(Pace::default());
            pace.set(per_second);
            pace.hold(true);
            let began = Instant::now();
            let waiting: Vec<_> = (0..3)
                .map(|_| {
                    let pace = pace.clone();
                    tokio::spawn(async move { drop(pace.turn().await) })
                })
                .collect();
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(waiting.iter().all(|worker| !worker.is_finished()));
            pace.hold(false);
            for worker in waiting {
                worker.await.unwrap();
            }
            assert_eq!(began.elapsed(), Duration::from_secs(60), "{per_second:?}");
        }
    }
}
