//! Rejects are exported, corrected and replayed with the bytes of their records, through the real
//! binary. A replay stores the row that a first load stores, and nothing else.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Pair, Service, free_addr, names, page, until};

/// A dataset with a column of each type. Pointers fill some of the columns.
const SETTINGS: &str = r#"
[[datasets]]
name = "trips"
files = "trips"
columns = [
    { name = "trip", type = "text" },
    { name = "started", type = "timestamp", epoch = "ms" },
    { name = "speed", type = "float", field = "/data/speed", required = false },
    { name = "count", type = "integer", required = false },
    { name = "night", type = "boolean", required = false },
    { name = "note", type = "text", field = "/data/note/0", required = false, max_chars = 16000 },
    { name = "tags", type = "json", default = "[]", required = false },
]
"#;

/// A record of the dataset, with more members.
fn trip(more: &str) -> String {
    format!(r#"{{"trip":"t","started":"2026-03-01T10:00:00Z"{more}}}"#)
}

/// Records that change if a JSON writer writes them, a number becomes a float, or a text is
/// unescaped twice.
fn records() -> Vec<String> {
    let mut records: Vec<String> = [
        "",
        r#","more":{"x":"y"}"#,
        r#","more":{"x" : "y"},"other": [1.10, 1e2 , null]"#,
        r#","_rescued":{"more":1}"#,
        r#","tags":{"k":1,"k":2}"#,
        r#","tags":{"big":12345678901234567.25,"e":1e2,"d":{"k":1,"k":2}}"#,
        r#","tags":12345678901234567890"#,
        r#","tags":[1.0, 1.10,1E5,-0, 0.1e-7]"#,
        r#","tags":"a text \u00e9 \ud83d\ude00""#,
        r#","tags":"{\"a\":1}""#,
        r#","tags":null"#,
        r#","tags":true"#,
        r#","data":{"speed":1e2,"note":["b\u0061r\n"]}"#,
        r#","data":{"speed":0.1,"note":["1.50","other"],"more":[[]]}"#,
        r#","data":{"note":[12345678901234567890.10]}"#,
        r#","count":9223372036854775807,"night":true"#,
        r#","count":null,"night":false,"data":null"#,
        r#","unknown":12345678901234567890,"unknown2":1e400"#,
        " , \"count\" : 7 ",
    ]
    .map(trip)
    .to_vec();
    records.push(r#"{"started":1772359200123,"trip":1.50}"#.to_owned());
    records.push(r#"{"started":"2026-03-01 10:00:00.123456+02:00","trip":"é😀\u0000"}"#.to_owned());
    // Longer than the 8 KiB that the database keeps of a reject.
    let long = "z".repeat(9_000);
    records.push(trip(&format!(r#","tags":{{"z":"{long}"}}"#)));
    records.push(trip(&format!(r#","data":{{"note":["{long}"]}}"#)));
    records.push(trip(&format!(r#","more":"{long}""#)));
    records
}

async fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for name in ["memory+sqlite", "memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
        pairs.push(pair);
    }
    pairs
}

/// Makes the table refuse every row, or take them again.
async fn refuse_rows(pair: &Pair, refuse: bool) {
    let is_sqlite = pair.database_url.starts_with("sqlite:");
    let sql = match (refuse, is_sqlite) {
        (true, true) => {
            "CREATE TRIGGER picky BEFORE INSERT ON trips BEGIN SELECT RAISE(ABORT, 'not today'); END"
        }
        (true, false) => {
            "CREATE TRIGGER picky BEFORE INSERT ON trips FOR EACH ROW SIGNAL SQLSTATE '45000' SET \
             MESSAGE_TEXT = 'not today'"
        }
        (false, _) => "DROP TRIGGER picky",
    };
    pair.query(sql).await;
}

fn put(pair: &Pair, name: &str, bytes: impl AsRef<[u8]>) {
    fs::write(pair.at("inbound").join(name), bytes).unwrap();
}

/// The rows of a file, without their ids.
async fn rows(pair: &Pair, file_no: u64) -> Vec<Vec<Option<String>>> {
    let columns = "trip, started, speed, count, night, note, tags, _rescued";
    let (first, next) = (file_no << 32, (file_no + 1) << 32);
    let sql =
        format!("SELECT {columns} FROM trips WHERE id >= {first} AND id < {next} ORDER BY id");
    pair.query(&sql).await
}

fn exported(pair: &Pair, out: &str) -> Vec<Value> {
    let out = pair.at(out);
    pair.expect(0, &["rejects", "export", "--out", out.to_str().unwrap()]);
    let text = fs::read_to_string(out).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Exports the rejects, edits each line, and replays the result. Returns the output of the replay.
fn replay_edited(pair: &Pair, code: i32, edit: impl Fn(&mut Value)) -> String {
    let mut lines = exported(pair, "exported.ndjson");
    lines.iter_mut().for_each(edit);
    replay_lines(pair, code, &lines)
}

fn replay_lines(pair: &Pair, code: i32, lines: &[Value]) -> String {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    let path = pair.at("edited.ndjson");
    fs::write(&path, lines.join("\n")).unwrap();
    pair.expect(code, &["rejects", "replay", path.to_str().unwrap()])
}

/// Each record is loaded once by itself, and once refused by the table and replayed after the table
/// was changed: both rows are equal in every column.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_after_the_table_was_changed_stores_what_a_first_load_stores() {
    let records = records();
    for pair in pairs().await {
        pair.expect(0, &["migrate"]);
        put(&pair, "trips_first.ndjson", records.join("\n"));
        pair.expect(0, &["load"]);
        let expected = rows(&pair, 1).await;
        assert_eq!(expected.len(), records.len());

        refuse_rows(&pair, true).await;
        put(&pair, "trips.ndjson", records.join("\n\n"));
        put(
            &pair,
            "trips.json",
            format!("{{\"trips\": [ {} ]}}", records.join(" , ")),
        );
        pair.expect(2, &["load"]);
        let mut rejects = exported(&pair, "exported.ndjson");
        rejects.reverse();
        assert_eq!(rejects.len(), 2 * records.len());
        for (at, reject) in rejects.iter().enumerate() {
            assert_eq!(reject["code"], "refused_by_database");
            let message = reject["message"].as_str().unwrap();
            assert!(message.contains("not today"), "{message}");
            assert_eq!(reject["raw"], records[at % records.len()]);
            assert_eq!(reject.get("unavailable"), None);
        }
        // Where reasons are counted, the database's message is shown.
        let said = pair.expect(0, &["status"]);
        let line = said
            .lines()
            .find(|line| line.contains("refused_by_database"));
        assert!(line.unwrap().contains("not today"), "{said}");
        let json: Value = serde_json::from_str(&pair.expect(0, &["status", "--json"])).unwrap();
        let message = json["rejects"][0]["message"].as_str().unwrap();
        assert!(message.contains("not today"), "{json}");
        // The table still refuses them.
        let said = pair.expect(2, &["rejects", "replay", "--id", "2:0"]);
        assert!(
            said.starts_with("2:0  still a reject: refused_by_database: "),
            "{said}"
        );
        assert!(said.contains("not today"), "{said}");

        refuse_rows(&pair, false).await;
        // One file is replayed from its export, the other without a file.
        let path = pair.at("exported.ndjson");
        let lines: Vec<String> = rejects
            .iter()
            .filter(|reject| reject["file_no"] == 2)
            .map(Value::to_string)
            .collect();
        fs::write(&path, lines.join("\n")).unwrap();
        pair.expect(0, &["rejects", "replay", path.to_str().unwrap()]);
        let said = pair.expect(0, &["rejects", "replay", "--code", "refused_by_database"]);
        assert!(
            said.starts_with(&format!("{} stored, 0", records.len())),
            "{said}"
        );
        for file_no in [2, 3] {
            let stored = rows(&pair, file_no).await;
            for (at, (stored, expected)) in stored.iter().zip(&expected).enumerate() {
                assert_eq!(stored, expected, "{} {}", pair.name, records[at]);
            }
            assert_eq!(stored.len(), expected.len());
        }
        pair.expect(0, &["verify"]);
        let texts = "SELECT text FROM ingest_replays ORDER BY file_no, ordinal";
        let texts = pair.query(texts).await;
        let texts: Vec<&str> = texts.iter().map(|row| row[0].as_deref().unwrap()).collect();
        assert_eq!(texts, [&records[..], &records[..]].concat());
    }
}

/// The sources of a record's text. A record that is not available as a whole is not replayed.
#[tokio::test(flavor = "multi_thread")]
async fn the_text_of_a_reject_is_read_from_its_file_or_reported_as_missing() {
    let pair = Pair::new("memory+sqlite").await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    pair.expect(0, &["migrate"]);
    refuse_rows(&pair, true).await;
    let long = "z".repeat(9_000);
    let records = [
        trip(""),
        format!(r#"{{"trip":"{long}","started":7}}"#),
        r#"{"trip":1}"#.to_owned(),
    ];
    let bytes = records.join("\n");
    let not_utf8 = [
        &b"{\"trip\":\"\xff\"}\n"[..],
        trip(",\"count\":1").as_bytes(),
    ]
    .concat();
    put(&pair, "trips_whole.ndjson", &bytes);
    put(&pair, "trips_not_utf8.ndjson", &not_utf8);
    let archive = pair.at("archive/day");
    fs::create_dir_all(&archive).unwrap();
    let archived = archive.join("trips_archived.ndjson");
    fs::write(&archived, format!("{bytes}\n")).unwrap();
    pair.expect(2, &["load"]);
    pair.expect(2, &["load", "archive"]);

    // By (file, ordinal): whether the record is whole, and its reason if not.
    let whole = |reject: &Value| match reject.get("unavailable") {
        None => Ok(reject["raw"].as_str().unwrap().to_owned()),
        Some(why) => Err(why.as_str().unwrap().to_owned()),
    };
    let of = |name: &str, ordinal: usize| {
        let found = exported(&pair, "exported.ndjson");
        let is_it = |reject: &&Value| reject["file"] == name && reject["ordinal"] == ordinal;
        whole(found.iter().find(is_it).unwrap())
    };
    let files = ["trips_whole.ndjson", "trips_archived.ndjson"];
    for name in files {
        for (ordinal, record) in records.iter().enumerate() {
            assert_eq!(of(name, ordinal).as_ref(), Ok(record), "{name}");
        }
    }
    let why = of("trips_not_utf8.ndjson", 0).unwrap_err();
    assert_eq!(why, "it is not UTF-8 (at byte 9)");
    assert_eq!(of("trips_not_utf8.ndjson", 1), Ok(trip(",\"count\":1")));

    // Files that are gone, or changed.
    let history = pair.at("history");
    let kept = history.join("trips_whole.ndjson");
    fs::rename(&kept, pair.at("elsewhere")).unwrap();
    fs::write(&archived, format!("{bytes}\t")).unwrap();
    for name in files {
        for ordinal in [0, 1] {
            let why = of(name, ordinal).unwrap_err();
            let searched = ["history", "work", "quarantine", "inbound"];
            let searched = searched.map(|dir| pair.at(dir).display().to_string());
            let said = format!("{name}: no file with its bytes in {}", searched.join(", "));
            assert!(why.starts_with("file ") && why.contains(&said), "{why}");
            assert!(why.contains("; put it into one of them, or use"), "{why}");
        }
        // The database keeps all of this one.
        assert_eq!(of(name, 2).as_ref(), Ok(&records[2]));
    }
    let why = of(files[1], 0).unwrap_err();
    let other = format!(", and {} has other content", archived.display());
    assert!(why.contains(&other), "{why}");
    fs::rename(&archived, pair.at("aside")).unwrap();
    assert!(of(files[1], 0).unwrap_err().contains("nor at /"));
    fs::rename(pair.at("aside"), &archived).unwrap();
    let output = pair.run(&["rejects", "export"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("the records of 5 of 8 rejects cannot be read as a whole"),
        "{said}"
    );

    refuse_rows(&pair, false).await;
    for said in [
        pair.expect(2, &["rejects", "replay", "--all"]),
        replay_edited(&pair, 2, |_| {}),
        // The form in which earlier releases exported a reject: the row as JSON, or the beginning
        // of the record.
        replay_edited(&pair, 2, |line| {
            line.as_object_mut().unwrap().remove("unavailable");
        }),
    ] {
        assert!(
            said.contains("its record cannot be read as a whole"),
            "{said}"
        );
        assert!(said.ends_with("still rejects, 5 unusable\n"), "{said}");
    }
    assert_eq!(pair.number("SELECT COUNT(*) FROM trips").await, 1);

    // The file is moved back to history, and the archive is loaded from its new place.
    fs::rename(pair.at("elsewhere"), &kept).unwrap();
    let moved = pair.at("moved.d");
    fs::create_dir(&moved).unwrap();
    fs::write(moved.join("trips_archived.ndjson"), format!("{bytes}\n")).unwrap();
    pair.expect(0, &["load", "moved.d"]);
    for name in files {
        assert_eq!(of(name, 0).as_ref(), Ok(&records[0]), "{name}");
    }
    let said = pair.expect(2, &["rejects", "replay", "--all"]);
    assert!(
        said.ends_with("2 stored, 0 stored already, 4 still rejects, 1 unusable\n"),
        "{said}"
    );
    // Each of them accepts a record that the user has written.
    let said = replay_edited(&pair, 0, |line| {
        line["record"] = serde_json::from_str(&trip("")).unwrap();
    });
    assert!(said.starts_with("5 stored"), "{said}");
    pair.expect(0, &["verify"]);
}

/// The engine cuts a file with the definition of its load. If an earlier release loaded the file
/// and recorded no definition, the engine notices that the current definition finds other records.
#[tokio::test(flavor = "multi_thread")]
async fn no_record_is_replayed_as_another_after_a_change_of_the_definition() {
    let pair = Pair::new("memory+sqlite").await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    let long = format!(r#"{{"trip":"{}","started":7}}"#, "z".repeat(9_000));
    let other = trip(r#","note":"another""#);
    let document = format!(r#"{{"trips":[{long}],"others":[{other}],"both":[{long},{other}]}}"#);
    put(&pair, "trips.json", document);
    pair.expect(2, &["load"]);
    let line = exported(&pair, "exported.ndjson");
    assert_eq!(line[0]["raw"], long);
    let redefine = |records: &str| {
        let settings = SETTINGS.replace("files =", &format!("records = \"{records}\"\nfiles ="));
        fs::write(pair.at("lemonade.toml"), settings).unwrap();
    };
    for records in ["/others", "/both", "/none"] {
        redefine(records);
        let line = &exported(&pair, "exported.ndjson")[0];
        assert_eq!(
            (&line["raw"], line.get("unavailable")),
            (&json!(long), None)
        );
        let said = pair.expect(0, &["trace", "1:0"]);
        assert!(said.ends_with(&format!("\n{long}\n")), "{said}");
    }
    pair.query("UPDATE ingest_files SET definition = NULL")
        .await;
    for (records, said) in [
        ("/others", "another record has this ordinal"),
        ("/both", "has 2 records with the current definition"),
        ("/none", "trips.json: "),
    ] {
        redefine(records);
        let line = &exported(&pair, "exported.ndjson")[0];
        let why = line["unavailable"].as_str().unwrap();
        assert!(why.contains(said), "{why}");
        let said = pair.expect(2, &["rejects", "replay", "--all"]);
        assert!(said.contains("cannot be read as a whole"), "{said}");
    }
}

/// A replay refuses a large number that a JSON tool has rounded. `--set` corrects the record
/// without a tool.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_came_back_rounded_is_refused_and_set_needs_no_tool() {
    for pair in pairs().await {
        let bad =
            r#"{"trip":12345678901234567890,"started":"x","tags":{"n":[1,9007199254740993]}}"#;
        put(
            &pair,
            "trips.ndjson",
            format!("{bad}\n{bad}\n{bad}\n{}\n", trip("")),
        );
        pair.expect(2, &["load"]);

        // As jq 1.6 does it.
        let rounded = |line: &mut Value| {
            let raw = line["raw"].as_str().unwrap();
            let raw = raw.replace("12345678901234567890", "12345678901234567000");
            line["record"] = serde_json::from_str(&raw).unwrap();
            line["record"]["started"] = json!("2026-03-01T10:00:00Z");
        };
        let said = replay_edited(&pair, 2, rounded);
        let expected = "1:0  still a reject: `/trip` came back as 12345678901234567000, but is \
                        12345678901234567890 in the record";
        assert!(said.contains(expected), "{said}");
        assert!(said.contains("--set"), "{said}");
        assert!(
            said.ends_with("0 stored, 0 stored already, 3 still rejects, 0 unusable\n"),
            "{said}"
        );
        let nested = |line: &mut Value| {
            let raw = line["raw"].as_str().unwrap();
            let raw = raw.replace("9007199254740993", "9007199254740992");
            line["raw"] = raw.replace("\"x\"", "7").into();
        };
        let said = replay_edited(&pair, 2, nested);
        let expected = "`/tags/n/1` came back as 9007199254740992, but is 9007199254740993";
        assert!(said.contains(expected), "{said}");

        // A number in `--set` is stored even if it equals the rounded one.
        let path = pair.at("edited.ndjson");
        let mut line = exported(&pair, "exported.ndjson").pop().unwrap();
        rounded(&mut line);
        fs::write(&path, line.to_string()).unwrap();
        let set = ["--set", "trip=12345678901234567000"];
        let replay = ["rejects", "replay", path.to_str().unwrap()];
        pair.expect(0, &[&replay[..], &set[..]].concat());

        let started = ["--set", "started=2026-03-01T10:00:00Z"];
        let one = ["rejects", "replay", "--id", "1:1"];
        let more = [
            "--set",
            "/tags/n/0=1.10",
            "--set",
            "/data/speed=1e2",
            "--set",
            "note=x",
        ];
        pair.expect(0, &[&one[..], &started, &more].concat());
        pair.expect(0, &[&["rejects", "replay", "--all"][..], &started].concat());
        let stored = rows(&pair, 1).await;
        let trips: Vec<&str> = stored
            .iter()
            .map(|row| row[0].as_deref().unwrap())
            .collect();
        let kept = "12345678901234567890";
        assert_eq!(
            trips,
            ["12345678901234567000", kept, kept, "t"],
            "{}",
            pair.name
        );
        // If a pointer fills a column, `--set` changes the member to which the pointer leads.
        assert_eq!(stored[1][5].as_deref(), Some("x"));
        if pair.name != "memory+mysql9" {
            let tags = |at: usize| stored[at][6].as_deref().unwrap();
            assert_eq!(tags(1), r#"{"n":[1.10,9007199254740993]}"#);
            assert_eq!(tags(2), r#"{"n":[1,9007199254740993]}"#);
        }
        pair.expect(0, &["verify"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_says_what_it_needs() {
    let pair = Pair::new("memory+sqlite").await;
    fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
    let bad = trip("").replace("\"t\"", "tru");
    put(&pair, "trips.ndjson", format!("{bad}\n{}\n", trip("")));
    pair.expect(2, &["load"]);
    pair.expect(64, &["rejects", "replay"]);
    pair.expect(64, &["rejects", "replay", "a.ndjson", "--all"]);
    pair.expect(64, &["rejects", "replay", "--all", "--set", "trip"]);
    let said = pair.expect(
        2,
        &[
            "rejects", "replay", "--id", "1:1", "--id", "1:0", "--set", "a=1",
        ],
    );
    assert!(said.contains("1:1  is not a reject"), "{said}");
    assert!(
        said.contains("1:0  still a reject: the record is not JSON (at byte 8)"),
        "{said}"
    );
    assert!(said.ends_with("1 still rejects, 1 unusable\n"), "{said}");
    // The same export, corrected in a text editor.
    let said = replay_edited(&pair, 0, |line| line["raw"] = trip("").into());
    assert!(said.starts_with("1 stored"), "{said}");
    assert!(Path::new(&pair.at("history")).exists());
}

/// A file whose rows have no partition waits in inbound and is named. Other files are stored, also
/// if their rows are in the same commit. Once the table has the partition, the service loads the
/// file without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_waits_for_its_table_and_is_loaded_without_a_restart() {
    for name in ["memory+mysql", "redis+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        fs::write(pair.at("lemonade.toml"), SETTINGS).unwrap();
        pair.expect(0, &["migrate"]);
        let partition = "ALTER TABLE trips DROP PRIMARY KEY, ADD PRIMARY KEY (id, started) PARTITION \
                         BY RANGE COLUMNS (started) (PARTITION p_march VALUES LESS THAN \
                         ('2026-04-01'))";
        pair.query(partition).await;
        let april = trip("").replace("2026-03", "2026-04");
        let other = |number: usize| format!("{}\n", trip(&format!(",\"count\":{number}")));
        put(
            &pair,
            "trips_april.ndjson",
            format!("{}\n{april}\n", trip("")),
        );
        for number in 0..20 {
            put(&pair, &format!("trips_{number}.ndjson"), other(number));
        }
        // A load ends, and reports that it has left the file in its place.
        let output = pair.run(&["load"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(75), "{said}");
        assert!(said.contains("wait for their table"), "{said}");
        assert!(said.contains("ALTER TABLE"), "{said}");
        assert_eq!(names(&pair.at("inbound")), ["trips_april.ndjson"]);
        assert_eq!(names(&pair.at("history")).len(), 20);
        let listed = pair.expect(0, &["files", "list", "--state", "pending"]);
        assert!(listed.contains("ERROR 1526 "), "{listed}");

        let addr = free_addr();
        let _service = Service::start_with_http(&pair, &[], &addr);
        put(&pair, "trips_late.ndjson", other(20));
        let limit = Duration::from_secs(30);
        let mut waiting = Value::Null;
        until("the file is named as waiting", limit, async || {
            let Some((200, status)) = page(&addr, "/api/status") else {
                return false;
            };
            let status: Value = serde_json::from_str(&status).unwrap();
            waiting = status["files"]["waiting"][0].clone();
            waiting["code"] == "table_refuses"
        })
        .await;
        assert_eq!(waiting["name"], "trips_april.ndjson");
        let reason = waiting["why"].as_str().unwrap();
        let statement = &reason[reason.find("ALTER TABLE").unwrap()..];
        let settled = async || pair.number("SELECT COUNT(*) FROM trips").await;
        until("the others go on", limit, async || settled().await == 21).await;
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_rejects").await, 0);

        pair.query(statement).await;
        until("the file goes on", limit, async || settled().await == 23).await;
        let history = pair.at("history");
        until("the file is in history", limit, async || {
            names(&history).len() == 22
        })
        .await;
        pair.expect(0, &["verify"]);
        assert_eq!(
            pair.number("SELECT COUNT(*) FROM ingest_files WHERE reason IS NOT NULL")
                .await,
            0
        );
    }
}

/// A trigger that names a missing object makes the files of its table wait. Files of other datasets
/// are loaded, and the waiting ones after the trigger was corrected.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_trigger_delays_only_the_files_of_its_table() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for broken in [
            "INSERT INTO missing VALUES (1)",
            "DELETE FROM vehicle_status WHERE missing = 1",
        ] {
            let pair = Pair::new(name).await;
            pair.expect(0, &["migrate"]);
            let trigger = if name.ends_with("sqlite") {
                format!("CREATE TRIGGER t BEFORE INSERT ON vehicle_events BEGIN {broken}; END")
            } else {
                format!("CREATE TRIGGER t BEFORE INSERT ON vehicle_events FOR EACH ROW {broken}")
            };
            pair.execute(&trigger).await;
            let event = r#"{"vehicle_id":"v","event_time":"2026-03-01T10:00:00Z","event_source":"s","event_type":"t","event_value":"1"}"#;
            let status = r#"{"vehicle_id":"v","report_time":"2026-03-01T10:00:00Z","status_source":"s","status":"on"}"#;
            put(&pair, "vehicle_events_1.ndjson", event);
            put(&pair, "vehicle_status_2.ndjson", status);
            let output = pair.run(&["load"]);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(75), "{name} {said}");
            assert!(said.contains("`vehicle_events` refuses its rows"), "{said}");
            let rows = "SELECT COUNT(*) FROM vehicle_status";
            assert_eq!(pair.number(rows).await, 1, "{name} {broken}");
            assert_eq!(names(&pair.at("inbound")), ["vehicle_events_1.ndjson"]);
            pair.execute("DROP TRIGGER t").await;
            pair.expect(0, &["load"]);
            pair.expect(0, &["verify", "--content"]);
        }
    }
}
