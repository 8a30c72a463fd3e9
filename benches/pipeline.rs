//! Bytes and events per second of each pure stage on one core: cut, parse, encode, decode, bind; and
//! of parsing by a definition of a user.
//!
//! The inputs are those of `task_runner generate`: vehicle events of about 260 bytes. `to_tape` is
//! simd-json alone on the same bytes, for comparison with `parse`. Compare only figures of one run,
//! because the speed of machines varies.

use std::convert::Infallible;
use std::hint::black_box;
use std::slice;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lemonade_task::allocator::Allocator;
use lemonade_task::batch::{Batch, SourceFile};
use lemonade_task::cut::{Chunk, ChunkLimits, Outside, Plan, cut};
use lemonade_task::dataset::{Dataset, Datasets};
use lemonade_task::frame::{Codec, Encoder, Frame, decode};
use lemonade_task::parse::Parser;
use lemonade_task::sample::{FileFormat, Generator};
use lemonade_task::sink::mysql::bind;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Events in a file: more bytes than the processor caches.
const EVENTS: u32 = 100_000;

/// Readings of a site, for the datasets of users.
const SITE_READINGS: u32 = 100;

/// Events in a chunk, and so in a frame.
const CHUNK_EVENTS: u32 = 2_000;

const FILE: SourceFile = SourceFile {
    file_no: 1,
    hash: [0; 16],
};

const LIMITS: ChunkLimits = ChunkLimits {
    records: CHUNK_EVENTS,
    bytes: 1 << 20,
};

/// The text of a file in this format.
fn file(format: FileFormat) -> String {
    let generator = Generator {
        format,
        vehicles: 2_000,
        ..Generator::default()
    };
    let mut text = Vec::new();
    generator
        .write(0, EVENTS, &mut text)
        .expect("writing to memory cannot fail");
    String::from_utf8(text).expect("made records are text")
}

fn dataset() -> (Datasets, Arc<Dataset>) {
    let datasets = Datasets::new(vec![]).expect("built in");
    let dataset = datasets.by_name("vehicle_events").expect("built in");
    let dataset = Arc::clone(dataset);
    (datasets, dataset)
}

/// The dataset with files that are sequences.
fn sequence_dataset() -> Arc<Dataset> {
    let definition = dataset().1.definition();
    let definition = definition.replace("\"format\":\"auto\"", "\"format\":\"sequence\"");
    Dataset::from_definition(&definition).expect("a built-in definition with another format")
}

/// The records of `lines` with nothing between them.
fn values(lines: &str) -> String {
    lines.replace('\n', "")
}

/// The records of `lines` in envelopes of ten records, each on a line.
fn envelopes(lines: &str) -> String {
    let lines: Vec<&str> = lines.lines().collect();
    let envelope = |records: &[&str]| format!("{{\"vehicle_events\":[{}]}}\n", records.join(","));
    lines.chunks(10).map(envelope).collect()
}

fn bytes_of<'a>(file: &'a [u8], chunk: &Chunk) -> &'a [u8] {
    let offset = |at: u64| usize::try_from(at).expect("a chunk is in memory");
    &file[offset(chunk.start)..offset(chunk.end)]
}

fn plan_of(file: &[u8], dataset: &Dataset) -> Plan {
    let plan = cut(file, dataset, LIMITS).expect("a whole file");
    assert_eq!(plan.records, EVENTS);
    plan
}

fn cutting(c: &mut Criterion) {
    let (_, dataset) = dataset();
    let sequence = sequence_dataset();
    let mut group = c.benchmark_group("cut");
    let lines = file(FileFormat::Ndjson);
    let files = [
        ("envelope", &dataset, file(FileFormat::Document)),
        ("values", &sequence, values(&lines)),
        ("envelopes", &sequence, envelopes(&lines)),
        ("lines", &dataset, lines),
    ];
    for (name, dataset, file) in files {
        group.throughput(Throughput::Bytes(file.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| plan_of(black_box(file.as_bytes()), dataset));
        });
    }
    group.finish();
}

fn parsing(c: &mut Criterion) {
    let (_, dataset) = dataset();
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    let (array, lines) = (file(FileFormat::Array), file(FileFormat::Ndjson));
    let plan = plan_of(array.as_bytes(), &dataset);
    let bracketed = |chunk: &Chunk| [b"[", bytes_of(array.as_bytes(), chunk), b"]"].concat();
    let mut texts: Vec<Vec<u8>> = plan.chunks.iter().map(bracketed).collect();
    group.bench_function("to_tape", |b| {
        // Strings are unescaped in place, so each pass needs a new copy of the text.
        b.iter_batched_ref(
            || texts.clone(),
            |texts| {
                for text in texts {
                    black_box(simd_json::to_tape(text).expect("JSON"));
                }
            },
            BatchSize::PerIteration,
        );
    });
    texts.clear();
    // Two more inputs: an escape in a text of each record, and an escape in a key of each record,
    // which the direct reader does not read.
    let escapes = array.replace("\"event_value\": \"", "\"event_value\": \"\\u002b");
    assert_eq!(escapes.len(), array.len() + 6 * EVENTS as usize);
    let key = array.replace("\"event_value\": ", "\"event\\u005fvalue\": ");
    let sequence = sequence_dataset();
    for (name, dataset, file) in [
        ("array", &dataset, &array),
        ("lines", &dataset, &lines),
        ("values", &sequence, &values(&lines)),
        ("envelopes", &sequence, &envelopes(&lines)),
        ("escapes", &dataset, &escapes),
        ("key", &dataset, &key),
    ] {
        let plan = plan_of(file.as_bytes(), dataset);
        let (mut parser, mut encoder) = (Parser::default(), Encoder::default());
        for (suffix, codec) in [
            ("", None),
            ("+plain", Some(Codec::Plain)),
            ("+lz4", Some(Codec::Lz4)),
        ] {
            group.bench_function(format!("{name}{suffix}"), |b| {
                b.iter(|| {
                    for chunk in &plan.chunks {
                        let bytes = bytes_of(file.as_bytes(), chunk);
                        let batch = parse(&mut parser, dataset, chunk, bytes);
                        match codec {
                            Some(codec) => drop(black_box(encoder.encode(&batch, codec))),
                            None => drop(black_box(batch)),
                        }
                    }
                });
            });
        }
    }
    group.finish();
}

fn parse(parser: &mut Parser, dataset: &Arc<Dataset>, chunk: &Chunk, bytes: &[u8]) -> Batch {
    let batch = parser.parse(dataset, FILE, chunk, bytes, &Outside::default());
    assert!(batch.rejects.is_empty());
    batch
}

/// A dataset of a user whose rows have the same columns whatever the files look like: `records` leads
/// to the records, and the column `site` takes its value `from` there.
fn readings(records: &str, from: &str) -> Arc<Dataset> {
    let text = format!(
        r#"
        name = "readings"
        records = "{records}"
        columns = [
            {{ name = "sensor", type = "text" }},
            {{ name = "at", type = "timestamp", epoch = "ms" }},
            {{ name = "count", type = "integer" }},
            {{ name = "value", type = "float" }},
            {{ name = "price", type = "decimal(12,4)" }},
            {{ name = "ok", type = "boolean" }},
            {{ name = "site", type = "text", {from} }},
        ]"#
    );
    let defined = toml::from_str(&text).expect("a definition");
    let datasets = Datasets::new(vec![defined]).expect("a right definition");
    Arc::clone(datasets.by_name("readings").expect("defined above"))
}

/// The records of one site, with `quote` around each number and boolean, and `site` at the end of each.
fn of_site(first: u32, quote: &str, site: &str) -> String {
    let reading = |at: u32| {
        format!(
            "{{\"sensor\": \"s{}\", \"at\": {quote}{}{quote}, \"count\": {quote}{at}{quote}, \"value\": \
             {quote}{}.25{quote}, \"price\": {quote}{}.4975{quote}, \"ok\": {quote}true{quote}{site}}}",
            at % 500,
            1_700_000_000_000_u64 + u64::from(at) * 1_003,
            at % 90,
            at % 10_000
        )
    };
    let records: Vec<String> = (first..first + SITE_READINGS).map(reading).collect();
    records.join(", ")
}

/// Readings in a flat array, the same with numbers in strings, and the same below their sites.
fn of_datasets(c: &mut Criterion) {
    let sites = |site: &dyn Fn(u32) -> String| {
        let all: Vec<String> = (0..EVENTS)
            .step_by(SITE_READINGS as usize)
            .map(site)
            .collect();
        all.join(", ")
    };
    let flat = |quote: &'static str| {
        let site = |first| of_site(first, quote, &format!(", \"site\": \"site {first}\""));
        format!("{{\"readings\": [{}]}}", sites(&site))
    };
    let below = |first| {
        let readings = of_site(first, "", "");
        format!("{{\"name\": \"site {first}\", \"readings\": [{readings}]}}")
    };
    let in_record = readings("/readings", "field = '/site'");
    let mut group = c.benchmark_group("datasets");
    group.throughput(Throughput::Elements(u64::from(EVENTS)));
    for (name, dataset, file) in [
        ("numbers", &in_record, flat("")),
        ("numbers in strings", &in_record, flat("\"")),
        (
            "elements with a parent",
            &readings("/sites/*/readings", "envelope = '/sites/*/name'"),
            format!("{{\"sites\": [{}]}}", sites(&below)),
        ),
    ] {
        let plan = plan_of(file.as_bytes(), dataset);
        let mut parser = Parser::default();
        group.bench_function(name, |b| {
            b.iter(|| {
                for chunk in &plan.chunks {
                    let Ok(outside) = chunk.outside(|place| {
                        let text = &file[place.start as usize..place.end as usize];
                        Ok::<_, Infallible>(text.to_owned())
                    });
                    let bytes = bytes_of(file.as_bytes(), chunk);
                    let batch = parser.parse(dataset, FILE, chunk, bytes, &outside);
                    assert!(batch.rejects.is_empty());
                    black_box(batch);
                }
            });
        });
    }
    group.finish();
}

fn framing(c: &mut Criterion) {
    let (datasets, dataset) = dataset();
    let file = file(FileFormat::Array);
    let mut parser = Parser::default();
    for records in [10, 30, 100, 300, 1_000, 2_000] {
        let limits = ChunkLimits { records, ..LIMITS };
        let plan = cut(file.as_bytes(), &dataset, limits).expect("a whole file");
        let chunk = plan.chunks[0].clone();
        let bytes = bytes_of(file.as_bytes(), &chunk);
        let batch = parse(&mut parser, &dataset, &chunk, bytes);
        let mut group = c.benchmark_group(format!("frame/{records}"));
        group.throughput(Throughput::Elements(u64::from(records)));
        for (name, codec) in [("plain", Codec::Plain), ("lz4", Codec::Lz4)] {
            let mut encoder = Encoder::default();
            let frame: Frame = encoder.encode(&batch, codec);
            group.bench_function(format!("encode/{name}"), |b| {
                b.iter(|| encoder.encode(black_box(&batch), codec));
            });
            group.bench_function(format!("decode/{name}"), |b| {
                b.iter(|| decode(black_box(&frame), &datasets).expect("an own frame"));
            });
        }
        group.bench_function("bind", |b| {
            b.iter(|| bind(slice::from_ref(black_box(&batch))));
        });
        group.finish();
    }
}

criterion_group!(stages, cutting, parsing, of_datasets, framing);
criterion_main!(stages);
