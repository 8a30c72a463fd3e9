//! The pure stages over a file in memory: bytes to records to frames, on one core and on all cores,
//! and simd-json alone on the same bytes.
//!
//! `benches/pipeline.rs` measures the same stages one by one with statistics; this measures them
//! all in one run, for `scripts/bench`.

use std::cell::OnceCell;
use std::hint::black_box;
use std::slice;
use std::time::Instant;

use clap::{Args, ValueEnum};
use lemonade_task::batch::{Batch, SourceFile};
use lemonade_task::cut::{Chunk, Outside, Plan, cut};
use lemonade_task::frame::{Codec, Encoder, Frame, decode};
use lemonade_task::parse::Parser;
use lemonade_task::sink::mysql::bind;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};

use super::Made;
use super::made::{self, LIMITS};
use super::meter;

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    made: Made,
    /// Number of runs of each stage; the best counts, because disturbances only make a run slower
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// This stage alone, on one core
    #[arg(long, value_enum)]
    only: Option<Stage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Bytes to the places of records
    Cut,
    /// simd-json alone, over the same bytes
    #[value(name = "to_tape")]
    ToTape,
    /// Chunks to batches
    Parse,
    /// Chunks to compressed frames
    #[value(name = "parse+frame")]
    ParseFrame,
    /// Compressed frames to batches
    Decode,
    /// Batches to the packets of a database
    Bind,
}

pub(super) fn measure(options: &Options) -> anyhow::Result<()> {
    let (datasets, dataset) = made::dataset();
    let one_file = Made {
        per_file: options.made.events,
        ..options.made.clone()
    };
    let text = made::texts(&one_file).pop().expect("there is one file");
    let plan = cut(&text, &dataset, LIMITS)?;
    let bytes = |chunk: &Chunk| &text[chunk.start as usize..chunk.end as usize];
    let file = SourceFile {
        file_no: 1,
        hash: [0; 16],
    };
    let outside = Outside::default();
    let parsed = |parser: &mut Parser, chunk: &Chunk| {
        parser.parse(&dataset, file, chunk, bytes(chunk), &outside)
    };
    let framed = |(parser, encoder): &mut (Parser, Encoder), chunk: &Chunk| {
        encoder.encode(&parsed(parser, chunk), Codec::Lz4)
    };
    // simd-json unescapes in place, so each pass has its own copy, made before the clock starts.
    let documents = || -> Vec<Vec<u8>> {
        let document = |chunk: &Chunk| [b"[", bytes(chunk), b"]"].concat();
        plan.chunks.iter().map(document).collect()
    };
    // Made before the first round, so that the second round measures only the stage.
    let encoded = OnceCell::<Vec<Frame>>::new();
    let encode_once = || {
        let mut stages = Default::default();
        let chunks = plan.chunks.iter();
        chunks.map(|chunk| framed(&mut stages, chunk)).collect()
    };
    let batches = OnceCell::<Vec<Batch>>::new();
    let parse_once = || {
        let mut parser = Parser::default();
        let chunks = plan.chunks.iter();
        chunks.map(|chunk| parsed(&mut parser, chunk)).collect()
    };
    let cores = rayon::current_num_threads();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let parse_all = || -> usize {
        let rows = |parser: &mut Parser, chunk: &Chunk| parsed(parser, chunk).rows.num_rows();
        plan.chunks.par_iter().map_init(Parser::default, rows).sum()
    };
    let frame_all = || -> usize {
        let weight = |stages: &mut _, chunk: &Chunk| framed(stages, chunk).weight();
        let chunks = plan.chunks.par_iter();
        chunks.map_init(Default::default, weight).sum()
    };
    let run = |stage: Stage| {
        let clock = Clock {
            text: &text,
            plan: &plan,
            stage,
        };
        match stage {
            Stage::Cut => clock.run(
                1,
                || (),
                |()| {
                    black_box(cut(&text, &dataset, LIMITS).expect("it was whole before"));
                },
            ),
            Stage::ToTape => clock.run(1, documents, |documents| {
                for document in documents {
                    black_box(simd_json::to_tape(document).expect("made records are JSON"));
                }
            }),
            Stage::Parse => clock.run(
                1,
                || (),
                |()| {
                    black_box(one.install(parse_all));
                },
            ),
            Stage::ParseFrame => clock.run(
                1,
                || (),
                |()| {
                    black_box(one.install(frame_all));
                },
            ),
            Stage::Decode => clock.run(
                1,
                || encoded.get_or_init(encode_once),
                |frames| {
                    for frame in *frames {
                        black_box(decode(frame, &datasets).expect("a frame of our own"));
                    }
                },
            ),
            Stage::Bind => clock.run(
                1,
                || batches.get_or_init(parse_once),
                |batches| {
                    for batch in *batches {
                        black_box(bind(slice::from_ref(batch)));
                    }
                },
            ),
        }
    };
    for _ in 0..options.rounds {
        if let Some(stage) = options.only {
            run(stage);
            continue;
        }
        Stage::value_variants().iter().copied().for_each(run);
        let clock = Clock {
            text: &text,
            plan: &plan,
            stage: Stage::ParseFrame,
        };
        clock.run(
            cores,
            || (),
            |()| {
                black_box(frame_all());
            },
        );
    }
    Ok(())
}

struct Clock<'a> {
    text: &'a [u8],
    plan: &'a Plan,
    stage: Stage,
}

impl Clock<'_> {
    /// Runs the stage once over the file, with the input from `made`, and prints the time.
    fn run<T>(&self, cores: usize, made: impl Fn() -> T, run: impl Fn(&mut T)) {
        let mut input = made();
        let began = Instant::now();
        run(&mut input);
        let seconds = began.elapsed().as_secs_f64();
        let name = self.stage.to_possible_value().expect("no stage is hidden");
        let line = serde_json::json!({
            "part": "parse",
            "stage": name.get_name(),
            "cores": cores,
            "seconds": seconds,
            "rate": f64::from(self.plan.records) / seconds,
            "bytes_rate": self.text.len() as f64 / seconds,
        });
        meter::print(line, &serde_json::Value::Null);
    }
}
