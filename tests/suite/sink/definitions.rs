//! Clauses about definitions: what a file number identifies, and what happens to a file whose
//! definition changed after its load began.

use std::slice;

use lemonade_task::batch::{RejectCode, row_id};
use lemonade_task::dataset::{Dataset, PathValues};
use lemonade_task::sink::{EarlierState, NewFile, Removed, Taken};
use lemonade_task::timestamp;

use super::fixture::{
    Fixture, SOME_TIME_US, Target, Val, batch, event, events, new_file, reject, span,
};

/// With another definition, an ordinal is another record, or a record is another row.
pub async fn a_file_that_was_begun_with_another_definition_is_recognised(target: Target) {
    let fixture = Fixture::new(target).await;
    let mut file = new_file("vehicle_events", 3);
    let registered = fixture.register(slice::from_ref(&file)).await.unwrap();
    let file_no = registered[0].file_no;
    file.hash = fixture.adopt(file_no).await;
    let as_now = async |file: &NewFile| {
        let registered = fixture.register(slice::from_ref(file)).await.unwrap();
        assert_eq!(registered[0].file_no, file_no);
        registered[0].earlier
    };
    let status = fixture.dataset("vehicle_status").fingerprint;
    let others = [
        NewFile {
            records: 4,
            ..file.clone()
        },
        NewFile {
            definition: Some(status),
            ..file.clone()
        },
    ];
    for other in &others {
        assert_eq!(as_now(other).await, EarlierState::OtherDefinition);
    }
    assert_eq!(
        as_now(&file).await,
        EarlierState::Pending,
        "the file has the same number and definition"
    );

    // In quarantine, and without stored rows: the file may begin again, also in another dataset.
    let elsewhere = NewFile {
        dataset: "vehicle_status".to_owned(),
        definition: Some(status),
        ..file.clone()
    };
    for other in [&others[0], &others[1], &elsewhere] {
        fixture.sink.quarantine(&file, "why").await.unwrap();
        assert_eq!(as_now(other).await, EarlierState::New);
        fixture.sink.quarantine(other, "why").await.unwrap();
        assert_eq!(as_now(&file).await, EarlierState::New);
    }

    fixture.commit(&[events(&fixture, file_no, 0..2)]).await;
    fixture.sink.quarantine(&file, "why").await.unwrap();
    for other in others.iter().chain([&elsewhere]) {
        assert_eq!(as_now(other).await, EarlierState::BegunOtherwise);
    }
    assert_eq!(as_now(&file).await, EarlierState::New);
    fixture.commit(&[events(&fixture, file_no, 2..3)]).await;
    assert_eq!(fixture.sink.settle(&[file_no]).await.unwrap().len(), 1);
    for other in &others {
        assert_eq!(as_now(other).await, EarlierState::Settled);
    }
}

/// One content in two datasets is two files.
pub async fn a_number_is_one_content_in_one_dataset(target: Target) {
    let fixture = Fixture::new(target).await;
    let events = new_file("vehicle_events", 1);
    let status = NewFile {
        dataset: "vehicle_status".to_owned(),
        definition: Some(fixture.dataset("vehicle_status").fingerprint),
        ..events.clone()
    };
    let both = [events, status];
    let mut numbers = [0; 2];
    for earlier in [EarlierState::New, EarlierState::Pending] {
        let registered = fixture.register(&both).await.unwrap();
        assert!(registered.iter().all(|file| file.earlier == earlier));
        assert_ne!(registered[0].file_no, registered[1].file_no);
        numbers = [0, 1].map(|at| registered[at].file_no);
    }
    // Each file keeps its number, whichever of them is quarantined, in any order.
    for (aside, order) in [(0, [0, 1]), (0, [1, 0]), (1, [0, 1]), (1, [1, 0])] {
        fixture.sink.quarantine(&both[aside], "why").await.unwrap();
        let files = order.map(|at| both[at].clone());
        let registered = fixture.register(&files).await.unwrap();
        for (at, file) in order.into_iter().zip(registered) {
            assert_eq!(file.file_no, numbers[at]);
            assert_eq!(file.earlier == EarlierState::New, at == aside);
        }
    }
    // The entry of a file that had no dataset becomes the entry of one of them.
    let none = new_file("", 0);
    fixture.sink.quarantine(&none, "no dataset").await.unwrap();
    let both = both.map(|file| NewFile {
        hash: none.hash,
        ..file
    });
    let copies = [&both[0], &both[1], &both[0], &both[1]].map(Clone::clone);
    let registered = fixture.register(&copies).await.unwrap();
    let numbers: Vec<u32> = registered.iter().map(|file| file.file_no).collect();
    assert_eq!(numbers[..2], numbers[2..]);
    assert_ne!(numbers[0], numbers[1]);
    let files = fixture.sink.files(0..u32::MAX, None, 9).await.unwrap();
    let of_content = files.iter().filter(|file| file.hash == none.hash);
    assert!(
        of_content
            .map(|file| file.entry.file_no)
            .eq([numbers[1], numbers[0]])
    );
}

/// Values of the path make one content several files. Other patterns, or none, make it no other file.
pub async fn values_of_the_path_belong_to_the_identity(target: Target) {
    let fixture = Fixture::new(target).await;
    let plain = NewFile {
        path: Some("/archive/day=1/a".into()),
        ..new_file("vehicle_events", 1)
    };
    let with = |values: &str, path: &str| {
        let values = PathValues::from_text(values).unwrap();
        let content = plain.hash;
        NewFile {
            hash: values.identity(content),
            taken: Some(Taken { content, values }),
            path: Some(path.into()),
            // Other columns are another definition.
            definition: Some(fixture.dataset("vehicle_status").fingerprint),
            ..plain.clone()
        }
    };
    let one = with(r#"{"day={}": "1"}"#, "/archive/day=1/a");
    let two = with(r#"{"day={}": "2"}"#, "/archive/day=2/a");
    let register = async |file: &NewFile| {
        let registered = fixture.register(slice::from_ref(file)).await.unwrap()[0];
        (registered.file_no, registered.earlier)
    };
    let both = [one.clone(), two.clone()];
    let numbers = fixture.register(&both).await.unwrap();
    let (first, second) = (numbers[0].file_no, numbers[1].file_no);
    assert_ne!(first, second);
    for file in numbers {
        assert_eq!(file.earlier, EarlierState::New);
    }
    assert_eq!(register(&two).await, (second, EarlierState::Pending));
    let files = fixture.sink.files(0..u32::MAX, None, 9).await.unwrap();
    let taken: Vec<_> = files.iter().rev().map(|file| file.taken.clone()).collect();
    assert_eq!(taken, [one.taken.clone(), two.taken.clone()]);
    assert!(files.iter().all(|file| file.content() == plain.hash));

    // Begun by other patterns, or none: the file is the one that the ledger has.
    let by_hour = with(r#"{"hour={}": "7"}"#, "/archive/day=1/a");
    for same in [&plain, &by_hour] {
        assert_eq!(register(same).await, (first, EarlierState::OtherDefinition));
    }
    let elsewhere = with(r#"{"hour={}": null}"#, "/archive/hour/a");
    let (third, earlier) = register(&elsewhere).await;
    assert!(earlier == EarlierState::New && ![first, second].contains(&third));

    // In quarantine with no stored record, it takes the new identity.
    fixture.sink.quarantine(&one, "why").await.unwrap();
    assert_eq!(register(&by_hour).await, (first, EarlierState::New));
    assert_eq!(register(&by_hour).await, (first, EarlierState::Pending));
    assert_eq!(register(&one).await, (first, EarlierState::OtherDefinition));

    // An entry without a dataset, which has no values, becomes the entry of one file.
    let none = new_file("", 0);
    fixture.sink.quarantine(&none, "no dataset").await.unwrap();
    let entry = fixture.sink.last_files(1).await.unwrap().remove(0);
    let of_none = both.map(|file| {
        let values = file.taken.unwrap().values;
        NewFile {
            hash: values.identity(none.hash),
            taken: Some(Taken {
                content: none.hash,
                values,
            }),
            ..plain.clone()
        }
    });
    let registered = fixture.register(&of_none).await.unwrap();
    assert_eq!(registered[0].file_no, entry.file_no);
    assert!(registered[1].file_no > entry.file_no);
    assert!(registered.iter().all(|it| it.earlier == EarlierState::New));
}

/// The sink leaves out a frame whose definition is not the one with which its file was registered.
pub async fn a_batch_of_another_definition_is_left_out(target: Target) {
    let fixture = Fixture::new(target).await;
    let file_no = fixture.file("vehicle_events", 4).await;
    let mut batch = events(&fixture, file_no, 0..2);
    let mut dataset = Dataset::clone(&batch.dataset);
    dataset.fingerprint = fixture.dataset("vehicle_status").fingerprint;
    batch.dataset = dataset.into();
    let committed = fixture.commit(&[batch.clone()]).await;
    assert_eq!((committed.rows, committed.foreign), (0, vec![batch.file()]));
    let other = fixture.file("vehicle_events", 2).await;
    let of_other = events(&fixture, other, 0..2);
    let committed = fixture.commit(&[batch.clone(), of_other]).await;
    assert_eq!((committed.rows, committed.foreign), (2, vec![batch.file()]));
    fixture.commit(&[events(&fixture, file_no, 2..4)]).await;
    let coverage = fixture.sink.coverage(&[file_no]).await.unwrap();
    assert_eq!(coverage, [vec![2..4]]);
}

/// Removing a file removes all its rows, rejects and entries, and no others.
pub async fn the_stored_records_of_a_file_can_be_removed(target: Target) {
    let fixture = Fixture::new(target).await;
    let datasets = fixture.datasets.clone();
    let other = fixture.file("vehicle_events", 2).await;
    fixture.commit(&[events(&fixture, other, 0..2)]).await;
    for is_settled in [false, true] {
        let mut file = new_file("vehicle_events", 7);
        let registered = fixture.register(slice::from_ref(&file)).await.unwrap();
        let file_no = registered[0].file_no;
        file.hash = fixture.adopt(file_no).await;
        // A row of another program has the id of record 5.
        let foreign = row_id(file_no, 5);
        let insert = format!(
            "INSERT INTO vehicle_events VALUES ({foreign}, 'v', '{}', 's', 't', 'x', '{{}}', NULL)",
            timestamp::text(SOME_TIME_US)
        );
        fixture.run(&insert).await;
        let rejects = vec![reject(4, RejectCode::WrongType)];
        let dataset = fixture.dataset("vehicle_events");
        let rows = (0..4).map(|at| (at, event(at))).collect();
        let first = batch(dataset, span(file_no, 0, 5), &rows, rejects);
        fixture
            .commit(&[first.clone(), events(&fixture, file_no, 5..6)])
            .await;
        if is_settled {
            fixture.commit(&[events(&fixture, file_no, 6..7)]).await;
            assert_eq!(fixture.sink.settle(&[file_no]).await.unwrap().len(), 1);
        }
        let rows = if is_settled { 5 } else { 4 };
        let removed = fixture.sink.remove(file_no, &datasets).await.unwrap();
        assert_eq!(removed.rows, rows, "settled: {is_settled}");
        let left = fixture
            .query("SELECT id FROM vehicle_events ORDER BY id")
            .await;
        let ids = [row_id(other, 0), row_id(other, 1), foreign];
        assert_eq!(left, ids.map(|id| vec![Val::Int(id.cast_signed())]));
        assert_eq!(fixture.rejects(9).await, []);
        // A late redelivery stores nothing, and the same content gets a new number.
        let committed = fixture.commit(slice::from_ref(&first)).await;
        assert_eq!((committed.rows, committed.foreign), (0, vec![first.file()]));
        let removed = fixture.sink.remove(file_no, &datasets).await;
        assert_eq!(removed.unwrap(), Removed::default());
        let begun = fixture.register(std::slice::from_ref(&file)).await.unwrap();
        assert_eq!(begun[0].earlier, EarlierState::BegunOtherwise);
        fixture.sink.end_removal(file_no).await.unwrap();
        let again = fixture.register(&[file]).await.unwrap();
        assert_eq!(again[0].earlier, EarlierState::New);
        assert!(again[0].file_no > file_no);
        fixture
            .run(&format!("DELETE FROM vehicle_events WHERE id = {foreign}"))
            .await;
        fixture
            .sink
            .remove(again[0].file_no, &datasets)
            .await
            .unwrap();
        fixture.sink.end_removal(again[0].file_no).await.unwrap();
    }
}
