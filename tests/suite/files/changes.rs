//! A definition that changes after files were loaded by it: new columns and new indexes.

use std::fs;

use super::*;

const BEFORE: &str = "
[[datasets]]
name = 'trips'
columns = [{name = 'trip', type = 'text'}, {name = 'km', type = 'float'}]
";

/// The same with a new column, which one of the files has, a required one, and an index.
const AFTER: &str = "
[[datasets]]
name = 'trips'
indexes = [['trip', 'speed']]
columns = [
    {name = 'trip', type = 'text'}, {name = 'km', type = 'float'},
    {name = 'speed', type = 'decimal(6,2)', required = false},
    {name = 'driver', type = 'text'},
]
";

/// The columns of each index of the table, but for its primary key.
async fn indexes(pair: &Pair) -> Vec<String> {
    let sql = if pair.database_url.starts_with("sqlite:") {
        "SELECT group_concat(i.name) FROM pragma_index_list('trips') l JOIN \
         pragma_index_info(l.name) i GROUP BY l.name ORDER BY 1"
    } else {
        "SELECT GROUP_CONCAT(COLUMN_NAME ORDER BY SEQ_IN_INDEX) FROM \
         information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'trips' AND \
         INDEX_NAME <> 'PRIMARY' GROUP BY INDEX_NAME ORDER BY 1"
    };
    pair.query(sql)
        .await
        .into_iter()
        .flatten()
        .flatten()
        .collect()
}

async fn a_table_gets_the_new_columns_and_indexes_when_the_user_asks(name: &'static str) {
    let pair = Pair::new(name).await;
    let inbound = pair.at("inbound");
    let trip = |trip: &str| {
        format!("{{\"trip\":\"{trip}\",\"km\":1.5,\"speed\":\"48.25\",\"driver\":\"ada\"}}\n")
    };
    fs::write(pair.at("lemonade.toml"), BEFORE).unwrap();
    fs::write(inbound.join("trips_1.ndjson"), trip("a") + &trip("b")).unwrap();
    pair.expect(0, &["load"]);

    fs::write(pair.at("lemonade.toml"), AFTER).unwrap();
    fs::write(inbound.join("trips_2.ndjson"), trip("c")).unwrap();
    for command in ["load", "migrate"] {
        let refused = pair.run(&[command]);
        assert_eq!(
            refused.status.code(),
            Some(78),
            "{name} {command}: {refused:?}"
        );
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("has no column `speed`"), "{name}: {said}");
        assert!(
            said.contains("`task_runner migrate --add`"),
            "{name}: {said}"
        );
    }
    pair.expect(0, &["migrate", "--add"]);
    pair.expect(0, &["migrate", "--add"]);
    assert_eq!(indexes(&pair).await, ["trip,speed"], "{name}");
    pair.expect(0, &["load"]);
    let rows = async || {
        let sql = "SELECT trip, speed, driver FROM trips ORDER BY trip";
        let rows = pair.query(sql).await.into_iter();
        let text = |value: Option<String>| value.unwrap_or_else(|| "NULL".to_owned());
        let row =
            |row: Vec<Option<String>>| row.into_iter().map(text).collect::<Vec<_>>().join(" ");
        rows.map(row).collect::<Vec<_>>()
    };
    assert_eq!(
        rows().await,
        ["a NULL NULL", "b NULL NULL", "c 48.25 ada"],
        "{name}"
    );
    // The earlier file is compared by the definition that it was loaded by.
    pair.expect(0, &["verify", "--content"]);
    pair.expect(0, &["files", "reload", "1", "--yes"]);
    pair.expect(0, &["load"]);
    assert_eq!(
        rows().await,
        ["a 48.25 ada", "b 48.25 ada", "c 48.25 ada"],
        "{name}"
    );
    pair.expect(0, &["verify", "--content"]);

    // An index that is missing is named, and added.
    let more = AFTER.replace("[['trip', 'speed']]", "[['trip'], ['km', 'trip']]");
    fs::write(pair.at("lemonade.toml"), more).unwrap();
    let said = |pair: &Pair| String::from_utf8(pair.run(&["doctor"]).stdout).unwrap();
    let named = "`trips` has no index on `km`, `trip`";
    assert!(said(&pair).contains(named), "{name}: {}", said(&pair));
    pair.expect(0, &["migrate"]);
    assert_eq!(
        indexes(&pair).await,
        ["trip,speed"],
        "{name}: only when it is asked for"
    );
    pair.expect(0, &["migrate", "--add"]);
    assert_eq!(indexes(&pair).await, ["km,trip", "trip,speed"], "{name}");
    assert!(!said(&pair).contains("has no index"), "{name}");

    // What cannot be added is refused as before.
    let other = AFTER.replace("'km', type = 'float'", "'km', type = 'binary'");
    fs::write(pair.at("lemonade.toml"), other).unwrap();
    pair.expect(78, &["migrate", "--add"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_sqlite_gets_new_columns_and_indexes_when_the_user_asks() {
    a_table_gets_the_new_columns_and_indexes_when_the_user_asks("memory+sqlite").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_mariadb_gets_new_columns_and_indexes_when_the_user_asks() {
    a_table_gets_the_new_columns_and_indexes_when_the_user_asks("memory+mysql").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_mysql_9_gets_new_columns_and_indexes_when_the_user_asks() {
    a_table_gets_the_new_columns_and_indexes_when_the_user_asks("memory+mysql9").await;
}

/// A new table has its indexes at once, also on texts that are stored outside of the row.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_has_its_indexes() {
    for name in ["memory+sqlite", "memory+mysql", "memory+mysql9"] {
        let pair = Pair::new(name).await;
        let column = |at: u32| format!("{{name = 'c{at}', type = 'text', required = false}}");
        let columns: Vec<String> = (0..80).map(column).collect();
        let definition = format!(
            "[[datasets]]\nname = 'trips'\nindexes = [['c79'], ['c1', 'c2']]\ncolumns = [{}]",
            columns.join(", ")
        );
        fs::write(pair.at("lemonade.toml"), definition).unwrap();
        let printed = pair.expect(0, &["migrate", "--print"]);
        assert!(printed.contains("`ix_trips_c1_c2`"), "{name}: {printed}");
        pair.expect(0, &["migrate"]);
        assert_eq!(indexes(&pair).await, ["c1,c2", "c79"], "{name}");
        let said = String::from_utf8(pair.run(&["doctor"]).stdout).unwrap();
        assert!(!said.contains("has no index"), "{name}: {said}");
    }
}
