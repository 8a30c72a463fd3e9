//! The speed of the parts without the engine: plain clients that send prepared data.
//!
//! Each command measures one part and prints one line of JSON per run, which `scripts/bench`
//! compares with the figures of the engine. The data is made before the clock starts, by the parser
//! of the engine, so that rows, keys and frames are those of the engine. Without a command, it runs
//! the parts that need no server, once and with little data, to check that they work.

use std::path::PathBuf;

use anyhow::Context as _;
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
    /// Given by `cargo bench`, and ignored
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
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
        Some(Part::Mysql(options)) => runtime.block_on(mysql::measure(&options)),
        Some(Part::Sqlite(options)) => runtime.block_on(sqlite::measure(&options)),
        Some(Part::Redis(options)) => redis::measure(&options),
        Some(Part::Parse(options)) => parse::measure(&options),
        Some(Part::Inflate(options)) => inflate::measure(&options),
        Some(Part::Cores) => {
            cores::measure();
            Ok(())
        }
        Some(Part::Discard(options)) => runtime.block_on(discard::measure(&options)),
        None => runtime.block_on(small()),
    }
}

/// All parts that need no server.
async fn small() -> anyhow::Result<()> {
    let made = Made {
        events: 2_000,
        per_file: 1_000,
        vehicles: 20,
        days: 2,
    };
    let folder = tempfile::tempdir().context("a folder for the small run")?;
    let files: PathBuf = folder.path().join("files");
    made::write_files(&made, &files)?;
    parse::measure(&parse::Options::of(made.clone()))?;
    inflate::measure(&inflate::Options::of(made.clone()))?;
    sqlite::measure(&sqlite::Options::of(made, folder.path().join("rows.db"))).await?;
    discard::measure(&discard::Options::of(files)).await
}
