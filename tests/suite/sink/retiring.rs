//! What happens while a partition is taken out of its table: commits of other processes, questions
//! about files, changed settings. A proxy holds the statement before which it happens.

use std::sync::Arc;
use std::time::Duration;

use lemonade_task::dataset::Datasets;
use lemonade_task::sink::{Database, Kept, SinkOptions, Standing, SummaryStore, open};
use lemonade_task::summary;
use tokio_util::sync::CancellationToken;

use crate::broker::address;
use crate::support::proxy::{Proxy, Strike};

use super::fixture::{Fixture, Target, Val, batch, span, text};
use super::partitions::{datasets, fixture, records, register};

const TARGETS: [Target; 2] = [Target::Mariadb, Target::Mysql];

/// Text of the statement that follows the exchange of a partition.
const AFTER_EXCHANGE: &str = "SET last_file";

/// A process whose statements pass through a proxy.
async fn through(fixture: &Fixture) -> (Proxy, Arc<dyn Database>) {
    let (port, _) = address(&fixture.url);
    let proxy = Proxy::start(port).await;
    let url = fixture
        .url
        .replace(&format!(":{port}/"), &format!(":{}/", proxy.port));
    let sink = open(&url, &SinkOptions::default()).await.unwrap();
    (proxy, sink)
}

async fn keep(sink: &Arc<dyn Database>, datasets: &Datasets) -> Kept {
    let kept = sink.keep_partitions(datasets.by_name("trips").unwrap(), false);
    kept.await.unwrap()
}

/// A process begins to retire what is older than 60 days, and dies before a statement with this text.
async fn die_before(fixture: &Fixture, datasets: &Datasets, statement: &'static str) {
    let (proxy, sink) = through(fixture).await;
    proxy.strike(statement, Strike::LoseRequest);
    let dataset = datasets.by_name("trips").unwrap();
    let fault = sink.keep_partitions(dataset, false).await.unwrap_err();
    assert!(fault.is_transient(), "{fault}");
    proxy.struck(1).await;
}

fn with(days: u32, more: &str) -> Datasets {
    let retain = match days {
        0 => String::new(),
        days => format!("partition_by = 'at'\nretain = '{days} days'\n"),
    };
    let definition = format!(
        "name = 'trips'\n{retain}{more}\ncolumns = [{{name = 'k', type = 'text'}}, {{name = 'at', type = \
         'timestamp'}}]"
    );
    Datasets::new(vec![toml::from_str(&definition).unwrap()]).unwrap()
}

const SUMMARY: &str = "summary = { table = 'trips_daily', key = 'k', time = 'at', value = 'k' }";

/// Stores a file of 6 records, of which 4 are 100 days old.
async fn store(fixture: &Fixture, sink: &Arc<dyn Database>, hash: u8) -> u32 {
    let dataset = fixture.dataset("trips").clone();
    let file_no = register(fixture, sink, hash, 6).await;
    let batch = records(&dataset, hash, file_no, 0, 6);
    assert_eq!(sink.commit(&[batch]).await.unwrap().rows, 6);
    sink.settle(&[file_no]).await.unwrap();
    file_no
}

async fn stored(fixture: &Fixture, file_no: u32) -> (u64, u64, u64) {
    let dataset = fixture.dataset("trips").clone();
    let audit = fixture.sink.audit(&dataset, &[file_no]).await.unwrap()[0];
    (audit.rows, audit.retired, audit.stored())
}

/// Another process commits between the question about the summary and the exchange: the rows are
/// counted as retired once the summary has them, and a rebuild meanwhile loses no day.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_committed_before_the_exchange_are_retired_once_they_are_in_the_summary() {
    for target in TARGETS {
        let mut fixture = fixture(target).await;
        fixture.datasets = with(400, SUMMARY);
        fixture.sink.migrate(&fixture.datasets).await.unwrap();
        let short = with(60, SUMMARY);
        let stop = CancellationToken::new();
        let refresh = async || {
            let summaries = summary::Accumulator::new(fixture.sink.clone());
            summary::refresh(&summaries, &short, None, &stop)
                .await
                .unwrap();
        };
        store(&fixture, &fixture.sink, 1).await;
        refresh().await;
        let (proxy, sink) = through(&fixture).await;
        proxy.strike("EXCHANGE PARTITION", Strike::WaitRequest);
        let late = async {
            proxy.struck(1).await;
            let late = store(&fixture, &fixture.sink, 2).await;
            proxy.release();
            late
        };
        let (kept, late) = tokio::join!(keep(&sink, &short), late);
        assert_eq!(kept.retired, [], "{target:?}");
        assert_eq!(kept.waiting.len(), 1, "{kept:?}");
        // Neither in the table nor counted yet, and known all the same.
        assert_eq!(fixture.number("SELECT COUNT(*) FROM trips").await, 4);
        assert_eq!(stored(&fixture, late).await, (6, 0, 6));
        let dataset = fixture.dataset("trips").clone();
        let standing = fixture.sink.standing(&dataset, u64::from(late) << 32);
        assert_eq!(standing.await.unwrap(), Standing::Retired);
        assert_eq!(keep(&sink, &short).await.waiting.len(), 1);
        // Nor by a process whose settings do not have the dataset.
        let none = Datasets::new(vec![]).unwrap();
        let ended = sink.end_removals(&none).await.unwrap();
        assert_eq!(ended[0].1.waiting.len(), 1, "{ended:?}");
        // It reads the rows where they are.
        let store: Arc<dyn SummaryStore> = fixture.sink.clone();
        summary::rebuild(&store, &short, &stop).await.unwrap();
        let kept = keep(&sink, &short).await;
        assert_eq!(kept.retired.iter().map(|it| it.rows).sum::<u64>(), 8);
        assert_eq!(stored(&fixture, late).await, (2, 4, 6));
        let days = "SELECT COUNT(*) FROM trips_daily";
        assert_eq!(fixture.number(days).await, 12, "{target:?}");
        summary::rebuild(&store, &short, &stop).await.unwrap();
        refresh().await;
        assert_eq!(fixture.number(days).await, 12, "{target:?}");
    }
}

/// A question about a file is asked, and a partition is taken out before the rows are read.
async fn asks_while_rows_are_taken<T>(
    fixture: &Fixture,
    statement: &'static str,
    ask: impl AsyncFnOnce(Arc<dyn Database>) -> T,
) -> T {
    let (proxy, sink) = through(fixture).await;
    let (other, taking) = through(fixture).await;
    proxy.strike(statement, Strike::WaitRequest);
    other.strike(AFTER_EXCHANGE, Strike::HoldRequest);
    let short = datasets(60);
    let take = async {
        proxy.struck(1).await;
        tokio::select! {
            () = other.struck(1) => {}
            // The question keeps the partition in the table.
            kept = taking.keep_partitions(short.by_name("trips").unwrap(), false) => {
                assert!(kept.unwrap_err().is_transient());
            }
        }
        proxy.release();
    };
    tokio::join!(ask(sink), take).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_arrives_again_while_rows_are_taken_lacks_none() {
    for target in TARGETS {
        let fixture = fixture(target).await;
        let file_no = store(&fixture, &fixture.sink, 1).await;
        let lacking = async |sink: Arc<dyn Database>| {
            sink.lacking(&[file_no], &fixture.datasets).await.unwrap()
        };
        let found = asks_while_rows_are_taken(&fixture, "SELECT 1, (SELECT COUNT", lacking).await;
        assert_eq!(found, [0; 0], "{target:?}");
        // Also between the exchange and the count.
        die_before(&fixture, &datasets(60), AFTER_EXCHANGE).await;
        assert_eq!(fixture.number("SELECT COUNT(*) FROM trips").await, 2);
        assert_eq!(lacking(fixture.sink.clone()).await, [0; 0]);
        fixture.run("DELETE FROM trips LIMIT 1").await;
        assert_eq!(lacking(fixture.sink.clone()).await, [file_no]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_while_rows_are_taken_misses_none() {
    for target in TARGETS {
        let fixture = fixture(target).await;
        let dataset = fixture.dataset("trips").clone();
        let file_no = register(&fixture, &fixture.sink, 1, 2).await;
        let batch = records(&dataset, 1, file_no, 0, 2);
        assert_eq!(fixture.commit(&[batch]).await.rows, 2);
        let start = async |sink: Arc<dyn Database>| sink.migrate(&fixture.datasets).await;
        let statement = "SELECT 1 FROM `trips` WHERE `id` >= ";
        let started = asks_while_rows_are_taken(&fixture, statement, start).await;
        started.unwrap();
        die_before(&fixture, &datasets(60), AFTER_EXCHANGE).await;
        assert_eq!(fixture.number("SELECT COUNT(*) FROM trips").await, 0);
        start(fixture.sink.clone()).await.unwrap();
        let sql = "SELECT CONCAT('DELETE FROM `', TABLE_NAME, '`') FROM information_schema.TABLES WHERE \
                   TABLE_SCHEMA = DATABASE() AND TABLE_NAME LIKE 'ingest\\_retiring%'";
        let Val::Text(statement) = fixture.query(sql).await[0][0].clone() else {
            panic!("it is a text");
        };
        fixture.run(&statement).await;
        let fault = start(fixture.sink.clone()).await.unwrap_err();
        assert!(fault.to_string().contains("has no row of file"), "{fault}");
    }
}

/// A count may take as long as the build of an index, whatever the size of the partition.
#[tokio::test]
async fn the_count_of_a_partition_may_take_hours() {
    let fixture = fixture(Target::Mariadb).await;
    store(&fixture, &fixture.sink, 1).await;
    let (proxy, sink) = through(&fixture).await;
    let short = datasets(60);
    proxy.strike("SELECT COUNT(*) FROM `ingest_retiring", Strike::WaitRequest);
    let hours = async {
        proxy.struck(1).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(3 * 3_600)).await;
        tokio::time::resume();
        proxy.release();
    };
    let (kept, ()) = tokio::join!(keep(&sink, &short), hours);
    assert_eq!(kept.retired.iter().map(|it| it.rows).sum::<u64>(), 4);
}

/// The statement by which a commit begins that compares its records with the table.
const COMPARING: &str = "ORDER BY file_no LOCK IN SHARE MODE";

#[tokio::test(flavor = "multi_thread")]
async fn only_commits_to_the_table_compare_while_a_partition_is_taken() {
    for target in TARGETS {
        let fixture = fixture(target).await;
        store(&fixture, &fixture.sink, 1).await;
        die_before(&fixture, &datasets(60), AFTER_EXCHANGE).await;
        let (proxy, sink) = through(&fixture).await;
        proxy.strike(COMPARING, Strike::LoseRequest);
        for first in [0, 3] {
            let file_no = fixture.file("vehicle_status", 3 + first).await;
            let row = |at| {
                (
                    first + at,
                    vec![text("v"), Val::Time(0), text("s"), text("ok")],
                )
            };
            let rows = (0..3).map(row).collect();
            let dataset = fixture.dataset("vehicle_status");
            let batch = batch(dataset, span(file_no, first, 3), &rows, vec![]);
            assert_eq!(sink.commit(&[batch]).await.unwrap().rows, 3);
        }
        assert_eq!(proxy.strikes(), 0, "{target:?}");
        let file_no = register(&fixture, &sink, 2, 6).await;
        let batch = records(fixture.dataset("trips"), 2, file_no, 0, 6);
        assert!(sink.commit(&[batch]).await.unwrap_err().is_transient());
        assert_eq!(proxy.strikes(), 1, "{target:?}");
    }
}

/// The settings change while a partition is being taken out: what was taken is counted, and what is
/// still in the table stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_ends_when_the_settings_have_no_partitions_any_more() {
    for target in TARGETS {
        for (statement, retired) in [(AFTER_EXCHANGE, 4), ("CREATE TABLE `ingest_retiring", 0)] {
            let fixture = fixture(target).await;
            let file_no = store(&fixture, &fixture.sink, 1).await;
            die_before(&fixture, &datasets(60), statement).await;
            // The process that keeps the partitions ends it, and no other.
            let none = fixture.sink.end_removals(&datasets(60)).await.unwrap();
            assert_eq!(none, []);
            let ended = fixture.sink.end_removals(&with(0, "")).await.unwrap();
            let rows = ended.iter().flat_map(|(_, kept)| &kept.retired);
            assert_eq!(rows.map(|it| it.rows).sum::<u64>(), retired, "{target:?}");
            assert_eq!(stored(&fixture, file_no).await, (6 - retired, retired, 6));
            let left = "SELECT (SELECT COUNT(*) FROM ingest_retentions WHERE taken IS NOT NULL) + (SELECT \
                        COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
                        TABLE_NAME LIKE 'ingest\\_retiring%')";
            assert_eq!(fixture.number(left).await, 0, "{target:?}");
        }
        // A longer `retain`.
        let fixture = fixture(target).await;
        let file_no = store(&fixture, &fixture.sink, 1).await;
        die_before(&fixture, &datasets(60), "CREATE TABLE `ingest_retiring").await;
        assert_eq!(keep(&fixture.sink, &datasets(400)).await.retired, []);
        assert_eq!(stored(&fixture, file_no).await, (6, 0, 6));
        assert_eq!(fixture.number("SELECT COUNT(*) FROM trips").await, 6);
    }
}

/// A table of days that was made long ago, and was kept by nobody since.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_many_years_are_not_made_one_by_one() {
    let mut fixture = fixture(Target::Mariadb).await;
    let definition = "name = 'trips'\npartition_by = 'at'\npartition_every = 'day'\ncolumns = [{name = \
                      'k', type = 'text'}, {name = 'at', type = 'timestamp'}]";
    fixture.datasets = Datasets::new(vec![toml::from_str(definition).unwrap()]).unwrap();
    fixture
        .run(
            "ALTER TABLE trips PARTITION BY RANGE COLUMNS(`at`) (PARTITION p VALUES LESS THAN \
             ('2001-01-01'), PARTITION q VALUES LESS THAN (MAXVALUE))",
        )
        .await;
    store(&fixture, &fixture.sink, 1).await;
    let made = keep(&fixture.sink, &fixture.datasets).await.made.unwrap();
    assert_eq!(made.matches("VALUES LESS THAN").count(), 1_024 + 1);
    assert_eq!(keep(&fixture.sink, &fixture.datasets).await.made, None);
    assert_eq!(fixture.number("SELECT COUNT(*) FROM trips").await, 6);
}
