//! What goes wrong during a take-over.

use std::fs;
use std::time::Duration;

use super::super::*;
use super::nodes::{claim, deliver, named, open};
use super::{directories, patience};

#[test]
fn files_of_a_take_over_that_fails_are_kept_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let heir = open(root, "heir", 1);
    let gone = root.join("work/gone");
    fs::create_dir_all(gone.join("1")).unwrap();
    fs::write(gone.join("1/a"), r#"["a"]"#).unwrap();
    // No directory: it cannot be listed.
    fs::write(gone.join("2"), "").unwrap();
    heir.orphan("gone".to_owned(), vec![1, 2]);
    assert_eq!(named(&heir.take_orphans()), ["a"]);
    assert!(heir.has_taken());
    assert!(heir.take_orphans().is_empty(), "tried again");
    // It can be listed now.
    let taken = heir.node.taken.lock()[0].clone();
    fs::remove_file(&taken).unwrap();
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("b"), r#"["b"]"#).unwrap();
    assert_eq!(named(&heir.take_orphans()), ["b"]);
    assert!(!heir.has_taken());
    assert_eq!(named(&heir.recovered().unwrap()), ["a", "b"]);
}

/// An heir on another host has removed the place before the process began.
#[test]
fn a_process_whose_place_was_removed_takes_its_lock_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let inbox = Inbox::open(directories(root), patience(Duration::ZERO), "x").unwrap();
    fs::remove_dir_all(root.join("work/x")).unwrap();
    inbox.begin(5, true).unwrap();
    deliver(root, &["a"]);
    assert_eq!(named(&claim(&inbox)), ["a"]);
    let other = open(root, "y", 6);
    assert!(other.recovered().unwrap().is_empty());
    assert_eq!(named(&inbox.recovered().unwrap()), ["a"]);
    // The lock is held: no other process gets the name.
    assert!(Inbox::open(directories(root), patience(Duration::ZERO), "x").is_err());
}

#[test]
fn a_process_that_takes_no_files_removes_the_empty_directories_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let place = root.join("work/x");
    for (epoch, file) in [("1", None), ("2", Some("a"))] {
        fs::create_dir_all(place.join(epoch)).unwrap();
        if let Some(file) = file {
            fs::write(place.join(epoch).join(file), "[]").unwrap();
        }
    }
    let inbox = Inbox::open(directories(root), patience(Duration::ZERO), "x").unwrap();
    inbox.begin(3, false).unwrap();
    let mut epochs = inbox.epochs_of("x");
    epochs.sort_unstable();
    assert_eq!(epochs, [2, 3]);
}
