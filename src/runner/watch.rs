//! The engine's watch over its surroundings: what it saw of queue, database and files, for the
//! metrics and for whoever asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::Engine;
use crate::broker::Depth;
use crate::fault::Fault;
use crate::http::StatusSource;
use crate::inbox::{self, Waiting};
use crate::status::{self, Status};
use crate::telemetry;

/// How often a service looks whether queue and database are well. Two small calls each time.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Files and rejects of the ledger that a status tells of.
const STATUS_FILES: usize = 10;
const STATUS_REJECTS: usize = 1_000;

/// How long a status waits for the database.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// What the engine last saw of the world around it, for whoever asks.
#[derive(Debug)]
pub(super) struct Seen {
    began: Instant,
    /// What the last scan of inbound found waiting.
    pub(super) waiting: Mutex<Vec<Waiting>>,
    /// Files in inbound at the last scan.
    pub(super) inbound: AtomicU64,
    /// What the queue held at the last look.
    depth: Mutex<Depth>,
    /// Why no file is taken now.
    pub(super) paused: Mutex<Option<String>>,
    /// Why the engine cannot do its work now.
    unwell: Mutex<Option<String>>,
    /// Records committed per second, at the last look.
    rate: AtomicU64,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            waiting: Mutex::default(),
            inbound: AtomicU64::default(),
            depth: Mutex::default(),
            paused: Mutex::default(),
            unwell: Mutex::new(Some("starting".to_owned())),
            rate: AtomicU64::default(),
        }
    }
}

impl Engine {
    /// Looks at queue and database again and again, for the metrics and for whoever asks.
    pub(super) async fn keep_watch(&self) {
        let mut committed = 0;
        let mut last = Instant::now();
        loop {
            let unwell = self.look().await.err().map(|fault| fault.to_string());
            *locked(&self.seen.unwell) = unwell;
            telemetry::ready(self.ready().is_ok());
            let now = self.tally.committed.load(Relaxed);
            let seconds = last.elapsed().as_secs_f64().max(0.001);
            self.seen
                .rate
                .store(((now - committed) as f64 / seconds) as u64, Relaxed);
            (committed, last) = (now, Instant::now());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<(), Fault> {
        let depth = self.broker.depth().await?;
        telemetry::queue(depth.frames, depth.bytes, depth.pending);
        *locked(&self.seen.depth) = depth;
        for (stream, age) in self.broker.oldest().await? {
            telemetry::queue_oldest(&stream, age);
        }
        self.sink.files(1).await.map(drop)
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl StatusSource for Engine {
    fn ready(&self) -> Result<(), String> {
        let unwell = locked(&self.seen.unwell).clone();
        unwell
            .or_else(|| locked(&self.seen.paused).clone())
            .map_or(Ok(()), Err)
    }

    async fn status(&self) -> Status {
        let depth = *locked(&self.seen.depth);
        let waiting = |file: &Waiting| status::Waiting {
            name: file.name.to_string_lossy().into_owned(),
            why: file.why.to_owned(),
        };
        let waiting = locked(&self.seen.waiting).iter().map(waiting).collect();
        let reason = self.ready().err();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            running: true,
            ready: reason.is_none(),
            reason,
            uptime_seconds: Some(self.seen.began.elapsed().as_secs_f64()),
            roles: self
                .options
                .roles
                .names()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            work: inbox::canonical(&self.inbox.directories().work),
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
                waiting,
            },
            next: self.inbox.is_paused().then(|| {
                "it is paused and takes no files: `task_runner resume` lets it go on".to_owned()
            }),
            records_per_second: Some(self.seen.rate.load(Relaxed) as f64),
            ..Status::default()
        };
        let ledger = async {
            let totals = self.sink.totals().await?;
            let files = self.sink.files(STATUS_FILES).await?;
            let rejects = self.sink.rejects(STATUS_REJECTS).await?;
            Ok::<_, Fault>((totals, files, rejects))
        };
        // A database that does not answer is a fact to be told, not a reason to wait.
        if let Ok(Ok((totals, files, rejects))) = tokio::time::timeout(STATUS_TIMEOUT, ledger).await
        {
            status.totals = Some(totals);
            status.last_files = files;
            status.rejects = status::by_reason(rejects.iter().map(|reject| reject.code));
        }
        status
    }
}
