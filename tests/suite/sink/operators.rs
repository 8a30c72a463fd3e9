//! Clauses about operators: what they read, replay and purge.

use lemonade_task::batch::{RejectCode, row_id};
use lemonade_task::sink::{
    Acknowledged, Audit, FileState, LedgerFile, Purge, RejectQuery, Replay, Replayed, Standing,
};

use super::fixture::{
    Fixture, Target, Val, batch, event, events, new_file, reject, replay_of, span, text,
};

/// A settled file with this number of records; these ordinals are rejects.
async fn settled(fixture: &Fixture, records: u32, rejects: &[u32]) -> u32 {
    let file_no = fixture.file("vehicle_events", records).await;
    let rows = (0..records)
        .filter(|ordinal| !rejects.contains(ordinal))
        .map(|ordinal| (ordinal, event(ordinal)))
        .collect();
    let rejects = rejects
        .iter()
        .map(|ordinal| reject(*ordinal, RejectCode::WrongType))
        .collect();
    let dataset = fixture.dataset("vehicle_events");
    let whole = batch(dataset, span(file_no, 0, records), &rows, rejects);
    fixture.commit(&[whole]).await;
    fixture.sink.settle(&[file_no]).await.unwrap();
    file_no
}

/// A corrected record.
fn correction(fixture: &Fixture, file_no: u32, ordinal: u32) -> Replay {
    replay_of(events(fixture, file_no, ordinal..ordinal + 1))
}

async fn audit(fixture: &Fixture, file_no: u32) -> Audit {
    let dataset = fixture.dataset("vehicle_events");
    fixture.sink.audit(dataset, &[file_no]).await.unwrap()[0]
}

pub async fn files_are_listed_by_state_and_page(target: Target) {
    let fixture = Fixture::new(target).await;
    let first = settled(&fixture, 3, &[1]).await;
    let pending = fixture.file("vehicle_status", 1).await;
    let set_aside = new_file("", 0);
    fixture.sink.quarantine(&set_aside, "why").await.unwrap();
    let last = settled(&fixture, 1, &[]).await;

    let of = async |below: u32, state: Option<FileState>, max: usize| -> Vec<LedgerFile> {
        fixture.sink.files(0..below, state, max).await.unwrap()
    };
    let numbers = |files: &[LedgerFile]| files.iter().map(|f| f.entry.file_no).collect::<Vec<_>>();
    let all = of(u32::MAX, None, 10).await;
    assert_eq!(numbers(&all), [last, all[1].entry.file_no, pending, first]);
    assert_eq!(all[1].hash, set_aside.hash);
    assert_eq!(all[1].entry.reason.as_deref(), Some("why"));
    assert!(all[1].settled_at.is_none() && all[0].settled_at.is_some());
    assert!(
        all.iter()
            .all(|file| file.registered_at.as_bytes()[10] == b'T')
    );
    assert_eq!((all[3].entry.records, all[3].entry.rejects), (3, 1));

    let is_settled = Some(FileState::Settled);
    let page = of(u32::MAX, is_settled, 1).await;
    assert_eq!(numbers(&page), [last]);
    assert_eq!(numbers(&of(last, is_settled, 10).await), [first]);
    assert_eq!(
        numbers(&of(u32::MAX, Some(FileState::Pending), 9).await),
        [pending]
    );
    let one = fixture.sink.files(pending..pending + 1, None, 9).await;
    assert_eq!(numbers(&one.unwrap()), [pending]);
}

pub async fn newer_acknowledged_numbers_are_not_lowered(target: Target) {
    let fixture = Fixture::new(target).await;
    let sink = &fixture.sink;
    let numbers = |quarantined, rejects| Acknowledged {
        quarantined,
        rejects,
    };
    let known = async || sink.acknowledged_totals().await.unwrap();
    sink.lower_acknowledged(numbers(3, 4), numbers(1, 1))
        .await
        .unwrap();
    assert_eq!(known().await, Acknowledged::default());
    sink.acknowledge_totals(numbers(3, 4)).await.unwrap();
    for (from, to, expected) in [
        (numbers(2, 4), numbers(1, 1), numbers(3, 4)),
        (numbers(3, 4), numbers(3, 2), numbers(3, 2)),
        (numbers(3, 4), numbers(0, 0), numbers(3, 2)),
    ] {
        sink.lower_acknowledged(from, to).await.unwrap();
        assert_eq!(known().await, expected, "{from:?} {to:?}");
    }
}

pub async fn an_audit_counts_what_is_stored(target: Target) {
    let fixture = Fixture::new(target).await;
    let whole = settled(&fixture, 10, &[3, 9]).await;
    let other = settled(&fixture, 2, &[]).await;
    let empty = settled(&fixture, 0, &[]).await;
    let dataset = fixture.dataset("vehicle_events");
    let audits = fixture
        .sink
        .audit(dataset, &[empty, whole, other])
        .await
        .unwrap();
    let nothing = |file_no| Audit {
        file_no,
        ..Audit::default()
    };
    let counted = Audit {
        rows: 8,
        rejects: 2,
        last_ordinal: Some(9),
        ..nothing(whole)
    };
    let of_other = Audit {
        rows: 2,
        last_ordinal: Some(1),
        ..nothing(other)
    };
    assert_eq!(audits, [nothing(empty), counted, of_other]);
    assert!(fixture.sink.audit(dataset, &[]).await.unwrap().is_empty());

    // Each kind of damage is done by hand.
    let id = row_id(whole, 4);
    fixture
        .run(&format!("DELETE FROM vehicle_events WHERE id = {id}"))
        .await;
    let (first, beyond) = (row_id(other, 0), row_id(whole, 20));
    fixture
        .run(&format!(
            "UPDATE vehicle_events SET id = {beyond} WHERE id = {first}"
        ))
        .await;
    fixture
        .run(&format!(
            "UPDATE ingest_rejects SET ordinal = 5 WHERE file_no = {whole} AND ordinal = 9"
        ))
        .await;
    fixture
        .run(&format!(
            "INSERT INTO ingest_frames VALUES ({whole}, 0, 10)"
        ))
        .await;
    let broken = Audit {
        rows: 8,
        rejects: 2,
        doubled: 1,
        last_ordinal: Some(20),
        entries: 1,
        ..nothing(whole)
    };
    assert_eq!(audit(&fixture, whole).await, broken);
    assert_eq!(audit(&fixture, other).await.rows, 1);

    let of_file = row_id(whole, 0)..row_id(whole, 10);
    let ids = fixture.sink.row_ids(dataset, of_file, 4).await.unwrap();
    assert_eq!(ids, [0, 1, 2, 5].map(|ordinal| row_id(whole, ordinal)));
    for (ordinal, standing) in [
        (0, Standing::Row),
        (5, Standing::Reject),
        (3, Standing::Reject),
        (4, Standing::Absent),
    ] {
        let id = row_id(whole, ordinal);
        assert_eq!(fixture.sink.standing(dataset, id).await.unwrap(), standing);
    }
}

pub async fn rejects_are_found_by_their_query(target: Target) {
    let fixture = Fixture::new(target).await;
    let first = settled(&fixture, 4, &[0, 2, 3]).await;
    let last = fixture.file("vehicle_events", 1).await;
    let broken = vec![reject(0, RejectCode::InvalidJson)];
    let dataset = fixture.dataset("vehicle_events");
    fixture
        .commit(&[batch(dataset, span(last, 0, 1), &[].into(), broken)])
        .await;

    let find = async |query: RejectQuery, max: usize| -> Vec<(u32, u32)> {
        let found = fixture.sink.find_rejects(&query, max).await.unwrap();
        found
            .iter()
            .map(|reject| (reject.entry.file_no, reject.entry.ordinal))
            .collect()
    };
    let any = RejectQuery::default();
    let all = [(last, 0), (first, 3), (first, 2), (first, 0)];
    assert_eq!(find(any, 10).await, all);
    let mut paged = Vec::new();
    while let Some(place) = find(
        RejectQuery {
            before: paged.last().copied(),
            ..any
        },
        1,
    )
    .await
    .first()
    {
        paged.push(*place);
    }
    assert_eq!(paged, all);
    let of_first = RejectQuery {
        file_no: Some(first),
        ..any
    };
    assert_eq!(find(of_first, 2).await, all[1..3]);
    let code = RejectQuery {
        code: Some(RejectCode::InvalidJson),
        ..any
    };
    assert_eq!(find(code, 10).await, all[..1]);
    let one = RejectQuery {
        ordinal: Some(2),
        ..of_first
    };
    let found = fixture.sink.find_rejects(&one, 10).await.unwrap().remove(0);
    let stored = reject(2, RejectCode::WrongType);
    assert_eq!(
        (found.entry.raw, found.entry.field),
        (stored.raw, stored.field)
    );
    assert!(found.rejected_at.ends_with('Z'), "{}", found.rejected_at);
}

pub async fn a_corrected_record_takes_the_place_of_its_reject(target: Target) {
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("vehicle_events");
    let file_no = settled(&fixture, 5, &[1, 3]).await;
    let lacking = fixture.sink.summary_pending(dataset, 9).await.unwrap();
    fixture
        .sink
        .summary_merge(dataset, &[], &lacking, None)
        .await
        .unwrap();
    assert!(
        fixture
            .sink
            .summary_pending(dataset, 9)
            .await
            .unwrap()
            .is_empty()
    );

    let given = [
        correction(&fixture, file_no, 1),
        correction(&fixture, file_no, 0),
    ];
    let replayed = fixture.sink.replay(&given).await.unwrap();
    assert_eq!(replayed, [Replayed::Stored, Replayed::AlreadyThere]);
    let counted = audit(&fixture, file_no).await;
    assert_eq!((counted.rows, counted.rejects, counted.doubled), (4, 1, 0));
    let of = |id: u64| format!("SELECT event_value FROM vehicle_events WHERE id = {id}");
    let value = fixture.query(&of(row_id(file_no, 1))).await;
    assert_eq!(value, [[text("value 1")]]);
    // The ledger counts the reject no more, and the summary has the new row.
    let file = fixture
        .sink
        .files(file_no..file_no + 1, None, 1)
        .await
        .unwrap();
    assert_eq!(file[0].entry.rejects, 1);
    let summarised = fixture.sink.summary_head(dataset, 9).await.unwrap();
    assert_eq!(summarised.len(), 1, "{summarised:?}");
    let last = (summarised[0].id, summarised[0].key.as_str());
    assert_eq!(last, (row_id(file_no, 1), "vehicle-1"));

    // Replaying again changes nothing; nor does a record that does not exist.
    let replayed = fixture.sink.replay(&given[..1]).await.unwrap();
    assert_eq!(replayed, [Replayed::AlreadyThere]);
    let nowhere = [correction(&fixture, file_no + 7, 0)];
    let replayed = fixture.sink.replay(&nowhere).await.unwrap();
    assert_eq!(replayed, [Replayed::NoReject]);
    assert_eq!(audit(&fixture, file_no).await, counted);
    assert_eq!(audit(&fixture, file_no + 7).await.rows, 0);
    assert!(fixture.sink.replay(&[]).await.unwrap().is_empty());

    // A late redelivery of the file's frame does not bring the reject back.
    let late = batch(
        dataset,
        span(file_no, 1, 1),
        &[].into(),
        vec![reject(1, RejectCode::WrongType)],
    );
    fixture.commit(&[late]).await;
    assert_eq!(audit(&fixture, file_no).await, counted);
}

pub async fn what_the_database_refuses_stays_a_reject(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = settled(&fixture, 4, &[0, 1, 2]).await;
    fixture
        .run("CREATE UNIQUE INDEX one_value ON vehicle_events (event_value)")
        .await;
    let dataset = fixture.dataset("vehicle_events");
    // The value of row 3, which the user's unique index allows only once.
    let taken = batch(
        dataset,
        span(file_no, 1, 1),
        &[(1, event(3))].into(),
        vec![],
    );
    let good = |ordinal| correction(&fixture, file_no, ordinal);
    let given = [good(0), replay_of(taken), good(2)];
    let replayed = fixture.sink.replay(&given).await.unwrap();
    assert_eq!([&replayed[0], &replayed[2]], [&Replayed::Stored; 2]);
    let Replayed::Refused { code, message } = &replayed[1] else {
        panic!("{replayed:?}")
    };
    assert_eq!(*code, RejectCode::DuplicateKeyInTable);
    let message = message.as_deref().unwrap_or_default();
    let is_named = message.contains("one_value") || message.contains("vehicle_events.event_value");
    assert!(is_named, "{message}");
    // The ledger keeps the text of each stored replay.
    let texts = "SELECT ordinal, CAST(text AS CHAR) FROM ingest_replays ORDER BY ordinal";
    let kept = |ordinal: u32| [Val::Int(ordinal.into()), text(format!("text {ordinal}"))];
    assert_eq!(fixture.query(texts).await, [kept(0), kept(2)]);
    let counted = audit(&fixture, file_no).await;
    assert_eq!((counted.rows, counted.rejects, counted.doubled), (3, 1, 0));
    let id = row_id(file_no, 1);
    assert_eq!(
        fixture.sink.standing(dataset, id).await.unwrap(),
        Standing::Reject
    );
}

pub async fn purged_rejects_stay_accounted_for(target: Target) {
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("vehicle_events");
    let file_no = settled(&fixture, 6, &[0, 1, 2, 5]).await;
    let other = settled(&fixture, 2, &[1]).await;
    // A reject of a file that is not settled is not purged: its records may be delivered again.
    let pending = fixture.file("vehicle_events", 2).await;
    let rejects = vec![reject(0, RejectCode::WrongType)];
    fixture
        .commit(&[batch(dataset, span(pending, 0, 1), &[].into(), rejects)])
        .await;

    let long_ago = Purge {
        before_us: Some(0),
        ..Purge::default()
    };
    assert_eq!(fixture.sink.count_purge(&long_ago).await.unwrap(), 0);
    assert_eq!(fixture.sink.purge(&long_ago, 100).await.unwrap(), 0);
    let of_file = Purge {
        file_no: Some(file_no),
        before_us: Some(32_503_680_000_000_000),
    };
    assert_eq!(fixture.sink.count_purge(&of_file).await.unwrap(), 4);
    assert_eq!(fixture.sink.purge(&of_file, 3).await.unwrap(), 3);
    assert_eq!(fixture.sink.purge(&of_file, 3).await.unwrap(), 1);
    assert_eq!(fixture.sink.purge(&of_file, 3).await.unwrap(), 0);
    let counted = audit(&fixture, file_no).await;
    assert_eq!((counted.rows, counted.rejects, counted.purged), (2, 0, 4));
    assert_eq!(counted.last_ordinal, Some(5));
    let standing = fixture.sink.standing(dataset, row_id(file_no, 5)).await;
    assert_eq!(standing.unwrap(), Standing::Purged);

    // A late redelivery brings a purged reject back: it counts once, and the next purge removes it.
    let late = vec![reject(0, RejectCode::WrongType)];
    fixture
        .commit(&[batch(dataset, span(file_no, 0, 1), &[].into(), late)])
        .await;
    let counted = audit(&fixture, file_no).await;
    assert_eq!((counted.rejects, counted.purged), (1, 3));
    // A corrected record can also be stored for a purged reject.
    let given = [
        correction(&fixture, file_no, 0),
        correction(&fixture, file_no, 1),
    ];
    let replayed = fixture.sink.replay(&given).await.unwrap();
    assert_eq!(replayed, [Replayed::Stored, Replayed::Stored]);
    let counted = audit(&fixture, file_no).await;
    let all = (
        counted.rows,
        counted.rejects,
        counted.purged,
        counted.doubled,
    );
    assert_eq!(all, (4, 0, 2, 0));

    assert_eq!(fixture.sink.purge(&Purge::default(), 100).await.unwrap(), 1);
    assert_eq!(audit(&fixture, other).await.purged, 1);
    assert_eq!(
        fixture.number("SELECT COUNT(*) FROM ingest_rejects").await,
        1
    );
}
