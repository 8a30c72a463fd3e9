//! A ledger that lacks one of its tables: `doctor` and each start name it, and what they print makes a
//! consistent ledger again. They also name columns that do not keep what is stored.

use crate::support::Pair;

/// A dataset with one file of two rows and a reject.
async fn loaded(name: &'static str) -> Pair {
    let pair = Pair::new(name).await;
    let definition =
        "[[datasets]]\nname = \"m\"\ncolumns = [{ name = \"a\", type = \"integer\" }]\n";
    std::fs::write(pair.at("lemonade.toml"), definition).unwrap();
    let text = "{\"a\":1}\n{\"a\":2}\nbad\n";
    std::fs::write(pair.at("inbound").join("m_1.ndjson"), text).unwrap();
    pair.expect(2, &["load"]);
    pair
}

/// The statements of a message: what is between its first empty line and the next one.
fn statements(said: &str) -> String {
    said.split("\n\n")
        .nth(1)
        .expect("it has statements")
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_table_of_the_ledger_is_missed_and_can_be_made_again() {
    for name in ["memory+sqlite", "memory+mysql"] {
        for (table, is_made_again) in [
            ("ingest_frames", false),
            ("ingest_rejects", false),
            ("ingest_purged", false),
            ("ingest_erased", false),
            ("ingest_erased_contents", false),
            ("ingest_superseded", false),
            ("ingest_definitions", false),
            ("ingest_replays", false),
            ("ingest_identities", false),
            ("ingest_files", false),
            ("ingest_settings", true),
            ("ingest_seen", true),
            ("ingest_nodes", true),
            ("ingest_leases", true),
        ] {
            let pair = loaded(name).await;
            let about = format!("{name} {table}");
            pair.execute(&format!("DROP TABLE {table}")).await;
            let doctor = pair.expect(if is_made_again { 0 } else { 78 }, &["doctor"]);
            assert!(
                doctor.contains(&format!("lacks the table {table}")),
                "{about}: {doctor}"
            );
            if !is_made_again {
                for args in [["migrate"], ["load"], ["verify"]] {
                    let output = pair.run(&args);
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert_eq!(output.status.code(), Some(78), "{about} {args:?}: {said}");
                    assert!(said.contains(table), "{about} {args:?}: {said}");
                }
                let said = pair.run(&["migrate"]);
                let statements = statements(&String::from_utf8_lossy(&said.stderr));
                for statement in statements.split(";\n").filter(|it| !it.trim().is_empty()) {
                    pair.execute(statement.trim_end_matches(';')).await;
                }
            }
            if table == "ingest_files" {
                // A new ledger, and rows of the former one.
                pair.expect(78, &["migrate"]);
                pair.expect(0, &["migrate", "--keep-rows"]);
                continue;
            }
            pair.expect(0, &["migrate"]);
            pair.expect(0, &["doctor"]);
            pair.expect(0, &["files", "restore", "--all"]);
            pair.expect(0, &["verify", "--content"]);
            let rejects = pair.number("SELECT COUNT(*) FROM ingest_rejects").await;
            let rows = pair.number("SELECT COUNT(*) FROM m").await;
            assert_eq!((rows, rejects), (2, 1), "{about}");
        }
    }
}

/// MySQL normalises JSON, unlike MariaDB and SQLite.
#[tokio::test(flavor = "multi_thread")]
async fn json_columns_of_mysql_are_named() {
    let pair = Pair::new("memory+mysql9").await;
    pair.expect(0, &["migrate"]);
    let alter = "ALTER TABLE vehicle_events MODIFY event_extra_data JSON";
    pair.execute(alter).await;
    for args in [["migrate"], ["load"], ["doctor"]] {
        let output = pair.run(&args);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.contains("MySQL normalises what it stores"),
            "{args:?}: {said}"
        );
        assert!(
            said.contains("MODIFY COLUMN `event_extra_data`"),
            "{args:?}: {said}"
        );
    }
}

/// A column has another type: what `migrate` prints is followed, one step after the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_is_made_again_from_its_files() {
    let pair = loaded("memory+mysql").await;
    let settings = std::fs::read_to_string(pair.at("lemonade.toml")).unwrap();
    let settings = settings.replace("\"integer\"", "\"text\"");
    std::fs::write(pair.at("lemonade.toml"), settings).unwrap();
    pair.execute("RENAME TABLE m TO m_old").await;
    let said = pair.run(&["migrate"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("run `task_runner files reload`"), "{said}");
    pair.expect(0, &["files", "reload", "1", "--yes"]);
    pair.expect(0, &["migrate"]);
    pair.run(&["load"]);
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM ingest_files WHERE file_no = 2")
            .await,
        1
    );
    pair.expect(0, &["verify", "--content"]);
}
