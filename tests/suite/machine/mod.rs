//! Faults of the machine: failing reads, a jumping clock, too little memory, a power cut.
//!
//! The faults come from the kernel or from a preloaded library, so that the tested binary is the
//! one that users have.

mod clock;
mod memory;
mod power;
mod reads;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::{Pair, Service, names, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs `generate` into inbound. The same arguments write the same files.
fn generate(pair: &Pair, args: &[&str]) {
    let inbound = pair.at("inbound");
    let common = ["generate", "--dir", inbound.to_str().unwrap()];
    let events = ["--dataset", "vehicle_events"];
    pair.expect(0, &[&common[..], &events, args].concat());
}

/// The same, with a prefix for the names of the files, so that calls do not overwrite each other's
/// files.
fn generate_as(pair: &Pair, prefix: &str, args: &[&str]) {
    let aside = pair.at(prefix);
    let common = ["generate", "--dir", aside.to_str().unwrap()];
    let events = ["--dataset", "vehicle_events"];
    pair.expect(0, &[&common[..], &events, args].concat());
    for name in names(&aside) {
        let to = pair.at("inbound").join(format!("{prefix}{name}"));
        fs::rename(aside.join(name), to).unwrap();
    }
}

/// Checks that each record is one row under its id, that there are no other rows, and that all
/// files are in history.
async fn is_loaded_once(pair: &Pair, records: u64, files: usize) {
    let rows = "SELECT COUNT(*) FROM vehicle_events";
    assert_eq!(pair.number(rows).await, records);
    let places = "SELECT COALESCE(SUM(records), 0) FROM ingest_files WHERE state = 'settled'";
    assert_eq!(pair.number(places).await, records);
    let rejects = "SELECT COUNT(*) FROM ingest_rejects";
    assert_eq!(pair.number(rejects).await, 0);
    assert_eq!(names(&pair.at("history")).len(), files);
    for place in ["inbound", "work", "quarantine"] {
        assert_eq!(names(&pair.at(place)), [""; 0], "{place}");
    }
    pair.expect(0, &["verify"]);
}

/// The command line of the engine, as arguments of another command.
fn through(mut command: Command, engine: &Command) -> Command {
    command
        .arg(engine.get_program())
        .args(engine.get_args())
        .current_dir(engine.get_current_dir().unwrap())
        .env_clear()
        .envs(
            engine
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .stdin(Stdio::null());
    command
}

/// The stderr of a process.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory below inbound that is mounted elsewhere, where no path shows that it lies in inbound.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_mounted_out_of_inbound_is_refused() {
    let pair = Pair::new("memory+sqlite").await;
    let (inner, mounted) = (pair.at("inbound").join("done"), pair.at("mounted"));
    for dir in [&inner, &mounted] {
        fs::create_dir(dir).unwrap();
    }
    let run = |command: &mut Command| {
        let status = command.status().unwrap();
        assert!(status.success(), "{command:?}, which needs root: {status}");
    };
    run(Command::new("mount").arg("--bind").args([&inner, &mounted]));
    let outputs = ["load", "doctor"].map(|command| {
        let mut command = pair.command(&[command]);
        command.env("LEMONADE_HISTORY", mounted.join("2026"));
        command.output().unwrap()
    });
    run(Command::new("umount").arg(&mounted));
    for output in &outputs {
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let said = said.concat();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("lies in inbound"), "{said}");
    }
}
