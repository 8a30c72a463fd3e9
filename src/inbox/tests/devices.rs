//! Moves across devices: only the file that was copied is removed, and a kill loses no file.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use super::super::moving::COPY_PREFIX;
use super::super::*;
use super::{Place, directories, names, patience, place};

/// A place whose history is on another device.
fn two_devices() -> (Place, tempfile::TempDir) {
    let Ok(shm) = tempfile::tempdir_in("/dev/shm") else {
        panic!("the test needs a second file system at /dev/shm")
    };
    let dir = tempfile::tempdir().unwrap();
    let mut directories = directories(dir.path());
    directories.history = shm.path().join("history");
    let inbox = Inbox::open(directories, patience(Duration::ZERO), "a").unwrap();
    inbox.begin(1, true).unwrap();
    let device = |dir: &Path| fs::metadata(dir).unwrap().dev();
    assert_ne!(device(shm.path()), device(dir.path()));
    (Place { _dir: dir, inbox }, shm)
}

#[test]
fn a_move_across_devices_copies_first() {
    let (place, _shm) = two_devices();
    place.put("a.json", b"[1]");
    let claimed = place.claim_all();
    let at = place.inbox.to_history(&claimed[0], None).unwrap();
    assert_eq!(fs::read(at).unwrap(), b"[1]");
    assert_eq!(names(&place.inbox.directories.history), ["a.json"]);
    assert!(names(&place.inbox.node.claims()).is_empty());
}

/// Two engines take files from one inbound: each file is moved by exactly one of them.
#[test]
fn two_engines_with_one_inbound_on_another_device_claim_each_file_once() {
    const FILES: usize = 300;
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine = |name: &str| {
        let mut directories = directories(dir.path());
        directories.inbound = shm.path().join("inbound");
        let inbox = Inbox::open(directories, patience(Duration::ZERO), name).unwrap();
        inbox.begin(1, true).unwrap();
        inbox
    };
    let engines = [engine("a"), engine("b")];
    let inbound = shm.path().join("inbound");
    for number in 0..FILES {
        fs::write(
            inbound.join(format!("{number}.json")),
            format!("[{number}]"),
        )
        .unwrap();
    }
    let claim = |inbox: &Inbox| {
        let mut claimed = Vec::new();
        while !names(&inbound).is_empty() {
            let ready = inbox.scan().unwrap().ready;
            claimed.extend(inbox.claim_all(&ready, &mut Waits::default()).0);
        }
        claimed
    };
    let claimed = std::thread::scope(|scope| {
        let claims = engines.each_ref().map(|inbox| scope.spawn(|| claim(inbox)));
        claims.map(|claim| claim.join().unwrap())
    });
    let mut contents = Vec::new();
    for (inbox, claimed) in engines.iter().zip(&claimed) {
        let work = names(&inbox.node.claims());
        assert_eq!(
            work.len(),
            claimed.len(),
            "no copy beside those that were claimed"
        );
        contents.extend(
            claimed
                .iter()
                .map(|file| fs::read_to_string(&file.path).unwrap()),
        );
    }
    let mut expected: Vec<_> = (0..FILES).map(|number| format!("[{number}]")).collect();
    contents.sort();
    expected.sort();
    assert_eq!(contents, expected);
}

#[test]
fn a_copy_in_work_is_counted() {
    let place = place(Duration::ZERO);
    let work = place.inbox.node.claims();
    fs::write(work.join(format!("{COPY_PREFIX}Abc123")), "half").unwrap();
    let count = place.inbox.census().unwrap().work;
    assert_eq!((count.files, count.bytes), (1, 4));
}

/// A kill before the last step of a move leaves the whole copy and the file.
#[test]
fn a_move_across_devices_that_was_killed_before_its_end_leaves_one_file() {
    let (place, _shm) = two_devices();
    let history = place.inbox.directories.history.clone();
    // Files larger than one piece of the comparison, which differ only at the end or in length.
    let long = vec![b'x'; 600_000];
    let other_end = [&long[1..], b"y"].concat();
    let contents = [&long[..], b"", &other_end, &long[1..]];
    for (number, content) in contents.into_iter().enumerate() {
        place.put("a.json", content);
        let file = place.inbox.scan().unwrap().ready.remove(0);
        // Placed in work as a claimed file.
        let path = place.inbox.node.claims().join("a.json");
        fs::rename(place.inbox.directories.inbound.join("a.json"), &path).unwrap();
        let file = Claimed {
            name: file.name,
            path,
            bytes: file.bytes,
            modified: file.modified,
            arrived: file.modified,
            sample: Default::default(),
        };
        let target = history.join(with_number("a.json", number));
        fs::copy(&file.path, &target).unwrap();
        assert_eq!(place.inbox.to_history(&file, None).unwrap(), target);
        assert!(!file.path.exists());
        assert_eq!(fs::read(&target).unwrap(), content);
    }
    assert_eq!(
        names(&history),
        ["a.json", "a.json.1", "a.json.2", "a.json.3"]
    );
}

fn with_number(name: &str, number: usize) -> String {
    if number == 0 {
        name.to_owned()
    } else {
        format!("{name}.{number}")
    }
}

#[test]
fn half_copies_of_a_killed_process_are_removed_and_nothing_else() {
    let (place, _shm) = two_devices();
    let directories = place.inbox.directories.clone();
    drop(place.inbox);
    let at = |random: &str| directories.history.join(format!("{COPY_PREFIX}{random}"));
    for random in ["Abc123", "locked", "twelve_chars", "a-note"] {
        fs::write(at(random), "half").unwrap();
    }
    fs::create_dir(at("direct")).unwrap();
    std::os::unix::fs::symlink(at("a-note"), at("a0link")).unwrap();
    let in_the_making = File::open(at("locked")).unwrap();
    in_the_making.lock().unwrap();
    let open = || Inbox::open(directories.clone(), patience(Duration::ZERO), "a").unwrap();
    drop(open());
    let left = |rest: &[&str]| {
        let mut expected: Vec<_> = rest.iter().map(|random| at(random)).collect();
        expected.sort();
        let found = names(&directories.history).into_iter();
        let found: Vec<_> = found.map(|name| directories.history.join(name)).collect();
        assert_eq!(found, expected);
    };
    left(&["locked", "twelve_chars", "a-note", "direct", "a0link"]);
    drop(in_the_making);
    drop(open());
    left(&["twelve_chars", "a-note", "direct", "a0link"]);
}
