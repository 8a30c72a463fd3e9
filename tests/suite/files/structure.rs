//! Records below `*`: documents as real programs write them, through the binary, with each row
//! compared with its record.

use std::fmt::Write as _;
use std::fs;

use super::*;

const SETTINGS: &str = r#"
frame_records = 100
frame_bytes = "4KB"

# OTLP/JSON, as the OpenTelemetry Collector writes logs.
[[datasets]]
name = "logs"
records = "/resourceLogs/*/scopeLogs/*/logRecords"
columns = [
    { name = "time", field = "/timeUnixNano", type = "timestamp", epoch = "ns" },
    { name = "body", field = "/body/stringValue", type = "text" },
]

# An object of records by key, as the plugin list of an update center.
[[datasets]]
name = "plugins"
records = "/plugins/*"
columns = [
    { name = "title", type = "text" },
    { name = "size", type = "integer", required = false },
]
"#;

/// The definition of logs, one envelope on each line: the form of the file exporter.
const LINES: &str = "format = \"sequence\"\n";

/// An OTLP document with a resource for each item: how many records each of its scopes has.
fn otlp(resources: &[&[usize]]) -> String {
    let (mut text, mut number) = (String::from("{\"resourceLogs\":["), 0);
    for (at, scopes) in resources.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let name = format!(r#"{{"key":"service.name","value":{{"stringValue":"svc{at}"}}}}"#);
        write!(
            text,
            r#"{comma}{{"resource":{{"attributes":[{name}]}},"scopeLogs":["#
        )
        .unwrap();
        for (at, records) in scopes.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(
                text,
                r#"{comma}{{"scope":{{"name":"scope{at}"}},"logRecords":["#
            )
            .unwrap();
            for at in 0..*records {
                let comma = if at == 0 { "" } else { "," };
                let time = 1_700_000_000_000_000_000_u64 + number * 1_000;
                number += 1;
                write!(
                    text,
                    r#"{comma}{{"timeUnixNano":"{time}","body":{{"stringValue":"line {number}"}}}}"#
                )
                .unwrap();
            }
            text += "]}";
        }
        text += "]}";
    }
    text + "],\"x\":null}"
}

/// Loads one file and returns the first column of each row of `sql`.
async fn load(pair: &Pair, code: i32, name: &str, text: &str, sql: &str) -> Vec<String> {
    fs::write(pair.at("inbound").join(name), text).unwrap();
    pair.expect(code, &["load"]);
    let rows = pair.query(sql).await;
    let first = |mut row: Vec<Option<String>>| row[0].take().unwrap();
    rows.into_iter().map(first).collect()
}

/// The bodies of log records with these numbers, in the order of the file.
fn bodies(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|number| format!("line {number}")).collect()
}

async fn otlp_logs_load(name: &'static str) {
    let pair = Pair::new(name).await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    let sql = "SELECT body FROM logs ORDER BY id";
    // Some resources fit in a frame, one has large scopes, and one has none.
    let small = otlp(&[&[1], &[2, 0, 1], &[], &[3], &[300, 1, 70], &[1; 90]]);
    assert_eq!(
        load(&pair, 0, "logs_1.json", &small, sql).await,
        bodies(1..=468)
    );
    let files = pair
        .query("SELECT records, rejects FROM ingest_files")
        .await;
    assert_eq!(files, [[Some("468".to_owned()), Some("0".to_owned())]]);
    pair.expect(0, &["verify", "--content"]);
    let traced = pair.expect(0, &["trace", &((1_u64 << 32) + 306).to_string()]);
    assert!(traced.ends_with("\"line 307\"}}\n"), "{traced}");

    // A bad record alone is a reject, which is found in the file and corrected.
    let bad = small.replace("\"line 200\"", "tru").replace("line", "LINE");
    load(&pair, 2, "logs_2.json", &bad, sql).await;
    assert_eq!(pair.number("SELECT COUNT(*) FROM logs").await, 468 + 467);
    let exported = pair.expect(0, &["rejects", "export"]);
    assert!(
        exported.contains(r#"\"body\":{\"stringValue\":tru}}"#),
        "{exported}"
    );
    let exported = pair.at("rejects.ndjson");
    let text =
        r#"{"file_no":2,"ordinal":199,"record":{"timeUnixNano":"1","body":{"stringValue":"new"}}}"#;
    fs::write(&exported, text).unwrap();
    pair.expect(0, &["rejects", "replay", exported.to_str().unwrap()]);
    pair.expect(0, &["verify", "--content"]);

    // What is broken between the records refuses the file, and nothing of it is stored.
    for (at, (from, to, reason)) in [
        ("\"x\":null", "\"x\":nul", "not JSON outside of the records"),
        (r#""name":"scope1"}"#, r#""name":"scope1"},,"#, "found `,`"),
        (
            "\"scopeLogs\":[]",
            "\"scopeLogs\":5",
            "an object or an array at `/resourceLogs/*/scopeLogs`",
        ),
        (
            "\"logRecords\":[]",
            "\"logRecords\":{}",
            "expected an array of records at",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let broken = small.replacen(from, to, 1);
        assert_ne!(broken, small);
        let name = format!("logs_broken_{at}.json");
        let rows = load(&pair, 2, &name, &broken, sql).await;
        assert_eq!(rows.len(), 468 + 468, "{from}");
        let found = pair.at("quarantine").join(format!("{name}.reason"));
        let found = fs::read_to_string(found).unwrap();
        assert!(found.contains(reason), "{from}: {found}");
    }

    // One envelope on each line.
    let settings = SETTINGS.replacen("name = \"logs\"\n", &format!("name = \"logs\"\n{LINES}"), 1);
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
    pair.execute("DELETE FROM logs").await;
    pair.expect(0, &["files", "forget", "1", "2", "--yes"]);
    let lines = [otlp(&[&[2], &[1, 1]]), otlp(&[&[0]]), otlp(&[&[150]])].join("\n");
    let rows = load(&pair, 0, "logs_lines.json", &lines, sql).await;
    assert_eq!(rows, [bodies(1..=4), bodies(1..=150)].concat());
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_logs_load_into_sqlite() {
    otlp_logs_load("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn otlp_logs_load_through_redis_into_mariadb() {
    otlp_logs_load("redis+mysql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_records_by_key_loads() {
    let pair = embedded().await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    let member = |at: usize| format!(r#""plugin-{at}":{{"title":"title {at}","size":{at}}}"#);
    let members: Vec<String> = (0..400).map(member).collect();
    let text = format!(
        "{{\"id\":1,\"plugins\":{{{}}},\"z\":[]}}",
        members.join(",\n")
    );
    let sql = "SELECT title FROM plugins ORDER BY id";
    let expected: Vec<String> = (0..400).map(|at| format!("title {at}")).collect();
    assert_eq!(load(&pair, 0, "plugins_1.json", &text, sql).await, expected);
    // Bad members alone are rejects, with the place of their values.
    let bad = text.replacen("\"title 7\"", "7,,", 1).replacen(
        "{\"title\":\"title 9\",\"size\":9}",
        "9",
        1,
    );
    assert_eq!(
        load(&pair, 2, "plugins_2.json", &bad, sql).await.len(),
        400 + 398
    );
    let rejects = "SELECT code FROM ingest_rejects ORDER BY ordinal";
    let rejects = pair.query(rejects).await.concat();
    assert_eq!(
        rejects,
        ["invalid_json", "not_an_object"].map(|code| Some(code.to_owned()))
    );
    pair.expect(0, &["verify", "--content"]);
    let exported = pair.expect(0, &["rejects", "export"]);
    assert!(exported.contains(r#""raw":"9""#), "{exported}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pointer_that_cannot_work_is_an_error_of_settings() {
    let pair = embedded().await;
    let lines = SETTINGS.replacen("name = \"logs\"", "name = \"logs\"\nformat = \"lines\"", 1);
    let relative = SETTINGS.replacen("\"/plugins/*\"", "\"plugins/*\"", 1);
    for (settings, expected) in [
        (lines, "with `format = \"lines\"` each line is a record"),
        (relative, "`records = \"plugins/*\"` must begin with `/`"),
    ] {
        fs::write(pair.at("lemonade.toml"), settings).unwrap();
        let output = pair.run(&["load"]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}
