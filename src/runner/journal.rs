//! The last minutes and the last hour of an engine, for status: its rates, and the problems that made
//! it not ready. Bounded. Pure except for the clock.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::fault::{Fault, Origin};
use crate::status::{History, Outage, Status, Trouble};

/// Sampling interval: equal to that of the health check, and so short that a page which is
/// refreshed every few seconds shows a change.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// Number of samples of a series: five minutes, and an hour. Enough to see what preceded an outage. With
/// 32 bytes a sample, both series take 10 KB.
const SAMPLES: usize = 150;

/// Interval of the series of the last hour.
const HOUR_EVERY: Duration = Duration::from_secs(3_600 / SAMPLES as u64);

/// A sample may be this much early: ticks are not exact, and a late one would leave a gap.
const EARLY: Duration = Duration::from_millis(500);

/// Most outages that are kept, including the current one.
const OUTAGES: usize = 5;

/// Most characters of the detail of an outage. A server may send an error text of any length.
const DETAIL_CHARS: usize = 300;

/// Why the engine is not ready, and since when.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) trouble: Trouble,
    pub(super) detail: String,
    pub(super) since: Instant,
}

impl Problem {
    /// The problem that a fault reports. `since` is the beginning of the attempt that failed.
    pub(super) fn new(fault: &Fault, since: Instant) -> Self {
        Self::of(fault.origin, &fault.to_string(), since)
    }

    /// The problem of a part of the outside that has failed since `since`.
    pub(super) fn of(origin: Origin, detail: &str, since: Instant) -> Self {
        Self {
            trouble: match origin {
                Origin::Broker => Trouble::Queue,
                Origin::Sink => Trouble::Database,
                Origin::Files => Trouble::Files,
            },
            detail: detail.chars().take(DETAIL_CHARS).collect(),
            since,
        }
    }

    /// The problem in one line, for people.
    pub(super) fn reason(&self) -> String {
        format!("{}: {}", self.trouble.as_text(), self.detail)
    }
}

/// A problem from its beginning to its end.
#[derive(Debug)]
struct Episode {
    problem: Problem,
    /// When it ended. `None` while it lasts.
    ended: Option<Instant>,
}

/// What a process has done since its start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    /// Records read.
    pub(super) read: u64,
    /// Records stored.
    pub(super) stored: u64,
    /// Records that became rejects when they were read.
    pub(super) rejected: u64,
    /// Bytes of files whose records are stored.
    pub(super) bytes: u64,
}

/// The rates of an interval, per second.
#[derive(Debug, Clone, Copy)]
struct Sample {
    read: u64,
    stored: u64,
    rejected: u64,
    ready: bool,
}

/// The last samples at an interval.
#[derive(Debug)]
struct Series {
    every: Duration,
    samples: VecDeque<Sample>,
    /// The end of the last sample, and the counts at that time.
    counted: (Instant, Counts),
    /// Whether the engine was ready at every call since.
    ready: bool,
}

impl Series {
    fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            samples: VecDeque::new(),
            counted: (now, Counts::default()),
            ready: true,
        }
    }

    /// Adds a sample if the interval has passed. Returns records stored and bytes per second, exactly;
    /// `None` if it has not passed.
    fn add(&mut self, now: Instant, counts: Counts, ready: bool) -> Option<(f64, f64)> {
        self.ready &= ready;
        let (at, before) = self.counted;
        if now - at + EARLY < self.every {
            return None;
        }
        // The time since the last sample is longer than the interval if the process was stopped. It
        // must not be 0, since it is a divisor.
        let seconds = (now - at).as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let stored = rate(counts.stored, before.stored);
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            read: rate(counts.read, before.read) as u64,
            stored: stored as u64,
            rejected: rate(counts.rejected, before.rejected) as u64,
            ready: self.ready,
        });
        self.counted = (now, counts);
        self.ready = true;
        Some((stored, rate(counts.bytes, before.bytes)))
    }

    fn history(&self) -> History {
        let rates = |of: fn(&Sample) -> u64| self.samples.iter().map(of).collect();
        History {
            every_seconds: self.every.as_secs_f64(),
            records_per_second: rates(|sample| sample.stored),
            read_per_second: rates(|sample| sample.read),
            rejected_per_second: rates(|sample| sample.rejected),
            ready: self.samples.iter().map(|sample| sample.ready).collect(),
        }
    }
}

/// The journal of a process, from its start.
#[derive(Debug)]
pub struct Journal {
    began: Instant,
    minutes: Series,
    hour: Series,
    /// Newest first.
    outages: VecDeque<Episode>,
    records_per_second: f64,
    bytes_per_second: f64,
}

impl Default for Journal {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            minutes: Series::new(SAMPLE_EVERY, now),
            hour: Series::new(HOUR_EVERY, now),
            outages: VecDeque::new(),
            records_per_second: 0.0,
            bytes_per_second: 0.0,
        }
    }
}

impl Journal {
    /// Records a fault that prevents the engine from starting.
    pub fn note_fault(&mut self, fault: &Fault) {
        self.note(Some(Problem::new(fault, Instant::now())));
    }

    /// Records that the engine is ready.
    pub fn note_well(&mut self) {
        self.note(None);
    }

    /// Records why the engine is not ready now, or that it is. The same trouble as before continues
    /// the same outage.
    pub(super) fn note(&mut self, problem: Option<Problem>) {
        let now = Instant::now();
        let lasting = self
            .outages
            .front_mut()
            .filter(|episode| episode.ended.is_none());
        match (lasting, problem) {
            (Some(episode), Some(problem)) if episode.problem.trouble == problem.trouble => {
                episode.problem.detail = problem.detail;
            }
            (lasting, problem) => {
                if let Some(episode) = lasting {
                    episode.ended = Some(now);
                }
                if let Some(problem) = problem {
                    self.outages.push_front(Episode {
                        problem,
                        ended: None,
                    });
                    self.outages.truncate(OUTAGES);
                }
            }
        }
    }

    /// Why the engine is not ready now. `None` if it is ready.
    pub(super) fn lasting(&self) -> Option<&Problem> {
        let newest = self.outages.front();
        newest
            .filter(|episode| episode.ended.is_none())
            .map(|episode| &episode.problem)
    }

    /// Adds a sample of each series whose interval has passed.
    pub(super) fn sample(&mut self, counts: Counts) {
        let (now, ready) = (Instant::now(), self.lasting().is_none());
        if let Some((records, bytes)) = self.minutes.add(now, counts, ready) {
            (self.records_per_second, self.bytes_per_second) = (records, bytes);
        }
        self.hour.add(now, counts, ready);
    }

    /// Copies the journal to a status.
    pub fn report(&self, status: &mut Status) {
        let now = Instant::now();
        status.uptime_seconds = Some((now - self.began).as_secs_f64());
        status.records_per_second = Some(self.records_per_second);
        status.bytes_per_second = Some(self.bytes_per_second);
        status.history = self.minutes.history();
        status.last_hour = self.hour.history();
        let outage = |episode: &Episode| Outage {
            trouble: episode.problem.trouble,
            detail: episode.problem.detail.clone(),
            seconds: (episode.ended.unwrap_or(now) - episode.problem.since).as_secs_f64(),
            ended_seconds_ago: episode.ended.map(|ended| (now - ended).as_secs_f64()),
        };
        status.outages = self.outages.iter().map(outage).collect();
        if let Some(problem) = self.lasting() {
            status.ready = false;
            status.reason = Some(problem.reason());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Intervals of the series of the last hour in a thousand samples.
    const INTERVALS: usize = 2_000 / 24;

    fn fault(origin: Origin, cause: &'static str) -> Fault {
        Fault::transient(origin, "asking", cause)
    }

    fn told(journal: &Journal) -> Status {
        let mut status = Status::default();
        journal.report(&mut status);
        status
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_lasts_from_its_first_fault_to_the_first_success() {
        let mut journal = Journal::default();
        journal.note_fault(&fault(Origin::Sink, "refused"));
        tokio::time::advance(Duration::from_secs(7)).await;
        journal.note_fault(&fault(Origin::Sink, "no answer"));
        tokio::time::advance(Duration::from_secs(5)).await;
        let status = told(&journal);
        let outage = status.outage().unwrap();
        assert_eq!(
            (outage.trouble, outage.seconds as u64),
            (Trouble::Database, 12)
        );
        let reason = "database unavailable: asking: no answer";
        assert_eq!(status.reason.as_deref(), Some(reason));
        // A different trouble is a separate outage.
        journal.note_fault(&fault(Origin::Broker, "refused"));
        tokio::time::advance(Duration::from_secs(1)).await;
        journal.note_well();
        tokio::time::advance(Duration::from_secs(2)).await;
        journal.note_well();
        let status = told(&journal);
        assert_eq!(status.outage(), None);
        let ended: Vec<_> = status
            .outages
            .iter()
            .map(|o| {
                (
                    o.trouble,
                    o.seconds as u64,
                    o.ended_seconds_ago.unwrap() as u64,
                )
            })
            .collect();
        assert_eq!(ended, [(Trouble::Queue, 1, 2), (Trouble::Database, 12, 3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_is_bounded() {
        let mut journal = Journal::default();
        let endless = "x".repeat(10_000).leak();
        for round in 1..=1_000 {
            tokio::time::advance(SAMPLE_EVERY).await;
            if round % 2 == 0 {
                journal.note_fault(&fault(Origin::Sink, endless));
            } else {
                journal.note_well();
            }
            journal.sample(Counts {
                read: round * 20,
                stored: round * 10,
                rejected: round * 2,
                bytes: round * 100,
            });
        }
        let status = told(&journal);
        assert_eq!(status.history.records_per_second, [5; SAMPLES]);
        assert_eq!(status.history.read_per_second, [10; SAMPLES]);
        assert_eq!(status.history.rejected_per_second, [1; SAMPLES]);
        assert_eq!(status.history.ready.len(), SAMPLES);
        // In each interval of the hour the engine was once not ready.
        let hour = &status.last_hour;
        assert_eq!(hour.records_per_second, [5; INTERVALS]);
        assert_eq!(hour.ready, [false; INTERVALS]);
        assert_eq!(status.bytes_per_second, Some(50.0));
        assert_eq!(status.outages.len(), OUTAGES);
        assert!(serde_json::to_string(&status).unwrap().len() < 16 << 10);
    }
}
