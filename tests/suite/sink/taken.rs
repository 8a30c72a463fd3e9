//! Clauses about rows of other writers under the ids of records.

use std::slice;

use lemonade_task::batch::{RejectCode, row_id};
use lemonade_task::sink::{Committed, Replayed};
use lemonade_task::timestamp;

use super::fixture::{
    Fixture, SOME_TIME_US, Target, Val, batch, event, events, reject, replay_of, span, text,
};
use super::rows::stored;

/// Another program writes rows with ids that belong to records: the records become rejects, and the
/// rows stay. A row that equals its record counts as its row.
pub async fn a_row_of_another_writer_costs_no_record(target: Target) {
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("vehicle_events");
    let insert = |id: u64, ordinal: u32, value: &str| {
        format!(
            "INSERT INTO vehicle_events VALUES ({id}, 'vehicle-{}', '{}', 'a source', 'type', '{value}', \
             '{{\"note\": \"n\"}}', NULL)",
            ordinal % 7,
            timestamp::text(SOME_TIME_US + i64::from(ordinal)),
        )
    };
    // Before the first commit, between two commits, and in the last one: each time a foreign row
    // and an equal row.
    let file_no = fixture.file("vehicle_events", 1_800).await;
    for ordinal in [0, 599, 600, 1_000, 1_799] {
        let sql = insert(row_id(file_no, ordinal), ordinal, "another value");
        fixture.run(&sql).await;
    }
    for ordinal in [1, 601, 1_200] {
        let value = format!("value {ordinal}");
        let sql = insert(row_id(file_no, ordinal), ordinal, &value);
        fixture.run(&sql).await;
    }
    for (ordinals, taken) in [(0..600, 2), (600..1_200, 2), (1_200..1_800, 1)] {
        let committed = fixture.commit(&[events(&fixture, file_no, ordinals)]).await;
        let expected = Committed {
            refused: vec![RejectCode::IdTaken; taken],
            ..stored(599 - taken as u64, 1, 0)
        };
        assert_eq!(committed, expected);
    }
    let rejects = fixture.rejects(10).await;
    let places: Vec<(u32, RejectCode)> = rejects.iter().map(|r| (r.ordinal, r.code)).collect();
    let expected = [1_799, 1_000, 600, 599, 0].map(|ordinal| (ordinal, RejectCode::IdTaken));
    assert_eq!(places, expected);
    let foreign = "SELECT COUNT(*) FROM vehicle_events WHERE event_value = 'another value'";
    assert_eq!(fixture.number(foreign).await, 5);
    let settled = fixture.sink.settle(&[file_no]).await.unwrap();
    assert_eq!((settled[0].records, settled[0].rejects), (1_800, 5));

    // Delivered again in frames of another size: nothing changes, and no row becomes a reject.
    let again = fixture.commit(&[events(&fixture, file_no, 0..1_800)]).await;
    assert_eq!(again, stored(0, 1_800, 0));
    assert_eq!(fixture.rejects(10).await.len(), 5);
    // The summary has no foreign row.
    let ids = row_id(file_no, 0)..row_id(file_no, 2_000);
    let scanned = fixture
        .sink
        .summary_scan(dataset, ids, 5_000)
        .await
        .unwrap();
    assert_eq!(scanned.len(), 1_795);

    // If another program has stored a row with the id of a reject, a replay does not count the row
    // as the record's: it stays a reject.
    let other = fixture.file("vehicle_events", 2).await;
    fixture.run(&insert(row_id(other, 0), 0, "foreign")).await;
    let reject = reject(0, RejectCode::WrongType);
    let rows = [(1, event(1))].into();
    let mixed = batch(dataset, span(other, 0, 2), &rows, vec![reject.clone()]);
    assert_eq!(fixture.commit(&[mixed]).await, stored(1, 0, 0));
    assert_eq!(fixture.rejects(1).await[0].code, RejectCode::WrongType);
    let mended = batch(dataset, span(other, 0, 1), &[(0, event(0))].into(), vec![]);
    let mended = replay_of(mended);
    let replayed = fixture.sink.replay(slice::from_ref(&mended)).await.unwrap();
    let refused = Replayed::Refused {
        code: RejectCode::IdTaken,
        message: None,
    };
    assert_eq!(replayed, [refused]);
    fixture
        .run(&format!(
            "DELETE FROM vehicle_events WHERE id = {}",
            row_id(other, 0)
        ))
        .await;
    let replayed = fixture.sink.replay(&[mended]).await.unwrap();
    assert_eq!(replayed, [Replayed::Stored]);
}

/// In every type of column, a difference of one bit tells a row from its record.
pub async fn a_row_counts_as_a_record_only_if_all_values_are_equal(target: Target) {
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("all_types");
    let record = || {
        vec![
            text("a "),
            Val::Int(i64::MAX),
            Val::Float(0.1),
            Val::Bool(true),
            Val::Time(SOME_TIME_US + 1),
            text(r#"{"a":1.10,"big":12345678901234567890,"a":2}"#),
        ]
    };
    let harms = [
        "",
        "a_text = 'a'",
        "a_text = 'A '",
        "a_text = NULL",
        "an_integer = 9223372036854775806",
        "a_float = 0.1000000000000000055",
        "a_float = 0.10000000000000002",
        "a_boolean = 0",
        "a_time = '2022-06-05 21:02:34.000002'",
        "a_json = '{\"a\":1.1,\"big\":12345678901234567890,\"a\":2}'",
        "_rescued = '{}'",
    ];
    // The same double as in the first case, in other digits.
    let equal = [0, 5];
    for (at, harm) in harms.iter().enumerate() {
        let file_no = fixture.file("all_types", 2).await;
        let one = batch(
            dataset,
            span(file_no, 0, 1),
            &[(0, record())].into(),
            vec![],
        );
        assert_eq!(fixture.commit(slice::from_ref(&one)).await, stored(1, 0, 0));
        // Without its ledger entry, the row counts as one of another program.
        let forget = format!("DELETE FROM ingest_frames WHERE file_no = {file_no}");
        fixture.run(&forget).await;
        if !harm.is_empty() {
            let id = row_id(file_no, 0);
            let sql = format!("UPDATE all_types SET {harm} WHERE id = {id}");
            fixture.run(&sql).await;
        }
        let committed = fixture.commit(&[one]).await;
        let expected = if equal.contains(&at) {
            stored(0, 1, 0)
        } else {
            Committed {
                refused: vec![RejectCode::IdTaken],
                ..stored(0, 0, 0)
            }
        };
        assert_eq!(committed, expected, "{harm}");
    }
}
