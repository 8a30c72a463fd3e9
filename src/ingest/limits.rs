//! The limits of a dataset for a file: `max_reject_ratio` and `min_records`. A file beyond one of
//! them goes to quarantine before any of it is registered, and an operator may release it.
//!
//! A file of a dataset with `max_reject_ratio` is parsed twice: here, until the limit is exceeded or
//! the file ends, and after it is registered. Rows that the database refuses are not known here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use rayon::prelude::*;

use super::item::{BadFile, Identity, ReadyFile};
use super::reason::QuarantineReason;
use super::shared::Shared;
use crate::batch::{Batch, SourceFile};
use crate::chunks;
use crate::content::{Content, ContentError};
use crate::cut::Plan;
use crate::dataset::Dataset;
use crate::parse::Parser;
use crate::retry::{GivenUp, until_ok};

/// Most causes of rejects that are told apart: a producer may give each record another field.
const CAUSES_MAX: usize = 1_000;

/// Why the check of a file ended before the end of the file.
pub(super) enum CutShort {
    /// The run drains. Nothing is known about the file.
    Stopped,
    /// The file cannot be read.
    Unread(ContentError),
}

/// Why the check of a chunk ends the check of its file.
enum End {
    Beyond,
    CutShort(CutShort),
}

/// The limit that a file, or its records of one dataset, is beyond. `None` if it is within all.
///
/// # Errors
/// [`CutShort`].
pub(super) fn beyond(
    shared: &Shared,
    content: &Content,
    (dataset, identity): (&Arc<Dataset>, &Identity),
    plan: &Plan,
) -> Result<Option<QuarantineReason>, CutShort> {
    if let Some(least) = dataset.min_records.filter(|least| plan.records < *least) {
        let records = plan.records;
        return Ok(Some(QuarantineReason::TooFewRecords { records, least }));
    }
    let Some(ratio) = dataset.max_reject_ratio else {
        return Ok(None);
    };
    let most = ratio.of(plan.records);
    if most >= u64::from(plan.records) {
        return Ok(None);
    }
    // The file has no number and no time of registration yet. A record becomes a row or a reject
    // whatever they are.
    let values = identity.values(dataset, 0);
    let file = SourceFile {
        file_no: 1,
        hash: identity.hash,
    };
    let (rejects, causes) = (AtomicU64::new(0), Mutex::new(BTreeMap::new()));
    let checked = plan.chunks.par_iter().try_for_each_init(
        || (Parser::default(), Vec::new()),
        |(parser, buffer), chunk| {
            if shared.drain.is_cancelled() {
                return Err(End::CutShort(CutShort::Stopped));
            }
            let _alone = shared.alone(chunk);
            let batch = chunks::parse(
                parser,
                dataset,
                file,
                chunk,
                (content, values.as_ref()),
                buffer,
            )
            .map_err(|error| End::CutShort(CutShort::Unread(error)))?;
            if batch.rejects.is_empty() {
                return Ok(());
            }
            note_causes(&mut causes.lock(), &batch);
            let new = batch.rejects.len() as u64;
            if rejects.fetch_add(new, Relaxed) + new > most {
                return Err(End::Beyond);
            }
            Ok(())
        },
    );
    match checked {
        Ok(()) => Ok(None),
        Err(End::CutShort(cause)) => Err(cause),
        Err(End::Beyond) => Ok(Some(QuarantineReason::TooManyRejects {
            rejects: rejects.into_inner(),
            records: plan.records,
            ratio,
            most,
            cause: most_frequent(causes.into_inner()),
        })),
    }
}

/// Counts the rejects of a batch by their causes.
fn note_causes(causes: &mut BTreeMap<String, u64>, batch: &Batch) {
    for reject in &batch.rejects {
        let code = reject.code.as_str();
        let cause = match &reject.field {
            Some(field) => format!("`{code}` in `{field}`"),
            None => format!("`{code}`"),
        };
        if causes.len() < CAUSES_MAX || causes.contains_key(&cause) {
            *causes.entry(cause).or_default() += 1;
        }
    }
}

fn most_frequent(causes: BTreeMap<String, u64>) -> String {
    let cause = causes.into_iter().max_by_key(|(_, records)| *records);
    cause.map_or(String::new(), |(cause, _)| cause)
}

/// Turns a file that is beyond a limit into one for quarantine, unless the ledger has it as begun,
/// stored or released.
pub(super) async fn hold(
    shared: &Shared,
    mut file: ReadyFile,
) -> Result<Result<ReadyFile, BadFile>, GivenUp> {
    for (at, reason) in std::mem::take(&mut file.beyond) {
        let (dataset, identity, plan) = &file.plans[at];
        let new = file.item.new_file(Some(dataset), identity, plan.records);
        let ask = || shared.sink().is_past_limits(&new);
        if !until_ok("reading the ledger", &shared.stop, |_| {}, ask).await? {
            let (dataset, identity, _) = file.plans.swap_remove(at);
            return Ok(Err(BadFile {
                item: file.item,
                dataset: Some(dataset),
                identity: Some(identity),
                reason,
            }));
        }
    }
    Ok(Ok(file))
}
