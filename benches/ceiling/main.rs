//! The speed of the parts without the engine: plain clients that send prepared data.
//!
//! Each command measures one part and prints one line of JSON per run, which `scripts/bench`
//! compares with the figures of the engine. The data is made before the clock starts, by the parser
//! of the engine, so that rows, keys and frames are those of the engine.

use clap::{Args, Parser, Subcommand};
use lemonade_task::allocator::Allocator;

mod cores;
mod discard;
mod inflate;
mod made;
mod meter;
mod mysql;
mod parse;
mod redis;
mod sqlite;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[derive(Parser)]
#[command(about = "What the parts can do without the engine")]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Rows into MySQL or MariaDB
    Mysql(mysql::Options),
    /// Rows into SQLite
    Sqlite(sqlite::Options),
    /// Frames through a Redis stream
    Redis(redis::Options),
    /// Cut, parse and encode on one core and on all, beside simd-json alone
    Parse(parse::Options),
    /// Compressed files, beside each codec alone
    Inflate(inflate::Options),
    /// How far two cores are from each other
    Cores,
    /// Files through the whole engine into a sink that stores nothing
    Discard(discard::Options),
}

/// The data to make.
#[derive(Debug, Clone, Args)]
struct Made {
    /// Events in all
    #[arg(long, default_value_t = 10_000)]
    events: u32,
    /// Events in a file
    #[arg(long, default_value_t = 1_000)]
    per_file: u32,
    /// Number of vehicles
    #[arg(long, default_value_t = 2_000)]
    vehicles: u32,
    /// Number of days; the events of a file are of one day
    #[arg(long, default_value_t = 30)]
    days: u32,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match Cli::parse().part {
        Part::Mysql(options) => runtime.block_on(mysql::measure(&options)),
        Part::Sqlite(options) => runtime.block_on(sqlite::measure(&options)),
        Part::Redis(options) => redis::measure(&options),
        Part::Parse(options) => parse::measure(&options),
        Part::Inflate(options) => inflate::measure(&options),
        Part::Cores => {
            cores::measure();
            Ok(())
        }
        Part::Discard(options) => runtime.block_on(discard::measure(&options)),
    }
}
