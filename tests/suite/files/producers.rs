//! Files that the libraries of real producers write, with the values that these were given. The
//! definitions are those of `examples/datasets`.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::*;

/// What a table must hold: values as the database prints them, and values of JSON columns.
#[derive(Deserialize)]
struct Expected {
    definition: String,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// Integers above 2^53, decimals, microseconds: none of them is changed on its way.
async fn files_of_producers_load_exactly(name: &'static str) {
    let pair = Pair::new(name).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let archive = pair.at("archive");
    fs::create_dir(&archive).unwrap();
    let made = Command::new(root.join("target/producers/bin/python"))
        .arg(root.join("tests/producers/make.py"))
        .args([archive.as_os_str(), name.as_ref()])
        .output()
        .expect("scripts/producers has installed the libraries");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let expected: BTreeMap<String, Expected> = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(expected.len(), 6);
    let definitions = expected.values().map(|table| {
        let path = root.join("examples/datasets").join(&table.definition);
        fs::read_to_string(path.join("dataset.toml")).unwrap()
    });
    let definitions = definitions.collect::<Vec<_>>().join("\n");
    fs::write(pair.at("lemonade.toml"), definitions).unwrap();
    pair.expect(0, &["load", "archive"]);
    for (table, Expected { columns, rows, .. }) in expected {
        assert!(rows.len() >= 200, "{table}");
        let names: Vec<_> = columns.iter().map(|name| format!("`{name}`")).collect();
        let sql = format!("SELECT {} FROM {table} ORDER BY id", names.join(", "));
        let found = pair.query(&sql).await;
        assert_eq!(found.len(), rows.len(), "{table}");
        for (at, (found, row)) in found.iter().zip(&rows).enumerate() {
            for ((name, found), value) in columns.iter().zip(found).zip(row) {
                let found = match (found, value) {
                    (None, _) => Value::Null,
                    (Some(text), Value::String(_)) => Value::from(text.as_str()),
                    (Some(text), _) => serde_json::from_str(text).unwrap(),
                };
                assert_eq!(&found, value, "{table}, row {at}, `{name}`");
            }
        }
    }
    pair.expect(0, &["verify", "--content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_producers_load_exactly_into_sqlite() {
    files_of_producers_load_exactly("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_producers_load_exactly_into_mariadb() {
    files_of_producers_load_exactly("redis+mysql").await;
}
