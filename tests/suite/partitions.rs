//! Tables with partitions by time, by the binary: what is no longer kept is retired, whatever dies in
//! between, and each record stays accounted for.

use std::fs;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

use crate::broker::address;
use crate::end_to_end::indexes::through;
use crate::support::Pair;
use crate::support::proxy::{Proxy, Strike};

const SERVERS: [&str; 2] = ["memory+mysql", "memory+mysql9"];

const LIMIT: Duration = Duration::from_secs(60);

fn define(pair: &Pair, more: &str) {
    let definition = format!(
        "[[datasets]]\nname = \"trips\"\nrecords = \"\"\n{more}\ncolumns = [\n  {{ name = \"k\", type = \
         \"text\" }},\n  {{ name = \"at\", type = \"timestamp\" }},\n]\n"
    );
    fs::write(pair.at("lemonade.toml"), definition).unwrap();
}

const SUMMARY: &str =
    "summary = { table = \"trips_daily\", key = \"k\", time = \"at\", value = \"k\" }";

fn kept(days: u32, more: &str) -> String {
    format!("partition_by = \"at\"\nretain = \"{days} days\"\n{more}")
}

/// The time some days ago.
fn ago(days: i32) -> DateTime {
    TimeZone::UTC.to_datetime(Timestamp::now()) - days.days()
}

/// Writes a file with a record for each of these numbers of days ago.
fn bring(pair: &Pair, name: &str, days: &[i32]) {
    let line = |(at, days): (usize, &i32)| {
        format!("{{\"k\":\"{name} {at}\",\"at\":\"{}\"}}\n", ago(*days))
    };
    let lines: Vec<String> = days.iter().enumerate().map(line).collect();
    fs::write(pair.at("inbound").join(name), lines.concat()).unwrap();
}

async fn rows(pair: &Pair) -> u64 {
    pair.number("SELECT COUNT(*) FROM trips").await
}

/// The names and bounds of the partitions.
async fn partitions(pair: &Pair) -> Vec<(String, String)> {
    let sql = "SELECT PARTITION_NAME, PARTITION_DESCRIPTION FROM information_schema.PARTITIONS WHERE \
               TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'trips' ORDER BY PARTITION_ORDINAL_POSITION";
    let rows = pair.query(sql).await.into_iter();
    let text = |value: &Option<String>| value.clone().unwrap();
    rows.map(|row| (text(&row[0]), text(&row[1]))).collect()
}

/// Both outputs of a command that ends with this code.
fn said(pair: &Pair, code: i32, args: &[&str]) -> String {
    let output = pair.run(args);
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    text
}

/// The id of a record, as text.
fn id(file_no: u64, ordinal: u64) -> String {
    (file_no << 32 | ordinal).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_kept_is_retired_and_stays_accounted_for() {
    for name in SERVERS {
        let pair = Pair::new(name).await;
        define(&pair, &kept(400, SUMMARY));
        let printed = pair.expect(0, &["migrate", "--print"]);
        assert!(
            printed.contains("PARTITION BY RANGE COLUMNS(`at`)"),
            "{printed}"
        );
        bring(&pair, "trips_1.ndjson", &[100, 100, 5, 100, 5, 100]);
        bring(&pair, "trips_2.ndjson", &[200, 350, 200]);
        let broken = "{\"k\":\"x\"}\n{\"k\":\"y\",\"at\":\"2020-01-01T00:00:00Z\"}\n";
        fs::write(pair.at("inbound/trips_3.ndjson"), broken).unwrap();
        pair.expect(2, &["load"]);
        // What is older than the first partition is in it, and stays until that one is due.
        assert_eq!(rows(&pair).await, 10);
        pair.expect(0, &["verify", "--content"]);
        let summary = "SELECT * FROM trips_daily ORDER BY k, day";
        let days = pair.query(summary).await;
        assert_eq!(days.len(), 10);
        let before = partitions(&pair).await;
        assert!(
            before.len() >= 17 && before.last().unwrap().1 == "MAXVALUE",
            "{before:?}"
        );
        assert_eq!(said(&pair, 0, &["retain"]), "trips: nothing to do\n");

        define(&pair, &kept(60, SUMMARY));
        let text = said(&pair, 0, &["retain", "--dry-run"]);
        assert!(text.contains("would be retired"), "{text}");
        assert_eq!((rows(&pair).await, partitions(&pair).await), (10, before));
        let text = said(&pair, 0, &["retain"]);
        assert!(text.contains("4 rows of partition p"), "{text}");
        assert_eq!(rows(&pair).await, 2);
        let after = partitions(&pair).await;
        assert!((7..=8).contains(&after.len()), "{after:?}");
        assert_eq!(said(&pair, 0, &["retain"]), "trips: nothing to do\n");

        // Each command knows them.
        let text = pair.expect(0, &["verify", "--content"]);
        assert!(
            text.contains("2 rows, 1 rejects, 0 purged, 8 retired"),
            "{text}"
        );
        let file = |file: &str| format!("SELECT file_no FROM ingest_files WHERE name = '{file}'");
        let first = pair.number(&file("trips_1.ndjson")).await;
        assert!(
            pair.expect(0, &["trace", &id(first, 0)])
                .contains("row, retired")
        );
        assert!(
            pair.expect(0, &["trace", &id(first, 2)])
                .contains("row of trips")
        );
        let number = first.to_string();
        let text = pair.expect(0, &["files", "show", &number]);
        assert!(
            text.contains("retired     4") || text.contains("retired"),
            "{text}"
        );
        pair.expect(0, &["files", "restore", "--all"]);
        pair.expect(0, &["files", "restore", &number]);
        pair.expect(0, &["summary", "--rebuild"]);
        assert_eq!(pair.query(summary).await, days);
        // The same contents again are duplicates.
        for file in ["trips_1.ndjson", "trips_2.ndjson"] {
            fs::copy(pair.at("history").join(file), pair.at("inbound").join(file)).unwrap();
        }
        pair.expect(0, &["load"]);
        assert_eq!(rows(&pair).await, 2);

        // A late record is a row, and is retired in the next round: at the end of the load.
        bring(&pair, "trips_4.ndjson", &[150, 1]);
        let text = said(&pair, 0, &["load", "--quiet"]);
        assert_eq!(rows(&pair).await, 3, "{text}");
        let text = pair.expect(0, &["verify", "--content"]);
        assert!(
            text.contains("3 rows, 1 rejects, 0 purged, 9 retired"),
            "{text}"
        );

        // A lost row is not taken for a retired one.
        pair.execute(&format!("DELETE FROM trips WHERE id = {}", id(first, 2)))
            .await;
        let text = said(&pair, 1, &["verify", "--content"]);
        assert!(
            text.contains("1 rows + 0 rejects + 4 retired of 6 records"),
            "{text}"
        );
        assert!(
            text.contains(&format!("record {first}:2: neither")),
            "{text}"
        );
        pair.expect(0, &["files", "restore", "--all"]);
        pair.expect(0, &["verify", "--content"]);
        assert_eq!(rows(&pair).await, 3);

        // A file that is forgotten is new when it comes again.
        pair.expect(0, &["files", "forget", &number, "--yes"]);
        pair.expect(0, &["verify", "--content"]);
        fs::rename(
            pair.at("history/trips_1.ndjson"),
            pair.at("inbound/trips_1.ndjson"),
        )
        .unwrap();
        pair.expect(0, &["load"]);
        let text = pair.expect(0, &["verify", "--content"]);
        assert!(
            text.contains("3 rows, 1 rejects, 0 purged, 9 retired"),
            "{text}"
        );
        pair.expect(0, &["doctor"]);
    }
}

/// The steps of a removal, each as a text of its statement.
const STEPS: [&str; 8] = [
    "INSERT INTO ingest_retentions",
    "CREATE TABLE `ingest_retiring",
    "REMOVE PARTITIONING",
    "EXCHANGE PARTITION",
    "SET last_file",
    "INSERT INTO ingest_retired",
    "SET taken = NULL",
    "REORGANIZE PARTITION",
];

async fn killed_at(name: &'static str, step: &'static str, strike: Strike) {
    let when = format!("{name} {step:?} {strike:?}");
    let pair = Pair::new(name).await;
    let key = "key = [\"k\", \"at\"]\non_conflict = \"last\"\norder_by = \"at\"";
    define(&pair, &kept(400, key));
    bring(&pair, "trips_1.ndjson", &[100, 100, 5, 100]);
    bring(&pair, "trips_2.ndjson", &[150, 5]);
    pair.expect(0, &["load"]);
    // Each of its records has the key of another one.
    let again = fs::read_to_string(pair.at("history/trips_1.ndjson")).unwrap() + "\n";
    fs::write(pair.at("inbound/trips_3.ndjson"), again).unwrap();
    pair.expect(0, &["load"]);
    define(&pair, &kept(60, key));
    let proxy = Proxy::start(address(&pair.database_url).0).await;
    proxy.strike(step, strike);
    let mut retain = through(&pair, &proxy, &["retain"]).spawn().unwrap();
    let struck = tokio::time::timeout(LIMIT, proxy.struck(1)).await;
    assert!(struck.is_ok(), "{when}: the step never came");
    retain.kill().unwrap();
    retain.wait().unwrap();
    proxy.cut();

    // Each record is accounted for at each step, and nothing comes back.
    let text = said(&pair, 0, &["verify", "--content"]);
    assert!(
        text.contains("3 files, 0 of them wrong; 10 records"),
        "{when}: {text}"
    );
    pair.expect(0, &["files", "restore", "--all"]);
    pair.expect(0, &["verify", "--content"]);
    // The next load goes on, and stores what arrives late.
    bring(&pair, "trips_4.ndjson", &[120, 3]);
    pair.expect(0, &["load", "--quiet"]);
    pair.expect(0, &["retain"]);
    let text = pair.expect(0, &["verify", "--content"]);
    let all = "12 records: 3 rows, 0 rejects, 0 purged, 1 superseded, 8 retired";
    assert!(text.contains(all), "{when}: {text}");
    let left = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
                TABLE_NAME LIKE 'ingest\\_retiring%'";
    assert_eq!(pair.number(left).await, 0, "{when}");
    let after = partitions(&pair).await;
    assert!((7..=8).contains(&after.len()), "{when}: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_the_next_process_goes_on() {
    for step in STEPS {
        for strike in [Strike::HoldRequest, Strike::HoldReply] {
            killed_at("memory+mysql", step, strike).await;
        }
    }
    for step in ["EXCHANGE PARTITION", "INSERT INTO ingest_retired"] {
        killed_at("memory+mysql9", step, Strike::HoldReply).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_days_by_a_date_and_rows_of_the_far_future() {
    for name in SERVERS {
        let pair = Pair::new(name).await;
        let define = |days: u32| {
            let definition = format!(
                "[[datasets]]\nname = \"trips\"\nrecords = \"\"\npartition_by = \"on\"\npartition_every = \
                 \"day\"\nretain = \"{days} days\"\ncolumns = [{{ name = \"on\", type = \"date\" }}]\n"
            );
            fs::write(pair.at("lemonade.toml"), definition).unwrap();
        };
        define(30);
        let lines =
            [20, 12, 2, 0, -400].map(|days| format!("{{\"on\":\"{}\"}}\n", ago(days).date()));
        fs::write(pair.at("inbound").join("trips_1.ndjson"), lines.concat()).unwrap();
        pair.expect(0, &["load"]);
        let before = partitions(&pair).await;
        assert!((35..=36).contains(&before.len()), "{before:?}");
        assert_eq!(
            said(&pair, 0, &["retain"]),
            "trips: 1 rows in the last partition\n"
        );
        define(5);
        let text = said(&pair, 0, &["retain"]);
        assert_eq!(text.matches("1 rows of partition p2").count(), 2, "{text}");
        let text = pair.expect(0, &["verify", "--content"]);
        assert!(
            text.contains("3 rows, 0 rejects, 0 purged, 2 retired"),
            "{text}"
        );
        let after = partitions(&pair).await;
        assert!((10..=12).contains(&after.len()), "{after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_the_partitions_is_refused_with_the_statement() {
    for name in SERVERS {
        let pair = Pair::new(name).await;
        define(&pair, "");
        bring(&pair, "trips_1.ndjson", &[100, 5]);
        pair.expect(0, &["load"]);
        define(&pair, &kept(400, ""));
        let text = said(&pair, 78, &["load"]);
        assert!(text.contains("it is not partitioned by `at`"), "{text}");
        let start = text.find("ALTER TABLE `trips`").expect("a statement");
        let statement = text[start..].split(";\n").next().unwrap().to_owned();
        let text = said(&pair, 78, &["doctor"]);
        assert!(text.contains("ALTER TABLE `trips`"), "{text}");
        pair.execute(&statement).await;
        pair.expect(0, &["load"]);
        pair.expect(0, &["verify", "--content"]);
        define(&pair, &kept(60, ""));
        pair.expect(0, &["retain"]);
        assert_eq!(rows(&pair).await, 1);
        pair.expect(0, &["verify", "--content"]);
        // MySQL exchanges no partition after a column was added without a rebuild.
        pair.execute("ALTER TABLE trips ADD COLUMN later INT NULL")
            .await;
        bring(&pair, "trips_2.ndjson", &[100]);
        let text = said(&pair, 0, &["load"]);
        if name.ends_with("mysql9") {
            assert!(text.contains("ALTER TABLE … FORCE"), "{text}");
            assert_eq!(rows(&pair).await, 2);
            pair.expect(0, &["verify", "--content"]);
            pair.execute("ALTER TABLE trips FORCE").await;
            pair.expect(0, &["retain"]);
        }
        assert_eq!(rows(&pair).await, 1);
        pair.expect(0, &["verify", "--content"]);
    }
    let pair = Pair::new("memory+sqlite").await;
    define(&pair, &kept(400, ""));
    let text = said(&pair, 78, &["load"]);
    assert!(text.contains("SQLite has no partitions"), "{text}");
}

/// A table is renamed, in the database and in the settings, while a partition is taken out of it: the
/// rows stay accounted for, and the summary keeps the entries of retired days.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_keeps_its_retired_rows() {
    for name in SERVERS {
        let pair = Pair::new(name).await;
        define(&pair, &kept(400, SUMMARY));
        bring(&pair, "trips_1.ndjson", &[200, 200, 5]);
        bring(&pair, "trips_2.ndjson", &[100, 5]);
        pair.expect(0, &["load"]);
        define(&pair, &kept(150, SUMMARY));
        pair.expect(0, &["retain"]);
        define(&pair, &kept(60, SUMMARY));
        let proxy = Proxy::start(address(&pair.database_url).0).await;
        proxy.strike("SET last_file", Strike::LoseRequest);
        let retain = through(&pair, &proxy, &["retain"]).status().unwrap();
        assert_eq!((retain.code(), proxy.strikes()), (Some(69), 1));
        pair.execute("RENAME TABLE trips TO journeys").await;
        define(
            &pair,
            &kept(60, &format!("table = \"journeys\"\n{SUMMARY}")),
        );
        pair.expect(0, &["migrate"]);
        let text = pair.expect(0, &["verify"]);
        assert!(
            text.contains("3 rows, 0 rejects, 0 purged, 2 retired"),
            "{text}"
        );
        let text = said(&pair, 0, &["retain"]);
        assert!(text.contains("journeys: 1 rows of partition p"), "{text}");
        pair.expect(0, &["summary", "--rebuild"]);
        let days = pair.number("SELECT COUNT(*) FROM trips_daily").await;
        assert_eq!(days, 5, "{name}");
        let text = pair.expect(0, &["verify"]);
        assert!(
            text.contains("2 rows, 0 rejects, 0 purged, 3 retired"),
            "{text}"
        );
        let known = "SELECT COUNT(*) FROM ingest_retentions WHERE table_name = 'journeys'";
        assert_eq!(pair.number(known).await, 1);
    }
}

/// The table that has the rows of a removal is not one of the engine.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_cannot_be_ended_is_an_entry_of_the_report() {
    let pair = Pair::new("memory+mysql").await;
    define(&pair, &kept(400, ""));
    bring(&pair, "trips_1.ndjson", &[5]);
    pair.expect(0, &["load"]);
    let hash = blake3::hash(b"former").to_hex();
    for sql in [
        "CREATE TABLE former (id BIGINT)",
        &format!(
            "CREATE TABLE ingest_retiring_{}_1 AS SELECT 1 AS other",
            &hash[..16]
        ),
        "INSERT INTO ingest_retentions VALUES ('former', 'at', '2020-01-01', 'p1', 1, 0)",
    ] {
        pair.execute(sql).await;
    }
    let text = said(&pair, 78, &["retain"]);
    assert!(
        text.contains("`partition_by` no longer: not done: "),
        "{text}"
    );
    let report = pair.expect(78, &["retain", "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    let tables = report["tables"].as_array().unwrap();
    assert_eq!(
        (tables.len(), &tables[0]["table"]),
        (2, &"trips".into()),
        "{report}"
    );
    assert!(
        tables[1]["table"].is_null() && tables[1]["error"].is_string(),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retired_record_can_be_erased() {
    for name in SERVERS {
        let pair = Pair::new(name).await;
        define(&pair, &kept(400, ""));
        bring(&pair, "trips_1.ndjson", &[100, 100, 5]);
        pair.expect(0, &["load"]);
        define(&pair, &kept(60, ""));
        pair.expect(0, &["retain"]);
        assert_eq!(rows(&pair).await, 1);
        let text = said(&pair, 0, &["erase", "1:0", "1:2", "--yes"]);
        assert!(text.contains("1:0: was retired"), "{name}: {text}");
        assert!(text.contains("1:2: was a row"), "{name}: {text}");
        for again in [["files", "restore", "--all"], ["erase", "1:0", "--yes"]] {
            let text = pair.expect(0, &["verify", "--content"]);
            let all = "3 records: 0 rows, 0 rejects, 0 purged, 2 erased, 1 retired";
            assert!(text.contains(all), "{name}: {text}");
            pair.expect(0, &again);
        }
        assert!(said(&pair, 0, &["trace", "1:1"]).contains("retired"));
        pair.expect(0, &["doctor"]);
    }
}
