//! `load`: loads files, then exits. Shows progress while it runs and prints totals at the end.

use std::fmt::Write as _;
use std::io::{ErrorKind, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::{INFALLIBLE, KeyValueText, Outcome, print};
use crate::config::Settings;
use crate::config::cli::{FileOrder, LoadArgs};
use crate::dataset::Dataset;
use crate::inbox::{self, Candidate, Claimed};
use crate::ingest::{ItemOrigin, Tally};
use crate::runner::{self, Engine};
use crate::shutdown::Shutdown;

/// Interval of progress lines if stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Interval of redrawing the bar and of checking `--max-rejects`. A shorter one costs processor
/// time and shows no more.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// A fatal fault, or a path that cannot be read.
pub(super) async fn execute(settings: Settings, args: LoadArgs) -> anyhow::Result<Outcome> {
    let dataset = args.dataset.as_deref();
    let dataset = dataset.map(|name| settings.dataset(name)).transpose()?;
    if args.dry_run {
        return dry_run(&settings, &args, dataset);
    }
    let shutdown = Shutdown::on_signals(settings.drain_timeout)?;
    let Some(engine) = runner::open_to_load(&settings, dataset, &shutdown).await? else {
        return Ok(Outcome::Stopped);
    };
    let plan = LoadPlan::find(&settings, &engine, &args)?;
    if plan.is_empty() {
        let inbound = engine.inbox.directories().inbound.display();
        eprintln!("nothing to load; put files into {inbound}, or name files and directories");
    }
    let began = Instant::now();
    let outcome = run(&engine, plan, args.max_rejects, args.no_progress, &shutdown).await?;
    print_totals(&engine.tally, began.elapsed())?;
    Ok(outcome)
}

/// Loads the files of the plan and shows progress.
pub(super) async fn run(
    engine: &Engine,
    plan: LoadPlan,
    max_rejects: Option<u64>,
    no_progress: bool,
    shutdown: &Shutdown,
) -> anyhow::Result<Outcome> {
    let watched = stop_at_max_rejects(&engine.tally, max_rejects, shutdown);
    let shown = show_progress(engine, plan.bytes, no_progress);
    let result = plan.load(engine, shutdown).await;
    watched.cancel();
    shown.end();
    result?;
    Ok(outcome_of(&engine.tally, max_rejects))
}

/// The files to load.
pub(super) struct LoadPlan {
    files: Vec<(Claimed, ItemOrigin)>,
    inbound: bool,
    bytes: u64,
}

impl LoadPlan {
    fn find(settings: &Settings, engine: &Engine, args: &LoadArgs) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        let mut mailbox = false;
        for source in find_sources(settings, &args.paths)? {
            match source {
                Source::Inbound => mailbox = true,
                Source::FileInInbound(path) => {
                    files.extend(claim(engine, &path)?.map(|file| (file, ItemOrigin::Mailbox)));
                }
                Source::Archive(found) => {
                    let origin = if args.move_files {
                        ItemOrigin::Mailbox
                    } else {
                        ItemOrigin::Archive
                    };
                    files.extend(found.into_iter().map(|file| (file, origin)));
                }
            }
        }
        sort(&mut files, args.order);
        Self::new(engine, files, mailbox)
    }

    /// All files in work and inbound.
    pub(super) fn inbound(engine: &Engine) -> anyhow::Result<Self> {
        Self::new(engine, Vec::new(), true)
    }

    fn new(
        engine: &Engine,
        files: Vec<(Claimed, ItemOrigin)>,
        mailbox: bool,
    ) -> anyhow::Result<Self> {
        let mut bytes: u64 = files.iter().map(|(file, _)| file.bytes).sum();
        if mailbox {
            bytes += engine.inbox.scan()?.bytes;
            bytes += engine
                .inbox
                .recovered()?
                .iter()
                .map(|file| file.bytes)
                .sum::<u64>();
        }
        Ok(Self {
            files,
            inbound: mailbox,
            bytes,
        })
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.bytes == 0
    }

    async fn load(self, engine: &Engine, shutdown: &Shutdown) -> anyhow::Result<()> {
        if !self.files.is_empty() {
            engine.load_files(self.files, shutdown).await?;
        }
        if self.inbound && !shutdown.drain.is_cancelled() {
            engine.load_inbound(shutdown).await?;
        }
        Ok(())
    }
}

/// What a path on the command line means.
enum Source {
    /// All files in inbound and work.
    Inbound,
    /// One file in inbound.
    FileInInbound(PathBuf),
    /// Files outside of inbound.
    Archive(Vec<Claimed>),
}

/// What the paths mean. No path means inbound.
fn find_sources(settings: &Settings, paths: &[PathBuf]) -> anyhow::Result<Vec<Source>> {
    if paths.is_empty() {
        return Ok(vec![Source::Inbound]);
    }
    let inbound = settings.dirs.inbound.canonicalize().ok();
    // An archive may contain the engine's own directories and database. Their files are left out.
    let directories = settings.dirs.named().map(|(_, path)| path.to_owned());
    let database = settings.sqlite_path().map(|database| {
        ["", "-wal", "-shm", "-journal"].map(|ending| {
            let mut path = database.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        })
    });
    let own = directories
        .into_iter()
        .chain(database.into_iter().flatten());
    let own: Vec<_> = own.filter_map(|path| path.canonicalize().ok()).collect();
    let source_of = |path: &PathBuf| {
        let full = canonical(path)?;
        if Some(&full) == inbound.as_ref() {
            return Ok(Source::Inbound);
        }
        if inbound.is_some() && full.parent() == inbound.as_deref() {
            return Ok(Source::FileInInbound(full));
        }
        let mut files = inbox::archive(&full)?;
        files.retain(|file| {
            let is_in = |own: &PathBuf| {
                *own != full && own.starts_with(&full) && file.path.starts_with(own)
            };
            !own.iter().any(is_in)
        });
        Ok(Source::Archive(files))
    };
    paths.iter().map(source_of).collect()
}

fn canonical(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().map_err(|error| {
        anyhow::Error::new(error).context(format!("cannot load {}", path.display()))
    })
}

/// Claims one named file of inbound. `None` if the file has to wait.
fn claim(engine: &Engine, path: &Path) -> anyhow::Result<Option<Claimed>> {
    let metadata = path.metadata()?;
    let modified = metadata.modified()?;
    let name = path.file_name().unwrap_or_default().to_owned();
    let candidate = Candidate {
        name,
        bytes: metadata.len(),
        modified,
        // `load` does not measure how long a file waited in inbound.
        arrived: modified,
    };
    match engine.inbox.claim(&candidate)? {
        Ok(file) => Ok(Some(file)),
        Err(why) => {
            Tally::add(&engine.tally.left, 1);
            eprintln!("{} stays in inbound: {why}", path.display());
            Ok(None)
        }
    }
}

fn sort(files: &mut [(Claimed, ItemOrigin)], order: FileOrder) {
    match order {
        FileOrder::Name => files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path)),
        FileOrder::Oldest => files.sort_by_key(|(file, _)| file.modified),
        FileOrder::Newest => files.sort_by_key(|(file, _)| std::cmp::Reverse(file.modified)),
    }
}

fn dry_run(
    settings: &Settings,
    args: &LoadArgs,
    dataset: Option<&Arc<Dataset>>,
) -> anyhow::Result<Outcome> {
    let mut files = Vec::new();
    for source in find_sources(settings, &args.paths)? {
        let found = match source {
            Source::Inbound => {
                let mut found = directly_in(&settings.dirs.inbound)?;
                found.extend(directly_in(&settings.dirs.work)?);
                found
            }
            Source::FileInInbound(path) if path.is_dir() => Vec::new(),
            Source::FileInInbound(path) => inbox::archive(&path)?,
            Source::Archive(found) => found,
        };
        files.extend(found.into_iter().map(|file| (file, ItemOrigin::Archive)));
    }
    sort(&mut files, args.order);
    let mut text = String::new();
    for (file, _) in &files {
        let name = file.name.as_encoded_bytes();
        let dataset = dataset.or_else(|| settings.datasets.for_file_name(name));
        let dataset = dataset.map_or("(no dataset: quarantine)", |dataset| &dataset.name);
        let path = file.path.display().to_string();
        let (path, bytes) = (path.escape_debug(), HumanBytes(file.bytes));
        writeln!(text, "{path}\t{bytes}\t{dataset}").expect(INFALLIBLE);
    }
    let files = files.len();
    print(&format!(
        "{text}{files} files would be loaded; those that are stored already would be skipped\n"
    ))?;
    Ok(Outcome::Complete)
}

/// The files directly in a directory. Empty if the directory does not exist.
fn directly_in(directory: &Path) -> std::io::Result<Vec<Claimed>> {
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            continue;
        }
        match inbox::archive(&path) {
            // The service has taken it in the meantime.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            files => found.extend(files?),
        }
    }
    Ok(found)
}

/// Stops the load once more than `max` records are rejected. Cancelling the returned token ends the
/// check.
fn stop_at_max_rejects(
    tally: &Arc<Tally>,
    max: Option<u64>,
    shutdown: &Shutdown,
) -> CancellationToken {
    let ended = CancellationToken::new();
    let Some(max) = max else { return ended };
    let (tally, shutdown, until) = (tally.clone(), shutdown.clone(), ended.clone());
    tokio::spawn(async move {
        while !until.is_cancelled() {
            if tally.rejected.load(Relaxed) > max {
                shutdown.drain.cancel();
                shutdown.abort.cancel();
                return;
            }
            tokio::time::sleep(DRAW_EVERY).await;
        }
    });
    ended
}

/// Progress on stderr: a bar on a terminal, lines elsewhere.
struct ProgressDisplay {
    ended: CancellationToken,
    bar: Option<ProgressBar>,
}

impl ProgressDisplay {
    fn end(self) {
        self.ended.cancel();
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn show_progress(engine: &Engine, bytes: u64, hidden: bool) -> ProgressDisplay {
    let ended = CancellationToken::new();
    if hidden {
        return ProgressDisplay { ended, bar: None };
    }
    let bar = std::io::stderr().is_terminal().then(|| {
        let style = "{bar:30} {percent:>3} %  {bytes}/{total_bytes}  {msg}  ETA {eta}";
        let style = ProgressStyle::with_template(style).expect("the template is valid");
        ProgressBar::new(bytes).with_style(style)
    });
    let (tally, progress) = (engine.tally.clone(), engine.progress.clone());
    let (until, drawn) = (ended.clone(), bar.clone());
    tokio::spawn(async move {
        let every = if drawn.is_some() {
            DRAW_EVERY
        } else {
            LINE_EVERY
        };
        let began = Instant::now();
        let mut last = (began, 0);
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = until.cancelled() => return,
            }
            let (records, done) = (progress.records(), tally.bytes_done.load(Relaxed));
            let rate = per_second(records - last.1, last.0.elapsed());
            match &drawn {
                Some(bar) => {
                    let mean = per_second(records, began.elapsed());
                    bar.set_position(done.min(bytes));
                    bar.set_message(format!("{} records/s", HumanCount(mean)));
                }
                None => eprintln!(
                    "{}",
                    progress_line(records, rate, done, bytes, began.elapsed())
                ),
            }
            last = (Instant::now(), records);
        }
    });
    ProgressDisplay { ended, bar }
}

fn progress_line(records: u64, rate: u64, done: u64, bytes: u64, elapsed: Duration) -> String {
    let left = bytes.saturating_sub(done);
    let eta = if done == 0 {
        "unknown".to_owned()
    } else {
        let seconds = elapsed.as_secs_f64() * left as f64 / done as f64;
        HumanDuration(Duration::from_secs_f64(seconds)).to_string()
    };
    format!(
        "{} records, {} records/s, {} of {}, ETA {eta}",
        HumanCount(records),
        HumanCount(rate),
        HumanBytes(done),
        HumanBytes(bytes)
    )
}

fn per_second(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64().max(0.001)) as u64
}

/// Prints the totals of a load.
pub(super) fn print_totals(tally: &Tally, took: Duration) -> std::io::Result<()> {
    let number = |counter: &AtomicU64| counter.load(Relaxed);
    let records = number(&tally.records);
    let mut lines = KeyValueText::default();
    for (name, counter) in [
        ("files", &tally.files),
        ("records", &tally.records),
        ("rows", &tally.rows),
        ("rejects", &tally.rejects),
        ("quarantined", &tally.quarantined),
        ("duplicates", &tally.duplicates),
        ("left", &tally.left),
    ] {
        lines.add(name, HumanCount(number(counter)));
    }
    if tally.unfinished() > 0 {
        lines.add("unfinished", HumanCount(tally.unfinished()));
    }
    let seconds = took.as_secs_f64().max(0.001);
    lines.add("seconds", format_args!("{seconds:.2}"));
    lines.add("records/s", HumanCount(per_second(records, took)));
    lines.add(
        "MB/s",
        format_args!("{:.1}", number(&tally.bytes) as f64 / 1e6 / seconds),
    );
    print(&lines.into_text())
}

/// The outcome of the load. Prints the next step for everything that was not loaded.
fn outcome_of(tally: &Tally, max_rejects: Option<u64>) -> Outcome {
    let number = |counter: &AtomicU64| counter.load(Relaxed);
    let rejected = number(&tally.rejected);
    if let Some(max) = max_rejects.filter(|max| rejected > *max) {
        eprintln!(
            "stopped: {rejected} rejects, more than {max}; correct the files (`task_runner check PATH` \
             lists their rejects), or raise --max-rejects"
        );
        return Outcome::Failed;
    }
    if tally.cut_short.load(Relaxed) || tally.unfinished() > 0 {
        eprintln!("stopped before the end; nothing is lost, run it again to continue");
        return Outcome::Stopped;
    }
    if number(&tally.left) > 0 {
        eprintln!(
            "some files are incomplete or still being written; run it again when they are finished"
        );
        return Outcome::Stopped;
    }
    if number(&tally.rejects) > 0 {
        eprintln!(
            "rejects are in the table ingest_rejects, with reason, place and text; `task_runner \
             rejects list` shows them"
        );
    }
    if number(&tally.quarantined) > 0 {
        eprintln!(
            "`task_runner files list --state quarantined` shows the reason of each file in \
             quarantine, as does NAME.reason beside it; `task_runner files retry` moves files back \
             to inbound"
        );
    }
    if number(&tally.rejects) + number(&tally.quarantined) > 0 {
        return Outcome::Rejected;
    }
    Outcome::Complete
}
