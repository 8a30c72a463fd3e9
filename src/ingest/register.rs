//! Enters files into the ledger, many at once, and begins their flights.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind;
use std::mem;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::begun::BEGUN_MAX;
use super::disposal::Disposal;
use super::dispose::{dispose, leave, quarantine};
use super::erased;
use super::flight::Flight;
use super::item::{BadFile, ItemOrigin, ReadOutcome, ReadyFile, ReadyPart};
use super::job::{Job, missing_chunks};
use super::limits;
use super::outcome::Outcome;
use super::reason::QuarantineReason;
use super::shared::Shared;
use super::unmet::Unmet;
use super::whole::{make_whole, restore};
use crate::content::{self, ContentError, ContentOptions};
use crate::inbox::{self, Claimed, Directories, WaitReason};
use crate::retry::{GivenUp, until_ok};
use crate::sink::{Begun, EarlierState, NewFile, Registered};
use crate::telemetry::traces::Step;

/// Registers files that were read, and sends on the chunks that must be parsed.
pub(super) async fn start(
    shared: &Arc<Shared>,
    outcomes: Vec<ReadOutcome>,
    jobs: &mpsc::Sender<Vec<Job>>,
) -> Result<(), GivenUp> {
    let mut ready = Vec::new();
    for outcome in erased::without(shared, outcomes).await? {
        match outcome {
            ReadOutcome::Ready(file) => match begun_otherwise(shared, &file).await? {
                None => match limits::hold(shared, file).await? {
                    Ok(file) => {
                        note_unmet(shared, &file);
                        ready.extend(file.into_parts());
                    }
                    Err(file) => quarantine(shared, file).await?,
                },
                Some(file_no) => {
                    leave(shared, file.item, &WaitReason::EarlierContent(file_no)).await?;
                }
            },
            ReadOutcome::Bad(file) => quarantine(shared, file).await?,
            ReadOutcome::Later { item, reason } => leave(shared, item, &reason).await?,
            ReadOutcome::Members(_) => unreachable!("read goes on with the members"),
        }
    }
    if ready.is_empty() {
        return Ok(());
    }
    if shared.ingest.options.tells_unmet {
        tell_unmet(shared);
    }
    let started = register(shared, ready, jobs).await?;
    send(shared, started, jobs).await
}

/// Counts the datasets that have nothing in a file, once for a member that is read several times.
fn note_unmet(shared: &Shared, file: &ReadyFile) {
    if file.item.is_counted() {
        return;
    }
    let Claimed { name, path, .. } = &file.item.file;
    let place = match file.item.origin {
        ItemOrigin::Archive => path,
        // It is in work only until it is stored.
        ItemOrigin::Mailbox | ItemOrigin::Recovered => Path::new(name),
    };
    let met = file.plans.iter().map(|(dataset, ..)| dataset);
    shared.tally().unmet.note(place, met, &file.unmet);
}

/// Logs the datasets that have nothing in files. As long as a dataset has nothing in any file, its
/// `records` are most likely wrong.
fn tell_unmet(shared: &Shared) {
    for unmet in shared.tally().unmet.to_tell() {
        let Unmet {
            dataset,
            pointer,
            files,
            met,
            first,
        } = unmet;
        if met > 0 {
            tracing::info!(dataset, files, ?first, "files have no array at `{pointer}`");
        } else {
            tracing::warn!(
                dataset,
                files,
                ?first,
                "files have no array at `{pointer}`, although a dataset takes them by their name; \
                 `task_runner check FILE` names the arrays that are there"
            );
        }
    }
}

/// The number of a file that was begun in the place of this file with other content, which no
/// directory has any more. The two may be versions of one file, so both would be stored. `None` if
/// there is none.
///
/// The former content is not removed here: another engine with other directories may be loading a
/// file with the same name.
async fn begun_otherwise(shared: &Arc<Shared>, file: &ReadyFile) -> Result<Option<u32>, GivenUp> {
    if shared.begun.is_unknown() {
        read_begun(shared).await?;
    }
    let in_place = || {
        let plans = file.plans.iter();
        let found = plans.flat_map(|(dataset, identity, plan)| {
            let new = file.item.new_file(Some(dataset), identity, plan.records);
            shared.begun.with_other_content(&new, identity.content())
        });
        found.collect::<Vec<Begun>>()
    };
    if shared.begun.is_empty() || in_place().is_empty() {
        return Ok(None);
    }
    // Some of them may have been settled since.
    read_begun(shared).await?;
    for begun in in_place() {
        let file_no = begun.file_no;
        let directories = shared.ingest.inbox.directories().clone();
        let options = shared.ingest.options.content.clone();
        let lookup =
            tokio::task::spawn_blocking(move || has_content(&directories, &options, &begun));
        if !lookup.await.expect("a lookup does not panic") {
            return Ok(Some(file_no));
        }
    }
    Ok(None)
}

/// Reads from the ledger which files were begun and not ended.
async fn read_begun(shared: &Arc<Shared>) -> Result<(), GivenUp> {
    // Only this stage begins flights, so a file without one now, and not settled in the list, has
    // left its flight or belongs to an earlier run.
    let flights: HashSet<u32> = shared.flights().keys().copied().collect();
    let read = || shared.sink().begun(BEGUN_MAX);
    let found = until_ok("reading the ledger", &shared.stop, |_| {}, read).await?;
    shared.begun.set(found, &flights);
    Ok(())
}

/// Whether a directory, or the archive, has the content of a file.
fn has_content(directories: &Directories, options: &ContentOptions, begun: &Begun) -> bool {
    let (name, path) = (&begun.name, begun.path.as_deref());
    let is_it = |path: &PathBuf| match content::open_and(path, options, |_| ()) {
        Ok((content, ())) => content.hash == begun.content,
        // It may be the content. A file that was removed, or is none, is not.
        Err(ContentError::Io(error)) => error.kind() != ErrorKind::NotFound,
        Err(_) => false,
    };
    inbox::candidates(directories, name, &[begun.bytes], path)
        .iter()
        .any(is_it)
}

/// Sends on jobs, unless there are none. A shutdown that drains closes the channel first: the next
/// start goes on with the registered files.
async fn send(
    shared: &Shared,
    started: Vec<Job>,
    jobs: &mpsc::Sender<Vec<Job>>,
) -> Result<(), GivenUp> {
    if !started.is_empty() && jobs.send(started).await.is_err() && !shared.drain.is_cancelled() {
        return Err(GivenUp::Stopped);
    }
    Ok(())
}

/// Enters files into the ledger. Returns the chunks that must be parsed, except those that it has
/// sent on. A file that the ledger covers as a whole is finished, and a copy joins the flight of its
/// content.
async fn register(
    shared: &Arc<Shared>,
    ready: Vec<ReadyPart>,
    sender: &mpsc::Sender<Vec<Job>>,
) -> Result<Vec<Job>, GivenUp> {
    let files: Vec<_> = ready
        .iter()
        .map(|file| {
            let (identity, records) = (&file.identity, file.plan.records);
            file.item.new_file(Some(&file.dataset), identity, records)
        })
        .collect();
    let (known, not_removed) = enter(shared, &files).await?;
    let begun = known
        .iter()
        .filter(|file| file.earlier == EarlierState::Pending);
    let begun: Vec<u32> = begun.map(|file| file.file_no).collect();
    let covered = || shared.sink().coverage(&begun);
    let covered = until_ok("reading the ledger", &shared.stop, |_| {}, covered).await?;
    let mut covered: HashMap<u32, _> = begun.into_iter().zip(covered).collect();

    let lacking = fold_settled(shared, &known).await?;
    let mut jobs = Vec::new();
    let mut disposals = Vec::new();
    for (mut ready, known) in ready.into_iter().zip(known) {
        if let Some(trail) = &mut ready.item.trail {
            trail.end(Step::Register);
        }
        let Registered {
            file_no, earlier, ..
        } = known;
        if earlier == EarlierState::Settled && !lacking.contains(&file_no) {
            let outcome = match ready.item.origin {
                ItemOrigin::Recovered => Outcome::Settled,
                ItemOrigin::Mailbox | ItemOrigin::Archive => Outcome::of_copy(ready.plan.records),
            };
            disposals.push(Disposal {
                item: ready.item,
                file_no: Some(file_no),
                dataset: Some(ready.dataset),
                outcome,
            });
            continue;
        }
        if let Some(flight) = shared.flights().get_mut(&file_no) {
            flight.check_identity(file_no, ready.identity.hash)?;
            flight.add_copy(ready.item);
            continue;
        }
        let reason = match earlier {
            EarlierState::OtherDefinition => Some(QuarantineReason::OtherDefinition { file_no }),
            EarlierState::BegunOtherwise => {
                let problem = not_removed.get(&file_no).cloned().unwrap_or_default();
                Some(QuarantineReason::NotRemoved { file_no, problem })
            }
            EarlierState::Settled => Some(QuarantineReason::NotStored { file_no }),
            EarlierState::New | EarlierState::Pending => None,
        };
        if let Some(reason) = reason {
            let file = BadFile {
                item: ready.item,
                dataset: Some(ready.dataset),
                // The entry of a settled file stays as it is.
                identity: (earlier != EarlierState::Settled).then_some(ready.identity),
                reason,
            };
            quarantine(shared, file).await?;
            continue;
        }
        let covered = covered.remove(&file_no).unwrap_or_default();
        let slot = free_slot(shared, &mut jobs, sender).await?;
        jobs.extend(begin(shared, ready, known, &covered, slot));
    }
    dispose(shared, disposals).await?;
    Ok(jobs)
}

/// Enters files into the ledger. What is stored of a file that was begun by another definition, and
/// quarantined since, is removed first, and the file gets a new number. Also returns the numbers
/// whose records the database does not remove, each with the problem: their files stay
/// [`BegunOtherwise`](EarlierState::BegunOtherwise).
async fn enter(
    shared: &Arc<Shared>,
    files: &[NewFile],
) -> Result<(Vec<Registered>, HashMap<u32, String>), GivenUp> {
    let mut not_removed = HashMap::new();
    loop {
        let register = async || {
            shared.check_epoch().await?;
            shared.sink().register(files, &shared.ingest.datasets).await
        };
        let known = until_ok("registering files", &shared.stop, |_| {}, register).await?;
        let numbered = files.iter().zip(&known);
        // A copy has the same number.
        let otherwise: BTreeMap<u32, &NewFile> = numbered
            .filter(|(_, known)| known.earlier == EarlierState::BegunOtherwise)
            .map(|(file, known)| (known.file_no, file))
            .filter(|(file_no, _)| !not_removed.contains_key(file_no))
            .collect();
        if otherwise.is_empty() {
            return Ok((known, not_removed));
        }
        for (file_no, file) in otherwise {
            let remove = async || {
                shared.check_epoch().await?;
                shared.sink().remove(file_no, &shared.ingest.datasets).await
            };
            let removed = match until_ok("removing a file", &shared.stop, |_| {}, remove).await {
                Ok(removed) => removed,
                // The table of this file, and of no other, is at fault.
                Err(GivenUp::Fatal(fault)) => {
                    not_removed.insert(file_no, fault.to_string());
                    continue;
                }
                Err(stopped) => return Err(stopped),
            };
            tracing::info!(
                file = file.name,
                file_no,
                rows = removed.rows,
                "removed what was stored of the file by another definition; it is loaded anew"
            );
            // Before its number is removed: until then, the next registration continues after a kill.
            make_whole(shared, removed.superseded).await?;
            let end = || shared.sink().end_removal(file_no);
            until_ok("removing a file", &shared.stop, |_| {}, end).await?;
        }
    }
}

/// Removes the ledger entries that a settled file may still have after a kill between its last
/// commit and its settling. Returns the settled files of which records are missing from the tables.
async fn fold_settled(shared: &Arc<Shared>, known: &[Registered]) -> Result<HashSet<u32>, GivenUp> {
    let settled = known
        .iter()
        .filter(|known| known.earlier == EarlierState::Settled);
    let settled: Vec<u32> = settled.map(|known| known.file_no).collect();
    if settled.is_empty() {
        return Ok(HashSet::new());
    }
    let settle = || shared.sink().settle(&settled);
    until_ok("settling files", &shared.stop, |_| {}, settle).await?;
    let ask = || shared.sink().lacking(&settled, &shared.ingest.datasets);
    let mut lacking = until_ok("reading the ledger", &shared.stop, |_| {}, ask).await?;
    let mut again = 0;
    for file_no in &lacking {
        // Its file was missing when rows that had its keys were removed, and is here now.
        again += restore(shared, *file_no)
            .await?
            .map_or(0, |again| again.records);
    }
    if again > 0 {
        lacking = until_ok("reading the ledger", &shared.stop, |_| {}, ask).await?;
    }
    Ok(lacking.into_iter().collect())
}

/// A slot for a flight. If none is free, sends the jobs on before it waits: a group of files may have
/// more parts than there are slots, so a slot may become free only after these jobs are done.
async fn free_slot(
    shared: &Shared,
    jobs: &mut Vec<Job>,
    sender: &mpsc::Sender<Vec<Job>>,
) -> Result<OwnedSemaphorePermit, GivenUp> {
    let slots = || shared.flight_slots.clone();
    if let Ok(slot) = slots().try_acquire_owned() {
        return Ok(slot);
    }
    send(shared, mem::take(jobs), sender).await?;
    tokio::select! {
        slot = slots().acquire_owned() => Ok(slot.expect("it is never closed")),
        () = shared.stop.cancelled() => Err(GivenUp::Stopped),
    }
}

/// Begins the flight of a file. Returns the chunks that must be parsed.
fn begin(
    shared: &Shared,
    ready: ReadyPart,
    known: Registered,
    covered: &[Range<u64>],
    slot: OwnedSemaphorePermit,
) -> Option<Job> {
    let file_no = known.file_no;
    let (file, records) = (&ready.item.file.name, ready.plan.records);
    let dataset = &ready.dataset.name;
    tracing::debug!(?file, dataset, file_no, records, "registered");
    let values = ready
        .identity
        .values(&ready.dataset, known.registered_at_us);
    let job = Job {
        file_no,
        hash: ready.identity.hash,
        values: values.clone(),
        dataset: ready.dataset.clone(),
        content: ready.content.clone(),
        chunks: missing_chunks(&ready.plan, covered),
    };
    let flight = Flight::begin(ready, values, covered, job.chunks.len(), slot);
    shared.flights().insert(file_no, flight);
    if job.chunks.is_empty() {
        shared.settle_soon.notify_one();
        return None;
    }
    Some(job)
}
