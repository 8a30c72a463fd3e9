//! Hands frames to the broker.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::produce::Produced;
use super::shared::Shared;
use crate::frame::Frame;
use crate::retry::{GivenUp, until_ok};
use crate::telemetry::{self, Stage};

/// Most frames handed to the broker in one pipeline. More would delay the first of them; a dozen
/// are enough to make the round trip cheap.
const PIPELINE_FRAMES: usize = 32;

/// Hands frames to the broker until their channel closes. Waits while the queue is full.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut produced: mpsc::Receiver<Produced>,
) -> Result<(), GivenUp> {
    let mut taken = Vec::with_capacity(PIPELINE_FRAMES);
    while produced.recv_many(&mut taken, PIPELINE_FRAMES).await > 0 {
        let (frames, budget): (Vec<Frame>, Vec<OwnedSemaphorePermit>) =
            taken.drain(..).map(|one| (one.frame, one.budget)).unzip();
        let busy = telemetry::busy(Stage::Publish);
        let broker = &shared.ingest.broker;
        let publish = || broker.publish(&frames);
        // The queue may be full with no worker to empty it: a stop ends the wait.
        until_ok("publishing to the queue", &shared.stop, |_| {}, publish).await?;
        drop(busy);
        drop(budget);
        shared.report_memory();
        note_published(&shared, &frames);
    }
    shared.all_published.cancel();
    shared.settle_soon.notify_one();
    Ok(())
}

fn note_published(shared: &Shared, frames: &[Frame]) {
    let mut flights = shared.flights();
    for frame in frames {
        telemetry::frames_published(&frame.dataset, 1);
        if let Some(flight) = flights.get_mut(&frame.span.file_no)
            && flight.note_published()
        {
            shared.settle_soon.notify_one();
        }
    }
}
