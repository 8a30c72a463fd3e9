//! Hostile and malformed documents, each with its expected outcome.
//!
//! The outcome is a list of runs in the order of the file: `row*2 invalid_json` is two rows and a
//! reject. A document that cannot be read as a whole is `incomplete` (more may follow) or
//! `malformed`. Each goes through cut and parse with large and small chunks, with the same outcome,
//! and all go through the binary.

mod structure;
mod values;

use std::fmt::Write as _;
use std::sync::Arc;

use lemonade_task::batch::SourceFile;
use lemonade_task::cut::{self, ChunkLimits, Outside, Unreadable};
use lemonade_task::dataset::{Dataset, Datasets};
use lemonade_task::parse::Parser;

use crate::support::{Pair, names};

const FILE: SourceFile = SourceFile {
    file_no: 1,
    hash: [0; 16],
};

/// A good record.
const GOOD: &str =
    r#"{"vehicle_id":"v","report_time":"2024-01-01T00:00:00Z","status_source":"s","status":"ok"}"#;

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    outcome: &'static str,
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, outcome: &'static str) -> Case {
    Case {
        name,
        bytes: bytes.into(),
        outcome,
    }
}

/// A record whose status is this JSON text.
fn status(value: impl AsRef<[u8]>) -> Vec<u8> {
    let (before, after) = GOOD.split_once("\"ok\"").unwrap();
    [before.as_bytes(), value.as_ref(), after.as_bytes()].concat()
}

/// A record with one more member.
fn with(member: impl AsRef<[u8]>) -> Vec<u8> {
    let open = &GOOD.as_bytes()[..GOOD.len() - 1];
    [open, b",", member.as_ref(), b"}"].concat()
}

/// An array with a good record before and after the given text.
fn between(record: impl AsRef<[u8]>) -> Vec<u8> {
    let good = GOOD.as_bytes();
    [b"[", good, b",", record.as_ref(), b",", good, b"]"].concat()
}

/// Lines with a good record before and after the given text.
fn among_lines(record: impl AsRef<[u8]>) -> Vec<u8> {
    let good = GOOD.as_bytes();
    [good, b"\n", record.as_ref(), b"\n", good, b"\n"].concat()
}

fn cases() -> Vec<Case> {
    let mut cases = values::nesting_and_size();
    cases.extend(values::text());
    cases.extend(values::numbers());
    cases.extend(structure::not_quite_json());
    cases.extend(structure::shapes());
    cases.extend(structure::ends());
    cases
}

/// The outcome of the records, as runs.
fn outcome(bytes: &[u8], dataset: &Arc<Dataset>, limits: ChunkLimits) -> String {
    let plan = match cut::cut(bytes, dataset, limits) {
        Ok(plan) => plan,
        Err(Unreadable::Incomplete { .. }) => return "incomplete".to_owned(),
        Err(Unreadable::Malformed { .. }) => return "malformed".to_owned(),
    };
    let mut parser = Parser::default();
    let mut all = vec!["row"; plan.records as usize];
    let mut rows = 0;
    for chunk in plan.chunks {
        let bytes = &bytes[chunk.start as usize..chunk.end as usize];
        let batch = parser.parse(dataset, FILE, &chunk, bytes, &Outside::default());
        rows += batch.rows.num_rows();
        for reject in batch.rejects {
            all[reject.ordinal as usize] = reject.code.as_str();
        }
    }
    assert_eq!(all.iter().filter(|what| **what == "row").count(), rows);
    let mut text = String::new();
    for run in all.chunk_by(|a, b| a == b) {
        let space = if text.is_empty() { "" } else { " " };
        write!(text, "{space}{}", run[0]).unwrap();
        if run.len() > 1 {
            write!(text, "*{}", run.len()).unwrap();
        }
    }
    text
}

#[test]
fn each_document_has_its_outcome_with_any_chunks() {
    let datasets = Datasets::new(Vec::new()).unwrap();
    let dataset = datasets.by_name("vehicle_status").unwrap();
    let cases = cases();
    assert!(cases.len() >= 60);
    let mut wrong = String::new();
    for Case {
        name,
        bytes,
        outcome: expected,
    } in &cases
    {
        for (records, size) in [(u32::MAX, 1 << 20), (1, 1 << 20), (2, 64)] {
            let limits = ChunkLimits {
                records,
                bytes: size,
            };
            let found = outcome(bytes, dataset, limits);
            if found != *expected {
                writeln!(wrong, "{name}: {found}, not {expected} ({records} records)").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{wrong}", cases.len());
}

/// Every document at once, through the binary: files that cannot be read as a whole are in
/// quarantine with a reason, the others in history, and the table has the expected counts.
#[tokio::test]
async fn the_binary_gives_each_document_the_same_outcome() {
    let pair = Pair::new("memory+sqlite").await;
    let inbound = pair.at("inbound");
    let (mut rows, mut rejects, mut history, mut quarantine) = (0, 0, 0, 0);
    let mut seen = std::collections::HashSet::new();
    for (number, Case { bytes, outcome, .. }) in cases().into_iter().enumerate() {
        let name = format!("vehicle_status_{number}.json");
        std::fs::write(inbound.join(name), &bytes).unwrap();
        let (of_rows, of_rejects) = counts(outcome);
        if ["incomplete", "malformed"].contains(&outcome) {
            quarantine += 1;
        } else {
            history += 1;
            // Equal content is one file.
            if seen.insert(bytes) {
                rows += of_rows;
                rejects += of_rejects;
            }
        }
    }
    pair.expect(2, &["load"]);
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM vehicle_status").await,
        rows
    );
    assert_eq!(
        pair.number("SELECT COUNT(*) FROM ingest_rejects").await,
        rejects
    );
    assert_eq!(names(&pair.at("history")).len(), history);
    let set_aside = names(&pair.at("quarantine"));
    assert_eq!(set_aside.len(), 2 * quarantine, "each with its reason");
    assert_eq!(names(&inbound), [""; 0]);
    assert_eq!(names(&pair.at("work")), [""; 0]);
}

/// The numbers of rows and rejects of an outcome.
fn counts(outcome: &str) -> (u64, u64) {
    let (mut rows, mut rejects) = (0, 0);
    for run in outcome.split_whitespace() {
        let (what, count) = run.split_once('*').unwrap_or((run, "1"));
        let count: u64 = count.parse().unwrap();
        match what {
            "row" => rows += count,
            _ => rejects += count,
        }
    }
    (rows, rejects)
}
