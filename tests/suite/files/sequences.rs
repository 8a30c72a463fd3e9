//! Files that are sequences of JSON values, as real programs write them: through the binary, with
//! each row compared with its record.

use std::fs;

use super::*;

const SETTINGS: &str = r#"
frame_records = 3
[[datasets]]
name = "trips"
records = "/batch/trips"
format = "sequence"
columns = [
    { name = "trip", type = "text" },
    { name = "stops", type = "json", required = false },
]
"#;

/// The content of each file, with `%` for its number in the table, and the trips of its rows. A `!`
/// is a reject.
const LOADED: [(&str, &str); 8] = [
    // Amazon Firehose: nothing in between.
    (
        r#"{"trip":"%a"}{"trip":"%b","stops":["}{"]}{"trip":"%c"}{"trip":"%d"}"#,
        "a b c d",
    ),
    // jq, over several lines.
    (
        "{\n  \"trip\": \"%a\",\n  \"stops\": [\n    {}\n  ]\n}\n{\n  \"trip\": \"%b\"\n}\n",
        "a b",
    ),
    // GeoJSON text sequences (RFC 8142).
    (
        "\u{1e}{\"trip\":\"%a\"}\n\u{1e}{\n\"trip\":\"%b\"\n}\n",
        "a b",
    ),
    // Commas, as between the elements of an array.
    ("{\"trip\":\"%a\"},\n{\"trip\":\"%b\"},\n", "a b"),
    // Envelopes, one a line: two are small, one is larger than a frame, and one is empty.
    (
        "{\"batch\":{\"trips\":[{\"trip\":\"%a\"}]}}\n{\"batch\":{\"n\":1,\"trips\":\
         [{\"trip\":\"%b\"},{\"trip\":\"%c\"}]}}\n{\"batch\":{\"trips\":[]}}\n{\"batch\":{\"trips\":\
         [{\"trip\":\"%d\"},{\"trip\":\"%e\"},{\"trip\":\"%f\"},{\"trip\":\"%g\"}]}}\n",
        "a b c d e f g",
    ),
    // Arrays, envelopes and records, with nothing in between.
    (
        "[{\"trip\":\"%a\"},{\"trip\":\"%b\"}]{\"batch\":{\"trips\":[{\"trip\":\"%c\"}]}}{\"trip\":\"%d\"}",
        "a b c d",
    ),
    // Bad records with certain bounds.
    (
        "{\"trip\":\"%a\"}{\"trip\":tru}null{\"x\":\"%\"}{\"batch\":{\"trips\":[{\"trip\":1,,},\
         {\"trip\":\"%b\"}]}}",
        "a ! ! ! ! b",
    ),
    ("{\"trip\":\"%a\"}", "a"),
];

/// Files that are refused, and words of the reason.
const REFUSED: [(&str, &str); 4] = [
    (
        r#"{"trip":"a"}x{"trip":"b"}"#,
        "expected a value of the sequence, found `x` (at byte 12)",
    ),
    (
        r#"{"trip":"a"}{"trip":"b"{"trip":"c"}{"trip":"d"}"#,
        "the record that begins here does not close before the next one (at byte 35) (at byte 12)",
    ),
    (r#"{"trip":"a"}{"trip":"#, "the last value does not close"),
    (
        r#"{"items":[{"trip":"a"}]}{"items":[]}"#,
        "no value has an array of records at `/batch/trips`",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn sequences_load_record_by_record_or_are_refused_with_the_place() {
    let pair = embedded().await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    let inbound = pair.at("inbound");
    let mut rows: Vec<(String, Option<String>)> = Vec::new();
    let mut rejects = 0;
    for (at, (text, outcome)) in LOADED.iter().enumerate() {
        let text = text.replace('%', &at.to_string());
        fs::write(inbound.join(format!("trips_{at}.json")), &text).unwrap();
        for (ordinal, name) in outcome.split(' ').enumerate() {
            match name {
                "!" => rejects += 1,
                name => rows.push((format!("{at}{name}"), Some(ordinal.to_string()))),
            }
        }
    }
    pair.expect(2, &["load"]);
    let stored = pair.query("SELECT trip, id % 4294967296 FROM trips").await;
    let mut stored: Vec<_> = stored
        .into_iter()
        .map(|mut row| (row[0].take().unwrap(), row[1].take()))
        .collect();
    stored.sort();
    rows.sort();
    assert_eq!(stored, rows);
    let rejected = "SELECT COUNT(*) FROM ingest_rejects";
    assert_eq!(pair.number(rejected).await, rejects);
    assert_eq!(names(&pair.at("history")).len(), LOADED.len());
    pair.expect(0, &["verify", "--content"]);
    // The whole text of a reject is found in its file.
    let exported = pair.expect(0, &["rejects", "export"]);
    assert!(exported.contains(r#"{\"trip\":1,,}"#), "{exported}");

    for (at, (text, words)) in REFUSED.iter().enumerate() {
        let name = format!("trips_refused_{at}.json");
        fs::write(inbound.join(&name), text).unwrap();
        pair.expect(2, &["load"]);
        let reason = pair.at("quarantine").join(format!("{name}.reason"));
        let reason = fs::read_to_string(reason).unwrap();
        assert!(reason.contains(words), "{text}: {reason}");
    }
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM trips").await as usize,
        rows.len()
    );
}

/// Orders and their items in one sequence: each value is an order, and its array has items. Each
/// reader of an item finds it, and its order around it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_feeds_two_datasets() {
    const SETTINGS: &str = "
frame_records = 50
frame_bytes = '1KB'

[[datasets]]
name = 'orders'
format = 'sequence'
records = ''
on_unknown_field = 'ignore'
columns = [{ name = 'no', type = 'integer' }]

[[datasets]]
name = 'items'
files = 'orders'
also = true
format = 'sequence'
columns = [
    { name = 'item', type = 'text', max_chars = 9 },
    { name = 'of_order', envelope = '/no', type = 'integer' },
]
";
    for name in ["memory+sqlite", "redis+mysql"] {
        let pair = Pair::new(name).await;
        fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
        let (mut text, mut expected) = (String::new(), Vec::new());
        for no in 0..60_u32 {
            // Every tenth array is larger than a frame.
            let items = if no % 10 == 7 { 120 } else { no % 3 };
            let item = |at: u32| {
                expected.push(format!("{no} {no}-{at}"));
                format!("{{\"item\": \"{no}-{at}\"}}")
            };
            let items: Vec<String> = (0..items).map(item).collect();
            let items = match no % 5 {
                // None, and not an array: these have no item.
                3 if items.is_empty() => String::new(),
                4 if items.is_empty() => ", \"items\": null".to_owned(),
                _ => format!(", \"items\": [{}]", items.join(",")),
            };
            let separator = ["", "\n", ","][no as usize % 3];
            text.extend(["{\"no\": ", &no.to_string(), &items, "}", separator]);
        }
        text += "{\"no\": 60, \"items\": [{\"item\": \"a long item\"}, 5]}";
        fs::write(pair.at("inbound").join("orders.json"), &text).unwrap();
        pair.expect(2, &["load"]);
        let orders = "SELECT COUNT(*), MIN(no), MAX(no) FROM orders";
        assert_eq!(texts(&pair, orders).await, ["61 0 60"], "{name}");
        let items = "SELECT of_order, item FROM items ORDER BY id";
        assert_eq!(texts(&pair, items).await, expected, "{name}");
        let rejects = "SELECT code FROM ingest_rejects ORDER BY ordinal";
        assert_eq!(
            texts(&pair, rejects).await,
            ["text_too_long", "not_an_object"]
        );
        let exported = pair.expect(0, &["rejects", "export"]);
        assert!(exported.contains("a long item"), "{exported}");
        pair.expect(0, &["verify", "--content"]);

        // The state after a kill: the orders and some of the items are stored.
        let first_lost = (2_u64 << 32) + 100;
        for sql in [
            format!("DELETE FROM items WHERE id >= {first_lost}"),
            "DELETE FROM ingest_rejects WHERE ordinal >= 100".to_owned(),
            "INSERT INTO ingest_frames (file_no, first_ordinal, records) VALUES (2, 0, 100)"
                .to_owned(),
            "UPDATE ingest_files SET state = 'pending', settled_at = NULL WHERE file_no = 2"
                .to_owned(),
        ] {
            pair.execute(&sql).await;
        }
        fs::rename(
            pair.at("history").join("orders.json"),
            pair.at("work").join("orders.json"),
        )
        .unwrap();
        pair.expect(2, &["load"]);
        assert_eq!(texts(&pair, items).await, expected, "{name}");
        assert_eq!(names(&pair.at("history")), ["orders.json"]);
        pair.expect(0, &["verify", "--content"]);
        pair.expect(
            0,
            &[
                "rejects",
                "replay",
                "--code",
                "text_too_long",
                "--set",
                "item=short",
            ],
        );
        let replayed = "SELECT of_order, item FROM items WHERE of_order = 60";
        assert_eq!(texts(&pair, replayed).await, ["60 short"], "{name}");
        pair.expect(0, &["verify", "--content"]);
    }
}

async fn texts(pair: &Pair, sql: &str) -> Vec<String> {
    let rows = pair.query(sql).await.into_iter();
    let text = |row: Vec<Option<String>>| row.into_iter().flatten().collect::<Vec<_>>().join(" ");
    rows.map(text).collect()
}
