//! How long each stage works, and how long it waits for the next one: clocks that run while a guard
//! exists.
//!
//! Reading a clock includes operations that still run, so that an operation of minutes shows from
//! its first second. The recorder has only integer counters, so this module keeps and renders the
//! seconds itself. It takes one lock per frame, file or commit.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use metrics::gauge;
use parking_lot::{Mutex, MutexGuard};

use super::catalogue::{self, BACKPRESSURE, STAGE_BUSY, STAGE_RATIO};

/// A stage of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Files are read, identified and cut.
    Read,
    /// Chunks are parsed into frames.
    Parse,
    /// Frames are published to the queue.
    Publish,
    /// Frames are committed to the database, including the wait for it.
    Commit,
    /// The ledger is queried for files that are completely stored.
    Settle,
}

impl Stage {
    /// All stages, in the order of the data flow.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Parse,
        Self::Publish,
        Self::Commit,
        Self::Settle,
    ];

    /// The stages that can wait for the next one.
    const WITH_BACKPRESSURE: [Self; 2] = [Self::Parse, Self::Publish];

    /// Its name as a label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Parse => "parse",
            Self::Publish => "publish",
            Self::Commit => "commit",
            Self::Settle => "settle",
        }
    }

    fn clock(self) -> MutexGuard<'static, Clock> {
        static CLOCKS: LazyLock<[Mutex<Clock>; Stage::ALL.len()]> =
            LazyLock::new(|| Stage::ALL.map(|_| Mutex::new(Clock::new(Instant::now()))));
        CLOCKS[self as usize].lock()
    }

    /// Time worked so far, summed over all lanes.
    fn busy(self) -> Duration {
        self.clock().at(Instant::now()).busy
    }

    fn waited(self) -> Duration {
        self.clock().at(Instant::now()).waited
    }
}

/// The times of a stage.
#[derive(Debug)]
struct Clock {
    /// Number of work guards, including those that wait.
    working: u32,
    /// Number of wait guards.
    waiting: u32,
    since: Instant,
    busy: Duration,
    waited: Duration,
}

impl Clock {
    fn new(since: Instant) -> Self {
        Self {
            working: 0,
            waiting: 0,
            since,
            busy: Duration::ZERO,
            waited: Duration::ZERO,
        }
    }

    /// Advances the clock to this moment.
    fn at(&mut self, now: Instant) -> &mut Self {
        let passed = now.saturating_duration_since(self.since);
        self.busy += passed * self.working.saturating_sub(self.waiting);
        self.waited += passed * self.waiting;
        self.since = now;
        self
    }
}

/// A guard: the stage works until it is dropped.
#[derive(Debug)]
#[must_use = "the clock stops when it is dropped"]
pub struct BusyTimer(Stage);

impl BusyTimer {
    pub(super) fn begin(stage: Stage) -> Self {
        stage.clock().at(Instant::now()).working += 1;
        Self(stage)
    }
}

impl Drop for BusyTimer {
    fn drop(&mut self) {
        self.0.clock().at(Instant::now()).working -= 1;
    }
}

/// A guard: the stage waits for the next one until it is dropped. This time does not count as work.
#[derive(Debug)]
#[must_use = "the clock stops when it is dropped"]
pub struct BackpressureTimer(Stage);

impl BackpressureTimer {
    pub(super) fn begin(stage: Stage) -> Self {
        stage.clock().at(Instant::now()).waiting += 1;
        Self(stage)
    }
}

impl Drop for BackpressureTimer {
    fn drop(&mut self) {
        self.0.clock().at(Instant::now()).waiting -= 1;
    }
}

/// Computes the share of time in which each stage works, between two calls.
#[derive(Debug)]
pub struct Ratios {
    measured_at: Instant,
    busy: [Duration; Stage::ALL.len()],
}

impl Default for Ratios {
    fn default() -> Self {
        Self {
            measured_at: Instant::now(),
            busy: Stage::ALL.map(Stage::busy),
        }
    }
}

impl Ratios {
    /// Exports the shares since the last call. `lanes` returns how many lanes of a stage can work
    /// at once.
    pub fn export(&mut self, lanes: impl Fn(Stage) -> usize) {
        let passed = self.measured_at.elapsed().as_secs_f64();
        if passed <= 0.0 {
            return;
        }
        self.measured_at = Instant::now();
        for (stage, before) in Stage::ALL.into_iter().zip(&mut self.busy) {
            let now = stage.busy();
            let worked = now.saturating_sub(*before).as_secs_f64();
            let ratio = worked / passed / lanes(stage).max(1) as f64;
            gauge!(STAGE_RATIO, "stage" => stage.as_str()).set(ratio.min(1.0));
            *before = now;
        }
    }
}

/// Appends the seconds of all stages in the text format of Prometheus.
pub(super) fn render(text: &mut String) {
    let mut write = |name: &str, stages: &[Stage], seconds: fn(Stage) -> Duration| {
        let help = catalogue::help(name);
        writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter")?;
        for &stage in stages {
            let (label, seconds) = (stage.as_str(), seconds(stage).as_secs_f64());
            writeln!(text, "{name}{{stage=\"{label}\"}} {seconds:.6}")?;
        }
        std::fmt::Result::Ok(())
    };
    write(STAGE_BUSY, &Stage::ALL, Stage::busy)
        .and_then(|()| write(BACKPRESSURE, &Stage::WITH_BACKPRESSURE, Stage::waited))
        .expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_counts_busy_time_without_waits_and_includes_unfinished_work() {
        let start = Instant::now();
        let second = |n: u64| start + Duration::from_secs(n);
        let mut clock = Clock::new(start);
        clock.at(second(1)).working = 2;
        clock.at(second(3)).waiting = 1;
        clock.at(second(7)).waiting = 0;
        clock.at(second(8)).working = 0;
        let clock = clock.at(second(9));
        assert_eq!(clock.busy, Duration::from_secs(2 * 2 + 4 + 2));
        assert_eq!(clock.waited, Duration::from_secs(4));
        clock.working = 1;
        assert_eq!(clock.at(second(10)).busy, Duration::from_secs(11));
    }

    #[test]
    fn a_wait_without_work_counts_only_as_a_wait() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        clock.waiting = 1;
        let clock = clock.at(start + Duration::from_secs(1));
        assert_eq!((clock.busy, clock.waited.as_secs()), (Duration::ZERO, 1));
    }

    #[test]
    fn seconds_are_counters_with_a_fraction() {
        drop(BusyTimer::begin(Stage::Read));
        drop(BackpressureTimer::begin(Stage::Publish));
        let mut text = String::new();
        render(&mut text);
        for line in [
            "# TYPE lemonade_backpressure_seconds_total counter",
            "# TYPE lemonade_stage_busy_seconds_total counter",
            "lemonade_backpressure_seconds_total{stage=\"publish\"} 0.0",
            "lemonade_stage_busy_seconds_total{stage=\"read\"} 0.0",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }
}
