//! The engine's watch over its surroundings: what it saw of queue, database and files, for the
//! metrics and for whoever asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};

use super::Engine;
use super::journal::{Journal, Met, SAMPLE_EVERY};
use crate::broker::Depth;
use crate::fault::{Fault, Origin};
use crate::inbox::{self, Waiting, Waits};
use crate::sink::{FileEntry, Totals};
use crate::status::{self, RejectCount, Status, StatusSource, Trouble};
use crate::telemetry;

/// How often a service looks whether queue and database are well. Two small calls each time.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A server that is silent for so long is not there. A commit holds each connection for less.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the engine shows that it turns, and notices what changed: people see seconds.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Files and rejects of the ledger, and waiting files, that a status tells of.
const STATUS_FILES: usize = 10;
const STATUS_REJECTS: usize = 1_000;
const STATUS_WAITING: usize = 20;

/// Most characters of the reason of a file.
const STATUS_REASON_CHARS: usize = 300;

/// How long a status waits for the database.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// The ledger is asked again after ten times as long as its answer took, within these limits: however
/// many people look, the database spends no more than a tenth of one connection on them.
const LEDGER_AGE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What the engine last saw of the world around it, for whoever asks.
#[derive(Debug)]
pub(super) struct Seen {
    /// What the last scan of inbound found waiting.
    pub(super) waiting: Mutex<WaitsSeen>,
    /// Files in inbound at the last scan.
    pub(super) inbound: AtomicU64,
    /// What the queue held at the last look.
    depth: Mutex<Depth>,
    /// Why no file is taken now: which disk lacks room.
    pub(super) no_room: Mutex<Option<String>>,
    /// What the last scan of inbound failed at.
    pub(super) inbox: Mutex<Option<Met>>,
    /// What the last look met; `None` before the first.
    looked: Mutex<Option<Result<(), Met>>>,
    journal: Mutex<Journal>,
    ledger: Mutex<LedgerSeen>,
    /// Held by the one who asks the ledger.
    asking: tokio::sync::Mutex<()>,
    /// When the engine last showed that it turns.
    beat: Mutex<Instant>,
}

/// Files of inbound that wait.
#[derive(Debug, Clone, Default)]
pub(super) struct WaitsSeen {
    /// How many.
    pub(super) files: u64,
    /// The first of them, and since when each waits for the same.
    pub(super) named: Vec<(Waiting, Instant)>,
}

/// What the ledger said last, and when and how fast.
#[derive(Debug, Clone, Default)]
struct LedgerSeen {
    said: Option<(Instant, Totals, Vec<FileEntry>, Vec<RejectCount>)>,
    asked: Option<(Instant, Duration)>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            inbound: AtomicU64::default(),
            depth: Mutex::default(),
            no_room: Mutex::default(),
            inbox: Mutex::default(),
            looked: Mutex::default(),
            journal: Mutex::default(),
            ledger: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            beat: Mutex::new(Instant::now()),
        }
    }
}

impl Seen {
    /// Notes what waits, and keeps since when: since `before` the scan, or since it was noted.
    pub(super) fn note_waiting(&self, waits: &Waits, before: &WaitsSeen) {
        let now = Instant::now();
        let mut known = self.waiting.lock();
        let since = |file: &Waiting| {
            let mut then = before.named.iter().chain(&known.named);
            let since = then.find_map(|(then, since)| (then == file).then_some(*since));
            (file.clone(), since.unwrap_or(now))
        };
        *known = WaitsSeen {
            files: waits.files,
            named: waits.named.iter().map(since).collect(),
        };
    }
}

impl Engine {
    /// What was remembered before there was an engine.
    pub fn remember(&self, journal: Journal) {
        *self.seen.journal.lock() = journal;
    }

    /// Whether the loop of the service turned within this time. It is polled together with ingest
    /// and workers: one of them that blocks its thread stops the loop as well.
    #[must_use]
    pub fn turned_within(&self, time: Duration) -> bool {
        self.seen.beat.lock().elapsed() <= time
    }

    /// Looks at queue and database again and again, for the metrics and for whoever asks.
    pub(super) async fn keep_watch(&self) {
        tokio::join!(self.keep_looking(), self.keep_journal());
    }

    async fn keep_looking(&self) {
        let mut before = Ok(());
        loop {
            let began = Instant::now();
            let look = self.look().await;
            *self.seen.looked.lock() = Some(look.map_err(|fault| Met::by(&fault, began)));
            self.note();
            let now = self.ready();
            telemetry::ready(now.is_ok());
            match (&before, &now) {
                (Ok(()), Err(reason)) => tracing::warn!(reason, "not ready"),
                (Err(_), Ok(())) => tracing::info!("ready again"),
                _ => {}
            }
            before = now;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn keep_journal(&self) {
        let mut ticks = tokio::time::interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sampled = Instant::now();
        loop {
            let now = ticks.tick().await;
            *self.seen.beat.lock() = now;
            self.note();
            if !self.options.roles.ingest {
                // Nobody here asks which files these commits were of.
                drop(self.progress.take());
            }
            if now - sampled >= SAMPLE_EVERY {
                let bytes = self.tally.bytes_done.load(Relaxed);
                self.seen.journal.lock().sample(self.stored(), bytes);
                sampled = now;
            }
        }
    }

    /// Records stored since the start. A process without workers learns of them when a file is whole.
    fn stored(&self) -> u64 {
        if self.options.roles.work {
            self.progress.records()
        } else {
            self.tally.records.load(Relaxed)
        }
    }

    /// Enters into the journal what keeps the engine from working now.
    fn note(&self) {
        let Some(looked) = self.seen.looked.lock().clone() else {
            return;
        };
        let no_room = self.seen.no_room.lock().clone().map(|detail| Met {
            trouble: Trouble::Disk,
            detail,
            since: Instant::now(),
        });
        let inbox = || self.seen.inbox.lock().clone();
        self.seen
            .journal
            .lock()
            .note(looked.err().or(no_room).or_else(inbox));
    }

    async fn look(&self) -> Result<(), Fault> {
        let depth = within(LOOK_TIMEOUT, Origin::Broker, self.broker.depth()).await?;
        telemetry::queue(depth.frames, depth.bytes, depth.pending);
        *self.seen.depth.lock() = depth;
        let oldest = within(LOOK_TIMEOUT, Origin::Broker, self.broker.oldest());
        for (stream, age) in oldest.await? {
            telemetry::queue_oldest(&stream, age);
        }
        let files = within(LOOK_TIMEOUT, Origin::Sink, self.sink.files(1));
        files.await.map(drop)
    }

    /// Asks the ledger, unless it was asked a moment ago, is being asked, or does not answer.
    async fn refresh_ledger(&self) {
        let now = Instant::now();
        let is_fresh =
            self.seen.ledger.lock().asked.is_some_and(|(at, took)| {
                now - at < (took * 10).clamp(LEDGER_AGE[0], LEDGER_AGE[1])
            });
        let is_away = self
            .seen
            .journal
            .lock()
            .lasting()
            .is_some_and(|met| met.trouble == Trouble::Database);
        let Ok(_asking) = self.seen.asking.try_lock() else {
            return;
        };
        if is_fresh || is_away {
            return;
        }
        let ask = async {
            let totals = self.sink.totals().await?;
            let files = self.sink.files(STATUS_FILES).await?;
            let rejects = self.sink.reject_codes(STATUS_REJECTS).await?;
            Ok::<_, Fault>((totals, files, rejects))
        };
        // A database that does not answer is a fact to be told, not a reason to wait.
        let said = tokio::time::timeout(STATUS_TIMEOUT, ask).await;
        let mut ledger = self.seen.ledger.lock();
        ledger.asked = Some((Instant::now(), now.elapsed()));
        if let Ok(Ok((totals, mut files, rejects))) = said {
            for reason in files.iter_mut().filter_map(|file| file.reason.as_mut()) {
                *reason = reason.chars().take(STATUS_REASON_CHARS).collect();
            }
            let rejects = status::by_reason(&rejects);
            ledger.said = Some((Instant::now(), totals, files, rejects));
        }
    }
}

/// A server that does not answer in time has a fault that passes.
async fn within<T>(
    limit: Duration,
    origin: Origin,
    answer: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let silent = |_| {
        let cause = format!("no answer within {} s", limit.as_secs());
        Fault::transient(origin, "looking whether it is well", cause)
    };
    tokio::time::timeout(limit, answer).await.map_err(silent)?
}

#[async_trait]
impl StatusSource for Engine {
    fn ready(&self) -> Result<(), String> {
        if self.seen.looked.lock().is_none() {
            return Err("starting".to_owned());
        }
        self.seen
            .journal
            .lock()
            .lasting()
            .map_or(Ok(()), |met| Err(met.reason()))
    }

    async fn status(&self) -> Status {
        self.refresh_ledger().await;
        let depth = *self.seen.depth.lock();
        let waiting = |(file, since): &(Waiting, Instant)| status::WaitingFile {
            name: file.name.to_string_lossy().into_owned(),
            why: file.why.clone().into_owned(),
            seconds: Some(since.elapsed().as_secs_f64()),
        };
        let waits = self.seen.waiting.lock().clone();
        let held = self.tally.held();
        let named = held.iter().chain(&waits.named).take(STATUS_WAITING);
        let reason = self.ready().err();
        let roles = self.options.roles.names().into_iter();
        let directories = self.inbox.directories();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running: true,
            ready: reason.is_none(),
            reason,
            roles: roles.map(str::to_owned).collect(),
            inbound: inbox::canonical(&directories.inbound),
            work: inbox::canonical(&directories.work),
            database: self.options.database.clone(),
            broker: self.options.queue.clone(),
            queue: Some(status::Queue {
                frames: depth.frames,
                bytes: depth.bytes,
                pending: depth.pending,
            }),
            files: status::Files {
                inbound: self.seen.inbound.load(Relaxed),
                work: self.tally.unfinished(),
                waiting_files: waits.files + held.len() as u64,
                waiting: named.map(waiting).collect(),
            },
            paused: self.inbox.is_paused(),
            ..Status::default()
        };
        self.seen.journal.lock().tell(&mut status);
        if let Some((at, totals, files, rejects)) = self.seen.ledger.lock().said.clone() {
            status.ledger_seconds_ago = Some(at.elapsed().as_secs_f64());
            status.totals = Some(totals);
            status.last_files = files;
            status.rejects = rejects;
        }
        status.conclude();
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(files: &[(&'static str, &'static str)]) -> Waits {
        let mut waits = Waits::default();
        for (name, why) in files {
            waits.add(Waiting {
                name: (*name).into(),
                why: (*why).into(),
            });
        }
        waits
    }

    /// A scan notes at once what it found waiting, and later what turned out to be busy.
    #[tokio::test(start_paused = true)]
    async fn a_file_waits_since_it_was_first_seen_to_wait_for_the_same() {
        let seen = Seen::default();
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            let before = seen.waiting.lock().clone();
            seen.note_waiting(&waits(&[("young", "not complete")]), &before);
            let all = [("young", "not complete"), ("open", "written")];
            seen.note_waiting(&waits(&all), &before);
            tokio::time::advance(second).await;
        }
        let after = |at: usize| seen.waiting.lock().named[at].1.elapsed();
        assert_eq!([after(0), after(1)], [second * 3; 2]);
        let before = seen.waiting.lock().clone();
        seen.note_waiting(&waits(&[("open", "not complete")]), &before);
        assert_eq!(after(0), Duration::ZERO, "it waits for something else");
        assert_eq!(seen.waiting.lock().files, 1);
    }
}
