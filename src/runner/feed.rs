//! Files on their way from inbound to ingest: why it is looked at, and how they are handed over.

use std::time::SystemTime;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Stop;
use super::watch::WaitsSeen;
use crate::inbox::Claimed;
use crate::ingest::{Item, ItemOrigin, Tally};

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

/// What waits has to stay where it is: a load ends.
pub(super) fn leave(waits: &WaitsSeen, tally: &Tally) {
    for (file, _) in &waits.named {
        tracing::warn!(name = ?file.name, why = &*file.why, "is left in inbound");
    }
    let more = waits.files - waits.named.len() as u64;
    if more > 0 {
        tracing::warn!(files = more, "more files are left in inbound");
    }
    Tally::add(&tally.left, waits.files);
    Tally::add(&tally.files, waits.files);
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn a_load_counts_all_that_it_leaves() {
        let (tally, waits) = (
            Tally::default(),
            WaitsSeen {
                files: 7,
                named: Vec::new(),
            },
        );
        leave(&waits, &tally);
        let counted = [&tally.left, &tally.files].map(|count| count.load(Relaxed));
        assert_eq!(counted, [7, 7]);
    }
}
