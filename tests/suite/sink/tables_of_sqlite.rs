//! Clauses about tables of the user in SQLite that do not fit: the problem is reported, and the
//! offered statement runs.

use super::fixture::{Fixture, Target};

/// Tables of SQLite, the problem that is reported, and the statement that is offered.
const TABLES_OF_SQLITE: &[(&str, &str, &str)] = &[
    (
        "{id}, {v} UNIQUE ON CONFLICT REPLACE, {c}",
        "REPLACE",
        "RENAME",
    ),
    (
        "{id}, {v} UNIQUE on\nconflict /* */ ignore, {c}",
        "IGNORE",
        "RENAME",
    ),
    ("{id}, {v} UNIQUE ON CONFLICT FAIL, {c}", "FAIL", "RENAME"),
    (
        "{id}, {v}, {c}, UNIQUE (status) ON CONFLICT ROLLBACK",
        "ROLLBACK",
        "RENAME",
    ),
    (
        "{id}, {v} ON CONFLICT REPLACE DEFAULT 'x', {c}",
        "REPLACE",
        "RENAME",
    ),
    ("{id} ON CONFLICT IGNORE, {v}, {c}", "IGNORE", "RENAME"),
    ("{id}, {v}", "`report_time`", "ADD COLUMN"),
    ("{v}, {c}", "`id`", "RENAME"),
    ("{id}, vehicle_id NUMERIC, {c}", "NUMERIC", "RENAME"),
    (
        "{id}, vehicle_id TEXT AS (status), {c}",
        "generated",
        "RENAME",
    ),
];

/// A table of the user in SQLite that would lose or change rows is refused, and the offered
/// statement runs, also if the table `NAME_old` exists.
pub async fn a_table_of_sqlite_that_does_not_fit_is_refused(target: Target) {
    if !target.is_sqlite() {
        return;
    }
    for (columns, problem, offered) in TABLES_OF_SQLITE {
        let fixture = Fixture::empty(target).await;
        let columns = columns
            .replace("{id}", "id INTEGER PRIMARY KEY")
            .replace("{v}", "vehicle_id TEXT NOT NULL")
            .replace(
                "{c}",
                "report_time TEXT NOT NULL, status_source TEXT NOT NULL, status TEXT NOT NULL, _rescued \
                 TEXT",
            );
        fixture.run("CREATE TABLE vehicle_status_old (a)").await;
        let sql = format!("CREATE TABLE vehicle_status ({columns})");
        fixture.run(&sql).await;
        let mut refusals = 0;
        // Several columns may be missing, and one statement is offered at a time.
        while let Err(fault) = fixture.sink.migrate(&fixture.datasets).await {
            assert!(!fault.is_transient(), "{columns}: {fault}");
            let fault = fault.to_string();
            refusals += 1;
            if refusals == 1 {
                assert!(fault.contains(problem), "{columns}: {fault}");
                assert!(fault.contains(offered), "{columns}: {fault}");
            }
            assert!(refusals < 6, "{columns}: {fault}");
            let statement = fault.find("ALTER TABLE").expect(&fault);
            let statement = fault[statement..].split(',').next().unwrap_or_default();
            fixture.run(statement).await;
        }
        assert!(refusals > 0, "{columns}");
    }
    let fits = [
        "ON CONFLICT ABORT",
        "DEFAULT 'ON CONFLICT REPLACE'",
        "/* ON CONFLICT REPLACE */",
    ];
    for clause in fits {
        let fixture = Fixture::empty(target).await;
        let sql = format!(
            "CREATE TABLE vehicle_status (id INTEGER PRIMARY KEY, vehicle_id TEXT NOT NULL {clause}, \
             report_time TEXT NOT NULL, status_source TEXT NOT NULL, status TEXT NOT NULL, _rescued TEXT)"
        );
        fixture.run(&sql).await;
        fixture.sink.migrate(&fixture.datasets).await.expect(clause);
    }

    // SQLite cannot rename a view, or add a column to it.
    let fixture = Fixture::empty(target).await;
    fixture
        .run("CREATE TABLE base (id INTEGER PRIMARY KEY)")
        .await;
    fixture
        .run("CREATE VIEW vehicle_status AS SELECT * FROM base")
        .await;
    let refused = fixture.sink.migrate(&fixture.datasets).await;
    let fault = refused.expect_err("a view").to_string();
    assert!(!fault.contains("ALTER"), "{fault}");
    let statement = "DROP VIEW `vehicle_status`";
    assert!(
        fault.contains("it is a view") && fault.contains(statement),
        "{fault}"
    );
    fixture.run(statement).await;
    fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect("a new table");
}
