//! Columns that take a part of the file's path, or the time of loading: the values belong to the
//! file, and each command that reads a record again sees them.

use std::fs;

use super::*;

const ORDERS: &str = "
[[datasets]]
name = 'orders'
files = 'orders/**/part-*'
columns = [
    { name = 'no', type = 'integer' },
    { name = 'day', path = 'day={}', type = 'date' },
    { name = 'part', path = 'part-{}.json', type = 'text' },
    { name = 'seen', file = 'loaded_at', type = 'timestamp' },
]
";

const ROWS: &str = "SELECT day, part, no FROM orders ORDER BY day, id";

const BOTH: [&str; 4] = [
    "2026-11-01 0 1",
    "2026-11-01 0 2",
    "2026-11-02 0 1",
    "2026-11-02 0 2",
];

async fn rows_of(pair: &Pair, sql: &str) -> Vec<String> {
    let text = |row: Vec<Option<String>>| {
        let cells = row.into_iter().map(|cell| cell.unwrap_or("-".to_owned()));
        cells.collect::<Vec<_>>().join(" ")
    };
    pair.query(sql).await.into_iter().map(text).collect()
}

fn write(pair: &Pair, path: &str, text: &str) {
    let path = pair.at(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Each row has the time at which the ledger got its file.
async fn assert_times(pair: &Pair) {
    let others = "SELECT COUNT(*) FROM orders o JOIN ingest_files f ON f.file_no = o.id / 4294967296 \
                  WHERE o.seen <> f.registered_at";
    let others = if pair.name.ends_with("mysql") {
        others.replace(" / ", " DIV ")
    } else {
        others.to_owned()
    };
    assert_eq!(pair.number(&others).await, 0);
    let years = "SELECT COUNT(*) FROM orders WHERE seen < '2020-01-01'";
    assert_eq!(pair.number(years).await, 0);
}

async fn equal_files_of_two_days_are_two(name: &'static str) {
    let pair = Pair::new(name).await;
    fs::write(pair.at("lemonade.toml"), ORDERS).unwrap();
    let text = "[{\"no\": 1}, {\"no\": 2}, {\"no\": \"x\"}]";
    for day in ["2026-11-01", "2026-11-02"] {
        write(
            &pair,
            &format!("archive/orders/day={day}/part-0.json"),
            text,
        );
    }
    let checked = pair.expect(2, &["check", "archive"]);
    assert!(checked.contains("6 records: 4 rows"), "{checked}");
    pair.expect(2, &["load", "archive"]);
    assert_eq!(rows_of(&pair, ROWS).await, BOTH);
    pair.expect(0, &["load", "archive"]);
    assert_eq!(rows_of(&pair, ROWS).await, BOTH);
    assert_times(&pair).await;
    pair.expect(0, &["verify"]);
    pair.expect(0, &["verify", "--content"]);

    // A changed value is named, and a lost row comes back with its own value.
    let second = "day = '2026-11-02' AND no = 1";
    let execute = async |sql: String| pair.execute(&sql).await;
    execute(format!(
        "UPDATE orders SET day = '2026-11-03' WHERE {second}"
    ))
    .await;
    let found = pair.expect(1, &["verify", "--content"]);
    assert!(found.contains("day"), "{found}");
    execute("DELETE FROM orders WHERE day = '2026-11-03' OR no = 2".to_owned()).await;
    pair.expect(0, &["files", "restore", "--all"]);
    assert_eq!(rows_of(&pair, ROWS).await, BOTH);
    assert_times(&pair).await;

    // A replay needs the ledger alone: the archive may be elsewhere.
    fs::rename(pair.at("archive"), pair.at("elsewhere")).unwrap();
    pair.expect(0, &["rejects", "replay", "--all", "--set", "no=3"]);
    let third = "SELECT day, no FROM orders WHERE no = 3 ORDER BY day";
    assert_eq!(
        rows_of(&pair, third).await,
        ["2026-11-01 3", "2026-11-02 3"]
    );
    fs::rename(pair.at("elsewhere"), pair.at("archive")).unwrap();
    pair.expect(0, &["verify", "--content"]);
    let traced = pair.expect(0, &["trace", &((2_u64 << 32) + 2).to_string()]);
    assert!(traced.contains("day=2026-11-02"), "{traced}");

    // Loaded again, the file of the second day has another number.
    pair.expect(0, &["files", "reload", "2", "--yes"]);
    pair.expect(2, &["load", "archive"]);
    let others = "SELECT COUNT(*) FROM ingest_files WHERE file_no <> 2";
    assert_eq!(pair.number(others).await, 2);
    assert_eq!(rows_of(&pair, third).await, ["2026-11-01 3"]);
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_of_two_days_are_two_in_sqlite() {
    equal_files_of_two_days_are_two("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_of_two_days_are_two_through_redis_in_mariadb() {
    equal_files_of_two_days_are_two("redis+mysql").await;
}

/// The state after a kill: the first frames of a file are stored. The rest gets the same values, also
/// the time of loading.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_kill_interrupted_keeps_its_values() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        fs::write(pair.at("lemonade.toml"), ORDERS).unwrap();
        let path = "archive/orders/day=2026-11-01/part-0.json";
        write(&pair, path, "[{\"no\": 1}, {\"no\": 2}]");
        pair.expect(0, &["load", "archive"]);
        let lost = (1_u64 << 32) + 1;
        for sql in [
            format!("DELETE FROM orders WHERE id >= {lost}"),
            "INSERT INTO ingest_frames (file_no, first_ordinal, records) VALUES (1, 0, 1)"
                .to_owned(),
            "UPDATE ingest_files SET state = 'pending', settled_at = NULL".to_owned(),
        ] {
            pair.execute(&sql).await;
        }
        pair.expect(0, &["load", "archive"]);
        assert_eq!(rows_of(&pair, ROWS).await, BOTH[..2]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_files").await, 1);
        assert_times(&pair).await;
        pair.expect(0, &["verify", "--content"]);
    }
}

/// A definition that takes another part of the path does not load stored files a second time.
#[tokio::test(flavor = "multi_thread")]
async fn another_definition_does_not_make_a_stored_file_new() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        let with = |columns: &str| {
            let settings = format!(
                "[[datasets]]\nname = 'orders'\nfiles = 'orders/**/part-*'\ncolumns = [\n{columns}]"
            );
            fs::write(pair.at("lemonade.toml"), settings).unwrap();
        };
        let no = "{ name = 'no', type = 'integer' },\n";
        let day = "{ name = 'day', path = 'day={}', type = 'date', required = false },\n";
        with(no);
        let path = |day: u32| format!("archive/orders/day=2026-11-0{day}/part-0.json");
        write(&pair, &path(1), "[{\"no\": 1}]");
        pair.expect(0, &["load", "archive"]);
        with(&format!("{no}{day}"));
        pair.expect(0, &["migrate", "--add"]);
        pair.expect(0, &["load", "archive"]);
        let rows = "SELECT no, day FROM orders ORDER BY id";
        assert_eq!(rows_of(&pair, rows).await, ["1 -"], "{name}");
        // From now on, equal files of other days are others.
        write(&pair, &path(2), "[{\"no\": 1}]");
        pair.expect(0, &["load", "archive"]);
        assert_eq!(
            rows_of(&pair, rows).await,
            ["1 -", "1 2026-11-02"],
            "{name}"
        );
        with(no);
        pair.expect(0, &["load", "archive"]);
        assert_eq!(rows_of(&pair, rows).await.len(), 2, "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

/// Without the part of its name that a column takes, or with one that is no value of the column, a
/// file goes to quarantine. A corrected name loads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_the_part_of_a_column_is_quarantined() {
    let pair = embedded().await;
    let settings = "[[datasets]]\nname = 'trips'\ncolumns = [\n{ name = 'no', type = 'integer' },\n\
                    { name = 'at', path = 'trips_{}_*.json', type = 'timestamp', epoch = 's' },\n\
                    { name = 'region', path = 'trips_*_{}.json', type = 'text', max_chars = 2, \
                    required = false, on_error = 'null' },\n]\n";
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
    let service = Service::start(&pair, &[]);
    let inbound = pair.at("inbound");
    let text = "[{\"no\": 1}]";
    for name in ["trips_1700000000_eu.json", "trips_1700000001_eu.json"] {
        fs::write(inbound.join(name), text).unwrap();
    }
    for name in [
        "trips_x_eu.json",
        "trips.json",
        "trips_1700000002_asia.json",
    ] {
        fs::write(inbound.join(name), text).unwrap();
    }
    let is_done =
        async || names(&pair.at("history")).len() == 3 && names(&pair.at("quarantine")).len() == 4;
    until("all files are at their end", LIMIT, is_done).await;
    let reason = |name: &str| {
        fs::read_to_string(
            pair.at("quarantine")
                .join(name)
                .with_extension("json.reason"),
        )
        .unwrap()
    };
    assert_eq!(
        reason("trips.json").trim_end(),
        "path_value: the column `at` takes `trips_{}_*.json` of the path, and trips.json has no such \
         part: move the file to such a path, or set `required = false`"
    );
    assert_eq!(
        reason("trips_x_eu.json").trim_end(),
        "path_value: the column `at` takes `trips_{}_*.json` of the path, and expects the type \
         timestamp: in trips_x_eu.json it is `x` (invalid_timestamp): correct the path, or the column"
    );
    let from = pair.at("quarantine").join("trips_x_eu.json");
    fs::rename(from, inbound.join("trips_1700000003_eu.json")).unwrap();
    let rows = "SELECT at, region, _rescued FROM trips ORDER BY at";
    let expected = [
        "2023-11-14 22:13:20.000000 eu -",
        "2023-11-14 22:13:21.000000 eu -",
        "2023-11-14 22:13:22.000000 - {\"trips_*_{}.json\":\"asia\"}",
        "2023-11-14 22:13:23.000000 eu -",
    ];
    until("the corrected file is loaded", LIMIT, async || {
        rows_of(&pair, rows).await == expected
    })
    .await;
    drop(service);
    pair.expect(0, &["verify", "--content"]);
}
