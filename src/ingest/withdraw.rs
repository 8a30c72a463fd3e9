//! Takes a file out of its flight because it changed, was removed, can no longer be read, or waits
//! until its table takes its rows.

use std::iter;
use std::sync::Arc;

use super::disposal::Disposal;
use super::dispose::{dispose, quarantine};
use super::item::{BadFile, Identity, Item, ItemOrigin};
use super::outcome::Outcome;
use super::read::{DEVICE_ATTEMPTS, is_device_error};
use super::reason::QuarantineReason;
use super::shared::Shared;
use crate::content::ContentError;
use crate::dataset::Dataset;
use crate::inbox::WaitReason;
use crate::retry::GivenUp;

/// Records that a file cannot be read now. Quarantines it after the device has failed to read it
/// [`DEVICE_ATTEMPTS`] times.
pub(super) async fn note_unreadable(
    shared: &Arc<Shared>,
    file_no: u32,
    error: &ContentError,
) -> Result<(), GivenUp> {
    let is_device_error = matches!(error, ContentError::Io(io) if is_device_error(io));
    let attempts = match shared.flights().get_mut(&file_no) {
        Some(flight) => flight.note_unreadable(is_device_error),
        None => return Ok(()),
    };
    if is_device_error && attempts >= DEVICE_ATTEMPTS {
        let reason = QuarantineReason::ReadFailed {
            error: error.to_string(),
            file_no: Some(file_no),
        };
        withdraw_bad(shared, file_no, reason).await?;
    }
    Ok(())
}

/// Takes a file out of its flight that has changed since it was registered.
///
/// Frames that were published before the change hold records of the former content. Their rows and
/// ledger entries stay. So the ledger lists the former content as quarantined and covered in part,
/// while the file in quarantine has the new content. If the former content arrives again, the rest
/// of its records are stored under the same number. The new content is another file, if it arrives
/// again. A file of an archive is not moved: it stays in its place, and is pending in the ledger.
///
/// If copies of the former content have arrived, the flight goes on with the next copy.
pub(super) async fn withdraw_changed(shared: &Arc<Shared>, file_no: u32) -> Result<(), GivenUp> {
    withdraw_bad(shared, file_no, QuarantineReason::Changed { file_no }).await
}

/// Takes a file out of its flight that can no longer be read, or has changed. See
/// [`withdraw_changed`].
async fn withdraw_bad(
    shared: &Arc<Shared>,
    file_no: u32,
    reason: QuarantineReason,
) -> Result<(), GivenUp> {
    let _in_progress = shared.disposals.begin();
    let Some((item, rest)) = take_first(shared, file_no) else {
        return Ok(());
    };
    if item.origin == ItemOrigin::Archive {
        tracing::error!(file = ?item.file.path, code = reason.code(), %reason, "is not loaded as a whole; load it again");
        let left = left(
            item,
            file_no,
            rest.dataset,
            WaitReason::read_failed(&reason),
        );
        return dispose(shared, vec![left]).await;
    }
    let file = BadFile {
        item,
        dataset: Some(rest.dataset),
        // If the flight goes on with a copy, the ledger entry stays, and only this file is
        // quarantined.
        identity: rest.is_over.then_some(rest.identity),
        reason,
    };
    quarantine(shared, file).await
}

/// Takes a file out of its flight that was removed. If it was the last file with its content, its
/// unpublished records are lost with it. The ledger lists it as pending until the content arrives
/// again.
pub(super) async fn withdraw_gone(shared: &Arc<Shared>, file_no: u32) -> Result<(), GivenUp> {
    let _in_progress = shared.disposals.begin();
    let Some((item, rest)) = take_first(shared, file_no) else {
        return Ok(());
    };
    tracing::error!(file = ?item.file.path, "was removed while it was loaded; bring it again");
    let left = left(item, file_no, rest.dataset, WaitReason::Gone);
    dispose(shared, vec![left]).await
}

/// Takes a file and its copies out of their flight, since its table does not take its rows: they go
/// back to inbound, and are tried again from there. A file of an archive stays where it is.
pub(super) async fn withdraw_waiting(
    shared: &Arc<Shared>,
    file_no: u32,
    reason: &str,
) -> Result<(), GivenUp> {
    let _in_progress = shared.disposals.begin();
    let Some(flight) = shared.flights().remove(&file_no) else {
        return Ok(());
    };
    shared.begun.forget();
    let reason = WaitReason::table_refuses(reason);
    let (dataset, code) = (flight.dataset, reason.code());
    let disposal = |item: Item| {
        tracing::warn!(file = ?item.file.path, file_no, code, %reason, "is left for later");
        left(item, file_no, dataset.clone(), reason.clone())
    };
    let all = iter::once(flight.first).chain(flight.copies);
    dispose(shared, all.map(disposal).collect()).await
}

fn left(item: Item, file_no: u32, dataset: Arc<Dataset>, reason: WaitReason) -> Disposal {
    Disposal {
        item,
        file_no: Some(file_no),
        dataset: Some(dataset),
        outcome: Outcome::Left(reason),
    }
}

/// The rest of a flight that has lost its first file.
struct Remainder {
    dataset: Arc<Dataset>,
    identity: Identity,
    /// Whether the flight has ended. It goes on if another file has the same content.
    is_over: bool,
}

/// Takes the first file out of its flight, and ends the flight if it has no copy.
fn take_first(shared: &Shared, file_no: u32) -> Option<(Item, Remainder)> {
    shared.begun.forget();
    let mut flights = shared.flights();
    let flight = flights.get_mut(&file_no)?;
    let (dataset, identity) = (flight.dataset.clone(), flight.identity.clone());
    let (item, is_over) = match flight.lose_first() {
        Some(item) => (item, false),
        None => (flights.remove(&file_no)?.first, true),
    };
    let rest = Remainder {
        dataset,
        identity,
        is_over,
    };
    Some((item, rest))
}
