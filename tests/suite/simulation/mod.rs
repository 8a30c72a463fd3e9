//! The stages over a simulated broker and sink, on a virtual clock. A seed decides the files, the
//! sizes, every fault and every crash, and repeats them exactly. In the end each record must be one
//! row or one reject, and each file must be in history or quarantine.
//!
//! `LEMONADE_SIM_SEEDS` sets how many seeds run (default 300), `LEMONADE_SIM_SEED` a single one.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lemonade_task::batch::provenance;
use lemonade_task::config::Roles;
use lemonade_task::content::ContentOptions;
use lemonade_task::cut::ChunkLimits;
use lemonade_task::dataset::{Column, Dataset, Datasets};
use lemonade_task::inbox::{Directories, Inbox, Patience, requeue};
use lemonade_task::ingest::IngestOptions;
use lemonade_task::runner::{Engine, EngineOptions};
use lemonade_task::shutdown::Shutdown;

use crate::support::names;
use world::{Broken, Random, SimBroker, SimSink, World};

/// The expected outcome of a seed's files.
#[derive(Default)]
struct Expected {
    rows: BTreeSet<String>,
    rejects: usize,
    history: usize,
    quarantine: usize,
}

/// What a value begins with that was stored by the other definition.
const OTHER: &str = "other ";

/// The built-in datasets; or, with `other`, a definition of `vehicle_events` that takes the value from
/// another field.
fn datasets(other: bool) -> Datasets {
    let builtin = Datasets::new(vec![]).unwrap();
    if !other {
        return builtin;
    }
    let mut events = Dataset::clone(builtin.by_name("vehicle_events").unwrap());
    let value = |column: &&mut Column| column.name == "event_value";
    let column = events.columns.iter_mut().find(value).unwrap();
    "/other".clone_into(&mut column.field);
    Datasets::new(vec![events]).unwrap()
}

/// A record that becomes a row of this value.
fn record(value: &str) -> String {
    format!(
        r#"{{"vehicle_id":"v","event_time":"2024-01-01T00:00:00Z","event_source":"s","event_type":"t","event_value":"{value}","other":"{OTHER}{value}"}}"#
    )
}

/// A second delivery has the same names with other contents.
fn write_files(random: &mut Random, inbound: &Path, delivery: u64, expected: &mut Expected) {
    let files = 1 + random.below(6);
    for file in 0..files {
        let name = format!("vehicle_events_{file}.json");
        let copy = format!("copy_of_{name}");
        // A producer does not overwrite a delivered file.
        if [&name, &copy]
            .iter()
            .any(|name| inbound.join(name).exists())
        {
            continue;
        }
        let file = format!("{delivery}.{file}");
        if random.one_in(12) {
            std::fs::write(inbound.join(name), format!("no JSON {file}")).unwrap();
            expected.quarantine += 1;
            continue;
        }
        let mut records = Vec::new();
        for ordinal in 0..random.below(60) {
            if random.one_in(15) {
                records.push(format!("{{\"vehicle_id\": \"{file}-{ordinal}\"}}"));
                expected.rejects += 1;
                continue;
            }
            let value = format!("{file}-{ordinal}");
            records.push(record(&value));
            expected.rows.insert(value);
        }
        // The file's number makes empty files differ; otherwise they would be duplicates.
        let document = format!(
            "{{\"file\": \"{file}\", \"vehicle_events\": [{}]}}",
            records.join(",")
        );
        std::fs::write(inbound.join(&name), &document).unwrap();
        expected.history += 1;
        if random.one_in(10) {
            std::fs::write(inbound.join(copy), &document).unwrap();
            expected.history += 1;
        }
    }
}

/// Deletes files with a repeated name, as a move that replaces would.
fn replace_namesakes(root: &Path) {
    for name in names(&root.join("inbound")) {
        for dir in ["work", "history"] {
            // Mostly there is none.
            let _ = std::fs::remove_file(root.join(dir).join(&name));
        }
    }
}

fn directories(root: &Path) -> Directories {
    let at = |name: &str| root.join(name);
    Directories {
        inbound: at("inbound"),
        work: at("work"),
        history: at("history"),
        quarantine: at("quarantine"),
    }
}

fn engine(world: &Arc<World>, root: &Path, random: &mut Random, other: bool) -> Engine {
    let datasets = datasets(other);
    let at = |name: &str| root.join(name);
    let directories = directories(root);
    let patience = Patience {
        quiet_time: Duration::ZERO,
        one_name: false,
        incomplete_after: Duration::ZERO,
    };
    let inbox = Inbox::open(directories, patience).unwrap();
    let chunk = ChunkLimits {
        records: 1 + u32::try_from(random.below(20)).unwrap(),
        bytes: 1 + usize::try_from(random.below(4_000)).unwrap(),
    };
    let options = EngineOptions {
        node: "sim".to_owned(),
        roles: Roles::ALL,
        database: String::new(),
        queue: String::new(),
        workers: 1 + usize::try_from(random.below(3)).unwrap(),
        ingest: IngestOptions {
            chunk,
            // Large enough that parsing never waits: the virtual clock stops while a blocking
            // thread waits.
            budget_bytes: 1 << 20,
            content: ContentOptions {
                inflated_bytes_max: 1 << 20,
                spill_dir: at("work"),
                ..ContentOptions::default()
            },
            dataset: None,
            incomplete_may_wait: false,
        },
        scan_interval: Duration::from_secs(1),
        summary_every: None,
        disk_floor_bytes: 0,
    };
    let broker = Arc::new(SimBroker(world.clone()));
    let sink = Arc::new(SimSink(world.clone()));
    Engine::new(broker, sink, None, datasets, Arc::new(inbox), options)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap()
}

/// Runs the engine as a service for some virtual time, then drops it as a crash would.
fn crash_after(limit: Duration, engine: Engine) {
    runtime().block_on(async {
        let shutdown = Shutdown::default();
        let served = tokio::time::timeout(limit, Box::pin(engine.serve(&shutdown))).await;
        assert!(
            served.is_err(),
            "a service ends only after a signal: {served:?}"
        );
    });
    drop(engine);
}

/// Runs a load to its end. Returns the virtual time that it took.
fn finish(engine: &Engine) -> Duration {
    runtime().block_on(async {
        let began = tokio::time::Instant::now();
        let shutdown = Shutdown::default();
        let load = engine.load_inbound(&shutdown);
        let ended = tokio::time::timeout(Duration::from_secs(3600), load).await;
        ended.expect("the load ends").expect("no fault is fatal");
        began.elapsed()
    })
}

/// Runs one seed. Returns the differences from the expected outcome.
fn simulate(
    seed: u64,
    broken: Option<Broken>,
) -> (Result<(), String>, BTreeMap<&'static str, u64>) {
    let mut random = Random(seed);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let inbound = dir.path().join("inbound");
    std::fs::create_dir(&inbound).unwrap();
    let mut expected = Expected::default();
    write_files(&mut random, &inbound, 0, &mut expected);
    let world = Arc::new(World {
        random: Mutex::new(Random(random.next())),
        healed: Mutex::new(false),
        database: Mutex::default(),
        queue: Mutex::default(),
        broken,
        query_time: Duration::ZERO,
        queries: AtomicU32::default(),
        faults: Mutex::default(),
    });
    for crash in 0..random.below(5) {
        if crash > 0 && random.one_in(2) {
            write_files(&mut random, &inbound, crash, &mut expected);
        }
        if broken == Some(Broken::MovesReplace) {
            replace_namesakes(dir.path());
        }
        let other = random.one_in(4);
        let engine = engine(&world, dir.path(), &mut random, other);
        // Long enough now and then for a file to wait until its table takes its rows.
        let limit = if random.one_in(5) { 30_000 } else { 3_000 };
        crash_after(Duration::from_millis(1 + random.below(limit)), engine);
    }
    *world.healed.lock().unwrap() = true;
    let last = engine(&world, dir.path(), &mut random, false);
    finish(&last);
    drop(last);
    // As the reason of these files advises.
    if retry_begun_otherwise(dir.path()) > 0 {
        *world.faults.lock().unwrap().entry(CHANGED).or_default() += 1;
        finish(&engine(&world, dir.path(), &mut random, false));
    }
    let faults = world.faults.lock().unwrap().clone();
    (audit(&world, dir.path(), &expected), faults)
}

/// The fault that the test itself makes.
const CHANGED: &str = "the definition changes while a file is half loaded";

/// Moves the files back to inbound that were begun by another definition. Returns how many.
fn retry_begun_otherwise(root: &Path) -> usize {
    let quarantine = root.join("quarantine");
    let begun_otherwise = |name: &String| {
        let reason = std::fs::read_to_string(quarantine.join(format!("{name}.reason")));
        reason.is_ok_and(|reason| reason.contains("other_definition"))
    };
    let retried: Vec<String> = names(&quarantine)
        .into_iter()
        .filter(begun_otherwise)
        .collect();
    for name in &retried {
        requeue(&directories(root), name.as_ref()).unwrap();
    }
    retried.len()
}

fn audit(world: &World, root: &Path, expected: &Expected) -> Result<(), String> {
    let database = world.database.lock().unwrap();
    let plain = |value: &String| value.strip_prefix(OTHER).unwrap_or(value).to_owned();
    let rows: BTreeSet<String> = database.rows.values().map(plain).collect();
    let check = |right: bool, what: String| if right { Ok(()) } else { Err(what) };
    let mut by_other: BTreeMap<u32, bool> = BTreeMap::new();
    for (id, value) in &database.rows {
        let (file_no, is_other) = (provenance(*id).0, value.starts_with(OTHER));
        check(
            *by_other.entry(file_no).or_insert(is_other) == is_other,
            format!("file {file_no} has rows of two definitions"),
        )?;
    }
    let missing: Vec<_> = expected.rows.difference(&rows).take(5).collect();
    check(missing.is_empty(), format!("rows are missing: {missing:?}"))?;
    check(
        database.rows.len() == expected.rows.len(),
        "rows are doubled or invented".to_owned(),
    )?;
    for (id, value) in &database.rows {
        let ordinal = value.split('-').nth(1).unwrap();
        let (_, place) = provenance(*id);
        check(
            place.to_string() == ordinal,
            format!("{value} has the id of ordinal {place}"),
        )?;
    }
    let rejects = database.rejects.len();
    check(
        rejects == expected.rejects,
        format!("{rejects} rejects of {}", expected.rejects),
    )?;
    check(
        database.frames.is_empty(),
        "ledger entries are left".to_owned(),
    )?;
    let unsettled = database
        .files
        .values()
        .filter(|file| file.state == "pending")
        .count();
    check(unsettled == 0, format!("{unsettled} files are not settled"))?;
    for (dir, count) in [("inbound", 0), ("work", 0), ("history", expected.history)] {
        let found = names(&root.join(dir));
        check(
            found.len() == count,
            format!("{dir} holds {found:?}, not {count} files"),
        )?;
    }
    let quarantined = names(&root.join("quarantine"));
    check(
        quarantined.len() == expected.quarantine * 2,
        format!("quarantine: {quarantined:?}"),
    )
}

fn seeds() -> Range<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    match number("LEMONADE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LEMONADE_SIM_SEEDS").unwrap_or(300),
    }
}

#[test]
fn every_seed_lands_every_record_once() {
    let mut faults: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in seeds() {
        let (result, met) = simulate(seed, None);
        if let Err(wrong) = result {
            panic!("seed {seed}: {wrong}; repeat it with LEMONADE_SIM_SEED={seed}");
        }
        for (name, count) in met {
            *faults.entry(name).or_default() += count;
        }
    }
    if seeds().end - seeds().start > 100 {
        let kinds = [
            "a call to the database fails before",
            "a frame is doubled",
            "a frame is lost",
            "a table refuses a file",
            "an ack is lost",
            "depth fails",
            "frames are out of order",
            "no connection to the queue",
            "publish fails, some frames arrived",
            "receive fails",
            "the database's answer is lost",
            CHANGED,
            "the queue is wiped",
        ];
        assert_eq!(
            faults.keys().copied().collect::<Vec<_>>(),
            kinds,
            "each kind has happened"
        );
    }
}

#[test]
fn a_broken_rule_is_noticed() {
    for broken in [
        Broken::LedgerWithoutRows,
        Broken::SettleTooEarly,
        Broken::IdsByArrival,
        Broken::RejectsDropped,
        Broken::DefinitionsMixed,
        Broken::MovesReplace,
    ] {
        let noticed = (0..60).any(|seed| simulate(seed, Some(broken)).0.is_err());
        assert!(noticed, "{broken:?} went unnoticed");
    }
}

#[test]
fn an_ack_before_the_commit_costs_no_record() {
    for seed in 0..150 {
        let (result, _) = simulate(seed, Some(Broken::AckBeforeCommit));
        result.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

/// The first query of the ledger takes so long that the last records are committed meanwhile. The
/// query that settles their files follows at once, and not after a pause as long as the first
/// query. The number of queries depends on which files are published when one begins, so they are
/// counted.
#[test]
fn a_load_does_not_pause_once_its_last_record_is_committed() {
    const QUERY_TIME: Duration = Duration::from_millis(800);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let inbound = dir.path().join("inbound");
    std::fs::create_dir(&inbound).unwrap();
    let mut random = Random(1);
    let mut expected = Expected::default();
    // More records than are committed before the first query begins.
    for file in 0..64 {
        let value = format!("0.{file}-0");
        let text = format!("[{}]", record(&value));
        std::fs::write(inbound.join(format!("vehicle_events_{file}.json")), text).unwrap();
        expected.rows.insert(value);
        expected.history += 1;
    }
    let world = Arc::new(World {
        random: Mutex::new(Random(2)),
        healed: Mutex::new(true),
        database: Mutex::default(),
        queue: Mutex::default(),
        broken: None,
        query_time: QUERY_TIME,
        queries: AtomicU32::default(),
        faults: Mutex::default(),
    });
    let took = finish(&engine(&world, dir.path(), &mut random, false));
    audit(&world, dir.path(), &expected).unwrap();
    let queries = world.queries.load(Relaxed);
    assert!(queries >= 2, "one query settled all: {took:?}");
    assert!(
        took < QUERY_TIME * queries + QUERY_TIME / 2,
        "{queries} queries: {took:?}"
    );
}
