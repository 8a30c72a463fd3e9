//! The data to send: events in files, as rows and as frames, made by the stages of the engine.

use std::sync::Arc;

use arrow_array::Array as _;
use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMicrosecondType, UInt64Type};
use lemonade_task::batch::{Batch, SourceFile};
use lemonade_task::cut::{ChunkLimits, Outside, cut};
use lemonade_task::dataset::{Dataset, Datasets};
use lemonade_task::parse::Parser;
use lemonade_task::sample::Generator;

use super::Made;

/// The default limits of the engine.
pub(super) const LIMITS: ChunkLimits = ChunkLimits {
    records: 2_000,
    bytes: 1 << 20,
};

/// A row with the columns of `vehicle_events` in their order.
pub(super) struct Row<'a> {
    pub(super) id: u64,
    pub(super) vehicle_id: &'a str,
    /// Microseconds since the epoch.
    pub(super) event_time: i64,
    pub(super) event_source: &'a str,
    pub(super) event_type: &'a str,
    pub(super) event_value: &'a str,
    pub(super) event_extra_data: &'a str,
    pub(super) rescued: Option<&'a str>,
}

/// The built-in datasets, and that of the events.
pub(super) fn dataset() -> (Datasets, Arc<Dataset>) {
    let datasets = Datasets::new(Vec::new()).expect("the built-in datasets are valid");
    let events = datasets
        .by_name("vehicle_events")
        .expect("it is built in")
        .clone();
    (datasets, events)
}

/// The texts of the files.
pub(super) fn texts(made: &Made) -> Vec<Vec<u8>> {
    let generator = generator(made);
    sizes(made)
        .map(|(index, records)| {
            let mut text = Vec::with_capacity(records as usize * 260);
            generator
                .write(index, records, &mut text)
                .expect("writing to memory cannot fail");
            text
        })
        .collect()
}

/// The batches of the files, of at most 2,000 rows each.
pub(super) fn batches(made: &Made) -> Vec<Batch> {
    let (_, dataset) = dataset();
    let mut parser = Parser::default();
    let mut batches = Vec::new();
    for (file_no, text) in (1..).zip(texts(made)) {
        let plan = cut(&text, &dataset, LIMITS).expect("made files are whole");
        let file = SourceFile {
            file_no,
            hash: [0; 16],
        };
        for chunk in &plan.chunks {
            let bytes = &text[chunk.start as usize..chunk.end as usize];
            let batch = parser.parse(&dataset, file, chunk, bytes, &Outside::default());
            assert!(batch.rejects.is_empty(), "made records are good");
            batches.push(batch);
        }
    }
    batches
}

/// The rows of a batch.
pub(super) fn rows(batch: &Batch) -> impl Iterator<Item = Row<'_>> {
    let columns = batch.rows.columns();
    let ids = columns[0].as_primitive::<UInt64Type>();
    let times = columns[2].as_primitive::<TimestampMicrosecondType>();
    let text = |column: usize| columns[column].as_string::<i32>();
    let (vehicles, sources, kinds) = (text(1), text(3), text(4));
    let (values, extras, rescued) = (text(5), text(6), text(7));
    (0..batch.rows.num_rows()).map(move |at| Row {
        id: ids.value(at),
        vehicle_id: vehicles.value(at),
        event_time: times.value(at),
        event_source: sources.value(at),
        event_type: kinds.value(at),
        event_value: values.value(at),
        event_extra_data: extras.value(at),
        rescued: rescued.is_valid(at).then(|| rescued.value(at)),
    })
}

fn generator(made: &Made) -> Generator {
    Generator {
        vehicles: made.vehicles,
        days: made.days,
        ..Generator::default()
    }
}

/// Index and number of records of each file.
fn sizes(made: &Made) -> impl Iterator<Item = (u32, u32)> + use<> {
    let (events, per_file) = (made.events, made.per_file.max(1));
    (0..events.div_ceil(per_file)).map(move |index| {
        let before = index * per_file;
        (index, per_file.min(events - before))
    })
}
