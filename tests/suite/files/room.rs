//! Directories without free space, and directories with very many files.

use std::io::Lines;
use std::process::ChildStderr;

use super::*;
use crate::support::{free_addr, in_work, page};

/// Runs a load in a separate mount namespace, in which a directory is a tmpfs of this size in MiB.
fn start_with_small(pair: &Pair, place: &str, mib: u32) -> Child {
    start_within(pair, place, mib, &["load", "--disk-floor", "0B"])
}

/// The same for any command.
fn start_within(pair: &Pair, place: &str, mib: u32, args: &[&str]) -> Child {
    let place = pair.at(place);
    fs::create_dir(&place).unwrap();
    let place = place.to_str().unwrap();
    let mounted = format!("mount -t tmpfs -o size={mib}M tmpfs '{place}' && exec \"$@\"");
    let in_namespace = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        &mounted,
        "sh",
    ];
    start(pair, &in_namespace, args)
}

/// Puts a file into inbound that inflates to this many MB, with one record per MB.
fn put_compressed(pair: &Pair, records: u32) {
    let line = format!("{}\n{}", record("large"), " ".repeat(1_000_000));
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..records {
        gz.write_all(line.as_bytes()).unwrap();
    }
    let large = pair.at("inbound").join("vehicle_status_large.json.gz");
    fs::write(large, gz.finish().unwrap()).unwrap();
}

/// The engine locks the full work directory, but has no space to write its process id into the lock
/// file. The loaded file is small and in an archive, so it needs no space.
#[tokio::test]
async fn a_full_work_directory_does_not_prevent_a_start() {
    let pair = embedded().await;
    let archive = pair.at("vehicle_status_archive.json");
    fs::write(&archive, format!("[{}]", record("good"))).unwrap();
    let work = pair.at("work");
    fs::create_dir(&work).unwrap();
    let work = work.to_str().unwrap();
    let full = format!(
        "mount -t tmpfs -o size=64k tmpfs '{work}' && \
         ! dd if=/dev/zero of='{work}/.full' bs=4k 2>/dev/null && exec \"$@\""
    );
    let through = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        &full,
        "sh",
    ];
    let args = ["load", "--disk-floor", "0B", archive.to_str().unwrap()];
    let (code, said) = ended(start(&pair, &through, &args));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("the process id could not be written"),
        "{said}"
    );
    assert_eq!(good_rows(&pair).await, 1);
}

/// The log line of a process that begins to wait, and the lines after it.
fn waits(process: &mut Child) -> (String, Lines<BufReader<ChildStderr>>) {
    let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
    let waits = said.find(|line| line.as_ref().unwrap().contains("until it works"));
    (waits.expect("it waits").unwrap(), said)
}

/// Runs a command in the namespace of the load of [`start_with_small`]. Returns its output.
fn beside(load: &Child, command: &[&str]) -> String {
    let enter = ["--user", "--preserve-credentials", "--mount", "-t"];
    let output = Command::new("nsenter")
        .args(enter)
        .arg(load.id().to_string())
        .args(command)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_to_inflate_is_waited_out() {
    let pair = embedded().await;
    put_good(&pair);
    put_compressed(&pair, 20);
    let mut load = start_with_small(&pair, "work", 8);
    let (waits, said) = waits(&mut load);
    assert!(waits.contains("reading"), "{waits}");
    until("the good file", LIMIT, async || good_rows(&pair).await == 1).await;
    let work = pair.at("work");
    let work = work.to_str().unwrap();
    beside(&load, &["mount", "-o", "remount,size=100M", work]);
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert_eq!(load.wait().unwrap().code(), Some(0), "{rest:?}");
    assert_eq!(rows(&pair).await, 21);
    assert_eq!(names(&pair.at("quarantine")), [""; 0]);
    assert_eq!(names(&pair.at("history")).len(), 2);
}

/// Files that arrive later do not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_room_delays_no_later_file() {
    let pair = embedded().await;
    put_compressed(&pair, 20);
    let args = ["run", "--disk-floor", "0B", "--http-addr", "off"];
    let mut service = Service(start_within(&pair, "work", 8, &args));
    let (waits, _said) = waits(&mut service.0);
    assert!(waits.contains("reading"), "{waits}");
    put_good(&pair);
    until("the good file", LIMIT, async || {
        names(&pair.at("history")).len() == 1
    })
    .await;
    assert_eq!((rows(&pair).await, good_rows(&pair).await), (1, 1));
    let work = pair.at("work");
    let work = work.to_str().unwrap();
    beside(&service.0, &["mount", "-o", "remount,size=100M", work]);
    until("the large file", LIMIT, async || {
        names(&pair.at("history")).len() == 2
    })
    .await;
    assert_eq!(service.terminate(), Some(0));
    assert_eq!(rows(&pair).await, 21);
}

/// The whole file would fit on the disk, but less than the floor would stay free, and the database
/// usually shares the disk. Bytes written so far are deleted while the load waits.
#[tokio::test(flavor = "multi_thread")]
async fn inflating_a_file_leaves_the_disk_its_floor() {
    let pair = embedded().await;
    put_good(&pair);
    put_compressed(&pair, 30);
    let args = ["load", "--disk-floor", "40MiB"];
    let mut load = start_within(&pair, "work", 64, &args);
    let (waits, said) = waits(&mut load);
    assert!(waits.contains("less than disk_floor"), "{waits}");
    until("the good file", LIMIT, async || good_rows(&pair).await == 1).await;
    let work = pair.at("work");
    let work = work.to_str().unwrap();
    let free = || beside(&load, &["stat", "--file-system", "--format=%a %S", work]);
    until("the space that was used", LIMIT, async || {
        let free = free();
        let (blocks, bytes) = free.trim().split_once(' ').unwrap();
        blocks.parse::<u64>().unwrap() * bytes.parse::<u64>().unwrap() > 60 << 20
    })
    .await;
    beside(&load, &["mount", "-o", "remount,size=100M", work]);
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert_eq!(load.wait().unwrap().code(), Some(0), "{rest:?}");
    assert_eq!(rows(&pair).await, 31);
    assert_eq!(names(&pair.at("history")).len(), 2);
}

/// History is on another device, which is full: the whole file stays in work, and no partial copy
/// stays in history.
#[tokio::test(flavor = "multi_thread")]
async fn no_room_in_history_is_waited_out() {
    let pair = embedded().await;
    let text = format!("[{}]{}", record("good"), " ".repeat(3 << 20));
    fs::write(pair.at("inbound").join("vehicle_status_large.json"), &text).unwrap();
    let mut load = start_with_small(&pair, "history", 1);
    let (waits, said) = waits(&mut load);
    assert!(waits.contains("cannot be moved"), "{waits}");
    assert_eq!(good_rows(&pair).await, 1);
    let work = in_work(&pair.at("work"), "vehicle_status_large.json");
    assert_eq!(fs::read_to_string(work).unwrap(), text);
    let history = pair.at("history");
    let history = history.to_str().unwrap();
    until("nothing in history", LIMIT, async || {
        beside(&load, &["ls", "-A", history]).is_empty()
    })
    .await;
    // The tmpfs ends with the load, so the bytes are checked before.
    let wait = format!(
        "mount -o remount,size=100M '{history}' && \
         while [ ! -e '{history}/vehicle_status_large.json' ]; do sleep 0.05; done && \
         ls -A '{history}' && sha256sum <'{history}/vehicle_status_large.json'"
    );
    let stored = beside(&load, &["sh", "-c", &wait]);
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert_eq!(load.wait().unwrap().code(), Some(0), "{rest:?}");
    let original = pair.at("original");
    fs::write(&original, &text).unwrap();
    let sum = Command::new("sh")
        .args(["-c", "sha256sum <\"$1\"", "sh"])
        .arg(&original)
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(stored, format!("vehicle_status_large.json\n{sum}"));
    assert_eq!(names(&pair.at("work")), [""; 0]);
    assert_eq!(rows(&pair).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_moved_delays_no_other() {
    let pair = embedded().await;
    put_good(&pair);
    let cut_off = format!("[{}", " ".repeat(3 << 20));
    fs::write(pair.at("inbound").join("vehicle_status_cut.json"), cut_off).unwrap();
    let mut load = start_with_small(&pair, "quarantine", 1);
    until("the good file", LIMIT, async || {
        names(&pair.at("history")).len() == 1
    })
    .await;
    assert_eq!(good_rows(&pair).await, 1);
    assert_eq!(names(&pair.at("work")), ["vehicle_status_cut.json"]);
    assert!(load.try_wait().unwrap().is_none(), "it waits for the other");
    let quarantine = pair.at("quarantine");
    let quarantine = quarantine.to_str().unwrap();
    beside(&load, &["mount", "-o", "remount,size=100M", quarantine]);
    assert_eq!(load.wait().unwrap().code(), Some(2));
    assert_eq!(names(&pair.at("work")), [""; 0]);
}

/// The file is stored as a whole and waits in work, because history is too small for it. Bytes that
/// are written to it afterwards are not stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_after_it_was_read_does_not_go_to_history() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 2] = [
        ("grown", |path| {
            let mut file = File::options().append(true).open(path).unwrap();
            writeln!(file, "\n{}", record("more")).unwrap();
        }),
        ("overwritten, its mtime put back", |path| {
            let modified = path.metadata().unwrap().modified().unwrap();
            let bytes = fs::read_to_string(path).unwrap();
            let file = File::options().write(true).open(path).unwrap();
            let other = bytes.replace("huge", "HUGE");
            std::os::unix::fs::FileExt::write_all_at(&file, other.as_bytes(), 0).unwrap();
            file.set_modified(modified).unwrap();
        }),
    ];
    let lines = (record("huge"), "stored as file 1:");
    // The event is a reject.
    let arrays = format!(
        r#"{{"vehicle_status":[{}],"vehicle_events":[{{}}]}}"#,
        record("huge")
    );
    let arrays = (arrays, "stored as file 1 and file 2:");
    for ((what, change), (text, numbers)) in changes.into_iter().zip([lines, arrays]) {
        let pair = embedded().await;
        pair.expect(0, &["migrate"]);
        let name = "vehicle_status_huge.json";
        let text = format!("{text}\n{}\n", " ".repeat(3 << 20));
        fs::write(pair.at("inbound").join(name), text).unwrap();
        let mut load = start_with_small(&pair, "history", 1);
        until("the row", LIMIT, async || rows(&pair).await == 1).await;
        change(&in_work(&pair.at("work"), name));
        let history = pair.at("history");
        let history = history.to_str().unwrap();
        beside(&load, &["mount", "-o", "remount,size=100M", history]);
        assert_eq!(load.wait().unwrap().code(), Some(2), "{what}");
        assert_eq!(names(&pair.at("work")), [""; 0]);
        let reason = pair.at("quarantine").join(format!("{name}.reason"));
        let reason = fs::read_to_string(reason).unwrap();
        assert!(
            reason.contains("it changed after it was read"),
            "{what}: {reason}"
        );
        assert!(reason.contains(numbers), "{what}: {reason}");
        assert_eq!(rows(&pair).await, 1, "{what}: the rows that were read stay");
    }
}

/// The file system has free bytes, but no free inode. A file needs an inode, and so does the reason
/// of a bad file.
#[tokio::test(flavor = "multi_thread")]
async fn no_inodes_left_is_a_full_disk() {
    let pair = embedded().await;
    let place = pair.at("small");
    fs::create_dir(&place).unwrap();
    let place = place.to_str().unwrap();
    let mounted = format!(
        "mount -t tmpfs -o nr_inodes=12,size=64M tmpfs '{place}' && mkdir '{place}/inbound' && \
         exec \"$@\""
    );
    let through = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        &mounted,
        "sh",
    ];
    let addr = free_addr();
    let args = [
        "run",
        "--data-dir",
        place,
        "--disk-floor",
        "0B",
        "--http-addr",
        &addr,
    ];
    let service = Service(start(&pair, &through, &args));
    let ready = |code, part: &'static str| {
        let addr = addr.clone();
        async move || {
            page(&addr, "/readyz").is_some_and(|(is, why)| is == code && why.contains(part))
        }
    };
    until("the service", LIMIT, ready(200, "")).await;
    let bash = |script: String| beside(&service.0, &["bash", "-c", &script]);
    bash(format!(
        "cd '{place}'; echo bad > x; i=0; while : > f$i; do i=$((i+1)); done 2>/dev/null; \
         mv x inbound/vehicle_events_bad.ndjson"
    ));
    until("it says so", LIMIT, ready(503, "no free inodes")).await;
    let status = page(&addr, "/api/status").unwrap().1;
    assert!(status.contains("no free inodes"), "{status}");
    let binary = env!("CARGO_BIN_EXE_task_runner");
    let found = bash(format!("'{binary}' doctor --data-dir '{place}'; true"));
    assert!(
        found.contains("inbound") && found.contains("df -i"),
        "{found}"
    );
    bash(format!("rm '{place}'/f*"));
    until("the file and its reason in quarantine", LIMIT, async || {
        let there = bash(format!("ls '{place}/quarantine'"));
        there == "vehicle_events_bad.ndjson\nvehicle_events_bad.ndjson.reason\n"
    })
    .await;
    until("the service goes on", LIMIT, ready(200, "")).await;
}

/// The file has been read, and its reason cannot be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_waits_for_the_room_of_its_reason() {
    let pair = embedded().await;
    fs::write(pair.at("inbound").join("vehicle_status_bad.json"), "[").unwrap();
    put_good(&pair);
    let place = pair.at("quarantine");
    fs::create_dir(&place).unwrap();
    let place = place.to_str().unwrap();
    // One inode is free. The copy of the file from another device uses it.
    let mounted = format!("mount -t tmpfs -o nr_inodes=2,size=64M tmpfs '{place}' && exec \"$@\"");
    let through = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        &mounted,
        "sh",
    ];
    let mut load = start(&pair, &through, &["load", "--disk-floor", "0B"]);
    let (waits, said) = waits(&mut load);
    assert!(waits.contains("vehicle_status_bad.json"), "{waits}");
    let in_work = names(&pair.at("work"));
    assert!(
        in_work.iter().any(|name| name == "vehicle_status_bad.json"),
        "{in_work:?}"
    );
    beside(&load, &["mount", "-o", "remount,nr_inodes=100", place]);
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    assert_eq!(load.wait().unwrap().code(), Some(2), "{rest:?}");
    assert_eq!(good_rows(&pair).await, 1);
}
