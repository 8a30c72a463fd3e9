//! Any bytes are cut without a panic, chunks contain each record once, and limits change no record.
#![no_main]

use lemonade_fuzz::{NO_LIMITS, dataset, limits};
use lemonade_task::cut::{ChunkLimits, Layout, Unreadable, cut, records};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, document)) = data.split_last() else {
        return;
    };
    let whole = texts(document, choice, NO_LIMITS);
    assert_eq!(whole, texts(document, choice, limits(choice)));
    // An array that is complete is incomplete without its last bracket. An exception: if one of its
    // records has a newline in a string, which JSON does not allow, the rest may be lines.
    let plan = cut(document, dataset(choice), NO_LIMITS);
    if let (Ok(plan), Some((b']', less))) = (&plan, document.split_last())
        && (plan.chunks.iter()).all(|chunk| chunk.layout == Layout::Array)
        && document.starts_with(b"[")
        && serde_json::from_slice::<serde_json::Value>(document).is_ok()
    {
        let less = texts(less, choice, NO_LIMITS);
        assert!(
            matches!(less, Err(Unreadable::Incomplete { .. })),
            "{less:?}"
        );
    }
});

/// The text of each record, after the checks that hold for every plan.
fn texts(document: &[u8], choice: u8, limits: ChunkLimits) -> Result<Vec<&[u8]>, Unreadable> {
    let dataset = dataset(choice);
    let plan = cut(document, dataset, limits)?;
    let mut all = Vec::new();
    let mut end = 0;
    for chunk in &plan.chunks {
        assert!(chunk.start >= end && chunk.end >= chunk.start, "in order");
        end = chunk.end;
        assert_eq!(chunk.first_ordinal as usize, all.len(), "ordinals");
        assert!(chunk.records > 0 && chunk.records <= limits.records.max(1));
        let bytes = &document[chunk.start as usize..chunk.end as usize];
        assert!(bytes.len() <= limits.bytes || chunk.records == 1);
        let found = records(bytes, chunk.layout, dataset);
        assert_eq!(found.len(), chunk.records as usize, "records of a chunk");
        all.extend(found.into_iter().map(|range| &bytes[range]));
    }
    assert_eq!(all.len(), plan.records as usize);
    Ok(all)
}
