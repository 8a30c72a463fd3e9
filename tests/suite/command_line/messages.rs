//! Standard input as a file, colours, quiet runs, and the JSON of totals and findings.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{NO_HTTP, Run, Shell};
use crate::support::{files_below, until};

/// A record that becomes a row, and one that becomes a reject.
const RECORDS: &str = r#"{"vehicle_status": [{"vehicle_id":"v-1","report_time":"2022-06-05T21:02:34Z","status_source":"mobile","status":"ok"}, 7]}"#;

fn command(shell: &Shell, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_task_runner"));
    command
        .args(arguments)
        .current_dir(shell.path())
        .env_clear()
        .envs([NO_HTTP])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the binary with this standard input.
fn piped(shell: &Shell, arguments: &[&str], input: &str) -> Run {
    let mut child = command(shell, arguments).spawn().unwrap();
    // A command that does not read it closes the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run {
        code: output.status.code().expect("it was not killed"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn names(shell: &Shell, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(shell.path().join("lemonade-data").join(directory)).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    entries.map(|entry| name(entry).unwrap()).collect()
}

#[test]
fn standard_input_is_loaded_like_a_file() {
    let shell = Shell::new();
    let load = ["load", "-", "--as", "vehicle_status_piped.json", "--json"];
    let run = piped(&shell, &load, RECORDS);
    assert_eq!(run.code, 2, "{run:?}");
    let totals: Value = serde_json::from_str(&run.stdout).unwrap();
    let count = |name: &str| totals[name].as_u64().unwrap();
    assert_eq!(count("version"), 1);
    assert_eq!((count("files"), count("records")), (1, 2), "{totals}");
    assert_eq!((count("rows"), count("rejects")), (1, 1), "{totals}");
    assert_eq!(names(&shell, "inbound"), Vec::<String>::new());
    assert_eq!(names(&shell, "history"), ["vehicle_status_piped.json"]);
    let listed = shell.run(&["files", "list", "--json"]).stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["name"], "vehicle_status_piped.json");
    let settled = listed["settled_at"].as_str().unwrap();
    assert!(
        settled.as_bytes()[10] == b'T' && settled.ends_with('Z'),
        "{settled}"
    );

    let again = piped(&shell, &load, RECORDS);
    let totals: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(
        (again.code, &totals["duplicates"]),
        (0, &1.into()),
        "{again:?}"
    );
}

#[test]
fn standard_input_needs_a_name_and_records() {
    let shell = Shell::new();
    let unnamed = piped(&shell, &["load", "-"], RECORDS);
    assert_eq!(unnamed.code, 64, "{unnamed:?}");
    assert!(unnamed.stderr.contains("load - --as NAME"), "{unnamed:?}");
    let empty = piped(&shell, &["load", "-", "--as", "vehicle_status_a.json"], "");
    assert_eq!(empty.code, 1, "{empty:?}");
    assert!(
        empty.stderr.contains("standard input is empty"),
        "{empty:?}"
    );
    assert_eq!(names(&shell, "inbound"), Vec::<String>::new());
}

/// A load in the middle of its standard input, with the pipe. What it has read is in work.
async fn slow_load(shell: &Shell) -> (Child, ChildStdin) {
    let load = ["load", "-", "--as", "vehicle_status_slow.json"];
    let mut child = command(shell, &load).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"{\"vehicle_status\": [").unwrap();
    until("the file is written", Duration::from_secs(60), async || {
        let written = left_in_work(shell).into_iter();
        let mut written = written.filter_map(|path| fs::metadata(path).ok());
        written.any(|found| found.len() > 0)
    })
    .await;
    // No service can take it.
    assert_eq!(names(shell, "inbound"), Vec::<String>::new());
    (child, input)
}

fn left_in_work(shell: &Shell) -> Vec<PathBuf> {
    files_below(&shell.path().join("lemonade-data/work"))
}

#[tokio::test]
async fn a_stopped_read_of_standard_input_leaves_nothing_behind() {
    let shell = Shell::new();
    let (mut child, input) = slow_load(&shell).await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    drop(input);
    assert_eq!(names(&shell, "inbound"), Vec::<String>::new());
    assert_eq!(left_in_work(&shell), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_a_killed_read_of_standard_input_leaves_is_removed_by_the_next_start() {
    let shell = Shell::new();
    let (mut child, input) = slow_load(&shell).await;
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    assert_eq!(left_in_work(&shell).len(), 1);
    let run = shell.run(&["load"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(names(&shell, "inbound"), Vec::<String>::new());
    assert_eq!(left_in_work(&shell), Vec::<PathBuf>::new());
    assert_eq!(names(&shell, "history"), Vec::<String>::new());
}

/// The file of inbound stays there for the next load.
#[test]
fn standard_input_may_have_the_name_of_another_file() {
    let shell = Shell::new();
    let name = "vehicle_status_a.json";
    assert_eq!(shell.run(&["load"]).code, 0);
    let inbound = shell.path().join("lemonade-data/inbound");
    fs::write(inbound.join(name), RECORDS.replace("ok", "other")).unwrap();
    let run = piped(&shell, &["load", "-", "--as", name], RECORDS);
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(names(&shell, "inbound"), [name]);
    assert_eq!(names(&shell, "history"), [name]);
    let run = shell.run(&["load"]);
    assert!(run.stdout.contains("rows         1\n"), "{run:?}");
    assert_eq!(names(&shell, "inbound"), Vec::<String>::new());
    assert_eq!(names(&shell, "history").len(), 2);
}

#[test]
fn colours_are_for_terminals_unless_they_are_asked_for() {
    let shell = Shell::new();
    let coloured = |arguments: &[&str], variables: &[(&str, &str)]| {
        let arguments = [&["load", "--log-format", "text"], arguments].concat();
        let run = shell.run_with(&arguments, &[&[NO_HTTP], variables].concat());
        assert!(run.stderr.contains("INFO"), "{run:?}");
        run.stderr.contains("\u{1b}[")
    };
    assert!(!coloured(&[], &[]));
    assert!(coloured(&["--color", "always"], &[]));
    assert!(coloured(&["--color=always"], &[("NO_COLOR", "1")]));
    assert!(!coloured(&["--color", "never"], &[]));
    let wrong = shell.run(&["load", "--color", "sometimes"]);
    assert_eq!(wrong.code, 64, "{wrong:?}");
}

#[test]
fn a_quiet_load_prints_its_result_and_no_log() {
    let shell = Shell::new();
    let load = ["-q", "load", "-", "--as", "vehicle_status_a.json"];
    let run = piped(&shell, &load, &RECORDS.replace(", 7", ""));
    assert_eq!((run.code, &*run.stderr), (0, ""), "{run:?}");
    assert!(run.stdout.contains("rows         1\n"), "{run:?}");
}

#[test]
fn doctor_reports_its_findings_as_json() {
    let shell = Shell::new();
    let run = shell.run_with(&["doctor", "--json"], &[NO_HTTP]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &report["version"]), (0, &1.into()), "{run:?}");
    assert_eq!(report["exit_code"], 0, "{run:?}");
    let findings = report["findings"].as_array().unwrap();
    let sections = ["settings", "directories", "queue", "database"];
    for section in sections {
        assert!(
            findings.iter().any(|finding| finding["section"] == section),
            "{section}"
        );
    }
    let run = shell.run_with(&["doctor", "--json", "--disk-floor", "1PiB"], &[NO_HTTP]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &report["exit_code"]), (1, &1.into()), "{run:?}");
    let worst = report["findings"].as_array().unwrap().iter();
    assert!(
        worst.clone().any(|finding| finding["fix"] != ""),
        "{report}"
    );
}

#[test]
fn a_directory_that_cannot_be_made_is_named_with_the_next_step() {
    let shell = Shell::new();
    shell.write("taken", "");
    for (command, begin, end) in [
        (
            "generate",
            "cannot create taken/a: ",
            "; choose another --dir",
        ),
        (
            "demo",
            "cannot write to taken/a: ",
            "; name another directory with --dir",
        ),
    ] {
        let run = shell.run(&[command, "--dir", "taken/a"]);
        assert_eq!(run.code, 1, "{run:?}");
        let said = run.stderr.trim_end();
        assert!(said.contains(begin) && said.ends_with(end), "{run:?}");
    }
}
