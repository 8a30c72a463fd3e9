//! Reads, identifies and cuts files, and enters them into the ledger, many at once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rayon::iter::Either;
use rayon::prelude::*;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::faulty::{read_by_now, read_in_turn};
use super::flight::Flight;
use super::produce::{Job, missing_chunks};
use super::{Ended, Ending, Ingest, Item, ItemOrigin, Shared, Tally};
use crate::batch::ContentHash;
use crate::content::{self, Content, ContentError};
use crate::cut::{self, Plan, Unreadable};
use crate::dataset::Dataset;
use crate::fault::{Fault, Origin};
use crate::retry::{GivenUp, until_ok};
use crate::sink::{Before, NewFile, Registered};
use crate::telemetry::{self, Stage};

/// Files entered in one round trip. More gain little, and would delay the first frame.
const GROUP_FILES: usize = 256;

/// Bytes of the files of a group. Three groups are in memory at a time (one is being read, one
/// waits, one is being parsed), as far as their files are small enough to be read; larger ones are
/// mapped.
const GROUP_BYTES: u64 = 8 * 1024 * 1024;

/// How many times a file is tried that the device fails to read, before it is set aside. A loose
/// cable, or a path that moves to another controller, is over in a moment, and a healthy file must
/// not be set aside for it. A bad sector stays: with the pauses of a retry, all attempts take a
/// second or two.
pub(super) const DEVICE_ATTEMPTS: u32 = 8;

/// Longest name in the ledger, in bytes.
const NAME_BYTES_MAX: usize = 255;

// Why a file is left for later.
const CHANGING: &str = "it is still being written";
const INCOMPLETE: &str = "the document is not complete yet";
const GONE: &str = "it was removed before it was read";

/// A file that was read and cut.
pub(super) struct Ready {
    pub(super) item: Item,
    pub(super) dataset: Arc<Dataset>,
    pub(super) content: Arc<Content>,
    pub(super) plan: Arc<Plan>,
}

/// A file to be quarantined, and why.
pub(super) struct Bad {
    pub(super) item: Item,
    /// Its dataset, if one takes it.
    pub(super) dataset: Option<Arc<Dataset>>,
    /// Its identity, if the ledger is to have it as quarantined.
    pub(super) hash: Option<ContentHash>,
    pub(super) reason: String,
}

/// A file after reading.
pub(super) enum Prepared {
    Ready(Ready),
    Bad(Bad),
    /// To be left where it came from, and why.
    Later {
        item: Item,
        why: &'static str,
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
    // What cannot be read now is tried again beside all else: the others do not wait for it.
    let turn = Mutex::new(());
    let mut faulty = FuturesUnordered::new();
    loop {
        let arrived = tokio::select! {
            arrived = items.recv() => arrived,
            Some(again) = faulty.next() => {
                Box::pin(start(&shared, vec![again?], &jobs)).await?;
                continue;
            }
            () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
        };
        let Some(arrived) = arrived else {
            break;
        };
        for group in groups(arrived) {
            Tally::add(&shared.tally().files, group.len() as u64);
            let busy = telemetry::busy(Stage::Read);
            let (prepared, not_read) = read_all(&shared, group).await;
            drop(busy);
            // Boxed, since the future is large and is awaited in several places.
            Box::pin(start(&shared, prepared, &jobs)).await?;
            // After the others have gone on, since what is lacking may be what they held: room on
            // the disk, or descriptors.
            faulty.extend(
                not_read
                    .into_iter()
                    .map(|item| read_in_turn(&shared, item, &turn)),
            );
            while let Some(again) = read_by_now(&mut faulty).await {
                Box::pin(start(&shared, vec![again?], &jobs)).await?;
            }
        }
    }
    while let Some(again) = faulty.next().await {
        Box::pin(start(&shared, vec![again?], &jobs)).await?;
    }
    Ok(())
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

/// Reads a group of files. Those that cannot be read just now, since the system lacks something for
/// it, are returned as they are.
async fn read_all(shared: &Arc<Shared>, group: Vec<Item>) -> (Vec<Prepared>, Vec<Item>) {
    let shared = shared.clone();
    let reading = tokio::task::spawn_blocking(move || {
        group
            .into_par_iter()
            .partition_map(|item| match prepare(&shared, item.clone(), 1) {
                Ok(prepared) => Either::Left(prepared),
                Err(_) => Either::Right(item),
            })
    });
    reading.await.expect("reading does not panic")
}

/// Reads a file another time; `attempt` as in [`prepare`].
pub(super) async fn read_again(
    shared: &Arc<Shared>,
    item: &Item,
    attempt: u32,
) -> Result<Prepared, Fault> {
    let (shared, item) = (shared.clone(), item.clone());
    let reading = tokio::task::spawn_blocking(move || prepare(&shared, item, attempt));
    reading.await.expect("reading does not panic")
}

/// Registers files, and hands on what has to be parsed of them.
async fn start(
    shared: &Arc<Shared>,
    prepared: Vec<Prepared>,
    jobs: &mpsc::Sender<Vec<Job>>,
) -> Result<(), GivenUp> {
    let mut ready = Vec::new();
    for file in prepared {
        match file {
            Prepared::Ready(file) => ready.push(file),
            Prepared::Bad(file) => quarantine(shared, file).await?,
            Prepared::Later { item, why } => leave(shared, item, why).await?,
        }
    }
    let started = register(shared, ready).await?;
    if !started.is_empty() && jobs.send(started).await.is_err() {
        return Err(GivenUp::Stopped);
    }
    Ok(())
}

/// Whether an error passes and says nothing about the file: no room, no memory, no descriptors, a
/// file server that does not answer.
fn passes(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    const NO_DESCRIPTORS: [i32; 2] = [libc::EMFILE, libc::ENFILE];
    matches!(
        error.kind(),
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::OutOfMemory
            | ErrorKind::Interrupted
            | ErrorKind::WouldBlock
            | ErrorKind::ResourceBusy
            | ErrorKind::TimedOut
            | ErrorKind::StaleNetworkFileHandle
    ) || error
        .raw_os_error()
        .is_some_and(|code| NO_DESCRIPTORS.contains(&code))
}

/// Whether the device failed, which may pass or not.
pub(super) fn is_of_device(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EIO)
}

/// Reads, identifies and cuts a file; `attempt` counts how often, from 1.
///
/// # Errors
/// A transient fault: nothing is known about the file yet.
fn prepare(shared: &Shared, item: Item, attempt: u32) -> Result<Prepared, Fault> {
    let _file = tracing::debug_span!("file", name = ?item.file.name).entered();
    let ingest = &shared.ingest;
    let dataset = ingest.dataset_of(&item);
    let cut = |bytes: &[u8]| {
        let dataset = dataset.as_ref()?;
        let (records, fields) = (&dataset.records, dataset.fields());
        Some(cut::cut(bytes, records, &fields, ingest.options.chunk))
    };
    let opened = content::open_and(&item.file.path, &ingest.options.content, cut);
    let (content, plan) = match opened {
        Ok(opened) => opened,
        Err(error) => return unopened(item, dataset, error, attempt),
    };
    telemetry::read_bytes(content.stored_bytes);
    let hash = Some(content.hash);
    let (Some(dataset), Some(plan)) = (dataset, plan) else {
        let reason = ingest.why_no_dataset();
        return Ok(Prepared::Bad(Bad {
            item,
            dataset: None,
            hash,
            reason,
        }));
    };
    if !content.is_intact() {
        let why = CHANGING;
        return Ok(Prepared::Later { item, why });
    }
    Ok(match plan {
        Ok(plan) => Prepared::Ready(Ready {
            item,
            dataset,
            content: Arc::new(content),
            plan: Arc::new(plan),
        }),
        Err(Unreadable::Incomplete { .. }) if ingest.may_wait(&item) => {
            let why = INCOMPLETE;
            Prepared::Later { item, why }
        }
        Err(unreadable) => Prepared::Bad(Bad {
            item,
            dataset: Some(dataset),
            hash,
            reason: unreadable.to_string(),
        }),
    })
}

/// What becomes of a file that could not be opened as a whole.
fn unopened(
    item: Item,
    dataset: Option<Arc<Dataset>>,
    error: ContentError,
    attempt: u32,
) -> Result<Prepared, Fault> {
    let (hash, reason) = match error {
        ContentError::Busy => {
            let why = CHANGING;
            return Ok(Prepared::Later { item, why });
        }
        ContentError::Io(error)
            if passes(&error) || (is_of_device(&error) && attempt < DEVICE_ATTEMPTS) =>
        {
            let doing = format!("reading {}", item.file.path.display());
            return Err(Fault::transient(Origin::Files, doing, error));
        }
        ContentError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Prepared::Later { item, why: GONE });
        }
        ContentError::Corrupt { hash, detail } => (Some(hash), detail),
        error => (None, format!("it cannot be read: {error}")),
    };
    Ok(Prepared::Bad(Bad {
        item,
        dataset,
        hash,
        reason,
    }))
}

impl Ingest {
    fn dataset_of(&self, item: &Item) -> Option<Arc<Dataset>> {
        let name = item.file.name.as_encoded_bytes();
        let by_name = || self.datasets.for_file_name(name).cloned();
        self.options.dataset.clone().or_else(by_name)
    }

    fn why_no_dataset(&self) -> String {
        let names: Vec<_> = self.datasets.iter().map(|d| d.files.as_str()).collect();
        format!(
            "no dataset takes it: its name contains none of {}",
            names.join(", ")
        )
    }

    /// Whether an incomplete file may wait for the rest of it.
    fn may_wait(&self, item: &Item) -> bool {
        self.options.incomplete_may_wait
            && item.origin != ItemOrigin::Archive
            && self.inbox.may_grow(&item.file)
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
pub(super) async fn quarantine(shared: &Arc<Shared>, file: Bad) -> Result<(), GivenUp> {
    let Bad {
        item,
        dataset,
        hash,
        reason,
    } = file;
    tracing::warn!(file = ?item.file.path, reason, "quarantined");
    if let Some(hash) = hash {
        let dataset = dataset.as_ref().map_or("", |dataset| &dataset.name);
        let file = new_file(&item, dataset, hash, 0);
        let note = || shared.sink().quarantine(&file, &reason);
        until_ok("writing to the ledger", &shared.stop, |_| {}, note).await?;
    }
    Tally::add(&shared.tally().bytes_done, item.file.bytes);
    let quarantined = Ended {
        item,
        file_no: None,
        dataset,
        ending: Ending::Quarantined(reason.into()),
    };
    shared.finish(vec![quarantined]).await
}

/// Leaves a file for later: one of inbound goes back there.
async fn leave(shared: &Arc<Shared>, item: Item, why: &'static str) -> Result<(), GivenUp> {
    Tally::add(&shared.tally().bytes_done, item.file.bytes);
    tracing::info!(file = ?item.file.path, why, "is left for later");
    let left = Ended {
        item,
        file_no: None,
        dataset: None,
        ending: Ending::Left,
    };
    shared.finish(vec![left]).await
}

/// Enters files into the ledger; returns what is to be parsed of them. Those that the ledger has as
/// a whole are finished, and copies join the flight of their content.
async fn register(shared: &Arc<Shared>, ready: Vec<Ready>) -> Result<Vec<Job>, GivenUp> {
    if ready.is_empty() {
        return Ok(Vec::new());
    }
    let files: Vec<_> = ready
        .iter()
        .map(|file| {
            let (hash, records) = (file.content.hash, file.plan.records);
            new_file(&file.item, &file.dataset.name, hash, records)
        })
        .collect();
    let register = || shared.sink().register(&files);
    let known = until_ok("registering files", &shared.stop, |_| {}, register).await?;
    let begun = known.iter().filter(|file| file.before == Before::Pending);
    let begun: Vec<u32> = begun.map(|file| file.file_no).collect();
    let covered = || shared.sink().coverage(&begun);
    let covered = until_ok("reading the ledger", &shared.stop, |_| {}, covered).await?;
    let mut covered: HashMap<u32, _> = begun.into_iter().zip(covered).collect();

    clear_up(shared, &known).await?;
    let mut jobs = Vec::new();
    let mut endings = Vec::new();
    for (ready, Registered { file_no, before }) in ready.into_iter().zip(known) {
        if before == Before::Settled {
            let ending = match ready.item.origin {
                ItemOrigin::Recovered => Ending::Settled,
                ItemOrigin::Mailbox | ItemOrigin::Archive => Ending::Duplicate,
            };
            Tally::add(&shared.tally().bytes_done, ready.item.file.bytes);
            endings.push(Ended {
                item: ready.item,
                file_no: Some(file_no),
                dataset: Some(ready.dataset),
                ending,
            });
            continue;
        }
        if let Some(flight) = shared.flights().get_mut(&file_no) {
            if flight.hash != ready.content.hash {
                return Err(GivenUp::Fatal(other_ledger(file_no)));
            }
            flight.add_copy(ready.item);
            continue;
        }
        if before == Before::Otherwise {
            quarantine(shared, otherwise(ready, file_no)).await?;
            continue;
        }
        let covered = covered.remove(&file_no).unwrap_or_default();
        jobs.extend(begin(shared, ready, file_no, &covered).await?);
    }
    shared.finish(endings).await?;
    Ok(jobs)
}

/// The ledger was restored, or failed over to a server that had not all of it, under a run: it gives
/// numbers again that it gave before. What was published under them is told apart by its content;
/// a new start registers all files anew.
pub(super) fn other_ledger(file_no: u32) -> Fault {
    Fault::fatal(
        Origin::Files,
        "the ledger was changed under this run; start again, it goes on with what is in work",
        format!("it has given the number {file_no} to another content"),
    )
}

/// A file that was begun by another definition, by which some of it may be stored.
fn otherwise(ready: Ready, file_no: u32) -> Bad {
    let reason = format!(
        "it was begun as file {file_no} for another dataset or with another number of records \
         (`task_runner files show {file_no}`), and some of that may be stored: load it by the \
         definition of that time; if nothing of it was stored, `task_runner files retry` begins it anew"
    );
    Bad {
        item: ready.item,
        dataset: Some(ready.dataset),
        hash: Some(ready.content.hash),
        reason,
    }
}

/// Folds the ledger entries that a file may still have though it is settled: a kill came between
/// its last commit and its settling.
async fn clear_up(shared: &Arc<Shared>, known: &[Registered]) -> Result<(), GivenUp> {
    let settled = known.iter().filter(|known| known.before == Before::Settled);
    let left: Vec<u32> = settled.map(|known| known.file_no).collect();
    if left.is_empty() {
        return Ok(());
    }
    let settle = || shared.sink().settle(&left);
    until_ok("settling files", &shared.stop, |_| {}, settle)
        .await
        .map(drop)
}

/// Begins the flight of a file; returns what is to be parsed of it.
async fn begin(
    shared: &Arc<Shared>,
    ready: Ready,
    file_no: u32,
    covered: &[Range<u64>],
) -> Result<Option<Job>, GivenUp> {
    let room = tokio::select! {
        room = shared.room.clone().acquire_owned() => room.expect("it is never closed"),
        () = shared.stop.cancelled() => return Err(GivenUp::Stopped),
    };
    let (file, records) = (&ready.item.file.name, ready.plan.records);
    tracing::debug!(?file, file_no, records, "registered");
    let job = Job {
        file_no,
        dataset: ready.dataset.clone(),
        layout: ready.plan.layout,
        content: ready.content.clone(),
        chunks: missing_chunks(&ready.plan, covered),
    };
    let flight = Flight::begin(ready, covered, job.chunks.len(), room);
    shared.flights().insert(file_no, flight);
    if job.chunks.is_empty() {
        shared.look.notify_one();
        return Ok(None);
    }
    Ok(Some(job))
}
