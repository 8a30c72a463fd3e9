//! Any text as a definition: it is refused with a reason, or valid. A valid definition cuts and
//! parses documents, and the rows match its schema.
#![no_main]

use std::sync::Arc;

use lemonade_fuzz::{batches, limits};
use lemonade_task::cut::{cut, cut_each};
use lemonade_task::dataset::{Dataset, Datasets};
use libfuzzer_sys::fuzz_target;

/// A document of each shape, with values of each kind.
const DOCUMENTS: [&str; 4] = [
    r#"{"a":[{"a":1,"b":"x","c":null}],"data":[{"b":[{"a":true}]},{"c":1.5}]}"#,
    r#"[{"a":"2024-01-01T00:00:00Z","b":{"a":[1]},"data":"\u00e9"},7]"#,
    "{\"a\":1}\n{\"b\":2}{\"c\":12345678901234567890}\n",
    r#"{"a":{"b":{"c":[1,2,{"d":1e400}]}}}"#,
];

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_last() else {
        return;
    };
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let Ok(dataset) = toml::from_str::<Dataset>(text) else {
        return;
    };
    let name = dataset.name.clone();
    match Datasets::new(vec![dataset]) {
        Ok(datasets) => use_it(
            datasets.by_name(&name).expect("it was taken"),
            &datasets,
            choice,
        ),
        Err(refused) => assert!(!refused.problem.is_empty()),
    }
});

fn use_it(dataset: &Arc<Dataset>, datasets: &Datasets, choice: u8) {
    assert_eq!(dataset.schema().fields().len(), dataset.columns.len() + 2);
    let name = dataset.files.as_bytes();
    let _ = datasets.for_file_name(name);
    let of = datasets
        .of_file(name, Some(dataset))
        .expect("its dataset is given");
    for document in DOCUMENTS {
        let _ = cut_each(document.as_bytes(), &of, limits(choice));
        let Ok(plan) = cut(document.as_bytes(), dataset, limits(choice)) else {
            continue;
        };
        for batch in batches(dataset, document.as_bytes(), &plan) {
            assert_eq!(batch.rows.schema(), dataset.schema());
        }
    }
}
