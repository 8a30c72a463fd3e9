//! Everything fails at random while files arrive. Then all faults end, and an audit compares the
//! stored data with the expected outcome, record by record.
//!
//! Two processes of the real binary run over real servers: one with all roles, and one with the
//! role `work` only. `scripts/chaos --seconds N --seed S` runs for any time. The seed decides the
//! files and the faults. Their timing varies, so a run is not exactly repeatable, and a failure
//! keeps its folder.

mod accidents;
pub mod arrivals;
pub mod audit;
mod disk;
pub mod files;
pub mod process;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support;
use accidents::Accident;
use arrivals::{Places, arrive, print_files};
use audit::{Directories, Findings, audit};
use disk::Disk;
use files::{Dice, Expected};
use process::print_log_summary;
use world::{Fault, GROUP, SERVICE, STREAMS, WORKER, World};

/// The duration of the short run.
const SECONDS: u64 = 20;

/// A run of this duration must have had every kind of fault.
const SECONDS_FOR_ALL: u64 = 300;

/// Time after the last fault in which all work must end.
const HEAL_WITHIN: Duration = Duration::from_secs(90);

/// Time between two accidents of the database, in seconds.
const ACCIDENT_EVERY: (u64, u64) = (3, 6);

/// Accidents happen in the first part of a run: later, a repair of all rows would take most of it.
const ACCIDENTS_UNTIL: Duration = Duration::from_secs(120);

/// Time of a run after the last accident: for its repair, and for faults.
const AFTER_ACCIDENTS: Duration = Duration::from_secs(8);

/// Interval of checking whether a fault is over, or all work has ended.
const TICK: Duration = Duration::from_millis(50);

/// Lines of what is wrong in the message of a failure, and characters of a line. The whole is in a
/// file: where output is cut, the end of a short message is still shown.
const WRONG_LINES: usize = 25;
const WRONG_CHARS: usize = 300;

/// A number from the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect(name))
}

/// The folder of a run, kept after a failure.
struct Site {
    folder: PathBuf,
    history: PathBuf,
    history_disk: Option<Arc<Disk>>,
    kept: Option<tempfile::TempDir>,
}

impl Site {
    /// `elsewhere`: history is on another file system.
    fn new(elsewhere: bool) -> Self {
        let kept = support::folder();
        let folder = kept.path().to_owned();
        let disk = elsewhere.then(|| Arc::new(Disk::new()));
        let of_disk = |disk: &Arc<Disk>| disk.path().join("history");
        let history = disk
            .as_ref()
            .map_or_else(|| folder.join("history"), of_disk);
        for dir in [
            &folder.join("outside"),
            &folder.join(SERVICE).join("inbound"),
            &history,
        ] {
            fs::create_dir_all(dir).unwrap();
        }
        Self {
            folder,
            history,
            history_disk: disk,
            kept: Some(kept),
        }
    }

    fn of_service(&self, name: &str) -> PathBuf {
        self.folder.join(SERVICE).join(name)
    }

    fn places(&self) -> Places {
        Places {
            inbound: self.of_service("inbound"),
            work: self.of_service("work"),
            outside: self.folder.join("outside"),
        }
    }

    async fn world(&self) -> World {
        World::new(&self.folder, &self.history, self.history_disk.clone()).await
    }

    async fn audit(&self, world: &World, log: &[Expected]) -> Findings {
        let directories = Directories {
            inbound: &self.of_service("inbound"),
            work: &self.of_service("work"),
            history: &self.history,
            quarantine: &self.of_service("quarantine"),
        };
        let conn = world.connect().await.unwrap();
        audit(conn, &directories, queued(world), log).await
    }

    /// Fails and keeps the folder. What is wrong is written there as a whole; the message has its
    /// beginning, and ends with the seed.
    fn fail(mut self, seed: u64, wrong: &str) -> ! {
        if let Some(kept) = self.kept.take() {
            let _ = kept.keep();
        }
        let report = self.folder.join("wrong.txt");
        let _ = fs::write(&report, wrong);
        let first: Vec<String> = wrong
            .lines()
            .take(WRONG_LINES)
            .map(|line| line.chars().take(WRONG_CHARS).collect())
            .collect();
        panic!(
            "chaos failed with seed {seed}:\n{}\nall of it: {}; repeat it with scripts/chaos --seed {seed}",
            first.join("\n"),
            report.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_everything_fails() {
    // An even seed, so that history is on a separate file system.
    let seed = setting("LEMONADE_CHAOS_SEED", 2);
    let seconds = setting("LEMONADE_CHAOS_SECONDS", SECONDS);
    let site = Site::new(seed.is_multiple_of(2));
    let mut world = site.world().await;
    world.service.start();
    world.worker.start();

    let until = Instant::now() + Duration::from_secs(seconds);
    let arrivals = tokio::spawn(arrive(seed, site.places(), move || Instant::now() < until));
    let all = Fault::all(site.history_disk.is_some());
    let mut struck = Struck::default();
    let tormented = torment(
        &mut world,
        &all,
        &mut Dice::new(seed, 4),
        until,
        &mut struck,
    )
    .await;
    let mut log = arrivals.await.unwrap();
    print_struck(&struck);
    print_files(&log);
    world.grown.iter().for_each(|growth| growth.note(&mut log));
    let healing = Instant::now();
    let healed = match tormented {
        Ok(()) => recover(&mut world, &site, &struck).await,
        failed => failed,
    };
    eprintln!(
        "at rest {} s after the last fault",
        healing.elapsed().as_secs()
    );
    let findings = match healed {
        Ok(()) => finish(&mut world, &site, &log).await,
        failed => failed.map(|()| Findings::default()),
    };
    print_log_summary([SERVICE, WORKER].map(|name| site.folder.join(format!("{name}.log"))));
    let mut wrong = match findings {
        Ok(findings) => findings.to_string(),
        Err(why) => why,
    };
    for process in [&world.service, &world.worker] {
        wrong.push_str(&process.offences.join("\n"));
    }
    if !wrong.is_empty() {
        site.fail(seed, &wrong);
    }
    assert!(world.redis_link.accepted() > 0 && world.database_link.accepted() > 0);
    if seconds >= SECONDS_FOR_ALL {
        for fault in all {
            assert!(
                struck.faults.contains_key(&fault),
                "{fault:?} never happened"
            );
        }
        for accident in Accident::ALL {
            assert!(
                struck.accidents.contains_key(&accident),
                "{accident:?} never happened"
            );
        }
    }
}

/// How often each fault took effect.
#[derive(Default)]
struct Struck {
    faults: BTreeMap<Fault, u64>,
    accidents: BTreeMap<Accident, u64>,
}

/// Tests the audit: one that never finds a difference would prove nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_audit_is_clean_without_faults_and_finds_what_is_wrong() {
    let site = Site::new(false);
    let mut world = site.world().await;
    world.service.start();
    world.worker.start();
    let until = Instant::now() + Duration::from_secs(4);
    let log = arrive(7, site.places(), || Instant::now() < until).await;
    heal(&mut world, &site).await.unwrap();
    let findings = finish(&mut world, &site, &log).await.unwrap();
    assert!(findings.is_empty(), "{findings}");
    assert_eq!(world.service.offences, Vec::<String>::new());

    let harms = [
        ("rows missing", "DELETE FROM vehicle_events LIMIT 1"),
        (
            "rows doubled",
            "INSERT INTO vehicle_status SELECT id + 1000000, vehicle_id, report_time, \
             status_source, status, _rescued FROM vehicle_status LIMIT 1",
        ),
        (
            "rows with wrong values",
            "UPDATE vehicle_status SET status_source = 'x' LIMIT 1",
        ),
        ("rejects missing", "DELETE FROM ingest_rejects LIMIT 1"),
        (
            "rejects with a wrong code",
            "UPDATE ingest_rejects SET code = 'x' LIMIT 1",
        ),
        (
            "wrong lines in the ledger",
            "UPDATE ingest_files SET records = records + 1 LIMIT 1",
        ),
        (
            "ledger entries of frames left",
            "INSERT INTO ingest_frames VALUES (1, 1, 1)",
        ),
        (
            "days in the summary that are not so",
            "UPDATE daily_summary SET last_id = 1 LIMIT 1",
        ),
    ];
    for (_, statement) in harms {
        use mysql_async::prelude::Queryable as _;
        let mut conn = world.connect().await.unwrap();
        conn.query_drop(statement).await.unwrap();
        assert_eq!(conn.affected_rows(), 1, "{statement}");
    }
    let mut history = fs::read_dir(&site.history).unwrap();
    let file = history.next().unwrap().unwrap().path();
    fs::rename(file, site.of_service("inbound").join("again")).unwrap();
    world
        .ask_redis(&format!("XADD {} * a b", STREAMS[0]))
        .unwrap();
    let found = site.audit(&world, &log).await.kinds();
    let expected = harms.map(|(kind, _)| kind).into_iter().chain([
        "files missing",
        "left in inbound",
        "left in the queue",
    ]);
    for kind in expected {
        assert!(found.contains(&kind), "{kind} was not found: {found:?}");
    }
}

/// Causes one fault after the other until that time, and accidents of the database between them.
///
/// # Errors
/// An accident was not noticed or not repaired.
async fn torment(
    world: &mut World,
    all: &[Fault],
    dice: &mut Dice,
    until: Instant,
    struck: &mut Struck,
) -> Result<(), String> {
    let mut active: Vec<(Instant, Fault)> = Vec::new();
    let mut accidents = Accident::ALL.iter().cycle();
    let accident_after = |dice: &mut Dice| {
        let (first, last) = ACCIDENT_EVERY;
        Instant::now() + Duration::from_secs(dice.between(first, last))
    };
    let began = Instant::now();
    let (mut next, mut next_accident) = (Instant::now(), accident_after(dice));
    while Instant::now() < until {
        tokio::time::sleep(TICK).await;
        end_due(world, &mut active).await;
        restart_ended(world, &active);
        let is_time = Instant::now() + AFTER_ACCIDENTS < until && began.elapsed() < ACCIDENTS_UNTIL;
        if is_time && Instant::now() >= next_accident {
            end_all(world, &mut active).await;
            let accident = *accidents.next().expect("a cycle has no end");
            let struck_at = Instant::now();
            let repaired = accidents::strike(world, accident, dice).await;
            repaired.map_err(|why| format!("{accident:?}: {why}"))?;
            eprintln!("{accident:?} was repaired within {:?}", struck_at.elapsed());
            *struck.accidents.entry(accident).or_default() += 1;
            next_accident = accident_after(dice);
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + Duration::from_millis(dice.between(100, 1_500));
        let fault = dice.pick(all);
        if active.iter().any(|(_, other)| other.shares_subject(fault)) {
            continue;
        }
        if let Some(lasts) = world.begin(fault, dice).await {
            *struck.faults.entry(fault).or_default() += 1;
            active.push((Instant::now() + lasts, fault));
        }
    }
    end_all(world, &mut active).await;
    Ok(())
}

/// Ends all faults.
async fn end_all(world: &mut World, active: &mut Vec<(Instant, Fault)>) {
    while !active.is_empty() {
        for (due, _) in &mut *active {
            *due = Instant::now();
        }
        end_due(world, active).await;
        tokio::time::sleep(TICK).await;
    }
}

/// Ends the faults whose time is over.
async fn end_due(world: &mut World, active: &mut Vec<(Instant, Fault)>) {
    for (due, fault) in std::mem::take(active) {
        if Instant::now() < due || !world.end(fault).await {
            active.push((due, fault));
        }
    }
}

/// Records processes that ended by themselves, and restarts them.
fn restart_ended(world: &mut World, active: &[(Instant, Fault)]) {
    let busy = |of: fn(&Fault) -> bool| active.iter().any(|(_, fault)| of(fault));
    let service_is_busy = busy(|fault| matches!(fault, Fault::Service(_)));
    let worker_is_busy = busy(|fault| matches!(fault, Fault::Worker(_)));
    for (process, is_busy) in [
        (&mut world.service, service_is_busy),
        (&mut world.worker, worker_is_busy),
    ] {
        if !is_busy {
            process.note_end();
            process.start();
        }
    }
}

/// Waits until all work has ended, and brings files back from quarantine whose reasons say how.
///
/// # Errors
/// Work does not end, or a command fails.
async fn recover(world: &mut World, site: &Site, struck: &Struck) -> Result<(), String> {
    heal(world, site).await?;
    // The ledger from before has no entry of files that were quarantined since.
    let is_older = |accident: &Accident| matches!(accident, Accident::Restore { ledger: true, .. });
    let mut all = struck.accidents.keys().any(is_older);
    while accidents::retry(world, all).await? > 0 {
        heal(world, site).await?;
        all = false;
    }
    Ok(())
}

/// Waits until no file is in progress and the queue is empty. Once only grown files wait, forgets what
/// was stored of them before they grew.
async fn heal(world: &mut World, site: &Site) -> Result<(), String> {
    let deadline = Instant::now() + HEAL_WITHIN;
    loop {
        restart_ended(world, &[]);
        let visible = |dir: PathBuf| -> Vec<_> {
            let files = support::files_below(&dir).into_iter();
            files
                .filter_map(|path| Some(path.file_name()?.to_owned()))
                .collect()
        };
        let (inbound, work) = (
            visible(site.of_service("inbound")),
            visible(site.of_service("work")),
        );
        let queue = queued(world);
        if inbound.is_empty() && work.is_empty() && queue.is_empty() {
            return Ok(());
        }
        if work.is_empty() && queue.is_empty() {
            accidents::forget_grown(world, &inbound).await?;
        }
        if Instant::now() >= deadline {
            let pending = gaps(world).await;
            return Err(format!(
                "no rest within {HEAL_WITHIN:?}\ninbound {inbound:?}\nwork {work:?}\nqueue \
                 {queue:?}\nledger\n{pending}\nservice\n{}\nworker\n{}",
                process::log_end(&site.folder.join("service.log"), 20),
                process::log_end(&site.folder.join("worker.log"), 20),
            ));
        }
        tokio::time::sleep(TICK).await;
    }
}

/// The entries that are still in the queue.
fn queued(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for stream in STREAMS {
        let length = world.ask_redis(&format!("XLEN {stream}"));
        if length.as_deref() != Some(":0") {
            left.push(format!("{stream} has {length:?} entries"));
        }
        // The first line of the summary says only how many lines follow: ask for the entries.
        let pending = world.ask_redis(&format!("XPENDING {stream} {GROUP} - + 10"));
        let pending = pending.unwrap_or_default();
        if pending != "*0" && !pending.starts_with("-NOGROUP") {
            left.push(format!("{stream} has pending entries: {pending}"));
        }
    }
    left
}

/// The ledger entries of the files that are not settled.
async fn gaps(world: &World) -> String {
    let sql = "SELECT GROUP_CONCAT(line SEPARATOR '\n') FROM (SELECT CONCAT_WS(' ', f.file_no, \
               f.name, f.records, 'stored:', GROUP_CONCAT(e.first_ordinal, '+', e.records ORDER BY \
               e.first_ordinal)) AS line FROM ingest_files f LEFT JOIN ingest_frames e USING \
               (file_no) WHERE f.state = 'pending' GROUP BY f.file_no) AS pending";
    world.ask_database(sql).await.unwrap_or_default()
}

/// Ends the processes, brings the summary up to date, and audits.
///
/// # Errors
/// A command fails or finds a difference.
async fn finish(world: &mut World, site: &Site, log: &[Expected]) -> Result<Findings, String> {
    for process in [&mut world.service, &mut world.worker] {
        process.terminate();
        while !process.is_down() {
            tokio::time::sleep(TICK).await;
            process.note_end();
        }
        eprintln!(
            "{} took at most {:?} to stop",
            process.name, process.slowest_stop
        );
    }
    accidents::correct(world).await?;
    accidents::expect(world, &[0], &["summary"])?;
    accidents::expect(world, &[0], &["verify", "--content"])?;
    for name in ["inbound", "history", "quarantine"] {
        let of_worker = site.folder.join(WORKER).join(name);
        let files = fs::read_dir(of_worker).map_or(0, Iterator::count);
        if files > 0 {
            return Err(format!("a worker has {files} files in {name}"));
        }
    }
    Ok(site.audit(world, log).await)
}

fn print_struck(struck: &Struck) {
    eprintln!("faults: {}", struck.faults.values().sum::<u64>());
    for (fault, times) in &struck.faults {
        eprintln!("{times:8}  {fault:?}");
    }
    for (accident, times) in &struck.accidents {
        eprintln!("{times:8}  {accident:?}");
    }
}
