//! Clauses about tables of the user that do not fit: the offered statements run, and change no
//! value.

use mysql_async::prelude::Queryable as _;

use super::fixture::{Fixture, SOME_TIME_US, Target, Val, batch, span, text};
use super::rows::stored;
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
        "an index that would be too long for its row format",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
             VARCHAR(255) CHARACTER SET latin1 NOT NULL, report_time DATETIME(6) NOT NULL, \
             status_source VARCHAR(255) NOT NULL, status VARCHAR(255) NOT NULL, _rescued LONGTEXT NULL, \
             KEY (vehicle_id)) ROW_FORMAT = COMPACT",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "an index of several columns that would be too long",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id \
             VARCHAR(999) NOT NULL, report_time DATETIME(6) NOT NULL, status_source VARCHAR(999) NOT \
             NULL, status VARCHAR(999) NOT NULL, _rescued LONGTEXT NULL, KEY (vehicle_id, \
             status_source, status)) CHARACTER SET latin1",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL)",
        "RENAME",
    ),
    (
        "a column of another program with a spatial index",
        &[
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, {c}, g POINT NOT \
             NULL, SPATIAL INDEX (g))",
        ],
        "INSERT INTO vehicle_status VALUES (1, 'v', '2026-03-01', 's', 'x', NULL, POINT(1, 2))",
        "RENAME",
    ),
    (
        "a table of MyISAM that numbers its rows in groups",
        &[
            "CREATE TABLE vehicle_status (g INT NOT NULL DEFAULT 0, n INT NOT NULL AUTO_INCREMENT, id \
             BIGINT UNSIGNED NOT NULL PRIMARY KEY, {c}, KEY (g, n)) ENGINE = MyISAM",
        ],
        "INSERT INTO vehicle_status (id, vehicle_id, report_time, status_source, status) VALUES (1, \
         'v', '2026-03-01', 's', 'x')",
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

    if target == Target::Mariadb {
        let versioned = format!(
            "CREATE TABLE vehicle_status (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, {}) WITH SYSTEM \
             VERSIONING",
            fits.replacen("255", "36", 1)
        );
        fixture.run(&versioned).await;
        let refused = fixture.sink.migrate(&fixture.datasets).await;
        let text = refused.expect_err("a short column").to_string();
        for sql in statements(&text) {
            fixture.run(sql).await;
        }
        fixture.sink.migrate(&fixture.datasets).await.unwrap();
        fixture.run("DROP TABLE vehicle_status").await;
    }
    // A copy that a killed process has left is removed.
    fixture.run("CREATE TABLE ingest_trial (a INT)").await;
    fixture.sink.migrate(&fixture.datasets).await.unwrap();
    let copies = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
                  TABLE_NAME = 'ingest_trial'";
    assert_eq!(fixture.number(copies).await, 0);
    fixture.run("DROP TABLE IF EXISTS vehicle_status").await;

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

/// Types of the columns of `all_types`, and whether a column of the type is used as it is. Any
/// other would change a value without an error.
const TYPES: &[(&str, &str, bool)] = &[
    ("a_text", "VARCHAR(300)", true),
    ("a_text", "VARCHAR(300) COLLATE utf8mb4_general_ci", true),
    ("a_text", "TEXT", true),
    ("a_text", "VARCHAR(299)", false),
    ("a_text", "CHAR(255)", false),
    ("a_text", "TINYTEXT", false),
    ("a_text", "ENUM('a ', 'b')", false),
    ("a_text", "SET('a ', 'b')", false),
    ("a_text", "VARBINARY(1200)", false),
    ("a_text", "VARCHAR(300) CHARACTER SET latin1", false),
    ("an_integer", "BIGINT", true),
    ("an_integer", "BIGINT(5)", true),
    ("an_integer", "BIGINT UNSIGNED", false),
    ("an_integer", "BIGINT(30) ZEROFILL", false),
    ("an_integer", "INT", false),
    ("an_integer", "DECIMAL(20,0)", false),
    ("an_integer", "DOUBLE", false),
    ("an_integer", "BIT(64)", false),
    ("a_float", "DOUBLE", true),
    ("a_float", "FLOAT(53)", true),
    ("a_float", "REAL", true),
    ("a_float", "DOUBLE(10,2)", false),
    ("a_float", "DOUBLE(30,6)", false),
    ("a_float", "FLOAT(10,2)", false),
    ("a_float", "FLOAT", false),
    ("a_float", "DECIMAL(20,6)", false),
    ("a_boolean", "BOOLEAN", true),
    ("a_boolean", "BIGINT UNSIGNED", true),
    ("a_boolean", "TINYINT(3) ZEROFILL", true),
    ("a_boolean", "BIT(1)", false),
    ("a_boolean", "YEAR", false),
    ("a_boolean", "POINT", false),
    ("a_time", "DATETIME(6)", true),
    (
        "a_time",
        "DATETIME(6) NULL ON UPDATE CURRENT_TIMESTAMP(6)",
        true,
    ),
    ("a_time", "DATETIME", false),
    ("a_time", "DATETIME(3)", false),
    ("a_time", "DATE", false),
    ("a_time", "TIMESTAMP(6) NULL", false),
    ("a_json", "LONGTEXT", true),
    ("a_json", "TEXT", true),
    ("a_json", "VARCHAR(300)", false),
    ("a_json", "LONGBLOB", false),
];

/// A column of any type returns each value as it was stored, at once or after the offered
/// statements.
pub async fn a_column_keeps_every_value_or_is_refused(target: Target) {
    if target.is_sqlite() {
        return; // See `tables_of_sqlite`.
    }
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("all_types");
    let fitting = [
        ("a_text", "VARCHAR(300)"),
        ("an_integer", "BIGINT"),
        ("a_float", "DOUBLE"),
        ("a_boolean", "BOOLEAN"),
        ("a_time", "DATETIME(6)"),
        ("a_json", "LONGTEXT"),
    ];
    for (column, sql_type, is_used) in TYPES {
        let what = format!("{column} {sql_type}");
        let columns: Vec<String> = (fitting.iter())
            .map(|(name, fits)| format!("{name} {}", if name == column { sql_type } else { fits }))
            .collect();
        for sql in [
            "DROP TABLE IF EXISTS all_types".to_owned(),
            "DROP TABLE IF EXISTS all_types_old".to_owned(),
            format!(
                "CREATE TABLE all_types (id BIGINT UNSIGNED PRIMARY KEY, {}, _rescued LONGTEXT) \
                 CHARACTER SET utf8mb4",
                columns.join(", ")
            ),
        ] {
            fixture.run(&sql).await;
        }
        let migrated = fixture.sink.migrate(&fixture.datasets).await;
        assert_eq!(migrated.is_ok(), *is_used, "{what}: {migrated:?}");
        if let Err(fault) = migrated {
            for sql in statements(&fault.to_string()) {
                fixture.run(sql).await;
            }
            fixture.sink.migrate(&fixture.datasets).await.expect(&what);
        }
        let rows = [
            (-1.234_567_890_123_456_7, i64::MIN, "a ", true),
            (1e300, i64::MAX, " \u{1F600}", false),
            (0.1, -1, "", true),
        ];
        let rows = rows.into_iter().zip(0..).map(|((a, b, c, d), at)| {
            let time = Val::Time(SOME_TIME_US + i64::from(at) + 1);
            let json = text(r#"{"a":1.10,"big":12345678901234567890,"a":2}"#);
            (
                at,
                vec![
                    text(c),
                    Val::Int(b),
                    Val::Float(a),
                    Val::Bool(d),
                    time,
                    json,
                ],
            )
        });
        let file_no = fixture.file("all_types", 3).await;
        let batch = batch(dataset, span(file_no, 0, 3), &rows.collect(), vec![]);
        let committed = fixture.commit(std::slice::from_ref(&batch)).await;
        assert_eq!(committed, stored(3, 0, 0), "{what}");
        let differences = fixture.sink.differences(&batch).await.unwrap();
        assert!(differences.is_empty(), "{what}: {differences:?}");
        // The next table has no rows, so the ledger must not have the file.
        let removed = fixture.sink.remove(file_no, &fixture.datasets).await;
        assert_eq!(removed.unwrap().rows, 3, "{what}");
        fixture.sink.end_removal(file_no).await.unwrap();
    }
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
