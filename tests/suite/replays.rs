//! A replayed record is compared with and restored from the text of its replay, by the definition
//! that made its row, whatever the dataset's definition was before and has become since.

use std::fs;

use crate::support::Pair;

/// Definitions of a dataset, in the order in which they are used. Each reads `b` from another
/// member, so that the record that one of them makes a row is a reject by the others.
const DEFINITIONS: [&str; 4] = [
    r#"{name="a",type="integer"},{name="b",type="text",field="/b0"}"#,
    r#"{name="a",type="integer"},{name="b",type="text",field="/b1"}"#,
    r#"{name="a",type="integer"},{name="b",type="text",field="/b2"},
       {name="c",type="text",required=false,default="c"}"#,
    r#"{name="a",type="integer"},{name="b",type="text",field="/b3"},
       {name="c",type="text",required=false,default="other"},
       {name="day",type="text",required=false,envelope="/day"}"#,
];

/// A file whose record `n` is a row by definition `n`, with a value outside of its records.
const FILE: &str = r#"{"day":"monday","m":[{"a":0,"b0":"x"},{"a":1,"b1":"x"},{"a":2,"b2":"x"},{"a":3,"b3":"x"},{"a":4}]}"#;

fn define(pair: &Pair, columns: &str) {
    let settings = format!("[[datasets]]\nname = \"m\"\nrecords = \"/m\"\ncolumns = [{columns}]\n");
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
    pair.expect(0, &["migrate", "--add"]);
}

async fn rows(pair: &Pair, columns: &str) -> Vec<Vec<Option<String>>> {
    pair.query(&format!("SELECT id, {columns} FROM m ORDER BY id"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_judged_and_restored_by_its_own_definition() {
    for name in ["memory+sqlite", "memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        define(&pair, DEFINITIONS[0]);
        fs::write(pair.at("inbound").join("m.json"), FILE).unwrap();
        pair.expect(2, &["load"]);
        let mut columns = "a, b".to_owned();
        for (at, definition) in DEFINITIONS.iter().enumerate().skip(1) {
            define(&pair, definition);
            // The first is replayed by its own text, the last one by a corrected text.
            let said = pair.expect(2, &["rejects", "replay", "--all"]);
            assert!(said.contains("1 stored, 0 stored already"), "{said}");
            if at == 3 {
                columns += ", c, day";
                let corrected = r#"{"file_no":1,"ordinal":4,"record":{"a":4,"b3":"corrected"}}"#;
                fs::write(pair.at("corrected"), corrected).unwrap();
                let path = pair.at("corrected");
                pair.expect(0, &["rejects", "replay", path.to_str().unwrap()]);
            }
            pair.expect(0, &["verify", "--content"]);
        }
        let stored = rows(&pair, &columns).await;
        assert_eq!(stored.len(), 5, "{name}");
        assert_eq!(stored[4][4].as_deref(), Some("monday"), "{name}");

        // Each row that is gone is named, and comes back as it was. All of them at once, too.
        let ids = |ordinals: std::ops::Range<u64>| {
            let ids: Vec<String> = ordinals.map(|at| ((1 << 32) + at).to_string()).collect();
            ids.join(",")
        };
        for gone in [1..2, 2..3, 3..4, 4..5, 0..5] {
            let rows_gone = gone.end - gone.start;
            // A start refuses a table without a row of its newest file, and a repair does not.
            pair.execute(&format!(
                "DELETE FROM m WHERE id IN ({})",
                ids(gone.clone())
            ))
            .await;
            pair.expect(
                if rows_gone == 5 { 78 } else { 1 },
                &["verify", "--content"],
            );
            let said = pair.expect(0, &["files", "restore", "1"]);
            assert!(
                said.contains(&format!("{rows_gone} rows and 0 rejects")),
                "{name} {gone:?} {said}"
            );
            assert_eq!(rows(&pair, &columns).await, stored, "{name} {gone:?}");
            pair.expect(0, &["verify", "--content"]);
        }
        for ordinal in 1..5 {
            let set = |value: &str| {
                let id = ids(ordinal..ordinal + 1);
                format!("UPDATE m SET b = '{value}' WHERE id = {id}")
            };
            pair.execute(&set("changed")).await;
            let said = pair.run(&["verify", "--content"]);
            assert_eq!(said.status.code(), Some(1), "{name} {ordinal}");
            let said = String::from_utf8(said.stdout).unwrap();
            assert!(said.contains(&format!("record 1:{ordinal}")), "{said}");
            pair.execute(&set(if ordinal == 4 { "corrected" } else { "x" }))
                .await;
        }
        pair.expect(0, &["verify", "--content"]);
    }
}

/// The row of a replayed record has the values of the replay. Those of the record in the file are a
/// change, even if the file's definition accepts them.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_row_that_was_set_back_to_its_record_is_named() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        define(&pair, DEFINITIONS[0]);
        let trigger = if name.ends_with("sqlite") {
            "CREATE TRIGGER t BEFORE INSERT ON m BEGIN SELECT RAISE(ABORT, 'no'); END"
        } else {
            "CREATE TRIGGER t BEFORE INSERT ON m FOR EACH ROW SIGNAL SQLSTATE '45000'"
        };
        pair.execute(trigger).await;
        let file = "{\"a\":1,\"b0\":\"x\"}\n{\"a\":2,\"b0\":\"x\"}\n";
        fs::write(pair.at("inbound").join("m.ndjson"), file).unwrap();
        pair.expect(2, &["load"]);
        pair.execute("DROP TRIGGER t").await;
        pair.expect(0, &["rejects", "replay", "--all", "--set", "b=y"]);
        pair.expect(0, &["verify", "--content"]);
        pair.execute("UPDATE m SET b = 'x' WHERE a = 1").await;
        pair.expect(1, &["verify", "--content"]);
        pair.execute("DELETE FROM m WHERE a = 1").await;
        pair.expect(0, &["files", "restore", "1"]);
        let restored = pair.query("SELECT b FROM m ORDER BY id").await;
        assert_eq!(restored, [[Some("y".to_owned())], [Some("y".to_owned())]]);
        pair.expect(0, &["verify", "--content"]);
    }
}

/// An earlier release recorded no definition with a replay: the row counts as right if it is that of
/// the file's definition, or of the present one. A repair may be the first command of this release.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_an_earlier_release_is_compared_by_both_definitions() {
    for name in ["memory+sqlite", "memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        define(&pair, DEFINITIONS[0]);
        fs::write(pair.at("inbound").join("m.json"), FILE).unwrap();
        pair.expect(2, &["load"]);
        define(&pair, DEFINITIONS[1]);
        pair.expect(2, &["rejects", "replay", "--all"]);
        pair.execute("ALTER TABLE ingest_replays DROP COLUMN definition")
            .await;
        pair.execute("DELETE FROM ingest_migrations WHERE name = 'replayed_by'")
            .await;
        pair.expect(0, &["files", "restore", "1"]);
        pair.expect(0, &["verify", "--content"]);
        let number = "SELECT COUNT(*) FROM ingest_replays WHERE definition IS NULL";
        assert_eq!(pair.number(number).await, 1, "{name}");
    }
}

/// `--unset` removes a field of each record, however it is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_too_much_is_removed_by_a_replay() {
    let pair = Pair::new("memory+sqlite").await;
    let settings = "[[datasets]]\nname = \"m\"\non_unknown_field = \"reject\"\ncolumns = [{ name = \"a\", \
                    type = \"integer\", field = \"/in/a\" }]\n";
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
    let file = "{\"x\":1,\"in\":{\"a\":1}}\n{\"in\":{\"b\":1,\"a\":2}}\n{\"in\":{\"a\":3},\"x\":[],\"x\":2}\n";
    fs::write(pair.at("inbound").join("m.ndjson"), file).unwrap();
    pair.expect(2, &["load"]);
    let replay = |code, more: &[&str]| {
        let args = [&["rejects", "replay", "--all"], more].concat();
        pair.expect(code, &args)
    };
    let said = replay(2, &["--unset", "x"]);
    assert!(said.contains("2 stored"), "{said}");
    let said = replay(0, &["--unset", "/in/b", "--unset", "/in/missing"]);
    assert!(said.contains("1 stored"), "{said}");
    assert_eq!(pair.number("SELECT SUM(a) FROM m").await, 1 + 2 + 3);
    pair.expect(0, &["verify", "--content"]);
}

/// All rows of a file are in one table: after the dataset got another one, a reject is not replayed into
/// it, where `verify` and `files forget` would not find the row.
#[tokio::test(flavor = "multi_thread")]
async fn a_reject_is_not_replayed_into_another_table_than_its_file() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        define(&pair, DEFINITIONS[0]);
        fs::write(pair.at("inbound").join("m.json"), FILE).unwrap();
        pair.expect(2, &["load"]);
        let settings = format!(
            "[[datasets]]\nname = \"m\"\ntable = \"m2\"\nrecords = \"/m\"\ncolumns = [{}]\n",
            DEFINITIONS[1]
        );
        fs::write(pair.at("lemonade.toml"), settings).unwrap();
        let said = pair.expect(2, &["rejects", "replay", "--all"]);
        assert!(
            said.contains("the rows of file 1 are in the table `m`"),
            "{said}"
        );
        assert_eq!(pair.number("SELECT COUNT(*) FROM m2").await, 0);
        pair.expect(0, &["verify", "--content"]);
        pair.expect(0, &["files", "reload", "1", "--yes"]);
        pair.expect(2, &["load"]);
        assert_eq!(pair.number("SELECT COUNT(*) FROM m2").await, 1);
        pair.expect(0, &["verify", "--content"]);
    }
}

/// An export is replayed after its record was corrected, and the file is loaded again.
#[tokio::test(flavor = "multi_thread")]
async fn a_correction_is_known_to_a_later_replay_and_named_by_a_reload() {
    let pair = Pair::new("memory+sqlite").await;
    let settings = "[[datasets]]\nname = \"m\"\ncolumns = [{name=\"a\",type=\"integer\"}]\n";
    fs::write(pair.at("lemonade.toml"), settings).unwrap();
    fs::write(pair.at("inbound").join("m_1.ndjson"), "{\"a\":\"x\"}\n").unwrap();
    pair.expect(2, &["load"]);
    let export = pair.at("export.ndjson");
    let export = export.to_str().unwrap();
    pair.expect(0, &["rejects", "export", "--out", export]);
    pair.expect(0, &["rejects", "replay", "--all", "--set", "a=5"]);
    let said = pair.expect(0, &["rejects", "replay", export]);
    assert!(
        said.contains("0 stored, 1 stored already, 0 still"),
        "{said}"
    );

    let output = pair.run(&["files", "reload", "1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("1 records of these files were corrected"),
        "{said}"
    );
    pair.expect(0, &["files", "reload", "1", "--yes"]);
    pair.expect(2, &["load"]);
    pair.expect(0, &["rejects", "replay", "--all", "--set", "a=5"]);
    pair.expect(0, &["verify", "--content"]);
}
