//! Rows into SQLite from a plain client: one prepared INSERT and 10,000 rows per transaction, with
//! the table and settings of the engine.

use std::path::PathBuf;

use clap::Args;
use lemonade_task::dataset::Datasets;
use lemonade_task::sink::{self, SinkOptions};
use lemonade_task::timestamp;
use rusqlite::{Connection, params};

use super::Made;
use super::made;
use super::meter::Meter;

/// Rows of a transaction.
const TRANSACTION_ROWS: usize = 10_000;

#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    made: Made,
    /// The database file, which must not exist yet
    #[arg(long)]
    path: PathBuf,
}

pub(super) async fn measure(options: &Options) -> anyhow::Result<()> {
    let (datasets, _) = made::dataset();
    make_table(options, &datasets).await?;
    let mut database = Connection::open(&options.path)?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -16384; \
         PRAGMA temp_store = MEMORY;",
    )?;
    let batches = made::batches(&options.made);
    let rows: Vec<_> = batches
        .iter()
        .flat_map(made::rows)
        .map(|row| (timestamp::text(row.event_time), row))
        .collect();

    let meter = Meter::start(None);
    for rows in rows.chunks(TRANSACTION_ROWS) {
        let transaction = database.transaction()?;
        let mut insert = transaction
            .prepare_cached("INSERT INTO vehicle_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?;
        for (time, row) in rows {
            insert.execute(params![
                row.id,
                row.vehicle_id,
                time,
                row.event_source,
                row.event_type,
                row.event_value,
                row.event_extra_data,
                row.rescued
            ])?;
        }
        drop(insert);
        transaction.commit()?;
    }
    meter.report(rows.len() as u64, &serde_json::json!({"part": "sqlite"}));
    Ok(())
}

async fn make_table(options: &Options, datasets: &Datasets) -> anyhow::Result<()> {
    let url = format!("sqlite:{}", options.path.display());
    let sink = sink::open(&url, &SinkOptions::default()).await?;
    sink.migrate(datasets).await?;
    Ok(())
}
