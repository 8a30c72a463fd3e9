//! Files that arrive, wait, move and collide, in real directories.

use std::io::Write as _;

use super::lock::LOCK_FILE;
use super::*;

struct Place {
    _dir: tempfile::TempDir,
    inbox: Inbox,
}

fn place(incomplete_after: Duration) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(directories(dir.path()), patience(incomplete_after)).unwrap();
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
            .filter_map(|file| self.inbox.claim(file).unwrap().ok())
            .collect()
    }
}

fn names(dir: &Path) -> Vec<OsString> {
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
            place.inbox.to_history(&file).unwrap();
        }
    }
    let history = &place.inbox.directories.history;
    assert_eq!(names(history), ["a.json", "a.json.1", "a.json.2"]);
    assert_eq!(fs::read(history.join("a.json.1")).unwrap(), b"[2]");
    assert!(names(&place.inbox.directories.work).is_empty());
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
            place.inbox.to_history(&file).unwrap();
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

#[test]
fn a_file_that_is_being_written_waits() {
    let place = place(Duration::ZERO);
    let path = place.inbox.directories.inbound.join("a.json");
    let mut writer = File::create(&path).unwrap();
    writer.write_all(b"[]").unwrap();
    let ready = place.inbox.scan().unwrap().ready;
    assert_eq!(
        place.inbox.claim(&ready[0]).unwrap(),
        Err("it is still being written")
    );
    drop(writer);
    assert_eq!(place.claim_all().len(), 1);
}

#[test]
fn an_incomplete_document_waits_until_it_changes_or_is_old() {
    let place = place(Duration::from_secs(3600));
    place.put("a.json", b"{\"vehicle_events\": [{\"a\": 1},");
    assert!(place.claim_all().is_empty());
    let scan = place.inbox.scan().unwrap();
    assert!(scan.ready.is_empty());
    assert_eq!(scan.waiting[0].why, "the document is not complete yet");

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
fn what_was_put_back_waits() {
    let place = place(Duration::from_secs(3600));
    place.put("a.json", b"[[1]");
    let file = place.claim_all().remove(0);
    place.inbox.put_back(&file).unwrap();
    assert!(place.claim_all().is_empty());
    assert_eq!(names(&place.inbox.directories.inbound), ["a.json"]);
}

#[test]
fn work_is_found_again_and_quarantine_says_why() {
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
    let back = retry(&directories, OsStr::new("a.json")).unwrap();
    // Never over another file, also on the way back.
    assert_eq!(back, directories.inbound.join("a.json.1"));
    assert_eq!(fs::read(back).unwrap(), b"[1]");
    assert_eq!(
        fs::read(directories.inbound.join("a.json")).unwrap(),
        b"[2]"
    );
    assert!(names(&directories.quarantine).is_empty());
    fs::write(directories.history.join("b.json"), b"[3]").unwrap();
    for name in ["a.json", "../history/b.json", "..", ""] {
        assert!(retry(&directories, OsStr::new(name)).is_err(), "{name}");
    }
    assert!(directories.history.join("b.json").exists());
}

#[test]
fn a_second_process_is_refused() {
    let place = place(Duration::ZERO);
    let directories = place.inbox.directories.clone();
    let error = Inbox::open(directories, patience(Duration::ZERO)).unwrap_err();
    assert!(error.to_string().contains("in use by process"), "{error}");
    assert!(!error.is_transient());
}

#[test]
fn a_move_across_devices_copies_first() {
    let Ok(shm) = tempfile::tempdir_in("/dev/shm") else {
        panic!("the test needs a second file system at /dev/shm")
    };
    let dir = tempfile::tempdir().unwrap();
    let mut directories = directories(dir.path());
    directories.history = shm.path().join("history");
    let inbox = Inbox::open(directories, patience(Duration::ZERO)).unwrap();
    let place = Place { _dir: dir, inbox };
    place.put("a.json", b"[1]");
    let claimed = place.claim_all();
    let at = place.inbox.to_history(&claimed[0]).unwrap();
    assert_eq!(fs::read(at).unwrap(), b"[1]");
    assert_eq!(names(&place.inbox.directories.history), ["a.json"]);
    assert!(names(&place.inbox.directories.work).is_empty());
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
