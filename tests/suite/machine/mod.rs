//! What the machine does to the engine: reads that fail, a clock that jumps, memory that is short, a
//! power cut.
//!
//! The faults come from outside, from the kernel or from a library before the system's own, so that the
//! binary under test is the one that users have.

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

/// Records of events in inbound, in so many files; the same for each call.
fn generate(pair: &Pair, args: &[&str]) {
    let inbound = pair.at("inbound");
    let common = ["generate", "--dir", inbound.to_str().unwrap()];
    let events = ["--dataset", "vehicle_events"];
    pair.expect(0, &[&common[..], &events, args].concat());
}

/// The same, with a prefix before the names: files of another call may be there.
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

/// That each of so many records is one row under its own id, that no other row is there, and that all
/// of so many files are in history.
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

/// The command of an engine, as the arguments of another one.
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

/// What a process said on stderr.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
