//! The commands for operators, through the real binary over both kinds of database: rejects are
//! listed, corrected and replayed, lost records are found, and each row is traced to its text.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Pair, names};

/// A good record with a text that a JSON writer would change.
const GOOD: &str = r#"{"vehicle_id": "v-1",  "report_time": "2022-06-05T21:02:34.546Z", "status_source":"mo\u0062ile", "status":"ok"}"#;

/// A record without a status.
const BAD: &str =
    r#"{"vehicle_id":"v-2","report_time":"2022-06-05T21:02:34Z","status_source":"é"}"#;

async fn pairs() -> Vec<Pair> {
    vec![
        Pair::new("memory+sqlite").await,
        Pair::new("memory+mysql").await,
    ]
}

fn put(pair: &Pair, name: &str, bytes: &[u8]) {
    fs::write(pair.at("inbound").join(name), bytes).unwrap();
}

fn document(records: &[&str]) -> Vec<u8> {
    format!("{{\"vehicle_status\": [{}]}}", records.join(" ,\n ")).into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// NDJSON of a command's output.
fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The number of a file in the ledger.
async fn file_no(pair: &Pair, name: &str) -> u64 {
    let sql = format!("SELECT file_no FROM ingest_files WHERE name = '{name}'");
    pair.number(&sql).await
}

fn write(pair: &Pair, name: &str, lines: &[Value]) -> String {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(pair.at(name), lines.join("\n")).unwrap();
    pair.at(name).to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_is_shown_corrected_and_replayed_under_its_own_id() {
    for pair in pairs().await {
        put(
            &pair,
            "vehicle_status_a.json",
            &document(&[GOOD, BAD, GOOD, "7"]),
        );
        pair.expect(2, &["load"]);
        let file_no = file_no(&pair, "vehicle_status_a.json").await;
        let number = file_no.to_string();
        assert!(
            pair.expect(0, &["verify"])
                .contains("1 files, 0 of them wrong")
        );

        let listed = pair.expect(0, &["rejects", "list"]);
        assert!(
            listed.contains(&format!(
                "{file_no}:1  vehicle_status_a.json: missing_field `status`"
            )),
            "{listed}"
        );
        assert!(listed.contains(BAD), "{listed}");
        let listed = objects(&pair.expect(0, &["rejects", "list", "--json", "--limit", "1"]));
        assert_eq!(listed[0]["ordinal"], 3);
        let coded = [
            "rejects",
            "list",
            "--code",
            "missing_field",
            "--file",
            &number,
            "--json",
        ];
        let listed = objects(&pair.expect(0, &coded));
        assert_eq!((listed.len(), &listed[0]["ordinal"]), (1, &json!(1)));
        let shown = pair.expect(0, &["rejects", "show", &format!("{number}:1")]);
        assert!(shown.ends_with(&format!("\n{BAD}\n")), "{shown}");
        pair.expect(1, &["rejects", "show", &format!("{number}:0")]);

        let exported = objects(&pair.expect(0, &["rejects", "export"]));
        let out = pair.at("out.ndjson");
        pair.expect(0, &["rejects", "export", "--out", out.to_str().unwrap()]);
        assert_eq!(objects(&fs::read_to_string(out).unwrap()), exported);
        assert_eq!(exported.len(), 2);
        let place = GOOD.len() + BAD.len() + GOOD.len() + "{\"vehicle_status\": [".len() + 12;
        assert_eq!(
            exported[0],
            json!({
                "id": (file_no << 32) + 3, "file_no": file_no, "ordinal": 3,
                "file": "vehicle_status_a.json", "dataset": "vehicle_status",
                "code": "not_an_object", "field": null, "byte_offset": place,
                "rejected_at": exported[0]["rejected_at"], "raw": "7"
            })
        );

        // As an operator would do it: adds a record to the exported line.
        let mut corrected = exported[1].clone();
        corrected["record"] = serde_json::from_str(BAD).unwrap();
        corrected["record"]["status"] = json!("corrected");
        let still = json!({"file_no": file_no, "ordinal": 3, "record": [1]});
        let path = write(&pair, "corrected.ndjson", &[corrected.clone(), still]);
        let replayed = pair.expect(2, &["rejects", "replay", &path]);
        let expected = format!(
            "{file_no}:3  still a reject: not_an_object\n1 stored, 0 stored already, 1 still rejects, 0 unusable\n"
        );
        assert_eq!(replayed, expected);
        let id = (file_no << 32) + 1;
        let row = pair
            .query(&format!(
                "SELECT status, vehicle_id FROM vehicle_status WHERE id = {id}"
            ))
            .await;
        assert_eq!(
            row,
            [[Some("corrected".to_owned()), Some("v-2".to_owned())]]
        );
        let rejects = format!("SELECT ordinal FROM ingest_rejects WHERE file_no = {file_no}");
        assert_eq!(pair.query(&rejects).await, [[Some("3".to_owned())]]);
        for (ordinal, is_corrected) in [(0, false), (1, true)] {
            let said = pair.expect(0, &["trace", &format!("{file_no}:{ordinal}")]);
            let is_said = said.contains("note         with the current definition of its dataset");
            assert_eq!(is_said, is_corrected, "{said}");
        }
        let sums = objects(&pair.expect(0, &["verify", "--json"]))
            .pop()
            .unwrap();
        assert_eq!(
            (&sums["rows"], &sums["rejects"], &sums["wrong"]),
            (&json!(3), &json!(1), &json!(0))
        );

        // Replaying twice changes nothing.
        let path = write(&pair, "again.ndjson", &[corrected]);
        let replayed = pair.expect(0, &["rejects", "replay", &path]);
        assert!(
            replayed.starts_with("0 stored, 1 stored already"),
            "{replayed}"
        );
        assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_status").await, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_of_the_database_is_shown_without_a_place() {
    for pair in pairs().await {
        pair.expect(0, &["migrate"]);
        pair.query("CREATE UNIQUE INDEX mine ON vehicle_status (vehicle_id)")
            .await;
        put(&pair, "vehicle_status.json", &document(&[GOOD, GOOD]));
        pair.expect(2, &["load"]);
        let file_no = file_no(&pair, "vehicle_status.json").await;
        let record = format!("{file_no}:1");
        let shown = pair.expect(0, &["rejects", "show", &record]);
        assert!(shown.contains("duplicate_key_in_table"), "{shown}");
        assert!(!shown.contains("byte offset"), "{shown}");
        let shown = objects(&pair.expect(0, &["rejects", "show", &record, "--json"]));
        assert_eq!(shown[0]["byte_offset"], Value::Null, "{shown:?}");
        // Its text is in the file.
        let said = pair.expect(0, &["trace", &record]);
        assert!(said.contains("byte offset"), "{said}");
        assert!(said.ends_with(&format!("\n{GOOD}\n")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_not_corrections_are_named_and_affect_no_other_line() {
    let pair = Pair::new("memory+sqlite").await;
    put(
        &pair,
        "vehicle_status.ndjson",
        format!("{BAD}\n{{\"a\":1}},{{}}\n").as_bytes(),
    );
    pair.expect(2, &["load"]);
    let line =
        |ordinal: u32, more: &str| format!("{{\"file_no\":1,\"ordinal\":{ordinal},{more}}}\n");
    // In turn: a text that is not a single value; a line that is not JSON; an ordinal that does not
    // exist; a file that does not exist; a line without a record.
    let lines = line(1, r#""raw":"{\"a\":1},{}""#)
        + "\nnot JSON\n"
        + &line(2, "\"record\":{}")
        + "{\"file_no\":9,\"ordinal\":0,\"record\":{}}\n"
        + &line(0, "\"code\":\"x\"")
        + &line(
            0,
            &format!("\"record\":{}", BAD.replace("\"é\"", "\"é\",\"status\":{}")),
        )
        + &line(
            0,
            &format!(
                "\"record\":{}",
                BAD.replace("\"é\"", "\"é\",\"status\":1.50")
            ),
        );
    let mut replay = pair.command(&["rejects", "replay", "-"]);
    replay.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = replay.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    for said in [
        "1:1  still a reject: invalid_json",
        "line 3: it is not a correction",
        "line 4: file 1 has 2 records, so it has no ordinal 2",
        "line 5: the ledger has no file 9",
        "line 6: it has neither `record` nor `raw`",
        "1:0  still a reject: wrong_type",
        "1 stored, 0 stored already, 2 still rejects, 4 unusable",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    // The number is stored as it is written in the file, and not as a float prints it.
    let status = pair.query("SELECT status FROM vehicle_status").await;
    assert_eq!(status, [[Some("1.50".to_owned())]]);
    pair.expect(66, &["rejects", "replay", "not_there.ndjson"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_not_asked_for_again() {
    for pair in pairs().await {
        let next = || {
            let status = pair.expect(0, &["status", "--json"]);
            let status: Value = serde_json::from_str(&status).unwrap();
            status["next"].as_str().unwrap_or_default().to_owned()
        };
        put(&pair, "vehicle_status_a.json", &document(&[GOOD, BAD]));
        put(&pair, "vehicle_status_b.json", b"[{");
        pair.expect(2, &["load"]);
        let asks = next();
        assert!(
            asks.contains("with 1 file;") && asks.contains("shows 1 record "),
            "{asks}"
        );
        let said = pair.expect(0, &["status", "--acknowledge"]);
        assert!(
            said.contains("1 files in quarantine and 1 rejects"),
            "{said}"
        );
        assert_eq!(next(), "", "{}", pair.name);
        put(&pair, "vehicle_status_c.json", &document(&[BAD, GOOD, "7"]));
        pair.expect(2, &["load"]);
        let asks = next();
        assert!(asks.contains("shows 2 new records that"), "{asks}");
        assert!(!asks.contains("quarantined"), "{asks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_file_that_was_broken() {
    for pair in pairs().await {
        put(&pair, "vehicle_status_good.json", &document(&[GOOD]));
        put(
            &pair,
            "vehicle_status_broken.json",
            &document(&[GOOD, BAD, GOOD, GOOD]),
        );
        pair.expect(2, &["load"]);
        pair.expect(0, &["verify"]);
        let file_no = file_no(&pair, "vehicle_status_broken.json").await;
        let id = (file_no << 32) + 2;
        pair.query(&format!("DELETE FROM vehicle_status WHERE id = {id}"))
            .await;

        let said = pair.expect(1, &["verify"]);
        let line = format!(
            "file {file_no} vehicle_status_broken.json: 2 rows + 1 rejects of 4 records; the first missing ordinal is 2\n2 files, 1 of them wrong; 5 records: 3 rows, 1 rejects, 0 purged\n"
        );
        assert_eq!(said, line);
        let said = objects(&pair.expect(1, &["verify", "--json"]));
        assert_eq!((said.len(), &said[0]["file_no"]), (2, &json!(file_no)));
        let said = pair.expect(0, &["trace", &id.to_string()]);
        assert!(said.contains("neither row nor reject"), "{said}");
        assert!(said.ends_with(&format!("\n{GOOD}\n")), "{said}");

        // A file that is not in history is only a note, because files of an archive are not moved
        // there.
        fs::remove_file(pair.at("history").join("vehicle_status_good.json")).unwrap();
        let said = pair.expect(1, &["verify"]);
        assert!(
            said.contains(
                "note: 1 files are not in history under their name (vehicle_status_good.json)"
            ),
            "{said}"
        );
    }
}

/// `trace` prints each record of a file as it is at its offset.
async fn traces(pair: &Pair, name: &str, inflated: &[u8], records: &[&str], extra: &[&str]) {
    let file_no = file_no(pair, name).await;
    for (ordinal, record) in records.iter().enumerate() {
        let id = ((file_no << 32) + ordinal as u64).to_string();
        let parts = format!("{file_no}:{ordinal}");
        let said = pair.expect(0, &[&["trace", &id], extra].concat());
        assert_eq!(said, pair.expect(0, &[&["trace", &parts], extra].concat()));
        let (about, text) = said.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(text, *record, "{said}");
        let value = |key: &str| {
            let line = about.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("{key}: {said}"))
                .trim()
                .to_owned()
        };
        assert_eq!(value("name"), name);
        assert_eq!(value("ordinal"), ordinal.to_string());
        let became = if *record == BAD {
            "reject: missing_field `status`"
        } else {
            "row of vehicle_status"
        };
        assert_eq!(value("record"), became);
        let at: usize = value("byte offset").parse().unwrap();
        assert_eq!(&inflated[at..at + record.len()], record.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_prints_the_text_of_a_record_as_it_is_in_its_file() {
    for pair in pairs().await {
        let records = [GOOD, BAD, GOOD];
        let whole = document(&records);
        let lines = format!("{}\n\n{}\n{}", records[0], records[1], records[2]).into_bytes();
        put(&pair, "vehicle_status.json", &whole);
        put(&pair, "vehicle_status.ndjson", &lines);
        put(&pair, "vehicle_status.json.gz", &gzip(&whole));
        pair.expect(2, &["load"]);
        // Chunks of one record and of many records give the same result.
        for extra in [&[][..], &["--frame-records", "1"]] {
            traces(&pair, "vehicle_status.json", &whole, &records, extra).await;
            traces(&pair, "vehicle_status.ndjson", &lines, &records, extra).await;
            traces(&pair, "vehicle_status.json.gz", &whole, &records, extra).await;
        }

        // Another file has its name: `trace` does not use it.
        let history = pair.at("history");
        let (kept, other) = (
            history.join("vehicle_status.json"),
            pair.at("elsewhere.json"),
        );
        fs::rename(&kept, &other).unwrap();
        fs::write(&kept, document(&[BAD, BAD, BAD])).unwrap();
        let file_no = file_no(&pair, "vehicle_status.json").await;
        let id = format!("{file_no}:0");
        let output = pair.run(&["trace", &id]);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("--file"),
            "{output:?}"
        );
        assert!(
            !String::from_utf8_lossy(&output.stdout).contains("v-2"),
            "{output:?}"
        );
        let at = |path: &Path| path.to_str().unwrap().to_owned();
        pair.expect(1, &["trace", &id, "--file", &at(&kept)]);
        let found = pair.expect(0, &["trace", &id, "--file", &at(&other)]);
        assert!(found.ends_with(&format!("\n{GOOD}\n")), "{found}");
        // The command finds the file under the name with a suffix.
        fs::rename(&other, history.join("vehicle_status.json.1")).unwrap();
        traces(&pair, "vehicle_status.json", &whole, &records, &[]).await;
        pair.expect(1, &["trace", &format!("{file_no}:3")]);
        pair.expect(64, &["trace", "7"]);
    }
}

/// The ledger has the text of a name: bytes that are not UTF-8 are replaced in it, and a suffix is
/// added to a name within the limit of the system.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_found_whose_name_differs_from_that_of_the_ledger() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let pair = Pair::new("memory+sqlite").await;
    let inbound = pair.at("inbound");
    let long = format!("vehicle_status_{}.json", "x".repeat(235));
    assert_eq!(long.len(), 255);
    let bytes = OsStr::from_bytes(b"vehicle_status_\xff.json");
    fs::write(inbound.join(bytes), document(&[GOOD, BAD])).unwrap();
    fs::write(inbound.join(&long), document(&[BAD])).unwrap();
    pair.expect(2, &["load"]);
    // Another file of the same name: the end of its name is cut for the suffix.
    fs::write(inbound.join(&long), document(&[BAD, GOOD, GOOD])).unwrap();
    pair.expect(2, &["load"]);
    let records = "SELECT file_no, records FROM ingest_files ORDER BY records";
    let files = pair.query(records).await;
    assert_eq!(files.len(), 3);
    for (file, record) in files.iter().zip([BAD, GOOD, BAD]) {
        let said = pair.expect(0, &["trace", &format!("{}:0", file[0].as_ref().unwrap())]);
        assert!(said.ends_with(&format!("\n{record}\n")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_asks_and_the_audit_still_adds_up() {
    for pair in pairs().await {
        put(&pair, "vehicle_status.json", &document(&[GOOD, BAD, "7"]));
        pair.expect(2, &["load"]);
        let said = pair.run(&["rejects", "purge"]);
        assert_eq!(said.status.code(), Some(64), "{said:?}");
        assert!(
            String::from_utf8_lossy(&said.stderr).contains("--yes"),
            "{said:?}"
        );
        let before = ["rejects", "purge", "--yes", "--before", "2001-01-01"];
        assert!(
            pair.expect(0, &before)
                .contains("no rejects of stored files match")
        );
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_rejects").await, 2);

        let number = file_no(&pair, "vehicle_status.json").await.to_string();
        let said = pair.expect(0, &["rejects", "purge", "--yes", "--file", &number]);
        assert!(said.starts_with("removed 2 rejects for good"), "{said}");
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_rejects").await, 0);
        let said = pair.expect(0, &["verify"]);
        assert!(
            said.contains("3 records: 1 rows, 0 rejects, 2 purged"),
            "{said}"
        );
        let said = pair.expect(0, &["files", "show", &number]);
        assert!(said.contains("purged       2"), "{said}");
        let said = pair.expect(0, &["trace", &format!("{number}:1")]);
        assert!(said.contains("reject, purged"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_file_is_listed_and_goes_back_to_inbound() {
    for pair in pairs().await {
        put(&pair, "vehicle_status_cut.json", b"{\"vehicle_status\": [");
        put(&pair, "vehicle_status.json", &document(&[GOOD, BAD]));
        pair.expect(2, &["load"]);
        let set_aside = ["files", "list", "--state", "quarantined", "--json"];
        let listed = objects(&pair.expect(0, &set_aside));
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0]["name"], "vehicle_status_cut.json");
        assert!(
            listed[0]["reason"]
                .as_str()
                .unwrap()
                .contains("before it is whole")
        );
        let listed = pair.expect(0, &["files", "list"]);
        assert_eq!(listed.lines().count(), 4, "{listed}");
        assert!(listed.contains("before it is whole"), "{listed}");
        let number = file_no(&pair, "vehicle_status.json").await.to_string();
        let shown = objects(&pair.expect(0, &["files", "show", &number, "--json"])).remove(0);
        assert_eq!(
            shown["stored"],
            json!({"rows": 1, "rejects": 1, "purged": 0, "superseded": 0, "erased": 0, "retired": 0})
        );
        assert_eq!(
            (&shown["state"], &shown["records"]),
            (&json!("settled"), &json!(2))
        );
        let hash = blake3::hash(&document(&[GOOD, BAD])).to_hex();
        assert_eq!(shown["hash"], hash[..32]);

        let quarantine = pair.at("quarantine");
        assert_eq!(names(&quarantine).len(), 2);
        pair.expect(66, &["files", "retry", "vehicle_status_none.json"]);
        pair.expect(64, &["files", "retry", "../history/vehicle_status.json"]);
        pair.expect(0, &["files", "retry", "--all"]);
        assert_eq!(names(&quarantine), Vec::<String>::new());
        assert_eq!(names(&pair.at("inbound")), ["vehicle_status_cut.json"]);
        // After its text is corrected in quarantine, it is loaded like any other.
        put(&pair, "vehicle_status_cut.json", &document(&[GOOD]));
        pair.expect(0, &["load"]);
        pair.expect(0, &["verify"]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM vehicle_status").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_operators_create_no_database() {
    let pair = Pair::new("memory+sqlite").await;
    for args in [
        &["verify"][..],
        &["files", "list"],
        &["rejects", "list"],
        &["trace", "1:0"],
    ] {
        pair.expect(66, args);
    }
    assert!(!pair.at("test.db").exists());
}
