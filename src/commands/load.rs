//! `load`: loads files, then exits. Shows progress while it runs and prints totals at the end.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::output::JSON_VERSION;
use super::parsed::files_at;
use super::progress::{Progress, per_second};
use super::served::Reported;
use super::{INFALLIBLE, KeyValueText, Outcome, STOPPED_BEFORE, ending, print, stdin};
use crate::config::Settings;
use crate::config::cli::{DeferIndexes, LoadArgs};
use crate::dataset::Dataset;
use crate::inbox::{self, Archive, Claimed, Directories, Markers};
use crate::ingest::{ItemOrigin, Tally, Unmet};
use crate::runner::{self, Engine, LoadPlan, Source};
use crate::shutdown::Shutdown;

/// Interval of checking `--max-rejects`.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// A fatal fault, or a path that cannot be read.
pub(super) async fn execute(settings: Settings, args: LoadArgs) -> anyhow::Result<Outcome> {
    let dataset = args.dataset.as_deref();
    let dataset = dataset.map(|name| settings.dataset(name)).transpose()?;
    let stdin = stdin::name(&args)?;
    if args.dry_run {
        return dry_run(&settings, &args, dataset);
    }
    let shutdown = ending::on_signals(settings.drain_timeout)?;
    let reported = Reported::begin(&settings, settings.http_addr_flag(), false, false).await?;
    let Some(mut engine) = runner::open_to_load(&settings, dataset, &shutdown).await? else {
        eprintln!("{STOPPED_BEFORE}");
        return Ok(Outcome::Stopped);
    };
    engine.options.ingest.rehash = args.rehash;
    engine.options.ingest.names_stored = args.verbose;
    let engine = Arc::new(engine);
    let plan = match find_files(&engine, &settings, &args, stdin, &shutdown).await {
        Ok(Some(plan)) => plan,
        not_found => {
            engine.leave().await;
            return not_found.map(|_| Outcome::Stopped);
        }
    };
    for (path, why) in plan.left() {
        let shown = path.display().to_string();
        eprintln!("{} stays in inbound: {why}", shown.escape_debug());
    }
    if plan.is_empty() {
        let inbound = engine.inbox.directories().inbound.display();
        eprintln!("nothing to load; put files into {inbound}, or name files and directories");
    }
    let began = Instant::now();
    let is_reported = reported.is_on();
    let work = Box::pin(async {
        tokio::select! {
            ended = run(&engine, plan, args.max_rejects, args.no_progress, &shutdown) => ended,
            () = engine.observe_load(), if is_reported => unreachable!("it never ends"),
        }
    });
    let outcome = reported
        .beside(engine.clone(), &shutdown.abort, work)
        .await?;
    let stored = engine.tally.duplicates.load(Relaxed);
    if stored > 0 {
        let files = if stored == 1 { "file" } else { "files" };
        eprintln!("{} {files} already stored", HumanCount(stored));
    }
    if args.json {
        print(&format!("{}\n", totals_as_json(&engine, began.elapsed())))?;
    } else {
        print_totals(&engine, began.elapsed())?;
    }
    engine.compact_history(&shutdown.drain).await;
    for unmet in engine.tally.unmet() {
        eprintln!("{}", without_array(&unmet, engine.inbox.directories()));
    }
    if args.defer_indexes == DeferIndexes::Never && outcome != Outcome::Stopped {
        let rows = engine.tally.rows.load(Relaxed);
        // A hint is not worth an error.
        if let Ok(Some(hint)) = engine.deferral_hint(rows).await {
            eprintln!("{hint}");
        }
    }
    if let Some(database) = engine
        .database
        .as_deref()
        .filter(|_| outcome != Outcome::Stopped)
        && let Ok(Some(orphans)) = super::orphans::advice(&settings, database).await
    {
        eprintln!("{orphans}");
    }
    Ok(outcome)
}

/// The files to load, standard input among them. `None` if the shutdown began before its end.
async fn find_files(
    engine: &Engine,
    settings: &Settings,
    args: &LoadArgs,
    stdin: Option<&OsStr>,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<LoadPlan>> {
    let archive = if args.move_files {
        ItemOrigin::Mailbox
    } else {
        ItemOrigin::Archive
    };
    let plan = match stdin {
        None => LoadPlan::find(engine, settings, &args.paths, archive, args.order)?,
        Some(name) => match stdin::spool(&engine.inbox, settings, name, shutdown).await? {
            Some(arriving) => LoadPlan::arriving(engine, arriving, name)
                .with_context(|| stdin::not_loaded(name))?,
            None => return Ok(None),
        },
    };
    Ok(Some(plan.with_deferred_indexes(args.defer_indexes)))
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
    let shown = (!no_progress).then(|| Progress::show(engine, plan.bytes()));
    let result = plan.load(engine, shutdown).await;
    watched.cancel();
    drop(shown);
    result?;
    Ok(outcome_of(&engine.tally, max_rejects))
}

fn dry_run(
    settings: &Settings,
    args: &LoadArgs,
    dataset: Option<&Arc<Dataset>>,
) -> anyhow::Result<Outcome> {
    let markers = settings.markers();
    let sources = runner::sources(settings, &args.paths)?;
    // A load goes on with the files that an earlier one of its node has left in work; one of inbound
    // also takes over those of dead nodes.
    let mut work = settings.dirs.work.clone();
    if !sources.iter().any(|it| matches!(it, Source::Inbound)) {
        work.push(settings.node_name());
    }
    let own = Markers::default().with_directories(true);
    let left = directly_in(&work, &own)?.into_iter();
    let mut files: Vec<_> = left.map(|file| (file, ItemOrigin::Archive)).collect();
    for source in sources {
        let found = match source {
            Source::Inbound => directly_in(&settings.dirs.inbound, &markers)?,
            Source::Claimed(_) => Vec::new(),
            Source::FileInInbound(path) => Archive::all_of(&path, &Markers::default()).list()?.0,
            Source::Archive(archive) => archive.list()?.0,
        };
        files.extend(found.into_iter().map(|file| (file, ItemOrigin::Archive)));
    }
    runner::sort(&mut files, args.order);
    let mut text = String::new();
    let of = |path: &Path| {
        settings
            .datasets
            .of_file(path.as_os_str().as_encoded_bytes(), dataset)
    };
    // Only files without a dataset are opened: their members may have one.
    let members = files.iter().flat_map(|(file, _)| match of(&file.path) {
        Ok(_) => vec![(file.path.clone(), file.bytes)],
        Err(_) => files_at(settings, &file.path, file.bytes),
    });
    let members: Vec<_> = members.collect();
    for (path, bytes) in &members {
        let dataset = match of(path) {
            Ok(of) => of.to_string(),
            Err(_) => "(no dataset: quarantine)".to_owned(),
        };
        let path = path.display().to_string();
        let (path, bytes) = (path.escape_debug(), HumanBytes(*bytes));
        writeln!(text, "{path}\t{bytes}\t{dataset}").expect(INFALLIBLE);
    }
    let files = members.len();
    print(&format!(
        "{text}{files} files would be loaded; those that are stored already would be skipped\n"
    ))?;
    Ok(Outcome::Complete)
}

/// The files directly in a directory, and those of directories below it if `markers` takes these.
/// Empty if the directory does not exist.
fn directly_in(directory: &Path, markers: &Markers) -> std::io::Result<Vec<Claimed>> {
    let entries = match directory.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() && markers.enters(&path) {
            found.extend(directly_in(&path, markers)?);
        }
        if path.is_dir() {
            continue;
        }
        match Archive::all_of(&path, markers).list() {
            // The service has taken the file meanwhile, or it is not one that is loaded.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {
            }
            listed => found.extend(listed?.0),
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
            tokio::time::sleep(CHECK_EVERY).await;
        }
    });
    ended
}

/// What a load says of a dataset that has nothing in files that it takes by their name.
fn without_array(unmet: &Unmet, directories: &Directories) -> String {
    let Unmet {
        dataset,
        pointer,
        files,
        met,
        first,
    } = unmet;
    // An absolute path is that of an archive, and stays as it is.
    let name = first.to_string_lossy();
    let mut found = inbox::named(&directories.history, &name);
    found.extend(inbox::in_days(directories, &name));
    let found = found.into_iter().next();
    let first = found.unwrap_or_else(|| directories.history.join(first));
    let first = first.display().to_string();
    format!(
        "{dataset}: no array at `{}` in {} of {} files that it takes; `task_runner check {}` names the \
         arrays that are there",
        pointer.escape_debug(),
        HumanCount(*files),
        HumanCount(files + met),
        first.escape_debug()
    )
}

/// The totals of a load as JSON. Fields are only added.
fn totals_as_json(engine: &Engine, took: Duration) -> Value {
    let tally = &engine.tally;
    let number = |counter: &AtomicU64| counter.load(Relaxed);
    let unmet = tally.unmet().into_iter().map(|of| {
        let first = of.first.display().to_string();
        json!({
            "dataset": of.dataset, "records": of.pointer, "files": of.files, "met": of.met,
            "first": first
        })
    });
    let unmet: Vec<Value> = unmet.collect();
    json!({
        "version": JSON_VERSION,
        "files": number(&tally.files),
        "records": number(&tally.records),
        "rows": engine.rows(),
        "superseded": engine.superseded(),
        "rejects": number(&tally.rejects),
        "quarantined": number(&tally.quarantined),
        "duplicates": number(&tally.duplicates),
        "waiting": number(&tally.left),
        "passed_over": number(&tally.passed_over),
        "restored": number(&tally.restored),
        "missing": number(&tally.missing),
        "unfinished": tally.unfinished(),
        "unmet": unmet,
        "bytes": number(&tally.bytes),
        "seconds": took.as_secs_f64(),
    })
}

/// Prints the totals of a load.
pub(super) fn print_totals(engine: &Engine, took: Duration) -> std::io::Result<()> {
    let tally = &engine.tally;
    let number = |counter: &AtomicU64| counter.load(Relaxed);
    let records = number(&tally.records);
    let mut lines = KeyValueText::default();
    for (name, count) in [
        ("files", number(&tally.files)),
        ("records", records),
        ("rows", engine.rows()),
        ("rejects", number(&tally.rejects)),
        ("quarantined", number(&tally.quarantined)),
        ("duplicates", number(&tally.duplicates)),
        ("waiting", number(&tally.left)),
    ] {
        lines.add(name, HumanCount(count));
    }
    if engine.superseded() > 0 {
        lines.add("superseded", HumanCount(engine.superseded()));
    }
    for (name, count) in [
        ("restored", number(&tally.restored)),
        ("missing", number(&tally.missing)),
    ] {
        if count > 0 {
            lines.add(name, HumanCount(count));
        }
    }
    if number(&tally.passed_over) > 0 {
        lines.add("passed over", HumanCount(number(&tally.passed_over)));
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
            "some files are incomplete, still being written, or wait for their table or for `files \
             forget`, as the log says; run it again when that is over"
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
            "NAME.reason beside each file in quarantine has its reason; `task_runner files list --state \
             quarantined` lists them; `task_runner files retry` moves files back to inbound"
        );
    }
    let missing = number(&tally.missing);
    if missing > 0 {
        eprintln!(
            "{missing} records of other files are missing, since rows with their keys were removed and \
             their files cannot be read: `task_runner verify` names the files; bring each of them again, \
             and run `task_runner files restore --all`"
        );
    }
    if number(&tally.rejects) + number(&tally.quarantined) + missing > 0 {
        return Outcome::Rejected;
    }
    Outcome::Complete
}
