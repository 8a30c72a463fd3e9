//! Updates the metrics of directories and stages. Runs as a separate task, so that these metrics
//! are correct while a stage waits.

use std::time::{Duration, Instant, SystemTime};

use super::engine::Engine;
use crate::inbox::{Census, WaitReason, blocking};
use crate::ingest;
use crate::telemetry::{self, Ratios, Stage};

/// Pause between two observations of inbound, work and the stages.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(2);

/// Pause between two of the expensive counts: files of history, rejects, and the newest file of each
/// dataset.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// A slow observation is repeated less often: it takes at most one part in this many of the time.
const SHARE: u32 = 100;

impl Engine {
    /// Observes at intervals, and never returns. Runs beside [`serve`](Engine::serve) if metrics
    /// are served.
    pub async fn observe(&self) {
        tokio::join!(
            self.observe_stages(),
            self.observe_files(),
            self.observe_totals()
        );
    }

    /// As [`observe`](Self::observe), and checks the health of the engine, as a service does. Runs
    /// beside a load whose metrics are served.
    pub async fn observe_load(&self) {
        // A load ends by its own commits, and not by a fault of a check.
        let health = async {
            loop {
                self.check_health().await;
            }
        };
        tokio::join!(self.observe(), health);
    }

    async fn observe_stages(&self) {
        let mut ratios = Ratios::default();
        loop {
            tokio::time::sleep(OBSERVE_INTERVAL).await;
            let may_pause = self.options.ingest.incomplete_may_wait;
            telemetry::paused(may_pause && self.inbox.is_paused());
            let inbox = self.inbox.clone();
            let free = blocking("asking for the room on disk", move || inbox.free_room()).await;
            for (directory, room) in free.into_iter().flatten() {
                telemetry::disk_free(directory, room.bytes);
            }
            ratios.export(|stage| match stage {
                Stage::Read | Stage::Publish | Stage::Settle => 1,
                Stage::Parse => ingest::parsers(),
                Stage::Commit => self.options.workers,
            });
        }
    }

    async fn observe_files(&self) {
        loop {
            let began = Instant::now();
            if let Some(counted) = self.count_files().await {
                report_census(&counted.census);
                telemetry::files_now("quarantine", counted.quarantine);
                self.report_waiting();
            }
            rest(OBSERVE_INTERVAL, began).await;
        }
    }

    fn report_waiting(&self) {
        let (inbound, stuck) = (self.inbound.waiting.lock().clone(), self.tally.stuck());
        telemetry::files_now("waiting", inbound.files + stuck.len() as u64);
        for code in WaitReason::CODES {
            let stuck = stuck.iter().filter(|(file, _)| file.reason.code() == code);
            let waiting = inbound.by_code.get(code).copied().unwrap_or_default();
            telemetry::files_waiting(code, waiting + stuck.count() as u64);
        }
    }

    async fn observe_totals(&self) {
        loop {
            let began = Instant::now();
            let inbox = self.inbox.clone();
            if let Ok(history) = blocking("counting history", move || inbox.history()).await {
                telemetry::history(history.bytes);
            }
            if let Some(database) = &self.database
                && let Ok(totals) = database.totals().await
            {
                telemetry::rejects_open(totals.rejects);
            }
            if let Some(database) = &self.database
                && let Ok(newest) = database.last_settled().await
            {
                // The ledger may have datasets that no longer exist.
                for (dataset, unix_seconds) in newest {
                    if self.datasets.by_name(&dataset).is_some() {
                        telemetry::last_settled(&dataset, unix_seconds);
                    }
                }
            }
            rest(COUNT_INTERVAL, began).await;
        }
    }
}

fn report_census(Census { inbound, work }: &Census) {
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
