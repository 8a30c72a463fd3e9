//! A run that ends when all its files are stored.

use tokio::sync::mpsc;

use super::engine::Engine;
use super::workers::Workers;
use crate::fault::Fault;
use crate::ingest::{Item, Listed};
use crate::shutdown::Shutdown;

impl Engine {
    /// Loads files in order, and returns when all of them are stored.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn load_files(&self, files: Listed, shutdown: &Shutdown) -> Result<(), Fault> {
        let intake = self.intake();
        let take = |items| async move { intake.take_listed(files, items, shutdown).await };
        Box::pin(self.load(take, shutdown)).await
    }

    /// Loads the files of work and inbound, and returns when all of them are stored.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn load_inbound(&self, shutdown: &Shutdown) -> Result<(), Fault> {
        let intake = self.intake();
        let take = |items| async move { intake.take_inbound(items, shutdown).await };
        Box::pin(self.load(take, shutdown)).await
    }

    async fn load<F>(
        &self,
        take: impl FnOnce(mpsc::Sender<Vec<Item>>) -> F,
        shutdown: &Shutdown,
    ) -> Result<(), Fault>
    where
        F: Future<Output = Result<(), Fault>>,
    {
        let (items, taken) = mpsc::channel(1);
        let mut workers = Workers::start(&self.worker(), self.options.workers, &shutdown.abort);
        let stop_workers = workers.stop.clone();
        let ingest = async {
            tokio::try_join!(take(items), self.ingest().run(taken, shutdown))?;
            // All files are settled, so no frame is left for the workers.
            stop_workers.cancel();
            Ok(())
        };
        tokio::select! {
            stored = async { tokio::try_join!(ingest, workers.join()) } => drop(stored?),
            () = Box::pin(self.spare_replicas()) => unreachable!("it never ends"),
        }
        // After a shutdown, the next run refreshes the summary.
        if shutdown.drain.is_cancelled() {
            return Ok(());
        }
        self.refresh_summary(None, &shutdown.drain).await?;
        tokio::select! {
            _ = self.keep_partitions() => {}
            // The next run continues.
            () = shutdown.drain.cancelled() => {}
        }
        Ok(())
    }
}
