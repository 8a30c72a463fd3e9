//! Files that were read and whose content is known because records of it were erased.
//!
//! A file with these records blank is a copy of its content: nothing of it is stored twice. A file that
//! still has them goes to quarantine instead of history, so that an operator removes it.

use std::sync::Arc;

use super::item::{BadFile, Identity, ItemOrigin, ReadOutcome};
use super::reason::QuarantineReason;
use super::shared::Shared;
use crate::batch::ContentHash;
use crate::retry::{GivenUp, until_ok};
use crate::sink::KnownBytes;

/// The files that were read: one with blank records has the identity of its content, and one that still
/// has erased records is bad. A stored file of an archive, and a stored member of a container, stays as
/// it is: it is not moved.
pub(super) async fn without(
    shared: &Arc<Shared>,
    mut outcomes: Vec<ReadOutcome>,
) -> Result<Vec<ReadOutcome>, GivenUp> {
    let hash_of = |outcome: &ReadOutcome| match outcome {
        ReadOutcome::Ready(file) => Some(file.content.hash),
        _ => None,
    };
    let hashes: Vec<ContentHash> = outcomes.iter().filter_map(hash_of).collect();
    if hashes.is_empty() {
        return Ok(outcomes);
    }
    let read = || shared.sink().known_bytes(&hashes);
    let known = until_ok("reading the ledger", &shared.stop, |_| {}, read).await?;
    if !known.is_empty() {
        outcomes = outcomes
            .into_iter()
            .map(|it| recognised(it, &known))
            .collect();
    }
    Ok(outcomes)
}

fn recognised(outcome: ReadOutcome, known: &[KnownBytes]) -> ReadOutcome {
    let ReadOutcome::Ready(mut file) = outcome else {
        return outcome;
    };
    let hash = file.content.hash;
    if let Some(known) = known.iter().find(|known| known.blank.content == hash) {
        let stays = file.item.origin == ItemOrigin::Archive || file.item.member.is_some();
        if stays && known.is_settled {
            tracing::warn!(file = ?file.item.file.path, "still has records that were erased");
            return ReadOutcome::Ready(file);
        }
        return ReadOutcome::Bad(BadFile {
            dataset: file.plans.first().map(|(dataset, ..)| dataset.clone()),
            item: file.item,
            // The entry of the content stays as it is.
            identity: None,
            reason: QuarantineReason::Erased,
        });
    }
    let is_blank = |known: &&KnownBytes| known.blank.hash == hash && known.is_settled;
    if let Some(known) = known.iter().find(is_blank) {
        for (_, identity, _) in &mut file.plans {
            let values = identity.taken.take().map(|taken| taken.values);
            *identity = Identity::new(known.blank.content, values.unwrap_or_default());
        }
    }
    ReadOutcome::Ready(file)
}
