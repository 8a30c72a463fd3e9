//! Shared by the targets: the datasets, and limits chosen by one byte.
//!
//! The last byte of an input chooses dataset and limits. So a JSON document is an input without a
//! change, and each seed is a readable file.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};

use arrow_array::RecordBatch;
use lemonade_task::batch::{Batch, Reject, SourceFile};
use lemonade_task::cut::{ChunkLimits, Plan};
use lemonade_task::dataset::{Dataset, Datasets};
use lemonade_task::frame::FrameKey;
use lemonade_task::parse::Parser;

/// No limits: the whole document is one chunk.
pub const NO_LIMITS: ChunkLimits = ChunkLimits {
    records: u32::MAX,
    bytes: usize::MAX,
};

/// The file that the records are from.
pub const FILE: SourceFile = SourceFile {
    file_no: 3,
    hash: [0; 16],
};

/// The key of the frames.
pub const KEY: FrameKey = FrameKey::new([3; FrameKey::BYTES]);

/// The built-in datasets, two with a column of each kind: `trips`, and `stops`, whose files are
/// sequences; and two whose rows have values from outside of their records: `logs` by elements and
/// keys, and `fixes`, whose records are arrays.
pub static DATASETS: LazyLock<Datasets> = LazyLock::new(|| {
    let columns = r#"
        records = "/data/trips"
        columns = [
            { name = "t", type = "text", max_chars = 5 },
            { name = "n", type = "integer", required = false },
            { name = "f", type = "float", required = false },
            { name = "b", type = "boolean", required = false },
            { name = "at", type = "timestamp", required = false, epoch = "ms" },
            { name = "day", type = "timestamp", required = false },
            { name = "j", type = "json", required = false, default = "[]" },
            { name = "deep", type = "text", required = false, field = "/p/q~1r/1" },
            { name = "whole", type = "json", required = false, field = "/w" },
            { name = "part", type = "integer", required = false, field = "/w/x" },
        ]"#;
    let defined = |head: &str| toml::from_str(&format!("{head}\n{columns}")).expect("it is TOML");
    let trips = defined("name = \"trips\"");
    let stops = defined("name = \"stops\"\nformat = \"sequence\"");
    let logs = r#"
        name = "logs"
        records = "/data/*/trips/*"
        columns = [
            { name = "of", type = "text", required = false, envelope = "/data/*/name", max_chars = 3 },
            { name = "whole", type = "integer", required = false, envelope = "/mark" },
            { name = "key", type = "text", key = "/data/*" },
            { name = "at", type = "integer", key = "/data/*/trips/*", required = false, on_error = "null" },
            { name = "first", type = "decimal(6,2)", required = false, field = ["/d", "/p/d"] },
            { name = "bytes", type = "binary", required = false, on_error = "null", field = "/t" },
        ]"#;
    let fixes = r#"
        name = "fixes"
        format = "lines"
        columns = [
            { name = "time", type = "time", required = false, field = "/0" },
            { name = "day", type = "date", required = false, field = "/1" },
            { name = "large", type = "unsigned", required = false, field = "/2/n" },
        ]"#;
    let rest = [logs, fixes].map(|text| toml::from_str(text).expect("it is TOML"));
    let all = [trips, stops].into_iter().chain(rest).collect();
    Datasets::new(all).expect("the definitions are right")
});

/// The dataset that a byte chooses.
#[must_use]
pub fn dataset(choice: u8) -> &'static Arc<Dataset> {
    let name = [
        "trips",
        "stops",
        "logs",
        "fixes",
        "vehicle_events",
        "vehicle_status",
    ][choice as usize % 6];
    DATASETS.by_name(name).expect("the dataset is defined")
}

/// Small limits, chosen by a byte.
#[must_use]
pub fn limits(choice: u8) -> ChunkLimits {
    ChunkLimits {
        records: u32::from(choice >> 4),
        bytes: [0, 1, 7, 64, 200, 1000, 65_536, usize::MAX][choice as usize % 8],
    }
}

/// Parses each chunk of a plan.
#[must_use]
pub fn batches(dataset: &Arc<Dataset>, document: &[u8], plan: &Plan) -> Vec<Batch> {
    let mut parser = Parser::default();
    let chunks = plan.chunks.iter();
    chunks
        .map(|chunk| {
            let bytes = &document[chunk.start as usize..chunk.end as usize];
            let Ok(outside) = chunk.outside(|place| {
                let text = &document[place.start as usize..place.end as usize];
                Ok::<_, Infallible>(String::from_utf8_lossy(text).into_owned())
            });
            let batch = parser.parse(dataset, FILE, chunk, bytes, &outside);
            assert_eq!(batch.span.records, chunk.records);
            batch
        })
        .collect()
}

/// Whether the chunks' batches, one after the other, are the batch of the whole document.
pub fn assert_same(whole: &RecordBatch, whole_rejects: &[Reject], parts: &[Batch]) {
    let mut rows = 0;
    let mut rejects = Vec::new();
    for part in parts {
        let count = part.rows.num_rows();
        assert_eq!(whole.slice(rows, count), part.rows, "rows from {rows} on");
        rows += count;
        rejects.extend_from_slice(&part.rejects);
    }
    assert_eq!(whole.num_rows(), rows);
    assert_eq!(whole_rejects, rejects);
}
