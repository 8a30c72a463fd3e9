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
