//! Files that hold the records of several datasets.

use std::fmt::Write as _;

use serde_json::Value;

use super::*;

/// An event, or text that is not JSON.
fn event(value: &str) -> String {
    format!(
        r#"{{"vehicle_id":"v","event_time":"2024-01-01T00:00:00Z","event_source":"s","event_type":"t","event_value":"{value}"}}"#
    )
}

/// Three events and four statuses. The second of each is a reject.
fn both() -> String {
    format!(
        r#"{{"vehicle_events":[{},tru,{}],"note":1,"vehicle_status":[{},{{"x":1}},{},{}]}}"#,
        event("1"),
        event("3"),
        record("1"),
        record("3"),
        record("4")
    )
}

/// The definition of `vehicle_events` that makes other rows of the same records.
const OTHER_DEFINITION: &str = "
[[datasets]]
name = 'vehicle_events'
on_unknown_field = 'ignore'
columns = [
    {name = 'vehicle_id', type = 'text'}, {name = 'event_time', type = 'timestamp'},
    {name = 'event_source', type = 'text'}, {name = 'event_type', type = 'text'},
    {name = 'event_value', type = 'text'},
    {name = 'event_extra_data', type = 'json', required = false, default = '{}'},
]
";

/// The files of the ledger as (number, dataset, state, records, rejects).
async fn ledger(pair: &Pair) -> Vec<String> {
    let sql = "SELECT file_no, dataset, state, records, rejects FROM ingest_files ORDER BY file_no";
    let text = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    pair.query(sql).await.into_iter().map(text).collect()
}

/// The number in a line of the output of `load`.
fn sum(report: &str, name: &str) -> u64 {
    let lines = report.lines();
    let mut found = lines.filter_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    found
        .next_back()
        .unwrap_or_else(|| panic!("{name}: {report}"))
}

/// Each array is a separate part, with rows, rejects, `verify`, `trace` and replays. The file moves
/// and counts once.
async fn the_arrays_of_several_datasets_load(name: &'static str) {
    let pair = Pair::new(name).await;
    let inbound = pair.at("inbound");
    let file = "vehicle_events_both.json";
    fs::write(inbound.join(file), both()).unwrap();
    let checked = pair.expect(2, &["check", "inbound"]);
    assert!(
        checked.contains("record 1 of vehicle_events at byte"),
        "{checked}"
    );
    assert!(
        checked.contains("record 1 of vehicle_status at byte"),
        "{checked}"
    );
    assert!(
        checked.contains("1 files, 0 of them unreadable; 7 records: 5 rows"),
        "{checked}"
    );

    let report = pair.expect(2, &["load"]);
    for (line, expected) in [
        ("files", 1),
        ("records", 7),
        ("rows", 5),
        ("rejects", 2),
        ("quarantined", 0),
        ("duplicates", 0),
    ] {
        assert_eq!(sum(&report, line), expected, "{line}: {report}");
    }
    let stored = [
        "1 vehicle_events settled 3 1",
        "2 vehicle_status settled 4 1",
    ];
    assert_eq!(ledger(&pair).await, stored);
    assert_eq!(names(&pair.at("history")), [file]);
    assert_eq!(names(&pair.at("work")), [""; 0]);
    let verified = pair.expect(0, &["verify", "--content"]);
    assert!(
        verified.contains("2 files, 0 of them wrong; 7 records"),
        "{verified}"
    );

    // Each record is found in the file, although the other array has a bad record.
    for (id, text) in [
        ((1_u64 << 32) + 2, event("3")),
        ((2 << 32) + 3, record("4")),
    ] {
        let traced = pair.expect(0, &["trace", &id.to_string()]);
        assert_eq!(traced.lines().last(), Some(text.as_str()), "{traced}");
    }
    let exported = pair.expect(0, &["rejects", "export"]);
    let raw: Vec<Value> = exported
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["raw"].clone())
        .collect();
    assert_eq!(raw, ["{\"x\":1}", "tru"]);
    let corrected = pair.at("corrected.ndjson");
    let line = format!(
        "{{\"file_no\":2,\"ordinal\":1,\"record\":{}}}\n",
        record("2")
    );
    fs::write(&corrected, line).unwrap();
    pair.expect(0, &["rejects", "replay", corrected.to_str().unwrap()]);
    assert_eq!(rows(&pair).await, 4);
    let stored = [stored[0], "2 vehicle_status settled 4 0"];

    // Copies of the file, in the same load and later, under the names of both datasets, in inbound
    // and in an archive.
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    fs::write(archive.join("vehicle_status_both.json"), both()).unwrap();
    for copy in ["vehicle_events_2.json", "vehicle_status_3.json"] {
        fs::write(inbound.join(copy), both()).unwrap();
    }
    let report = pair.expect(0, &["load"]);
    assert_eq!(
        (sum(&report, "files"), sum(&report, "duplicates")),
        (2, 2),
        "{report}"
    );
    let report = pair.expect(0, &["load", "archive"]);
    assert_eq!(
        (sum(&report, "files"), sum(&report, "duplicates")),
        (1, 1),
        "{report}"
    );
    assert_eq!(names(&archive), ["vehicle_status_both.json"]);
    fs::remove_dir_all(archive).unwrap();
    assert_eq!(ledger(&pair).await, stored);

    // First one part is loaded again, then both.
    pair.expect(0, &["files", "reload", "2", "--yes"]);
    pair.expect(2, &["load"]);
    let files = ledger(&pair).await;
    let (again, rest) = files[1].split_once(' ').unwrap();
    assert_eq!(
        (files[0].as_str(), rest),
        (stored[0], "vehicle_status settled 4 1")
    );
    pair.expect(0, &["files", "reload", "1", again, "--yes"]);
    let report = pair.expect(2, &["load"]);
    assert_eq!(
        (sum(&report, "files"), sum(&report, "records")),
        (1, 7),
        "{report}"
    );
    let files = ledger(&pair).await;
    let parts = files.iter().map(|file| file.split_once(' ').unwrap().1);
    let expected = ["vehicle_events settled 3 1", "vehicle_status settled 4 1"];
    assert!(parts.eq(expected), "{files:?}");
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_arrays_of_several_datasets_load_into_sqlite() {
    the_arrays_of_several_datasets_load("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_arrays_of_several_datasets_load_through_redis_into_mariadb() {
    the_arrays_of_several_datasets_load("redis+mysql").await;
}

/// Copies that arrive together, compressed or not, and an archive that comes first.
#[tokio::test(flavor = "multi_thread")]
async fn copies_and_archives_of_several_datasets_load_once() {
    let pair = embedded().await;
    let inbound = pair.at("inbound");
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    fs::write(archive.join("vehicle_status_1.json"), both()).unwrap();
    pair.expect(2, &["load", "archive"]);
    pair.expect(0, &["verify", "--content"]);
    let exported = pair.expect(0, &["rejects", "export"]);
    assert!(!exported.contains("unavailable"), "{exported}");

    let other = both().replace("\"3\"", "\"three\"");
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped
        .write_all(both().replace("\"3\"", "\"III\"").as_bytes())
        .unwrap();
    let zipped = zipped.finish().unwrap();
    for (name, bytes) in [
        ("vehicle_events_2.json", other.as_bytes()),
        ("vehicle_status_3.json", other.as_bytes()),
        ("vehicle_events_4.json", other.as_bytes()),
        ("vehicle_events_5.json.gz", &zipped),
    ] {
        fs::write(inbound.join(name), bytes).unwrap();
    }
    let report = pair.expect(2, &["load"]);
    for (line, expected) in [
        ("files", 4),
        ("duplicates", 2),
        ("records", 14),
        ("rejects", 4),
    ] {
        assert_eq!(sum(&report, line), expected, "{line}: {report}");
    }
    assert_eq!(names(&pair.at("history")).len(), 4);
    assert_eq!(rows(&pair).await, 9);
    pair.expect(0, &["verify", "--content"]);
}

/// The state after a kill between the ends of two parts, or before the move: the file is in work,
/// and the ledger has settled only the parts in `settled`.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_the_ends_of_two_parts_loses_and_doubles_nothing() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for settled in [[true, false], [false, true], [true, true]] {
            let pair = Pair::new(name).await;
            let file = "vehicle_events_both.json";
            fs::write(pair.at("inbound").join(file), both()).unwrap();
            pair.expect(2, &["load"]);
            for (at, table) in ["vehicle_events", "vehicle_status"].iter().enumerate() {
                if settled[at] {
                    continue;
                }
                let file_no = at as u64 + 1;
                for sql in [
                    format!("DELETE FROM {table}"),
                    format!("DELETE FROM ingest_rejects WHERE file_no = {file_no}"),
                    format!(
                        "UPDATE ingest_files SET state = 'pending', rejects = 0, settled_at = NULL \
                         WHERE file_no = {file_no}"
                    ),
                ] {
                    pair.execute(&sql).await;
                }
            }
            let (history, work) = (pair.at("history").join(file), pair.at("work").join(file));
            fs::rename(&history, work).unwrap();
            let code = if settled == [true, true] { 0 } else { 2 };
            let report = pair.expect(code, &["load"]);
            assert_eq!(
                sum(&report, "duplicates"),
                0,
                "{name} {settled:?}: {report}"
            );
            let stored = [
                "1 vehicle_events settled 3 1",
                "2 vehicle_status settled 4 1",
            ];
            assert_eq!(ledger(&pair).await, stored, "{name} {settled:?}");
            assert!(history.exists(), "{name} {settled:?}");
            pair.expect(0, &["verify", "--content"]);
        }
    }
}

/// One part was begun by another definition: the file goes to quarantine, and the other part is
/// stored. `files retry` loads the first one anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_definition_is_quarantined_and_the_other_is_stored() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        let file = "vehicle_events_both.json";
        fs::write(pair.at("inbound").join(file), both()).unwrap();
        pair.expect(2, &["load"]);
        // The state after a kill: some of the events are stored, and none of the statuses.
        for sql in [
            "DELETE FROM vehicle_events WHERE event_value = '3'",
            "INSERT INTO ingest_frames (file_no, first_ordinal, records) VALUES (1, 0, 2)",
            "UPDATE ingest_files SET state = 'pending', rejects = 0, settled_at = NULL",
            "DELETE FROM vehicle_status",
            "DELETE FROM ingest_rejects WHERE file_no = 2",
        ] {
            pair.execute(sql).await;
        }
        fs::rename(pair.at("history").join(file), pair.at("work").join(file)).unwrap();
        fs::write(pair.at("lemonade.toml"), OTHER_DEFINITION).unwrap();
        let report = pair.expect(2, &["load"]);
        assert_eq!(sum(&report, "quarantined"), 1, "{report}");
        assert_eq!(
            (sum(&report, "files"), sum(&report, "records")),
            (1, 4),
            "{report}"
        );
        let reason = pair.at("quarantine").join(format!("{file}.reason"));
        let reason = fs::read_to_string(reason).unwrap();
        let lines: Vec<&str> = reason.lines().collect();
        assert!(
            lines[0].starts_with("other_definition: it was begun as file 1"),
            "{reason}"
        );
        assert_eq!(
            lines[1..],
            ["its records of `vehicle_status` are stored as file 2"]
        );
        let files = ledger(&pair).await;
        assert_eq!(
            files,
            [
                "1 vehicle_events quarantined 3 0",
                "2 vehicle_status settled 4 1"
            ]
        );
        pair.expect(0, &["files", "retry", file]);
        let report = pair.expect(2, &["load"]);
        assert_eq!(
            (sum(&report, "records"), sum(&report, "rejects")),
            (3, 1),
            "{report}"
        );
        // The numbers of MySQL have gaps.
        let files = ledger(&pair).await;
        assert_eq!(files[0], "2 vehicle_status settled 4 1");
        assert!(
            files[1].ends_with(" vehicle_events settled 3 1"),
            "{files:?}"
        );
        assert_eq!(files.len(), 2);
        assert_eq!(names(&pair.at("history")), [file]);
        pair.expect(0, &["verify", "--content"]);
    }
}

/// A table that takes no rows makes the file wait, and the records of the other table are stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_whose_table_takes_no_rows_waits_and_the_other_is_stored() {
    let pair = Pair::new("memory+mysql").await;
    pair.expect(0, &["migrate"]);
    let file = "vehicle_events_both.json";
    fs::write(pair.at("inbound").join(file), both()).unwrap();
    let trigger = "CREATE TRIGGER broken BEFORE INSERT ON vehicle_status FOR EACH ROW \
                   CALL missing_procedure()";
    pair.execute(trigger).await;
    let report = pair.expect(75, &["load"]);
    assert_eq!(
        (sum(&report, "files"), sum(&report, "waiting")),
        (1, 1),
        "{report}"
    );
    assert_eq!(names(&pair.at("inbound")), [file]);
    let pending = "2 vehicle_status pending 4 0";
    assert_eq!(
        ledger(&pair).await,
        ["1 vehicle_events settled 3 1", pending]
    );
    pair.execute("DROP TRIGGER broken").await;
    let report = pair.expect(2, &["load"]);
    assert_eq!(
        (sum(&report, "files"), sum(&report, "records")),
        (1, 4),
        "{report}"
    );
    assert_eq!(names(&pair.at("history")), [file]);
    pair.expect(0, &["verify", "--content"]);
}

/// `--dataset` says which dataset the file belongs to, in place of its name. Arrays of other
/// datasets load as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_dataset_leaves_no_array_out() {
    let pair = embedded().await;
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    fs::write(archive.join("a.json"), both()).unwrap();
    let report = pair.expect(2, &["load", "--dataset", "vehicle_status", "archive"]);
    assert_eq!(
        (sum(&report, "files"), sum(&report, "records")),
        (1, 7),
        "{report}"
    );
    assert_eq!(
        ledger(&pair).await,
        [
            "1 vehicle_status settled 4 1",
            "2 vehicle_events settled 3 1"
        ]
    );
}

/// The datasets that have a part: the file's own if its array exists, and others whose array has
/// records.
#[tokio::test(flavor = "multi_thread")]
async fn an_array_that_is_absent_or_empty_is_no_part_of_another_dataset() {
    let pair = embedded().await;
    let inbound = pair.at("inbound");
    let (event, status) = (event("1"), record("1"));
    for (name, document) in [
        (
            "a",
            format!(r#"{{"vehicle_events":[{event}],"vehicle_status":[]}}"#),
        ),
        (
            "b",
            format!(r#"{{"vehicle_events":[],"vehicle_status":[{status}]}}"#),
        ),
        ("c", format!(r#"{{"meta":1,"vehicle_status":[{status}]}}"#)),
    ] {
        fs::write(
            inbound.join(format!("vehicle_events_{name}.json")),
            document,
        )
        .unwrap();
    }
    let report = pair.expect(0, &["load"]);
    assert_eq!(
        (sum(&report, "files"), sum(&report, "records")),
        (3, 3),
        "{report}"
    );
    let sql = "SELECT name, dataset, records FROM ingest_files ORDER BY name, dataset";
    let text = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let files: Vec<String> = pair.query(sql).await.into_iter().map(text).collect();
    assert_eq!(
        files,
        [
            "vehicle_events_a.json vehicle_events 1",
            "vehicle_events_b.json vehicle_events 0",
            "vehicle_events_b.json vehicle_status 1",
            "vehicle_events_c.json vehicle_status 1",
        ]
    );
    pair.expect(0, &["verify", "--content"]);
}

/// Orders, their items, and a second table of the same orders.
const ORDERS: &str = "
[[datasets]]
name = 'orders'
columns = [{name = 'no', type = 'text'}]
";

const ALSO_OF_ORDERS: &str = "
[[datasets]]
name = 'order_items'
files = 'orders'
also = true
records = '/items'
columns = [{name = 'item', type = 'text'}]

[[datasets]]
name = 'order_audit'
files = 'orders'
also = true
records = '/orders'
columns = [{name = 'audited', field = '/no', type = 'text'}]
";

/// Datasets with `also = true` take a file in addition to the one that its name belongs to: arrays
/// of an envelope, the same array, and the same lines.
async fn datasets_with_also_take_files_of_another_one(name: &'static str) {
    let pair = Pair::new(name).await;
    let inbound = pair.at("inbound");
    fs::write(pair.at("lemonade.toml"), ORDERS).unwrap();
    let envelope = r#"{"orders":[{"no":"1"},{"no":"2"}],"items":[{"item":"a"},{},{"item":"c"}]}"#;
    fs::write(inbound.join("orders_1.json"), envelope).unwrap();
    pair.expect(0, &["load"]);

    // The others take what is loaded from then on, and what is loaded once more.
    fs::write(
        pair.at("lemonade.toml"),
        format!("{ORDERS}{ALSO_OF_ORDERS}"),
    )
    .unwrap();
    for (name, text) in [
        (
            "orders_2.ndjson",
            "{\"no\":\"3\",\"item\":\"d\"}\n{\"no\":\"4\"}\n",
        ),
        ("orders_3.json", r#"{"no":"x","orders":[{"no":"5"}]}"#),
        ("order_items.json", r#"{"items":[{"item":"e"}]}"#),
    ] {
        fs::write(inbound.join(name), text).unwrap();
    }
    let planned = pair.expect(0, &["load", "--dry-run"]);
    assert!(
        planned.contains("\torders, order_items, order_audit\n"),
        "{planned}"
    );
    let checked = pair.expect(2, &["check", "inbound"]);
    assert!(
        checked.contains("orders_2.ndjson: record 1 of order_items at byte 22"),
        "{checked}"
    );
    let report = pair.expect(2, &["load"]);
    for (line, expected) in [
        ("files", 3),
        ("records", 8),
        ("rejects", 1),
        ("quarantined", 1),
    ] {
        assert_eq!(sum(&report, line), expected, "{line}: {report}");
    }
    let reason = fs::read_to_string(pair.at("quarantine/order_items.json.reason")).unwrap();
    assert!(reason.starts_with("no_dataset: "), "{reason}");
    let report = pair.expect(2, &["load", "history"]);
    for (line, expected) in [("files", 3), ("records", 5), ("duplicates", 2)] {
        assert_eq!(sum(&report, line), expected, "{line}: {report}");
    }

    let texts = async |sql: &str| {
        let rows = pair.query(sql).await.into_iter();
        rows.flatten().flatten().collect::<String>()
    };
    assert_eq!(texts("SELECT no FROM orders ORDER BY no").await, "12345");
    let audited = texts("SELECT audited FROM order_audit ORDER BY audited").await;
    assert_eq!(audited, "12345");
    assert_eq!(
        texts("SELECT item FROM order_items ORDER BY item").await,
        "acd"
    );
    let missing = "SELECT COUNT(*) FROM ingest_rejects WHERE code = 'missing_field'";
    assert_eq!(pair.number(missing).await, 2);
    let verified = pair.expect(0, &["verify", "--content"]);
    assert!(
        verified.contains("8 files, 0 of them wrong; 15 records"),
        "{verified}"
    );
    let id = texts("SELECT id FROM order_items WHERE item = 'c'").await;
    let traced = pair.expect(0, &["trace", &id]);
    assert_eq!(traced.lines().last(), Some(r#"{"item":"c"}"#), "{traced}");
    let report = pair.expect(0, &["load", "history"]);
    assert_eq!(sum(&report, "duplicates"), 3, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn datasets_with_also_take_files_of_another_one_into_sqlite() {
    datasets_with_also_take_files_of_another_one("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datasets_with_also_take_files_of_another_one_into_mariadb() {
    datasets_with_also_take_files_of_another_one("redis+mysql").await;
}

/// The files that are registered together have more parts than flights may be open at a time.
#[tokio::test(flavor = "multi_thread")]
async fn more_parts_than_flights_load() {
    const DATASETS: usize = 36;
    const FILES: usize = 256;
    let pair = embedded().await;
    let mut settings = String::new();
    let mut arrays = Vec::new();
    for at in 0..DATASETS {
        write!(
            settings,
            "[[datasets]]\nname = 'd{at}_'\ncolumns = [{{name = 'x', type = 'text'}}]\n"
        )
        .unwrap();
        arrays.push(format!(r#""d{at}_":[{{"x":"1"}}]"#));
    }
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
    for at in 0..FILES {
        let document = format!("{{\"no\":{at},{}}}", arrays.join(","));
        fs::write(pair.at("inbound").join(format!("d0_{at}.json")), document).unwrap();
    }
    let report = pair.expect(0, &["load"]);
    let parts = (DATASETS * FILES) as u64;
    assert!(parts > 8_192, "so many flights are open at a time");
    assert!(report.contains("records      9,216"), "{report}");
    let settled = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";
    assert_eq!(pair.number(settled).await, parts);
    assert_eq!(names(&pair.at("history")).len(), FILES);
}
