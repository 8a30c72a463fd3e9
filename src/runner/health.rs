//! The health of the engine: checks queue and database at intervals, and answers `/readyz` and
//! status with the last results.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, MissedTickBehavior};

use super::engine::{Counted, Engine, LedgerAnswer};
use super::journal::{Counts, Journal, Problem, SAMPLE_EVERY};
use crate::fault::{Fault, Origin};
use crate::inbox::{self, Waiting};
use crate::retry;
use crate::status::{self, Status, StatusSource, Trouble};
use crate::telemetry;

/// Pause between two checks of queue and database. A check costs three small calls.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A server that does not answer for this long counts as unavailable. A normal commit takes less.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// If publishes or commits have failed for this long, the engine is not ready, even if queue and
/// database answer. Most failovers and other transient faults end earlier.
const FAILING_TIME: Duration = Duration::from_secs(60);

/// A process ends if its checks have met a fatal fault for this long: an operator may be about to mend
/// what it names.
const FATAL_TIME: Duration = Duration::from_secs(30);

/// If frames have waited for this long and no worker of any process has given a sign of life in the
/// queue, there is none. Longer than a restart of a worker.
const UNREAD_TIME: Duration = Duration::from_secs(75);

/// If no process anywhere has taken files for this long, there is none. Longer than a restart.
const NO_INGEST_TIME: Duration = Duration::from_secs(60);

/// Heartbeat for systemd's watchdog, and refresh interval of the journal. One second: the shortest
/// change that a person notices.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// Most files of the ledger, and most waiting files, in a status.
const STATUS_FILES: usize = 10;
const STATUS_WAITING: usize = 20;

/// Most characters of the reason of a file in a status.
const STATUS_REASON_CHARS: usize = 300;

/// How long a status waits for the database.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// The shortest and the longest pause before the ledger is read again. Within these limits, the
/// pause is ten times as long as the last answer took: so status uses at most a tenth of one
/// connection, however many clients request it.
const LEDGER_AGE: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

impl Engine {
    /// Takes over a journal that was begun before the engine was open.
    pub fn remember(&self, journal: Journal) {
        *self.health.journal.lock() = journal;
    }

    /// Whether the main loop of the service ran within this time. The loop is polled together with
    /// ingest and workers: if one of them blocks its thread, the loop stops as well.
    #[must_use]
    pub fn turned_within(&self, time: Duration) -> bool {
        self.health.beat.lock().elapsed() <= time
    }

    /// Checks queue and database at intervals, and keeps the journal. Returns a fault with which no
    /// process could start, such as a refused login, once the checks have met it for
    /// [`FATAL_TIME`].
    pub(super) async fn check_health(&self) -> Fault {
        tokio::select! {
            fault = self.check_servers() => fault,
            () = self.keep_journal() => unreachable!("it never ends"),
        }
    }

    async fn check_servers(&self) -> Fault {
        let mut is_logged = false;
        // The first and the last fatal fault. Between two attempts to log in, the answer is a transient
        // one.
        let mut fatal: Option<(Instant, Instant)> = None;
        loop {
            let began = Instant::now();
            let check = self.check().await;
            let checked = match &check {
                Ok(()) => Ok(()),
                Err(fault) => Err(Problem::new(fault, began)),
            };
            *self.health.checked.lock() = Some(checked);
            self.note_problem();
            let problem = self.health.journal.lock().lasting().cloned();
            telemetry::ready(problem.is_none());
            match problem {
                // A shorter one leaves the line of the operations that failed.
                Some(problem) if !is_logged && problem.since.elapsed() >= retry::LOG_AFTER => {
                    tracing::warn!(reason = problem.reason(), "not ready");
                    is_logged = true;
                }
                None if is_logged => {
                    tracing::info!("ready again");
                    is_logged = false;
                }
                _ => {}
            }
            match check {
                Ok(()) => fatal = None,
                Err(fault) if fault.is_transient() => {}
                Err(fault) => {
                    let goes_on = fatal.filter(|(_, last)| last.elapsed() < FATAL_TIME);
                    let first = goes_on.map_or(began, |(first, _)| first);
                    fatal = Some((first, Instant::now()));
                    if first.elapsed() >= FATAL_TIME {
                        return fault;
                    }
                }
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn keep_journal(&self) {
        let mut ticks = tokio::time::interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sampled = Instant::now();
        loop {
            let now = ticks.tick().await;
            *self.health.beat.lock() = now;
            self.note_problem();
            if !self.options.roles.ingest {
                // Only ingest reads which files were committed. Without ingest, the list would
                // grow.
                drop(self.progress.take());
            }
            if now - sampled >= SAMPLE_EVERY {
                let counts = Counts {
                    read: self.tally.read.load(Relaxed),
                    stored: self.stored(),
                    rejected: self.tally.rejected.load(Relaxed),
                    bytes: self.tally.bytes_done.load(Relaxed),
                };
                self.health.journal.lock().sample(counts);
                sampled = now;
            }
        }
    }

    /// How many records were stored since the start. A process without workers counts the records
    /// of a file when the file is settled.
    fn stored(&self) -> u64 {
        if self.options.roles.work {
            self.progress.records()
        } else {
            self.tally.records.load(Relaxed)
        }
    }

    /// Records in the journal why the engine is not ready now, or that it is.
    fn note_problem(&self) {
        let Some(checked) = self.health.checked.lock().clone() else {
            return;
        };
        let no_room = self.inbound.no_room.lock().clone().map(|detail| Problem {
            trouble: Trouble::Disk,
            detail,
            since: Instant::now(),
        });
        let inbound = || {
            let fault = self.inbound.fault.lock();
            let (fault, since) = fault.as_ref()?;
            Some(Problem::new(fault, *since))
        };
        let failing = || {
            let failing = retry::failing_for(FAILING_TIME)?;
            let since = Instant::now() - failing.since.elapsed();
            Some(Problem::of(failing.origin, &failing.detail, since))
        };
        let unread = || {
            let time = *self.health.unread.lock();
            (time >= UNREAD_TIME).then(|| Problem {
                trouble: Trouble::Workers,
                detail: format!("frames have waited for {} s", time.as_secs()),
                since: Instant::now()
                    .checked_sub(time)
                    .unwrap_or_else(Instant::now),
            })
        };
        let problem = checked.err().or(no_room).or_else(inbound).or_else(failing);
        let no_ingest = || {
            let since = self.membership.no_ingest_since()?;
            let time = since.elapsed();
            (!self.options.roles.ingest && time >= NO_INGEST_TIME).then(|| Problem {
                trouble: Trouble::Ingest,
                detail: format!(
                    "no process with the role `ingest` has lived for {} s",
                    time.as_secs()
                ),
                since,
            })
        };
        let problem = problem.or_else(unread).or_else(no_ingest);
        self.health.journal.lock().note(problem);
    }

    async fn check(&self) -> Result<(), Fault> {
        let depth = within(CHECK_TIMEOUT, Origin::Broker, self.broker.depth()).await?;
        telemetry::queue(depth.frames, depth.bytes, depth.pending);
        *self.health.depth.lock() = depth;
        let oldest = within(CHECK_TIMEOUT, Origin::Broker, self.broker.oldest());
        for (stream, age) in oldest.await? {
            telemetry::queue_oldest(&stream, age);
        }
        if !self.options.roles.work {
            let unread = match depth.frames {
                0 => Duration::ZERO,
                _ => within(CHECK_TIMEOUT, Origin::Broker, self.broker.unread_for()).await?,
            };
            telemetry::queue_unread(unread);
            *self.health.unread.lock() = unread;
        }
        if let Some(database) = &self.database {
            within(CHECK_TIMEOUT, Origin::Sink, database.last_files(1)).await?;
        }
        Ok(())
    }

    /// Counts the files of the directories, unless the last count is recent: a count is repeated
    /// after ten times as long as it took. So metrics and status have the same numbers, however
    /// many clients request them. `None` if a directory cannot be read and was never counted.
    pub(super) async fn count_files(&self) -> Option<Counted> {
        let known = *self.health.counts.lock();
        if let Some(known) = known
            && known.at.elapsed() < (known.took * 10).min(LEDGER_AGE[1])
        {
            return Some(known);
        }
        let at = Instant::now();
        let inbox = self.inbox.clone();
        let counting = inbox::blocking("counting files", move || {
            Ok((inbox.census()?, inbox.quarantine()?))
        });
        // If a directory cannot be read now, the last counts stay. The stages log the error.
        let Ok((census, quarantine)) = counting.await else {
            return known;
        };
        let took = at.elapsed();
        let counted = Counted {
            at,
            took,
            census,
            quarantine,
        };
        *self.health.counts.lock() = Some(counted);
        Some(counted)
    }

    /// Reads the ledger, unless the last answer is recent, another task is reading it, or the
    /// database is unavailable.
    async fn refresh_ledger(&self) {
        let now = Instant::now();
        let is_fresh =
            self.health.ledger.lock().asked.is_some_and(|(at, took)| {
                now - at < (took * 10).clamp(LEDGER_AGE[0], LEDGER_AGE[1])
            });
        let is_unavailable = self
            .health
            .journal
            .lock()
            .lasting()
            .is_some_and(|problem| problem.trouble == Trouble::Database);
        let Some(database) = &self.database else {
            return;
        };
        let Ok(_asking) = self.health.asking.try_lock() else {
            return;
        };
        if is_fresh || is_unavailable {
            return;
        }
        let ask = async {
            // Before the totals: an operator acknowledges at most what is there now.
            let acknowledged = database.acknowledged_totals().await?;
            let totals = database.totals().await?;
            let known = acknowledged.at_most(totals);
            if acknowledged != known {
                database.lower_acknowledged(acknowledged, known).await?;
            }
            let files = database.last_files(STATUS_FILES).await?;
            let rejects = match totals.rejects {
                0 => Vec::new(),
                _ => database.reject_reasons().await?,
            };
            let mut missing = database.kept_indexes().await?;
            missing.retain(|index| index.is_missing);
            Ok::<_, Fault>(LedgerAnswer {
                totals,
                acknowledged: known,
                files,
                rejects: status::by_reason(rejects),
                missing_indexes: missing.iter().map(ToString::to_string).collect(),
            })
        };
        // Status answers without the ledger if the database does not answer in time.
        let answer = tokio::time::timeout(STATUS_TIMEOUT, ask).await;
        let mut ledger = self.health.ledger.lock();
        ledger.asked = Some((Instant::now(), now.elapsed()));
        if let Ok(Ok(mut answer)) = answer {
            for reason in answer
                .files
                .iter_mut()
                .filter_map(|file| file.reason.as_mut())
            {
                *reason = reason.chars().take(STATUS_REASON_CHARS).collect();
            }
            ledger.answer = Some((Instant::now(), answer));
        }
    }
}

/// Waits for an answer. A server that does not answer within the limit has a transient fault.
async fn within<T>(
    limit: Duration,
    origin: Origin,
    answer: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let silent = |_| {
        let cause = format!("no answer within {} s", limit.as_secs());
        Fault::transient(origin, "checking whether it answers", cause)
    };
    tokio::time::timeout(limit, answer).await.map_err(silent)?
}

#[async_trait]
impl StatusSource for Engine {
    fn ready(&self) -> Result<(), String> {
        if self.health.checked.lock().is_none() {
            return Err("starting".to_owned());
        }
        self.health
            .journal
            .lock()
            .lasting()
            .map_or(Ok(()), |problem| Err(problem.reason()))
    }

    fn work(&self) -> String {
        inbox::canonical(&self.inbox.directories().work)
    }

    async fn status(&self) -> Status {
        self.refresh_ledger().await;
        let depth = *self.health.depth.lock();
        let waiting = |(file, since): &(Waiting, Instant)| status::WaitingFile {
            name: file.name.to_string_lossy().into_owned(),
            why: file.reason.to_string(),
            code: file.reason.code().to_owned(),
            seconds: Some(since.elapsed().as_secs_f64()),
        };
        let counted = self.count_files().await;
        let waits = self.inbound.waiting.lock().clone();
        let stuck = self.tally.stuck();
        let named = stuck.iter().chain(&waits.named).take(STATUS_WAITING);
        let reason = self.ready().err();
        let roles = self.options.roles.names().into_iter();
        let directories = self.inbox.directories();
        let mut status = Status {
            version: crate::version::VERSION.to_owned(),
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
                inbound: counted.map_or(0, |counted| counted.census.inbound.files),
                work: counted.map_or(0, |counted| counted.census.work.files),
                quarantine: counted.map_or(0, |counted| counted.quarantine),
                waiting_files: waits.files + stuck.len() as u64,
                waiting: named.map(waiting).collect(),
            },
            // A load ignores the pause, which is one of the service.
            paused: self.options.ingest.incomplete_may_wait && self.inbox.is_paused(),
            nodes: self.membership.as_status(),
            ..Status::default()
        };
        self.health.journal.lock().report(&mut status);
        if let Some((at, answer)) = self.health.ledger.lock().answer.clone() {
            status.ledger_seconds_ago = Some(at.elapsed().as_secs_f64());
            status.totals = Some(answer.totals);
            status.acknowledged = answer.acknowledged;
            status.last_files = answer.files;
            status.rejects = answer.rejects;
            status.missing_indexes = answer.missing_indexes;
        }
        status.conclude();
        status
    }
}
