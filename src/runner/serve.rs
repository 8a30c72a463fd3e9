//! The service: a run that lasts until it is stopped.

use tokio::sync::mpsc;

use super::engine::Engine;
use super::nodes::BEAT_EVERY;
use super::workers::Workers;
use crate::config::Roles;
use crate::fault::Fault;
use crate::shutdown::Shutdown;

impl Engine {
    /// Runs until stopped.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn serve(&self, shutdown: &Shutdown) -> Result<(), Fault> {
        let roles = self.options.roles;
        let mut workers = if roles.work {
            Workers::start(&self.worker(), self.options.workers, &shutdown.abort)
        } else {
            Workers::none(&shutdown.abort)
        };
        let stop_workers = workers.stop.clone();
        let ingest = async {
            if roles.ingest {
                let (items, taken) = mpsc::channel(1);
                let intake = self.intake();
                let take = Box::pin(intake.watch_inbound(items, shutdown));
                tokio::try_join!(take, self.ingest().run(taken, shutdown))?;
            }
            shutdown.drain.cancelled().await;
            stop_workers.cancel();
            Ok(())
        };
        let summary = async {
            if roles.summary {
                self.keep_summary(roles, shutdown).await?;
            }
            Ok(())
        };
        let partitions = async {
            if roles.summary {
                self.go_on_keeping_partitions(&shutdown.drain).await;
            }
            Ok(())
        };
        let indexes = async {
            if roles.work {
                self.keep_indexes(&shutdown.drain).await;
            }
            Ok(())
        };
        let history = async {
            if roles.ingest && self.options.history_limits.is_any() {
                self.keep_history(&shutdown.drain).await;
            }
            Ok(())
        };
        let compacting = async {
            if roles.ingest && self.options.compacts_history {
                self.go_on_compacting(&shutdown.drain).await;
            }
            Ok(())
        };
        let kept = async { tokio::try_join!(indexes, partitions, history, compacting) };
        let result = tokio::select! {
            result = async { tokio::try_join!(ingest, workers.join(), summary, kept) } => result,
            fault = Box::pin(self.check_health()) => Err(fault),
            () = Box::pin(self.spare_replicas()), if roles.work => unreachable!("it never ends"),
            fault = self.until_taken_over() => Err(fault),
        };
        self.leave().await;
        result.map(drop)
    }

    /// Refreshes the summary at its interval, while this process leads it.
    ///
    /// # Errors
    /// A fatal fault, in a process that stores no rows. In another one, storing rows goes on, and
    /// the next refresh tries again.
    async fn keep_summary(&self, roles: Roles, shutdown: &Shutdown) -> Result<(), Fault> {
        let mut has_failed = false;
        loop {
            let Some(leader) = self.until_leading(&shutdown.drain).await else {
                return Ok(());
            };
            let mut is_whole = true;
            match self.refresh_summary(Some(&leader), &shutdown.drain).await {
                Ok(whole) => {
                    is_whole = whole;
                    if has_failed {
                        tracing::info!("the summary is refreshed again");
                    }
                    has_failed = false;
                }
                Err(fault) if !roles.work => return Err(fault),
                Err(fault) => {
                    if !has_failed {
                        tracing::error!(%fault, "the summary is not refreshed; tries again");
                    }
                    has_failed = true;
                }
            }
            let next = async {
                match self.options.summary_every {
                    // Another process leads, as the next beat shows.
                    _ if !is_whole => tokio::time::sleep(BEAT_EVERY).await,
                    Some(every) => tokio::time::sleep(every).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next => {}
                () = self.until_deposed(&leader) => {}
                () = shutdown.drain.cancelled() => return Ok(()),
            }
        }
    }
}
