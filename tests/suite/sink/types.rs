//! Clauses about the types of columns that few datasets have.

use std::slice;
use std::sync::Arc;

use lemonade_task::batch::{Batch, SourceFile};
use lemonade_task::convert;
use lemonade_task::cut::{self, ChunkLimits, Outside};
use lemonade_task::dataset::{Dataset, Datasets};
use lemonade_task::parse::Parser;
use lemonade_task::sink::{DifferenceKind, NewFile};

use super::fixture::{Fixture, Target, new_file};

const RARE_TYPES: &str = "name = 'rare_types'
    columns = [
        {name = 'd', type = 'decimal(38,30)', required = false},
        {name = 'u', type = 'unsigned', required = false},
        {name = 'day', type = 'date', required = false},
        {name = 'clock', type = 'time', required = false},
        {name = 'bytes', type = 'binary', encoding = 'hex', required = false},
        {name = 'long', type = 'text', max_chars = 100000, required = false},
    ]";

const CHUNKS: ChunkLimits = ChunkLimits {
    records: 1_000,
    bytes: 1 << 20,
};

/// Every byte, in hexadecimal digits.
fn all_bytes() -> String {
    convert::hex_text(&(0..=u8::MAX).collect::<Vec<u8>>())
}

/// Records with the limits of each type, and NULL.
fn records(count: usize) -> String {
    let values = [
        r#"{"d": "12345678.901234567890123456789012345678", "u": 18446744073709551615, "day": "9999-12-31", "clock": "23:59:59.999999", "bytes": "BYTES", "long": "LONG"}"#,
        r#"{"d": -99999999.999999999999999999999999999999, "u": 0, "day": "1000-01-01", "clock": "00:00:00", "bytes": "", "long": ""}"#,
        r#"{"d": 1e-30, "u": 9223372036854775808, "day": "2024-02-29", "clock": "12:00", "bytes": "5c090a00275c", "long": null}"#,
        "{}",
    ];
    let lines: Vec<String> = (0..count)
        .map(|at| {
            let line = values[at % values.len()].replace("BYTES", &all_bytes());
            line.replace("LONG", &"é".repeat(if at == 0 { 90_000 } else { 9 }))
        })
        .collect();
    lines.join("\n")
}

/// The records of a file as batches, and the file as the ledger enters it.
fn parsed(dataset: &Arc<Dataset>, lines: &str) -> (NewFile, impl Fn(u32) -> Vec<Batch> + use<>) {
    let plan = cut::cut(lines.as_bytes(), dataset, CHUNKS).unwrap();
    let file = NewFile {
        dataset: dataset.name.clone(),
        definition: Some(dataset.fingerprint),
        records: plan.records,
        ..new_file("vehicle_events", 1)
    };
    let (hash, dataset, lines) = (file.hash, dataset.clone(), lines.to_owned());
    let batches = move |file_no| {
        let mut parser = Parser::default();
        let batch = |chunk: &cut::Chunk| {
            let bytes = &lines.as_bytes()[chunk.start as usize..chunk.end as usize];
            parser.parse(
                &dataset,
                SourceFile { file_no, hash },
                chunk,
                bytes,
                &Outside::default(),
            )
        };
        plan.chunks.iter().map(batch).collect()
    };
    (file, batches)
}

/// Few rows go in one statement, many by LOAD DATA or bulk execution. Both store each digit and
/// byte, which the comparison with the records confirms.
pub async fn rare_types_come_back_as_they_went_in(target: Target) {
    let fixture = Fixture::empty(target).await;
    let datasets = Datasets::new(vec![toml::from_str(RARE_TYPES).unwrap()]).unwrap();
    fixture.sink.migrate(&datasets).await.unwrap();
    fixture
        .sink
        .migrate(&datasets)
        .await
        .expect("the tables that it made fit");
    let dataset = datasets.by_name("rare_types").unwrap();
    for count in [4, 1_500] {
        let (file, batches) = parsed(dataset, &records(count));
        let file_no = fixture.register(slice::from_ref(&file)).await.unwrap()[0].file_no;
        let batches = batches(file_no);
        assert!(batches.iter().all(|batch| batch.rejects.is_empty()));
        let committed = fixture.commit(&batches).await;
        assert_eq!(committed.rows, count as u64, "{committed:?}");
        // Stored rows are recognised by their values, and not only by their ids.
        fixture
            .run(&format!(
                "DELETE FROM ingest_frames WHERE file_no = {file_no}"
            ))
            .await;
        let again = fixture.commit(&batches).await;
        assert_eq!(
            (again.rows, again.duplicates),
            (0, count as u64),
            "{again:?}"
        );
        assert!(again.refused.is_empty(), "{again:?}");
        for batch in &batches {
            assert_eq!(fixture.sink.differences(batch).await.unwrap(), []);
        }
        for (column, other) in [
            ("d", "'0.000000000000000000000000000002'"),
            ("u", "'9223372036854775807'"),
            ("day", "'2024-02-28'"),
            ("clock", "'12:00:00.000001'"),
            ("bytes", "x'5c090a00275d'"),
        ] {
            let id = (u64::from(file_no) << 32) + 2;
            fixture
                .run(&format!(
                    "UPDATE rare_types SET `{column}` = {other} WHERE id = {id}"
                ))
                .await;
            let mut found = fixture.sink.differences(&batches[0]).await.unwrap();
            let harm = found.pop().expect("the harm is found");
            assert_eq!((harm.ordinal, found.len()), (2, 0));
            let DifferenceKind::Changed(changes) = harm.kind else {
                panic!("{column}: {:?}", harm.kind);
            };
            let columns: Vec<&str> = changes.iter().map(|change| &*change.column).collect();
            assert_eq!(columns, [column]);
            fixture
                .run(&format!("DELETE FROM rare_types WHERE id = {id}"))
                .await;
            fixture
                .run(&format!(
                    "DELETE FROM ingest_frames WHERE file_no = {file_no}"
                ))
                .await;
            fixture
                .run(&format!(
                    "UPDATE ingest_files SET state = 'pending' WHERE file_no = {file_no}"
                ))
                .await;
            assert_eq!(fixture.commit(&batches).await.rows, 1);
        }
    }
}
