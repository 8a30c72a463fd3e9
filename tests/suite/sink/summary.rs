//! Clauses about the daily summary.

use std::collections::BTreeMap;
use std::sync::Arc;

use lemonade_task::batch::row_id;
use lemonade_task::dataset::Datasets;
use lemonade_task::sink::{LastEvent, Merged, SummaryStore, Unsummarised};
use lemonade_task::summary::{self, Accumulator};
use lemonade_task::zone::Zone;
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, SOME_TIME_US, Target, Val, events};
use crate::support;

const DAY_US: i64 = 86_400_000_000;

/// Candidates with many ties: keys that differ in case, accent or a trailing space only, few times,
/// days on both sides of the epoch.
fn candidates(file_no: u32) -> Vec<LastEvent> {
    let keys = ["a", "A", "á", "a ", "b", "日本"];
    let mut seed = 7_u64;
    let mut next = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    (0..3_000)
        .map(|id| {
            let day = i64::try_from(next(5)).unwrap() - 2;
            let within = i64::try_from(next(3)).unwrap() * (DAY_US / 2 - 1);
            LastEvent {
                key: keys[usize::try_from(next(6)).unwrap()].to_owned(),
                time_us: day * DAY_US + within.min(DAY_US - 1),
                value: format!("type {id}"),
                id: row_id(file_no, id),
            }
        })
        .collect()
}

/// The expected result: for each key and day, the largest (time, id).
fn brute_force(candidates: &[LastEvent]) -> Vec<LastEvent> {
    let mut last: BTreeMap<(i64, &str), &LastEvent> = BTreeMap::new();
    for event in candidates {
        let at = last
            .entry((-event.time_us.div_euclid(DAY_US), &event.key))
            .or_insert(event);
        if (at.time_us, at.id) < (event.time_us, event.id) {
            *at = event;
        }
    }
    last.into_values().cloned().collect()
}

pub async fn the_last_event_stays_in_any_order(target: Target) {
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("vehicle_events");
    let file_no = fixture.file("vehicle_events", 3_000).await;
    let all = candidates(file_no);
    let expected = brute_force(&all);
    assert!(expected.len() > 20);
    for turn in 0..3 {
        fixture.sink.summary_reset(dataset).await.unwrap();
        assert!(
            fixture
                .sink
                .summary_head(dataset, 10)
                .await
                .unwrap()
                .is_empty()
        );
        let mut order = all.clone();
        match turn {
            0 => {}
            1 => order.reverse(),
            _ => order.sort_by_key(|event| (event.id.wrapping_mul(2_654_435_761)) % 4_001),
        }
        for part in order.chunks(701 + turn * 600) {
            fixture
                .sink
                .summary_merge(dataset, part, &[], None)
                .await
                .unwrap();
        }
        // Merging again changes nothing.
        fixture
            .sink
            .summary_merge(dataset, &order[..900], &[], None)
            .await
            .unwrap();
        let head = fixture.sink.summary_head(dataset, 1_000).await.unwrap();
        assert_eq!(head, expected, "turn {turn}");
        assert_eq!(
            fixture.sink.summary_head(dataset, 3).await.unwrap(),
            expected[..3]
        );
    }
    // More keys than fit into one statement.
    let many: Vec<LastEvent> = (0..2_345)
        .map(|at| LastEvent {
            key: format!("key {at:05}"),
            time_us: SOME_TIME_US,
            value: String::new(),
            id: row_id(file_no, at),
        })
        .collect();
    fixture
        .sink
        .summary_merge(dataset, &many, &[], None)
        .await
        .unwrap();
    assert_eq!(
        fixture.sink.summary_head(dataset, 2_345).await.unwrap(),
        many
    );
    // Nothing is merged into days of another time zone.
    let mut zoned = (**dataset).clone();
    zoned.summary.as_mut().unwrap().time_zone = Zone::named("Europe/Berlin").unwrap();
    let zoned = Arc::new(zoned);
    let refused = fixture
        .sink
        .summary_merge(&zoned, &all[..1], &[], None)
        .await;
    let refused = refused.unwrap_err();
    assert!(!refused.is_transient(), "{refused}");
    assert_eq!(
        fixture.sink.summary_head(dataset, 2_345).await.unwrap(),
        many
    );
    // Once the summary is emptied for it, those of the former zone are refused.
    fixture.sink.summary_reset(&zoned).await.unwrap();
    let merged = fixture
        .sink
        .summary_merge(&zoned, &all[..1], &[], None)
        .await;
    assert_eq!(merged.unwrap(), Merged::All);
    let refused = fixture
        .sink
        .summary_merge(dataset, &all[..1], &[], None)
        .await;
    assert!(!refused.unwrap_err().is_transient());
}

pub async fn the_way_of_a_file_into_the_summary(target: Target) {
    let fixture = Fixture::new(target).await;
    let dataset = fixture.dataset("vehicle_events");
    let mut files = Vec::new();
    for _ in 0..3 {
        let file_no = fixture.file("vehicle_events", 5).await;
        let parts = [0..2, 2..5].map(|ordinals| events(&fixture, file_no, ordinals));
        fixture.commit(&parts).await;
        files.push(file_no);
    }
    assert!(
        fixture
            .sink
            .summary_pending(dataset, 9)
            .await
            .unwrap()
            .is_empty(),
        "none is settled"
    );
    fixture.sink.settle(&files).await.unwrap();
    let lacking = fixture.sink.summary_pending(dataset, 2).await.unwrap();
    let expected = |file_no: &u32| Unsummarised {
        file_no: *file_no,
        records: 5,
        mark: 0,
    };
    assert_eq!(lacking, files[..2].iter().map(expected).collect::<Vec<_>>());

    let ids = |file_no: u32| u64::from(file_no) << 32..u64::from(file_no + 1) << 32;
    let first = fixture
        .sink
        .summary_scan(dataset, ids(files[0]), 3)
        .await
        .unwrap();
    let from = first.last().expect("there are rows").id + 1;
    let rest = from..ids(files[0]).end;
    let second = fixture.sink.summary_scan(dataset, rest, 3).await.unwrap();
    let scanned: Vec<LastEvent> = first.into_iter().chain(second).collect();
    let expected: Vec<LastEvent> = (0..5_u32)
        .map(|ordinal| LastEvent {
            key: format!("vehicle-{ordinal}"),
            time_us: SOME_TIME_US + i64::from(ordinal),
            value: "type".to_owned(),
            id: u64::from(files[0]) << 32 | u64::from(ordinal),
        })
        .map(|event| LastEvent {
            time_us: event.time_us,
            ..event
        })
        .collect();
    assert_eq!(scanned, expected);

    fixture
        .sink
        .summary_merge(dataset, &scanned, &lacking[..1], None)
        .await
        .unwrap();
    let pending = async || {
        let pending = fixture.sink.summary_pending(dataset, 9).await.unwrap();
        let read = pending.iter().map(Unsummarised::must_be_read).collect();
        let files = pending.into_iter().map(|file| file.file_no).collect();
        (files, read)
    };
    assert_eq!(pending().await, (files[1..].to_vec(), vec![false; 2]));
    assert_eq!(
        fixture.sink.summary_head(dataset, 9).await.unwrap(),
        expected
    );
    let day = "SELECT COUNT(*) FROM daily_summary WHERE day = '2022-06-05' AND last_event_type = \
               'type' AND last_event_time >= '2022-06-05 21:02:34' AND last_id > 0 AND vehicle_id \
               LIKE 'vehicle-%'";
    assert_eq!(fixture.number(day).await, 5);
    // The key can be joined with its column.
    let join = "SELECT COUNT(*) FROM daily_summary s JOIN vehicle_events e ON e.vehicle_id = \
                s.vehicle_id";
    assert_eq!(fixture.number(join).await, 15);
    for _ in 0..2 {
        // A refresh that read the ledger before the rebuild, and marks the files after it, has not
        // read their rows again.
        let before = fixture.sink.summary_pending(dataset, 9).await.unwrap();
        fixture.sink.summary_reset(dataset).await.unwrap();
        let marked = fixture
            .sink
            .summary_merge(dataset, &[], &before, None)
            .await;
        marked.unwrap();
        let (mut found, read) = pending().await;
        found.sort_unstable();
        assert_eq!((found, read), (files.clone(), vec![true; 3]));
    }
}

/// The service has merged the entries of a file in work; then an operator rebuilds the summary.
pub async fn a_summary_is_made_again_beside_a_load(target: Target) {
    let fixture = Fixture::new(target).await;
    let store: Arc<dyn SummaryStore> = fixture.sink.clone();
    let datasets = Datasets::new(Vec::new()).unwrap();
    let stop = CancellationToken::new();
    let service = Accumulator::new(store.clone());
    let refresh = async || {
        let done = summary::refresh(&service, &datasets, None, &stop).await;
        let done = done.map_err(drop).expect("the database answers");
        (done.files, done.rows_read)
    };
    let commit = async |file_no, ordinals| {
        let batch = [events(&fixture, file_no, ordinals)];
        fixture.commit(&batch).await;
        service.add(&batch);
    };
    let whole = fixture.file("vehicle_events", 5).await;
    let in_work = fixture.file("vehicle_events", 5).await;
    commit(whole, 0..5).await;
    commit(in_work, 0..2).await;
    assert_eq!(refresh().await, (1, 0));

    let rebuilt = summary::rebuild(&store, &datasets, &stop).await;
    assert_eq!(rebuilt.map_err(drop).expect("it is there").rows_read, 5);
    commit(in_work, 2..5).await;
    fixture.sink.settle(&[in_work]).await.unwrap();
    assert_eq!(refresh().await, (1, 5), "all of its rows are read");
    let dataset = fixture.dataset("vehicle_events");
    let head = async || {
        let head = fixture.sink.summary_head(dataset, 9).await.unwrap();
        head.iter().map(|last| last.id).collect::<Vec<u64>>()
    };
    let expected: Vec<u64> = (0..5).map(|ordinal| row_id(in_work, ordinal)).collect();
    assert_eq!(head().await, expected);

    // The summary is also rebuilt, without a command, if its table is new.
    fixture.run("DROP TABLE daily_summary").await;
    fixture.sink.migrate(&fixture.datasets).await.unwrap();
    assert_eq!(refresh().await, (2, 10));
    assert_eq!(head().await, expected);
}

pub async fn a_file_is_summarised_once_its_commit_is_over(target: Target) {
    let fixture = Fixture::new(target).await;
    let datasets = Datasets::new(Vec::new()).unwrap();
    let stop = CancellationToken::new();
    let accumulator = Accumulator::new(fixture.sink.clone());
    let refresh = async || {
        let done = summary::refresh(&accumulator, &datasets, None, &stop).await;
        let done = done.map_err(drop).expect("the database answers");
        (done.files, done.rows_read)
    };
    let file_no = fixture.file("vehicle_events", 5).await;
    let whole = [events(&fixture, file_no, 0..5)];
    let committing = accumulator.begin(&whole);
    let again = accumulator.begin(&whole);
    fixture.commit(&whole).await;
    assert_eq!(
        refresh().await,
        (0, 0),
        "the file is settled and not merged"
    );
    accumulator.add(&whole);
    drop(committing);
    assert_eq!(refresh().await, (0, 0), "the frame is delivered again");
    drop(again);
    assert_eq!(refresh().await, (1, 0), "none of its rows is read");
    assert_eq!(refresh().await, (0, 0));
}

/// The process that has committed the rows keeps what the summary needs of a limited number of files.
#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_many_small_files_are_read_by_few_queries() {
    const FILES: u32 = 600;
    let server = support::private_mariadb().await;
    let fixture = Fixture::at(Target::Mariadb, &server.url).await;
    let mut files = Vec::new();
    for at in 0..FILES {
        let file_no = fixture.file("vehicle_events", 2).await;
        // A gap: this file is not settled, and its rows are not read.
        if at == FILES / 2 {
            fixture.commit(&[events(&fixture, file_no, 0..1)]).await;
            continue;
        }
        fixture.commit(&[events(&fixture, file_no, 0..2)]).await;
        files.push(file_no);
    }
    fixture.sink.settle(&files).await.unwrap();
    let statements = async || {
        let status = "SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'";
        let rows = fixture.query(status).await;
        match &rows[0][1] {
            Val::Text(count) => count.parse::<u64>().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let before = statements().await;
    let datasets = Datasets::new(Vec::new()).unwrap();
    let stop = CancellationToken::new();
    let store: Arc<dyn SummaryStore> = fixture.sink.clone();
    let done = summary::rebuild(&store, &datasets, &stop).await;
    let done = done.map_err(drop).expect("the database answers");
    assert_eq!((done.files, done.rows_read), (599, 1_198));
    let statements = statements().await - before;
    assert!(statements < 60, "{statements} statements");
}
