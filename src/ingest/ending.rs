//! How files end: moved to where they belong, and only then counted.
//!
//! A move that fails holds up nobody. The file stays in work, is tried again, and is told of until
//! it is gone.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Item, ItemOrigin, Shared, Tally};
use crate::dataset::Dataset;
use crate::fault::{Fault, Origin};
use crate::inbox::{Inbox, concerns_all};
use crate::retry::{GivenUp, until_ok};
use crate::telemetry;

/// How long files wait that could not be moved, until they are tried again: at first, and at most.
/// Each round may copy a large file in vain.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// Most files that wait for their move while the others go on. With more, something is wrong with
/// all of them.
const STUCK_MAX: usize = 1_024;

/// How an item ended, and so where it goes.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// All of it is stored: to history.
    Settled,
    /// Its content was stored before: to history.
    Duplicate,
    /// It is set aside, and why.
    Quarantined(Arc<str>),
    /// It is left for later: back to inbound.
    Left,
}

/// An item at its end.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) item: Item,
    /// Its number in the ledger, where that has it.
    pub(super) file_no: Option<u32>,
    /// Its dataset, where one takes it.
    pub(super) dataset: Option<Arc<Dataset>>,
    pub(super) ending: Ending,
}

/// Where a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    History,
    Quarantine,
    Inbound,
}

impl Ending {
    fn destination(&self) -> Destination {
        match self {
            Self::Settled | Self::Duplicate => Destination::History,
            Self::Quarantined(_) => Destination::Quarantine,
            Self::Left => Destination::Inbound,
        }
    }
}

impl Ended {
    /// Moves its file, unless that is part of an archive.
    fn go(&self, inbox: &Inbox) -> io::Result<()> {
        let Item { file, origin, .. } = &self.item;
        if *origin == ItemOrigin::Archive {
            return Ok(());
        }
        let moved = match &self.ending {
            Ending::Settled | Ending::Duplicate => inbox.to_history(file).map(drop),
            Ending::Quarantined(reason) => inbox.to_quarantine(file, reason).map(drop),
            Ending::Left => inbox.put_back(file),
        };
        match moved {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if file.path.exists() {
                    let what = "the directory that it belongs into is not there";
                    return Err(io::Error::new(ErrorKind::NotFound, what));
                }
                tracing::warn!(file = ?file.path, "was gone before its move");
                Ok(())
            }
            moved => moved,
        }
    }

    /// Counts it, and tells of it.
    fn count(&self, tally: &Tally) {
        let dataset = self.dataset.as_ref().map_or("", |dataset| &dataset.name);
        let (file, file_no, took) = (&self.item.file.name, self.file_no, self.item.seen.elapsed());
        let seconds = took.as_secs_f64();
        match &self.ending {
            Ending::Settled => {
                Tally::add(&tally.settled, 1);
                telemetry::file_settled(dataset, "settled");
                telemetry::end_to_end(dataset, took);
                tracing::debug!(?file, file_no, seconds, "settled");
            }
            Ending::Duplicate => {
                Tally::add(&tally.duplicates, 1);
                telemetry::file_settled(dataset, "duplicate");
                telemetry::end_to_end(dataset, took);
                // The ledger has the file that came first; what became of this one is said here only.
                tracing::info!(?file, file_no, seconds, "is a duplicate");
            }
            Ending::Quarantined(_) => {
                Tally::add(&tally.quarantined, 1);
                telemetry::file_settled(dataset, "quarantined");
            }
            Ending::Left => Tally::add(&tally.left, 1),
        }
    }
}

/// Files at their end that are not where they belong yet.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// Those that could not be moved.
    stuck: Mutex<Vec<Ended>>,
    /// How many times somebody is at work on some. None of these files is in a flight any more, and
    /// it may be among the stuck soon.
    under_way: AtomicUsize,
    /// Wakes [`run`]: there are stuck ones.
    wake: Notify,
}

/// Files are on the way to their end as long as this is there.
pub(super) struct UnderWay<'a>(&'a Endings);

impl Endings {
    pub(super) fn under_way(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, SeqCst);
        UnderWay(self)
    }

    /// Whether every file that has ended is where it belongs.
    pub(super) fn is_done(&self) -> bool {
        self.under_way.load(SeqCst) == 0 && self.stuck.lock().is_empty()
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, SeqCst);
    }
}

/// Tries again what could not be moved, until `settled` is cancelled.
pub(super) async fn run(shared: Arc<Shared>, settled: CancellationToken) -> Result<(), GivenUp> {
    loop {
        tokio::select! {
            () = shared.endings.wake.notified() => {}
            () = settled.cancelled() => return Ok(()),
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        }
        let mut pause = AGAIN_AFTER[0];
        while !shared.endings.stuck.lock().is_empty() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
            }
            let some_moved = shared.try_stuck().await;
            pause = if some_moved {
                AGAIN_AFTER[0]
            } else {
                AGAIN_AFTER[1].min(pause * 2)
            };
        }
        // Settle waits for these, too.
        shared.look.notify_one();
    }
}

impl Shared {
    /// Moves items to where they belong, and counts them. Those that cannot be moved now are tried
    /// again by [`run`].
    pub(super) async fn finish(self: &Arc<Self>, ended: Vec<Ended>) -> Result<(), GivenUp> {
        let _under_way = self.endings.under_way();
        let left = self.go(ended).await;
        if left.is_empty() {
            return Ok(());
        }
        self.endings.stuck.lock().extend(left);
        self.endings.wake.notify_one();
        let few = async || match self.endings.stuck.lock().len() {
            ..=STUCK_MAX => Ok(()),
            files => {
                let cause = format!("{files} files cannot be moved to where they belong");
                Err(Fault::transient(Origin::Files, "moving files", cause))
            }
        };
        until_ok("moving files", &self.stop, |_| {}, few).await
    }

    /// Tries all that are stuck; says whether some are where they belong now.
    async fn try_stuck(self: &Arc<Self>) -> bool {
        let _under_way = self.endings.under_way();
        let stuck = std::mem::take(&mut *self.endings.stuck.lock());
        let tried = stuck.len();
        let stuck = self.go(stuck).await;
        let (moved, left) = (tried - stuck.len(), stuck.len());
        if moved > 0 {
            tracing::info!(
                moved,
                left,
                "files that could not be moved are where they belong"
            );
        }
        self.endings.stuck.lock().extend(stuck);
        moved > 0
    }

    /// Moves and counts; gives those back that cannot be moved now, in the order in which they are to
    /// be tried again.
    async fn go(self: &Arc<Self>, ended: Vec<Ended>) -> Vec<Ended> {
        if ended.is_empty() {
            return ended;
        }
        let shared = self.clone();
        let moving = tokio::task::spawn_blocking(move || {
            let (mut failed, mut untried) = (Vec::new(), Vec::new());
            let mut closed = Vec::new();
            for ended in ended {
                let destination = ended.ending.destination();
                if closed.contains(&destination) {
                    shared.hold(&ended, "another file could not be moved there");
                    untried.push(ended);
                } else if let Err(error) = ended.go(&shared.ingest.inbox) {
                    if concerns_all(&error) {
                        closed.push(destination);
                    }
                    shared.hold(&ended, &error.to_string());
                    failed.push(ended);
                } else {
                    shared.tally().release(&ended.item.file);
                    ended.count(shared.tally());
                }
            }
            // What lies behind a file that fails has its turn first the next time.
            untried.extend(failed);
            untried
        });
        moving.await.expect("a move does not panic")
    }

    /// Lets whoever watches see what is stuck; the log has it once.
    fn hold(&self, ended: &Ended, error: &str) {
        let file = &ended.item.file;
        let why = format!("it cannot be moved out of work: {error}");
        if self.tally().hold(file, &why) {
            let file = &file.path;
            tracing::warn!(
                ?file,
                error,
                "cannot be moved; waits, and tries again until it works"
            );
        }
    }
}
