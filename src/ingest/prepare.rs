//! Reads, identifies and cuts files, and enters them into the ledger, many at once.

use std::sync::Arc;
use tokio::time::Instant;

use rayon::prelude::*;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::produce::Job;
use super::{Ending, Flight, Item, ItemOrigin, Shared, Tally};
use crate::content::{self, Content, ContentError, ContentHash};
use crate::coverage;
use crate::cut::{self, Plan, Unreadable};
use crate::dataset::Dataset;
use crate::inbox::Inbox;
use crate::retry::{GivenUp, until_ok};
use crate::sink::{Before, NewFile, Registered};
use crate::telemetry;

/// Files entered in one round trip. More gain little, and would delay the first frame.
const GROUP_FILES: usize = 256;

/// Bytes of the files of a group. Three groups are in memory at a time (being read, waiting, being
/// parsed), as far as their files are small enough to be read; larger ones are mapped.
const GROUP_BYTES: u64 = 16 * 1024 * 1024;

/// Longest name in the ledger, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A file after reading.
enum Prepared {
    Ready {
        item: Item,
        dataset: Arc<Dataset>,
        content: Content,
        plan: Plan,
    },
    Bad {
        item: Item,
        dataset: Option<Arc<Dataset>>,
        hash: Option<ContentHash>,
        reason: String,
    },
    Later {
        item: Item,
    },
}

/// Takes items until their channel closes; then cancels `prepared`.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut items: mpsc::Receiver<Vec<Item>>,
    jobs: mpsc::Sender<Vec<Job>>,
    prepared: CancellationToken,
) -> Result<(), GivenUp> {
    // Cancelled on every way out, so that the settle loop never waits for a task that is gone.
    let _prepared = prepared.drop_guard();
    loop {
        let arrived = tokio::select! {
            arrived = items.recv() => arrived,
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        };
        let Some(arrived) = arrived else {
            return Ok(());
        };
        for group in groups(arrived) {
            let started = group_jobs(&shared, group).await?;
            if !started.is_empty() && jobs.send(started).await.is_err() {
                return Err(GivenUp::Stopped);
            }
        }
    }
}

fn groups(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut groups: Vec<Vec<Item>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        bytes += item.file.bytes;
        match groups.last_mut() {
            Some(group) if group.len() < GROUP_FILES && bytes <= GROUP_BYTES => group.push(item),
            _ => {
                bytes = item.file.bytes;
                groups.push(vec![item]);
            }
        }
    }
    groups
}

/// Reads and registers a group; returns what has to be parsed of it.
async fn group_jobs(shared: &Arc<Shared>, group: Vec<Item>) -> Result<Vec<Job>, GivenUp> {
    Tally::add(&shared.tally().files, group.len() as u64);
    let reader = shared.clone();
    let prepared = tokio::task::spawn_blocking(move || {
        group
            .into_par_iter()
            .map(|item| prepare(&reader, item))
            .collect::<Vec<_>>()
    });
    let mut ready = Vec::new();
    for file in prepared.await.expect("reading does not panic") {
        match file {
            Prepared::Ready {
                item,
                dataset,
                content,
                plan,
            } => {
                ready.push((item, dataset, content, plan));
            }
            Prepared::Bad {
                item,
                dataset,
                hash,
                reason,
            } => {
                quarantine(shared, item, dataset, hash, reason).await?;
            }
            Prepared::Later { item } => leave(shared, item).await?,
        }
    }
    register(shared, ready).await
}

fn prepare(shared: &Shared, item: Item) -> Prepared {
    let ingest = &shared.ingest;
    let by_name = || {
        ingest
            .datasets
            .for_file_name(item.file.name.as_encoded_bytes())
            .cloned()
    };
    let dataset = ingest.options.dataset.clone().or_else(by_name);
    let content = match content::open(&item.file.path, &ingest.options.content) {
        Ok(content) => content,
        Err(ContentError::Busy) => return Prepared::Later { item },
        Err(ContentError::Corrupt { hash, detail }) => {
            return Prepared::Bad {
                item,
                dataset,
                hash: Some(hash),
                reason: detail,
            };
        }
        Err(error) => {
            let reason = format!("it cannot be read: {error}");
            return Prepared::Bad {
                item,
                dataset,
                hash: None,
                reason,
            };
        }
    };
    telemetry::read_bytes(content.stored_bytes);
    let hash = Some(content.hash);
    let Some(dataset) = dataset else {
        let names: Vec<_> = ingest.datasets.iter().map(|d| d.files.as_str()).collect();
        let reason = format!(
            "no dataset takes it: its name contains none of {}",
            names.join(", ")
        );
        return Prepared::Bad {
            item,
            dataset: None,
            hash,
            reason,
        };
    };
    match cut::cut(
        &content,
        &dataset.records,
        &dataset.fields(),
        ingest.options.chunk,
    ) {
        Ok(plan) => Prepared::Ready {
            item,
            dataset,
            content,
            plan,
        },
        Err(Unreadable::Incomplete { .. })
            if ingest.options.incomplete_may_wait
                && item.origin != ItemOrigin::Archive
                && ingest.inbox.may_grow(&item.file) =>
        {
            Prepared::Later { item }
        }
        Err(unreadable) => {
            let reason = unreadable.to_string();
            Prepared::Bad {
                item,
                dataset: Some(dataset),
                hash,
                reason,
            }
        }
    }
}

fn new_file(item: &Item, dataset: &str, hash: ContentHash, records: u32) -> NewFile {
    let mut name = item.file.name.to_string_lossy().into_owned();
    let end = (0..=NAME_BYTES_MAX.min(name.len()))
        .rev()
        .find(|&at| name.is_char_boundary(at));
    name.truncate(end.unwrap_or(0));
    NewFile {
        hash,
        dataset: dataset.to_owned(),
        name,
        bytes: item.file.bytes,
        records,
    }
}

/// Sets a file aside, with its reason in the ledger and beside it.
async fn quarantine(
    shared: &Arc<Shared>,
    item: Item,
    dataset: Option<Arc<Dataset>>,
    hash: Option<ContentHash>,
    reason: String,
) -> Result<(), GivenUp> {
    let dataset = dataset
        .map(|dataset| dataset.name.clone())
        .unwrap_or_default();
    tracing::warn!(file = ?item.file.path, reason, "quarantined");
    if let Some(hash) = hash {
        let file = new_file(&item, &dataset, hash, 0);
        let note = || shared.sink().quarantine(&file, &reason);
        until_ok("writing to the ledger", &shared.stop, |_| {}, note).await?;
    }
    Tally::add(&shared.tally().quarantined, 1);
    Tally::add(&shared.tally().bytes_done, item.file.bytes);
    telemetry::file_settled(&dataset, "quarantined");
    let reason: Arc<str> = reason.into();
    let to = move |inbox: &Inbox, item: &Item| inbox.to_quarantine(&item.file, &reason).map(drop);
    shared.moving(vec![item], to).await
}

/// Leaves a file for later: one of inbound goes back there.
async fn leave(shared: &Arc<Shared>, item: Item) -> Result<(), GivenUp> {
    Tally::add(&shared.tally().left, 1);
    Tally::add(&shared.tally().bytes_done, item.file.bytes);
    tracing::info!(file = ?item.file.path, "is not complete yet, or still being written: it waits");
    shared
        .moving(vec![item], |inbox, item| inbox.put_back(&item.file))
        .await
}

type Ready = (Item, Arc<Dataset>, Content, Plan);

async fn register(shared: &Arc<Shared>, ready: Vec<Ready>) -> Result<Vec<Job>, GivenUp> {
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    let files: Vec<_> = ready
        .iter()
        .map(|(item, dataset, content, plan)| {
            new_file(item, &dataset.name, content.hash, plan.records)
        })
        .collect();
    let register = || shared.sink().register(&files);
    let known = until_ok("registering files", &shared.stop, |_| {}, register).await?;
    let begun = known.iter().filter(|file| file.before == Before::Pending);
    let begun: Vec<u32> = begun.map(|file| file.file_no).collect();
    let covered = || shared.sink().coverage(&begun);
    let covered = until_ok("reading the ledger", &shared.stop, |_| {}, covered).await?;
    let mut covered = begun
        .into_iter()
        .zip(covered)
        .collect::<std::collections::HashMap<_, _>>();

    let mut jobs = Vec::new();
    let mut endings = Vec::new();
    for ((item, dataset, content, plan), Registered { file_no, before }) in
        ready.into_iter().zip(known)
    {
        if before == Before::Settled {
            let ending = match item.origin {
                ItemOrigin::Recovered => Ending::Settled,
                ItemOrigin::Mailbox | ItemOrigin::Archive => Ending::Duplicate,
            };
            Tally::add(&shared.tally().bytes_done, item.file.bytes);
            endings.push((item, dataset, ending));
            continue;
        }
        if let Some(flight) = shared.flights().get_mut(&file_no) {
            flight.items.push(item);
            continue;
        }
        let covered = covered.remove(&file_no).unwrap_or_default();
        jobs.extend(begin(shared, item, dataset, content, plan, file_no, covered).await?);
    }
    shared.finish(endings).await?;
    Ok(jobs)
}

/// Starts the flight of a file; returns what is to be parsed of it.
async fn begin(
    shared: &Arc<Shared>,
    item: Item,
    dataset: Arc<Dataset>,
    content: Content,
    plan: Plan,
    file_no: u32,
    covered: Vec<std::ops::Range<u64>>,
) -> Result<Option<Job>, GivenUp> {
    let room = tokio::select! {
        room = shared.room.clone().acquire_owned() => room.expect("it is never closed"),
        () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
    };
    let plan = Arc::new(plan);
    let missing = u64::from(plan.records) - coverage::len(&covered);
    let chunks = super::produce::missing_chunks(&plan, &covered);
    let flight = Flight {
        dataset: dataset.clone(),
        plan: plan.clone(),
        hash: content.hash,
        items: vec![item],
        unpublished: chunks.len(),
        missing,
        committed: 0,
        bytes_done: 0,
        covered: coverage::len(&covered),
        moved: Instant::now(),
        asked: None,
        _room: room,
    };
    shared.flights().insert(file_no, flight);
    if chunks.is_empty() {
        shared.look.notify_one();
        return Ok(None);
    }
    Ok(Some(Job {
        file_no,
        dataset,
        layout: plan.layout,
        content: Arc::new(content),
        chunks,
    }))
}
