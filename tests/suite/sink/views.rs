//! Clauses about the views of definitions.

use std::collections::BTreeMap;

use lemonade_task::dataset::Datasets;
use lemonade_task::sink::{Migration, NewFile};

use super::fixture::{Fixture, Target, Val, batch, new_file, span, text};

/// The names of two columns are those of columns of the ledger.
const TRIPS: &str = "name = 'trips'\nsettled_view = 'settled_trips'\ncolumns = [
    {name = 'name', type = 'text'},
    {name = 'bytes', type = 'integer', required = false},";

const ADD: Migration = Migration {
    keep_rows: false,
    add: true,
    ledger_only: false,
    any_zone: false,
};

pub async fn a_view_shows_the_rows_of_settled_files_with_their_time(target: Target) {
    let mut fixture = Fixture::empty(target).await;
    fixture.datasets = defined(&format!("{TRIPS}]"));
    for _ in 0..2 {
        let migrated = fixture.sink.migrate(&fixture.datasets).await;
        migrated.expect("the view is created once");
    }
    let trips = fixture.dataset("trips").clone();
    let mut files = Vec::new();
    for _ in 0..3 {
        let file = NewFile {
            definition: Some(trips.fingerprint),
            ..new_file("trips", 2)
        };
        let file_no = fixture.register(&[file]).await.unwrap()[0].file_no;
        fixture.adopt(file_no).await;
        let rows = |ordinal: u32| {
            (
                ordinal,
                vec![text(format!("{file_no}:{ordinal}")), Val::Null],
            )
        };
        let rows: BTreeMap<_, _> = (0..2).map(rows).collect();
        // The last file lacks a record.
        let rows: BTreeMap<_, _> = match files.len() {
            2 => rows.into_iter().take(1).collect(),
            _ => rows,
        };
        let records = u32::try_from(rows.len()).unwrap();
        let batch = batch(&trips, span(file_no, 0, records), &rows, Vec::new());
        fixture.commit(&[batch]).await;
        files.push(file_no);
    }
    fixture.sink.settle(&files).await.unwrap();
    let shown = |more: &str| {
        let sql = format!("SELECT name FROM settled_trips {more} ORDER BY id");
        let fixture = &fixture;
        async move { fixture.query(&sql).await }
    };
    let of = |files: &[u32]| -> Vec<Vec<Val>> {
        let names = files
            .iter()
            .flat_map(|file| (0..2).map(move |at| format!("{file}:{at}")));
        names.map(|name| vec![text(name)]).collect()
    };
    assert_eq!(shown("").await, of(&files[..2]));
    let first = format!(
        "WHERE settled_at = (SELECT settled_at FROM ingest_files WHERE file_no = {})",
        files[0]
    );
    let found = shown(&first).await;
    assert!(found.starts_with(&of(&files[..1])), "{found:?}");
    assert_eq!(shown("WHERE settled_at > '2999-01-01'").await, of(&[]));
    let one = format!("WHERE id = {}", (u64::from(files[1]) << 32) + 1);
    assert_eq!(shown(&one).await, of(&files[1..2])[1..]);

    // A view has the columns of its time.
    fixture.datasets = defined(&format!(
        "{TRIPS}\n{{name = 'km', type = 'float', required = false}}]"
    ));
    let migrated = fixture.sink.migrate_as(&fixture.datasets, ADD).await;
    migrated.expect("the column is added, and the view made again");
    assert_eq!(
        fixture.query("SELECT km FROM settled_trips").await,
        vec![vec![Val::Null]; 4]
    );
}

pub async fn a_view_replaces_no_table(target: Target) {
    let mut fixture = Fixture::empty(target).await;
    fixture.datasets = defined(&format!("{TRIPS}]"));
    fixture.run("CREATE TABLE settled_trips (id INTEGER)").await;
    for asked in [Migration::default(), ADD] {
        let fault = fixture.sink.migrate_as(&fixture.datasets, asked).await;
        let fault = fault.expect_err("a table has the name");
        assert!(!fault.is_transient(), "{fault}");
        assert!(fault.to_string().contains("settled_trips"), "{fault}");
    }
    assert!(
        fixture
            .query("SELECT id FROM settled_trips")
            .await
            .is_empty()
    );
}

fn defined(definition: &str) -> Datasets {
    Datasets::new(vec![toml::from_str(definition).unwrap()]).unwrap()
}
