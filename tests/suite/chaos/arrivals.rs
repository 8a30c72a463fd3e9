//! Delivers files to inbound in all the ways that producers use.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use tokio::task::JoinSet;

use super::files::{Dice, Expected, Made, Maker, Worth};
use crate::support::files_below;

/// Files in progress at a time. More would only prolong the end of a run.
const UNDER_WAY_MAX: usize = 40;

/// Wait before retrying to deliver a file while another one of its name is in inbound.
const NAME_TAKEN_WAIT: Duration = Duration::from_millis(100);

/// The directories to which files are delivered, and in which they are in progress.
#[derive(Clone)]
pub struct Places {
    pub inbound: PathBuf,
    pub work: PathBuf,
    /// A directory on the same file system that the engine does not read.
    pub outside: PathBuf,
}

/// Makes and delivers files while `goes_on`. Returns the expected outcome of each.
pub async fn arrive(seed: u64, places: Places, goes_on: impl Fn() -> bool) -> Vec<Expected> {
    let mut maker = Maker::new(seed);
    let mut dice = Dice::new(seed, 2);
    let mut writers = JoinSet::new();
    let mut number = 0_u64;
    while goes_on() {
        // Sometimes delivers many at once.
        let burst = if dice.percent(5) { 15 } else { 1 };
        for _ in 0..burst {
            let made = maker.make();
            number += 1;
            let dice = Dice::new(seed ^ number, 3);
            writers.spawn(deliver(made, places.clone(), number, dice));
        }
        tokio::time::sleep(Duration::from_millis(dice.between(20, 500))).await;
        while under_way(&places) >= UNDER_WAY_MAX && goes_on() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    while let Some(delivered) = writers.join_next().await {
        delivered.expect("a file is delivered");
    }
    maker.log
}

fn under_way(places: &Places) -> usize {
    let inbound = fs::read_dir(&places.inbound).map_or(0, Iterator::count);
    inbound + files_below(&places.work).len()
}

async fn deliver(made: Made, places: Places, number: u64, mut dice: Dice) {
    let target = places.inbound.join(&made.name);
    match dice.below(4) {
        0 => write(&target, &made.bytes, 1, &mut dice).await,
        1 => {
            let pieces = dice.between(3, 8) as usize;
            write(&target, &made.bytes, pieces, &mut dice).await;
        }
        2 => {
            let aside = places.outside.join(number.to_string());
            write(&aside, &made.bytes, 1, &mut dice).await;
            rename(&aside, &target).await;
        }
        _ => {
            let aside = places.inbound.join(format!(".{number}"));
            write(&aside, &made.bytes, 2, &mut dice).await;
            rename(&aside, &target).await;
        }
    }
}

/// Writes a new file in so many pieces, with pauses between them, and closes it.
async fn write(path: &Path, bytes: &[u8], pieces: usize, dice: &mut Dice) {
    let mut file = loop {
        match File::create_new(path) {
            Ok(file) => break file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                tokio::time::sleep(NAME_TAKEN_WAIT).await;
            }
            Err(error) => panic!("{}: {error}", path.display()),
        }
    };
    for (at, piece) in bytes
        .chunks(bytes.len().div_ceil(pieces).max(1))
        .enumerate()
    {
        if at > 0 {
            tokio::time::sleep(Duration::from_millis(dice.between(20, 400))).await;
        }
        file.write_all(piece).unwrap();
    }
}

/// Renames, but never over another file.
async fn rename(from: &Path, to: &Path) {
    loop {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => return,
            Err(rustix::io::Errno::EXIST) => tokio::time::sleep(NAME_TAKEN_WAIT).await,
            Err(error) => panic!("{}: {error}", to.display()),
        }
    }
}

/// Prints how much was delivered.
pub fn print_files(log: &[Expected]) {
    let records = || log.iter().filter_map(|expected| expected.records.as_ref());
    let rejects = |records: &Vec<Worth>| {
        let reject = |worth: &&Worth| matches!(worth, Worth::Reject(_));
        records.iter().filter(reject).count()
    };
    eprintln!(
        "files: {} of {} contents, {} of them not to be read; {} records, {} of them invalid",
        log.iter()
            .map(|expected| expected.names.len())
            .sum::<usize>(),
        log.len(),
        log.len() - records().count(),
        records().map(Vec::len).sum::<usize>(),
        records().map(rejects).sum::<usize>(),
    );
}
