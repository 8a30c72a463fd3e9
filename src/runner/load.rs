//! A run that ends once all its files are stored.

use tokio::sync::mpsc;

use super::engine::Engine;
use super::workers::Workers;
use crate::fault::Fault;
use crate::inbox::Claimed;
use crate::ingest::{Item, ItemOrigin};
use crate::shutdown::Shutdown;

impl Engine {
    /// Loads files in the order given, and ends when all of them are stored.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn load_files(
        &self,
        files: Vec<(Claimed, ItemOrigin)>,
        shutdown: &Shutdown,
    ) -> Result<(), Fault> {
        let intake = self.intake();
        let take = |items| async move { intake.take_listed(files, items, shutdown).await };
        Box::pin(self.load(take, shutdown)).await
    }

    /// Loads the files of work and inbound, and ends when all of them are stored.
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
            // No frame is in flight any more: the workers have nothing left to do.
            stop_workers.cancel();
            Ok(())
        };
        tokio::try_join!(ingest, workers.join())?;
        // After a shutdown the next run does it.
        if shutdown.drain.is_cancelled() {
            return Ok(());
        }
        self.refresh_summary(&shutdown.drain).await
    }
}
