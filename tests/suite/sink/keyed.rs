//! Clauses about datasets with a key: of several records with the same key, one is the row, whatever
//! the order of arrival, and the others are superseded or rejects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lemonade_task::batch::{Batch, RejectCode, row_id};
use lemonade_task::dataset::{Datasets, OnConflict};
use lemonade_task::sink::{Audit, Committed, Database, Migration, NewFile, Standing};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::Rng as _;

use super::conflicts::{File, conflicts, file, orders};
use super::fixture::{Fixture, SOME_TIME_US, Target, Val, batch, span, text};

/// A record of a file by content: the hash of the file, and the ordinal.
type Place = (u8, u32);

/// The rows, and the superseded records with the rows that supersede them.
type State = (BTreeSet<Place>, BTreeMap<Place, Place>);

const ALL: [(&str, OnConflict); 3] = [
    ("first_wins", OnConflict::First),
    ("last_wins", OnConflict::Last),
    ("stays", OnConflict::Reject),
];

fn datasets() -> Datasets {
    let users = ALL.map(|(name, on_conflict)| {
        let order = match on_conflict {
            OnConflict::First => "on_conflict = 'first'\norder_by = 'at'",
            OnConflict::Last => "on_conflict = 'last'\norder_by = 'at'",
            OnConflict::Reject => "",
        };
        let definition = format!(
            "name = '{name}'\nkey = ['k', 'n']\n{order}\ncolumns = [{{name = 'k', type = 'text'}}, \
             {{name = 'n', type = 'integer'}}, {{name = 'at', type = 'timestamp'}}, \
             {{name = 'v', type = 'text'}}]"
        );
        toml::from_str(&definition).expect("a definition")
    });
    Datasets::new(users.into()).expect("they are valid")
}

async fn fixture(target: Target) -> Fixture {
    let mut fixture = Fixture::empty(target).await;
    fixture.datasets = datasets();
    fixture.sink.migrate(&fixture.datasets).await.unwrap();
    fixture
}

/// A file that is registered in a dataset.
#[derive(Clone)]
struct Loaded {
    file_no: u32,
    file: File,
}

async fn register(fixture: &Fixture, dataset: &str, file: &File) -> Loaded {
    let dataset = fixture.dataset(dataset);
    let new = NewFile {
        hash: [file.hash; 16],
        taken: None,
        dataset: dataset.name.clone(),
        definition: Some(dataset.fingerprint),
        name: format!("{}.json", file.hash),
        path: None,
        bytes: 1,
        records: u32::try_from(file.records.len()).unwrap(),
        mark: None,
    };
    let registered = fixture.register(&[new]).await.unwrap();
    Loaded {
        file_no: registered[0].file_no,
        file: file.clone(),
    }
}

/// The records of a file in batches of at most `cut`.
fn batches(fixture: &Fixture, dataset: &str, loaded: &Loaded, cut: usize) -> Vec<Batch> {
    let dataset = fixture.dataset(dataset);
    let pieces = loaded.file.records.chunks(cut).enumerate();
    let pieces = pieces.map(|(piece, records)| {
        let first = u32::try_from(piece * cut).unwrap();
        let rows: BTreeMap<u32, Vec<Val>> = (first..)
            .zip(records)
            .map(|(ordinal, (k, n, at, v))| {
                let at = Val::Time(SOME_TIME_US + at);
                (ordinal, vec![text(*k), Val::Int(*n), at, text(*v)])
            })
            .collect();
        let records = u32::try_from(records.len()).unwrap();
        Batch {
            hash: [loaded.file.hash; 16],
            ..batch(dataset, span(loaded.file_no, first, records), &rows, vec![])
        }
    });
    pieces.collect()
}

/// Commits a batch, again after each transient fault.
async fn commit(sink: &Arc<dyn Database>, batches: &[Batch]) -> Committed {
    loop {
        match sink.commit(batches).await {
            Ok(committed) => return committed,
            Err(fault) => assert!(fault.is_transient(), "{fault}"),
        }
    }
}

/// What the database holds.
async fn state(fixture: &Fixture, dataset: &str, all: &[Loaded]) -> State {
    let places: BTreeMap<i64, u8> = all
        .iter()
        .map(|loaded| (loaded.file_no.into(), loaded.file.hash))
        .collect();
    let place = |id: &Val| {
        let Val::Int(id) = id else {
            panic!("an id is a number")
        };
        (
            places[&(id >> 32)],
            u32::try_from(id & 0xFFFF_FFFF).unwrap(),
        )
    };
    let rows = fixture.query(&format!("SELECT id FROM {dataset}")).await;
    let sql = "SELECT file_no << 32 | ordinal, winner FROM ingest_superseded";
    let superseded = fixture.query(sql).await;
    (
        rows.iter().map(|row| place(&row[0])).collect(),
        superseded
            .iter()
            .map(|row| (place(&row[0]), place(&row[1])))
            .collect(),
    )
}

/// What the database must hold, whatever the order.
fn expected(files: &[File], on_conflict: OnConflict) -> State {
    let mut by_key: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for file in files {
        for (ordinal, (k, n, at, _)) in (0..).zip(&file.records) {
            by_key
                .entry((k, *n))
                .or_default()
                .push((*at, file.hash, ordinal));
        }
    }
    let (mut rows, mut superseded) = (BTreeSet::new(), BTreeMap::new());
    for mut records in by_key.into_values() {
        records.sort_unstable();
        let winner = match on_conflict {
            OnConflict::First => records.remove(0),
            _ => records.pop().expect("a key has a record"),
        };
        let winner = (winner.1, winner.2);
        rows.insert(winner);
        superseded.extend(records.iter().map(|(_, hash, at)| ((*hash, *at), winner)));
    }
    (rows, superseded)
}

/// Every record of each file is accounted for, by all that counts or compares records.
async fn check(fixture: &Fixture, dataset: &str, all: &[Loaded]) {
    let (_, superseded) = state(fixture, dataset, all).await;
    let dataset = fixture.dataset(dataset);
    for loaded in all {
        let (file_no, records) = (loaded.file_no, loaded.file.records.len());
        let settled = fixture.sink.settle(&[file_no]).await.unwrap();
        assert_eq!(settled.len(), 1, "the file is whole");
        let audit = fixture.sink.audit(dataset, &[file_no]).await.unwrap()[0];
        assert_eq!(audit.stored(), records as u64, "{audit:?}");
        let own = |place: &&Place| place.0 == loaded.file.hash;
        assert_eq!(
            audit.superseded,
            superseded.keys().filter(own).count() as u64
        );
        assert_eq!((audit.doubled, audit.entries), (0, 0), "{audit:?}");
        for batch in batches(fixture, &dataset.name, loaded, 7) {
            assert_eq!(fixture.sink.differences(&batch).await.unwrap(), []);
        }
        for (place, winner) in superseded.iter().filter(|(place, _)| own(place)) {
            let winner = all
                .iter()
                .find(|other| other.file.hash == winner.0)
                .map(|other| row_id(other.file_no, winner.1));
            let standing = fixture
                .sink
                .standing(dataset, row_id(file_no, place.1))
                .await;
            assert_eq!(standing.unwrap(), Standing::Superseded(winner.unwrap()));
        }
    }
    let file_nos: Vec<u32> = all.iter().map(|loaded| loaded.file_no).collect();
    let lacking = fixture.sink.lacking(&file_nos, &fixture.datasets).await;
    assert!(lacking.unwrap().is_empty());
    // The newest file may have no row.
    fixture.sink.migrate(&fixture.datasets).await.unwrap();
}

async fn remove_all(fixture: &Fixture, all: &[Loaded]) {
    for loaded in all {
        fixture
            .sink
            .remove(loaded.file_no, &fixture.datasets)
            .await
            .unwrap();
        fixture.sink.end_removal(loaded.file_no).await.unwrap();
    }
    assert_eq!(
        fixture
            .number("SELECT COUNT(*) FROM ingest_superseded")
            .await,
        0
    );
}

pub async fn one_of_several_records_with_a_key_is_the_row(target: Target) {
    let fixture = fixture(target).await;
    for (name, on_conflict) in &ALL[..2] {
        for (about, files) in conflicts() {
            for order in orders(files.len()) {
                for cut in [1, 100] {
                    let about = format!("{name}: {about}, {order:?}, {cut}");
                    let mut all = Vec::new();
                    for at in &order {
                        let loaded = register(&fixture, name, &files[*at]).await;
                        for batch in batches(&fixture, name, &loaded, cut) {
                            let committed = fixture.commit(std::slice::from_ref(&batch)).await;
                            let rows = committed.rows + committed.superseded;
                            assert_eq!(rows, u64::from(batch.span.records), "{about}");
                        }
                        all.push(loaded);
                    }
                    let stored = state(&fixture, name, &all).await;
                    assert_eq!(stored, expected(&files, *on_conflict), "{about}");
                    // Each frame is delivered again, in another cut.
                    for loaded in &all {
                        let again = batches(&fixture, name, loaded, 3);
                        let committed = fixture.commit(&again).await;
                        let duplicates = loaded.file.records.len() as u64;
                        let nothing = Committed {
                            duplicates,
                            ..Committed::default()
                        };
                        assert_eq!(committed, nothing, "{about}");
                    }
                    assert_eq!(state(&fixture, name, &all).await, stored, "{about}");
                    check(&fixture, name, &all).await;
                    remove_all(&fixture, &all).await;
                }
            }
        }
    }
}

/// Many files, in several orders, by several processes at once, and delivered more than once.
pub async fn workers_agree_on_the_row_of_a_key(target: Target) {
    let fixture = fixture(target).await;
    let mut random = Pcg64::new(7, 1);
    let mut below = move |limit: u64| (random.next_u64() % limit).cast_signed();
    for round in 0..3 {
        let files: Vec<File> = (1..=6)
            .map(|hash| File {
                hash,
                records: (0..40)
                    .map(|_| {
                        let key = ["a", "b", "c", "d", "e", "f"][below(6) as usize];
                        (key, below(4), below(5), "v")
                    })
                    .collect(),
            })
            .collect();
        for (name, on_conflict) in &ALL[..2] {
            let mut frames = Vec::new();
            let mut all = Vec::new();
            for at in 0..files.len() {
                let loaded = register(&fixture, name, &files[(at + round) % files.len()]).await;
                let cut = 1 + below(15) as usize;
                frames.extend(batches(&fixture, name, &loaded, cut));
                all.push(loaded);
            }
            // A third of the frames is delivered twice.
            let twice: Vec<Batch> = frames.iter().step_by(3).cloned().collect();
            frames.extend(twice);
            for at in (1..frames.len()).rev() {
                frames.swap(at, below(at as u64 + 1) as usize);
            }
            let mut running = Vec::new();
            for worker in 0..3 {
                let own: Vec<Batch> = frames.iter().skip(worker).step_by(3).cloned().collect();
                let sink = fixture.another().await;
                running.push(tokio::spawn(async move {
                    for some in own.chunks(1 + worker) {
                        commit(&sink, some).await;
                    }
                }));
            }
            for worker in running {
                worker.await.unwrap();
            }
            let stored = state(&fixture, name, &all).await;
            assert_eq!(
                stored,
                expected(&files, *on_conflict),
                "{name}, round {round}"
            );
            check(&fixture, name, &all).await;
            remove_all(&fixture, &all).await;
        }
    }
}

/// With `reject`, the record that is stored first is the row.
pub async fn a_key_that_is_taken_makes_a_reject(target: Target) {
    let fixture = fixture(target).await;
    let files = [
        file(1, &[("a", 1, 5, "x"), ("a", 1, 9, "y"), ("b", 1, 5, "x")]),
        file(2, &[("c", 1, 5, "x"), ("b", 1, 9, "y")]),
    ];
    let mut all = Vec::new();
    for file in &files {
        let loaded = register(&fixture, "stays", file).await;
        for (at, batch) in batches(&fixture, "stays", &loaded, 100).iter().enumerate() {
            let committed = fixture.commit(std::slice::from_ref(batch)).await;
            let expected = Committed {
                rows: loaded.file.records.len() as u64 - 1,
                refused: vec![RejectCode::KeyTaken],
                ..Committed::default()
            };
            assert_eq!(committed, expected, "{at}");
            let again = fixture.commit(std::slice::from_ref(batch)).await;
            assert_eq!((again.rows, again.refused), (0, vec![]));
        }
        all.push(loaded);
    }
    let rejects = fixture.rejects(10).await;
    let (one, two) = (all[0].file_no, all[1].file_no);
    let found: Vec<_> = rejects
        .iter()
        .map(|reject| (reject.file_no, reject.ordinal, reject.message.clone()))
        .collect();
    let says = |id: u64| Some(format!("row {id} has the same key"));
    let expected = [
        (two, 1, says(row_id(one, 2))),
        (one, 1, says(row_id(one, 0))),
    ];
    assert_eq!(found, expected);
    assert!(
        rejects
            .iter()
            .all(|reject| reject.code == RejectCode::KeyTaken)
    );
    check(&fixture, "stays", &all).await;
}

/// A record that the database refuses supersedes none.
pub async fn a_refused_record_supersedes_none(target: Target) {
    let fixture = fixture(target).await;
    // The table takes no row with one value, and gives none away that has another.
    for (name, event, value) in [
        ("picky", "INSERT", "NEW.v = 'bad'"),
        ("keeping", "DELETE", "OLD.v = 'kept'"),
    ] {
        let trigger = format!("CREATE TRIGGER {name} BEFORE {event} ON last_wins");
        if target.is_sqlite() {
            let refuses = "BEGIN SELECT RAISE(ABORT, 'not this one'); END";
            fixture
                .run(&format!("{trigger} WHEN {value} {refuses}"))
                .await;
        } else {
            use mysql_async::prelude::Queryable as _;
            let refuses = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'";
            let refuses = format!("{trigger} FOR EACH ROW IF {value} THEN {refuses}; END IF");
            let mut session = fixture.session().await;
            session.query_drop(refuses).await.unwrap();
        }
    }
    let files = [
        file(
            1,
            &[("a", 1, 5, "x"), ("b", 1, 1, "x"), ("d", 1, 1, "kept")],
        ),
        file(
            2,
            &[
                ("a", 1, 3, "y"),
                ("a", 1, 9, "bad"),
                ("c", 1, 1, "y"),
                ("c", 1, 2, "y"),
                ("c", 1, 9, "bad"),
                ("b", 1, 2, "y"),
                ("d", 1, 9, "y"),
            ],
        ),
    ];
    let mut all = Vec::new();
    for file in &files {
        let loaded = register(&fixture, "last_wins", file).await;
        fixture
            .commit(&batches(&fixture, "last_wins", &loaded, 100))
            .await;
        all.push(loaded);
    }
    let rows = BTreeSet::from([(1, 0), (1, 2), (2, 3), (2, 5)]);
    let superseded = BTreeMap::from([((1, 1), (2, 5)), ((2, 0), (1, 0)), ((2, 2), (2, 3))]);
    assert_eq!(state(&fixture, "last_wins", &all).await, (rows, superseded));
    let rejects: Vec<u32> = fixture
        .rejects(9)
        .await
        .iter()
        .map(|reject| reject.ordinal)
        .collect();
    assert_eq!(rejects, [6, 4, 1]);
    check(&fixture, "last_wins", &all).await;
}

/// A row of another program that has the id of a record and the key of others stays, whether the record
/// is in this commit or comes later, and whether the others would win or lose.
pub async fn a_row_with_the_id_of_a_record_stays(target: Target) {
    let fixture = fixture(target).await;
    let records = [("a", 1, 1, "x"), ("a", 1, 9, "x")];
    for (hash, name, at) in [
        (1, "last_wins", "2000-01-01 00:00:00.000000"),
        (2, "last_wins", "2200-01-01 00:00:00.000000"),
        (3, "first_wins", "2000-01-01 00:00:00.000000"),
        (4, "first_wins", "2200-01-01 00:00:00.000000"),
        (5, "stays", "2000-01-01 00:00:00.000000"),
    ] {
        for of_commit in [2, 1] {
            let about = format!("{name}, {at}, {of_commit} records in a commit");
            let loaded = register(&fixture, name, &file(hash, &records)).await;
            let foreign = row_id(loaded.file_no, 1);
            let columns = format!("({foreign}, 'a', 1, '{at}', 'foreign')");
            let insert = format!("INSERT INTO {name} (id, k, n, at, v) VALUES {columns}");
            fixture.run(&insert).await;
            let mut refused = Vec::new();
            for batch in batches(&fixture, name, &loaded, of_commit) {
                let committed = fixture.commit(std::slice::from_ref(&batch)).await;
                assert_eq!((committed.rows, committed.superseded), (0, 0), "{about}");
                refused.extend(committed.refused);
            }
            refused.sort_unstable_by_key(|code| code.as_str());
            let codes = [RejectCode::IdTaken, RejectCode::KeyTaken];
            assert_eq!(refused, codes, "{about}");
            let rows = fixture.query(&format!("SELECT id FROM {name}")).await;
            assert_eq!(rows, [vec![Val::Int(foreign.cast_signed())]], "{about}");
            remove_all(&fixture, &[loaded]).await;
            fixture.run(&format!("DELETE FROM {name}")).await;
        }
    }
}

/// The row of another program stays, and a record that a removed row superseded can be stored again.
pub async fn rows_that_come_and_go(target: Target) {
    let fixture = fixture(target).await;
    let time = "2022-06-05 21:02:34.000000";
    fixture
        .run(&format!(
            "INSERT INTO last_wins (id, k, n, at, v) VALUES (5, 'mine', 1, '{time}', 'x')"
        ))
        .await;
    let winner = register(&fixture, "last_wins", &file(2, &[("a", 1, 9, "x")])).await;
    let loser = register(
        &fixture,
        "last_wins",
        &file(
            1,
            &[("a", 1, 5, "x"), ("mine", 1, 9, "x"), ("a", 1, 6, "x")],
        ),
    )
    .await;
    fixture
        .commit(&batches(&fixture, "last_wins", &winner, 9))
        .await;
    let of_loser = batches(&fixture, "last_wins", &loser, 9);
    let committed = fixture.commit(&of_loser).await;
    assert_eq!((committed.rows, committed.superseded), (0, 2));
    assert_eq!(committed.refused, [RejectCode::KeyTaken]);
    let file_no = winner.file_no;
    let removed = fixture.sink.remove(file_no, &fixture.datasets).await;
    assert_eq!(removed.unwrap().superseded, [(loser.file_no, 2)]);
    fixture.sink.settle(&[loser.file_no]).await.unwrap();
    let dataset = fixture.dataset("last_wins");
    let audit = fixture.sink.audit(dataset, &[loser.file_no]).await.unwrap()[0];
    let gone = Audit {
        file_no: loser.file_no,
        rejects: 1,
        last_ordinal: Some(1),
        ..Audit::default()
    };
    assert_eq!(audit, gone);
    assert_eq!(
        fixture.sink.differences(&of_loser[0]).await.unwrap().len(),
        2
    );
    let id = row_id(loser.file_no, 0);
    assert_eq!(
        fixture.sink.standing(dataset, id).await.unwrap(),
        Standing::Absent
    );
    // As `files restore` does it.
    let committed = fixture.commit(&of_loser).await;
    let net = (
        committed.rows - committed.replaced,
        committed.rows + committed.superseded,
    );
    assert_eq!(net, (1, 2));
    let audit = fixture.sink.audit(dataset, &[loser.file_no]).await.unwrap()[0];
    assert_eq!((audit.rows, audit.superseded, audit.stored()), (1, 1, 3));
    assert_eq!(fixture.sink.differences(&of_loser[0]).await.unwrap(), []);
}

/// A table of the user needs the key, and `migrate --add` adds it.
pub async fn a_table_without_its_key_is_refused(target: Target) {
    let fixture = Fixture::empty(target).await;
    let define = |key: &str| {
        let definition = format!(
            "name = 'trips'\n{key}\ncolumns = [{{name = 'k', type = 'text'}}, {{name = 'n', type = \
             'integer'}}]"
        );
        Datasets::new(vec![toml::from_str(&definition).unwrap()]).unwrap()
    };
    let (without, with) = (define(""), define("key = ['k', 'n']"));
    fixture.sink.migrate(&without).await.unwrap();
    let fault = fixture.sink.migrate(&with).await.unwrap_err();
    let said = format!("{fault:?} {fault}");
    assert!(
        !fault.is_transient() && said.contains("has no unique key (`k`, `n`)"),
        "{said}"
    );
    assert!(
        said.contains("migrate --add") && said.contains("uk_trips_k_n"),
        "{said}"
    );
    if !target.is_sqlite() {
        let findings = fixture.sink.inspect(&with).await.unwrap();
        let mut named = findings.iter();
        let named = named.any(|finding| finding.what.contains("has no unique key"));
        assert!(named, "{findings:?}");
    }
    let add = Migration {
        add: true,
        ..Migration::default()
    };
    fixture.sink.migrate_as(&with, add).await.unwrap();
    fixture.sink.migrate(&with).await.unwrap();
    fixture
        .run("INSERT INTO trips (id, k, n) VALUES (1, 'a', 1)")
        .await;
    // A key that the user has made serves as well, in another order and under another name.
    fixture.run("DROP TABLE trips").await;
    fixture.sink.migrate(&without).await.unwrap();
    fixture
        .run("CREATE UNIQUE INDEX mine ON trips (n, k)")
        .await;
    fixture.sink.migrate(&with).await.unwrap();
}
