//! How busy each stage is, and how long it waits for the next one: clocks that run while a guard
//! lives.
//!
//! A clock is read as it stands, with what runs at that moment, so that an operation of minutes
//! shows from its first second and not after its last. The recorder knows only counters of whole
//! numbers, so these seconds are kept and rendered by ourselves. One lock a frame, file or commit.

use std::fmt::Write as _;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use metrics::gauge;
use parking_lot::{Mutex, MutexGuard};

use super::{BACKPRESSURE, STAGE_BUSY, STAGE_RATIO, exposition};

/// What a file goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Files are read, identified and cut.
    Read,
    /// Chunks are parsed into frames.
    Parse,
    /// Frames are handed to the queue.
    Publish,
    /// Frames are committed to the database, the waiting for it included.
    Commit,
    /// The ledger is asked what is stored as a whole.
    Settle,
}

impl Stage {
    /// In the order of the flow.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Parse,
        Self::Publish,
        Self::Commit,
        Self::Settle,
    ];

    /// Those that the next one can hold up.
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

    /// Seconds of work so far, of all of its lanes.
    fn busy(self) -> Duration {
        self.clock().at(Instant::now()).busy
    }

    fn waited(self) -> Duration {
        self.clock().at(Instant::now()).waited
    }
}

/// The time of a stage.
#[derive(Debug)]
struct Clock {
    /// Guards of work that live, those that wait among them.
    working: u32,
    /// Guards of waits that live.
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

    /// The clock, put forward to this moment.
    fn at(&mut self, now: Instant) -> &mut Self {
        let passed = now.saturating_duration_since(self.since);
        self.busy += passed * self.working.saturating_sub(self.waiting);
        self.waited += passed * self.waiting;
        self.since = now;
        self
    }
}

/// A stage works for as long as this lives.
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

/// A stage waits for the next one for as long as this lives; in the midst of work, it does not work.
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

/// The share of its time that each stage works, between two looks.
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
    /// Tells of the time since the last look. `lanes` is how many of a stage can work at once.
    pub fn tell(&mut self, lanes: impl Fn(Stage) -> usize) {
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
        let help = exposition::help(name);
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
    fn a_clock_counts_lanes_and_not_their_waits_and_what_still_runs() {
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
    fn a_wait_without_work_is_a_wait_alone() {
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
