//! Any document that can be cut is parsed without a panic. The batch is the same for any limits,
//! and the rejects as `invalid_json` are the records that `serde_json` refuses.
#![no_main]

use std::collections::HashMap;

use lemonade_fuzz::{NO_LIMITS, assert_same, batches, dataset, limits};
use lemonade_task::batch::{Batch, RejectCode};
use lemonade_task::cut::{cut, records};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, document)) = data.split_last() else {
        return;
    };
    let dataset = dataset(choice);
    let plan = |limits| cut(document, dataset, limits);
    let Ok(whole) = plan(NO_LIMITS) else {
        return;
    };
    let parsed = batches(dataset, document, &whole);
    let cut_small = plan(limits(choice)).expect("limits decide nothing");
    let parts = batches(dataset, document, &cut_small);
    match (&parsed[..], &whole.chunks[..]) {
        ([], []) => assert!(parts.is_empty()),
        ([parsed], [chunk]) => {
            assert_same(&parsed.rows, &parsed.rejects, &parts);
            let bytes = &document[chunk.start as usize..chunk.end as usize];
            let texts = records(bytes, chunk.layout, dataset);
            let texts: Vec<_> = texts.into_iter().map(|range| &bytes[range]).collect();
            judged_as_serde_json_does(parsed, &texts);
        }
        _ => panic!("without limits a document is one chunk"),
    }
});

fn judged_as_serde_json_does(batch: &Batch, texts: &[&[u8]]) {
    let codes: HashMap<usize, _> = batch
        .rejects
        .iter()
        .map(|reject| (reject.ordinal as usize, (reject.code, &reject.field)))
        .collect();
    for (ordinal, text) in texts.iter().enumerate() {
        let is_json = match codes.get(&ordinal) {
            None => true,
            // Nesting beyond the limit ends the parsing of a record.
            Some((RejectCode::TooDeep, _)) => continue,
            Some((code, _)) => *code != RejectCode::InvalidJson,
        };
        let json = serde_json::from_slice::<serde_json::Value>(text);
        // serde_json refuses a number beyond its floats, which is valid JSON.
        if json
            .as_ref()
            .is_err_and(|error| error.to_string().contains("number out of range"))
        {
            continue;
        }
        assert_eq!(
            is_json,
            json.is_ok(),
            "{} {json:?}",
            String::from_utf8_lossy(text)
        );
    }
}
