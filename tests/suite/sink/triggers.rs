//! Clauses about tables of the user that have triggers: a record is a row or a reject, never both,
//! and one refused row costs one record.

use std::collections::BTreeMap;
use std::slice;

use lemonade_task::batch::RejectCode;
use lemonade_task::sink::Committed;
use mysql_async::prelude::Queryable as _;

use super::fixture::{Fixture, Target, Val, batch, event, events, span, text};
use super::rows::stored;

/// When a trigger is created.
#[derive(Clone, Copy, PartialEq)]
enum Made {
    First,
    /// After the first commit.
    Later,
}

/// Triggers of `vehicle_events` in MySQL and MariaDB, and whether they refuse rows from then on.
const TRIGGERS: &[(&str, &str, Made, bool)] = &[
    (
        "BEFORE UPDATE",
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows of this table never change'",
        Made::First,
        false,
    ),
    (
        "BEFORE INSERT",
        "INSERT INTO audit VALUES (NEW.id)",
        Made::First,
        false,
    ),
    (
        "AFTER INSERT",
        "INSERT INTO audit VALUES (NEW.id)",
        Made::First,
        false,
    ),
    (
        "BEFORE INSERT",
        "SET NEW.event_value = UPPER(NEW.event_value)",
        Made::First,
        false,
    ),
    (
        "BEFORE INSERT",
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'too late'",
        Made::Later,
        true,
    ),
    (
        "AFTER INSERT",
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'too late'",
        Made::Later,
        true,
    ),
    (
        "BEFORE INSERT",
        "SET NEW.event_type = REPEAT('x', 300)",
        Made::Later,
        true,
    ),
];

const TRIGGERS_OF_SQLITE: &[(&str, &str, Made, bool)] = &[
    (
        "BEFORE UPDATE",
        "SELECT RAISE(ABORT, 'rows of this table never change');",
        Made::First,
        false,
    ),
    (
        "BEFORE INSERT",
        "INSERT INTO audit VALUES (NEW.id);",
        Made::First,
        false,
    ),
    (
        "AFTER INSERT",
        "INSERT INTO audit VALUES (NEW.id);",
        Made::First,
        false,
    ),
    (
        "AFTER INSERT",
        "UPDATE vehicle_events SET event_value = UPPER(event_value) WHERE id = NEW.id;",
        Made::First,
        false,
    ),
    (
        "BEFORE INSERT",
        "SELECT RAISE(ABORT, 'too late');",
        Made::Later,
        true,
    ),
    ("BEFORE INSERT", "SELECT RAISE(IGNORE);", Made::Later, true),
    (
        "AFTER INSERT",
        "SELECT RAISE(ABORT, 'too late');",
        Made::Later,
        true,
    ),
];

/// Creates a trigger of `vehicle_events`.
async fn create(fixture: &Fixture, when: &str, body: &str) {
    let sql = format!("CREATE TRIGGER tr {when} ON vehicle_events FOR EACH ROW");
    if fixture.target.is_sqlite() {
        fixture.run(&format!("{sql} BEGIN {body} END")).await;
        return;
    }
    // Sent as text, because MySQL does not prepare a CREATE TRIGGER.
    let mut session = fixture.session().await;
    session.query_drop(format!("{sql} {body}")).await.unwrap();
    session.disconnect().await.unwrap();
}

/// Drops the trigger that [`create`] has created. Sent as text, as there.
async fn drop_trigger(fixture: &Fixture) {
    if fixture.target.is_sqlite() {
        fixture.run("DROP TRIGGER tr").await;
        return;
    }
    let mut session = fixture.session().await;
    session.query_drop("DROP TRIGGER tr").await.unwrap();
    session.disconnect().await.unwrap();
}

/// Rows that are delivered again, in the same frames or in others, with or without their ledger
/// entry, stay rows.
pub async fn a_stored_row_never_becomes_a_reject(target: Target) {
    let triggers = if target.is_sqlite() {
        TRIGGERS_OF_SQLITE
    } else {
        TRIGGERS
    };
    for (when, body, made, refuses) in triggers {
        let what = format!("{when} {body}");
        let fixture = Fixture::new(target).await;
        fixture
            .run("CREATE TABLE audit (id BIGINT PRIMARY KEY)")
            .await;
        if *made == Made::First {
            create(&fixture, when, body).await;
        }
        let file_no = fixture.file("vehicle_events", 1_800).await;
        let other = fixture.file("vehicle_events", 3).await;
        let first = events(&fixture, file_no, 0..600);
        assert_eq!(
            fixture.commit(slice::from_ref(&first)).await,
            stored(600, 0, 0),
            "{what}"
        );
        assert_eq!(
            fixture.commit(&[events(&fixture, other, 0..1)]).await,
            stored(1, 0, 0),
            "{what}"
        );
        if *made == Made::Later {
            create(&fixture, when, body).await;
        }

        assert_eq!(
            fixture.commit(&[first]).await,
            stored(0, 600, 0),
            "{what}: the same frame"
        );
        let (rows, refused) = if *refuses { (0, 300) } else { (300, 0) };
        assert_eq!(
            fixture.commit(&[events(&fixture, file_no, 0..900)]).await,
            stored(rows, 600, refused),
            "{what}: a larger frame"
        );
        let twice = events(&fixture, file_no, 900..1_800);
        let committed = fixture.commit(&[twice.clone(), twice]).await;
        let new = if *refuses { 0 } else { 900 };
        assert_eq!(committed.rows, new, "{what}: the same frame twice");
        let counted = committed.rows + committed.duplicates + committed.refused.len() as u64;
        assert_eq!(counted, 1_800, "{what}: the same frame twice");
        if !body.contains("UPPER") {
            // Without its ledger entry, the row is that of the record because it is equal.
            let forget = format!("DELETE FROM ingest_frames WHERE file_no = {other}");
            fixture.run(&forget).await;
            assert_eq!(
                fixture.commit(&[events(&fixture, other, 0..1)]).await,
                stored(0, 1, 0),
                "{what}: a row that the ledger does not cover"
            );
        }

        let both = "SELECT COUNT(*) FROM ingest_rejects r JOIN vehicle_events v ON v.id = (r.file_no << \
                    32) + r.ordinal";
        assert_eq!(fixture.number(both).await, 0, "{what}");
        let settled = fixture.sink.settle(&[file_no]).await.unwrap();
        let rejects = if *refuses { 1_200 } else { 0 };
        let counts = (settled[0].records, settled[0].rejects);
        assert_eq!(counts, (1_800, rejects), "{what}");
        let rows = fixture.number("SELECT COUNT(*) FROM vehicle_events").await;
        assert_eq!(rows, 1_801 - i64::from(rejects), "{what}");
        for reject in fixture.rejects(2_000).await {
            assert_eq!(reject.code, RejectCode::RefusedByDatabase, "{what}");
            assert!(reject.message.is_some(), "{what}");
        }
    }
}

/// One row of many that a trigger, a type or a generated column refuses, in a commit that is large
/// enough for LOAD DATA: it is a reject with the message of the database, and its neighbours are
/// rows.
pub async fn one_refused_row_costs_one_record(target: Target) {
    if target.is_sqlite() {
        return; // SQLite is sent one row at a time.
    }
    let trigger = |body: &str| {
        format!(
            "CREATE TRIGGER tr BEFORE INSERT ON vehicle_events FOR EACH ROW IF NEW.event_value = 'value \
             777' THEN {body}; END IF"
        )
    };
    let mut cases = vec![
        (
            trigger("SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'"),
            "{}",
            vec![1644],
        ),
        (
            trigger("SET NEW.event_type = REPEAT('x', 300)"),
            "{}",
            vec![1406],
        ),
        (
            trigger("SELECT 1 INTO @x FROM (SELECT 1 UNION ALL SELECT 2) t"),
            "{}",
            vec![1172],
        ),
        (
            trigger("SET @x = (SELECT 1 UNION ALL SELECT 2)"),
            "{}",
            vec![1242],
        ),
    ];
    if matches!(target, Target::Mysql | Target::MysqlLoadData) {
        cases.push((
            "ALTER TABLE vehicle_events MODIFY COLUMN event_extra_data JSON NOT NULL".to_owned(),
            r#"{"a": 1e400}"#,
            vec![3140],
        ));
        cases.push((
            "ALTER TABLE vehicle_events ADD COLUMN g JSON AS (JSON_EXTRACT(event_extra_data, '$.a')) \
             STORED"
                .to_owned(),
            r#"{"a": 1e400}"#,
            vec![3141],
        ));
    }
    for (change, extra, numbers) in cases {
        let fixture = Fixture::new(target).await;
        let mut session = fixture.session().await;
        session.query_drop(&change).await.expect(&change);
        session.disconnect().await.unwrap();
        let mut rows: BTreeMap<u32, Vec<Val>> = (0..1_500).map(|at| (at, event(at))).collect();
        rows.get_mut(&777).expect("it is there")[5] = text(extra);
        let file_no = fixture.file("vehicle_events", 1_500).await;
        let dataset = fixture.dataset("vehicle_events");
        let batch = batch(dataset, span(file_no, 0, 1_500), &rows, vec![]);
        for committed in [
            stored(1_499, 0, 1),
            Committed {
                duplicates: 1_500,
                ..Committed::default()
            },
        ] {
            assert_eq!(
                fixture.commit(slice::from_ref(&batch)).await,
                committed,
                "{change}"
            );
        }
        let rejects = fixture.rejects(10).await;
        assert_eq!(rejects.len(), 1, "{change}");
        assert_eq!(
            (rejects[0].ordinal, rejects[0].code),
            (777, RejectCode::RefusedByDatabase),
            "{change}"
        );
        let message = rejects[0].message.as_deref().unwrap_or_default();
        let is_named = |number: &u16| message.contains(&format!("ERROR {number} "));
        assert!(numbers.iter().any(is_named), "{change}: {message}");
    }
}

/// `doctor` names a trigger that changes values of rows, and no other one.
pub async fn a_trigger_that_changes_values_is_named(target: Target) {
    let fixture = Fixture::new(target).await;
    let found = async || {
        let findings = fixture.sink.inspect(&fixture.datasets).await.unwrap();
        let of_triggers = findings
            .iter()
            .filter(|it| it.what.contains("the trigger "));
        of_triggers.map(|it| it.what.clone()).collect::<Vec<_>>()
    };
    create(
        &fixture,
        "AFTER INSERT",
        "UPDATE vehicle_status SET status = 'x' WHERE id = NEW.id;",
    )
    .await;
    assert_eq!(found().await, Vec::<String>::new());
    drop_trigger(&fixture).await;
    if target.is_sqlite() {
        let body = "UPDATE vehicle_events SET event_type = 'x' WHERE id = NEW.id;";
        create(&fixture, "AFTER INSERT", body).await;
    } else {
        create(
            &fixture,
            "BEFORE INSERT",
            "SET NEW.event_type = UPPER(NEW.event_type)",
        )
        .await;
    }
    let named = found().await;
    assert!(
        named.len() == 1 && named[0].contains("`tr` changes values of rows of `vehicle_events`"),
        "{named:?}"
    );
}
