//! The objects of docs/json.md: those that have a version, and the status, have the fields that the
//! page lists, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lemonade_task::sink::{FileEntry, FileState, Totals};
use lemonade_task::status::{
    Files, Node, Outage, Queue, RejectCount, Status, Trouble, WaitingFile,
};
use serde_json::{Value, json};

use super::{NO_HTTP, Shell};
use crate::support::{Pair, Service, free_addr, page, until};

/// A record that becomes a row, and one that becomes a reject.
const RECORDS: &str = r#"{"vehicle_status": [{"vehicle_id":"v-1","report_time":"2022-06-05T21:02:34Z","status_source":"mobile","status":"ok"}, {"vehicle_id":7}]}"#;

/// The texts in backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The text without what is in parentheses: the values of a field.
fn without_values(text: &str) -> String {
    let parts = text.split('(');
    parts
        .map(|part| part.split_once(')').map_or(part, |(_, after)| after))
        .collect()
}

/// What docs/json.md says of the fields of a command.
fn fields_of<'a>(page: &'a str, command: &str) -> Option<&'a str> {
    let mut rows = page.lines().filter(|line| line.starts_with("| `"));
    let row = rows.find(|row| quoted(row.split(" | ").next().unwrap()).contains(command))?;
    row.split(" | ").nth(2)
}

/// The fields that docs/json.md lists for a command: those of every object, and all.
fn documented(page: &str, command: &str) -> Option<(BTreeSet<String>, BTreeSet<String>)> {
    let fields = fields_of(page, command)?;
    let always = without_values(fields.split([':', ';']).next()?);
    let owned = |fields: BTreeSet<&str>| fields.into_iter().map(str::to_owned).collect();
    Some((owned(quoted(&always)), owned(quoted(fields))))
}

/// The names of all fields, also of the objects inside.
fn all_fields(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(fields) => {
            let inside = fields.values().flat_map(all_fields);
            inside.chain(fields.keys().cloned()).collect()
        }
        Value::Array(values) => values.iter().flat_map(all_fields).collect(),
        _ => BTreeSet::new(),
    }
}

/// What the object of a command lacks of its documentation, or has beside it.
fn gaps(page: &str, command: &str, object: &Value) -> Vec<String> {
    let Some((always, all)) = documented(page, command) else {
        return vec![format!("{command} is not in the page")];
    };
    let Some(object) = object.as_object() else {
        return vec![format!("{command} prints no object: {object}")];
    };
    let missing = always.iter().filter(|field| !object.contains_key(*field));
    let missing = missing.map(|field| format!("{command} has no {field}"));
    let other = object.keys().filter(|field| !all.contains(*field));
    let other = other.map(|field| format!("{command}: {field} is not in the page"));
    let version = (object.get("version") != Some(&1.into()))
        .then(|| format!("{command} has not the version 1"));
    missing.chain(other).chain(version).collect()
}

fn the_page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap()
}

#[test]
fn each_object_has_the_fields_of_its_page() {
    let (shell, page) = (Shell::new(), the_page());
    shell.write("vehicle_status_a.json", RECORDS);
    let mut wrong = Vec::new();
    let mut check = |command: &str, code: i32, arguments: &[&str]| -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        let run = shell.run_with(&arguments, &[NO_HTTP]);
        assert_eq!(run.code, code, "{arguments:?}: {run:?}");
        let object: Value = serde_json::from_str(&run.stdout).unwrap();
        wrong.extend(gaps(&page, command, &object));
        object
    };
    check("load", 2, &["load", "vehicle_status_a.json"]);
    check("doctor", 0, &["doctor"]);
    let read = check("summary", 0, &["summary", "--rebuild"]);
    assert_eq!(read["rows_read"], 0, "vehicle_status has no summary");
    let migrated = check("migrate", 0, &["migrate"]);
    let tables = migrated["tables"].as_array().unwrap();
    assert!(tables.contains(&"vehicle_status".into()), "{migrated}");
    let printed = check("migrate --print", 0, &["migrate", "--print"]);
    let statements = printed["statements"].as_array().unwrap();
    assert!(statements[0].as_str().unwrap().starts_with("CREATE"));
    let row = check("trace", 0, &["trace", "1:0"]);
    assert_eq!(
        (&row["outcome"], &row["table"]),
        (&"row".into(), &"vehicle_status".into())
    );
    assert!(RECORDS.contains(row["raw"].as_str().unwrap()), "{row}");
    let reject = check("trace", 0, &["trace", "1:1"]);
    assert_eq!(reject["outcome"], "reject");
    assert_eq!(reject["code"], "missing_field", "{reject}");
    let show = check("config show", 0, &["config", "show", "--workers", "3"]);
    assert_eq!(show["settings"]["workers"], 3);
    assert_eq!(show["datasets"][0]["name"], "vehicle_events");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));

    // Without its file, a record has no place.
    fs::remove_file(shell.path().join("vehicle_status_a.json")).unwrap();
    let gone = shell.run(&["trace", "1:0", "--json"]);
    assert_eq!(gone.code, 1, "{gone:?}");
    let gone: Value = serde_json::from_str(&gone.stdout).unwrap();
    assert!(
        gone["unavailable"].is_string() && gone["path"].is_null(),
        "{gone}"
    );
}

/// A status in which no list is empty.
fn whole_status() -> Status {
    let file = FileEntry {
        file_no: 1,
        name: String::new(),
        dataset: String::new(),
        state: FileState::Settled,
        bytes: 0,
        records: 0,
        rejects: 0,
        reason: None,
    };
    let waiting = WaitingFile {
        name: String::new(),
        why: String::new(),
        code: String::new(),
        seconds: None,
    };
    let reject = RejectCount {
        code: String::new(),
        records: 1,
        message: Some(String::new()),
    };
    let outage = Outage {
        trouble: Trouble::Database,
        detail: String::new(),
        seconds: 0.0,
        ended_seconds_ago: None,
    };
    Status {
        queue: Some(Queue::default()),
        nodes: vec![Node::default()],
        files: Files {
            waiting: vec![waiting],
            ..Files::default()
        },
        totals: Some(Totals::default()),
        last_files: vec![file],
        rejects: vec![reject],
        outages: vec![outage],
        ..Status::default()
    }
}

#[test]
fn the_status_has_the_fields_of_its_page() {
    let page = the_page();
    let status = serde_json::to_value(whole_status()).unwrap();
    let (always, _) = documented(&page, "status").unwrap();
    let top: BTreeSet<String> = status.as_object().unwrap().keys().cloned().collect();
    assert_eq!(always, top);
    let all = without_values(fields_of(&page, "status").unwrap());
    let all: BTreeSet<String> = quoted(&all).into_iter().map(str::to_owned).collect();
    assert_eq!(all, all_fields(&status));
    // The page of the service and the command have one object.
    assert_eq!(fields_of(&page, "/api/status"), fields_of(&page, "status"));
    let shell = Shell::new();
    let printed = shell.run_with(&["status", "--json"], &[NO_HTTP]);
    let printed: Value = serde_json::from_str(&printed.stdout).unwrap();
    let printed: BTreeSet<String> = printed.as_object().unwrap().keys().cloned().collect();
    assert_eq!(printed, top);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_record_has_no_place_and_the_sums_have_the_fields_of_their_page() {
    let (pair, page) = (Pair::new("memory+sqlite").await, the_page());
    fs::write(pair.at("inbound").join("vehicle_status_a.json"), RECORDS).unwrap();
    pair.expect(2, &["load"]);
    let printed = |args: &[&str]| -> Value {
        let printed = pair.expect(0, &[args, &["--json"]].concat());
        serde_json::from_str(printed.lines().last().unwrap()).unwrap()
    };
    for (command, args) in [
        ("verify", &["verify"][..]),
        ("verify", &["verify", "--content"]),
        ("files show", &["files", "show", "1"]),
    ] {
        let (_, all) = documented(&page, command).unwrap();
        let missing: Vec<String> = all_fields(&printed(args))
            .difference(&all)
            .cloned()
            .collect();
        assert!(missing.is_empty(), "{args:?}: not in the page: {missing:?}");
    }
    pair.expect(0, &["erase", "1:0", "--yes"]);
    let erased = printed(&["trace", "1:0"]);
    let place = ["path", "byte_offset", "bytes", "raw"];
    let lacking = place.map(|field| format!("trace has no {field}"));
    let mut gaps = gaps(&page, "trace", &erased);
    gaps.sort();
    assert_eq!(
        gaps,
        BTreeSet::from(lacking).into_iter().collect::<Vec<_>>()
    );
    assert!(erased["unavailable"].is_string(), "{erased}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_prints_its_object_and_the_exit_code_stays() {
    let pair = Pair::new("memory+sqlite").await;
    let addr = free_addr();
    let with = |code, args: &[&str]| {
        let health = pair.expect(
            code,
            &[&["health", "--json", "--http-addr"][..], args].concat(),
        );
        let health: Value = serde_json::from_str(&health).unwrap();
        assert_eq!(gaps(&the_page(), "health", &health), [""; 0]);
        health
    };
    let asked = |code| with(code, &[&addr]);
    let off = with(1, &["off"]);
    assert_eq!(
        (&off["addr"], &off["answers"], &off["ready"]),
        (&Value::Null, &json!(false), &json!(false))
    );
    assert!(
        off["reason"].as_str().unwrap().contains("HTTP is off"),
        "{off}"
    );
    let none = asked(1);
    let reason = none["reason"].as_str().unwrap();
    assert!(reason.contains("; start `task_runner`, or set"), "{reason}");
    assert_eq!(
        (&none["answers"], &none["ready"]),
        (&false.into(), &false.into())
    );
    let service = Service::start_with_http(&pair, &["run"], &addr);
    until(
        "the service to be ready",
        std::time::Duration::from_secs(60),
        async || page(&addr, "/readyz").is_some_and(|(code, _)| code == 200),
    )
    .await;
    let ready = asked(0);
    assert_eq!(
        (&ready["answers"], &ready["ready"]),
        (&true.into(), &true.into())
    );
    assert!(ready["reason"].is_null());
    let other = with(1, &[&addr, "--data-dir", "other"]);
    assert_eq!(
        (&other["answers"], &other["ready"]),
        (&true.into(), &false.into())
    );
    let reason = other["reason"].as_str().unwrap();
    assert!(reason.contains("works in"), "{reason}");
    drop(service);
}

#[test]
fn a_field_that_is_missing_or_not_documented_is_reported() {
    let page = "| `a` | it | `version` (1), `b` (`x`, `y`); if it applies, `c` |\n";
    let of = |text: &str| gaps(page, "a", &serde_json::from_str(text).unwrap());
    assert_eq!(of(r#"{"version": 1, "b": 2}"#), [""; 0]);
    assert_eq!(of(r#"{"version": 1, "b": 2, "c": 3}"#), [""; 0]);
    assert_eq!(of(r#"{"version": 1}"#), ["a has no b"]);
    assert_eq!(
        of(r#"{"version": 1, "b": 2, "d": 3}"#),
        ["a: d is not in the page"]
    );
    assert_eq!(of(r#"{"version": 2, "b": 2}"#), ["a has not the version 1"]);
}
