//! Clauses about tables with partitions by time, on servers that have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use lemonade_task::batch::Batch;
use lemonade_task::dataset::{Dataset, Datasets};
use lemonade_task::sink::{Database, NewFile, SinkOptions, Standing, open};

use super::fixture::{Fixture, Target, Val, batch, span, text};

const TARGETS: [Target; 3] = [Target::Mariadb, Target::Mysql, Target::MysqlLoadData];

pub(super) const DAY_US: i64 = 86_400_000_000;

pub(super) fn datasets(days: u32) -> Datasets {
    let definition = format!(
        "name = 'trips'\npartition_by = 'at'\nretain = '{days} days'\ncolumns = [{{name = 'k', type = \
         'text'}}, {{name = 'at', type = 'timestamp'}}]"
    );
    Datasets::new(vec![toml::from_str(&definition).expect("a definition")]).expect("it is valid")
}

pub(super) async fn fixture(target: Target) -> Fixture {
    let mut fixture = Fixture::empty(target).await;
    fixture.datasets = datasets(400);
    fixture.sink.migrate(&fixture.datasets).await.unwrap();
    fixture
}

/// Registers a file of this number of records.
pub(super) async fn register(
    fixture: &Fixture,
    sink: &Arc<dyn Database>,
    hash: u8,
    records: u32,
) -> u32 {
    let new = NewFile {
        hash: [hash; 16],
        taken: None,
        dataset: "trips".to_owned(),
        definition: Some(fixture.dataset("trips").fingerprint),
        name: format!("{hash}.json"),
        path: None,
        bytes: 1,
        records,
        mark: None,
    };
    let registered = sink.register(&[new], &fixture.datasets).await.unwrap();
    registered[0].file_no
}

/// A batch of records that are 100 days old. Each third is a day old.
pub(super) fn records(
    dataset: &Arc<Dataset>,
    hash: u8,
    file_no: u32,
    first: u32,
    count: u32,
) -> Batch {
    let now_us = jiff::Timestamp::now().as_microsecond();
    let row = |ordinal: u32| {
        let days = if ordinal % 3 == 2 { 1 } else { 100 };
        // The same time in each call of a test that passes midnight.
        let at = now_us / DAY_US * DAY_US - days * DAY_US;
        (
            ordinal,
            vec![text(format!("{file_no} {ordinal}")), Val::Time(at)],
        )
    };
    let rows: BTreeMap<u32, Vec<Val>> = (first..first + count).map(row).collect();
    Batch {
        hash: [hash; 16],
        ..batch(dataset, span(file_no, first, count), &rows, vec![])
    }
}

async fn retire(fixture: &Fixture) -> u64 {
    let datasets = datasets(60);
    let dataset = datasets.by_name("trips").unwrap();
    let kept = fixture.sink.keep_partitions(dataset, false).await;
    kept.unwrap().retired.iter().map(|it| it.rows).sum()
}

/// Frames may be delivered again after their rows were retired, whole or in another cut, of a file that
/// is settled or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_delivered_again_brings_back_no_retired_row() {
    for target in TARGETS {
        let fixture = fixture(target).await;
        let dataset = fixture.dataset("trips").clone();
        let sink = &fixture.sink;
        let settled = register(&fixture, sink, 1, 6).await;
        let pending = register(&fixture, sink, 2, 1_800).await;
        let first = |count| records(&dataset, 2, pending, 0, count);
        let whole = || records(&dataset, 1, settled, 0, 6);
        // All of its records are old: no row is left that a second INSERT could hit.
        let small = register(&fixture, sink, 3, 2).await;
        let of_small = |count| records(&dataset, 3, small, 0, count);
        for batch in [whole(), first(900), of_small(1)] {
            sink.commit(&[batch]).await.unwrap();
        }
        assert_eq!(retire(&fixture).await, 4 + 600 + 1, "{target:?}");
        let rows = async || fixture.number("SELECT COUNT(*) FROM trips").await;
        assert_eq!(rows().await, 2 + 300);
        let again = [
            whole(),
            first(900),
            first(600),
            first(2),
            records(&dataset, 2, pending, 300, 600),
            of_small(1),
        ];
        for again in again {
            let committed = sink.commit(&[again]).await.unwrap();
            assert_eq!(committed.rows, 0, "{target:?} {committed:?}");
        }
        assert_eq!(rows().await, 302);
        // The other half of the small file, in one frame with the retired half.
        assert_eq!(sink.commit(&[of_small(2)]).await.unwrap().rows, 1);
        assert_eq!(sink.settle(&[small]).await.unwrap().len(), 1);
        let audit = sink.audit(&dataset, &[small]).await.unwrap()[0];
        assert_eq!((audit.rows, audit.retired, audit.stored()), (1, 1, 2));
        // A frame that overlaps what is covered adds the other records only.
        let last = records(&dataset, 2, pending, 600, 1_200);
        assert_eq!(sink.commit(&[last]).await.unwrap().rows, 900);
        assert_eq!(rows().await, 303 + 900);
        // As one frame with all records of the file.
        assert_eq!(sink.commit(&[first(1_800)]).await.unwrap().rows, 0);
        assert_eq!(sink.settle(&[pending]).await.unwrap().len(), 1);
        assert_eq!(rows().await, 303 + 900);
        let audits = sink.audit(&dataset, &[settled, pending]).await.unwrap();
        let counts: Vec<_> = audits
            .iter()
            .map(|it| (it.rows, it.retired, it.stored()))
            .collect();
        assert_eq!(counts, [(2, 4, 6), (1_200, 600, 1_800)], "{target:?}");
        let standing = async |ordinal: u64| {
            let id = u64::from(pending) << 32 | ordinal;
            sink.standing(&dataset, id).await.unwrap()
        };
        assert_eq!(standing(0).await, Standing::Retired);
        assert_eq!(standing(2).await, Standing::Row);
        assert_eq!(standing(900).await, Standing::Row);
        // Late rows are retired in their turn, and nothing is left to do.
        assert_eq!(retire(&fixture).await, 600 + 1);
        assert_eq!(retire(&fixture).await, 0);
        let audit = sink.audit(&dataset, &[pending]).await.unwrap()[0];
        assert_eq!((audit.rows, audit.retired), (600, 1_200));
        assert!(
            sink.lacking(&[settled, pending], &fixture.datasets)
                .await
                .unwrap()
                .is_empty()
        );
        assert!(sink.differences(&whole()).await.unwrap().is_empty());
        // A start misses nothing, and what is removed leaves no count.
        sink.migrate(&fixture.datasets).await.unwrap();
        sink.remove(pending, &fixture.datasets).await.unwrap();
        assert_eq!(
            fixture
                .number("SELECT MAX(records) FROM ingest_retired")
                .await,
            4
        );
    }
}

/// Two nodes have no lock in common: no row is removed there, and the answer says so.
#[tokio::test(flavor = "multi_thread")]
async fn no_rows_are_retired_on_a_node_of_galera() {
    let fixture = fixture(Target::Galera).await;
    let dataset = fixture.dataset("trips").clone();
    let file_no = register(&fixture, &fixture.sink, 1, 6).await;
    fixture
        .sink
        .commit(&[records(&dataset, 1, file_no, 0, 6)])
        .await
        .unwrap();
    let datasets = datasets(60);
    let dataset = datasets.by_name("trips").unwrap();
    let fault = fixture.sink.keep_partitions(dataset, false).await;
    let fault = fault.unwrap_err();
    assert!(
        !fault.is_transient() && fault.to_string().contains("Galera"),
        "{fault}"
    );
    assert_eq!(fixture.number("SELECT COUNT(*) FROM trips").await, 6);
    assert_eq!(
        fixture
            .number("SELECT COUNT(*) FROM ingest_retentions")
            .await,
        0
    );
}

/// Processes commit, deliver again, audit and retire at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_while_partitions_are_taken_out_and_each_audit_is_exact() {
    const FILES: u8 = 40;
    const RECORDS: u32 = 60;
    for target in [Target::Mariadb, Target::Mysql] {
        let fixture = Arc::new(fixture(target).await);
        let dataset = fixture.dataset("trips").clone();
        let writes = (0..2_u8).map(|writer| {
            let (fixture, dataset) = (fixture.clone(), dataset.clone());
            tokio::spawn(async move {
                let sink = open(&fixture.url, &SinkOptions::default()).await.unwrap();
                let commit = async |batch: Batch| loop {
                    match sink.commit(std::slice::from_ref(&batch)).await {
                        Ok(committed) => return committed,
                        Err(fault) => assert!(fault.is_transient(), "{fault}"),
                    }
                };
                for hash in (writer * FILES..).take(FILES.into()) {
                    let file_no = register(&fixture, &sink, hash, RECORDS).await;
                    let frame = |first| records(&dataset, hash, file_no, first, RECORDS / 2);
                    commit(frame(0)).await;
                    commit(frame(RECORDS / 2)).await;
                    // Again, in another cut.
                    commit(records(&dataset, hash, file_no, 10, RECORDS - 20)).await;
                    assert_eq!(sink.settle(&[file_no]).await.unwrap().len(), 1);
                    commit(records(&dataset, hash, file_no, 0, RECORDS)).await;
                }
            })
        });
        let writes: Vec<_> = writes.collect();
        let audit_all = async || {
            let settled = fixture
                .query("SELECT file_no FROM ingest_files WHERE state = 'settled' ORDER BY file_no")
                .await;
            let number = |row: &Vec<Val>| match row[0] {
                Val::Int(number) => u32::try_from(number).unwrap(),
                _ => unreachable!("it is a number"),
            };
            let settled: Vec<u32> = settled.iter().map(number).collect();
            for audit in fixture.sink.audit(&dataset, &settled).await.unwrap() {
                let (stored, doubled) = (audit.stored(), audit.doubled);
                assert_eq!(
                    (stored, doubled),
                    (RECORDS.into(), 0),
                    "{target:?} {audit:?}"
                );
            }
            settled.len()
        };
        let is_over = || writes.iter().all(tokio::task::JoinHandle::is_finished);
        let retiring = async {
            let mut rounds = 0;
            while !is_over() || rounds == 0 {
                let datasets = datasets(60);
                let dataset = datasets.by_name("trips").unwrap();
                match fixture.sink.keep_partitions(dataset, false).await {
                    Ok(kept) => rounds += usize::from(!kept.retired.is_empty()),
                    Err(fault) => assert!(fault.is_transient(), "{fault}"),
                }
            }
            rounds
        };
        let auditing = async {
            while !is_over() {
                audit_all().await;
            }
        };
        let (rounds, ()) = tokio::join!(retiring, auditing);
        for write in writes {
            write.await.unwrap();
        }
        assert!(rounds > 1, "{target:?}");
        assert_eq!(audit_all().await, 2 * usize::from(FILES));
        retire(&fixture).await;
        assert_eq!(audit_all().await, 2 * usize::from(FILES));
        let rows = fixture.number("SELECT COUNT(*) FROM trips").await;
        assert_eq!(
            rows,
            i64::from(2 * u32::from(FILES) * RECORDS / 3),
            "{target:?}"
        );
    }
}
