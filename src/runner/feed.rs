//! Files on their way from inbound to ingest: why it is looked at, and how they are handed over.

use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Stop;
use crate::inbox::Claimed;
use crate::ingest::{Item, ItemOrigin};

/// Why inbound is scanned.
#[derive(Debug, PartialEq)]
pub(super) enum Cause {
    /// A load takes what is there.
    Load,
    /// Something may have arrived.
    Notice,
    /// Nothing was told for a while; `before` is when the scan before began.
    Interval {
        /// What came after it was not there to be found by it.
        before: SystemTime,
    },
}

/// Hands files to ingest; `false` if the engine stops.
pub(super) async fn send(
    items: &mpsc::Sender<Vec<Item>>,
    files: Vec<(Claimed, ItemOrigin)>,
    stop: &Stop,
) -> bool {
    let item = |(file, origin): (Claimed, _)| Item {
        seen: seen(&file, origin),
        file,
        origin,
    };
    let files: Vec<_> = files.into_iter().map(item).collect();
    if files.is_empty() {
        return !stop.quiet.is_cancelled();
    }
    // Claimed files that are not handed over stay in work, and are found there by the next run.
    tokio::select! {
        sent = items.send(files) => sent.is_ok() && !stop.quiet.is_cancelled(),
        () = stop.quiet.cancelled() => false,
    }
}

/// When a file was there to be taken: it may have lain in inbound while the engine was held up.
fn seen(file: &Claimed, origin: ItemOrigin) -> Instant {
    let now = Instant::now();
    let waited = match origin {
        ItemOrigin::Archive => None,
        ItemOrigin::Mailbox | ItemOrigin::Recovered => file.arrived.elapsed().ok(),
    };
    waited
        .and_then(|waited| now.checked_sub(waited))
        .unwrap_or(now)
}

pub(super) fn mark(files: Vec<Claimed>, origin: ItemOrigin) -> Vec<(Claimed, ItemOrigin)> {
    files.into_iter().map(|file| (file, origin)).collect()
}
