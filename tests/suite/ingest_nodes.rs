//! Several processes that take files from one inbound, with one work directory: claims, take-over of the
//! files of dead ones, and what a process can do that was stopped, taken over and resumed.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::end_to_end::generate;
use crate::support::{Pair, Service, files_below, free_addr, names, until};

const WITHIN: Duration = Duration::from_secs(240);

/// A process without a beat for ten seconds is dead; three beats of another one must find it so.
const TAKEN_OVER: Duration = Duration::from_secs(30);

/// The code of a process that others have taken over: start it again.
const STOPPED: i32 = 75;

fn start(pair: &Pair, node: &str, role: &str) -> Service {
    Service::start(pair, &["run", "--role", role, "--node", node])
}

/// As [`start`], with a pipe for what it logs.
fn start_heard(pair: &Pair, node: &str, role: &str) -> Service {
    let mut command = pair.command(&["run", "--role", role, "--node", node, "--http-addr", "off"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    Service(command.spawn().unwrap())
}

/// What a process has logged until its end.
fn heard(service: &mut Service) -> String {
    let mut text = String::new();
    let mut stderr = service.0.stderr.take().unwrap();
    stderr.read_to_string(&mut text).unwrap();
    text
}

/// Writes files into inbound. Another seed makes other contents.
fn deliver(pair: &Pair, files: u64, records: u64, seed: u64) {
    let [files, records, seed] = [files, records, seed].map(|number| number.to_string());
    generate(
        pair,
        &[
            "--files",
            &files,
            "--records",
            &records,
            "--bad",
            "0",
            "--seed",
            &seed,
        ],
    );
}

/// Waits until history has this many files.
async fn in_history(pair: &Pair, files: usize, within: Duration) {
    until("files in history", within, async || {
        names(&pair.at("history")).len() == files
    })
    .await;
}

/// Waits until a node has this many files in work.
async fn in_work(pair: &Pair, node: &str, files: usize) {
    until("files in work", WITHIN, async || {
        claimed(pair, node) == files
    })
    .await;
}

/// How many files a node has in work.
fn claimed(pair: &Pair, node: &str) -> usize {
    files_below(&pair.at("work").join(node)).len()
}

/// Stops a process. One that is stopped within a transaction of SQLite keeps the whole file locked.
async fn stop(pair: &Pair, service: &Service) {
    loop {
        service.stop();
        let Some(path) = pair.database_url.strip_prefix("sqlite:") else {
            return;
        };
        let mut db = rusqlite::Connection::open(path).unwrap();
        db.busy_timeout(Duration::from_secs(1)).unwrap();
        if db
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .is_ok()
        {
            return;
        }
        service.signal(Signal::CONT);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn ended(service: &mut Service) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = service.0.try_wait().unwrap() {
            return status.code();
        }
        assert!(began.elapsed() < Duration::from_secs(15), "it does not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The paths of everything below a directory.
fn left_in(directory: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(directory).unwrap();
            left.push(name.to_str().unwrap().to_owned());
            if path.is_dir() {
                directories.push(path);
            }
        }
    }
    left
}

async fn audit(pair: &Pair, files: u64, records: u64) {
    let name = pair.name;
    for place in ["inbound", "work", "quarantine"] {
        assert_eq!(names(&pair.at(place)), [""; 0], "{name}: {place}");
    }
    assert_eq!(
        files_below(&pair.at("history")).len() as u64,
        files,
        "{name}"
    );
    let rows = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert_eq!(rows, records, "{name}");
    let settled = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";
    assert_eq!(pair.number(settled).await, files, "{name}");
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_take_each_file_once_while_one_is_killed_and_one_is_stopped() {
    const FILES: u64 = 5_000;
    for name in ["redis+mysql", "redis+sqlite"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        let records = 2 * FILES;
        deliver(&pair, FILES, 2, 1);
        let delivered = names(&pair.at("inbound"));
        let both = "ingest,work";
        let mut nodes = ["a", "b", "c"].map(|node| start(&pair, node, both));
        let some = async |node: &str| {
            until("files of each node in work", WITHIN, async || {
                claimed(&pair, node) > 0
            })
            .await;
        };
        for node in ["a", "b", "c"] {
            some(node).await;
        }
        nodes[0].0.kill().unwrap();
        nodes[0].0.wait().unwrap();
        some("b").await;
        stop(&pair, &nodes[1]).await;
        in_history(&pair, FILES as usize, WITHIN).await;
        assert_eq!(claimed(&pair, "a") + claimed(&pair, "b"), 0, "{name}");
        nodes[1].signal(Signal::CONT);
        assert_eq!(ended(&mut nodes[1]).await, Some(STOPPED), "{name}");
        // Both names come back.
        let mut again = ["a", "b"].map(|node| start(&pair, node, both));
        deliver(&pair, 40, 2, 9);
        in_history(&pair, FILES as usize + 40, WITHIN).await;
        for node in &mut again {
            assert_eq!(node.terminate(), Some(0), "{name}");
        }
        assert_eq!(nodes[2].terminate(), Some(0), "{name}");
        let stored: BTreeSet<String> = names(&pair.at("history")).into_iter().collect();
        assert!(delivered.iter().all(|file| stored.contains(file)), "{name}");
        audit(&pair, FILES + 40, records + 80).await;
        let left = left_in(&pair.at("work"));
        assert_eq!(left, [".lemonade.lock"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_stopped_and_taken_over_ends_without_harm() {
    for name in ["redis+mysql", "redis+sqlite"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        deliver(&pair, 30, 5, 1);
        let mut victim = start_heard(&pair, "victim", "ingest");
        // Nobody commits, so all files stay in work.
        in_work(&pair, "victim", 30).await;
        stop(&pair, &victim).await;
        let stopped = Instant::now();
        let mut heir = start_heard(&pair, "heir", "ingest,work");
        in_history(&pair, 30, TAKEN_OVER).await;
        assert!(stopped.elapsed() > Duration::from_secs(10), "{name}");
        // A file with a name that the victim knows is now that of the heir, or of nobody.
        let names = names(&pair.at("history"));
        fs::copy(
            pair.at("history").join(&names[0]),
            pair.at("inbound").join(&names[0]),
        )
        .unwrap();
        victim.signal(Signal::CONT);
        assert_eq!(ended(&mut victim).await, Some(STOPPED), "{name}");
        let said = heard(&mut victim);
        assert!(
            said.contains("another process has taken over its files"),
            "{said}"
        );
        in_history(&pair, 31, WITHIN).await;
        assert_eq!(heir.terminate(), Some(0), "{name}");
        let said = heard(&mut heir);
        assert!(
            said.contains("takes over the files of a dead node"),
            "{said}"
        );
        fs::remove_file(pair.at("history").join(format!("{}.1", names[0]))).unwrap();
        audit(&pair, 30, 150).await;
    }
}

/// For example in a container, which has another host name after each start.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_takes_over_what_a_process_of_another_name_has_left_a_moment_ago() {
    for name in ["redis+mysql", "redis+sqlite"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        deliver(&pair, 30, 5, 1);
        let mut killed = start(&pair, "killed", "ingest");
        in_work(&pair, "killed", 30).await;
        killed.0.kill().unwrap();
        killed.0.wait().unwrap();
        let began = Instant::now();
        pair.expect(0, &["load", "--node", "other"]);
        assert!(
            began.elapsed() < TAKEN_OVER,
            "{name}: {:?}",
            began.elapsed()
        );
        audit(&pair, 30, 150).await;
        // Beside one that lives, a load ends at once.
        let mut lives = start(&pair, "lives", "ingest");
        deliver(&pair, 9, 5, 9);
        in_work(&pair, "lives", 9).await;
        let began = Instant::now();
        pair.expect(0, &["load", "--node", "other"]);
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{name}: {:?}",
            began.elapsed()
        );
        lives.0.kill().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_epoch_has_ended_registers_no_file() {
    for name in ["redis+mysql", "redis+sqlite"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        let mut node = start(&pair, "a", "ingest,work");
        let row = "SELECT COUNT(*) FROM ingest_nodes WHERE node = 'a'";
        until("its row", WITHIN, async || pair.number(row).await == 1).await;
        deliver(&pair, 1, 2, 1);
        in_history(&pair, 1, WITHIN).await;
        // As an heir does. The next beat is up to three seconds away.
        pair.execute("UPDATE ingest_nodes SET epoch = epoch + 1")
            .await;
        deliver(&pair, 9, 2, 9);
        assert_eq!(ended(&mut node).await, Some(STOPPED), "{name}");
        let files = pair.number("SELECT COUNT(*) FROM ingest_files").await;
        assert_eq!(files, 1, "{name}: nothing was registered");
        let mut next = start(&pair, "b", "ingest,work");
        in_history(&pair, 10, WITHIN).await;
        assert_eq!(next.terminate(), Some(0), "{name}");
        audit(&pair, 10, 20).await;
    }
}

/// For example after a change of the roles of a host.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_process_that_comes_back_without_its_role_are_taken_over() {
    for name in ["redis+mysql", "redis+sqlite"] {
        let pair = Pair::new(name).await;
        pair.expect(0, &["migrate"]);
        deliver(&pair, 9, 5, 1);
        let mut former = start(&pair, "same", "ingest");
        in_work(&pair, "same", 9).await;
        assert_eq!(former.terminate(), Some(0), "{name}");
        assert_eq!(claimed(&pair, "same"), 9, "{name}");
        let mut same = start(&pair, "same", "work");
        let mut other = start(&pair, "other", "ingest");
        in_history(&pair, 9, TAKEN_OVER).await;
        for node in [&mut same, &mut other] {
            assert_eq!(node.terminate(), Some(0), "{name}");
        }
        audit(&pair, 9, 45).await;
        assert_eq!(left_in(&pair.at("work")), [".lemonade.lock"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_before_it_works_leaves_no_trace() {
    let pair = Pair::new("redis+mysql").await;
    pair.expect(0, &["migrate"]);
    let ledger = "SELECT COUNT(*) FROM ingest_nodes";
    let is_clean = async |what: &str| {
        assert_eq!(left_in(&pair.at("work")), [".lemonade.lock"], "{what}");
        assert_eq!(pair.number(ledger).await, 0, "{what}");
    };
    pair.expect(66, &["load", "no-such-file.json"]);
    is_clean("a load of a file that does not exist").await;
    let mut command = pair.command(&["load", "-", "--as", "vehicle_events_a/b.json"]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    assert_ne!(command.status().unwrap().code(), Some(0));
    is_clean("a load of standard input with a name that no file can have").await;
    let mut command = pair.command(&["run", "--http-addr", "off"]);
    command.env("REDIS_URL", format!("redis://{}", free_addr()));
    let mut service = Service(command.stderr(Stdio::null()).spawn().unwrap());
    until("it connects", WITHIN, async || {
        pair.at("work/.lemonade.lock").exists()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(service.terminate(), Some(0));
    is_clean("a service without a queue").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_names_are_refused_and_a_killed_process_comes_back_at_once() {
    let pair = Pair::new("redis+mysql").await;
    pair.expect(0, &["migrate"]);
    let mut first = start(&pair, "same", "ingest,work");
    let lives = async || {
        let sql = "SELECT COUNT(*) FROM ingest_nodes WHERE node = 'same'";
        until("its row", WITHIN, async || pair.number(sql).await == 1).await;
    };
    lives().await;
    let refused = pair.run(&["run", "--node", "same", "--http-addr", "off"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("--node NAME"), "{said}");
    // Elsewhere, no lock tells of it.
    let other = pair.at("elsewhere");
    let other = other.to_str().unwrap();
    let refused = pair.run(&[
        "run",
        "--node",
        "same",
        "--work",
        other,
        "--http-addr",
        "off",
    ]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("a process of this name lives"), "{said}");

    deliver(&pair, 9, 2, 1);
    in_history(&pair, 9, WITHIN).await;
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let killed = Instant::now();
    deliver(&pair, 9, 2, 7);
    let mut next = start(&pair, "same", "ingest,work");
    in_history(&pair, 18, WITHIN).await;
    assert!(
        killed.elapsed() < Duration::from_secs(8),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(next.terminate(), Some(0));
    audit(&pair, 18, 36).await;
}
