//! Removing what is stored of a file, by the binary, after its table, its dataset or the settings have
//! changed: no record is stored twice, and no row of another program is lost.

use std::fs;
use std::time::Duration;

use crate::support::{Pair, Service, names, until};

const FIRST: u64 = 1 << 32;

/// Writes the settings: datasets with one column, each with further lines of its definition.
fn define_all(pair: &Pair, datasets: &[(&str, &str)]) {
    let definitions: Vec<String> = datasets
        .iter()
        .map(|(name, more)| {
            format!(
                "[[datasets]]\nname = \"{name}\"\n{more}\ncolumns = [{{ name = \"a\", type = \
                 \"integer\" }}]\n"
            )
        })
        .collect();
    fs::write(pair.at("lemonade.toml"), definitions.concat()).unwrap();
}

fn define(pair: &Pair, name: &str, more: &str) {
    define_all(pair, &[(name, more)]);
}

/// Puts a file of these numbers into inbound.
fn bring(pair: &Pair, name: &str, numbers: std::ops::Range<u32>) {
    let lines: Vec<String> = numbers.map(|a| format!("{{\"a\":{a}}}\n")).collect();
    fs::write(pair.at("inbound").join(name), lines.concat()).unwrap();
}

async fn rename(pair: &Pair, from: &str, to: &str) {
    pair.execute(&format!("ALTER TABLE {from} RENAME TO {to}"))
        .await;
}

async fn rows(pair: &Pair, table: &str) -> u64 {
    pair.number(&format!("SELECT COUNT(*) FROM {table}")).await
}

/// What a command that fails with this exit code reports.
fn fails(pair: &Pair, code: i32, args: &[&str]) -> String {
    let output = pair.run(args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

/// A dataset `m` with one file of three records, in history.
async fn loaded(name: &'static str) -> Pair {
    let pair = Pair::new(name).await;
    define(&pair, "m", "");
    bring(&pair, "m_1.ndjson", 0..3);
    pair.expect(0, &["load"]);
    pair
}

/// Makes file 1, of three records, one that was half loaded when its process was killed: two records
/// are stored in `table`, and the file is in work.
async fn halve(pair: &Pair, table: &str, file: &str) {
    for statement in [
        "UPDATE ingest_files SET state = 'pending', settled_at = NULL",
        "INSERT INTO ingest_frames VALUES (1, 0, 2)",
        &format!("DELETE FROM {table} WHERE id = {}", FIRST + 2),
    ] {
        pair.execute(statement).await;
    }
    fs::rename(pair.at("history").join(file), pair.at("work").join(file)).unwrap();
}

/// The table was renamed, in the database and in the settings.
#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_file_are_removed_from_its_renamed_table() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for is_half_loaded in [false, true] {
            let pair = loaded(name).await;
            if is_half_loaded {
                halve(&pair, "m", "m_1.ndjson").await;
            }
            rename(&pair, "m", "m2").await;
            define(&pair, "m", "table = \"m2\"");
            if is_half_loaded {
                pair.expect(2, &["load"]);
                pair.expect(0, &["files", "retry", "--all"]);
            } else {
                pair.expect(0, &["files", "reload", "1", "--yes"]);
            }
            pair.expect(0, &["load"]);
            assert_eq!(rows(&pair, "m2").await, 3, "half loaded: {is_half_loaded}");
            let former = format!("SELECT COUNT(*) FROM m2 WHERE id < {}", 2 * FIRST);
            assert_eq!(pair.number(&former).await, 0);
            assert_eq!(rows(&pair, "ingest_files").await, 1);
        }
    }
}

/// The table with the rows is missing, and no table of the dataset has them: the ledger entry stays
/// until the rows are found.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_table_is_missing_is_not_removed_from_the_ledger() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for (dataset, more) in [
            ("m", "table = \"other\""),
            ("n", "files = \"m\"\ntable = \"other\""),
        ] {
            let pair = loaded(name).await;
            rename(&pair, "m", "elsewhere").await;
            pair.execute("CREATE TABLE other (id BIGINT PRIMARY KEY)")
                .await;
            define(&pair, dataset, more);
            for command in ["forget", "reload"] {
                let said = fails(&pair, 78, &["files", command, "1", "--yes"]);
                for part in [
                    "the rows of file 1 are in the table `m`, which is missing",
                    "rename it back",
                ] {
                    assert!(said.contains(part), "{command}: {said}");
                }
                assert_eq!(said.contains("`other`"), dataset == "m", "{said}");
                let settled = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";
                assert_eq!(pair.number(settled).await, 1, "{command}");
            }
            rename(&pair, "elsewhere", "m").await;
            pair.expect(0, &["files", "forget", "1", "--yes"]);
            assert_eq!(rows(&pair, "m").await, 0);
            assert_eq!(rows(&pair, "ingest_files").await, 0);
        }
        // The table was dropped, and the dataset still has it: each start refuses that, and offers to
        // load its files again. To forget them is possible as well.
        let pair = loaded(name).await;
        pair.execute("DROP TABLE m").await;
        let said = fails(&pair, 78, &["load"]);
        assert!(said.contains("task_runner files reload"), "{said}");
        pair.expect(0, &["files", "forget", "1", "--yes"]);
        assert_eq!(rows(&pair, "ingest_files").await, 0);
    }
}

/// Rows that a trigger or another table protects: their file goes to quarantine with the reason, and
/// the other files are loaded.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_removed_delay_no_other_file() {
    const REFUSES: &str = "CREATE TRIGGER keep BEFORE DELETE ON m FOR EACH ROW SIGNAL SQLSTATE \
                           '45000' SET MESSAGE_TEXT = 'these rows are kept'";
    const REFUSES_IN_SQLITE: &str = "CREATE TRIGGER keep BEFORE DELETE ON m BEGIN SELECT RAISE(ABORT, \
                                     'these rows are kept'); END";
    const REFERS: &str = "CREATE TABLE notes (event BIGINT UNSIGNED NOT NULL, FOREIGN KEY (event) \
                          REFERENCES m(id)) SELECT id AS event FROM m";
    let (trigger, keys) = ("DROP TRIGGER keep", "DROP TABLE notes");
    for (name, harm, message, remedy) in [
        (
            "memory+sqlite",
            REFUSES_IN_SQLITE,
            "these rows are kept",
            trigger,
        ),
        ("memory+mysql", REFUSES, "these rows are kept", trigger),
        (
            "memory+mysql",
            REFERS,
            "a foreign key constraint fails",
            keys,
        ),
    ] {
        let pair = loaded(name).await;
        pair.execute(harm).await;
        let said = fails(&pair, 78, &["files", "forget", "1", "--yes"]);
        let names = |said: &str| {
            let table = "the rows of file 1 cannot be removed from the table `m`: ";
            assert!(said.contains(table) && said.contains(message), "{said}");
        };
        names(&said);
        pair.expect(0, &["files", "reload", "1", "--yes"]);
        bring(&pair, "m_2.ndjson", 7..9);
        pair.expect(2, &["load"]);
        let others = format!("SELECT COUNT(*) FROM m WHERE id >= {}", 2 * FIRST);
        assert_eq!(pair.number(&others).await, 2, "{harm}");
        let reason = pair.at("quarantine").join("m_1.ndjson.reason");
        let reason = fs::read_to_string(reason).unwrap();
        assert!(reason.starts_with("not_removed: "), "{reason}");
        names(&reason);
        pair.expect(0, &["load"]);

        pair.execute(remedy).await;
        pair.expect(0, &["files", "retry", "--all"]);
        pair.expect(0, &["load"]);
        assert_eq!(rows(&pair, "m").await, 5);
        pair.expect(0, &["verify", "--content"]);
    }
}

/// A row with the id of a reject belongs to another program, whatever the reject's code, also after the
/// reject was purged.
#[tokio::test(flavor = "multi_thread")]
async fn forgetting_a_file_removes_no_row_under_the_id_of_a_reject() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for is_purged in [false, true] {
            let pair = Pair::new(name).await;
            define(&pair, "m", "");
            let inbound = pair.at("inbound");
            fs::write(inbound.join("m_1.ndjson"), "{\"a\":1}\nbad\n{\"a\":3}\n").unwrap();
            pair.expect(2, &["load"]);
            pair.execute(&format!("INSERT INTO m (id, a) VALUES ({}, 9)", FIRST + 1))
                .await;
            if is_purged {
                pair.expect(0, &["rejects", "purge", "--yes"]);
            }
            let said = pair.expect(0, &["files", "forget", "1", "--yes"]);
            assert!(said.contains("2 rows removed"), "{said}");
            let left = pair.query("SELECT a FROM m").await;
            assert_eq!(left, [[Some("9".to_owned())]], "purged: {is_purged}");
        }
    }
}

/// Another dataset takes a file that was loaded, or half loaded, by a wrong one: no record is in both
/// tables.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_another_dataset_takes_is_stored_once() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for is_half_loaded in [false, true] {
            let pair = Pair::new(name).await;
            define(&pair, "wrong", "files = \"trips\"");
            bring(&pair, "trips_1.ndjson", 0..3);
            pair.expect(0, &["load"]);
            let now = [("wrong", "files = \"other\""), ("trips", "")];
            if is_half_loaded {
                halve(&pair, "wrong", "trips_1.ndjson").await;
                define_all(&pair, &now);
                pair.expect(2, &["load"]);
                let reason = pair.at("quarantine").join("trips_1.ndjson.reason");
                let reason = fs::read_to_string(reason).unwrap();
                assert!(reason.starts_with("other_definition: "), "{reason}");
                assert_eq!(rows(&pair, "trips").await, 0);
                pair.expect(0, &["files", "retry", "--all"]);
            } else {
                define_all(&pair, &now);
                pair.expect(0, &["files", "reload", "1", "--yes"]);
            }
            pair.expect(0, &["load"]);
            assert_eq!(rows(&pair, "wrong").await, 0, "half: {is_half_loaded}");
            assert_eq!(rows(&pair, "trips").await, 3);
            assert_eq!(rows(&pair, "ingest_files").await, 1);
            pair.expect(0, &["verify", "--content"]);
        }
        // Equal files of two datasets are two files.
        let pair = Pair::new(name).await;
        define_all(&pair, &[("a", ""), ("b", "")]);
        for dataset in ["a", "b"] {
            bring(&pair, &format!("{dataset}_1.ndjson"), 0..3);
            pair.expect(0, &["load"]);
            assert_eq!(rows(&pair, dataset).await, 3);
        }
        assert_eq!(rows(&pair, "a").await, 3);
    }
}

/// A dataset has another name and the same table: its files are still loaded.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_renamed_dataset_is_stored_once() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for is_half_loaded in [false, true] {
            let pair = Pair::new(name).await;
            let more = "files = \"m_\"\ntable = \"t\"";
            define(&pair, "former", more);
            bring(&pair, "m_1.ndjson", 0..3);
            pair.expect(0, &["load"]);
            if is_half_loaded {
                halve(&pair, "t", "m_1.ndjson").await;
            }
            define(&pair, "latter", more);
            if is_half_loaded {
                pair.expect(2, &["load"]);
                pair.expect(0, &["files", "retry", "--all"]);
                pair.expect(0, &["load"]);
            } else {
                let history = pair.at("history");
                let said = pair.expect(0, &["load", history.to_str().unwrap()]);
                let line = said.lines().find(|line| line.starts_with("duplicates"));
                assert!(line.unwrap().ends_with(" 1"), "{said}");
            }
            assert_eq!(rows(&pair, "t").await, 3, "half: {is_half_loaded}");
            assert_eq!(rows(&pair, "ingest_files").await, 1);
        }
    }
}

/// The setting `table` of a dataset changes: it applies to later files, and the earlier ones are found
/// in their table.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_a_dataset_may_change() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        define(&pair, "m", "table = \"m2\"");
        bring(&pair, "m_2.ndjson", 7..9);
        pair.expect(0, &["load"]);
        assert_eq!((rows(&pair, "m").await, rows(&pair, "m2").await), (3, 2));
        for command in [&["verify"][..], &["verify", "--content"]] {
            let said = pair.expect(0, command);
            assert!(
                said.contains("2 files, 0 of them wrong; 5 records: 5 rows"),
                "{said}"
            );
        }
        let restored = pair.expect(0, &["files", "restore", "--all"]);
        assert_eq!(restored, "0 files restored, 0 not\n");
        // The present table is missed, as before.
        pair.execute("DELETE FROM m2").await;
        let said = fails(&pair, 78, &["load"]);
        assert!(
            said.contains("the table `m2` has no row of file 2"),
            "{said}"
        );
        pair.expect(0, &["files", "restore", "--all"]);
        // A former table that is missing is a problem of its files, and of no others.
        rename(&pair, "m", "elsewhere").await;
        let said = pair.expect(1, &["verify", "--content"]);
        assert!(
            said.contains("file 1 m_1.ndjson: its rows cannot be counted: "),
            "{said}"
        );
        assert!(said.contains("2 files, 1 of them wrong"), "{said}");
        pair.expect(0, &["verify", "--file", "2"]);
    }
}

/// A column was dropped from the table and from the definition: earlier files cannot be compared, and
/// the later ones are.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_whose_column_was_dropped_ends_no_check_of_others() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = Pair::new(name).await;
        let columns = |more: &str| {
            let text = format!(
                "[[datasets]]\nname = \"m\"\ncolumns = [{{ name = \"a\", type = \"integer\" }}{more}]\n"
            );
            fs::write(pair.at("lemonade.toml"), text).unwrap();
        };
        columns(", { name = \"b\", type = \"text\", required = false }");
        bring(&pair, "m_1.ndjson", 0..3);
        pair.expect(0, &["load"]);
        columns("");
        pair.execute("ALTER TABLE m DROP COLUMN b").await;
        bring(&pair, "m_2.ndjson", 7..9);
        pair.expect(0, &["load"]);
        let said = pair.expect(1, &["verify", "--content"]);
        assert!(
            said.contains("file 1 m_1.ndjson: its records cannot be compared: "),
            "{said}"
        );
        assert!(said.contains("2 files, 1 of them wrong"), "{said}");
        assert!(
            said.contains("2 records compared with their files: 0 differ"),
            "{said}"
        );
        // A row is missing in each file: the one that can be compared is restored.
        pair.execute(&format!(
            "DELETE FROM m WHERE id IN ({FIRST}, {})",
            2 * FIRST
        ))
        .await;
        let said = pair.expect(1, &["files", "restore", "--all"]);
        assert!(said.contains("1 files restored, 1 not"), "{said}");
        assert_eq!(rows(&pair, "m").await, 4);
    }
}

/// A removal that has begun and not ended is named, with the command that continues it.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_has_not_ended_is_named() {
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        pair.expect(0, &["verify", "--file", "1"]);
        fails(&pair, 1, &["verify", "--file", "99"]);
        // As after a kill of `files reload` before it moves the file.
        pair.execute("UPDATE ingest_files SET state = 'removing'")
            .await;
        pair.execute("INSERT INTO ingest_frames VALUES (1, 0, 3)")
            .await;
        for command in [&["verify"][..], &["verify", "--file", "1"]] {
            let said = pair.expect(1, command);
            assert!(said.contains("1 files, 1 of them wrong"), "{said}");
            assert!(
                said.contains("file 1 m_1.ndjson: it is being removed"),
                "{said}"
            );
            assert!(said.contains("`task_runner files reload 1`"), "{said}");
        }
        let status = pair.expect(0, &["status"]);
        assert!(status.contains("files list --state removing"), "{status}");
        pair.expect(0, &["files", "reload", "1", "--yes"]);
        pair.expect(0, &["load"]);
        pair.expect(0, &["verify"]);
        assert_eq!(rows(&pair, "m").await, 3);
    }
}

/// A reload was killed while the file of history had a hidden name, and while its bytes were copied to
/// inbound.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_killed_reload_has_hidden_is_reloaded_beside_a_service() {
    const WITHIN: Duration = Duration::from_secs(60);
    for name in ["memory+sqlite", "memory+mysql"] {
        let pair = loaded(name).await;
        let mut service = Service::start(&pair, &["run"]);
        let lives = "SELECT COUNT(*) FROM ingest_nodes";
        until("its row", WITHIN, async || pair.number(lives).await == 1).await;
        let (history, inbound) = (pair.at("history"), pair.at("inbound"));
        let hidden = history.join(".lemonade-moved-m_1.ndjson");
        fs::rename(history.join("m_1.ndjson"), &hidden).unwrap();
        let half = inbound.join(".lemonade-moving-Abc123");
        fs::write(&half, "{\"a\":0}").unwrap();
        pair.execute("UPDATE ingest_files SET state = 'removing'")
            .await;
        pair.execute("INSERT INTO ingest_frames VALUES (1, 0, 3)")
            .await;
        let said = pair.expect(0, &["files", "reload", "1", "--yes"]);
        assert!(said.contains("m_1.ndjson is in inbound again"), "{said}");
        let settled = "SELECT COUNT(*) FROM ingest_files WHERE state = 'settled'";
        until("it is in history", WITHIN, async || {
            pair.number(settled).await == 1 && names(&history) == ["m_1.ndjson"]
        })
        .await;
        assert!(!hidden.exists() && !half.exists(), "{name}");
        pair.expect(0, &["verify", "--content"]);
        assert_eq!(rows(&pair, "m").await, 3);
        assert_eq!(service.terminate(), Some(0));
    }
}

/// A partitioned table may hold an id twice. The row that equals the record is removed, and the row of
/// another program stays and is named. If it is unknown which row is which, nothing is removed.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_rows_with_one_id_only_that_of_the_record_is_removed() {
    for name in ["memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        let event = |at: u32| {
            format!(
                "{{\"vehicle_id\":\"v{at}\",\"event_time\":\"2026-03-01T10:00:00Z\",\"event_source\":\"s\",\
                 \"event_type\":\"t\",\"event_value\":\"{at}\"}}\n"
            )
        };
        let load = |name: &str, events: std::ops::Range<u32>| {
            let text: String = events.map(event).collect();
            fs::write(pair.at("inbound").join(name), text).unwrap();
            pair.expect(0, &["load"]);
        };
        load("vehicle_events_1.ndjson", 0..4);
        pair.execute(
            "ALTER TABLE vehicle_events DROP PRIMARY KEY, ADD PRIMARY KEY (id, event_time) PARTITION BY \
             RANGE COLUMNS(event_time) (PARTITION p VALUES LESS THAN (MAXVALUE))",
        )
        .await;
        load("vehicle_events_2.ndjson", 10..13);
        // Before and after the own row in the order of the key, and one that differs only in its time.
        let foreign = async |file_no: u64| {
            for (ordinal, time, id) in [
                (0, "2020-01-01", "foreign"),
                (2, "2030-01-01", "foreign"),
                (1, "2026-03-01 10:00:00.000001", "v1"),
            ] {
                let id_of_row = file_no * FIRST + ordinal;
                pair.execute(&format!(
                    "INSERT INTO vehicle_events VALUES ({id_of_row}, '{id}', '{time}', 's', 't', '1', \
                     '{{}}', NULL)"
                ))
                .await;
            }
        };
        let foreign_rows = "SELECT COUNT(*) FROM vehicle_events WHERE event_time <> '2026-03-01 \
                            10:00:00'";
        let all = "SELECT COUNT(*) FROM vehicle_events";
        foreign(1).await;
        foreign(2).await;
        let said = pair.expect(1, &["verify", "--content"]);
        for record in ["1:0", "1:1", "1:2", "2:0", "2:1", "2:2"] {
            assert!(said.contains(&format!("record {record}: ")), "{said}");
        }

        // Nothing is removed while the own row of a record is not known.
        pair.execute("UPDATE vehicle_events SET event_value = 'x' WHERE vehicle_id = 'v2'")
            .await;
        let history = pair.at("history").join("vehicle_events_1.ndjson");
        fs::rename(&history, pair.at("elsewhere")).unwrap();
        let said = fails(&pair, 1, &["files", "forget", "1", "--yes"]);
        assert!(said.contains("the id of record 1:0"), "{said}");
        fs::rename(pair.at("elsewhere"), &history).unwrap();
        let said = fails(&pair, 1, &["files", "forget", "1", "--yes"]);
        assert!(said.contains("none of them equals the record"), "{said}");
        assert_eq!(pair.number(foreign_rows).await, 6, "{name}");
        pair.execute("UPDATE vehicle_events SET event_value = '2' WHERE vehicle_id = 'v2'")
            .await;

        let said = pair.expect(0, &["files", "forget", "1", "--yes"]);
        assert!(
            said.contains("record 1:2: the row of another program"),
            "{said}"
        );
        assert_eq!(pair.number(foreign_rows).await, 6, "{name}");
        assert_eq!(pair.number(all).await, 6 + 3, "{name}");
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_files").await, 1);

        pair.expect(0, &["files", "reload", "2", "--yes"]);
        pair.expect(0, &["load"]);
        assert_eq!(pair.number(foreign_rows).await, 6, "{name}");
        assert_eq!(pair.number(all).await, 6 + 3, "{name}");
        assert_eq!(pair.number("SELECT COUNT(*) FROM ingest_rejects").await, 0);
    }
}
