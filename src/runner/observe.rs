//! The engine's view of its directories and of its stages, for the metrics alone. It runs beside
//! the stages, so that what is told stays true while they are held up.

use std::time::{Duration, Instant, SystemTime};

use super::{Engine, blocking};
use crate::inbox::Census;
use crate::ingest;
use crate::telemetry::{self, Ratios, Stage};

/// How often inbound, work and the stages are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often what costs more is looked at: all of history and quarantine, all rejects.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// A look that takes long is done less often: it may take one part of this many of the time.
const SHARE: u32 = 100;

impl Engine {
    /// Looks again and again, for ever: to be run beside [`serve`](Engine::serve) where somebody may
    /// ask for the metrics.
    pub async fn observe(&self) {
        tokio::join!(self.observe_stages(), self.observe_files(), self.count());
    }

    async fn observe_stages(&self) {
        let mut ratios = Ratios::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            telemetry::paused(self.inbox.is_paused());
            let inbox = self.inbox.clone();
            let free = blocking("asking for the room on disk", move || inbox.free_bytes()).await;
            for (directory, bytes) in free.into_iter().flatten() {
                telemetry::disk_free(directory, bytes);
            }
            ratios.tell(|stage| match stage {
                Stage::Read | Stage::Publish | Stage::Settle => 1,
                Stage::Parse => ingest::parsers(),
                Stage::Commit => self.options.workers,
            });
        }
    }

    async fn observe_files(&self) {
        loop {
            let began = Instant::now();
            let inbox = self.inbox.clone();
            // A directory that cannot be read just now keeps its last figures; the stages complain.
            if let Ok(census) = blocking("looking at the directories", move || inbox.census()).await
            {
                tell_census(&census);
                let waiting = self.seen.waiting.lock().files;
                telemetry::files_now("waiting", waiting);
            }
            rest(LOOK_EVERY, began).await;
        }
    }

    async fn count(&self) {
        loop {
            let began = Instant::now();
            let inbox = self.inbox.clone();
            if let Ok(history) = blocking("looking at history", move || inbox.history()).await {
                telemetry::history(history.bytes);
            }
            let inbox = self.inbox.clone();
            let quarantine = blocking("looking at quarantine", move || inbox.quarantine()).await;
            if let Ok(files) = quarantine {
                telemetry::files_now("quarantine", files);
            }
            if let Ok(totals) = self.sink.totals().await {
                telemetry::rejects_open(totals.rejects);
            }
            rest(COUNT_EVERY, began).await;
        }
    }
}

fn tell_census(Census { inbound, work }: &Census) {
    telemetry::files_now("inbound", inbound.files);
    telemetry::files_now("work", work.files);
    let oldest = inbound.oldest.into_iter().chain(work.oldest).min();
    let age = oldest.and_then(|oldest| SystemTime::now().duration_since(oldest).ok());
    telemetry::backlog(
        inbound.files + work.files,
        inbound.bytes + work.bytes,
        age.unwrap_or_default(),
    );
}

async fn rest(at_least: Duration, began: Instant) {
    tokio::time::sleep(at_least.max(began.elapsed() * SHARE)).await;
}
