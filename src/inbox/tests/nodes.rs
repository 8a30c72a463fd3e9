//! Several processes with one work directory: claims, take-over, and what a former release left.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::super::*;
use super::{directories, names, patience};

pub(in crate::inbox) fn open(root: &Path, name: &str, epoch: u64) -> Inbox {
    let inbox = Inbox::open(directories(root), patience(Duration::ZERO), name).unwrap();
    inbox.begin(epoch, true).unwrap();
    inbox
}

pub(super) fn deliver(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join("inbound").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("[\"{name}\"]")).unwrap();
    }
}

pub(super) fn claim(inbox: &Inbox) -> Vec<Claimed> {
    inbox.set_markers(Markers::default().with_directories(true));
    let ready = inbox.scan().unwrap().ready;
    let (claimed, failed) = inbox.claim_all(&ready, &mut Waits::default());
    assert!(failed.is_none(), "{failed:?}");
    claimed
}

/// The names of files, each checked to be that of the file at its path.
pub(super) fn named(files: &[Claimed]) -> Vec<String> {
    let mut names: Vec<String> = files
        .iter()
        .map(|file| {
            let name = file.name.to_str().unwrap().to_owned();
            let text = fs::read_to_string(&file.path).unwrap();
            assert_eq!(text, format!("[\"{name}\"]"));
            name
        })
        .collect();
    names.sort();
    names
}

/// As when all processes of a node are dead.
fn orphan(heir: &Inbox, name: &str) {
    heir.orphan(name.to_owned(), heir.epochs_of(name));
}

#[test]
fn a_process_that_begins_after_its_node_was_found_dead_keeps_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let victim = open(root, "victim", 7);
    deliver(root, &["a"]);
    claim(&victim);
    let heir = open(root, "heir", 9);
    orphan(&heir, "victim");
    drop(victim);
    let next = open(root, "victim", 8);
    deliver(root, &["b"]);
    claim(&next);
    drop(heir.take_orphans());
    deliver(root, &["c"]);
    assert_eq!(named(&claim(&next)), ["c"]);
    // The next process takes the files of the one before it at its start.
    assert_eq!(named(&next.recovered().unwrap()), ["a", "b", "c"]);

    // One that was found dead itself has no files, whether it has read them before or not.
    orphan(&heir, "victim");
    assert_eq!(named(&heir.take_orphans()), ["a", "b", "c"]);
    assert!(next.recovered().unwrap().is_empty());
}

#[test]
fn the_files_of_a_dead_node_are_taken_over_and_its_process_can_do_nothing_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let victim = open(root, "victim", 7);
    deliver(root, &["a", "d/b", "d/e/c"]);
    let claimed = claim(&victim);
    deliver(root, &["a"]);
    let again = claim(&victim);
    assert_eq!(again[0].name, "a");
    let heir = open(root, "heir", 9);
    deliver(root, &["a"]);
    assert_eq!(named(&claim(&heir)), ["a"]);
    let others = heir.other_nodes().unwrap();
    assert_eq!(others, [("victim".to_owned(), true)]);

    orphan(&heir, "victim");
    let taken = heir.take_orphans();
    assert_eq!(named(&taken), ["a", "a", "d/b", "d/e/c"]);
    assert!(heir.take_orphans().is_empty());
    let others = heir.other_nodes().unwrap();
    assert_eq!(others, [("victim".to_owned(), false)], "it holds its lock");
    let mut recovered = heir.recovered().unwrap();
    assert_eq!(named(&recovered), ["a", "a", "a", "d/b", "d/e/c"]);
    recovered.retain(|file| taken.iter().any(|taken| taken.path == file.path));
    assert_eq!(recovered.len(), taken.len(), "each has its path");

    // The process goes on where it was stopped.
    for file in claimed.iter().chain(&again) {
        let moved = victim.to_history(file, None).unwrap_err();
        assert_eq!(moved.kind(), ErrorKind::NotFound);
    }
    deliver(root, &["late", "f/late"]);
    let ready = victim.scan().unwrap().ready;
    let (claimed, failed) = victim.claim_all(&ready, &mut Waits::default());
    assert!(claimed.is_empty());
    assert_eq!(failed.unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(heir.history().unwrap().files, 0);
    assert_eq!(named(&claim(&heir)), ["f/late", "late"]);

    // Its name is free once it has ended, and the next process of the name begins empty.
    drop(victim);
    let next = open(root, "victim", 8);
    assert!(next.recovered().unwrap().is_empty());
    drop(next);
    assert_eq!(names(&root.join("work")), ["heir"]);
}

#[test]
fn an_heir_removes_the_directory_of_a_process_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("work/gone/1")).unwrap();
    fs::write(root.join("work/gone/.lemonade.lock"), "1").unwrap();
    let lives = open(root, "lives", 1);
    let heir = open(root, "heir", 1);
    for name in ["gone", "lives", "unknown"] {
        orphan(&heir, name);
    }
    assert!(heir.take_orphans().is_empty());
    assert_eq!(names(&root.join("work")), ["heir", "lives"]);
    assert_eq!(
        names(&root.join("work/lives")),
        [""; 0],
        "its epoch was taken"
    );
    drop(lives);
}

#[test]
fn files_that_are_left_over_and_over_again_keep_their_names_and_lie_no_deeper() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let mut first = open(root, "a", 1);
    deliver(root, &["x", "d/y"]);
    claim(&first);
    deliver(root, &["x"]);
    claim(&first);
    for epoch in 2..60 {
        drop(first);
        let name = ["a", "b"][usize::try_from(epoch % 2).unwrap()];
        first = open(root, name, epoch);
        let other = ["b", "a"][usize::try_from(epoch % 2).unwrap()];
        orphan(&first, other);
        drop(first.take_orphans());
        let files = first.recovered().unwrap();
        assert_eq!(named(&files), ["d/y", "x", "x"], "{epoch}");
        let below = |file: &Claimed| {
            file.path
                .strip_prefix(root.join("work"))
                .unwrap()
                .components()
                .count()
        };
        assert!(files.iter().all(|file| below(file) <= 5), "{files:?}");
    }
}

/// A release before the nodes claimed files into work itself.
#[test]
fn files_of_a_former_release_are_taken_with_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let work = root.join("work");
    for (path, name) in [
        ("x", "x"),
        ("d/y", "d/y"),
        (".again-1/x", "x"),
        (".again-1/d/y", "d/y"),
        ("2024/z", "2024/z"),
    ] {
        let path = work.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("[\"{name}\"]")).unwrap();
    }
    fs::write(work.join(".lemonade.paused"), "").unwrap();
    let inbox = open(root, "a", 1);
    let files = inbox.recovered().unwrap();
    assert_eq!(named(&files), ["2024/z", "d/y", "d/y", "x", "x"]);
    assert!(inbox.is_paused());
    assert_eq!(names(&work), [".lemonade.paused", "a"]);

    // The former release locks work as a whole.
    drop(inbox);
    let lock = fs::File::open(work.join(".lemonade.lock")).unwrap();
    lock.lock().unwrap();
    let refused = Inbox::open(directories(root), patience(Duration::ZERO), "a").unwrap_err();
    assert!(
        refused.to_string().contains(" has it; stop that process"),
        "{refused}"
    );
}

#[test]
fn two_nodes_with_one_inbound_claim_each_file_once() {
    const FILES: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let nodes = [open(root, "a", 1), open(root, "b", 1)];
    let delivered: Vec<String> = (0..FILES).map(|number| format!("{number:03}")).collect();
    for name in &delivered {
        deliver(root, &[name]);
    }
    let claimed = std::thread::scope(|scope| {
        let claims = nodes.each_ref().map(|inbox| scope.spawn(|| claim(inbox)));
        claims.map(|claim| claim.join().unwrap())
    });
    let all: Vec<Claimed> = claimed.into_iter().flatten().collect();
    assert_eq!(named(&all), delivered);
    assert!(names(&root.join("inbound")).is_empty());
}
