//! The real binary over each pair of broker and sink: files in, rows out, files in history.
//!
//! `LEMONADE_E2E_RECORDS` sets the size (default 20,000 records a shape); the figures of a release
//! are made with 1,000,000.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use xxhash_rust::xxh3::xxh3_64;

mod failover;
mod faults;
mod hosts;
pub mod indexes;
mod named;
mod queue;
mod service;
mod shards;
mod stopping;
mod tls;

use crate::support::{Pair, names};

fn e2e_records() -> u64 {
    std::env::var("LEMONADE_E2E_RECORDS").map_or(20_000, |records| records.parse().unwrap())
}

/// One number over all (file, ordinal, values), independent of their order.
struct Checksum(u64, u64);

impl Checksum {
    fn add<'a>(&mut self, file: &str, ordinal: u64, values: impl Iterator<Item = &'a str>) {
        let mut text = format!("{file}\0{ordinal}");
        for value in values {
            text.push('\0');
            text.push_str(value);
        }
        self.0 = self.0.wrapping_add(xxh3_64(text.as_bytes()));
        self.1 += 1;
    }
}

/// The expected rows, read from the input by another parser than the product's.
fn checksum_of_files(dir: &Path) -> Checksum {
    let mut sum = Checksum(0, 0);
    for name in names(dir) {
        let bytes = std::fs::read(dir.join(&name)).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        for (ordinal, record) in document["vehicle_events"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            let text = |field: &str| record[field].as_str().unwrap().to_owned();
            // Generated times are milliseconds with `Z`.
            let time = text("event_time").replace('T', " ").replace('Z', "000");
            let extra = match &record["event_extra_data"] {
                serde_json::Value::Null => "{}".to_owned(),
                extra => extra.to_string(),
            };
            let values = [
                text("vehicle_id"),
                time,
                text("event_source"),
                text("event_type"),
                text("event_value"),
                extra,
            ];
            sum.add(&name, ordinal as u64, values.iter().map(String::as_str));
        }
    }
    sum
}

/// The rows of the table.
async fn checksum_of_rows(pair: &Pair) -> Checksum {
    let files = pair.query("SELECT file_no, name FROM ingest_files").await;
    let mut sum = Checksum(0, 0);
    for file in files {
        let file_no: u64 = file[0].as_ref().unwrap().parse().unwrap();
        let rows = pair
            .query(&format!(
                "SELECT id, vehicle_id, CAST(event_time AS CHAR), event_source, event_type, \
                 event_value, event_extra_data FROM vehicle_events \
                 WHERE id >= {} AND id < {} ORDER BY id",
                file_no << 32,
                (file_no + 1) << 32
            ))
            .await;
        for (expected, row) in rows.iter().enumerate() {
            let ordinal = row[0].as_ref().unwrap().parse::<u64>().unwrap() & 0xffff_ffff;
            assert_eq!(ordinal, expected as u64, "ids have a gap in {:?}", file[1]);
            // Compared as JSON, since the text keeps the spaces of the input.
            let extra: serde_json::Value =
                serde_json::from_str(row[6].as_deref().unwrap()).unwrap();
            let extra = extra.to_string();
            let values = row[1..6].iter().map(|value| value.as_deref().unwrap());
            sum.add(
                file[1].as_deref().unwrap(),
                ordinal,
                values.chain(std::iter::once(extra.as_str())),
            );
        }
    }
    sum
}

async fn loads_all(pair: &Pair, files: u64, records_each: u64) {
    let inbound = pair.at("inbound");
    pair.expect(
        0,
        &[
            "generate",
            "--dir",
            inbound.to_str().unwrap(),
            "--dataset",
            "vehicle_events",
            "--files",
            &files.to_string(),
            "--records",
            &records_each.to_string(),
        ],
    );
    let generated = names(&inbound);
    assert_eq!(generated.len() as u64, files);
    let expected = checksum_of_files(&inbound);
    assert_eq!(expected.1, files * records_each);

    let began = Instant::now();
    let report = pair.expect(0, &["load"]);
    let seconds = began.elapsed().as_secs_f64();
    eprintln!(
        "{}: {files} x {records_each}: {:.0} records/s",
        pair.name,
        (files * records_each) as f64 / seconds
    );
    assert!(report.contains("duplicates"), "{report}");
    assert_eq!(names(&inbound), Vec::<String>::new());
    assert_eq!(names(&pair.at("work")), Vec::<String>::new());
    assert_eq!(names(&pair.at("history")), generated);
    let stored = checksum_of_rows(pair).await;
    assert_eq!(
        (stored.0, stored.1),
        (expected.0, expected.1),
        "{}: rows differ",
        pair.name
    );
    assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_frames").await, 0);
    summary_is_right(pair).await;

    // A second load adds no row, and reports the files as duplicates.
    let history = pair.at("history");
    let report = pair.expect(0, &["load", history.to_str().unwrap()]);
    let line = report
        .lines()
        .find(|line| line.contains("duplicates"))
        .unwrap();
    assert!(
        line.replace(',', "").ends_with(&format!(" {files}")),
        "{report}"
    );
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM vehicle_events").await,
        files * records_each
    );
    assert_eq!(names(&history), generated, "an archive stays where it is");
}

/// The summary equals the result of a query over the whole table.
async fn summary_is_right(pair: &Pair) {
    let date = "SUBSTR(CAST(event_time AS CHAR), 1, 10)";
    let brute = pair
        .query(&format!(
            "SELECT vehicle_id, {date} AS d, CAST(event_time AS CHAR), event_type, id FROM ( \
             SELECT e.*, ROW_NUMBER() OVER (PARTITION BY vehicle_id, {date} \
             ORDER BY event_time DESC, id DESC) AS place FROM vehicle_events e) ranked \
             WHERE place = 1 ORDER BY vehicle_id, d"
        ))
        .await;
    let kept = pair
        .query(
            "SELECT vehicle_id, CAST(day AS CHAR), CAST(last_event_time AS CHAR), \
             last_event_type, last_id FROM daily_summary ORDER BY vehicle_id, day",
        )
        .await;
    assert!(!kept.is_empty());
    assert_eq!(kept, brute, "{}: the summary differs", pair.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_large_file_over_each_pair() {
    for pair in Pair::all().await {
        loads_all(&pair, 1, e2e_records()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_over_each_pair() {
    for pair in Pair::all().await {
        loads_all(&pair, e2e_records() / 1_000, 1_000).await;
    }
}

const EVENTS: &str = r#"{"vehicle_events": [{"vehicle_id": "v1", "event_time": "2022-06-05T21:02:34.546Z", "event_source": "mobile", "event_type": "start_drive", "event_value": "1,2", "event_extra_data": {"note": "ok"}}, {"vehicle_id": "v1", "event_time": "2022-06-05T22:02:34.546Z", "event_source": "mobile", "event_type": "stop", "event_value": "1,2", "event_extra_data": {}}, {"vehicle_id": "v2", "event_time": "2022-06-06T00:02:34.546Z", "event_source": "device", "event_type": "door_open", "event_value": "driver_door", "event_extra_data:": {"emergency_call": true}}]}"#;

const STATUS: &str = r#"{"vehicle_status": [{"vehicle_id": "v1", "report_time": "2022-05-05T21:02:34.546Z", "status_source": "mobile", "status": "driving"}, {"vehicle_id": "v2", "report_time": "2022-05-06T00:02:34.546Z", "status_source": "device", "status": "accident"}, {"vehicle_id": "v3", "report_time": "2022-05-09T00:02:34.546Z", "status_source": "police", "status": "garage"}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_the_original_load_as_they_are() {
    for pair in Pair::all().await {
        let inbound = pair.at("inbound");
        std::fs::write(inbound.join("vehicle_events_20220605210234.json"), EVENTS).unwrap();
        std::fs::write(inbound.join("vehicle_status_20220505210234.json"), STATUS).unwrap();
        pair.expect(0, &["load"]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_events").await, 3);
        assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_status").await, 3);
        let rescued = pair
            .query("SELECT _rescued FROM vehicle_events WHERE _rescued IS NOT NULL")
            .await;
        assert_eq!(rescued.len(), 1);
        let rescued: serde_json::Value =
            serde_json::from_str(rescued[0][0].as_deref().unwrap()).unwrap();
        assert_eq!(
            rescued,
            serde_json::json!({"event_extra_data:": {"emergency_call": true}})
        );
        let summary = pair
            .query(
                "SELECT vehicle_id, CAST(day AS CHAR), last_event_type FROM daily_summary \
                 ORDER BY vehicle_id",
            )
            .await;
        let row = |values: [&str; 3]| values.map(|value| Some(value.to_owned())).to_vec();
        assert_eq!(
            summary,
            [
                row(["v1", "2022-06-05", "stop"]),
                row(["v2", "2022-06-06", "door_open"])
            ]
        );
        assert_eq!(
            names(&pair.at("history")),
            [
                "vehicle_events_20220605210234.json",
                "vehicle_status_20220505210234.json"
            ]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_records_are_rejects_and_bad_files_are_quarantined() {
    let good = |id: u32| {
        format!(
            r#"{{"vehicle_id":"v{id}","event_time":"2024-01-01T00:00:00Z","event_source":"s","event_type":"t","event_value":"{id}"}}"#
        )
    };
    let long = good(1).replace("\"v1\"", &format!("\"{}\"", "é".repeat(300)));
    let records = [
        good(0),
        good(1).replace("\"vehicle_id\":\"v1\",", ""),
        good(2).replace("\"t\"", "[1]"),
        long,
        good(4).replace("01-01", "02-31"),
        "17".to_owned(),
        good(6),
    ];
    let document = format!("{{\"vehicle_events\": [{}]}}", records.join(", "));
    let expected = [
        ("1", "missing_field", Some("vehicle_id")),
        ("2", "wrong_type", Some("event_type")),
        ("3", "text_too_long", Some("vehicle_id")),
        ("4", "invalid_timestamp", Some("event_time")),
        ("5", "not_an_object", None),
    ];
    for pair in Pair::all().await {
        let inbound = pair.at("inbound");
        let put = |name: &str, text: &str| std::fs::write(inbound.join(name), text).unwrap();
        put("vehicle_events_bad.json", &document);
        put("vehicle_events_cut.json", &document[..document.len() - 40]);
        put("vehicle_events_text.json", "hello, world");
        put("something_else.json", &document.replace("v0", "w0"));
        pair.expect(2, &["load"]);

        assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_events").await, 2);
        let rejects = pair
            .query("SELECT ordinal, code, field, byte_offset, raw FROM ingest_rejects ORDER BY ordinal")
            .await;
        assert_eq!(rejects.len(), expected.len());
        for (reject, (ordinal, code, field)) in rejects.iter().zip(expected) {
            assert_eq!(reject[0].as_deref(), Some(ordinal));
            assert_eq!(reject[1].as_deref(), Some(code));
            assert_eq!(reject[2].as_deref(), field);
            let raw = &records[ordinal.parse::<usize>().unwrap()];
            assert_eq!(reject[4].as_ref(), Some(raw));
            let offset: usize = reject[3].as_ref().unwrap().parse().unwrap();
            assert!(
                document[offset..].starts_with(raw.as_str()),
                "{}: {code}",
                pair.name
            );
        }
        assert_eq!(names(&pair.at("history")), ["vehicle_events_bad.json"]);
        let quarantine = pair.at("quarantine");
        assert_eq!(
            names(&quarantine),
            [
                "something_else.json",
                "something_else.json.reason",
                "vehicle_events_cut.json",
                "vehicle_events_cut.json.reason",
                "vehicle_events_text.json",
                "vehicle_events_text.json.reason",
            ]
        );
        let reason = |name: &str| {
            std::fs::read_to_string(quarantine.join(format!("{name}.reason"))).unwrap()
        };
        assert!(reason("something_else.json").contains("no dataset"));
        assert!(reason("vehicle_events_cut.json").contains("before it is whole"));
        assert!(reason("vehicle_events_text.json").contains("byte 0"));
        let reasons = pair
            .number("SELECT COUNT(*) FROM ingest_files WHERE reason IS NOT NULL")
            .await;
        assert_eq!(reasons, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_files_and_other_layouts_load() {
    let record = |n: u32| {
        format!(
            r#"{{"vehicle_id":"v{n}","report_time":"2024-01-01T00:00:00Z","status_source":"s","status":"{n}"}}"#
        )
    };
    let all = |from: u32, by: &str| (from..from + 10).map(record).collect::<Vec<_>>().join(by);
    for pair in Pair::all().await {
        let inbound = pair.at("inbound");
        let put = |name: &str, bytes: &[u8]| std::fs::write(inbound.join(name), bytes).unwrap();
        put(
            "vehicle_status_array.json",
            format!("\u{feff}[{}]", all(0, " ,\n")).as_bytes(),
        );
        put("vehicle_status_lines.ndjson", all(10, "\r\n").as_bytes());
        let document = format!(
            "{{\"v\": 1, \"vehicle_status\": [{}], \"end\": [1]}}",
            all(20, ",")
        );
        put(
            "vehicle_status.json.zst",
            &zstd::encode_all(document.as_bytes(), 1).unwrap(),
        );
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(all(30, "\n").as_bytes()).unwrap();
        put("vehicle_status.ndjson.gz", &gz.finish().unwrap());
        put("vehicle_status_empty.json", b"{\"vehicle_status\": []}");
        pair.expect(0, &["load"]);
        let stored = pair.query("SELECT status FROM vehicle_status").await;
        let mut stored: Vec<u32> = stored
            .iter()
            .map(|row| row[0].as_ref().unwrap().parse().unwrap())
            .collect();
        stored.sort_unstable();
        assert_eq!(stored, (0..40).collect::<Vec<_>>(), "{}", pair.name);
        assert_eq!(names(&pair.at("history")).len(), 5);
    }
}

/// Generates files of events into inbound.
pub fn generate(pair: &Pair, args: &[&str]) {
    let dir = pair.at("inbound");
    let common = [
        "generate",
        "--dir",
        dir.to_str().unwrap(),
        "--dataset",
        "vehicle_events",
    ];
    pair.expect(0, &[&common[..], args].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_keeps_the_pace_that_is_set() {
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        generate(&pair, &["--files", "10", "--records", "4000"]);
        let limit = [
            "load",
            "--workers",
            "2",
            "--max-records-per-second",
            "10000",
        ];
        let began = std::time::Instant::now();
        pair.expect(0, &limit);
        // Of 40,000 records, each worker commits 4,000 before the first wait, and the last 4,000 of
        // each are not waited for.
        assert!(
            began.elapsed() > std::time::Duration::from_millis(2_300),
            "{name}"
        );
        let stored = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
        assert_eq!(stored, 40_000, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_stops_at_too_many_rejects_and_says_so() {
    let pair = Pair::new("memory+sqlite").await;
    generate(
        &pair,
        &["--files", "60", "--records", "2000", "--bad", "0.5"],
    );
    let stopped = pair.run(&["load", "--max-rejects", "100"]);
    assert_eq!(stopped.status.code(), Some(1));
    let message = String::from_utf8(stopped.stderr).unwrap();
    assert!(message.contains("more than 100"), "{message}");
    assert!(
        names(&pair.at("history")).len() < 60,
        "the load did not stop"
    );
    // With a higher limit the load ends like any load with rejects, and no record is lost.
    pair.expect(2, &["load", "--max-rejects", "120000"]);
    let stored = pair.number("SELECT COUNT(*) FROM vehicle_events").await
        + pair.number("SELECT COUNT(*) FROM ingest_rejects").await;
    assert_eq!(stored, 120_000);
}

/// A kill between the last commit of a file and its settling may leave ledger entries of chunks of
/// another size.
#[tokio::test(flavor = "multi_thread")]
async fn remaining_entries_of_a_settled_file_are_removed_with_its_move() {
    for pair in Pair::all().await {
        generate(&pair, &["--files", "1", "--records", "50"]);
        pair.expect(0, &["load"]);
        let name = &names(&pair.at("history"))[0];
        pair.query("INSERT INTO ingest_frames VALUES (1, 0, 7)")
            .await;
        pair.expect(1, &["verify"]);
        std::fs::rename(pair.at("history").join(name), pair.at("work").join(name)).unwrap();
        pair.expect(0, &["load"]);
        assert_eq!(names(&pair.at("history")), [name.as_str()]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_frames").await, 0);
        pair.expect(0, &["verify"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_file_of_an_archive_stays_in_its_place() {
    let pair = Pair::new("memory+sqlite").await;
    let archive = pair.at("archive");
    std::fs::create_dir(&archive).unwrap();
    let file = archive.join("vehicle_status.json");
    let mut writer = std::fs::File::create(&file).unwrap();
    writer.write_all(STATUS.as_bytes()).unwrap();
    pair.expect(75, &["load", "--move", archive.to_str().unwrap()]);
    assert!(file.exists());
    assert!(names(&pair.at("inbound")).is_empty());
    drop(writer);
    pair.expect(0, &["load", "--move", archive.to_str().unwrap()]);
    assert!(!file.exists());
    assert_eq!(names(&pair.at("history")), ["vehicle_status.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_by_vehicle_agree_between_the_pairs() {
    let mut by_pair = BTreeMap::new();
    for pair in Pair::all().await {
        let dir = pair.at("inbound");
        let args = [
            "generate",
            "--dir",
            dir.to_str().unwrap(),
            "--dataset",
            "vehicle_events",
        ];
        pair.expect(
            0,
            &[
                &args[..],
                &["--files", "5", "--records", "300", "--bad", "0.1"],
            ]
            .concat(),
        );
        let code = pair.run(&["load"]).status.code();
        assert_eq!(code, Some(2), "{}: some records are rejects", pair.name);
        let rows = pair
            .query("SELECT vehicle_id, COUNT(*) FROM vehicle_events GROUP BY vehicle_id ORDER BY vehicle_id")
            .await;
        let rejects = pair
            .query("SELECT code, COUNT(*) FROM ingest_rejects GROUP BY code ORDER BY code")
            .await;
        assert!(!rejects.is_empty());
        by_pair.insert(pair.name, (rows, rejects));
    }
    let first = by_pair.values().next().unwrap();
    for (name, totals) in &by_pair {
        assert_eq!(totals, first, "{name}");
    }
}
