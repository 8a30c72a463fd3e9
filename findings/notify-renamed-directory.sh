#!/usr/bin/env bash
# notify: after a watched directory is renamed, its events have the old path, which may be a new
# directory.
#
#   findings/notify-renamed-directory.sh
#
# Versions: notify 8.2.2, Linux (inotify).
# Expected: an event has the path of the file. If a watched path is renamed, the watch ends, as it
#   does if the path is removed, or an event reports the change. `watch` and `unwatch` of that path
#   then work for the new directory.
# Seen, with `inbound` watched, renamed to `old`, and made again, as a rotation of directories does:
#   - a file that is written to old/ is reported as inbound/FILE, where there is none;
#   - a file that is written to inbound/ is not reported, and no error says that it will not be;
#   - after `watch(inbound)` once more both are, each as inbound/FILE;
#   - after `unwatch(inbound)`, which returns Ok, files in old/ still are.
#   inotify watches the inode, and notify keeps the path that it was given.
# What to do: watch the parent directory too. After Modify(Name(From)) or Remove of the watched
#   path, make a new watcher. Use events only as hints, and list the directory.
#
# It needs cargo, takes half a minute, and exits with 1 if it sees something else.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir -p "$work/program/src"
cat >"$work/program/Cargo.toml" <<'TOML'
[package]
name = "program"
edition = "2021"

[dependencies]
notify = "=8.2.2"
TOML
cat >"$work/program/src/main.rs" <<'RUST'
use std::path::Path;
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;
use std::{env, error::Error, fs};

use notify::event::CreateKind;
use notify::{recommended_watcher, Event, EventKind, RecursiveMode::NonRecursive, Watcher};

fn main() -> Result<(), Box<dyn Error>> {
    let top = env::args().nth(1).expect("an empty directory");
    let top = Path::new(&top);
    let (inbound, old) = (top.join("inbound"), top.join("old"));
    let (sender, events) = channel();
    let mut watcher = recommended_watcher(sender)?;
    let mut changed = false;
    let mut check = |what: &str, dir: &Path, file: &str, expected: &[&str]| {
        fs::write(dir.join(file), "").expect("the directory is there");
        let seen = created(&events, top);
        println!("{what}, {file} is written to {}: {seen:?}", dir.strip_prefix(top).unwrap().display());
        if seen != expected {
            eprintln!("  this has changed: it was {expected:?}");
            changed = true;
        }
    };

    fs::create_dir(&inbound)?;
    watcher.watch(&inbound, NonRecursive)?;
    check("inbound is watched", &inbound, "1", &["inbound/1"]);
    fs::rename(&inbound, &old)?;
    fs::create_dir(&inbound)?;
    check("renamed to old and made again", &old, "2", &["inbound/2"]);
    check("renamed to old and made again", &inbound, "3", &[]);
    watcher.watch(&inbound, NonRecursive)?;
    check("watched again", &old, "4", &["inbound/4"]);
    check("watched again", &inbound, "5", &["inbound/5"]);
    watcher.unwatch(&inbound)?;
    check("no longer watched", &old, "6", &["inbound/6"]);
    check("no longer watched", &inbound, "7", &[]);
    std::process::exit(changed.into())
}

/// The reported paths of created files, read until no event arrives for half a second.
fn created(events: &Receiver<notify::Result<Event>>, top: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    while let Ok(event) = events.recv_timeout(Duration::from_millis(500)) {
        let event = event.expect("no error is reported");
        if event.kind == EventKind::Create(CreateKind::File) {
            let below = |path: &Path| path.strip_prefix(top).expect("below it").display().to_string();
            paths.extend(event.paths.iter().map(|path| below(path)));
        }
    }
    paths
}
RUST
mkdir "$work/top"
cargo run --quiet --manifest-path "$work/program/Cargo.toml" --target-dir "$work/target" -- "$work/top"
