//! Many hosts, each a network namespace: three take files from one inbound, four commit, two keep the
//! summary, over a Redis Cluster of three masters with a replica each and a Galera cluster of three.
//! While files arrive, machines of each kind are killed, paused, and cut off from the network. Then all
//! faults end, the work drains, and an audit compares the stored data with the expected outcome.
//!
//! The short run has each fault of each kind of machine once; `scripts/hosts --rounds N` has each N
//! times. The seed decides the files and the faults, but not their timing.

mod faults;
mod machine;
mod network;
mod servers;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use mysql_async::Row;
use mysql_async::prelude::Queryable as _;

use crate::chaos::arrivals::{Places, arrive, print_files};
use crate::chaos::audit::{Directories, audit};
use crate::chaos::files::{Dice, Expected};
use crate::chaos::process::{log_end, print_log_summary};
use crate::chaos::setting;
use crate::support::files_below;
use faults::{Counts, Kind, torment};
use machine::{Machine, TICK, attend};
use network::{Host, Network};
use servers::{ACCOUNT, DATABASE, Servers, addresses, start_databases, start_queues};

/// Time after the last fault and the last file in which all work must end.
const DRAINED_WITHIN: Duration = Duration::from_secs(150);

/// Characters of what is wrong in the message of a failure. The whole is in a file.
const WRONG_CHARS: usize = 8_000;

/// The exit code of a process that others have taken over: start it again.
const STOPPED: i32 = 75;

/// The tables whose rows all nodes of the database must have.
const TABLES: &str = "vehicle_events, vehicle_status, daily_summary, ingest_files, ingest_rejects";

/// The environment of the engine on a host.
#[derive(Clone)]
struct Engine {
    /// The directory that the hosts share which take files.
    shared: PathBuf,
    databases: Vec<String>,
    queues: Vec<String>,
}

impl Engine {
    /// A command of the engine. `number` says which node of the database it tries first.
    fn command(&self, host: &Host, number: usize, args: &[&str]) -> Command {
        let mut databases = self.databases.clone();
        databases.rotate_left(number % self.databases.len());
        let databases = databases.join(",");
        let mut command = host.command(env!("CARGO_BIN_EXE_task_runner"));
        command
            .args(args)
            .current_dir(&self.shared)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(
                "DATABASE_URL",
                format!("mysql://{ACCOUNT}@{databases}/{DATABASE}"),
            )
            .env(
                "REDIS_URL",
                format!("redis-cluster://{}", self.queues.join(",")),
            )
            .env("LEMONADE_DATA_DIR", &self.shared)
            .env("LEMONADE_HTTP_ADDR", "off")
            .env("LEMONADE_QUEUE_SHARDS", "3")
            .env("LEMONADE_WORKERS", "2")
            .env("LEMONADE_SCAN_INTERVAL", "500ms")
            .env("LEMONADE_INCOMPLETE_AFTER", "2s")
            .env("LEMONADE_SUMMARY_EVERY", "2s")
            .env("LEMONADE_DRAIN_TIMEOUT", "3s")
            .env("LEMONADE_FRAME_RECORDS", "250");
        command
    }

    /// Starts a process with this role on a host of its own.
    fn start(&self, network: &mut Network, role: &'static str, number: usize) -> Machine {
        let name = format!("{role}{number}");
        let mut machine = Machine::start(network, &name, |host, folder, _| {
            let (engine, host, folder) = (self.clone(), host.clone(), folder.to_owned());
            let name = name.clone();
            move || {
                let args = ["run", "--role", role, "--node", &name];
                let mut command = engine.command(&host, number, &args);
                if role != "ingest" {
                    command.env("LEMONADE_DATA_DIR", &folder);
                }
                command
            }
        });
        if role == "ingest" {
            machine.process = machine.process.may_end_with(STOPPED);
        }
        machine
    }
}

/// All machines.
struct World {
    /// By kind, in the order of [`Kind::ALL`].
    machines: [Vec<Machine>; 5],
    servers: Servers,
    engine: Engine,
    /// Where the test runs commands of the engine.
    operator: Host,
    /// The last field: namespaces are removed after their processes have ended.
    network: Network,
}

impl World {
    async fn start() -> Self {
        let mut network = Network::new();
        let operator = network.host("operator");
        let queues = start_queues(&mut network, &operator).await;
        let databases = start_databases(&mut network).await;
        let engine = Engine {
            shared: network.folder().join("shared"),
            databases: addresses(&databases, 3306),
            queues: addresses(&queues, 6379),
        };
        for name in ["inbound", "outside"] {
            fs::create_dir_all(engine.shared.join(name)).unwrap();
        }
        let servers = Servers::new(&queues, &databases);
        let mut start = |role, machines| {
            let numbers = 1..=machines;
            let start = |number| engine.start(&mut network, role, number);
            numbers.map(start).collect::<Vec<_>>()
        };
        let engines = [start("ingest", 3), start("work", 4), start("summary", 2)];
        let [ingest, work, summary] = engines;
        Self {
            machines: [ingest, work, summary, queues, databases],
            servers,
            engine,
            operator,
            network,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.engine.shared.join(name)
    }

    /// Waits until each machine takes part.
    async fn begin(&mut self) {
        for (kind, machines) in Kind::ALL.into_iter().zip(&mut self.machines) {
            let deadline = Instant::now() + DRAINED_WITHIN;
            while !kind.is_whole(machines, &self.servers).await {
                assert!(Instant::now() < deadline, "{kind:?} does not start");
                attend(machines, None, TICK).await;
            }
        }
    }

    /// Causes all faults, those of each kind at the same time as those of the others.
    async fn torment(&mut self, seed: u64, rounds: u64) -> Result<Counts, String> {
        let [ingest, work, summary, redis, database] = &mut self.machines;
        let servers = &self.servers;
        let torment = |kind, machines| {
            let dice = Dice::new(seed, 10 + kind as u64);
            torment(kind, machines, servers, rounds, dice)
        };
        let (ingest, work, summary, redis, database) = tokio::join!(
            torment(Kind::Ingest, ingest),
            torment(Kind::Work, work),
            torment(Kind::Summary, summary),
            torment(Kind::Redis, redis),
            torment(Kind::Database, database),
        );
        let mut counts = Counts::default();
        for of_kind in [ingest, work, summary, redis, database] {
            counts.add(of_kind?);
        }
        Ok(counts)
    }

    /// Waits until no file is in progress and the queue is empty.
    ///
    /// # Errors
    /// It takes too long.
    async fn drain(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + DRAINED_WITHIN;
        loop {
            for machines in &mut self.machines {
                attend(machines, None, Duration::ZERO).await;
            }
            let (inbound, work) = (self.at("inbound"), self.at("work"));
            let left = [files_below(&inbound), files_below(&work)].concat();
            let queued = self.servers.queued();
            if left.is_empty() && queued.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let log = |machine: &Machine| {
                    let end = log_end(&machine.log, 20);
                    format!("{}\n{end}\n", machine.process.name)
                };
                let logs: String = self.machines.iter().flatten().map(log).collect();
                return Err(format!(
                    "no rest within {DRAINED_WITHIN:?}\nfiles {left:?}\nqueue {queued:?}\n{logs}"
                ));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Ends the processes of the engine, brings the summary up to date, and audits.
    ///
    /// # Errors
    /// What is wrong.
    async fn finish(&mut self, log: &[Expected]) -> Result<(), String> {
        let [ingest, work, summary, ..] = &mut self.machines;
        for machine in ingest.iter_mut().chain(work).chain(summary) {
            machine.process.terminate();
            while !machine.process.is_down() {
                tokio::time::sleep(TICK).await;
                machine.process.note_end();
            }
        }
        for args in [&["summary"][..], &["verify", "--content"]] {
            let output = self
                .engine
                .command(&self.operator, 0, args)
                .output()
                .unwrap();
            if output.status.code() != Some(0) {
                return Err(format!("{args:?}: {output:?}"));
            }
        }
        let mut sums: Vec<Vec<(String, Option<u64>)>> = Vec::new();
        for node in 0..3 {
            let mut conn = self.servers.connect(node).await.unwrap();
            let rows: Vec<Row> = conn
                .query(format!("CHECKSUM TABLE {TABLES}"))
                .await
                .unwrap();
            sums.push(rows.into_iter().map(mysql_async::from_row).collect());
            conn.disconnect().await.unwrap();
        }
        if sums.iter().any(|sum| *sum != sums[0]) {
            return Err(format!("the nodes of the database differ: {sums:?}"));
        }
        let conn = self.servers.connect(0).await.unwrap();
        let [inbound, work, history, quarantine] =
            ["inbound", "work", "history", "quarantine"].map(|name| self.at(name));
        let directories = Directories {
            inbound: &inbound,
            work: &work,
            history: &history,
            quarantine: &quarantine,
        };
        let findings = audit(conn, &directories, self.servers.queued(), log).await;
        if findings.is_empty() {
            return Ok(());
        }
        Err(findings.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_hosts_are_killed_paused_and_cut_off() {
    let seed = setting("LEMONADE_HOSTS_SEED", 1);
    let rounds = setting("LEMONADE_HOSTS_ROUNDS", 1);
    let began = Instant::now();
    let mut world = World::start().await;
    world.begin().await;
    eprintln!("all machines take part after {:.0?}", began.elapsed());

    let places = Places {
        inbound: world.at("inbound"),
        work: world.at("work"),
        outside: world.at("outside"),
    };
    let began = Instant::now();
    let ends = Arc::new(AtomicBool::new(false));
    let goes_on = ends.clone();
    let arrivals = tokio::spawn(arrive(seed, places, move || !goes_on.load(Relaxed)));
    let counts = world.torment(seed, rounds).await;
    ends.store(true, Relaxed);
    let log = arrivals.await.unwrap();
    eprintln!("all faults were over after {:.0?}", began.elapsed());
    print_files(&log);

    let began = Instant::now();
    let finished = async {
        eprintln!("{}", counts?);
        world.drain().await?;
        eprintln!(
            "drained {:.1?} after the last file arrived",
            began.elapsed()
        );
        world.finish(&log).await
    };
    let mut wrong = finished.await.err().unwrap_or_default();
    let [ingest, work, summary, ..] = &world.machines;
    let engines = ingest.iter().chain(work).chain(summary);
    print_log_summary(engines.map(|machine| machine.log.clone()));
    let processes = || world.machines.iter().flatten().map(|it| &it.process);
    let fenced: u64 = processes().map(|process| process.ends).sum();
    eprintln!("processes that ended since others had taken over their files: {fenced}");
    processes().for_each(|process| wrong.push_str(&process.offences.join("\n")));
    if !wrong.is_empty() {
        let kept = world.network.keep_folder();
        let report = kept.join("wrong.txt");
        let _ = fs::write(&report, &wrong);
        let first: String = wrong.chars().take(WRONG_CHARS).collect();
        panic!(
            "failed with seed {seed}:\n{first}\nall of it: {}",
            report.display()
        );
    }
}
