//! `demo`: a complete first run with sample data, SQLite and the in-process queue. Needs no server,
//! and uses neither the database nor the directories of the user's settings.

use std::env;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;

use super::{Outcome, ending, load, open_database, print};
use crate::config::Settings;
use crate::config::cli::DemoArgs;
use crate::dataset::Datasets;
use crate::directory;
use crate::inbox::Directories;
use crate::runner::{self, LoadPlan};
use crate::sample::{Generator, RecordType};
use crate::sink::Database;

/// Share of the records that are bad, so that the demo shows rejects.
const BAD: f64 = 0.001;

/// Rows of each daily summary that the demo prints.
const SHOWN: usize = 5;

/// Runs the command.
pub(super) async fn execute(mut settings: Settings, args: DemoArgs) -> anyhow::Result<Outcome> {
    let (dir, temporary) = data_directory(&args)?;
    use_embedded_servers(&mut settings, &dir);
    let events = Generator {
        vehicles: 200,
        bad: BAD,
        ..Generator::default()
    };
    let status = Generator {
        record_type: RecordType::VehicleStatus,
        ..events
    };
    write_all(&settings.dirs.inbound, &events, &status, &args)
        .map_err(|error| refused(&dir, &error))?;
    print(&format!(
        "wrote {} sample files to {}\n\n",
        args.files + 1,
        settings.dirs.inbound.display()
    ))?;

    let shutdown = ending::on_signals(settings.drain_timeout)?;
    let Some(engine) = runner::open_to_load(&settings, None, &shutdown).await? else {
        return Ok(Outcome::Stopped);
    };
    let began = Instant::now();
    let outcome = load::run(&engine, LoadPlan::inbound(&engine)?, None, false, &shutdown).await?;
    load::print_totals(&engine, began.elapsed())?;
    if outcome == Outcome::Stopped {
        return Ok(outcome);
    }
    let database = open_database(&settings).await?;
    print(&tables(database.as_ref(), &engine.datasets).await?)?;
    print(&next_steps(&dir, temporary.is_none() || args.keep))?;
    if let (Some(temporary), true) = (temporary, args.keep) {
        let _kept = temporary.keep();
    }
    // Never `Rejected`: the demo makes bad records on purpose.
    Ok(Outcome::Complete)
}

fn data_directory(args: &DemoArgs) -> anyhow::Result<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(dir) = &args.dir {
        directory::create_private(dir).map_err(|error| refused(dir, &error))?;
        return Ok((dir.clone(), None));
    }
    let temporary = tempfile::Builder::new()
        .prefix("lemonade-demo-")
        .tempdir()
        .map_err(|error| refused(&env::temp_dir(), &error))?;
    Ok((temporary.path().to_owned(), Some(temporary)))
}

/// The error of a directory in which nothing can be written.
fn refused(dir: &Path, error: &io::Error) -> io::Error {
    let dir = dir.display();
    let why = format!("cannot write to {dir}: {error}; name another directory with --dir");
    io::Error::new(error.kind(), why)
}

/// Replaces the database, the queue and the directories of the settings.
fn use_embedded_servers(settings: &mut Settings, dir: &Path) {
    settings.database_url = format!("sqlite:{}", dir.join("lemonade.db").display());
    settings.broker_url = String::from("memory:");
    settings.data_dir = dir.into();
    settings.dirs = Directories {
        inbound: dir.join("inbound"),
        work: dir.join("work"),
        history: dir.join("history"),
        quarantine: dir.join("quarantine"),
    };
}

/// Writes the files of events, and one of statuses.
fn write_all(
    inbound: &Path,
    events: &Generator,
    status: &Generator,
    args: &DemoArgs,
) -> io::Result<()> {
    directory::create_private(inbound)?;
    for index in 0..args.files {
        write(inbound, events, index, args.records)?;
    }
    write(inbound, status, 0, args.records)
}

fn write(inbound: &Path, generator: &Generator, index: u32, records: u32) -> io::Result<()> {
    let path = inbound.join(generator.file_name(index));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    generator.write(index, records, &mut out)?;
    out.flush()
}

/// The number of rows of each table and the first rows of each summary, read from the database.
async fn tables(database: &dyn Database, datasets: &Datasets) -> anyhow::Result<String> {
    let mut text = String::from("\nin the database\n");
    for dataset in datasets.iter() {
        let rows = database.count_rows(dataset).await?;
        writeln!(text, "  {:15} {rows} rows", dataset.table)?;
    }
    let totals = database.totals().await?;
    writeln!(text, "  {:15} {} rows", "ingest_rejects", totals.rejects)?;
    for dataset in datasets.iter() {
        let Some(summary) = &dataset.summary else {
            continue;
        };
        writeln!(text, "\nthe first rows of {}", summary.table)?;
        for last in database.summary_head(dataset, SHOWN).await? {
            let at = Timestamp::from_microsecond(last.time_us)?;
            writeln!(text, "  {}  {at:.3}  {}", last.key, last.value)?;
        }
    }
    Ok(text)
}

fn next_steps(dir: &Path, kept: bool) -> String {
    let kept = if kept {
        format!("everything is in {}\n", dir.display())
    } else {
        "everything was in a temporary directory; keep it with `demo --dir DIR`\n".into()
    };
    format!(
        "\n{kept}\nnext\n  task_runner load PATH    load your own files into ./lemonade-data\n  \
         task_runner              run the service: load files that arrive in ./lemonade-data/inbound\n  \
         scripts/up               start Redis and MariaDB, to load into real servers\n"
    )
}
