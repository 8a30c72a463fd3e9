//! Files that arrive, wait, move and collide, in real directories.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::Watcher as _;
use tokio::sync::Notify;

use super::lock::LOCK_FILE;
use super::names::NAME_BYTES_MAX;
use super::*;

mod devices;
pub(super) mod nodes;
mod takeover;

struct Place {
    _dir: tempfile::TempDir,
    inbox: Inbox,
}

fn place(incomplete_after: Duration) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(directories(dir.path()), patience(incomplete_after), "a").unwrap();
    inbox.begin(1, true).unwrap();
    Place { _dir: dir, inbox }
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

fn patience(incomplete_after: Duration) -> Patience {
    Patience {
        quiet_time: Duration::ZERO,
        incomplete_after,
        one_name: false,
    }
}

impl Place {
    fn put(&self, name: impl AsRef<Path>, bytes: &[u8]) {
        fs::write(self.inbox.directories.inbound.join(name), bytes).unwrap();
    }

    fn claim_all(&self) -> Vec<Claimed> {
        let ready = self.inbox.scan().unwrap().ready;
        ready
            .iter()
            .filter_map(|file| match self.inbox.claim(file).unwrap() {
                Claim::Taken(file) => Some(file),
                Claim::Waits(_) => None,
            })
            .collect()
    }
}

pub(super) fn names(dir: &Path) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.retain(|name| name != LOCK_FILE);
    names.sort();
    names
}

#[test]
fn a_file_goes_from_inbound_to_work_to_history_and_never_replaces_another() {
    let place = place(Duration::ZERO);
    for content in [&b"[1]"[..], b"[2]", b"[3]"] {
        place.put("a.json", content);
        for file in place.claim_all() {
            assert_eq!(fs::read(&file.path).unwrap(), content);
            place.inbox.to_history(&file, None).unwrap();
        }
    }
    let history = &place.inbox.directories.history;
    assert_eq!(names(history), ["a.json", "a.json.1", "a.json.2"]);
    assert_eq!(fs::read(history.join("a.json.1")).unwrap(), b"[2]");
    assert!(names(&place.inbox.node.claims()).is_empty());
}

#[test]
fn names_of_any_bytes_and_of_full_length_are_moved() {
    let place = place(Duration::ZERO);
    let odd = OsStr::from_bytes(b"-rf \x1b[31m\n\xff.json");
    let long = "x".repeat(NAME_BYTES_MAX);
    for _ in 0..2 {
        place.put(odd, b"[]");
        place.put(&long, b"[]");
        for file in place.claim_all() {
            place.inbox.to_history(&file, None).unwrap();
        }
    }
    assert_eq!(names(&place.inbox.directories.history).len(), 4);
}

#[test]
fn only_regular_files_of_final_names_are_ready() {
    let place = place(Duration::ZERO);
    let inbound = &place.inbox.directories.inbound;
    for name in [".hidden", "a.tmp", "a.part", "a~"] {
        place.put(name, b"[]");
    }
    std::os::unix::fs::symlink("/etc/hostname", inbound.join("link")).unwrap();
    fs::create_dir(inbound.join("dir")).unwrap();
    place.put("b.json", b"[]");
    let scan = place.inbox.scan().unwrap();
    assert_eq!(scan.ready.len(), 1);
    assert_eq!((scan.files, scan.bytes), (1, 2));
}

/// Inbound has more files than a scan returns: the scan returns the oldest and counts the rest.
#[test]
fn a_scan_of_a_huge_directory_holds_the_oldest_and_counts_the_rest() {
    const FILES: usize = SCAN_FILES_MAX + 5_000;
    let place = place(Duration::ZERO);
    let inbound = &place.inbox.directories.inbound;
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for number in 0..FILES {
        let file = File::create(inbound.join(number.to_string())).unwrap();
        // The file that is created last is the oldest.
        let age = Duration::from_secs(number as u64);
        file.set_modified(long_ago - age).unwrap();
    }
    let scan = place.inbox.scan().unwrap();
    assert_eq!(scan.files, FILES as u64);
    let names = scan.ready.iter().map(|file| file.name.to_str().unwrap());
    let expected = (0..FILES).rev().take(SCAN_FILES_MAX);
    assert!(names.eq(expected.map(|number| number.to_string())));
    assert_eq!(scan.waiting.files, 0);
}

#[test]
fn a_file_that_is_being_written_waits() {
    let place = place(Duration::ZERO);
    let path = place.inbox.directories.inbound.join("a.json");
    let mut writer = File::create(&path).unwrap();
    writer.write_all(b"[]").unwrap();
    let ready = place.inbox.scan().unwrap().ready;
    assert_eq!(
        place.inbox.claim(&ready[0]).unwrap(),
        Claim::Waits(WaitReason::BeingWritten)
    );
    drop(writer);
    assert_eq!(place.claim_all().len(), 1);
}

/// Files that were claimed before the work directory was removed are returned, and no file gets a
/// reason to wait.
#[test]
fn a_claim_of_many_ends_where_work_is_gone() {
    let place = place(Duration::ZERO);
    place.put("a.json", b"[]");
    let mut ready = place.inbox.scan().unwrap().ready;
    ready.push(Candidate {
        name: "gone.json".into(),
        ..ready[0].clone()
    });
    let mut waits = Waits::default();
    let (claimed, ended_by) = place.inbox.claim_all(&ready, &mut waits);
    assert!(ended_by.is_none(), "{ended_by:?}");
    // Another node may have taken it: it does not wait.
    assert_eq!((claimed.len(), waits.files), (1, 0));

    place.put("b.json", b"[]");
    let ready = place.inbox.scan().unwrap().ready;
    fs::remove_dir_all(&place.inbox.directories.work).unwrap();
    let (claimed, ended_by) = place.inbox.claim_all(&ready, &mut waits);
    assert_eq!(ended_by.unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!((claimed.len(), waits.files), (0, 0));
}

#[test]
fn an_incomplete_document_waits_until_it_changes_or_is_old() {
    let place = place(Duration::from_secs(3600));
    place.put("a.json", b"{\"vehicle_events\": [{\"a\": 1},");
    assert!(place.claim_all().is_empty());
    let scan = place.inbox.scan().unwrap();
    assert!(scan.ready.is_empty());
    assert_eq!(scan.waiting.files, 1);
    let waits = &scan.waiting.named[0];
    assert_eq!(waits.reason, WaitReason::Incomplete);

    place.put("a.json", b"{\"vehicle_events\": [{\"a\": 1}]}");
    assert_eq!(place.claim_all().len(), 1);

    place.put("b.json", b"{\"vehicle_events\": [");
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let path = place.inbox.directories.inbound.join("b.json");
    File::options()
        .append(true)
        .open(path)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    assert_eq!(
        place.claim_all().len(),
        1,
        "an old one is claimed, to be quarantined"
    );
}

#[test]
fn a_file_with_an_mtime_in_the_future_does_not_wait_until_then() {
    let place = place(Duration::from_secs(3600));
    place.put("a.json", b"[{\"a\": 1},");
    let path = place.inbox.directories.inbound.join("a.json");
    let next_year = SystemTime::now() + Duration::from_secs(365 * 86_400);
    let file = File::options().append(true).open(path).unwrap();
    file.set_modified(next_year).unwrap();
    drop(file);
    assert!(place.claim_all().is_empty(), "more of it may come");
    place.inbox.set_patience(patience(Duration::from_nanos(1)));
    assert_eq!(place.claim_all().len(), 1, "to be quarantined");
}

#[test]
fn a_file_that_was_put_back_waits() {
    let place = place(Duration::from_secs(3600));
    place.put("a.json", b"[[1]");
    let file = place.claim_all().remove(0);
    place
        .inbox
        .put_back(&file, &WaitReason::Incomplete)
        .unwrap();
    assert!(place.claim_all().is_empty());
    assert_eq!(names(&place.inbox.directories.inbound), ["a.json"]);
}

#[test]
fn work_is_recovered_and_quarantine_has_the_reason() {
    let place = place(Duration::ZERO);
    place.put("a.json", b"[]");
    let claimed = place.claim_all();
    let recovered = place.inbox.recovered().unwrap();
    let paths = |files: &[Claimed]| {
        files
            .iter()
            .map(|file| file.path.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(paths(&recovered), paths(&claimed));
    assert!(
        recovered[0].arrived >= claimed[0].arrived,
        "then it came into work"
    );
    let path = place.inbox.to_quarantine(&claimed[0], "not JSON").unwrap();
    assert_eq!(
        fs::read_to_string(format!("{}.reason", path.display())).unwrap(),
        "not JSON\n"
    );
    assert!(place.inbox.recovered().unwrap().is_empty());
}

#[test]
fn a_file_of_quarantine_goes_back_without_its_reason() {
    let place = place(Duration::ZERO);
    place.put("a.json", b"[1]");
    let claimed = place.claim_all();
    place.inbox.to_quarantine(&claimed[0], "not JSON").unwrap();
    place.put("a.json", b"[2]");
    let directories = place.inbox.directories.clone();
    let back = requeue(&directories, OsStr::new("a.json"), false).unwrap();
    // The way back does not replace a file, either.
    assert_eq!(back, directories.inbound.join("a.json.1"));
    assert_eq!(fs::read(back).unwrap(), b"[1]");
    assert_eq!(
        fs::read(directories.inbound.join("a.json")).unwrap(),
        b"[2]"
    );
    assert!(names(&directories.quarantine).is_empty());
    fs::write(directories.history.join("b.json"), b"[3]").unwrap();
    for name in ["a.json", "../history/b.json", "..", ""] {
        assert!(
            requeue(&directories, OsStr::new(name), false).is_err(),
            "{name}"
        );
    }
    assert!(directories.history.join("b.json").exists());
}

/// The longest names leave no room for a suffix: the name of the reason is cut. A file whose name
/// gets a number is cut further, so that the name of its reason keeps the number.
#[test]
fn a_file_with_the_longest_name_has_its_reason_beside_it_and_goes_back() {
    let place = place(Duration::ZERO);
    let directories = place.inbox.directories.clone();
    let name = |last: &str| OsString::from("x".repeat(NAME_BYTES_MAX - 1) + last);
    let reason = "x".repeat(248) + ".reason";
    let other = "x".repeat(246) + ".1";
    for (last, why) in [("a", "not JSON"), ("b", "no dataset")] {
        place.put(name(last), b"[]");
        let file = place.claim_all().remove(0);
        place.inbox.to_quarantine(&file, why).unwrap();
    }
    let mut expected: Vec<OsString> = vec![
        name("a"),
        reason.clone().into(),
        other.clone().into(),
        format!("{other}.reason").into(),
    ];
    expected.sort();
    assert_eq!(names(&directories.quarantine), expected);
    let text = |name: &str| fs::read_to_string(directories.quarantine.join(name)).unwrap();
    assert_eq!(text(&reason), "not JSON\n");
    assert_eq!(text(&format!("{other}.reason")), "no dataset\n");
    let files = quarantined(&directories.quarantine).unwrap();
    assert_eq!(files, [OsString::from(other), name("a")]);
    assert_eq!(place.inbox.quarantine().unwrap(), 2);
    for name in &files {
        requeue(&directories, name, false).unwrap();
    }
    assert!(names(&directories.quarantine).is_empty());
}

#[test]
fn a_reason_without_its_file_is_a_file() {
    let place = place(Duration::ZERO);
    let quarantine = &place.inbox.directories.quarantine;
    for name in [
        "a",
        "a.reason",
        "b.reason",
        "c.reason",
        ".d",
        "e.reason.reason",
    ] {
        fs::write(quarantine.join(name), "").unwrap();
    }
    fs::create_dir(quarantine.join("c")).unwrap();
    let files = quarantined(quarantine).unwrap();
    assert_eq!(files, ["a", "b.reason", "c.reason", "e.reason.reason"]);
    assert_eq!(place.inbox.quarantine().unwrap(), 4);
    assert!(quarantined(&quarantine.join("none")).is_err());
}

/// The move back succeeds even if the reason cannot be removed.
#[test]
fn a_file_goes_back_although_its_reason_cannot_be_removed() {
    let place = place(Duration::ZERO);
    let directories = place.inbox.directories.clone();
    fs::write(directories.quarantine.join("a.json"), "[1]").unwrap();
    fs::create_dir(directories.quarantine.join("a.json.reason")).unwrap();
    let back = requeue(&directories, OsStr::new("a.json"), false).unwrap();
    assert_eq!(fs::read(back).unwrap(), b"[1]");
}

#[test]
fn a_second_process_is_refused() {
    let place = place(Duration::ZERO);
    let directories = place.inbox.directories.clone();
    let error = Inbox::open(directories, patience(Duration::ZERO), "a").unwrap_err();
    assert!(
        error.to_string().contains(" has it; stop that process"),
        "{error}"
    );
    assert!(!error.is_transient());
}

/// A kill in the middle of a move by link leaves a file with two names. Both are loaded.
#[test]
fn a_kill_between_link_and_removal_leaves_a_copy_and_delays_no_file() {
    let place = place(Duration::ZERO);
    let directories = place.inbox.directories.clone();
    place.put("a.json", b"[1]");
    fs::hard_link(
        directories.inbound.join("a.json"),
        place.inbox.node.claims().join("a.json"),
    )
    .unwrap();
    let recovered = place.inbox.recovered().unwrap();
    let claimed = place.claim_all();
    let work = place.inbox.node.claims();
    assert_eq!(names(&work), [".again-1", "a.json"]);
    for file in recovered.iter().chain(&claimed) {
        place.inbox.to_history(file, None).unwrap();
    }
    assert_eq!(names(&directories.history), ["a.json", "a.json.1"]);
    // The next start removes the empty directory.
    assert_eq!(place.inbox.recovered().unwrap(), []);
    assert!(names(&directories.inbound).is_empty() && names(&work).is_empty());
}

/// A kill may come between any two steps, so the whole reason is written before the file moves.
#[test]
fn the_reason_is_in_quarantine_before_its_file() {
    let place = place(Duration::ZERO);
    place.put("a.json", b"[]");
    let file = place.claim_all().remove(0);
    let (happened, events) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(happened).unwrap();
    let quarantine = &place.inbox.directories.quarantine;
    let mode = notify::RecursiveMode::NonRecursive;
    watcher.watch(quarantine, mode).unwrap();
    place.inbox.to_quarantine(&file, "not JSON").unwrap();
    let mut order = Vec::new();
    while !order.contains(&"a.json".to_owned()) {
        let event = events.recv_timeout(Duration::from_secs(10)).unwrap();
        for path in event.unwrap().paths {
            order.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    order.dedup();
    assert_eq!(order, ["a.json.reason", "a.json"]);
}

#[test]
fn an_existing_reason_is_kept_if_it_is_equal_and_never_replaced() {
    let place = place(Duration::ZERO);
    let quarantine = place.inbox.directories.quarantine.clone();
    // The reason that a kill before the move left, and a file of another program with such a name.
    fs::write(quarantine.join("a.json.reason"), "not JSON\n").unwrap();
    fs::write(quarantine.join("b.json.reason"), "a file").unwrap();
    for name in ["a.json", "b.json"] {
        place.put(name, b"[]");
        let file = place.claim_all().remove(0);
        place.inbox.to_quarantine(&file, "not JSON").unwrap();
    }
    let expected = [
        "a.json",
        "a.json.reason",
        "b.json.1",
        "b.json.1.reason",
        "b.json.reason",
    ];
    assert_eq!(names(&quarantine), expected);
    let text = |name: &str| fs::read_to_string(quarantine.join(name)).unwrap();
    assert_eq!(text("b.json.1.reason"), "not JSON\n");
    assert_eq!(text("b.json.reason"), "a file");
}

#[test]
fn an_arrival_wakes_and_a_read_does_not() {
    let place = place(Duration::ZERO);
    place.put("before.json", b"[]");
    let wake = Arc::new(Notify::new());
    let watch = place.inbox.watch(wake.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let woken = |within: Duration| {
        runtime.block_on(async { tokio::time::timeout(within, wake.notified()).await.is_ok() })
    };
    fs::read(place.inbox.directories.inbound.join("before.json")).unwrap();
    assert!(!woken(Duration::from_millis(200)));
    place.put("a.json", b"[]");
    assert!(woken(Duration::from_secs(10)));
    assert!(place.inbox.is_watched_by(&watch));
    fs::remove_dir_all(&place.inbox.directories.inbound).unwrap();
    fs::create_dir(&place.inbox.directories.inbound).unwrap();
    assert!(!place.inbox.is_watched_by(&watch));
}
