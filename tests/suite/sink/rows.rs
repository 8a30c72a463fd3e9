//! Clauses about `commit`.

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;

use lemonade_task::batch::{RAW_BYTES_MAX, Reject, RejectCode, row_id};
use lemonade_task::sink::{Committed, Database};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::fixture::{
    Fixture, SOME_TIME_US, Target, Val, batch, event, events, new_file, reject, span, text,
};

pub fn stored(rows: u64, duplicates: u64, refused: u64) -> Committed {
    Committed {
        rows,
        duplicates,
        refused: vec![RejectCode::RefusedByDatabase; refused as usize],
        ..Committed::default()
    }
}

/// Values that other loaders store wrong, and random values.
fn texts() -> Vec<String> {
    // Every character of one byte and of two bytes up to U+00FF, alone and among others.
    let mut texts: Vec<String> = (0..=u8::MAX)
        .map(|byte| char::from(byte).to_string())
        .collect();
    texts.extend((0..=u8::MAX).map(|byte| format!("a{}N{}", char::from(byte), char::from(byte))));
    texts.extend(
        [
            "",
            " ",
            "trailing ",
            "\\",
            "\\N",
            "\\\\N",
            "NULL",
            "\\t",
            "\\0",
            "\\'",
            "'",
            "\"",
            "`",
            "''; DROP TABLE x; --",
            "%_",
            "\r\n",
            "\u{feff}",
            "日本語",
            "😀👩‍👩‍👧",
            "e\u{301}",
            "\u{10ffff}",
            "\u{fffd}",
            "\u{202e}abc",
            "\0\0",
            "\x1a",
            "\x1b[31m",
        ]
        .map(str::to_owned),
    );
    texts.push("😀".repeat(300));
    let mut runner = TestRunner::deterministic();
    let any = proptest::collection::vec(proptest::char::any(), 0..40);
    texts.extend((0..500).map(|_| {
        let tree = any.new_tree(&mut runner).expect("nothing is filtered");
        tree.current().into_iter().collect::<String>()
    }));
    texts
}

pub async fn values_come_back_as_they_went_in(target: Target) {
    let fixture = Fixture::new(target).await;
    let times = [
        (-30_610_224_000_000_000, "1000-01-01 00:00:00.000000"),
        (-1, "1969-12-31 23:59:59.999999"),
        (0, "1970-01-01 00:00:00.000000"),
        (1_709_164_800_000_001, "2024-02-29 00:00:00.000001"),
        (253_402_300_799_999_999, "9999-12-31 23:59:59.999999"),
    ];
    let integers = [0, 1, -1, i64::MIN, i64::MAX, 1 << 53];
    let floats = [
        0.0,
        -0.0,
        0.1,
        -1.5e300,
        f64::MAX,
        f64::MIN_POSITIVE,
        5e-324,
        1e15,
        123_456_789.123_456_79,
    ];
    let jsons = [
        r#"{"a":[1,"\u0000 \\ \" é"]}"#,
        "1",
        "\"text\"",
        "[]",
        "{}",
        "true",
        "null",
    ];
    let values = texts();
    assert!(
        values.len() > 1_000,
        "enough for LOAD DATA and for several statements"
    );

    let mut rows = BTreeMap::new();
    let mut expected = Vec::new();
    for (at, value) in values.iter().enumerate() {
        let ordinal = u32::try_from(at).unwrap() * 3;
        let (time_us, time) = times[at % times.len()];
        let integer = integers[at % integers.len()];
        let float = floats[at % floats.len()];
        let json = jsons[at % jsons.len()];
        let mut row = vec![
            text(value.clone()),
            Val::Int(integer),
            Val::Float(float),
            Val::Bool(at % 2 == 0),
            Val::Time(time_us),
            text(json),
            text(r#"{"rescued": "\\"}"#),
        ];
        let mut back = row.clone();
        back[3] = Val::Int(i64::from(at % 2 == 0));
        back[4] = text(time);
        // Each column is sometimes NULL, and sometimes all columns are.
        for column in 0..7 {
            if at % 11 == column || at % 101 == 100 {
                (row[column], back[column]) = (Val::Null, Val::Null);
            }
        }
        rows.insert(ordinal, row);
        expected.push((row_id(0, ordinal), back));
    }
    let file = new_file("all_types", u32::try_from(values.len()).unwrap());
    let file_no = fixture.register(&[file]).await.unwrap()[0].file_no;
    fixture.adopt(file_no).await;
    let len = u32::try_from(values.len()).unwrap();
    let batch = batch(
        fixture.dataset("all_types"),
        span(file_no, 0, len),
        &rows,
        vec![],
    );
    assert_eq!(fixture.commit(&[batch]).await, stored(u64::from(len), 0, 0));

    let sql = "SELECT id, a_text, an_integer, a_float, a_boolean, a_time, a_json, _rescued FROM \
               all_types ORDER BY id";
    let json = |value: &Val| match value {
        Val::Text(json) => serde_json::from_str(json).expect("it is JSON"),
        _ => serde_json::Value::from("NULL"),
    };
    for (row, (id, wanted)) in fixture.query(sql).await.iter().zip(&expected) {
        let id = i64::try_from(*id).unwrap() | i64::from(file_no) << 32;
        assert_eq!(row[0], Val::Int(id));
        assert_eq!(row[1..6], wanted[..5], "row {id}");
        // MySQL stores the value of JSON; the other databases store its text.
        assert_eq!(json(&row[6]), json(&wanted[5]), "row {id}");
        assert_eq!(json(&row[7]), json(&wanted[6]), "row {id}");
    }
    let loads = "SHOW GLOBAL STATUS LIKE 'Com_load'";
    if !target.is_sqlite() {
        let loads = fixture.query(loads).await[0][1].clone();
        assert_eq!(
            loads != text("0"),
            target == Target::MysqlLoadData,
            "rows are sent in the expected way"
        );
    }
}

pub async fn a_commit_may_be_repeated(target: Target) {
    let fixture = Fixture::new(target).await;
    assert_eq!(fixture.commit(&[]).await, stored(0, 0, 0));
    let (one, two) = (
        fixture.file("vehicle_events", 1_700).await,
        fixture.file("vehicle_status", 3).await,
    );
    // Two datasets in one call, files in no order, odd sizes.
    let status = fixture.dataset("vehicle_status");
    let values = |at: u32| {
        vec![
            text("v"),
            Val::Time(SOME_TIME_US),
            text("s"),
            text(at.to_string()),
        ]
    };
    let rows = (0..3).map(|at| (at, values(at))).collect();
    let batches = [
        events(&fixture, one, 1_000..1_700),
        batch(status, span(two, 0, 3), &rows, vec![]),
        events(&fixture, one, 0..1_000),
    ];
    assert_eq!(fixture.commit(&batches).await, stored(1_703, 0, 0));
    for _ in 0..2 {
        assert_eq!(fixture.commit(&batches).await, stored(0, 1_703, 0));
    }
    // A batch twice in a call, beside a new one.
    let three = fixture.file("vehicle_events", 20).await;
    let new = events(&fixture, three, 0..20);
    assert_eq!(
        fixture
            .commit(&[new.clone(), batches[1].clone(), new])
            .await,
        stored(20, 23, 0)
    );
    assert_eq!(
        fixture
            .sink
            .count_rows(fixture.dataset("vehicle_events"))
            .await
            .unwrap(),
        1_720
    );
    assert_eq!(fixture.sink.count_rows(status).await.unwrap(), 3);
    assert_eq!(
        fixture.sink.coverage(&[one]).await.unwrap(),
        [vec![0..1_700]]
    );
    assert_eq!(
        fixture.number("SELECT COUNT(*) FROM ingest_rejects").await,
        0
    );
}

pub async fn another_cut_of_the_same_file_adds_nothing(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 3_000).await;
    for ordinals in [0..1_000, 1_500..2_000] {
        fixture.commit(&[events(&fixture, file_no, ordinals)]).await;
    }
    let cut = [
        events(&fixture, file_no, 700..1_700),
        events(&fixture, file_no, 1_700..3_000),
        events(&fixture, file_no, 0..700),
    ];
    assert_eq!(fixture.commit(&cut).await, stored(1_500, 1_500, 0));
    let bounds = "SELECT COUNT(DISTINCT id) FROM vehicle_events WHERE event_value = \
                  CONCAT('value ', id & 4294967295)";
    let bounds = if target.is_sqlite() {
        "SELECT COUNT(DISTINCT id) FROM vehicle_events WHERE event_value = 'value ' || (id & \
         4294967295)"
    } else {
        bounds
    };
    assert_eq!(fixture.number(bounds).await, 3_000);
    assert_eq!(
        fixture.sink.coverage(&[file_no]).await.unwrap(),
        [vec![0..3_000]]
    );
    fixture.sink.settle(&[file_no]).await.unwrap();
}

pub async fn workers_with_the_same_batches_store_them_once(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 2_000).await;
    let mut batches: Vec<_> = (0..8)
        .map(|at| events(&fixture, file_no, at * 250..(at + 1) * 250))
        .collect();
    let mut workers = Vec::new();
    for worker in 0..4 {
        batches.rotate_left(worker * 2);
        // In a cluster, half of the workers use one node, and half another.
        let sink: Arc<dyn Database> = match worker % 2 {
            0 => fixture.sink.clone(),
            _ => fixture.another().await,
        };
        let batches = batches.clone();
        workers.push(tokio::spawn(async move {
            let mut rows = 0;
            for batches in batches.chunks(2) {
                rows += loop {
                    match sink.commit(batches).await {
                        Ok(committed) => break committed.rows,
                        // The contract allows a deadlock: the call is repeated.
                        Err(fault) => assert!(fault.is_transient(), "{fault}"),
                    }
                };
            }
            rows
        }));
    }
    let mut rows = 0;
    for worker in workers {
        rows += worker.await.expect("no panic");
    }
    assert_eq!(
        rows, 2_000,
        "one worker stored each row, and it counts once"
    );
    for (table, expected) in [("vehicle_events", 2_000), ("ingest_frames", 8)] {
        let count = format!("SELECT COUNT(*) FROM {table}");
        assert_eq!(fixture.number(&count).await, expected);
    }
}

pub async fn rejects_are_stored_once(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 400).await;
    // Rejects of every code, with every byte, without a field, and with the longest text; too many
    // for one statement.
    let mut rejects: Vec<Reject> = (0..399)
        .map(|at| reject(at, RejectCode::ALL[at as usize % RejectCode::ALL.len()]))
        .collect();
    (rejects[5].field, rejects[6].raw) = (None, vec![0xFF; RAW_BYTES_MAX]);
    rejects[7].raw.clear();
    let rows = [(399, event(399))].into();
    let dataset = fixture.dataset("vehicle_events");
    let batch = batch(dataset, span(file_no, 0, 400), &rows, rejects.clone());
    assert_eq!(
        fixture.commit(slice::from_ref(&batch)).await,
        stored(1, 0, 0)
    );
    assert_eq!(
        fixture.commit(&[batch.clone(), batch]).await,
        stored(0, 2, 0)
    );

    let mut entries = fixture.rejects(1_000).await;
    entries.reverse();
    let back: Vec<Reject> = entries
        .into_iter()
        .map(|entry| {
            assert_eq!(entry.file_no, file_no);
            Reject {
                ordinal: entry.ordinal,
                code: entry.code,
                field: entry.field,
                byte_offset: entry.byte_offset,
                raw: entry.raw,
            }
        })
        .collect();
    assert_eq!(back, rejects);
    assert_eq!(
        fixture.sink.settle(&[file_no]).await.unwrap()[0].rejects,
        399
    );
}

/// A record stays a row or a reject, even if the definition of its dataset changes between two
/// deliveries.
pub async fn a_record_is_a_row_or_a_reject(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 3).await;
    let dataset = fixture.dataset("vehicle_events");
    let at = |ordinals: &[u32]| ordinals.iter().map(|at| (*at, event(*at))).collect();
    let rejects = |ordinals: &[u32]| {
        ordinals
            .iter()
            .map(|at| reject(*at, RejectCode::WrongType))
            .collect::<Vec<_>>()
    };
    let before = batch(dataset, span(file_no, 0, 3), &at(&[0, 2]), rejects(&[1]));
    let after = batch(dataset, span(file_no, 0, 3), &at(&[1, 2]), rejects(&[0]));
    fixture.commit(&[before]).await;
    assert_eq!(fixture.commit(&[after]).await, stored(0, 2, 0));
    let ordinals = "SELECT id & 4294967295 FROM vehicle_events ORDER BY id";
    assert_eq!(
        fixture.query(ordinals).await,
        [[Val::Int(0)], [Val::Int(2)]]
    );
    assert_eq!(
        fixture.number("SELECT ordinal FROM ingest_rejects").await,
        1
    );

    // The same if the file is cut again: as one frame, or as a part of the file.
    for records in [4, 6] {
        let file_no = fixture.file("vehicle_events", records).await;
        let before = batch(dataset, span(file_no, 0, 2), &[].into(), rejects(&[0, 1]));
        fixture.commit(&[before]).await;
        let after = events(&fixture, file_no, 0..4);
        assert_eq!(fixture.commit(&[after]).await, stored(2, 2, 0));
    }
}

pub async fn a_late_redelivery_leaves_nothing_behind(target: Target) {
    let fixture = Fixture::new(target).await;
    let (one, two) = (
        fixture.file("vehicle_events", 10).await,
        fixture.file("vehicle_events", 7).await,
    );
    let dataset = fixture.dataset("vehicle_events");
    let rejects = vec![reject(9, RejectCode::InvalidJson)];
    let only_rejects = batch(dataset, span(one, 9, 1), &[].into(), rejects);
    let rows = events(&fixture, one, 0..9);
    fixture.commit(&[rows.clone(), only_rejects.clone()]).await;
    fixture.sink.settle(&[one]).await.unwrap();

    assert_eq!(
        fixture.commit(slice::from_ref(&only_rejects)).await,
        stored(0, 0, 0)
    );
    assert_eq!(
        fixture.commit(slice::from_ref(&rows)).await,
        stored(0, 9, 0)
    );
    let new = events(&fixture, two, 0..6);
    assert_eq!(
        fixture.commit(&[only_rejects, new, rows]).await,
        stored(6, 9, 0)
    );
    let entries = fixture
        .query("SELECT file_no, records FROM ingest_frames")
        .await;
    assert_eq!(entries, [[Val::Int(two.into()), Val::Int(6)]]);
    assert_eq!(fixture.sink.totals().await.unwrap().rejects, 1);
}

pub async fn a_refused_row_is_a_reject_and_its_neighbours_are_stored(target: Target) {
    let fixture = Fixture::new(target).await;
    let refuse = if target.is_sqlite() {
        "CREATE TRIGGER picky BEFORE INSERT ON vehicle_events WHEN NEW.event_value IN ('value 0', \
         'value 777', 'value 1499') BEGIN SELECT RAISE(ABORT, 'not this one'); END"
    } else {
        "ALTER TABLE vehicle_events ADD CONSTRAINT picky CHECK (event_value NOT IN ('value 0', \
         'value 777', 'value 1499'))"
    };
    fixture.run(refuse).await;
    let rows = (0..1_500).map(|at| (at, event(at))).collect();
    refused_rows(&fixture, &rows, &[0, 777, 1_499]).await;

    if !target.is_sqlite() {
        // The only cause of refusal now is a long text: LOAD DATA would store every row, and cut
        // this text.
        let shorter = "ALTER TABLE vehicle_events DROP CONSTRAINT picky, MODIFY COLUMN event_source \
                       VARCHAR(8) NOT NULL";
        fixture.run(shorter).await;
        let mut rows: BTreeMap<u32, Vec<Val>> = rows;
        rows.get_mut(&1_234).expect("it is there")[2] = text("too long é 😀");
        refused_rows(&fixture, &rows, &[1_234]).await;
    }
}

/// Commits a file of these rows. The database refuses some of them.
async fn refused_rows(fixture: &Fixture, rows: &BTreeMap<u32, Vec<Val>>, refused: &[u32]) {
    let file_no = fixture.file("vehicle_events", 1_500).await;
    let dataset = fixture.dataset("vehicle_events");
    let rows_before = fixture.sink.count_rows(dataset).await.unwrap();
    let batch = batch(dataset, span(file_no, 0, 1_500), rows, vec![]);
    let bad = refused.len() as u64;
    assert_eq!(
        fixture.commit(slice::from_ref(&batch)).await,
        stored(1_500 - bad, 0, bad)
    );
    let rejects = fixture.rejects(refused.len()).await;
    let ordinals: Vec<u32> = rejects.iter().rev().map(|reject| reject.ordinal).collect();
    assert_eq!(ordinals, refused);
    for reject in rejects {
        assert_eq!(reject.code, RejectCode::RefusedByDatabase);
        let message = reject.message.as_deref().unwrap_or_default();
        let is_named = ["picky", "event_source", "not this one"];
        assert!(
            is_named.iter().any(|name| message.contains(name)),
            "{message}"
        );
        assert!(reject.code.is_of_database());
        assert_eq!((reject.field, reject.byte_offset), (None, 0));
        let raw: serde_json::Value = serde_json::from_slice(&reject.raw).expect("it is JSON");
        assert_eq!(raw["event_value"], format!("value {}", reject.ordinal));
        assert_eq!(raw["event_extra_data"]["note"], "n");
    }
    // The neighbours are stored, and a redelivery changes nothing.
    let again = fixture.commit(&[batch]).await;
    assert_eq!(again.rows, 0);
    assert_eq!(again.duplicates + again.refused.len() as u64, 1_500);
    assert_eq!(
        fixture.sink.count_rows(dataset).await.unwrap(),
        rows_before + 1_500 - bad
    );
    assert_eq!(
        fixture.sink.coverage(&[file_no]).await.unwrap(),
        [vec![0..1_500]]
    );
    let settled = fixture.sink.settle(&[file_no]).await.unwrap();
    assert_eq!(u64::from(settled[0].rejects), bad);
}

pub async fn another_unique_key_makes_a_reject(target: Target) {
    let fixture = Fixture::new(target).await;
    fixture
        .run("CREATE UNIQUE INDEX mine ON vehicle_events (event_value)")
        .await;
    let (one, two) = (
        fixture.file("vehicle_events", 1_200).await,
        fixture.file("vehicle_events", 3).await,
    );
    assert_eq!(
        fixture.commit(&[events(&fixture, one, 0..600)]).await,
        stored(600, 0, 0)
    );
    // The second file repeats a value of the first file, and has one value twice.
    let dataset = fixture.dataset("vehicle_events");
    let rows = [(0, event(2_000)), (1, event(5)), (2, event(2_000))].into();
    let clash = batch(dataset, span(two, 0, 3), &rows, vec![]);
    let expected = Committed {
        refused: vec![RejectCode::DuplicateKeyInTable; 2],
        ..stored(601, 0, 0)
    };
    assert_eq!(
        fixture
            .commit(&[clash.clone(), events(&fixture, one, 600..1_200)])
            .await,
        expected
    );
    let again = fixture.commit(&[clash]).await;
    assert_eq!(again.rows, 0);
    assert_eq!(again.duplicates + again.refused.len() as u64, 3);
    let rejects = fixture.rejects(10).await;
    let places: Vec<_> = rejects
        .iter()
        .map(|r| (r.file_no, r.ordinal, r.code))
        .collect();
    let code = RejectCode::DuplicateKeyInTable;
    assert_eq!(places, [(two, 2, code), (two, 1, code)]);
    for reject in &rejects {
        let message = reject.message.as_deref().unwrap_or_default();
        let is_named = message.contains("event_value") || message.contains("mine");
        assert!(is_named, "{message}");
    }
    assert!(code.is_of_database() && rejects.iter().all(|reject| reject.byte_offset == 0));
    assert_eq!(fixture.sink.settle(&[two]).await.unwrap()[0].rejects, 2);
}

/// Rows that are larger than a statement, and rows that are larger than the server accepts.
pub async fn large_rows_are_stored_or_refused(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 7).await;
    let json = |bytes: usize| text(format!("[\"{}\"]", "x".repeat(bytes)));
    let mut rows: BTreeMap<u32, Vec<Val>> = (0..7).map(|at| (at, event(at))).collect();
    for (ordinal, bytes) in [(1, 3 << 20), (2, 900_000), (3, 900_000), (4, 1 << 20)] {
        rows.get_mut(&ordinal).expect("it is there")[5] = json(bytes);
    }
    let mut refused = 0;
    if target == Target::Mariadb {
        let limit = fixture.number("SELECT @@max_allowed_packet").await;
        rows.get_mut(&5).expect("it is there")[5] = json(usize::try_from(limit).unwrap());
        refused = 1;
    }
    let dataset = fixture.dataset("vehicle_events");
    let batch = batch(dataset, span(file_no, 0, 7), &rows, vec![]);
    assert_eq!(
        fixture.commit(&[batch]).await,
        stored(7 - refused, 0, refused)
    );
    for reject in fixture.rejects(1).await {
        assert_eq!((reject.ordinal, reject.raw.len()), (5, RAW_BYTES_MAX));
        let message = reject.message.unwrap_or_default();
        assert!(message.contains("max_allowed_packet"), "{message}");
    }
}

pub async fn a_lost_connection_is_transient(target: Target) {
    if target.is_sqlite() {
        return; // SQLite has no connection to lose.
    }
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 10).await;
    fixture.commit(&[events(&fixture, file_no, 0..5)]).await;
    fixture.kill_connections().await;
    let batches = [events(&fixture, file_no, 0..10)];
    let mut faults = 0;
    while let Err(fault) = fixture.sink.commit(&batches).await {
        assert!(fault.is_transient(), "{fault}");
        faults += 1;
        assert!(faults < 5, "a new connection was due long ago");
    }
    assert!(faults > 0, "the killed connection was noticed");
    assert_eq!(
        fixture
            .sink
            .count_rows(fixture.dataset("vehicle_events"))
            .await
            .unwrap_or(10),
        10
    );
}
