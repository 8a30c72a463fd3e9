//! Commands with other directories than those of the process that has the files: nothing there is
//! taken for gone.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::end_to_end::generate;
use crate::support::{Pair, Service, until};

const WITHIN: Duration = Duration::from_secs(60);

const ALL: &str = "ingest,work,summary";

/// What a command says that does not find a file.
const HINT: &str = "may be in the directories of there: run this with its settings";

const EVENT: &str = r#"{"vehicle_id":"v","event_time":"2024-01-01T00:00:00Z","event_source":"s",
    "event_type":"t","event_value":"1"}"#;

/// File 1 is settled. Another one is pending, and in the directories of a process without workers,
/// whose name is `there`. Returns its number.
async fn scene(name: &'static str) -> (Pair, Service, String) {
    let pair = Pair::new(name).await;
    let few = ["--files", "1", "--records", "3", "--bad", "0"];
    generate(&pair, &few);
    pair.expect(0, &["load"]);
    let args = ["run", "--role", "ingest", "--node", "there"];
    let service = Service::start(&pair, &[&args[..], &["--drain-timeout", "1s"]].concat());
    generate(&pair, &[&few[..], &["--seed", "9"]].concat());
    let pending = "SELECT file_no FROM ingest_files WHERE state = 'pending'";
    until("a pending file", WITHIN, async || {
        pair.query(pending).await.len() == 1
    })
    .await;
    let file_no = pair.number(pending).await.to_string();
    (pair, service, file_no)
}

/// A command with other directories.
fn command(pair: &Pair, role: &str, args: &[&str]) -> Command {
    let mut command = pair.command(args);
    command
        .env("LEMONADE_DATA_DIR", pair.at("other"))
        .env("LEMONADE_ROLE", role);
    command
}

/// The exit code of a command with other directories, and what it says.
fn outcome(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// What a command with other directories says that ends with this code.
fn said(pair: &Pair, role: &str, code: i32, args: &[&str]) -> String {
    let (ended, said) = outcome(command(pair, role, args));
    assert_eq!(ended, Some(code), "{} {args:?}: {said}", pair.name);
    said
}

/// What is stored: files of the ledger, rows, and accepted or erased records.
async fn stored(pair: &Pair) -> Vec<u64> {
    let mut counts = Vec::new();
    for of in [
        "ingest_files",
        "ingest_files WHERE state = 'settled'",
        "vehicle_events",
        "ingest_erased",
    ] {
        counts.push(pair.number(&format!("SELECT COUNT(*) FROM {of}")).await);
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_process_with_other_directories_are_not_taken_for_gone() {
    for name in ["redis+mysql", "redis+sqlite"] {
        let (pair, mut service, pending) = scene(name).await;
        let before = stored(&pair).await;
        let refused = [
            (
                vec!["files", "forget", &pending, "--yes"],
                "and there may be loading it",
            ),
            (
                vec!["files", "reload", &pending, "--yes"],
                "and there may be loading it",
            ),
            (vec!["files", "reload", "1", "--yes"], HINT),
            (vec!["files", "acknowledge", "1", "--yes"], HINT),
            (vec!["erase", "1:0", "--yes"], HINT),
        ];
        for (args, why) in refused {
            let text = said(&pair, ALL, 1, &args);
            assert!(text.contains(why), "{name} {args:?}: {text}");
        }
        assert_eq!(stored(&pair).await, before, "{name}");

        let text = said(&pair, ALL, 0, &["verify"]);
        assert!(text.contains("note: 1 of the pending files"), "{text}");
        assert!(text.contains(HINT), "{name}: {text}");
        let text = said(&pair, ALL, 0, &["verify", "--json"]);
        assert!(text.contains("\"elsewhere\":1"), "{name}: {text}");
        let text = said(&pair, ALL, 1, &["verify", "--content"]);
        let unread = "note: 1 files could not be compared; those that are not here may be in the";
        assert!(text.contains(unread), "{name}: {text}");
        let text = said(&pair, ALL, 0, &["status"]);
        assert!(text.contains(HINT), "{name}: {text}");
        // A queue of its own takes no frames of the other process.
        fs::create_dir_all(pair.at("archive")).unwrap();
        fs::write(pair.at("archive/vehicle_events_1.json"), EVENT).unwrap();
        let mut load = command(&pair, ALL, &["load", "archive"]);
        load.env_remove("REDIS_URL");
        let (code, loaded) = outcome(load);
        assert_eq!(code, Some(0), "{name}: {loaded}");
        let (_, doctor) = outcome(command(&pair, ALL, &["doctor"]));
        for text in [text, loaded, doctor] {
            assert!(!text.contains("files forget"), "{name}: {text}");
        }

        // A row is lost, and its file is there.
        let lost = 1_u64 << 32;
        pair.execute(&format!("DELETE FROM vehicle_events WHERE id = {lost}"))
            .await;
        for which in ["1", "--all"] {
            let text = said(&pair, ALL, 1, &["files", "restore", which]);
            assert!(text.contains(HINT), "{name} {which}: {text}");
            assert!(!text.contains("files forget"), "{name} {which}: {text}");
        }

        // In the directories of the process, all is as it was.
        pair.expect(0, &["files", "restore", "1"]);
        pair.expect(1, &["files", "forget", &pending, "--yes"]);
        let text = pair.expect(0, &["verify", "--content"]);
        assert!(!text.contains("in the directories of"), "{name}: {text}");

        // Once it has ended in order, nobody else can have the files.
        service.terminate();
        let living = "SELECT COUNT(*) FROM ingest_nodes";
        assert_eq!(pair.number(living).await, 0, "{name}");
        let forget = format!("task_runner files forget {pending}");
        for (code, args) in [(1, "verify"), (0, "status")] {
            let text = said(&pair, ALL, code, &[args]);
            assert!(text.contains(&forget), "{name} {args}: {text}");
        }
        said(&pair, ALL, 0, &["files", "forget", &pending, "--yes"]);
        let text = said(&pair, ALL, 0, &["erase", "1:0", "--yes"]);
        let not_here = "none of the directories of these settings has the file";
        assert!(text.contains(not_here), "{name}: {text}");
        let text = pair.expect(0, &["erase", "1:0", "--yes"]);
        assert!(text.contains("the bytes are blank"), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_killed_counts_until_it_is_dead() {
    let (pair, mut service, pending) = scene("redis+mysql").await;
    service.0.kill().unwrap();
    service.0.wait().unwrap();
    let forget = ["files", "forget", &pending, "--yes"];
    let text = said(&pair, ALL, 1, &forget);
    assert!(text.contains("and there may be loading it"), "{text}");
    until("it is dead", WITHIN, async || {
        outcome(command(&pair, ALL, &forget)).0 == Some(0)
    })
    .await;
    assert_eq!(stored(&pair).await, [1, 1, 3, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_need_files_are_refused_without_the_role_ingest() {
    const ROLE: &str = "work,summary";
    let (pair, mut service, pending) = scene("redis+mysql").await;
    let before = stored(&pair).await;
    for args in [
        vec!["erase", "1:0", "--yes"],
        vec!["verify", "--content"],
        vec!["files", "retry", "a.json"],
        vec!["files", "release", "1"],
        vec!["files", "restore", "1"],
        vec!["files", "restore", "--all"],
        vec!["files", "acknowledge", "1", "--yes"],
        vec!["files", "reload", "1", "--yes"],
        vec!["files", "forget", &pending, "--yes"],
    ] {
        let text = said(&pair, ROLE, 64, &args);
        assert!(
            text.contains("this process has the roles work,summary"),
            "{text}"
        );
        assert!(text.contains("with the role ingest: run it with"), "{text}");
    }
    assert_eq!(stored(&pair).await, before);
    let asked = |others: &str| {
        let hint = format!("may be in the directories of {others}: run this with its settings");
        let text = said(&pair, ROLE, 0, &["verify"]);
        assert!(text.contains(&hint), "{text}");
        let text = said(&pair, ROLE, 0, &["status"]);
        assert!(text.contains(&hint), "{text}");
        let own = "0 in quarantine of its own directories: it takes no files";
        assert!(text.contains(own), "{text}");
        assert!(!text.contains("task_runner load"), "{text}");
    };
    asked("there");
    service.terminate();
    asked("a process with the role ingest");
}
