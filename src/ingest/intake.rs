//! The first stage: takes files out of inbound, or from a list, and sends them on as items.
//!
//! Inbound is scanned after a notification, and every scan interval in any case, because
//! notifications may be lost. While a disk is nearly full, no file is taken.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::item::{Item, ItemOrigin};
use super::seen::Seen;
use super::shared::IngestOptions;
use super::tally::Tally;
use crate::dataset::Datasets;
use crate::fault::{Fault, Origin};
use crate::inbox::{self, Claimed, Inbox, Waiting, Waits};
use crate::retry::{GivenUp, until_ok};
use crate::shutdown::Shutdown;
use crate::sink::{Sink, TakenOver};
use crate::telemetry;

/// Files sent on at a time. A claim costs a few system calls (25 µs), so a larger number would
/// delay the first file, and claim files long before they are loaded.
const PART_FILES: usize = 256;

/// Files of a list that the ledger is asked about at a time. With fewer, a large archive costs more
/// round trips; with more, the first file that has to be read waits longer.
const LISTED_FILES: usize = 2_000;

/// Pause between two checks of the free space while there is too little.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);

/// The files of a list, in the order in which they are loaded. An error ends the load.
pub type Listed = Box<dyn Iterator<Item = io::Result<(Claimed, ItemOrigin)>> + Send>;

/// Takes files out of inbound, or from a list.
pub struct Intake {
    /// The directories.
    pub inbox: Arc<Inbox>,
    /// Sums over the run.
    pub tally: Arc<Tally>,
    /// The result of the last scan of inbound.
    pub view: Arc<InboundView>,
    /// Longest pause between two scans of inbound.
    pub scan_interval: Arc<Mutex<Duration>>,
    /// Least free bytes on the file system of each directory for a file to be taken.
    pub disk_floor_bytes: u64,
    /// The database, whose ledger recognises files.
    pub sink: Arc<dyn Sink>,
    /// The datasets.
    pub datasets: Datasets,
    /// The options of ingest.
    pub options: IngestOptions,
}

/// The result of the last scan of inbound, for metrics and status.
#[derive(Debug, Default)]
pub struct InboundView {
    /// The files that wait.
    pub waiting: Mutex<WaitingFiles>,
    /// Files in inbound.
    pub files: AtomicU64,
    /// Why no file is taken now: the disk that lacks room. `None` if there is room.
    pub no_room: Mutex<Option<String>>,
    /// Why the last scan failed, and since when scans fail. `None` if it succeeded.
    pub fault: Mutex<Option<(Fault, Instant)>>,
}

/// Files of inbound that wait.
#[derive(Debug, Clone, Default)]
pub struct WaitingFiles {
    /// How many files wait.
    pub files: u64,
    /// How many files wait for each reason, by its code.
    pub by_code: BTreeMap<&'static str, u64>,
    /// The first waiting files, and since when each waits for the same reason.
    pub named: Vec<(Waiting, Instant)>,
}

impl InboundView {
    /// Records which files wait. A file that waited for the same reason in `before`, or at the last
    /// call, keeps the time from there.
    fn note_waiting(&self, waits: &Waits, before: &WaitingFiles) {
        let now = Instant::now();
        let mut known = self.waiting.lock();
        let since = |file: &Waiting| {
            let mut earlier = before.named.iter().chain(&known.named);
            let since = earlier.find_map(|(then, since)| (then == file).then_some(*since));
            (file.clone(), since.unwrap_or(now))
        };
        *known = WaitingFiles {
            files: waits.files,
            by_code: waits.by_code.clone(),
            named: waits.named.iter().map(since).collect(),
        };
    }
}

/// Why inbound is scanned.
#[derive(Debug, PartialEq)]
enum ScanCause {
    /// A load takes all files of inbound.
    Load,
    /// A file may have arrived.
    Notice,
    /// The scan interval has passed without a notification.
    Interval {
        /// When the previous scan began: it could not find files that arrived later.
        previous: SystemTime,
    },
}

/// The next files of a list, and the rest of it. None at its end.
///
/// # Errors
/// A fatal fault of the file system.
async fn list(mut files: Listed) -> Result<(Vec<(Claimed, ItemOrigin)>, Listed), Fault> {
    const DOING: &str = "listing files";
    let listed: io::Result<Vec<_>>;
    (listed, files) = inbox::blocking(DOING, move || {
        let listed = files.by_ref().take(LISTED_FILES).collect();
        Ok((listed, files))
    })
    .await?;
    let listed = listed.map_err(|error| Fault::fatal(Origin::Files, DOING, error))?;
    Ok((listed, files))
}

impl Intake {
    /// Takes files from a list, in its order, without those that the ledger recognises as stored.
    /// Ends early if the shutdown begins.
    ///
    /// # Errors
    /// A fault of the file system.
    pub async fn take_listed(
        &self,
        files: Listed,
        items: mpsc::Sender<Vec<Item>>,
        shutdown: &Shutdown,
    ) -> Result<(), Fault> {
        let (mut listed, mut files) = list(files).await?;
        while !listed.is_empty() {
            // The next files are listed while the ledger is asked for these.
            let (next, unknown) = tokio::join!(list(files), self.without_stored(listed, shutdown));
            for part in unknown?.chunks(PART_FILES) {
                self.wait_for_room(shutdown).await?;
                if !send(&items, part.to_vec(), shutdown).await {
                    self.tally.cut_short.store(true, Relaxed);
                    return Ok(());
                }
            }
            (listed, files) = next?;
        }
        Ok(())
    }

    /// The files that have to be read. Counts the others, which the ledger recognises.
    async fn without_stored(
        &self,
        listed: Vec<(Claimed, ItemOrigin)>,
        shutdown: &Shutdown,
    ) -> Result<Vec<(Claimed, ItemOrigin)>, Fault> {
        if self.options.rehash {
            return Ok(listed);
        }
        let seen = Seen::new(&self.datasets, self.options.dataset.as_ref());
        let in_archive = listed
            .iter()
            .filter(|(_, origin)| *origin == ItemOrigin::Archive);
        let in_archive: Vec<&Claimed> = in_archive.map(|(file, _)| file).collect();
        let ask = || seen.stored(self.sink.as_ref(), &in_archive);
        let stored = match until_ok("reading the ledger", &shutdown.drain, |_| {}, ask).await {
            Ok(stored) => stored,
            // Nothing is sent on after a stop.
            Err(GivenUp::Stopped) => return Ok(listed),
            Err(GivenUp::Fatal(fault)) => return Err(fault),
        };
        let mut stored = stored.into_iter();
        let is_unknown = |(file, origin): &(Claimed, ItemOrigin)| {
            let is_stored = *origin == ItemOrigin::Archive && stored.next() == Some(true);
            if is_stored {
                self.count_stored(file);
            }
            !is_stored
        };
        Ok(listed.into_iter().filter(is_unknown).collect())
    }

    /// Counts a file that was recognised.
    fn count_stored(&self, file: &Claimed) {
        for count in [&self.tally.files, &self.tally.duplicates] {
            Tally::add(count, 1);
        }
        Tally::add(&self.tally.bytes_done, file.bytes);
        if self.options.names_stored {
            tracing::info!(file = ?file.path, "already stored, by its state on the disk");
        }
    }

    /// Takes the files of work and inbound until no file is left that can be taken.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn take_inbound(
        &self,
        items: mpsc::Sender<Vec<Item>>,
        shutdown: &Shutdown,
    ) -> Result<(), Fault> {
        let mut all = false;
        self.inbox.set_takes_over(true);
        if send(&items, self.recovered()?, shutdown).await {
            let once = || Box::pin(self.scan_and_take(&items, &ScanCause::Load, shutdown));
            loop {
                match until_ok("claiming files", &shutdown.drain, |_| {}, once).await {
                    Ok(0) => {
                        all = true;
                        break;
                    }
                    Ok(_) => {}
                    Err(GivenUp::Stopped) => break,
                    Err(GivenUp::Fatal(fault)) => return Err(fault),
                }
            }
        }
        // A process that has just died may have left files in work.
        while all {
            let has_died = tokio::select! {
                has_died = self.inbox.others_known() => has_died,
                () = shutdown.drain.cancelled() => {
                    all = false;
                    break;
                }
            };
            if !has_died {
                break;
            }
            all = send(&items, self.take_orphans().await?, shutdown).await;
        }
        self.inbox.set_takes_over(false);
        // Files of dead nodes that cannot be taken now: the next run tries again.
        if !all || self.inbox.has_taken() {
            self.tally.cut_short.store(true, Relaxed);
        }
        count_left(&self.view.waiting.lock(), &self.tally);
        Ok(())
    }

    /// Takes the files of work, then those of inbound as they arrive, until the shutdown begins.
    ///
    /// # Errors
    /// A fatal fault.
    pub async fn watch_inbound(
        &self,
        items: mpsc::Sender<Vec<Item>>,
        shutdown: &Shutdown,
    ) -> Result<(), Fault> {
        let wake = Arc::new(Notify::new());
        self.inbox.set_takes_over(true);
        if !send(&items, self.recovered()?, shutdown).await {
            return Ok(());
        }
        let mut watch = None;
        let mut warned = false;
        let mut cause = ScanCause::Notice;
        while !shutdown.drain.is_cancelled() {
            if !watch
                .as_ref()
                .is_some_and(|watch| self.inbox.is_watched_by(watch))
            {
                watch = match self.inbox.watch(wake.clone()) {
                    Ok(watch) => Some(watch),
                    Err(error) => {
                        if !warned {
                            let every = *self.scan_interval.lock();
                            tracing::warn!(%error, ?every, "inbound cannot be watched (see \
                                fs.inotify.max_user_instances); it is scanned instead");
                            warned = true;
                        }
                        None
                    }
                };
            }
            let previous = SystemTime::now();
            let orphans = self.take_orphans().await?;
            if !send(&items, orphans, shutdown).await {
                break;
            }
            let taken = self.scan_and_take(&items, &cause, shutdown).await;
            let fault = match taken {
                Ok(_) => None,
                // Inbound may be a mount that returns.
                Err(fault) if fault.is_transient() => Some(fault),
                Err(fault) => return Err(fault),
            };
            if let Some(fault) = &fault {
                tracing::warn!(%fault, "will try again");
            }
            *self.view.fault.lock() = fault.map(|fault| (fault, Instant::now()));
            let interval = *self.scan_interval.lock();
            tokio::select! {
                () = wake.notified() => cause = ScanCause::Notice,
                () = self.inbox.orphaned() => cause = ScanCause::Notice,
                () = tokio::time::sleep(interval) => {
                    cause = ScanCause::Interval { previous };
                }
                () = shutdown.drain.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Scans inbound once, and claims and sends on the files that can be taken. Returns how many.
    async fn scan_and_take(
        &self,
        items: &mpsc::Sender<Vec<Item>>,
        cause: &ScanCause,
        shutdown: &Shutdown,
    ) -> Result<usize, Fault> {
        self.wait_for_room(shutdown).await?;
        let inbox = self.inbox.clone();
        let now = SystemTime::now();
        let scan = inbox::blocking("reading inbound", move || inbox.scan()).await?;
        if let ScanCause::Interval { previous } = cause {
            telemetry::rescan_missed(inbox::missed(&scan.ready, *previous, now));
        }
        // Recorded before the files are sent on, which takes as long as the next stages.
        let before = self.view.waiting.lock().clone();
        self.view.note_waiting(&scan.waiting, &before);
        self.view.files.store(scan.files, Relaxed);
        // `pause` applies to the service only: an operator who starts a load wants the files.
        let is_paused = || *cause != ScanCause::Load && self.inbox.is_paused();
        let mut waits = scan.waiting;
        let mut taken = 0;
        for part in scan.ready.chunks(PART_FILES) {
            self.wait_for_room(shutdown).await?;
            if is_paused() {
                break;
            }
            let (inbox, part) = (self.inbox.clone(), part.to_vec());
            let (claimed, failed);
            (claimed, failed, waits) = inbox::blocking("claiming files", move || {
                let (claimed, failed) = inbox.claim_all(&part, &mut waits);
                Ok((claimed, failed, waits))
            })
            .await?;
            self.view.note_waiting(&waits, &before);
            taken += claimed.len();
            self.view.files.fetch_sub(claimed.len() as u64, Relaxed);
            telemetry::files_discovered("scan", claimed.len() as u64);
            if failed.is_none() {
                // Recorded before the files are sent on, as above.
                *self.view.fault.lock() = None;
            }
            if !send(items, with_origin(claimed, ItemOrigin::Mailbox), shutdown).await {
                break;
            }
            if let Some(error) = failed {
                if error.kind() == io::ErrorKind::NotFound && self.inbox.is_taken_over() {
                    return Err(TakenOver::fault(self.inbox.node_name()));
                }
                return Err(Fault::transient(Origin::Files, "claiming files", error));
            }
        }
        Ok(taken)
    }

    /// Waits while a file system is below the floor. A full disk would stop the database and Redis
    /// as well, and is easier to clear while some room is left.
    async fn wait_for_room(&self, shutdown: &Shutdown) -> Result<(), Fault> {
        loop {
            let inbox = self.inbox.clone();
            let free = inbox::blocking("asking for the room on disk", move || inbox.free_room());
            let full = free.await?.into_iter().find_map(|(directory, room)| {
                let shortage = room.shortage(self.disk_floor_bytes)?;
                Some(format!("{directory} has {shortage}"))
            });
            let before = std::mem::replace(&mut *self.view.no_room.lock(), full.clone());
            match (&full, before) {
                (Some(why), None) => tracing::warn!(why, "no file is taken until there is room"),
                (None, Some(_)) => tracing::info!("there is room again"),
                _ => {}
            }
            if full.is_none() || shutdown.drain.is_cancelled() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(ROOM_INTERVAL) => {}
                () = shutdown.drain.cancelled() => {}
            }
        }
    }

    /// The files of dead nodes.
    async fn take_orphans(&self) -> Result<Vec<(Claimed, ItemOrigin)>, Fault> {
        let inbox = self.inbox.clone();
        let take = move || Ok(inbox.take_orphans());
        let files = inbox::blocking("taking over the files of a dead node", take).await?;
        telemetry::files_discovered("recovered", files.len() as u64);
        Ok(with_origin(files, ItemOrigin::Recovered))
    }

    /// The files of work, which an earlier run claimed.
    fn recovered(&self) -> Result<Vec<(Claimed, ItemOrigin)>, Fault> {
        let files = self.inbox.recovered().map_err(|error| {
            Fault::fatal(Origin::Files, "cannot read the work directory", error)
        })?;
        if !files.is_empty() {
            tracing::info!(files = files.len(), "goes on with files of an earlier run");
        }
        telemetry::files_discovered("recovered", files.len() as u64);
        Ok(with_origin(files, ItemOrigin::Recovered))
    }
}

/// Sends files on as items. Returns whether the run goes on.
async fn send(
    items: &mpsc::Sender<Vec<Item>>,
    files: Vec<(Claimed, ItemOrigin)>,
    shutdown: &Shutdown,
) -> bool {
    let item = |(file, origin): (Claimed, _)| {
        let found_at = found_at(&file, origin);
        Item::new(file, origin, found_at)
    };
    let files: Vec<_> = files.into_iter().map(item).collect();
    if files.is_empty() {
        return !shutdown.drain.is_cancelled();
    }
    // Claimed files that are not sent on stay in work, where the next run finds them.
    tokio::select! {
        sent = items.send(files) => sent.is_ok() && !shutdown.drain.is_cancelled(),
        () = shutdown.drain.cancelled() => false,
    }
}

/// Counts and logs the files that a load leaves in inbound because they wait.
fn count_left(waiting: &WaitingFiles, tally: &Tally) {
    for (file, _) in &waiting.named {
        let (code, reason) = (file.reason.code(), &file.reason);
        tracing::warn!(name = ?file.name, code, %reason, "is left in inbound");
    }
    let more = waiting.files - waiting.named.len() as u64;
    if more > 0 {
        tracing::warn!(files = more, "more files are left in inbound");
    }
    Tally::add(&tally.left, waiting.files);
    Tally::add(&tally.files, waiting.files);
}

/// When a file could first be taken. It may have been in inbound for a long time before the claim.
fn found_at(file: &Claimed, origin: ItemOrigin) -> Instant {
    let now = Instant::now();
    let waited = match origin {
        ItemOrigin::Archive => None,
        ItemOrigin::Mailbox | ItemOrigin::Recovered => file.arrived.elapsed().ok(),
    };
    waited
        .and_then(|waited| now.checked_sub(waited))
        .unwrap_or(now)
}

fn with_origin(files: Vec<Claimed>, origin: ItemOrigin) -> Vec<(Claimed, ItemOrigin)> {
    files.into_iter().map(|file| (file, origin)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::WaitReason;

    #[test]
    fn a_load_counts_all_that_it_leaves() {
        let tally = Tally::default();
        let waiting = WaitingFiles {
            files: 7,
            ..WaitingFiles::default()
        };
        count_left(&waiting, &tally);
        let counted = [&tally.left, &tally.files].map(|count| count.load(Relaxed));
        assert_eq!(counted, [7, 7]);
    }

    fn waits(files: &[(&str, WaitReason)]) -> Waits {
        let mut waits = Waits::default();
        for (name, reason) in files {
            waits.add((*name).into(), reason.clone());
        }
        waits
    }

    /// A scan records which files wait, and each claim may add files.
    #[tokio::test(start_paused = true)]
    async fn a_wait_counts_from_the_first_scan_with_the_same_reason() {
        let view = InboundView::default();
        let second = Duration::from_secs(1);
        for _ in 0..3 {
            let before = view.waiting.lock().clone();
            view.note_waiting(&waits(&[("young", WaitReason::Incomplete)]), &before);
            let all = [
                ("young", WaitReason::Incomplete),
                ("open", WaitReason::BeingWritten),
            ];
            view.note_waiting(&waits(&all), &before);
            tokio::time::advance(second).await;
        }
        let after = |at: usize| view.waiting.lock().named[at].1.elapsed();
        assert_eq!([after(0), after(1)], [second * 3; 2]);
        let before = view.waiting.lock().clone();
        view.note_waiting(&waits(&[("open", WaitReason::Incomplete)]), &before);
        assert_eq!(after(0), Duration::ZERO, "it waits for another reason");
        assert_eq!(view.waiting.lock().files, 1);
    }
}
