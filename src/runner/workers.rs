//! The running workers of a process.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::worker::Worker;

/// Running workers.
pub(super) struct Workers {
    tasks: JoinSet<Result<(), Fault>>,
    /// Cancelled when no frame is left for the workers.
    pub(super) stop: CancellationToken,
}

impl Workers {
    /// No workers. `join` returns at once.
    pub(super) fn none(abort: &CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: abort.child_token(),
        }
    }

    /// Starts `count` copies of a worker. A number is added to the name of each.
    pub(super) fn start(template: &Worker, count: usize, abort: &CancellationToken) -> Self {
        let mut workers = Self::none(abort);
        for number in 0..count {
            let worker = Worker {
                name: format!("{}-{number}", template.name),
                ..template.clone()
            };
            workers
                .tasks
                .spawn(worker.run(workers.stop.clone(), abort.clone()));
        }
        workers
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    /// The fatal fault of the first worker that has one, without waiting for the others.
    pub(super) async fn join(&mut self) -> Result<(), Fault> {
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a worker does not panic")?;
        }
        Ok(())
    }
}
