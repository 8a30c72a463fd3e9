//! Clauses about files: `register`, `coverage`, `settle`, `quarantine`, and the operators' reads.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;

use lemonade_task::batch::{Batch, RejectCode};
use lemonade_task::sink::{Committed, EarlierState, NewFile, Registered, Totals};

use super::fixture::{Fixture, Target, Val, batch, event, events, new_file, reject, span};
use crate::support;

pub async fn a_file_keeps_its_number(target: Target) {
    let fixture = Fixture::new(target).await;
    let (mut one, two) = (new_file("vehicle_events", 2), new_file("vehicle_status", 0));
    let first = fixture.register(&[one.clone(), two.clone()]).await.unwrap();
    assert!(
        first
            .iter()
            .all(|file| file.earlier == EarlierState::New && file.file_no >= 1)
    );
    assert_ne!(first[0].file_no, first[1].file_no);

    // Numbers come in the order of the call, and the same content twice in one call is one file.
    let third = new_file("vehicle_events", 9);
    let files = [two.clone(), third.clone(), one.clone(), third];
    let again = fixture.register(&files).await.unwrap();
    let pending = |file: Registered| Registered {
        earlier: EarlierState::Pending,
        ..file
    };
    assert_eq!(again[0], pending(first[1]));
    assert_eq!(again[2], pending(first[0]));
    assert_eq!(again[1].earlier, EarlierState::New);
    assert_eq!(again[3], pending(again[1]));

    one.hash = fixture.adopt(first[0].file_no).await;
    fixture
        .commit(&[events(&fixture, first[0].file_no, 0..2)])
        .await;
    fixture.sink.settle(&[first[0].file_no]).await.unwrap();
    let settled = fixture.register(&[one]).await.unwrap();
    assert_eq!(
        settled,
        [Registered {
            earlier: EarlierState::Settled,
            ..first[0]
        }]
    );
    assert!(fixture.register(&[]).await.unwrap().is_empty());
}

pub async fn many_files_are_registered_in_one_call(target: Target) {
    let fixture = Fixture::new(target).await;
    let files: Vec<NewFile> = (0..1_201).map(|_| new_file("vehicle_events", 1)).collect();
    let first = fixture.register(&files[..700]).await.unwrap();
    let all = fixture.register(&files).await.unwrap();
    for (at, file) in all.iter().enumerate() {
        let before = if at < 700 {
            EarlierState::Pending
        } else {
            EarlierState::New
        };
        assert_eq!(file.earlier, before, "file {at}");
        if let Some(known) = first.get(at) {
            assert_eq!(file.file_no, known.file_no);
        }
    }
    let numbers: BTreeSet<u32> = all.iter().map(|file| file.file_no).collect();
    assert_eq!(numbers.len(), files.len());
}

pub async fn processes_agree_on_numbers(target: Target) {
    let fixture = Fixture::new(target).await;
    let files: Vec<NewFile> = (0..300).map(|_| new_file("vehicle_events", 1)).collect();
    let mut processes = Vec::new();
    for process in 0..4 {
        let sink = fixture.another().await;
        let datasets = fixture.datasets.clone();
        let mut files = files.clone();
        files.rotate_left(process * 70);
        processes.push(tokio::spawn(async move {
            loop {
                match sink.register(&files, &datasets).await {
                    Ok(registered) => {
                        let numbers = registered.iter().map(|file| file.file_no);
                        break files.iter().map(|file| file.hash).zip(numbers).collect();
                    }
                    // The contract allows a deadlock: the call is repeated.
                    Err(fault) => assert!(fault.is_transient(), "{fault}"),
                }
            }
        }));
    }
    let mut agreed: Option<BTreeMap<[u8; 16], u32>> = None;
    for process in processes {
        let numbers: BTreeMap<[u8; 16], u32> = process.await.expect("no panic");
        assert_eq!(agreed.get_or_insert_with(|| numbers.clone()), &numbers);
    }
    assert_eq!(
        fixture.number("SELECT COUNT(*) FROM ingest_files").await,
        300
    );
}

pub async fn a_quarantined_file_becomes_pending(target: Target) {
    let fixture = Fixture::new(target).await;
    let mut file = new_file("", 0);
    let reason = "it ends \\ in the 'middle' é";
    fixture.sink.quarantine(&file, reason).await.unwrap();
    fixture.sink.quarantine(&file, reason).await.unwrap();
    let entry = fixture.sink.last_files(1).await.unwrap().remove(0);
    assert_eq!(
        (entry.state.as_str(), entry.reason.as_deref()),
        ("quarantined", Some(reason))
    );

    // The file was corrected, or a dataset was defined for it.
    "vehicle_events".clone_into(&mut file.dataset);
    file.definition = Some(fixture.dataset("vehicle_events").fingerprint);
    (file.records, file.name) = (2, "renamed.json".to_owned());
    let registered = fixture
        .register(&[file.clone(), file.clone()])
        .await
        .unwrap();
    let states = [EarlierState::New, EarlierState::Pending];
    for (registered, earlier) in registered.iter().zip(states) {
        assert_eq!(
            (registered.file_no, registered.earlier),
            (entry.file_no, earlier)
        );
    }
    let entry = fixture.sink.last_files(1).await.unwrap().remove(0);
    assert_eq!((entry.state.as_str(), entry.reason), ("pending", None));
    assert_eq!((entry.records, entry.name.as_str()), (2, "renamed.json"));

    // A pending file is quarantined; a settled one stays settled.
    fixture.sink.quarantine(&file, "later").await.unwrap();
    assert_eq!(fixture.sink.totals().await.unwrap().quarantined, 1);
    fixture.register(slice::from_ref(&file)).await.unwrap();
    file.hash = fixture.adopt(entry.file_no).await;
    fixture
        .commit(&[events(&fixture, entry.file_no, 0..2)])
        .await;
    fixture.sink.settle(&[entry.file_no]).await.unwrap();
    fixture
        .sink
        .quarantine(&file, "under another name")
        .await
        .unwrap();
    assert_eq!(
        fixture.register(&[file]).await.unwrap()[0].earlier,
        EarlierState::Settled
    );
}

pub async fn coverage_is_the_union_of_entries(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 100).await;
    let other = fixture.file("vehicle_events", 100).await;
    let unknown = other + 1_000;
    for ordinals in [50..60, 0..10, 55..70, 5..12, 12..13, 90..100] {
        fixture.commit(&[events(&fixture, file_no, ordinals)]).await;
    }
    let coverage = fixture
        .sink
        .coverage(&[other, file_no, unknown, file_no])
        .await
        .unwrap();
    let expected = vec![0..13, 50..70, 90..100];
    assert_eq!(coverage, [vec![], expected.clone(), vec![], expected]);
    // A frame of rejects only covers its ordinals as a frame of rows does.
    let rejects = (13..50)
        .map(|at| reject(at, RejectCode::InvalidJson))
        .collect();
    let dataset = fixture.dataset("vehicle_events");
    let empty = batch(dataset, span(file_no, 13, 37), &[].into(), rejects);
    fixture.commit(&[empty]).await;
    assert_eq!(
        fixture.sink.coverage(&[file_no]).await.unwrap(),
        [vec![0..70, 90..100]]
    );
}

pub async fn settle_folds_the_entries(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 10).await;
    let other = fixture.file("vehicle_events", 5).await;
    let nothing = fixture.file("vehicle_events", 0).await;
    let rows = [0, 2, 3].map(|at| (at, event(at))).into();
    let rejects = vec![reject(1, RejectCode::WrongType)];
    let mixed = batch(
        fixture.dataset("vehicle_events"),
        span(file_no, 0, 4),
        &rows,
        rejects,
    );
    fixture
        .commit(&[mixed, events(&fixture, file_no, 4..10)])
        .await;
    fixture.commit(&[events(&fixture, other, 0..3)]).await;

    for _ in 0..2 {
        let settled = fixture.sink.settle(&[nothing, file_no]).await.unwrap();
        let counts: Vec<_> = settled
            .iter()
            .map(|s| (s.file_no, s.records, s.rejects))
            .collect();
        assert_eq!(counts, [(nothing, 0, 0), (file_no, 10, 1)]);
        // Settled files have no entries any more, and the other file has all of its entries.
        let entries = fixture.number("SELECT COUNT(*) FROM ingest_frames").await;
        assert_eq!(entries, 1);
    }
    let coverage = fixture
        .sink
        .coverage(&[file_no, other, nothing])
        .await
        .unwrap();
    assert_eq!(coverage, [vec![0..10], vec![0..3], vec![]]);
}

pub async fn settle_changes_only_files_that_are_covered(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 5).await;
    fixture.commit(&[events(&fixture, file_no, 0..3)]).await;
    assert_eq!(fixture.sink.settle(&[file_no]).await.unwrap(), []);
    assert_eq!(
        fixture.sink.coverage(&[file_no]).await.unwrap(),
        [vec![0..3]]
    );
    fixture.commit(&[events(&fixture, file_no, 3..5)]).await;
    let settled = fixture.sink.settle(&[file_no]).await.unwrap();
    assert_eq!((settled[0].file_no, settled[0].records), (file_no, 5));
    assert_eq!(settled[0].hash, fixture.adopt(file_no).await);
}

pub async fn a_file_that_is_one_batch_is_settled_by_its_commit(target: Target) {
    let fixture = Fixture::new(target).await;
    let [whole, part, known, aside] =
        [4, 5, 5, 5].map(|records| new_file("vehicle_events", records));
    let files = [whole, part, known, aside.clone()];
    let registered = fixture.register(&files).await.unwrap();
    let [whole, part, known, aside_no] = [0, 1, 2, 3].map(|at: usize| registered[at].file_no);
    fixture.sink.quarantine(&aside, "it changed").await.unwrap();
    for file_no in [whole, part, known, aside_no] {
        fixture.adopt(file_no).await;
    }
    fixture.commit(&[events(&fixture, known, 0..2)]).await;

    let dataset = fixture.dataset("vehicle_events");
    let rows = [0, 2].map(|at| (at, event(at))).into();
    let rejects = [1, 3].map(|at| reject(at, RejectCode::WrongType)).into();
    let whole_batch = batch(dataset, span(whole, 0, 4), &rows, rejects);
    let rest = [
        events(&fixture, part, 0..3),
        events(&fixture, known, 2..5),
        events(&fixture, aside_no, 0..5),
    ];
    fixture
        .commit(&[slice::from_ref(&whole_batch), &rest].concat())
        .await;

    let mut states = fixture.sink.last_files(4).await.unwrap();
    states.reverse();
    let states = states
        .iter()
        .map(|file| (file.state.as_str(), file.rejects));
    let pending = ("pending", 0);
    assert_eq!(
        states.collect::<Vec<_>>(),
        [("settled", 2), pending, pending, ("quarantined", 0)]
    );
    let entries = "SELECT COUNT(*) FROM ingest_frames";
    assert_eq!(
        fixture.number(entries).await,
        4,
        "entries of the three others"
    );
    let covered = fixture.sink.coverage(&[whole, part, known]).await.unwrap();
    assert_eq!(covered, [vec![0..4], vec![0..3], vec![0..5]]);

    // The same records again, in frames of another size: nothing is added.
    for again in [whole_batch, events(&fixture, known, 0..5)] {
        let committed = fixture.commit(&[again]).await;
        assert_eq!(committed.rows, 0);
    }
    let settled = fixture.sink.settle(&[part, whole, known]).await.unwrap();
    let settled = settled.iter().map(|file| (file.file_no, file.rejects));
    assert_eq!(settled.collect::<Vec<_>>(), [(whole, 2), (known, 0)]);
    assert_eq!(fixture.number(entries).await, 2, "of two files");
}

/// Two databases share a queue, or this database was created again while frames waited in the
/// queue.
pub async fn batches_of_another_ledger_are_left_out(target: Target) {
    let fixture = Fixture::new(target).await;
    let ours = fixture.file("vehicle_events", 3).await;
    let other = fixture.file("vehicle_events", 3).await;
    let content =
        "UPDATE ingest_files SET hash = x'ffffffffffffffffffffffffffffffff' WHERE file_no =";
    fixture.run(&format!("{content} {other}")).await;
    let dataset = fixture.dataset("vehicle_events");
    let of_other = batch(
        dataset,
        span(other, 0, 3),
        &[0, 2].map(|at| (at, event(at))).into(),
        vec![reject(1, RejectCode::WrongType)],
    );
    let unknown = events(&fixture, other + 1, 0..2);
    let mine = events(&fixture, ours, 0..3);

    let foreign = |rows, duplicates, foreign: &[&Batch]| Committed {
        rows,
        duplicates,
        foreign: foreign.iter().map(|batch| batch.file()).collect(),
        ..Committed::default()
    };
    let both = [&of_other, &unknown];
    let all = [of_other.clone(), mine, unknown.clone()];
    assert_eq!(fixture.commit(&all).await, foreign(3, 0, &both));
    assert_eq!(fixture.commit(&all).await, foreign(0, 3, &both));
    let only = std::slice::from_ref(&of_other);
    assert_eq!(fixture.commit(only).await, foreign(0, 0, &[&of_other]));
    let ids = fixture.query("SELECT id >> 32 FROM vehicle_events").await;
    assert_eq!(ids, vec![vec![Val::Int(ours.into())]; 3]);
    let number = async |sql: &str| fixture.number(sql).await;
    assert_eq!(number("SELECT COUNT(*) FROM ingest_rejects").await, 0);
    let covered = fixture.sink.coverage(&[ours, other]).await.unwrap();
    assert_eq!(covered, [vec![0..3], vec![]]);
}

/// A frame is published twice if the reply to the first publication was lost. With rejects only, no
/// row shows that it was stored.
pub async fn a_batch_that_is_delivered_twice_counts_once(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 3).await;
    let dataset = fixture.dataset("vehicle_events");
    let rejects = (0..3).map(|at| reject(at, RejectCode::WrongType)).collect();
    let rejected = batch(dataset, span(file_no, 0, 3), &[].into(), rejects);
    fixture.commit(&[rejected.clone(), rejected]).await;
    fixture.sink.settle(&[file_no]).await.unwrap();
    let file = &fixture.sink.last_files(1).await.unwrap()[0];
    assert_eq!((file.state.as_str(), file.rejects), ("settled", 3));
}

pub async fn operators_see_what_the_ledger_says(target: Target) {
    let fixture = Fixture::new(target).await;
    assert_eq!(fixture.sink.totals().await.unwrap(), Totals::default());
    assert!(fixture.sink.last_files(10).await.unwrap().is_empty());
    let settled = fixture.file("vehicle_events", 4).await;
    let pending = fixture.file("vehicle_status", 3).await;
    fixture
        .sink
        .quarantine(&new_file("", 0), "no dataset")
        .await
        .unwrap();
    let rows = [0, 2].map(|at| (at, event(at))).into();
    let rejects = vec![
        reject(1, RejectCode::TooDeep),
        reject(3, RejectCode::TooLarge),
    ];
    let dataset = fixture.dataset("vehicle_events");
    fixture
        .commit(&[batch(dataset, span(settled, 0, 4), &rows, rejects.clone())])
        .await;
    fixture.sink.settle(&[settled]).await.unwrap();

    let totals = fixture.sink.totals().await.unwrap();
    let expected = Totals {
        pending: 1,
        settled: 1,
        quarantined: 1,
        removing: 0,
        records: 4,
        rejects: 2,
        superseded: 0,
    };
    assert_eq!(totals, expected);
    let files = fixture.sink.last_files(2).await.unwrap();
    assert_eq!(
        files.iter().map(|f| f.state.as_str()).collect::<Vec<_>>(),
        ["quarantined", "pending"]
    );
    assert_eq!(files[1].file_no, pending);
    let oldest = fixture.sink.last_files(9).await.unwrap().remove(2);
    assert_eq!(
        (oldest.records, oldest.rejects, oldest.bytes),
        (4, 2, 1 << 40)
    );
    assert_eq!(oldest.name, new_file("vehicle_events", 0).name);

    let mut by_code = std::collections::BTreeMap::<&str, u64>::new();
    for reject in &rejects {
        *by_code.entry(reject.code.as_str()).or_default() += 1;
    }
    let counts = fixture.sink.reject_counts().await.unwrap();
    let counts = counts
        .iter()
        .map(|(code, rejects)| (code.as_str(), *rejects));
    assert_eq!(
        counts.collect::<std::collections::BTreeMap<_, _>>(),
        by_code
    );
    assert_eq!(fixture.sink.count_rows(dataset).await.unwrap(), 2);

    // A state of a newer release counts as none of these states.
    fixture
        .run("UPDATE ingest_files SET state = 'archived' WHERE state = 'pending'")
        .await;
    assert!(!fixture.sink.totals().await.unwrap_err().is_transient());
    assert!(!fixture.sink.last_files(2).await.unwrap_err().is_transient());
    assert_eq!(fixture.sink.last_files(1).await.unwrap().len(), 1);
}

/// The largest file number that fits into an id, and the largest that fits into the column.
pub async fn file_numbers_at_their_limit_end_with_advice(target: Target) {
    for next in [i32::MAX.unsigned_abs() + 1, u32::MAX] {
        let fixture = Fixture::new(target).await;
        let file = new_file("vehicle_events", 1);
        let known = fixture.register(slice::from_ref(&file)).await.unwrap();
        let set = if target.is_sqlite() {
            let last = next - 1;
            format!("UPDATE sqlite_sequence SET seq = {last} WHERE name = 'ingest_files'")
        } else {
            format!("ALTER TABLE ingest_files AUTO_INCREMENT = {next}")
        };
        fixture.run(&set).await;
        for _ in 0..2 {
            let files = [new_file("vehicle_events", 1), new_file("vehicle_events", 1)];
            let fault = fixture.register(&files).await.unwrap_err();
            assert!(!fault.is_transient(), "{fault}");
            assert!(
                fault.to_string().contains("set its counter back"),
                "{fault}"
            );
        }
        // Files that are registered already are still stored.
        let again = fixture.register(&[file]).await.unwrap();
        assert_eq!(again[0].file_no, known[0].file_no);
        // The advice works.
        fixture
            .run(if target.is_sqlite() {
                "DELETE FROM sqlite_sequence WHERE name = 'ingest_files'"
            } else {
                "ALTER TABLE ingest_files AUTO_INCREMENT = 1"
            })
            .await;
        let next = fixture.file("vehicle_events", 1).await;
        assert!(next > known[0].file_no && next < 100, "{next}");
    }
}

/// A file of several datasets has an entry for each of them, and is one file in the totals.
pub async fn a_file_of_several_datasets_counts_once(target: Target) {
    let fixture = Fixture::new(target).await;
    let whole = new_file("vehicle_events", 2);
    let mut part = new_file("vehicle_status", 2);
    (part.hash, part.name) = (whole.hash, whole.name.clone());
    let other = new_file("vehicle_events", 2);
    // The same content under another name is another file.
    let mut copy = new_file("vehicle_status", 2);
    copy.hash = other.hash;
    let files = [whole, part, other, copy];
    fixture.register(&files).await.unwrap();
    let totals = fixture.sink.totals().await.unwrap();
    let names = files[2].name == files[3].name;
    assert_eq!((totals.pending, names), (3, false));
    fixture
        .run("UPDATE ingest_files SET state = 'settled' WHERE dataset = 'vehicle_status'")
        .await;
    let totals = fixture.sink.totals().await.unwrap();
    assert_eq!((totals.pending, totals.settled), (2, 2));
    assert_eq!(totals.records, 4, "the records of each part count");
}

/// The statistics of a new ledger say that it is empty. A look-up reads only what it looks up
/// nevertheless: the handlers of the server count the rows of scans.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_looked_up_without_a_scan_of_the_ledger() {
    const GROUP: usize = 200;
    const GROUPS: usize = 20;
    let servers = [
        (Target::Mariadb, support::private_mariadb().await),
        (Target::Mysql, support::private_mysql9().await),
    ];
    for (target, server) in &servers {
        let fixture = Fixture::at(*target, &server.url).await;
        let scanned = async || {
            let status = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Handler_read_rnd_next', \
                          'Handler_read_next')";
            let rows = fixture.query(status).await;
            let count = |row: &Vec<Val>| match &row[1] {
                Val::Text(count) => count.parse::<usize>().unwrap(),
                other => panic!("{other:?}"),
            };
            rows.iter().map(count).sum::<usize>()
        };
        let before = scanned().await;
        for _ in 0..GROUPS {
            let files: Vec<NewFile> = (0..GROUP).map(|_| new_file("vehicle_events", 1)).collect();
            fixture.register(&files).await.unwrap();
        }
        let read = scanned().await - before;
        // Scans would read 80,000: each group is looked up twice.
        assert!(read < 2 * GROUPS * GROUP, "{target:?}: {read}");
    }
}
