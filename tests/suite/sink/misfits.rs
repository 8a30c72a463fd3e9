//! Clauses about tables of the user that do not fit: the offered statements run, and change no
//! value.

use mysql_async::prelude::Queryable as _;

use super::fixture::{Fixture, Target};
use super::schema::statements;

/// A table of the user, and the statement that is offered for it: `MODIFY` or another clause of an
/// ALTER TABLE, or `RENAME`. `{c}` is the list of the other columns, which fit.
const TABLES: &[(&str, &[&str], &str, &str)] = &[
    (
        "id with AUTO_INCREMENT",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, {c})",
        ],
        "INSERT INTO vehicle_status (vehicle_id, report_time, status_source, status) VALUES {rows}",
        "MODIFY COLUMN `id`",
    ),
    (
        "signed ids, one of them negative",
        &["CREATE TABLE vehicle_status (id INT NOT NULL PRIMARY KEY, {c})"],
        "INSERT INTO vehicle_status VALUES (-3, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "ids that are texts",
        &["CREATE TABLE vehicle_status (id CHAR(36) NOT NULL PRIMARY KEY, {c})"],
        "INSERT INTO vehicle_status VALUES ('7f0c-aa', 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "ids without a key, one of them twice",
        &["CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL, {c})"],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL), (1, 'w', \
         '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "ids without a key",
        &["CREATE TABLE vehicle_status (id BIGINT UNSIGNED NULL, {c})"],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "ADD PRIMARY KEY",
    ),
    (
        "a generated column",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
          VARCHAR(255) NOT NULL, report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) NOT \
          NULL, status VARCHAR(255) AS (UPPER(status_source)) STORED, _rescued LONGTEXT NULL)",
        ],
        "INSERT INTO vehicle_status (id, vehicle_id, report_time, status_source) VALUES (1, 'v', \
         '2026-03-01', 's')",
        "RENAME",
    ),
    (
        "a column that is computed when it is read",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
          VARCHAR(255) NOT NULL, report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) NOT \
          NULL, status VARCHAR(255) AS (UPPER(status_source)) VIRTUAL, _rescued LONGTEXT NULL)",
        ],
        "INSERT INTO vehicle_status (id, vehicle_id, report_time, status_source) VALUES (1, 'v', \
         '2026-03-01', 's')",
        "RENAME",
    ),
    (
        "times as TIMESTAMP",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
          VARCHAR(255) NOT NULL, report_time TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), \
          status_source VARCHAR(255) NOT NULL, status VARCHAR(255) NOT NULL, _rescued LONGTEXT NULL)",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01 10:00:00', 's', 'x', NULL)",
        "MODIFY COLUMN `report_time` DATETIME(6)",
    ),
    (
        "times without a year",
        &[
            "SET sql_mode = ''",
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
             VARCHAR(255) NOT NULL, report_time DATETIME NOT NULL, status_source VARCHAR(255) NOT \
             NULL, status VARCHAR(255) NOT NULL, _rescued LONGTEXT NULL)",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', 0, 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "exact decimals in a text column's place",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
          DECIMAL(30,10) NOT NULL, report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) NOT \
          NULL, status VARCHAR(255) NOT NULL, _rescued LONGTEXT NULL)",
        ],
        "INSERT INTO vehicle_status VALUES (1, 12345678901234567890.0123456789, '2026-03-01', 's', \
         'x', NULL)",
        "RENAME",
    ),
    (
        "partitioned by time, with a column that does not fit",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL, vehicle_id VARCHAR(36) NOT NULL, \
          report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) NOT NULL, status VARCHAR(255) \
          NOT NULL, _rescued LONGTEXT NULL, PRIMARY KEY (id, report_time)) PARTITION BY RANGE \
          COLUMNS(report_time) (PARTITION p VALUES LESS THAN (MAXVALUE))",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "partitioned by time, keyed by another column first",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL, {c}, PRIMARY KEY (report_time, \
          id)) PARTITION BY RANGE COLUMNS(report_time) (PARTITION p VALUES LESS THAN (MAXVALUE))",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "a view",
        &[
            "DROP TABLE IF EXISTS base",
            "CREATE TABLE base (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, {c})",
            "CREATE VIEW vehicle_status AS SELECT * FROM base",
        ],
        "INSERT INTO base VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "a column that another table refers to",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
             VARCHAR(36) NOT NULL UNIQUE, report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) \
             NOT NULL, status VARCHAR(255) NOT NULL, _rescued LONGTEXT NULL)",
            "CREATE TABLE child (v VARCHAR(36), FOREIGN KEY (v) REFERENCES vehicle_status(vehicle_id))",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "an indexed text in a JSON column's place",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
          VARCHAR(255) NOT NULL, report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) NOT \
          NULL, status VARCHAR(255) NOT NULL, _rescued VARCHAR(99) NULL, KEY (_rescued))",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', 'no JSON')",
        "RENAME",
    ),
    (
        "wide texts of another character set, which do not fit a row",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
          VARCHAR(15000) NOT NULL, report_time DATETIME(6) NOT NULL, status_source VARCHAR(15000) NOT \
          NULL, status VARCHAR(15000) NOT NULL, _rescued LONGTEXT NULL) CHARACTER SET latin1",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "a long text of another character set, nearly full",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id TEXT NOT \
          NULL, report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) NOT NULL, status \
          VARCHAR(255) NOT NULL, _rescued LONGTEXT NULL) CHARACTER SET latin1",
        ],
        "INSERT INTO vehicle_status VALUES (1, REPEAT(CHAR(233 USING latin1), 60000), '2026-03-01', \
         's', 'x', NULL)",
        "MODIFY COLUMN `vehicle_id` LONGTEXT",
    ),
];

/// Each offered statement runs in a session with the user's settings, and changes no value.
pub async fn statements_that_are_offered_run_and_change_no_value(target: Target) {
    if target.is_sqlite() {
        return;
    }
    let fixture = Fixture::empty(target).await;
    let fits = "vehicle_id VARCHAR(255) NOT NULL, report_time DATETIME(6) NOT NULL, status_source \
                VARCHAR(255) NOT NULL, status VARCHAR(255) NOT NULL, _rescued LONGTEXT NULL";
    for (what, tables, insert, offered) in TABLES {
        let mut session = fixture.session().await;
        // A server whose clock is not UTC.
        session
            .query_drop("SET time_zone = '+05:00'")
            .await
            .unwrap();
        let rows = "('v', '2026-03-01', 's', 'x'), ('w', '2026-03-02', 's', 'y')";
        for sql in tables.iter().chain([insert]) {
            let sql = sql.replace("{c}", fits).replace("{rows}", rows);
            let ran = session.query_drop(&sql).await;
            ran.unwrap_or_else(|error| panic!("{what}: {sql}: {error}"));
        }
        session.query_drop("SET sql_mode = DEFAULT").await.unwrap();
        session
            .query_drop("SET time_zone = '+00:00'")
            .await
            .unwrap();
        let before = values(&mut session, "vehicle_status").await;
        session
            .query_drop("SET time_zone = '+05:00'")
            .await
            .unwrap();

        let refused = fixture.sink.migrate(&fixture.datasets).await;
        let fault = refused.expect_err(what);
        assert!(!fault.is_transient(), "{what}: {fault}");
        let text = fault.to_string();
        assert!(
            text.contains(offered),
            "{what}: {text} does not offer {offered}"
        );
        for sql in statements(&text) {
            let ran = session.query_drop(sql).await;
            ran.unwrap_or_else(|error| panic!("{what}: {sql}: {error}"));
        }
        fixture.sink.migrate(&fixture.datasets).await.expect(what);
        session
            .query_drop("SET time_zone = '+00:00'")
            .await
            .unwrap();
        let renamed = *offered == "RENAME";
        let now = if renamed {
            "vehicle_status_old"
        } else {
            "vehicle_status"
        };
        assert_eq!(values(&mut session, now).await, before, "{what}");

        let kind = if *what == "a view" { "VIEW" } else { "TABLE" };
        session
            .query_drop("DROP TABLE IF EXISTS child")
            .await
            .unwrap();
        let sql = "DROP TABLE vehicle_status";
        session.query_drop(sql).await.unwrap();
        if renamed {
            let sql = format!("DROP {kind} vehicle_status_old");
            session.query_drop(sql).await.unwrap();
        }
        session.disconnect().await.unwrap();
    }

    // A table that is partitioned by time and has the time in its key is used as it is.
    let ddl = format!(
        "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL, {fits}, PRIMARY KEY (id, \
         report_time)) CHARACTER SET utf8mb4 PARTITION BY RANGE COLUMNS(report_time) (PARTITION p \
         VALUES LESS THAN (MAXVALUE))"
    );
    fixture.run(&ddl).await;
    fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect("it fits");
}

/// A summary can be computed again, so if the collation of its key treats two keys as equal, the
/// table is renamed and a new one is made.
pub async fn a_summary_whose_key_is_compared_by_a_collation_is_refused(target: Target) {
    let fixture = Fixture::empty(target).await;
    let ddl = if target.is_sqlite() {
        "CREATE TABLE daily_summary (vehicle_id TEXT COLLATE NOCASE NOT NULL, day TEXT NOT NULL, \
         last_event_time TEXT NOT NULL, last_event_type TEXT NOT NULL, last_id INTEGER NOT NULL, \
         PRIMARY KEY (vehicle_id, day)) WITHOUT ROWID"
    } else {
        "CREATE TABLE daily_summary (vehicle_id VARCHAR(255) NOT NULL, day DATE NOT NULL, \
         last_event_time DATETIME(6) NOT NULL, last_event_type VARCHAR(255) NOT NULL, last_id BIGINT \
         UNSIGNED NOT NULL, PRIMARY KEY (vehicle_id, day)) CHARACTER SET utf8mb4 COLLATE \
         utf8mb4_unicode_ci"
    };
    fixture.run(ddl).await;
    let refused = fixture.sink.migrate(&fixture.datasets).await;
    let text = refused
        .expect_err("`a` and `A` would be one vehicle")
        .to_string();
    assert!(text.contains("collation"), "{text}");
    let statement = text
        .split('\n')
        .find(|line| line.contains("RENAME"))
        .expect(&text);
    let statement = match statement.split_once("with ALTER") {
        Some((_, rest)) => format!("ALTER{}", rest.split(',').next().unwrap_or_default()),
        None => statement.trim_end_matches(';').to_owned(),
    };
    fixture.run(&statement).await;
    fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect("a new one is made");
}

/// Every value of a table, as text.
async fn values(session: &mut mysql_async::Conn, table: &str) -> Vec<String> {
    let columns: Vec<String> = session
        .query(format!(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND \
             TABLE_NAME = '{table}' AND COLUMN_NAME IN ('id', 'vehicle_id', 'report_time', \
             'status_source', 'status', '_rescued') ORDER BY COLUMN_NAME"
        ))
        .await
        .expect("the server answers");
    // A change of type may add zeros to a time; the value stays the same.
    let texts: Vec<String> = columns
        .iter()
        .map(|column| match column.as_str() {
            "report_time" => "IFNULL(CAST(report_time AS DATETIME(6)), '-')".to_owned(),
            name => format!("IFNULL(CONVERT(`{name}` USING utf8mb4), '-')"),
        })
        .collect();
    let sql = format!(
        "SELECT CONCAT_WS('|', {}) FROM {table} ORDER BY 1",
        texts.join(", ")
    );
    session.query(sql).await.expect("the server answers")
}
