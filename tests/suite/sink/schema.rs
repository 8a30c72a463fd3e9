//! Clauses about `migrate`.

use std::slice;

use lemonade_task::batch::{RejectCode, row_id};
use lemonade_task::finding::{Finding, Level};
use lemonade_task::sink::{EarlierState, FileState, Migration, NewFile};

use super::fixture::{Fixture, Target, events, new_file, reject};

/// The statements of a refusal.
pub fn statements(refusal: &str) -> Vec<&str> {
    let (_, statements) = refusal.split_once(":\n\n").expect("it says how");
    statements
        .trim()
        .trim_end_matches(';')
        .split(";\n")
        .collect()
}

pub async fn all_processes_have_the_same_key_of_frames(target: Target) {
    let fixture = Fixture::new(target).await;
    let mut sinks = vec![fixture.sink.clone()];
    for _ in 0..3 {
        sinks.push(fixture.another().await);
    }
    let asking = sinks.into_iter().map(|sink| {
        tokio::spawn(async move {
            loop {
                match sink.frame_key().await {
                    // Nodes of a cluster detect only at COMMIT that both did the same: the call is repeated.
                    Err(fault) if fault.is_transient() => {}
                    done => break done.expect("a key"),
                }
            }
        })
    });
    let mut keys = Vec::new();
    for process in asking.collect::<Vec<_>>() {
        keys.push(process.await.expect("no panic"));
    }
    keys.push(fixture.another().await.frame_key().await.unwrap());
    assert!(keys.iter().all(|key| *key == keys[0]), "{target:?}");
    let other = Fixture::new(target).await;
    assert_ne!(other.sink.frame_key().await.unwrap(), keys[0]);
    let bytes = "SELECT LENGTH(value) FROM ingest_settings WHERE name = 'frame_key'";
    assert_eq!(fixture.number(bytes).await, 32);

    fixture
        .run("UPDATE ingest_settings SET value = x'00'")
        .await;
    let fault = fixture
        .sink
        .frame_key()
        .await
        .expect_err("the value is not a key");
    assert!(!fault.is_transient(), "{fault}");
    assert!(
        fault.to_string().contains("delete the row `frame_key`"),
        "{fault}"
    );
}

pub async fn migration_is_repeatable_and_safe_for_several_processes(target: Target) {
    let fixture = Fixture::empty(target).await;
    let mut sinks = vec![fixture.sink.clone()];
    for _ in 0..3 {
        sinks.push(fixture.another().await);
    }
    let racing = sinks.into_iter().map(|sink| {
        let datasets = fixture.datasets.clone();
        tokio::spawn(async move {
            loop {
                match sink.migrate(&datasets).await {
                    // Nodes of a cluster detect only at COMMIT that both did the same: the call is repeated.
                    Err(fault) if fault.is_transient() => {}
                    done => break done,
                }
            }
        })
    });
    for process in racing.collect::<Vec<_>>() {
        process
            .await
            .expect("no panic")
            .expect("each of them finds a migrated database");
    }
    let migrations = if target.is_sqlite() {
        "migrations/sqlite"
    } else {
        "migrations/mysql"
    };
    assert_eq!(
        fixture
            .number("SELECT COUNT(*) FROM ingest_migrations")
            .await,
        i64::try_from(std::fs::read_dir(migrations).unwrap().count()).unwrap()
    );

    let file_no = fixture.file("vehicle_events", 3).await;
    fixture.commit(&[events(&fixture, file_no, 0..3)]).await;
    fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect("nothing to do");
    assert_eq!(
        fixture
            .sink
            .count_rows(fixture.dataset("vehicle_events"))
            .await
            .unwrap(),
        3
    );
    if target.is_sqlite() {
        // SQLite migrates in one transaction, which is stored as a whole or not at all.
        return;
    }
    // The state after an interrupted migration: the tables exist, and the ledger has no entry of
    // the migration.
    fixture.run("DELETE FROM ingest_migrations").await;
    fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect("every statement may run twice");
    assert_eq!(fixture.number("SELECT COUNT(*) FROM ingest_files").await, 1);
}

/// The files of an earlier release keep their numbers, and no number is used again.
pub async fn a_ledger_of_an_earlier_release_is_brought_up_to_date(target: Target) {
    let fixture = Fixture::empty(target).await;
    let all = fixture.sink.schema(&fixture.datasets).await.unwrap();
    let newest = all
        .iter()
        .position(|sql| sql.contains("ingest_migrations") && sql.contains("VALUES (2,"))
        .expect("it is recorded");
    for sql in &all[..=newest] {
        fixture.run(sql).await;
    }
    for (file_no, state) in [(1, "settled"), (2, "pending"), (9, "settled")] {
        let insert = format!(
            "INSERT INTO ingest_files (file_no, hash, dataset, name, bytes, records, state, \
             registered_at) VALUES ({file_no}, x'{file_no:032x}', 'vehicle_events', 'name', 1, 0, \
             '{state}', '2026-01-01 00:00:00')"
        );
        fixture.run(&insert).await;
    }
    fixture
        .run("DELETE FROM ingest_files WHERE file_no = 9")
        .await;
    fixture.sink.migrate(&fixture.datasets).await.unwrap();
    let files = fixture.sink.last_files(9).await.unwrap();
    let files: Vec<_> = files
        .iter()
        .map(|file| (file.file_no, file.state))
        .collect();
    assert_eq!(files, [(2, FileState::Pending), (1, FileState::Settled)]);
    assert!(fixture.file("vehicle_events", 1).await > 9);

    // A file that an earlier release began is still loaded.
    let pending = NewFile {
        hash: 2_u128.to_be_bytes(),
        records: 0,
        ..new_file("vehicle_events", 0)
    };
    for _ in 0..2 {
        let registered = fixture.register(slice::from_ref(&pending)).await;
        let registered = registered.unwrap()[0];
        assert_eq!(registered.earlier, EarlierState::Pending);
        assert_eq!(registered.file_no, 2);
    }
    let known = "SELECT COUNT(*) FROM ingest_files f JOIN ingest_definitions d ON d.definition = \
                 f.definition WHERE f.file_no = 2";
    assert_eq!(fixture.number(known).await, 1);
}

pub async fn a_newer_schema_is_refused(target: Target) {
    let fixture = Fixture::new(target).await;
    fixture
        .run("INSERT INTO ingest_migrations VALUES (9999, 'later', 'x', '2030-01-01 00:00:00')")
        .await;
    let fault = fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect_err("it is newer");
    assert!(!fault.is_transient());
    assert!(
        fault.to_string().contains("newer than this binary"),
        "{fault}"
    );
}

pub async fn a_table_that_does_not_fit_is_refused_with_its_remedy(target: Target) {
    // The existing table, a row in it, and the words that the message must have.
    let columns = "report_time DATETIME(6) NOT NULL, status_source VARCHAR(255) NOT NULL, status \
                   VARCHAR(255) NOT NULL, _rescued JSON NULL";
    let good = "id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id VARCHAR(255) NOT NULL";
    let rest = "'2022-06-05 21:02:34', 's', 'x'";
    let long = format!("1, '{}', {rest}, NULL", "v".repeat(300));
    let whole = format!("1, 'v', {rest}, NULL");
    let mysql = [
        (
            format!("id BIGINT NOT NULL PRIMARY KEY, vehicle_id VARCHAR(255), {columns}"),
            whole.clone(),
            "`id`",
        ),
        (
            format!(
                "id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id VARCHAR(36) NOT NULL, {columns}"
            ),
            whole.clone(),
            "`vehicle_id` VARCHAR(255)",
        ),
        (
            format!(
                "id BIGINT UNSIGNED NOT NULL PRIMARY KEY, vehicle_id VARCHAR(300) CHARACTER SET latin1 \
                 NOT NULL, {columns}"
            ),
            long,
            "`vehicle_id` VARCHAR(300)",
        ),
        (
            format!("id BIGINT UNSIGNED NOT NULL PRIMARY KEY, {columns}"),
            format!("1, {rest}, NULL"),
            "ADD COLUMN `vehicle_id`",
        ),
        (
            format!("{good}, {}", columns.replace("(6)", "")),
            whole.clone(),
            "`report_time` DATETIME(6)",
        ),
        (
            format!("{good}, {}", columns.replace(", _rescued JSON NULL", "")),
            format!("1, 'v', {rest}"),
            "ADD COLUMN `_rescued`",
        ),
        (
            format!("{good}, {columns}, extra VARCHAR(9) NOT NULL"),
            format!("{whole}, 'e'"),
            "`extra`",
        ),
        (
            format!("id BIGINT UNSIGNED NULL, vehicle_id VARCHAR(255) NOT NULL, {columns}"),
            whole.clone(),
            "ADD PRIMARY KEY (`id`)",
        ),
        (
            format!("id BIGINT NULL, vehicle_id VARCHAR(255) NOT NULL, {columns}"),
            whole.clone(),
            "`id` BIGINT UNSIGNED NOT NULL, ADD PRIMARY KEY (`id`)",
        ),
        (
            format!("own INT AUTO_INCREMENT PRIMARY KEY, vehicle_id VARCHAR(255), {columns}"),
            whole,
            "RENAME TABLE `vehicle_status` TO `vehicle_status_old`",
        ),
    ];
    let sqlite = [
        ("id TEXT PRIMARY KEY, vehicle_id TEXT", "1, 'v'", "`id`"),
        (
            "id INTEGER PRIMARY KEY, vehicle_id INTEGER",
            "1, 2",
            "`vehicle_id`",
        ),
        (
            "id INTEGER PRIMARY KEY",
            "1",
            "ADD COLUMN `vehicle_id` TEXT",
        ),
    ];
    let cases: Vec<(String, String, &str)> = if target.is_sqlite() {
        let columns = "report_time TEXT, status_source TEXT, status TEXT, _rescued TEXT";
        let case = |(ddl, row, named)| {
            let row = format!("{row}, {rest}, NULL");
            (format!("{ddl}, {columns}"), row, named)
        };
        sqlite.map(case).into()
    } else {
        mysql.into()
    };
    let fixture = Fixture::empty(target).await;
    for (ddl, row, named) in cases {
        let suffix = if target.is_sqlite() {
            ""
        } else {
            " CHARACTER SET utf8mb4"
        };
        fixture
            .run(&format!("CREATE TABLE vehicle_status ({ddl}){suffix}"))
            .await;
        fixture
            .run(&format!("INSERT INTO vehicle_status VALUES ({row})"))
            .await;
        let refused = fixture.sink.migrate(&fixture.datasets).await;
        let fault = refused.expect_err(&ddl);
        let text = fault.to_string();
        assert!(
            !fault.is_transient() && text.contains("TABLE `vehicle_status`"),
            "{text}"
        );
        assert!(text.contains(named), "{text} does not name {named}");
        if !target.is_sqlite() {
            // The offered statement has its effect, and the row stays.
            let statements = statements(&text);
            assert_eq!(statements.len(), 1, "{text}");
            let statement = statements[0];
            let found = fixture.sink.inspect(&fixture.datasets).await.unwrap();
            let is_said = |finding: &Finding| {
                finding.level == Level::Refused && finding.fix == format!("{statement};")
            };
            assert!(
                found.iter().any(is_said),
                "doctor reports the same: {found:?}"
            );
            fixture.run(statement).await;
            let mended = fixture.sink.migrate(&fixture.datasets).await;
            mended.expect("it fits");
            let is_renamed = statement.starts_with("RENAME");
            let now = if is_renamed {
                "vehicle_status_old"
            } else {
                "vehicle_status"
            };
            let rows = format!("SELECT COUNT(*) FROM {now} WHERE status = 'x'");
            assert_eq!(fixture.number(&rows).await, 1, "{statement}");
            if is_renamed {
                fixture.run("DROP TABLE vehicle_status_old").await;
            }
        }
        fixture.run("DROP TABLE vehicle_status").await;
    }

    // A table of the user that fits stays as it is, with its additional columns.
    let ddl = if target.is_sqlite() {
        "id INTEGER PRIMARY KEY, vehicle_id VARCHAR(300) NOT NULL, report_time TEXT, status_source \
         TEXT, status TEXT, _rescued TEXT, mine INTEGER NOT NULL DEFAULT 7"
            .to_owned()
    } else {
        let good = good.replace("(255)", "(300)");
        // Without MariaDB's check that a text is JSON.
        let columns = columns.replace("JSON", "LONGTEXT");
        format!("{good}, {columns}, mine INT NOT NULL DEFAULT 7, also INT NULL")
    };
    let suffix = if target.is_sqlite() {
        ""
    } else {
        " CHARACTER SET utf8mb4"
    };
    fixture
        .run(&format!("CREATE TABLE vehicle_status ({ddl}){suffix}"))
        .await;
    fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect("it fits");
}

/// The tables of the Python program. The printed statements are enough to change them, and their
/// rows stay.
pub async fn tables_of_the_original_fit_after_the_printed_statements(target: Target) {
    if target.is_sqlite() {
        return;
    }
    let fixture = Fixture::empty(target).await;
    let text = |names: &str| names.replace(',', " VARCHAR(255),") + " VARCHAR(255)";
    for (table, columns) in [
        (
            "vehicle_events",
            format!(
                "event_time DATETIME, {}",
                text("vehicle_id, event_source, event_type, event_value, event_extra_data")
            ),
        ),
        (
            "vehicle_status",
            format!(
                "report_time DATETIME, {}",
                text("vehicle_id, status_source, status")
            ),
        ),
        (
            "daily_summary",
            format!(
                "day DATE, last_event_time DATETIME, {}",
                text("vehicle_id, last_event_type")
            ),
        ),
    ] {
        fixture
            .run(&format!(
                "CREATE TABLE {table} (id INTEGER NOT NULL AUTO_INCREMENT, {columns}, PRIMARY KEY \
                 (id)) CHARACTER SET latin1"
            ))
            .await;
    }
    fixture
        .run(
            "INSERT INTO vehicle_events (vehicle_id, event_time, event_extra_data) VALUES ('old', \
             '2022-06-05 21:02:34', 'no JSON'), ('old', NULL, NULL)",
        )
        .await;
    let day = "INSERT INTO daily_summary (vehicle_id, day) VALUES ('old', '2022-06-05')";
    fixture.run(day).await;
    fixture.run(day).await;

    let refused = fixture.sink.migrate(&fixture.datasets).await;
    let refused = refused.expect_err("they do not fit").to_string();
    let statements = statements(&refused);
    assert_eq!(statements.len(), 3, "one for each table: {refused}");
    for statement in statements {
        fixture.run(statement).await;
    }
    fixture
        .sink
        .migrate(&fixture.datasets)
        .await
        .expect("they fit");

    let file_no = fixture.file("vehicle_events", 600).await;
    let batch = events(&fixture, file_no, 0..600);
    assert_eq!(fixture.commit(&[batch]).await.rows, 600);
    let old = "SELECT COUNT(*) FROM vehicle_events WHERE vehicle_id = 'old' AND id < 4294967296";
    assert_eq!(fixture.number(old).await, 2);
    let old_days = "SELECT COUNT(*) FROM daily_summary_old";
    assert_eq!(fixture.number(old_days).await, 2);
}

/// A ledger that does not match its tables: no record counts as stored, and no number is used
/// twice.
pub async fn a_ledger_that_is_not_of_its_tables_is_refused(target: Target) {
    let fixture = Fixture::new(target).await;
    let migrate = async || fixture.sink.migrate(&fixture.datasets).await;
    let refusal = async |problem: &str| {
        let fault = migrate().await.expect_err(problem);
        assert!(!fault.is_transient(), "{fault}");
        assert!(fault.to_string().contains(problem), "{fault}");
        let findings = fixture.sink.inspect(&fixture.datasets).await.unwrap();
        let fails =
            |finding: &Finding| finding.level == Level::Refused && finding.what.contains(problem);
        assert!(
            findings.iter().any(fails),
            "doctor finds it, too: {findings:?}"
        );
    };
    let mut files = Vec::new();
    for _ in 0..3 {
        let file_no = fixture.file("vehicle_events", 2).await;
        fixture.commit(&[events(&fixture, file_no, 0..2)]).await;
        files.push(file_no);
    }
    assert_eq!(fixture.sink.settle(&files).await.unwrap().len(), 3);
    migrate().await.expect("they belong together");

    // The ledger was restored from an earlier time.
    let last = files[2];
    let restored = format!("DELETE FROM ingest_files WHERE file_no > {}", files[0]);
    fixture.run(&restored).await;
    refusal(&format!(
        "has rows of file {last}, and the ledger ends at file {}",
        files[0]
    ))
    .await;
    // The ledger was lost: it was dropped, or a dump without it was restored.
    for table in ["ingest_files", "ingest_frames", "ingest_migrations"] {
        fixture.run(&format!("DROP TABLE {table}")).await;
    }
    refusal("the ledger ends at file 0").await;
    // The operator keeps the rows.
    fixture
        .sink
        .migrate_as(
            &fixture.datasets,
            Migration {
                keep_rows: true,
                ..Migration::default()
            },
        )
        .await
        .unwrap();
    migrate().await.expect("it is decided");
    let next = fixture.file("vehicle_events", 2).await;
    assert!(next > last + 1, "file {next} after rows of file {last}");
    let committed = fixture.commit(&[events(&fixture, next, 0..2)]).await;
    assert_eq!(committed.rows, 2);
    assert_eq!(fixture.sink.settle(&[next]).await.unwrap().len(), 1);

    // Restored without the newest file; then the rows are gone, and then the table.
    let newest = format!("DELETE FROM vehicle_events WHERE id >= {}", row_id(next, 0));
    fixture.run(&newest).await;
    refusal(&format!("`vehicle_events` has no row of file {next}")).await;
    fixture.run("DELETE FROM vehicle_events").await;
    refusal(&format!("`vehicle_events` has no row of file {next}")).await;
    fixture.run("DROP TABLE vehicle_events").await;
    let fault = migrate().await.expect_err("its rows are lost");
    assert!(
        fault.to_string().contains("`vehicle_events` is missing"),
        "{fault}"
    );
    // As the message advises: the ledger is dropped too, and all files are loaded again.
    for table in ["ingest_files", "ingest_frames", "ingest_migrations"] {
        fixture.run(&format!("DROP TABLE {table}")).await;
    }
    migrate().await.expect("an empty database");

    // Half loaded: its rows are gone, but that of a reject is not missing.
    let half = fixture.file("vehicle_events", 4).await;
    let mut batch = events(&fixture, half, 0..2);
    batch.rejects = vec![reject(0, RejectCode::MissingField)];
    batch.rows = batch.rows.slice(1, 1);
    fixture.commit(&[batch]).await;
    migrate().await.expect("a row and a reject");
    fixture.run("DELETE FROM vehicle_events").await;
    refusal(&format!("`vehicle_events` has no row of file {half}")).await;
    fixture.run("DELETE FROM ingest_frames").await;
    migrate().await.expect("the ledger covers nothing");
}

/// The statement of a refusal removes the rows that the ledger does not cover, and no others.
pub async fn rows_that_are_not_in_the_ledger_are_removed_as_the_refusal_says(target: Target) {
    let fixture = Fixture::new(target).await;
    let mut files = Vec::new();
    for records in [2, 4, 2] {
        let file_no = fixture.file("vehicle_events", records).await;
        fixture.commit(&[events(&fixture, file_no, 0..2)]).await;
        files.push(file_no);
    }
    fixture.commit(&[events(&fixture, files[1], 3..4)]).await;
    fixture.sink.settle(&files).await.unwrap();
    // The ledger from before: without the newest file and the last frame of the one before.
    for statement in [
        format!("DELETE FROM ingest_files WHERE file_no = {}", files[2]),
        "DELETE FROM ingest_frames WHERE first_ordinal = 3".to_owned(),
    ] {
        fixture.run(&statement).await;
    }
    let migrate = async || fixture.sink.migrate(&fixture.datasets).await;
    let said = migrate().await.expect_err("unknown rows").to_string();
    let statement = said.split('"').find(|part| part.starts_with("DELETE FROM"));
    fixture.run(statement.expect("a statement")).await;
    migrate().await.expect("they belong together");
    let kept = format!(
        "SELECT COUNT(*) FROM vehicle_events WHERE id IN ({}, {}, {}, {})",
        row_id(files[0], 0),
        row_id(files[0], 1),
        row_id(files[1], 0),
        row_id(files[1], 1)
    );
    assert_eq!(fixture.number(&kept).await, 4);
    assert_eq!(
        fixture.number("SELECT COUNT(*) FROM vehicle_events").await,
        4
    );
}
