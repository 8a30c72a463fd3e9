//! `verify --content` and the repairs of `files`, by the binary.

mod acknowledged;
mod beyond;
mod pace;

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::support::Pair;

/// A valid record, with a text of one of several kinds.
fn record(at: u32) -> String {
    let extra = [
        "{}",
        r#"{"big":12345678901234567.25,"e":1e2,"k":1,"k":2}"#,
        "null",
        r#"["é","\u00e9","a\tb"]"#,
    ][at as usize % 4];
    let rescued = if at.is_multiple_of(5) {
        r#","more":{"x":1.10}"#
    } else {
        ""
    };
    format!(
        r#"{{"vehicle_id":"v{}","event_time":"2026-03-0{}T10:00:00.{at:06}Z","event_source":"s","event_type":"t","event_value":"value {at}","event_extra_data":{extra}{rescued}}}"#,
        at % 7,
        1 + at % 9,
    )
}

/// A file of lines: every 50th record is a reject.
fn lines(records: u32) -> String {
    (0..records).fold(String::new(), |mut text, at| {
        let record = if at % 50 == 49 {
            "{\"x\": 1}".to_owned()
        } else {
            record(at)
        };
        writeln!(text, "{record}").unwrap();
        text
    })
}

/// Loads a file of 300 records and one of 3.
async fn loaded(name: &'static str) -> Pair {
    let pair = Pair::new(name).await;
    let inbound = pair.at("inbound");
    fs::write(inbound.join("vehicle_events_1.ndjson"), lines(300)).unwrap();
    pair.expect(2, &["load"]);
    fs::write(inbound.join("vehicle_events_2.ndjson"), lines(3)).unwrap();
    pair.expect(0, &["load"]);
    pair
}

/// The differences that `verify --content` names, as (ordinal, difference, columns).
fn differences(pair: &Pair, code: i32, args: &[&str]) -> Vec<(u64, String, String)> {
    let args: Vec<&str> = ["verify", "--content", "--json"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    let text = pair.expect(code, &args);
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line.get("difference").is_some())
        .map(|line| {
            let columns = line["columns"].as_array().unwrap().iter();
            let columns: Vec<&str> = columns.map(|column| column.as_str().unwrap()).collect();
            (
                line["ordinal"].as_u64().unwrap(),
                line["difference"].as_str().unwrap().to_owned(),
                columns.join(","),
            )
        })
        .collect()
}

const FIRST: u64 = 1 << 32;

/// Each harm is named, by its record and its columns.
async fn harms_are_named(name: &'static str) {
    let pair = loaded(name).await;
    assert_eq!(differences(&pair, 0, &[]), []);
    let row = |ordinal: u64| FIRST + ordinal;
    let microsecond = if name.ends_with("sqlite") {
        "event_time = REPLACE(event_time, '.000007', '.000008')"
    } else {
        "event_time = event_time + INTERVAL 1 MICROSECOND"
    };
    for (harm, ordinal, difference, columns) in [
        (
            format!(
                "UPDATE vehicle_events SET event_value = 'value 5 ' WHERE id = {}",
                row(5)
            ),
            5,
            "changed",
            "event_value",
        ),
        (
            format!(
                "UPDATE vehicle_events SET vehicle_id = 'V6' WHERE id = {}",
                row(6)
            ),
            6,
            "changed",
            "vehicle_id",
        ),
        (
            format!(
                "UPDATE vehicle_events SET {microsecond} WHERE id = {}",
                row(7)
            ),
            7,
            "changed",
            "event_time",
        ),
        (
            format!(
                "UPDATE vehicle_events SET _rescued = NULL WHERE id = {}",
                row(10)
            ),
            10,
            "changed",
            "_rescued",
        ),
        (
            format!(
                "UPDATE vehicle_events SET event_extra_data = '{{\"big\":12345678901234567,\"e\":100,\
                 \"k\":2}}' WHERE id = {}",
                row(13)
            ),
            13,
            "changed",
            "event_extra_data",
        ),
        (
            format!("DELETE FROM vehicle_events WHERE id = {}", row(20)),
            20,
            "missing",
            "",
        ),
        (
            "DELETE FROM ingest_rejects WHERE file_no = 1 AND ordinal = 49".to_owned(),
            49,
            "missing",
            "",
        ),
        (
            format!(
                "INSERT INTO vehicle_events SELECT {}, vehicle_id, event_time, event_source, event_type, \
                 event_value, event_extra_data, _rescued FROM vehicle_events WHERE id = {}",
                row(99),
                row(1)
            ),
            99,
            "foreign",
            "",
        ),
        (
            format!(
                "INSERT INTO vehicle_events SELECT {}, vehicle_id, event_time, event_source, event_type, \
                 event_value, event_extra_data, _rescued FROM vehicle_events WHERE id = {}",
                row(300),
                row(1)
            ),
            300,
            "foreign",
            "",
        ),
    ] {
        pair.execute(&harm).await;
        let found = differences(&pair, 1, &["--file", "1"]);
        let expected = (ordinal, difference.to_owned(), columns.to_owned());
        assert!(found.contains(&expected), "{harm}: {found:?}");
    }
    assert_eq!(differences(&pair, 1, &[]).len(), 9);
    // Two rows change places.
    let swap =
        |from: u64, to: u64| format!("UPDATE vehicle_events SET id = {to} WHERE id = {from}");
    for (from, to) in [(200, 1_000_000), (201, 200), (1_000_000, 201)] {
        pair.execute(&swap(row(from), row(to))).await;
    }
    let swapped = differences(&pair, 1, &["--file", "1"]);
    for ordinal in [200, 201] {
        assert!(
            swapped
                .iter()
                .any(|(at, kind, _)| (*at, kind.as_str()) == (ordinal, "changed"))
        );
    }
    assert_eq!(differences(&pair, 0, &["--file", "2"]), []);
    assert_eq!(differences(&pair, 0, &["--before", "1"]), []);
    // A file that has changed since it was read cannot be compared.
    let history = pair.at("history").join("vehicle_events_2.ndjson");
    let changed = fs::read_to_string(&history)
        .unwrap()
        .replace("value 1", "value 2");
    fs::write(&history, changed).unwrap();
    let text = pair.expect(1, &["verify", "--content", "--file", "2"]);
    assert!(text.contains("cannot be compared"), "{text}");

    // `restore` stores missing rows and rejects again, and changes no others.
    let restored = pair.expect(0, &["files", "restore", "1"]);
    assert!(
        restored.contains("1 rows and 1 rejects stored again"),
        "{restored}"
    );
    let left = differences(&pair, 1, &["--file", "1"]);
    assert!(
        left.iter().all(|(_, kind, _)| kind != "missing"),
        "{left:?}"
    );

    // `reload` replaces rows that differ. The rows of other programs stay.
    pair.execute(&format!(
        "DELETE FROM vehicle_events WHERE id IN ({}, {})",
        row(99),
        row(300)
    ))
    .await;
    pair.expect(64, &["files", "reload", "1"]);
    pair.expect(0, &["files", "reload", "1", "--yes"]);
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM ingest_files WHERE state = 'removing'")
            .await,
        1
    );
    pair.expect(2, &["load"]);
    assert_eq!(differences(&pair, 0, &["--file", "3"]), []);
    let of_old = format!(
        "SELECT COUNT(*) FROM vehicle_events WHERE id < {}",
        2 * FIRST
    );
    assert_eq!(pair.number(&of_old).await, 0);
    assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_rejects").await, 6);

    pair.expect(0, &["files", "forget", "2", "3", "--yes"]);
    for table in [
        "vehicle_events",
        "ingest_files",
        "ingest_frames",
        "ingest_rejects",
    ] {
        assert_eq!(
            pair.number(&format!("SELECT COUNT(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
    pair.expect(0, &["summary"]);
    assert_eq!(pair.number("SELECT COUNT(*) FROM daily_summary").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn harms_are_named_and_repaired_in_sqlite() {
    harms_are_named("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn harms_are_named_and_repaired_in_mariadb() {
    harms_are_named("redis+mysql").await;
}

/// A record that was replayed is compared with the text of its replay, and restored from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_record_is_compared_with_its_replay() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        let corrected = format!(
            "{{\"file_no\": 1, \"ordinal\": 49, \"record\": {}}}\n",
            record(49)
        );
        let path = pair.at("corrected.ndjson");
        fs::write(&path, corrected).unwrap();
        pair.expect(0, &["rejects", "replay", path.to_str().unwrap()]);
        assert_eq!(differences(&pair, 0, &[]), []);
        pair.execute(&format!(
            "DELETE FROM vehicle_events WHERE id = {}",
            FIRST + 49
        ))
        .await;
        assert_eq!(
            differences(&pair, 1, &[]),
            [(49, "missing".to_owned(), String::new())]
        );
        pair.expect(0, &["files", "restore", "1"]);
        assert_eq!(differences(&pair, 0, &[]), []);
    }
}

/// Records cannot be read again from a file that was edited. Its size, its time or its hash shows
/// the edit.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_history_that_was_edited_is_named() {
    let pair = loaded("memory+sqlite").await;
    let history = pair.at("history");
    let first = history.join("vehicle_events_1.ndjson");
    let bytes = fs::read(&first).unwrap();
    let audit = |code| pair.expect(code, &["verify"]);
    assert!(audit(0).contains("2 files, 0 of them wrong"));
    // Written again with the same bytes: the hash decides.
    fs::write(&first, &bytes).unwrap();
    audit(0);
    let edits: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes[20] ^= 1,
        |bytes| bytes.truncate(bytes.len() - 1),
        |bytes| bytes.push(b'\n'),
    ];
    for edit in edits {
        let mut edited = bytes.clone();
        edit(&mut edited);
        fs::write(&first, edited).unwrap();
        let said = audit(1);
        assert!(
            said.contains("vehicle_events_1.ndjson does not have the bytes"),
            "{said}"
        );
        assert!(said.contains("2 files, 1 of them wrong"), "{said}");
    }
    // The bytes may have another name, which a move gives to the second file with one name.
    fs::write(history.join("vehicle_events_1.ndjson.1"), &bytes).unwrap();
    audit(0);
    // Removed: users may do that.
    fs::remove_file(&first).unwrap();
    audit(0);
    fs::remove_file(history.join("vehicle_events_1.ndjson.1")).unwrap();
    assert!(audit(0).contains("1 files are not in history under their name"));
}

/// A row that was corrected by hand differs for ever. Once accepted, it no longer fails the audit;
/// any further difference does.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_difference_is_not_counted_until_it_changes() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        let correct = async |at: u64, value: &str| {
            let id = FIRST + at;
            let sql = format!("UPDATE vehicle_events SET event_value = '{value}' WHERE id = {id}");
            pair.execute(&sql).await;
        };
        let said = pair.expect(0, &["files", "acknowledge", "1", "--yes"]);
        assert!(said.contains("finds no problem"), "{said}");
        correct(3, "by hand").await;
        let changed = [(3, "changed".to_owned(), "event_value".to_owned())];
        assert_eq!(differences(&pair, 1, &[]), changed);
        // Without a terminal, the command asks for --yes.
        pair.expect(64, &["files", "acknowledge", "1"]);
        assert_eq!(differences(&pair, 1, &[]), changed);
        let said = pair.expect(0, &["files", "acknowledge", "1", "--yes"]);
        assert!(
            said.contains("record 1:3: the row has other values"),
            "{said}"
        );
        assert_eq!(differences(&pair, 0, &[]), []);
        let said = pair.expect(0, &["verify", "--content"]);
        assert!(
            said.contains("the problems of 1 files are acknowledged"),
            "{said}"
        );
        // The same column of the same record has another value: that was not accepted.
        correct(3, "by another hand").await;
        assert_eq!(differences(&pair, 1, &[]), changed);
        correct(3, "by hand").await;
        assert_eq!(differences(&pair, 0, &[]), []);
        correct(5, "another").await;
        let both = differences(&pair, 1, &[]);
        assert_eq!(both.iter().map(|(at, ..)| *at).collect::<Vec<_>>(), [3, 5]);
        pair.expect(0, &["files", "acknowledge", "1", "--yes"]);
        pair.execute(&format!(
            "DELETE FROM vehicle_events WHERE id = {}",
            FIRST + 7
        ))
        .await;
        pair.expect(1, &["verify"]);
        // The counts and the content are accepted together.
        pair.expect(0, &["files", "acknowledge", "1", "--yes"]);
        pair.expect(0, &["verify"]);
        assert_eq!(differences(&pair, 0, &[]), []);
    }
}

/// The engine does not start with a table that lost its rows. `restore` fills the table from the
/// files.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_is_restored() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        pair.execute("DELETE FROM vehicle_events").await;
        pair.expect(78, &["load"]);
        let lost = differences(&pair, 78, &[]);
        assert_eq!(lost.len(), 297, "each row is named");
        // The file has several chunks. Each is compared and stored before the next one.
        let mut restore = pair.command(&["files", "restore", "1", "2"]);
        let restored = restore
            .env("LEMONADE_FRAME_RECORDS", "40")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&restored.stdout);
        assert!(
            said.contains("file 1: 294 rows and 0 rejects stored again"),
            "{said}"
        );
        assert!(
            said.contains("file 2: 3 rows and 0 rejects stored again"),
            "{said}"
        );
        assert_eq!(differences(&pair, 0, &[]), []);
        pair.expect(0, &["load"]);
    }
}

/// Rows under numbers that the ledger lacks, as a restored backup leaves them: between the numbers of
/// two files, below the first, and under the number of another dataset's file.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_no_file_are_named() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        // Numbers 3 and 5 are of another dataset, and 4 of this one.
        let inbound = pair.at("inbound");
        let status = r#"{"vehicle_id":"v1","report_time":"2026-03-01T10:00:00Z","status_source":"s","status":"V"}"#;
        for file_no in 3..6 {
            let (dataset, text) = if file_no == 4 {
                ("vehicle_events", record(4))
            } else {
                ("vehicle_status", status.replace('V', &file_no.to_string()))
            };
            fs::write(inbound.join(format!("{dataset}_{file_no}.ndjson")), text).unwrap();
            pair.expect(0, &["load"]);
        }
        let verified = |code| {
            let lines = pair.expect(code, &["verify", "--json"]);
            let lines: Vec<Value> = lines
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            let named = lines.iter().filter(|line| line["problem"] == "uncovered");
            let named: Vec<_> = named
                .map(|line| {
                    let number = |name: &str| line[name].as_u64().unwrap();
                    (
                        line["table"].as_str().unwrap().to_owned(),
                        number("first_file_no"),
                        number("last_file_no"),
                        number("rows"),
                    )
                })
                .collect();
            let sums = lines.last().unwrap();
            let kept = sums["kept"].as_u64().unwrap();
            (named, sums["uncovered"].as_u64().unwrap(), kept)
        };
        assert_eq!(verified(0), (vec![], 0, 0));
        let copy = async |from: u64, to: u64| {
            pair.execute(&format!(
                "INSERT INTO vehicle_events SELECT {to}, vehicle_id, event_time, event_source, \
                 event_type, event_value, event_extra_data, _rescued FROM vehicle_events WHERE id = {from}"
            ))
            .await;
        };
        // An id of the time before file numbers belongs to no file.
        copy(FIRST, 7).await;
        assert_eq!(verified(0), (vec![], 0, 0));
        copy(FIRST, (3 << 32) + 9).await;
        let events = |first, last, rows| ("vehicle_events".to_owned(), first, last, rows);
        assert_eq!(verified(1), (vec![events(3, 3, 1)], 1, 0));
        let forgotten = ["files", "forget", "1", "2", "--yes"];
        pair.expect(0, &forgotten);
        copy((3 << 32) + 9, FIRST).await;
        copy((3 << 32) + 9, (2 << 32) + 1).await;
        assert_eq!(verified(1), (vec![events(1, 3, 3)], 3, 0));
        let said = pair.expect(1, &["verify"]);
        assert!(
            said.contains("table vehicle_events: 3 rows with file numbers 1 to 3"),
            "{said}"
        );
        // Rows above the ledger end a start, until an operator keeps them. Those below are kept, too.
        copy(FIRST, 9 << 32).await;
        pair.expect(78, &["verify"]);
        pair.expect(0, &["migrate", "--keep-rows"]);
        assert_eq!(verified(0), (vec![], 0, 4));
        // The entry that keeps their numbers apart is no file, and cannot be forgotten.
        let mark = pair.number("SELECT MAX(file_no) FROM ingest_files").await;
        let listed = pair.expect(0, &["files", "list"]);
        assert!(!listed.contains("another ledger"), "{listed}");
        pair.expect(1, &["files", "forget", &mark.to_string(), "--yes"]);
        pair.expect(0, &["verify", "--content"]);
        assert_eq!(verified(0), (vec![], 0, 4));
    }
}

/// A file that is half loaded when its table loses its rows: what the ledger covers is restored, and
/// the load stores the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_half_loaded_is_restored() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        // As after a kill: the first 200 records are covered, and the file is in work.
        for statement in [
            "UPDATE ingest_files SET state = 'pending', settled_at = NULL WHERE file_no = 1",
            "DELETE FROM ingest_rejects WHERE ordinal >= 200",
            "INSERT INTO ingest_frames VALUES (1, 0, 200)",
            "DELETE FROM vehicle_events",
        ] {
            pair.execute(statement).await;
        }
        let file = "vehicle_events_1.ndjson";
        fs::rename(pair.at("history").join(file), pair.at("work").join(file)).unwrap();
        let said = pair.run(&["load"]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("`task_runner files restore --all`"), "{said}");
        let restored = pair.expect(0, &["files", "restore", "--all"]);
        for part in [
            "file 1: 196 rows and 0 rejects stored again",
            "file 2: 3 rows and 0 rejects stored again",
            "2 files restored, 0 not",
        ] {
            assert!(restored.contains(part), "{restored}");
        }
        pair.expect(2, &["load"]);
        assert_eq!(differences(&pair, 0, &[]), []);
        // Nothing is missing, so nothing is read.
        fs::remove_file(pair.at("history").join(file)).unwrap();
        let again = pair.expect(0, &["files", "restore", "--all"]);
        assert_eq!(again, "0 files restored, 0 not\n");
    }
}

/// A file that grew or was removed while it was loaded: no directory has its content, so no load ends
/// it. `forget` removes what was stored of it, and only then.
#[tokio::test(flavor = "multi_thread")]
async fn a_pending_file_whose_content_is_gone_can_be_forgotten() {
    let pair = loaded("memory+sqlite").await;
    for statement in [
        "UPDATE ingest_files SET state = 'pending', settled_at = NULL WHERE file_no = 1",
        "INSERT INTO ingest_frames VALUES (1, 0, 300)",
    ] {
        pair.execute(statement).await;
    }
    let file = "vehicle_events_1.ndjson";
    fs::rename(pair.at("history").join(file), pair.at("inbound").join(file)).unwrap();
    pair.expect(1, &["files", "forget", "1", "--yes"]);
    let inbound = pair.at("inbound").join(file);
    let grown = fs::read_to_string(&inbound).unwrap() + &record(300);
    fs::write(&inbound, grown).unwrap();
    pair.expect(0, &["files", "forget", "1", "--yes"]);
    pair.expect(2, &["load"]);
    assert_eq!(differences(&pair, 0, &[]), []);
    let rows = pair.number("SELECT COUNT(*) FROM vehicle_events").await;
    assert_eq!(rows, 295 + 3);
}

/// The second file of a name has a suffix in history. An edit, a removal or a replacement shows, even by
/// a file of the same size with an older mtime.
#[tokio::test(flavor = "multi_thread")]
async fn each_name_of_history_is_checked_whatever_its_mtime() {
    let pair = Pair::new("memory+sqlite").await;
    let name = "vehicle_events.ndjson";
    for at in [1, 9] {
        fs::write(pair.at("inbound").join(name), record(at)).unwrap();
        pair.expect(0, &["load"]);
    }
    let files = [name.to_owned(), format!("{name}.1")].map(|name| pair.at("history").join(name));
    let bytes = files.each_ref().map(|file| fs::read(file).unwrap());
    assert_eq!(bytes[0].len(), bytes[1].len());
    pair.expect(0, &["verify"]);
    // Settled an hour before the harm.
    pair.execute("UPDATE ingest_files SET settled_at = '2026-01-01 00:00:00.000000'")
        .await;
    pair.expect(0, &["verify"]);
    for (file, bytes) in files.iter().zip(&bytes) {
        let mut edited = bytes.clone();
        edited[20] ^= 1;
        fs::write(file, edited).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        fs::File::open(file).unwrap().set_modified(old).unwrap();
        let said = pair.expect(1, &["verify"]);
        assert!(said.contains("2 files, 1 of them wrong"), "{said}");
        fs::remove_file(file).unwrap();
        let said = pair.expect(1, &["verify"]);
        assert!(said.contains("2 files, 1 of them wrong"), "{said}");
        fs::write(file, bytes).unwrap();
        pair.expect(0, &["verify"]);
    }
}
