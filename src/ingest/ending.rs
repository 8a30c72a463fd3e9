//! How files end: moved to where they belong, and only then counted.
//!
//! A move that fails holds up nobody. The file stays in work, is tried again, and is told of until
//! it is gone.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{Item, ItemOrigin, Shared, Tally};
use crate::dataset::Dataset;
use crate::fault::{Fault, Origin};
use crate::inbox::{Inbox, Waiting, concerns_all};
use crate::retry::{GivenUp, until_ok};
use crate::telemetry;

/// How often files are tried again that could not be moved.
const AGAIN_EVERY: Duration = Duration::from_secs(1);

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

/// Files that could not be moved.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    files: Vec<Failed>,
    tried: Option<Instant>,
}

/// A file that could not be moved, since when, and why not the last time.
#[derive(Debug)]
struct Failed {
    ended: Ended,
    since: Instant,
    error: io::Error,
}

impl Shared {
    /// Moves items to where they belong, and counts them. Those that cannot be moved now are tried
    /// again by [`finish_stuck`](Self::finish_stuck).
    pub(super) async fn finish(self: &Arc<Self>, ended: Vec<Ended>) -> Result<(), GivenUp> {
        let now = Instant::now();
        let new = ended.into_iter().map(|ended| (ended, now)).collect();
        let failed = self.go(new).await;
        if failed.is_empty() {
            return Ok(());
        }
        for Failed { ended, error, .. } in &failed {
            let file = &ended.item.file.path;
            tracing::warn!(?file, %error, "cannot be moved; waits, and tries again until it works");
        }
        self.stuck().files.extend(failed);
        self.tell_stuck();
        let again = async || {
            if self.stuck().files.len() <= STUCK_MAX {
                return Ok(());
            }
            self.try_stuck().await;
            match self.stuck().files.len() {
                ..=STUCK_MAX => Ok(()),
                files => {
                    let cause = format!("{files} files cannot be moved to where they belong");
                    Err(Fault::transient(Origin::Files, "moving files", cause))
                }
            }
        };
        until_ok("moving files", &self.stop, |_| {}, again).await
    }

    /// Whether files wait for their move.
    pub(super) fn has_stuck(&self) -> bool {
        !self.stuck().files.is_empty()
    }

    /// Tries again what could not be moved, once it is time to.
    pub(super) async fn finish_stuck(self: &Arc<Self>) {
        let is_due = {
            let stuck = self.stuck();
            let is_time = stuck.tried.is_none_or(|at| at.elapsed() >= AGAIN_EVERY);
            is_time && !stuck.files.is_empty()
        };
        if is_due {
            self.try_stuck().await;
        }
    }

    async fn try_stuck(self: &Arc<Self>) {
        let files = std::mem::take(&mut self.stuck().files);
        let tried = files.len();
        let again = files.into_iter().map(|failed| (failed.ended, failed.since));
        let failed = self.go(again.collect()).await;
        if failed.len() < tried {
            let (moved, left) = (tried - failed.len(), failed.len());
            tracing::info!(
                moved,
                left,
                "files that could not be moved are where they belong"
            );
        }
        {
            let mut stuck = self.stuck();
            stuck.files.extend(failed);
            stuck.tried = Some(Instant::now());
        }
        self.tell_stuck();
    }

    /// Moves and counts; gives those back that cannot be moved now.
    async fn go(self: &Arc<Self>, ended: Vec<(Ended, Instant)>) -> Vec<Failed> {
        if ended.is_empty() {
            return Vec::new();
        }
        let shared = self.clone();
        let moving = tokio::task::spawn_blocking(move || {
            let mut failed = Vec::new();
            let mut ended = ended.into_iter();
            while let Some((one, since)) = ended.next() {
                let Err(error) = one.go(&shared.ingest.inbox) else {
                    one.count(shared.tally());
                    continue;
                };
                let is_over = concerns_all(&error);
                let kind = error.kind();
                let fail = |(ended, since), error| Failed {
                    ended,
                    since,
                    error,
                };
                failed.push(fail((one, since), error));
                if is_over {
                    // The others would fail as well, each after it was copied in vain.
                    failed.extend(ended.by_ref().map(|one| fail(one, kind.into())));
                }
            }
            failed
        });
        moving.await.expect("a move does not panic")
    }

    /// Lets whoever watches see what is stuck.
    fn tell_stuck(&self) {
        let waiting = |failed: &Failed| {
            let name = failed.ended.item.file.name.clone();
            let why = format!("it cannot be moved out of work: {}", failed.error).into();
            (Waiting { name, why }, failed.since)
        };
        let stuck: Vec<_> = self.stuck().files.iter().map(waiting).collect();
        *self.tally().stuck.lock() = stuck;
    }

    fn stuck(&self) -> MutexGuard<'_, Stuck> {
        self.stuck.lock()
    }
}
