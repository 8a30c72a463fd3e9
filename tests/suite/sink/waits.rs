//! Clauses about tables that refuse rows because of the table: the files wait, and no record is
//! lost or becomes a reject.

use lemonade_task::batch::row_id;
use lemonade_task::sink::{Committed, EarlierState};
use lemonade_task::timestamp;
use mysql_async::prelude::Queryable as _;

use super::fixture::{Fixture, SOME_TIME_US, Target, Val, batch, events, new_file, span, text};

/// Events of this ordinal and later have no partition.
const BOUNDARY: u32 = 100;

/// Partitions with which `vehicle_events` accepts only events before the boundary, and whether the
/// reason must offer a statement.
fn partitions() -> [(String, bool); 4] {
    let boundary = timestamp::text(SOME_TIME_US + i64::from(BOUNDARY));
    let partition = |by: &str| {
        format!(
            "ALTER TABLE vehicle_events DROP PRIMARY KEY, ADD PRIMARY KEY (id, event_time, vehicle_id) \
             PARTITION BY {by}"
        )
    };
    // A partition may have the first name that could be offered.
    let first = format!("(PARTITION P_LATER VALUES LESS THAN ('{boundary}'))");
    let both = format!("(PARTITION p_first VALUES LESS THAN ('{boundary}', 'vehicle-0'))");
    [
        (
            partition(&format!("RANGE COLUMNS (event_time) {first}")),
            true,
        ),
        (
            partition(&format!("RANGE COLUMNS (event_time, vehicle_id) {both}")),
            true,
        ),
        (
            partition(&format!(
                "RANGE (MICROSECOND(event_time)) (PARTITION p_first VALUES LESS THAN ({}))",
                SOME_TIME_US % 1_000_000 + i64::from(BOUNDARY)
            )),
            true,
        ),
        (
            partition(&format!(
                "LIST (MOD(id, 65536) DIV {BOUNDARY}) (PARTITION p_first VALUES IN (0))"
            )),
            false,
        ),
    ]
}

/// One commit has frames of several files. Files for which the table has a partition are stored.
/// The others are stored after the partition is added.
pub async fn files_without_a_partition_wait_and_the_others_are_stored(target: Target) {
    if target.is_sqlite() {
        return; // SQLite has no partitions.
    }
    for (partition, is_offered) in partitions() {
        let fixture = Fixture::new(target).await;
        fixture.run(&partition).await;
        let whole = fixture.file("vehicle_events", 50).await;
        let half = fixture.file("vehicle_events", 120).await;
        let other = fixture.file("vehicle_events", 120).await;
        let last = fixture.file("vehicle_events", 7).await;
        let batches = [
            events(&fixture, whole, 0..50),
            events(&fixture, half, 0..90),
            events(&fixture, half, 90..120),
            events(&fixture, other, 0..120),
            events(&fixture, last, 0..7),
        ];
        let committed = fixture.commit(&batches).await;
        let waiting: Vec<u32> = committed.waiting.iter().map(|it| it.file.file_no).collect();
        assert_eq!(waiting, [half, other], "{partition}");
        let stored = Committed {
            rows: 50 + 90 + 7,
            ..Committed::default()
        };
        let counted = Committed {
            waiting: Vec::new(),
            ..committed.clone()
        };
        assert_eq!(counted, stored, "{partition}");
        assert_eq!(
            fixture.number("SELECT COUNT(*) FROM ingest_rejects").await,
            0
        );
        let covered = fixture.sink.coverage(&[whole, half, other, last]).await;
        assert_eq!(
            covered.unwrap(),
            [vec![0..50], vec![0..90], vec![], vec![0..7]]
        );

        // The ledger has the reason, and its statement works.
        let all = [whole, half, other, last];
        let waits = fixture.sink.waiting(&all).await.unwrap();
        assert_eq!(waits.len(), 2);
        for (at, (file_no, reason)) in waits.iter().enumerate() {
            assert_eq!(
                (*file_no, reason),
                (waiting[at], &committed.waiting[at].reason)
            );
            assert!(reason.contains("`vehicle_events`"), "{reason}");
            assert!(
                reason.contains("ERROR 1526 ") && reason.contains("partition"),
                "{reason}"
            );
        }
        let statement = waits[0].1.find("ALTER TABLE");
        assert_eq!(statement.is_some(), is_offered, "{}", waits[0].1);
        let statement = match statement {
            Some(at) => waits[0].1[at..].to_owned(),
            None => "ALTER TABLE vehicle_events ADD PARTITION (PARTITION p_last VALUES IN (1))"
                .to_owned(),
        };
        fixture.run(&statement).await;

        let committed = fixture.commit(&batches[2..4]).await;
        let stored = Committed {
            rows: 30 + 120,
            ..Committed::default()
        };
        assert_eq!(committed, stored, "{partition}");
        // The commit settles one file; the other keeps its reason until it is settled.
        let settled = fixture.sink.settle(&all).await.unwrap();
        assert_eq!(settled.len(), 4, "{partition}");
        assert_eq!(fixture.sink.waiting(&all).await.unwrap(), []);
        let reasons = "SELECT COUNT(*) FROM ingest_files WHERE reason IS NOT NULL";
        assert_eq!(fixture.number(reasons).await, 0);
        let rows = fixture.number("SELECT COUNT(*) FROM vehicle_events").await;
        assert_eq!(rows, 50 + 120 + 120 + 7);
    }
}

/// The other causes. A trigger or a tablespace is the most likely one.
pub async fn a_table_that_takes_no_rows_makes_its_files_wait(target: Target) {
    if target.is_sqlite() || target == Target::Galera {
        return; // A tablespace of a cluster cannot be discarded on one node.
    }
    let trigger = "TRIGGER audit BEFORE INSERT ON vehicle_events FOR EACH ROW";
    for (broken, mended, number) in [
        (
            format!("CREATE DEFINER = 'nobody'@'nowhere' {trigger} SET NEW.event_type = 'x'"),
            "DROP TRIGGER audit",
            1449,
        ),
        (
            format!("CREATE {trigger} CALL missing_procedure()"),
            "DROP TRIGGER audit",
            1305,
        ),
        (
            format!(
                "CREATE {trigger} UPDATE vehicle_events SET event_type = 'x' WHERE id = NEW.id"
            ),
            "DROP TRIGGER audit",
            1442,
        ),
        (
            format!("CREATE {trigger} INSERT INTO missing_table VALUES (1)"),
            "DROP TRIGGER audit",
            1146,
        ),
        (
            format!("CREATE {trigger} SET @x = (SELECT missing FROM vehicle_status LIMIT 1)"),
            "DROP TRIGGER audit",
            1054,
        ),
        (
            format!("CREATE {trigger} INSERT INTO vehicle_status VALUES (NEW.id)"),
            "DROP TRIGGER audit",
            1136,
        ),
        (
            format!("CREATE {trigger} INSERT INTO vehicle_status (id) VALUES (NEW.id)"),
            "DROP TRIGGER audit",
            1364,
        ),
        (
            format!("CREATE DEFINER = 'without_rights'@'localhost' {trigger} SET @x = 1"),
            "DROP TRIGGER audit",
            1142,
        ),
        (
            "ALTER TABLE vehicle_events ENGINE = MyISAM MAX_ROWS = 1 AVG_ROW_LENGTH = 1".to_owned(),
            "ALTER TABLE vehicle_events MAX_ROWS = 1000000 AVG_ROW_LENGTH = 1000",
            1114,
        ),
        (
            "ALTER TABLE vehicle_events DISCARD TABLESPACE".to_owned(),
            "DROP TABLE vehicle_events",
            1814,
        ),
    ] {
        let fixture = Fixture::new(target).await;
        let mut session = fixture.session().await;
        let user = "CREATE USER IF NOT EXISTS 'without_rights'@'localhost'";
        session.query_drop(user).await.unwrap();
        // Sent as text, because MySQL does not prepare a CREATE TRIGGER.
        session.query_drop(&broken).await.unwrap();
        if number == 1114 {
            // After this many bytes, the table cannot address the next row.
            let large = "INSERT INTO vehicle_events VALUES (1, 'v', '2024-01-01', 's', 't', 'v', \
                         CONCAT('\"', REPEAT('x', 65430), '\"'), NULL)";
            fixture.run(large).await;
        }
        let file = new_file("vehicle_events", 3);
        let registered = fixture.register(std::slice::from_ref(&file)).await;
        let file_no = registered.unwrap()[0].file_no;
        let mut batch = events(&fixture, file_no, 0..3);
        batch.hash = file.hash;
        let mut with_definition = file;
        with_definition.definition = Some(fixture.dataset("vehicle_events").fingerprint);
        let register = || fixture.register(std::slice::from_ref(&with_definition));
        assert_eq!(register().await.unwrap()[0].earlier, EarlierState::Pending);

        let committed = fixture.commit(std::slice::from_ref(&batch)).await;
        assert_eq!(committed.waiting.len(), 1, "{broken}");
        let reason = &committed.waiting[0].reason;
        assert!(reason.contains(&format!("ERROR {number} ")), "{reason}");
        let waits = fixture.sink.waiting(&[file_no]).await.unwrap();
        assert_eq!(waits, [(file_no, reason.clone())]);
        // A file that is registered again has no reason to wait.
        assert_eq!(register().await.unwrap()[0].earlier, EarlierState::Pending);
        assert_eq!(fixture.sink.waiting(&[file_no]).await.unwrap(), []);
        fixture.commit(std::slice::from_ref(&batch)).await;

        session.query_drop(mended).await.unwrap();
        session.disconnect().await.unwrap();
        if mended.starts_with("DROP TABLE") {
            fixture.sink.migrate(&fixture.datasets).await.unwrap();
        }
        let committed = fixture.commit(&[batch]).await;
        assert_eq!((committed.rows, committed.waiting), (3, vec![]), "{broken}");
        // This commit had the whole file.
        assert_eq!(fixture.sink.waiting(&[file_no]).await.unwrap(), []);
        let id = row_id(file_no, 0);
        let rows = format!("SELECT COUNT(*) FROM vehicle_events WHERE id >= {id}");
        assert_eq!(fixture.number(&rows).await, 3);
    }
}

/// The causes in SQLite: the statement cannot be compiled for any row. Files of other tables are stored
/// from the same commit, and a row for which a trigger or an index fails is a reject.
pub async fn a_table_of_sqlite_that_takes_no_rows_makes_its_files_wait(target: Target) {
    if !target.is_sqlite() {
        return;
    }
    let trigger = "CREATE TRIGGER audit BEFORE INSERT ON vehicle_events BEGIN";
    for (broken, named) in [
        (
            format!("{trigger} INSERT INTO missing VALUES (1); END"),
            "missing",
        ),
        (
            format!("{trigger} SELECT missing FROM vehicle_status; END"),
            "missing",
        ),
        (
            format!("{trigger} INSERT INTO vehicle_status VALUES (1); END"),
            "vehicle_status",
        ),
        (format!("{trigger} SELECT missing(NEW.id); END"), "missing"),
        (
            format!("{trigger} UPDATE missing SET a = 1; END"),
            "missing",
        ),
    ] {
        // The statement is prepared for the first time, or was before the trigger existed.
        for is_prepared in [false, true] {
            let fixture = Fixture::new(target).await;
            if is_prepared {
                let before = fixture.file("vehicle_events", 1).await;
                fixture.commit(&[events(&fixture, before, 0..1)]).await;
            }
            fixture.run(&broken).await;
            let whole = fixture.file("vehicle_events", 3).await;
            let half = fixture.file("vehicle_events", 9).await;
            let other = fixture.file("vehicle_status", 2).await;
            let status = fixture.dataset("vehicle_status");
            let row = vec![text("v"), Val::Time(SOME_TIME_US), text("s"), text("on")];
            let statuses = [(0, row.clone()), (1, row)].into();
            let batches = [
                events(&fixture, whole, 0..3),
                events(&fixture, half, 0..4),
                batch(status, span(other, 0, 2), &statuses, vec![]),
            ];
            let committed = fixture.commit(&batches).await;
            assert_eq!(committed.rows, 2, "{broken}");
            let waiting: Vec<u32> = committed.waiting.iter().map(|it| it.file.file_no).collect();
            assert_eq!(waiting, [whole, half], "{broken}");
            let reason = &committed.waiting[0].reason;
            assert!(
                reason.contains("`vehicle_events` refuses its rows") && reason.contains(named),
                "{reason}"
            );
            let waits = fixture.sink.waiting(&[whole, half, other]).await.unwrap();
            assert_eq!(waits, [(whole, reason.clone()), (half, reason.clone())]);

            fixture.run("DROP TRIGGER audit").await;
            let committed = fixture.commit(&batches[..2]).await;
            assert_eq!((committed.rows, committed.waiting), (7, vec![]), "{broken}");
            let waits = fixture.sink.waiting(&[whole]).await.unwrap();
            assert_eq!(waits, [], "the whole file is settled");
            assert_eq!(
                fixture.number("SELECT COUNT(*) FROM ingest_rejects").await,
                0
            );
        }
    }
    // An error that depends on the values is one of the row.
    let fixture = Fixture::new(target).await;
    fixture
        .run(&format!(
            "{trigger} SELECT abs(-9223372036854775807 - (NEW.id % 4 = 1)); END"
        ))
        .await;
    let file = fixture.file("vehicle_events", 4).await;
    let committed = fixture.commit(&[events(&fixture, file, 0..4)]).await;
    assert_eq!((committed.rows, committed.refused.len()), (3, 1));
    assert_eq!(committed.waiting, []);
}

/// A column or a table of the dataset itself that is missing ends the engine, which names it: no
/// trigger is to blame.
pub async fn a_table_that_was_changed_ends_the_engine(target: Target) {
    for (change, number) in [
        ("ALTER TABLE vehicle_events DROP COLUMN event_source", 1054),
        ("DROP TABLE vehicle_events", 1146),
    ] {
        let fixture = Fixture::new(target).await;
        let file_no = fixture.file("vehicle_events", 3).await;
        fixture.run(change).await;
        let refused = fixture
            .sink
            .commit(&[events(&fixture, file_no, 0..3)])
            .await;
        let fault = refused.expect_err(change);
        assert!(!fault.is_transient(), "{change}: {fault}");
        let text = fault.to_string();
        let is_named = target.is_sqlite() || text.contains(&format!("ERROR {number} "));
        assert!(is_named && text.contains("task_runner migrate"), "{text}");
    }
}
