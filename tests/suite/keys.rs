//! Datasets with a key, by the binary: what each command says of them, and that neither the order of
//! files nor a kill changes the result.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use crate::support::Pair;

const DATABASES: [&str; 2] = ["memory+sqlite", "memory+mysql"];

fn define(pair: &Pair, more: &str) {
    let definition = format!(
        "frame_records = 50\n\n[[datasets]]\nname = \"readings\"\nkey = [\"k\"]\n{more}\ncolumns = [\n  \
         {{ name = \"k\", type = \"text\" }},\n  {{ name = \"t\", type = \"integer\" }},\n]\n"
    );
    fs::write(pair.at("lemonade.toml"), definition).unwrap();
}

const LAST: &str = "on_conflict = \"last\"\norder_by = \"t\"";

/// The text of a file of these keys and values.
fn lines(records: impl IntoIterator<Item = (impl std::fmt::Display, u64)>) -> String {
    let mut text = String::new();
    for (k, t) in records {
        writeln!(text, "{{\"k\":\"{k}\",\"t\":{t}}}").unwrap();
    }
    text
}

fn bring(pair: &Pair, name: &str, text: &str) {
    fs::write(pair.at("inbound").join(name), text).unwrap();
}

/// The rows, by the file and place of their records, and the superseded records with their rows.
async fn stored(pair: &Pair) -> [Vec<Vec<Option<String>>>; 2] {
    let place = |id: &str| format!("{id} & 4294967295");
    let rows = format!(
        "SELECT f.name, {}, r.k, r.t FROM readings r JOIN ingest_files f ON f.file_no = r.id >> 32 ORDER \
         BY r.k",
        place("r.id")
    );
    let superseded = format!(
        "SELECT f.name, s.ordinal, w.name, {} FROM ingest_superseded s JOIN ingest_files f ON f.file_no \
         = s.file_no JOIN ingest_files w ON w.file_no = s.winner >> 32 ORDER BY f.name, s.ordinal",
        place("s.winner")
    );
    [pair.query(&rows).await, pair.query(&superseded).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_says_what_is_superseded() {
    for name in DATABASES {
        let pair = Pair::new(name).await;
        define(&pair, LAST);
        let first = lines([("a", 1), ("b", 5), ("c", 1)]);
        bring(&pair, "readings_1.ndjson", &first);
        let said = pair.expect(0, &["load"]);
        assert!(!said.contains("superseded"), "{said}");
        bring(
            &pair,
            "readings_2.ndjson",
            &lines([("a", 2), ("b", 4), ("d", 1)]),
        );
        let said = pair.expect(0, &["load", "--json"]);
        let totals: serde_json::Value = serde_json::from_str(&said).unwrap();
        let numbers = ["records", "rows", "superseded", "rejects"].map(|of| totals[of].as_u64());
        assert_eq!(numbers, [3, 1, 2, 0].map(Some), "{said}");

        let said = pair.expect(0, &["verify", "--content"]);
        assert!(
            said.contains("4 rows, 0 rejects, 0 purged, 2 superseded"),
            "{said}"
        );
        let id = |file_no: u64, ordinal: u64| (file_no << 32 | ordinal).to_string();
        let said = pair.expect(0, &["trace", &id(1, 0)]);
        let winner = format!("superseded by row {}, which has the same key", id(2, 0));
        assert!(
            said.contains(&winner) && said.contains("{\"k\":\"a\",\"t\":1}"),
            "{said}"
        );
        let said = pair.expect(0, &["trace", &id(2, 0)]);
        assert!(said.contains("row of readings"), "{said}");

        // The same records again, as another content and as the same one.
        bring(&pair, "readings_3.ndjson", &format!("{first}\n"));
        bring(&pair, "readings_4.ndjson", &first);
        pair.expect(0, &["load"]);
        let before = stored(&pair).await;
        assert_eq!(before[0].len(), 4, "{before:?}");
        pair.expect(0, &["verify", "--content"]);

        // What the rows of a removed file superseded comes back.
        let said = pair.expect(0, &["files", "forget", "2", "--yes"]);
        assert!(
            said.contains("file 1: ") && said.contains("stored again"),
            "{said}"
        );
        let keys = pair.query("SELECT k, t FROM readings ORDER BY k").await;
        let found: Vec<(&str, &str)> = keys
            .iter()
            .map(|row| (row[0].as_deref().unwrap(), row[1].as_deref().unwrap()))
            .collect();
        assert_eq!(found, [("a", "1"), ("b", "5"), ("c", "1")]);
        pair.expect(0, &["verify", "--content"]);
        bring(
            &pair,
            "readings_2.ndjson",
            &lines([("a", 2), ("b", 4), ("d", 1)]),
        );
        pair.expect(0, &["load"]);
        let rows = pair.number("SELECT COUNT(*) FROM readings").await;
        assert_eq!(rows, 4);
        pair.expect(0, &["verify", "--content"]);

        // A load of a file again decides anew about what its rows superseded.
        let file_no = pair.number("SELECT MAX(file_no) FROM ingest_files").await;
        pair.expect(0, &["files", "reload", &file_no.to_string(), "--yes"]);
        pair.expect(0, &["load"]);
        pair.expect(0, &["verify", "--content"]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM readings").await, 4);
    }
}

/// A reload removes a row that superseded a record of another file.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_the_files_of_superseded_records_whole() {
    for name in DATABASES {
        let pair = Pair::new(name).await;
        define(&pair, LAST);
        bring(&pair, "readings_1.ndjson", &lines([("a", 1), ("b", 1)]));
        pair.expect(0, &["load"]);
        bring(&pair, "readings_2.ndjson", &lines([("a", 2), ("b", 2)]));
        pair.expect(0, &["load"]);

        // As a kill during the reload leaves it: the rows are gone, and the number is not.
        pair.expect(0, &["files", "reload", "2", "--yes"]);
        let first = 2_u64 << 32;
        pair.execute(&format!("DELETE FROM readings WHERE id = {first}"))
            .await;
        // The other file is no bad one meanwhile, and the status names what goes on.
        fs::rename(pair.at("inbound/readings_2.ndjson"), pair.at("kept")).unwrap();
        bring(&pair, "readings_3.ndjson", &lines([("a", 1), ("b", 1)]));
        let said = pair.expect(0, &["load", "--json"]);
        assert!(said.contains("\"duplicates\":1"), "{said}");
        let said = pair.expect(0, &["status"]);
        assert!(said.contains("files list --state removing"), "{said}");

        fs::rename(pair.at("kept"), pair.at("inbound/readings_2.ndjson")).unwrap();
        let said = pair.expect(0, &["load", "--json"]);
        assert!(said.contains("\"restored\":2"), "{said}");
        assert!(said.contains("\"missing\":0"), "{said}");
        let said = pair.expect(0, &["verify", "--content"]);
        assert!(
            said.contains("2 rows") && said.contains("2 superseded"),
            "{said}"
        );

        // A file that cannot be read is named, and is whole once it arrives again.
        let file_no = pair.number("SELECT MAX(file_no) FROM ingest_files").await;
        pair.expect(0, &["files", "reload", &file_no.to_string(), "--yes"]);
        for entry in fs::read_dir(pair.at("history")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let output = pair.run(&["load"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains("2 records of other files are missing"),
            "{said}"
        );
        pair.expect(1, &["verify"]);
        bring(&pair, "readings_1.ndjson", &lines([("a", 1), ("b", 1)]));
        let said = pair.expect(0, &["load", "--json"]);
        assert!(said.contains("\"quarantined\":0"), "{said}");
        pair.expect(0, &["verify", "--content"]);
    }
}

/// `migrate` names the unique key of an earlier `key`, and the statement that drops it.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_leaves_no_former_one() {
    for name in DATABASES {
        let pair = Pair::new(name).await;
        define(&pair, LAST);
        bring(&pair, "readings_1.ndjson", &lines([("a", 1)]));
        pair.expect(0, &["load"]);
        let text = fs::read_to_string(pair.at("lemonade.toml")).unwrap();
        let text = text.replace("key = [\"k\"]", "key = [\"k\", \"t\"]");
        fs::write(pair.at("lemonade.toml"), text).unwrap();
        let output = pair.run(&["migrate", "--add"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains("`uk_readings_k` of an earlier"), "{said}");
        let statement = if name.ends_with("sqlite") {
            assert!(said.contains("DROP INDEX `uk_readings_k`"), "{said}");
            "DROP INDEX `uk_readings_k`"
        } else {
            let lines = said.lines();
            let mut found = lines.filter(|line| line.starts_with("ALTER TABLE"));
            found
                .next()
                .expect("it has the statement")
                .trim_end_matches(';')
        };
        pair.execute(statement).await;
        pair.expect(0, &["migrate", "--add"]);
        bring(&pair, "readings_2.ndjson", &lines([("a", 2)]));
        pair.expect(0, &["load"]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM readings").await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_key_is_a_reject_that_names_the_row() {
    for name in DATABASES {
        let pair = Pair::new(name).await;
        define(&pair, "");
        bring(&pair, "readings_1.ndjson", &lines([("a", 1), ("b", 1)]));
        pair.expect(0, &["load"]);
        bring(&pair, "readings_2.ndjson", &lines([("a", 2), ("c", 1)]));
        pair.expect(2, &["load"]);
        let said = pair.expect(0, &["rejects", "list"]);
        assert!(said.contains("key_taken"), "{said}");
        let messages = pair.query("SELECT message FROM ingest_rejects").await;
        let message = format!("row {} has the same key", 1_u64 << 32);
        assert_eq!(messages, [[Some(message)]]);
        let said = pair.expect(0, &["verify", "--content"]);
        assert!(said.contains("3 rows, 1 rejects"), "{said}");
        // While the key is taken, a correction does not help; once it is free, it does.
        pair.expect(2, &["rejects", "replay", "--code", "key_taken"]);
        pair.expect(0, &["files", "forget", "1", "--yes"]);
        pair.expect(0, &["rejects", "replay", "--code", "key_taken"]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM readings").await, 2);
    }
}

/// Loads files in three orders, two of them with kills in between.
#[tokio::test(flavor = "multi_thread")]
async fn orders_and_kills_give_one_result() {
    let files: Vec<(String, String)> = (0..4_u64)
        .map(|file| {
            let records = (0..900_u64).map(|at| ((at * 7 + file * 13) % 400, (at * 5 + file) % 6));
            (format!("readings_{file}.ndjson"), lines(records))
        })
        .collect();
    for name in DATABASES {
        let mut results = Vec::new();
        for (order, kills) in [
            ([0, 1, 2, 3], false),
            ([3, 2, 1, 0], true),
            ([2, 0, 3, 1], true),
        ] {
            let pair = Pair::new(name).await;
            define(&pair, LAST);
            pair.expect(0, &["migrate"]);
            for file in order {
                let (name, text) = &files[file];
                bring(&pair, name, text);
                if kills {
                    kill_a_load(&pair).await;
                }
                pair.expect(0, &["load"]);
            }
            pair.expect(0, &["verify", "--content"]);
            let [rows, superseded] = stored(&pair).await;
            assert_eq!(
                (rows.len(), superseded.len()),
                (400, 3_600 - 400),
                "{order:?}"
            );
            results.push([rows, superseded]);
        }
        assert!(results.windows(2).all(|two| two[0] == two[1]), "{name}");
    }
}

/// Kills a load once it has committed a frame, or has ended.
async fn kill_a_load(pair: &Pair) {
    let entries = "SELECT (SELECT COUNT(*) FROM ingest_frames) + (SELECT COUNT(*) FROM ingest_files \
                   WHERE state = 'settled')";
    let before = pair.number(entries).await;
    let mut load = pair.command(&["load", "--no-progress"]).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while pair.number(entries).await == before && load.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "the load commits nothing");
    }
    load.kill().unwrap();
    load.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_work_is_an_error_with_its_line() {
    let pair = Pair::new("memory+sqlite").await;
    for (definition, line, problem) in [
        (
            "key = [\"a\"]\ncolumns = [\n{ name = \"a\", type = \"text\", required = false } ]",
            5,
            "the key has `a`, which may be null",
        ),
        (
            "key = [\"a\"]\non_conflict = \"last\"\ncolumns = [{ name = \"a\", type = \"text\" }]",
            2,
            "name the column that decides which record that is, with `order_by`",
        ),
    ] {
        let text = format!("[[datasets]]\nname = \"d\"\n{definition}\n");
        fs::write(pair.at("lemonade.toml"), text).unwrap();
        let output = pair.run(&["migrate"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(&format!("lemonade.toml:{line}: ")), "{said}");
        assert!(said.contains(problem), "{said}");
    }
}
