//! Publishes frames again that are in neither queue nor ledger: the queue was emptied, or lost
//! them.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::flight::Flight;
use super::job::{Job, missing_chunks};
use super::member::Member;
use super::shared::Shared;
use super::withdraw::{note_unreadable, withdraw_changed, withdraw_gone, withdraw_waiting};
use crate::content::{self, ContentError};
use crate::retry::{GivenUp, until_ok};
use crate::telemetry;

/// A file without progress for this long, while the queue is empty, has lost frames.
pub(super) const LOST_AFTER: Duration = Duration::from_secs(2);

/// A file has lost frames if its time without progress exceeds the age of the oldest frame in the
/// queue by this much: its own frames would have been read before that one. As long as no worker
/// reads, no frame counts as lost.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// A file without progress for this long counts as having lost frames, whatever the queue holds. If
/// its frames are still in the queue, they are committed twice, which is harmless.
const LOST_IN_ANY_CASE_AFTER: Duration = Duration::from_secs(60 * 60);

/// Publishes again the lost frames of files without progress for [`LOST_AFTER`].
pub(super) async fn republish_lost(
    shared: &Arc<Shared>,
    jobs: &mpsc::Sender<Vec<Job>>,
    still: &[u32],
) -> Result<(), GivenUp> {
    if still.is_empty() || shared.drain.is_cancelled() {
        return Ok(());
    }
    // Workers drop the frames of a file whose table does not take its rows.
    let waiting = || shared.sink().waiting(still);
    let waiting = until_ok("reading the ledger", &shared.stop, |_| {}, waiting).await?;
    for (file_no, reason) in waiting {
        withdraw_waiting(shared, file_no, &reason).await?;
    }
    // After a fault of the broker, nothing is known about the frames: settle asks again after its
    // interval.
    let broker = &shared.ingest.broker;
    let (Ok(depth), Ok(oldest)) = (broker.depth().await, broker.oldest().await) else {
        return Ok(());
    };
    let oldest = oldest.into_iter().map(|(_, age)| age).max();
    let oldest = oldest.unwrap_or_default();
    let is_lost = |flight: &Flight| is_lost(flight.still(), depth.frames, oldest);
    let lost: Vec<u32> = {
        let flights = shared.flights();
        still
            .iter()
            .copied()
            .filter(|no| flights.get(no).is_some_and(is_lost))
            .collect()
    };
    // The ledger is asked after the length of the queue, since frames leave the queue only after
    // they are in the ledger.
    let covered = || shared.sink().coverage(&lost);
    let covered = until_ok("reading the ledger", &shared.stop, |_| {}, covered).await?;
    let covered: HashMap<u32, _> = lost.into_iter().zip(covered).collect();
    if let Some(first) = covered.keys().min() {
        tracing::warn!(
            files = covered.len(),
            first,
            "files have frames that are in neither queue nor ledger; they are published again"
        );
    }
    for (file_no, covered) in covered {
        let Some(job) = reopen(shared, file_no, &covered).await? else {
            continue;
        };
        telemetry::frames_lost(&job.dataset.name, job.chunks.len() as u64);
        if jobs.send(vec![job]).await.is_err() && !shared.drain.is_cancelled() {
            return Err(GivenUp::Stopped);
        }
    }
    Ok(())
}

/// Whether a file has lost frames. `still` is its time without progress, `queued` the number of
/// frames in the queue, and `oldest` the age of the oldest of them.
fn is_lost(still: Duration, queued: u64, oldest: Duration) -> bool {
    queued == 0 || still >= oldest + STUCK_AFTER || still >= LOST_IN_ANY_CASE_AFTER
}

/// Opens a file again for its missing chunks. `None` if it cannot be read now, or never.
async fn reopen(
    shared: &Arc<Shared>,
    file_no: u32,
    covered: &[Range<u64>],
) -> Result<Option<Job>, GivenUp> {
    let (path, member, plan, dataset, identity, values) = {
        let flights = shared.flights();
        let Some(flight) = flights.get(&file_no) else {
            return Ok(None);
        };
        let path = flight.first.file.path.clone();
        let member = flight.first.member.clone();
        let (plan, dataset) = (flight.plan.clone(), flight.dataset.clone());
        let (identity, values) = (flight.identity.clone(), flight.values.clone());
        (path, member, plan, dataset, identity, values)
    };
    let chunks = missing_chunks(&plan, covered);
    let options = shared.ingest.options.content.clone();
    let opened = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || {
            // The container is open. Through its path, it would be read as a whole for each member.
            let open = |member: Member| member.container.open_and(member.index, &options, |_| ());
            match member.map(open) {
                Some(Ok((content, ()))) => Ok(content),
                // The container may have changed on the disk, which its path tells.
                Some(Err(_)) | None => content::open(&path, &options),
            }
        })
    };
    let content = match opened.await.expect("reading does not panic") {
        Ok(content) if content.hash == identity.content() => content,
        Ok(_) | Err(ContentError::Corrupt { .. } | ContentError::NotRegular) => {
            withdraw_changed(shared, file_no).await?;
            return Ok(None);
        }
        Err(ContentError::Io(error)) if error.kind() == ErrorKind::NotFound => {
            withdraw_gone(shared, file_no).await?;
            return Ok(None);
        }
        Err(error) => {
            tracing::error!(?path, %error, "cannot be read again; tries later");
            note_unreadable(shared, file_no, &error).await?;
            return Ok(None);
        }
    };
    let mut flights = shared.flights();
    let Some(flight) = flights.get_mut(&file_no) else {
        return Ok(None);
    };
    flight.publish_again(chunks.len());
    Ok(Some(Job {
        file_no,
        hash: identity.hash,
        values,
        dataset,
        content: Arc::new(content),
        chunks,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_lost_if_younger_ones_are_read_and_not_while_no_worker_reads() {
        let seconds = Duration::from_secs;
        assert!(is_lost(seconds(2), 0, seconds(0)), "the queue is empty");
        assert!(
            !is_lost(seconds(30), 9, seconds(1)),
            "it may be its turn soon"
        );
        assert!(is_lost(seconds(70), 9, seconds(1)), "others came after it");
        // No worker reads: the oldest frame has waited as long as the file.
        for still in [70, 600, 3_000] {
            assert!(!is_lost(seconds(still), 9, seconds(still)), "{still}");
        }
        assert!(is_lost(seconds(3_600), 9, seconds(3_600)), "in any case");
    }
}
