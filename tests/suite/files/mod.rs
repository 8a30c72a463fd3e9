//! Difficult files: replaced while they are read, unreadable, too large, or of an unusual type.
//!
//! Each test runs the real binary, with a good file beside the difficult one that has to be loaded.

mod arrival;
mod begun;
mod changes;
mod containers;
mod copies;
mod datasets;
mod directories;
mod examples;
mod formats;
mod lacking;
mod layouts;
mod limits;
mod hostile;
mod outside;
mod paths;
mod producers;
mod recursive;
mod retention;
mod room;
mod selection;
mod seen;
mod sequences;
mod structure;
mod unmet;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::{Pair, Service, in_work, names, until};

const LIMIT: Duration = Duration::from_secs(60);

fn record(status: impl std::fmt::Display) -> String {
    format!(
        r#"{{"vehicle_id":"v","report_time":"2024-01-01T00:00:00Z","status_source":"s","status":"{status}"}}"#
    )
}

/// All files below a directory, by their paths below it, sorted.
fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
    }
    found.retain(|path| !path.starts_with('.'));
    found.sort();
    found
}

/// The output of a script of the shell that runs in a directory.
fn shell(dir: &Path, script: &str) -> Vec<u8> {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(dir);
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    output.stdout
}

/// Puts the good file into inbound.
fn put_good(pair: &Pair) {
    let text = format!("[{}]", record("good"));
    fs::write(pair.at("inbound").join("vehicle_status_good.json"), text).unwrap();
}

async fn good_rows(pair: &Pair) -> u64 {
    pair.number("SELECT COUNT(*) FROM vehicle_status WHERE status = 'good'")
        .await
}

async fn rows(pair: &Pair) -> u64 {
    pair.number("SELECT COUNT(*) FROM vehicle_status").await
}

async fn embedded() -> Pair {
    Pair::new("memory+sqlite").await
}

/// Starts the binary through another program, which gives it limits or a user.
fn start(pair: &Pair, through: &[&str], args: &[&str]) -> Child {
    let plain = pair.command(args);
    let mut command = Command::new(through[0]);
    command
        .args(&through[1..])
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(plain.get_current_dir().unwrap())
        .env_clear()
        .envs(
            plain
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The exit code and the output.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), said)
}

/// Locks the database against writers until the connection is dropped.
fn lock(pair: &Pair) -> rusqlite::Connection {
    let db = rusqlite::Connection::open(pair.at("test.db")).unwrap();
    db.busy_timeout(LIMIT).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    db
}

/// The size of a file that changes during a load: 272 MiB, or the value in the environment.
fn huge_bytes() -> usize {
    let said = std::env::var("LEMONADE_TRUNCATE_BYTES");
    said.map_or(272 << 20, |said| said.parse().unwrap())
}

/// Writes a file of [`huge_bytes`] whose record number `n` has the status `n`. The rest of a record is
/// text that does not compress, so that it fills the queue.
fn write_huge(path: &Path, records: u32) {
    let mut state = 88_172_645_463_325_252_u64;
    let noise: String = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + (state % 26) as u8)
    })
    .take(huge_bytes() / records as usize)
    .collect();
    let mut file = std::io::BufWriter::new(File::create(path).unwrap());
    for number in 0..records {
        let separator = if number == 0 { '[' } else { ',' };
        let record = record(number);
        let open = &record[..record.len() - 1];
        write!(file, "{separator}{open},\"noise\":\"{noise}\"}}").unwrap();
    }
    file.write_all(b"]").unwrap();
    file.into_inner().unwrap().sync_all().unwrap();
}

/// Another process changes a mapped file in the middle of a load. The load waits with a full queue,
/// because no worker can commit. The change waits until the lease is broken, which takes
/// `/proc/sys/fs/lease-break-time`, 45 seconds.
async fn changed_in_the_middle(how: &str) {
    const RECORDS: u32 = 1_500;
    let pair = embedded().await;
    pair.expect(0, &["migrate"]);
    let original = pair.at("original");
    write_huge(&original, RECORDS);
    assert!(original.metadata().unwrap().len() > huge_bytes() as u64);
    let inbound = pair.at("inbound");
    put_good(&pair);
    fs::copy(&original, inbound.join("vehicle_status_huge.json")).unwrap();
    let mut load = pair
        .command(&["load"])
        .env("LEMONADE_MEMORY_BUDGET", "64MiB")
        .env("LEMONADE_QUEUE_BYTES", "1MiB")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let state = "SELECT state FROM ingest_files WHERE name = 'vehicle_status_huge.json'";
    until("the file to be registered", LIMIT, async || {
        !pair.query(state).await.is_empty()
    })
    .await;
    let locked = lock(&pair);
    assert_eq!(
        load.try_wait().unwrap(),
        None,
        "the load is in the middle of the file"
    );
    let path = in_work(&pair.at("work"), "vehicle_status_huge.json");
    let changed = Command::new("sh")
        .args(["-c", how, "sh"])
        .arg(&path)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(changed.success());
    drop(locked);
    let (code, said) = ended(load);
    assert_eq!(code, Some(2), "{how}: {said}");
    assert_eq!(
        names(&pair.at("quarantine")),
        [
            "vehicle_status_huge.json",
            "vehicle_status_huge.json.reason"
        ],
        "{how}: {said}"
    );
    let reason = fs::read_to_string(pair.at("quarantine/vehicle_status_huge.json.reason")).unwrap();
    assert!(reason.contains("changed while it was read"), "{reason}");
    assert_eq!(
        pair.query(state).await[0][0].as_deref(),
        Some("quarantined")
    );
    assert_eq!(good_rows(&pair).await, 1, "{how}: the others load");

    // The stored rows are right, and the old content completes the file under the same number.
    let wrong = "SELECT COUNT(*) FROM vehicle_status WHERE status <> 'good' \
                 AND status <> CAST(id & 4294967295 AS TEXT)";
    assert_eq!(pair.number(wrong).await, 0);
    let before = rows(&pair).await;
    assert!(
        before < u64::from(RECORDS),
        "{how}: the load was in the middle of the file"
    );
    fs::rename(&original, inbound.join("vehicle_status_again.json")).unwrap();
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, u64::from(RECORDS) + 1);
    assert_eq!(pair.number(wrong).await, 0);
    let files = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";
    assert_eq!(pair.number(files).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_short_in_the_middle_of_a_load_is_quarantined() {
    changed_in_the_middle("dd if=/dev/null of=\"$1\" bs=4096 seek=1 count=0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_overwritten_in_the_middle_of_a_load_is_quarantined() {
    changed_in_the_middle("dd if=/dev/zero of=\"$1\" bs=1M seek=1 count=250 conv=notrunc").await;
}

/// 160 members of 64 MiB each: 10 MB that inflate to 10 GiB.
#[tokio::test]
async fn a_bomb_is_quarantined_within_memory_and_disk() {
    let pair = embedded().await;
    put_good(&pair);
    let mut member = GzEncoder::new(Vec::new(), Compression::best());
    member.write_all(&vec![b' '; 64 << 20]).unwrap();
    let bomb = member.finish().unwrap().repeat(160);
    assert!(
        (9_000_000..11_000_000).contains(&bomb.len()),
        "{}",
        bomb.len()
    );
    fs::write(
        pair.at("inbound").join("vehicle_status_bomb.json.gz"),
        &bomb,
    )
    .unwrap();
    let began = Instant::now();
    let mut load = start(&pair, &["env"], &["load"]);
    let (mut memory, mut disk) = (0, 0);
    while load.try_wait().unwrap().is_none() {
        memory = memory.max(anonymous_memory(&load));
        disk = disk.max(unlinked_bytes(&load));
        assert!(began.elapsed() < LIMIT, "it takes too long");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (code, said) = ended(load);
    assert_eq!(code, Some(2), "{said}");
    let reason = fs::read_to_string(pair.at("quarantine/vehicle_status_bomb.json.gz.reason"));
    let reason = reason.unwrap();
    assert!(reason.contains("256 times its size"), "{reason}");
    assert_eq!(good_rows(&pair).await, 1);
    eprintln!(
        "the bomb took {:?}, {} MiB of memory, {} MiB of disk",
        began.elapsed(),
        memory >> 20,
        disk >> 20
    );
    assert!(memory < 200 << 20, "{memory} bytes of memory");
    assert!(disk > 1 << 30, "the watch has seen nothing: {disk}");
    assert!(disk <= 257 * bomb.len() as u64, "{disk} bytes of disk");
}

/// `RssAnon` of a process; 0 if it is gone.
fn anonymous_memory(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.map_or(0, |kib| kib.parse::<u64>().unwrap() * 1024)
}

/// Disk that a process uses in files without a name.
fn unlinked_bytes(child: &Child) -> u64 {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", child.id())) else {
        return 0;
    };
    let metadata = open.flatten().filter_map(|fd| fs::metadata(fd.path()).ok());
    metadata
        .filter(|file| file.is_file() && file.nlink() == 0)
        .map(|file| file.blocks() * 512)
        .sum()
}

/// Forty mapped files use a descriptor each. A limit of 64 is enough. With 20, some files
/// (measured: a third) cannot be opened at once, and wait for the others.
#[tokio::test]
async fn few_descriptors_are_enough() {
    for descriptors in [64, 20] {
        let pair = embedded().await;
        put_good(&pair);
        for number in 0..40 {
            let text = format!("[{}{}]", record(number), " ".repeat(3 << 20));
            let name = format!("vehicle_status_{number}.json");
            fs::write(pair.at("inbound").join(name), text).unwrap();
        }
        let limit = format!("--nofile={descriptors}");
        let (code, said) = ended(start(&pair, &["prlimit", &limit], &["load"]));
        assert_eq!(code, Some(0), "{descriptors}: {said}");
        assert_eq!(rows(&pair).await, 41);
        assert_eq!(names(&pair.at("history")).len(), 41);
    }
}

/// A file that the engine's user may not read waits in inbound, and the status says so.
#[tokio::test]
async fn an_unreadable_file_waits_and_the_others_load() {
    const NOBODY: u32 = 65_534;
    let pair = embedded().await;
    put_good(&pair);
    let inbound = pair.at("inbound");
    let secret = inbound.join("vehicle_status_secret.json");
    fs::write(&secret, format!("[{}]", record("secret"))).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let through: &[&str] = if rustix::process::geteuid().is_root() {
        // Root may read everything.
        let good = inbound.join("vehicle_status_good.json");
        for path in [inbound.parent().unwrap(), &inbound, &good] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]
    } else {
        &["env"]
    };
    let (code, said) = ended(start(&pair, through, &["load"]));
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("this user may not read or move it"), "{said}");
    assert_eq!(names(&inbound), ["vehicle_status_secret.json"]);
    assert_eq!((good_rows(&pair).await, rows(&pair).await), (1, 1));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, 2);
}

/// A file that is a mount point cannot be moved (EBUSY). An error of a claim affects only this
/// file: a load ends, and a service continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_claim_fails_waits_and_the_others_load() {
    let pair = embedded().await;
    pair.expect(0, &["migrate"]);
    let inbound = pair.at("inbound");
    let mounted = inbound.join("vehicle_status_a_mounted.json");
    fs::write(&mounted, format!("[{}]", record("mounted"))).unwrap();
    // The oldest file comes first, and its error must not stop the others.
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = File::options().append(true).open(&mounted).unwrap();
    file.set_modified(long_ago).unwrap();
    drop(file);
    put_good(&pair);
    let mount = format!("mount --bind '{0}' '{0}' && exec \"$@\"", mounted.display());
    let through = ["timeout", "60", "unshare", "--mount", "--map-root-user"];
    let through = [&through[..], &["sh", "-c", &mount, "sh"]].concat();
    let (code, said) = ended(start(&pair, &through, &["load"]));
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("it cannot be claimed: "), "{said}");
    assert!(said.contains("cannot be claimed, and waits"), "{said}");
    assert_eq!(names(&inbound), ["vehicle_status_a_mounted.json"]);
    assert_eq!((good_rows(&pair).await, rows(&pair).await), (1, 1));

    let off = [&through[..], &["env", "LEMONADE_HTTP_ADDR=off"]].concat();
    let mut service = Service(start(&pair, &off, &["run"]));
    let text = format!("[{}]", record("next"));
    fs::write(inbound.join("vehicle_status_next.json"), text).unwrap();
    until("the next file", LIMIT, async || rows(&pair).await == 2).await;
    assert_eq!(service.terminate(), Some(0));
    assert_eq!(names(&inbound), ["vehicle_status_a_mounted.json"]);
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, 3);
}

#[tokio::test]
async fn paths_that_are_not_regular_files_stay_in_their_place() {
    let pair = embedded().await;
    put_good(&pair);
    let inbound = pair.at("inbound");
    let outside = pair.at("outside.json");
    fs::write(&outside, format!("[{}]", record("outside"))).unwrap();
    std::os::unix::fs::symlink(&outside, inbound.join("vehicle_status_link.json")).unwrap();
    let kinds = rustix::fs::FileType::Fifo;
    let fifo = inbound.join("vehicle_status_fifo.json");
    rustix::fs::mknodat(rustix::fs::CWD, fifo, kinds, rustix::fs::Mode::RUSR, 0).unwrap();
    let socket = inbound.join("vehicle_status_socket.json");
    let socket = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let inner = inbound.join("vehicle_status_directory.json");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("vehicle_status.json"), "[]").unwrap();
    pair.expect(0, &["load"]);
    drop(socket);
    assert_eq!((good_rows(&pair).await, rows(&pair).await), (1, 1));
    let left = ["directory", "fifo", "link", "socket"];
    assert_eq!(
        names(&inbound),
        left.map(|kind| format!("vehicle_status_{kind}.json"))
    );
    assert_eq!(names(&inner), ["vehicle_status.json"]);
    assert_eq!(names(&pair.at("quarantine")), [""; 0]);
    assert!(outside.exists());
}

#[tokio::test]
async fn history_may_be_on_another_device() {
    let pair = embedded().await;
    put_good(&pair);
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    assert_ne!(device(elsewhere.path()), device(&pair.at("inbound")));
    let text = fs::read(pair.at("inbound").join("vehicle_status_good.json")).unwrap();
    let mut load = pair.command(&["load"]);
    load.env("LEMONADE_HISTORY", elsewhere.path());
    assert_eq!(load.output().unwrap().status.code(), Some(0));
    assert_eq!(good_rows(&pair).await, 1);
    assert_eq!(names(&pair.at("work")), [""; 0]);
    assert_eq!(names(elsewhere.path()), ["vehicle_status_good.json"]);
    let moved = elsewhere.path().join("vehicle_status_good.json");
    assert_eq!(fs::read(moved).unwrap(), text);
}

#[tokio::test]
async fn a_name_may_come_again_and_nothing_is_overwritten() {
    let pair = embedded().await;
    for status in ["one", "two", "two", "three"] {
        let path = pair.at("inbound").join("vehicle_status.json");
        fs::write(path, format!("[{}]", record(status))).unwrap();
        put_good(&pair);
        pair.expect(0, &["load"]);
    }
    let stored = pair
        .query("SELECT status FROM vehicle_status ORDER BY id")
        .await;
    let stored: Vec<_> = stored
        .into_iter()
        .map(|row| row[0].clone().unwrap())
        .collect();
    let mut sorted = stored.clone();
    sorted.sort();
    assert_eq!(sorted, ["good", "one", "three", "two"]);
    let kept = |name: &str| fs::read_to_string(pair.at("history").join(name)).unwrap();
    for (name, status) in [
        ("vehicle_status.json", "one"),
        ("vehicle_status.json.1", "two"),
        ("vehicle_status.json.2", "two"),
        ("vehicle_status.json.3", "three"),
    ] {
        assert_eq!(kept(name), format!("[{}]", record(status)), "{name}");
    }
}

#[tokio::test]
async fn a_name_may_be_any_bytes() {
    let pair = embedded().await;
    put_good(&pair);
    let longest = [b"vehicle_status_".to_vec(), vec![b'x'; 240]].concat();
    let strange: [&[u8]; 7] = [
        b"vehicle_status_\xff\xfe.json",
        b"vehicle_status_\n\r\t.json",
        b"vehicle_status_'; DROP TABLE vehicle_status; --",
        b"-vehicle_status--help",
        b"vehicle_status_\x1b[31m\x07",
        "vehicle_status_\u{202e}nosj.\u{1f697}".as_bytes(),
        &longest,
    ];
    for (number, name) in strange.iter().enumerate() {
        let path = pair.at("inbound").join(OsStr::from_bytes(name));
        fs::write(path, format!("[{}]", record(number))).unwrap();
    }
    pair.expect(0, &["load"]);
    assert_eq!(rows(&pair).await, 8);
    for name in strange {
        let path = pair.at("history").join(OsStr::from_bytes(name));
        assert!(path.exists(), "{path:?}");
    }
}

#[tokio::test]
async fn a_name_cannot_steer_the_terminal_or_add_a_line() {
    let pair = embedded().await;
    let name = "vehicle_status_\x1b[2J\x07\nERROR: run `rm -rf`.json";
    let inbound = pair.at("inbound");
    fs::write(inbound.join(name), "[{").unwrap();
    let (aside, reject) = (pair.at("aside"), name.replace("status_", "status_reject_"));
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join(reject), "[{\"vehicle_id\":1}]").unwrap();
    let aside = aside.to_str().unwrap();
    let commands: &[&[&str]] = &[
        &["check", aside],
        &["load", "--log-format", "text", aside],
        &["load", "--log-format", "text"],
        &["load", "--log-format", "json"],
        &["files", "list"],
        &["files", "show", "1"],
        &["rejects", "list"],
        &["status"],
        &["verify"],
    ];
    let mut named = 0;
    for command in commands {
        let done = pair.run(command);
        for output in [&done.stdout, &done.stderr] {
            let text = String::from_utf8_lossy(output);
            named += usize::from(text.contains("[2J"));
            let raw = text.contains(['\x1b', '\x07']);
            let own_line = text.lines().any(|line| line.starts_with("ERROR: run"));
            assert!(!raw && !own_line, "{command:?}: {text:?}");
        }
    }
    assert!(named >= 5, "the names were logged {named} times");
    assert_eq!(names(&pair.at("quarantine")).len(), 2);
}

/// A claimed file is removed while it waits for the ledger. If the engine has read it, its records
/// are stored; if not, none is. In both cases the service continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_while_it_is_loaded_does_not_stop_the_service() {
    let pair = embedded().await;
    pair.expect(0, &["migrate"]);
    let mut service = Service::start(&pair, &["run"]);
    let path = || in_work(&pair.at("work"), "vehicle_status_good.json");
    until("the service", LIMIT, async || pair.at("work").exists()).await;
    let locked = lock(&pair);
    put_good(&pair);
    until("the claim", LIMIT, async || path().exists()).await;
    fs::remove_file(path()).unwrap();
    drop(locked);
    put_good(&pair);
    until("the good file in history", LIMIT, async || {
        names(&pair.at("history")) == ["vehicle_status_good.json"]
    })
    .await;
    assert_eq!((good_rows(&pair).await, rows(&pair).await), (1, 1));
    assert_eq!(names(&pair.at("quarantine")), [""; 0]);
    assert_eq!(service.terminate(), Some(0));
}

/// Files are added to and removed from a running service, at every step.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_vanish_do_not_disturb_the_service() {
    let pair = embedded().await;
    pair.expect(0, &["migrate"]);
    let inbound = pair.at("inbound");
    let mut service = Service::start(&pair, &["run"]);
    until("the service", LIMIT, async || pair.at("work").exists()).await;
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < Duration::from_secs(3) {
        let name = format!("vehicle_status_{number}.json");
        fs::write(inbound.join(&name), format!("[{}]", record(number))).unwrap();
        // Random delays, from none to the middle of the work.
        tokio::time::sleep(Duration::from_micros(number * 37 % 5_000)).await;
        for place in ["inbound", "work"] {
            let _ = fs::remove_file(in_work(&pair.at(place), &name));
        }
        number += 1;
    }
    put_good(&pair);
    until("the good file", LIMIT, async || good_rows(&pair).await == 1).await;
    until("an empty work", LIMIT, async || {
        names(&pair.at("work")).is_empty()
    })
    .await;
    assert_eq!(service.terminate(), Some(0), "after {number} files");
    assert_eq!(names(&pair.at("quarantine")), [""; 0]);
}
