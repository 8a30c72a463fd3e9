//! The pure stages over a file in memory: bytes to records to frames, on one core and on all of
//! them, and simd-json alone on the same bytes.
//!
//! Criterion measures the same stages one by one, with statistics (`benches/pipeline.rs`); this has
//! them all in one run and in the words of `scripts/bench`.

use std::hint::black_box;
use std::time::Instant;

use clap::Args;
use lemonade_task::cut::{Chunk, Plan, cut};
use lemonade_task::frame::{Codec, encode};
use lemonade_task::parse::Parser;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::Made;
use super::made::{self, LIMITS};
use super::meter;

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    made: Made,
    /// How often each is run; the best counts, since what disturbs it only makes it slower
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

impl Options {
    pub(super) fn of(made: Made) -> Self {
        Self { made, rounds: 1 }
    }
}

pub(super) fn measure(options: &Options) -> anyhow::Result<()> {
    let (_, dataset) = made::dataset();
    let one_file = Made {
        per_file: options.made.events,
        ..options.made.clone()
    };
    let text = made::texts(&one_file).pop().expect("there is one file");
    let plan = cut(&text, &dataset.records, &[], LIMITS)?;
    let bytes = |chunk: &Chunk| &text[chunk.start as usize..chunk.end as usize];
    let parse_and_encode = |parser: &mut Parser, chunk: &Chunk| {
        let batch = parser.parse(&dataset, 1, plan.layout, *chunk, bytes(chunk));
        encode(&batch, Codec::Lz4).weight() as u64
    };
    // simd-json unescapes in place: each pass has a copy of its own, made outside of the clock.
    let documents = || -> Vec<Vec<u8>> {
        let document = |chunk: &Chunk| [b"[", bytes(chunk), b"]"].concat();
        plan.chunks.iter().map(document).collect()
    };
    let cores = rayon::current_num_threads();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let parallel = || -> u64 {
        let encode = |parser: &mut Parser, chunk: &Chunk| parse_and_encode(parser, chunk);
        plan.chunks
            .par_iter()
            .map_init(Parser::default, encode)
            .sum()
    };
    for _ in 0..options.rounds {
        stage(
            &text,
            &plan,
            "cut",
            1,
            || (),
            |()| {
                black_box(cut(&text, &dataset.records, &[], LIMITS).expect("it was whole before"));
            },
        );
        stage(&text, &plan, "to_tape", 1, documents, |documents| {
            for document in documents {
                black_box(simd_json::to_tape(document).expect("made records are JSON"));
            }
        });
        stage(
            &text,
            &plan,
            "parse+frame",
            1,
            || (),
            |()| {
                black_box(one.install(parallel));
            },
        );
        stage(
            &text,
            &plan,
            "parse+frame",
            cores,
            || (),
            |()| {
                black_box(parallel());
            },
        );
    }
    Ok(())
}

/// Runs a stage over the file once, with what `made` makes, and prints what it took.
fn stage<T>(
    text: &[u8],
    plan: &Plan,
    name: &str,
    cores: usize,
    made: impl Fn() -> T,
    run: impl Fn(&mut T),
) {
    let mut input = made();
    let began = Instant::now();
    run(&mut input);
    let seconds = began.elapsed().as_secs_f64();
    let line = serde_json::json!({
        "part": "parse",
        "stage": name,
        "cores": cores,
        "seconds": seconds,
        "rate": f64::from(plan.records) / seconds,
        "bytes_rate": text.len() as f64 / seconds,
    });
    meter::print(line, &serde_json::Value::Null);
}
