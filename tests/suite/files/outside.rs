//! Values outside of the records, through the binary: each command that reads a record again sees
//! the same values, and definitions of real producers give the producer's own values.

use std::fs;

use super::*;

/// OTLP/JSON logs: the service of the resource, the scope, the number in its array.
const LOGS: &str = r#"
frame_records = 50
frame_bytes = "2KB"
[[datasets]]
name = "logs"
records = "/resourceLogs/*/scopeLogs/*/logRecords"
columns = [
    { name = "body", field = ["/body/stringValue", "/body/intValue"], type = "text" },
    { name = "service", type = "text", envelope = "/resourceLogs/*/resource/attributes/0/value/stringValue" },
    { name = "scope", type = "text", envelope = "/resourceLogs/*/scopeLogs/*/scope/name", required = false },
    { name = "resource", type = "integer", key = "/resourceLogs/*" },
    { name = "at", type = "integer", key = "/resourceLogs/*/scopeLogs/*/logRecords/*" },
    { name = "source", type = "text", value = "collector" },
]
"#;

/// A document of `resources` resources, whose scopes come before their names, and the rows that it
/// becomes. The scopes of every third resource are larger than a frame.
fn logs(resources: usize) -> (String, Vec<String>) {
    let (mut text, mut rows) = (Vec::new(), Vec::new());
    for resource in 0..resources {
        let records = if resource % 3 == 2 { 120 } else { 3 };
        let scope = |scope: usize| {
            let record = |at: usize| {
                rows.push(format!(
                    "{scope}.{at} svc \"{resource}\" scope{scope} {resource} {at} collector"
                ));
                if at.is_multiple_of(2) {
                    format!(r#"{{"body":{{"stringValue":"{scope}.{at}"}}}}"#)
                } else {
                    format!(r#"{{"body":{{"intValue":"{scope}.{at}"}}}}"#)
                }
            };
            let records: Vec<String> = (0..records).map(record).collect();
            let records = records.join(",");
            format!(r#"{{"logRecords":[{records}],"scope":{{"name":"scope{scope}"}}}}"#)
        };
        let scopes: Vec<String> = [0, 1].map(scope).into();
        let scopes = scopes.join(",");
        let service =
            format!(r#"{{"key":"service.name","value":{{"stringValue":"svc \"{resource}\""}}}}"#);
        text.push(format!(
            r#"{{"scopeLogs":[{scopes}],"resource":{{"attributes":[{service}]}}}}"#
        ));
    }
    (format!("{{\"resourceLogs\":[{}]}}", text.join(",\n")), rows)
}

/// The rows of a table as texts, in the order of the file.
async fn rows_of(pair: &Pair, sql: &str) -> Vec<String> {
    let text = |row: Vec<Option<String>>| {
        let cells = row
            .into_iter()
            .map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
        cells.collect::<Vec<_>>().join(" ")
    };
    pair.query(sql).await.into_iter().map(text).collect()
}

const ROWS: &str = "SELECT body, service, scope, resource, at, source FROM logs ORDER BY id";

/// The rows of the table are these. There are many, so only the first difference is printed.
async fn assert_rows(pair: &Pair, expected: &[String]) {
    let found = rows_of(pair, ROWS).await;
    let differs = found
        .iter()
        .zip(expected)
        .find(|(found, expected)| found != expected);
    assert_eq!((differs, found.len()), (None, expected.len()));
}

async fn each_reader_of_a_record_sees_the_values_outside(name: &'static str) {
    let pair = Pair::new(name).await;
    fs::write(pair.at("lemonade.toml"), LOGS).unwrap();
    let (text, rows) = logs(7);
    fs::write(pair.at("inbound").join("logs.json"), &text).unwrap();
    pair.expect(0, &["check", "inbound"]);
    pair.expect(0, &["load"]);
    assert_rows(&pair, &rows).await;
    pair.expect(0, &["verify", "--content"]);

    // A changed or missing value is named, and restored from the file.
    let id = (1_u64 << 32) + 250;
    pair.execute(&format!(
        "UPDATE logs SET service = 'other' WHERE id = {id}"
    ))
    .await;
    let found = pair.expect(1, &["verify", "--content"]);
    assert!(found.contains("service"), "{found}");
    for sql in [
        "DELETE FROM logs WHERE service = 'other'",
        "DELETE FROM logs WHERE at = 1",
    ] {
        pair.execute(sql).await;
    }
    pair.expect(0, &["files", "restore", "1"]);
    assert_rows(&pair, &rows).await;

    // A corrected reject gets the values around it.
    let bad = text.replacen("\"stringValue\":\"0.100\"", "\"stringValue\":[]", 1);
    assert_ne!(bad, text);
    fs::write(pair.at("inbound").join("logs_2.json"), bad).unwrap();
    pair.expect(2, &["load"]);
    let traced = pair.expect(0, &["trace", &((2_u64 << 32) + 112).to_string()]);
    assert!(traced.contains("reject: wrong_type"), "{traced}");
    pair.expect(
        0,
        &[
            "rejects",
            "replay",
            "--all",
            "--set",
            "/body/stringValue=0.100",
        ],
    );
    assert_rows(&pair, &[rows.clone(), rows.clone()].concat()).await;
    pair.expect(0, &["verify", "--content"]);
    pair.execute("DELETE FROM logs WHERE at = 100 AND id > 8589934592")
        .await;
    pair.expect(0, &["files", "restore", "2"]);
    assert_rows(&pair, &[rows.clone(), rows.clone()].concat()).await;

    // Without its file, a record has no values around it, and the replay says so.
    let worse = text.replacen("\"stringValue\":\"1.118\"", "\"stringValue\":{}", 1);
    fs::write(pair.at("inbound").join("logs_3.json"), worse).unwrap();
    pair.expect(2, &["load"]);
    let kept = pair.at("kept.json");
    fs::rename(pair.at("history").join("logs_3.json"), &kept).unwrap();
    let replay = [
        "rejects",
        "replay",
        "--all",
        "--set",
        "/body/stringValue=1.118",
    ];
    let refused = pair.expect(2, &replay);
    assert!(
        refused.contains("columns of `logs` take values from the file around"),
        "{refused}"
    );
    fs::rename(&kept, pair.at("history").join("logs_3.json")).unwrap();
    pair.expect(0, &replay);
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_outside_of_records_in_sqlite() {
    each_reader_of_a_record_sees_the_values_outside("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_outside_of_records_through_redis_in_mariadb() {
    each_reader_of_a_record_sees_the_values_outside("redis+mysql").await;
}

/// The state after a kill in the middle of a document: a part of it is stored. The next start cuts it
/// in the same way, and stores the rest with the values outside of the records.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_completed_after_a_kill_in_its_middle() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        fs::write(pair.at("lemonade.toml"), LOGS).unwrap();
        let (text, rows) = logs(6);
        fs::write(pair.at("inbound").join("logs.json"), &text).unwrap();
        pair.expect(0, &["load"]);
        let stored = 1 + 2 * 120;
        let first_lost = (1_u64 << 32) + stored;
        for sql in [
            format!("DELETE FROM logs WHERE id >= {first_lost}"),
            format!(
                "INSERT INTO ingest_frames (file_no, first_ordinal, records) VALUES (1, 0, {stored})"
            ),
            "UPDATE ingest_files SET state = 'pending', settled_at = NULL".to_owned(),
        ] {
            pair.execute(&sql).await;
        }
        fs::rename(
            pair.at("history").join("logs.json"),
            pair.at("work").join("logs.json"),
        )
        .unwrap();
        pair.expect(0, &["load"]);
        assert_rows(&pair, &rows).await;
        pair.expect(0, &["verify", "--content"]);
    }
}

/// A value outside of the records that its column does not take makes each of them a reject.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_value_outside_of_records_names_its_column() {
    let pair = embedded().await;
    fs::write(pair.at("lemonade.toml"), LOGS).unwrap();
    let (text, rows) = logs(3);
    let text = text.replacen("\"stringValue\":\"svc \\\"1\\\"\"", "\"stringValue\":{}", 1);
    fs::write(pair.at("inbound").join("logs.json"), &text).unwrap();
    let checked = pair.expect(2, &["check", "inbound"]);
    assert!(
        checked.contains("wrong_type")
            && checked.contains("found another value at /resourceLogs/*/resource/attributes/0"),
        "{checked}"
    );
    pair.expect(2, &["load"]);
    let good: Vec<String> = rows
        .iter()
        .filter(|row| !row.contains("\"1\""))
        .cloned()
        .collect();
    assert_eq!(rows_of(&pair, ROWS).await, good);
    let rejects = "SELECT DISTINCT code, field FROM ingest_rejects";
    assert_eq!(rows_of(&pair, rejects).await, ["wrong_type service"]);
    pair.expect(0, &["verify", "--content"]);
}

/// Definitions of real producers: settings, the file, the query, and its rows.
const PRODUCERS: [(&str, &str, &str, &[&str]); 8] = [
    // GBFS 2.3: the time of the feed in each row.
    (
        "name = 'd'\nrecords = '/data/stations'\ncolumns = [{name = 'station', field = '/station_id', type = 'text'},\n\
         {name = 'updated', envelope = '/last_updated', type = 'timestamp', epoch = 's'}]",
        r#"{"last_updated":1700000000,"ttl":0,"data":{"stations":[{"station_id":"a"},{"station_id":"b"}]},"version":"2.3"}"#,
        "SELECT station, updated FROM d ORDER BY id",
        &[
            "a 2023-11-14 22:13:20.000000",
            "b 2023-11-14 22:13:20.000000",
        ],
    ),
    // GeoJSON: a FeatureCollection with the name of the collection.
    (
        "name = 'd'\nrecords = '/features'\ncolumns = [{name = 'lon', field = '/geometry/coordinates/0', type = 'decimal(9,6)'},\n\
         {name = 'layer', envelope = '/name', type = 'text'}, {name = 'n', key = '/features/*', type = 'integer'}]",
        r#"{"type":"FeatureCollection","name":"stops","features":[
            {"type":"Feature","geometry":{"type":"Point","coordinates":[13.404954,52.520008]},"properties":{}},
            {"type":"Feature","geometry":{"type":"Point","coordinates":[-0.127758,51.507351]},"properties":{}}]}"#,
        "SELECT lon, layer, n FROM d ORDER BY id",
        &["13.404954 stops 0", "-0.127758 stops 1"],
    ),
    // AWS CloudTrail.
    (
        "name = 'd'\nrecords = '/Records'\ncolumns = [{name = 'event', field = '/eventID', type = 'text'},\n\
         {name = 'user', field = ['/userIdentity/userName', '/userIdentity/arn'], type = 'text', required = false},\n\
         {name = 'provider', value = 'aws', type = 'text'}]",
        r#"{"Records":[{"eventID":"1","userIdentity":{"userName":"eve"}},{"eventID":"2","userIdentity":{"arn":"arn:x"}},{"eventID":"3"}]}"#,
        "SELECT event, user, provider FROM d ORDER BY id",
        &["1 eve aws", "2 arn:x aws", "3 - aws"],
    ),
    // pandas, orient = index: an object of records by key.
    (
        "name = 'd'\nrecords = '/*'\ncolumns = [{name = 'row', key = '/*', type = 'integer'}, {name = 'a', type = 'text'}]",
        r#"{"0":{"a":"x"},"17":{"a":"y"}}"#,
        "SELECT `row`, a FROM d ORDER BY id",
        &["0 x", "17 y"],
    ),
    // GTFS-realtime: the stops of each trip, with the trip.
    (
        "name = 'd'\nrecords = '/entity/*/tripUpdate/stopTimeUpdate'\ncolumns = [{name = 'stop', field = '/stopId', type = 'text'},\n\
         {name = 'trip', envelope = '/entity/*/tripUpdate/trip/tripId', type = 'text'},\n\
         {name = 'feed', envelope = '/header/timestamp', type = 'timestamp', epoch = 's'}]",
        r#"{"header":{"timestamp":"1700000000"},"entity":[{"id":"1","vehicle":{}},
            {"id":"2","tripUpdate":{"trip":{"tripId":"t1"},"stopTimeUpdate":[{"stopId":"a"},{"stopId":"b"}]}},
            {"id":"3","tripUpdate":{"stopTimeUpdate":[{"stopId":"c"}],"trip":{"tripId":"t2"}}}]}"#,
        "SELECT stop, trip, feed FROM d ORDER BY id",
        &[
            "a t1 2023-11-14 22:13:20.000000",
            "b t1 2023-11-14 22:13:20.000000",
            "c t2 2023-11-14 22:13:20.000000",
        ],
    ),
    // pandas, orient = split: rows by position.
    (
        "name = 'd'\nrecords = '/data'\ncolumns = [{name = 'a', field = '/0', type = 'integer'},\n\
         {name = 'b', field = '/1', type = 'text', required = false}]",
        r#"{"columns":["a","b"],"index":[0,1],"data":[[9007199254740993,"x"],[2,null]]}"#,
        "SELECT a, b FROM d ORDER BY id",
        &["9007199254740993 x", "2 -"],
    ),
    // ClickHouse, JSONCompactEachRow.
    (
        "name = 'd'\nformat = 'lines'\ncolumns = [{name = 'a', field = '/0', type = 'integer'},\n\
         {name = 'at', field = '/1', type = 'timestamp'}]",
        "[1,\"2024-01-01 00:00:00.000001\"]\n[2,\"2024-01-01 00:00:01\"]\n",
        "SELECT a, at FROM d ORDER BY id",
        &[
            "1 2024-01-01 00:00:00.000001",
            "2 2024-01-01 00:00:01.000000",
        ],
    ),
    // Samsara: the points of each vehicle.
    (
        "name = 'd'\nrecords = '/data/*/gps'\ncolumns = [{name = 'lat', field = '/latitude', type = 'float'},\n\
         {name = 'vehicle', envelope = '/data/*/id', type = 'text'}]",
        r#"{"data":[{"id":"281","gps":[{"latitude":1.5},{"latitude":2.5}]},{"id":"282","gps":[]},{"id":"283","gps":[{"latitude":3.5}]}],"pagination":{}}"#,
        "SELECT lat, vehicle FROM d ORDER BY id",
        &["1.5 281", "2.5 281", "3.5 283"],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn files_of_real_producers_load_by_configuration() {
    for (definition, text, sql, rows) in PRODUCERS {
        let pair = embedded().await;
        let settings = format!("[[datasets]]\n{definition}\n");
        fs::write(pair.at("lemonade.toml"), settings).unwrap();
        fs::write(pair.at("inbound").join("d.json"), text).unwrap();
        pair.expect(0, &["load"]);
        assert_eq!(rows_of(&pair, sql).await, rows, "{definition}");
        pair.expect(0, &["verify", "--content"]);
    }
}
