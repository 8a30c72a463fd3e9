//! Defines a new dataset, loads a file of it, and reads the rows back.
//!
//!     cargo run --example custom_dataset
//!
//! The definition has the form of a settings file; docs/datasets.md describes every key.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::error::Error;

use lemonade_task::{Settings, Shutdown, load};
use rusqlite::Connection;

/// Trips: the records are at `/data/trips`, and two columns come from nested members.
const SETTINGS: &str = r#"
[[datasets]]
name = "trips"
records = "/data/trips"

[[datasets.columns]]
name = "trip"
type = "text"
max_chars = 64

[[datasets.columns]]
name = "ended"
type = "timestamp"
field = "/end/time"
epoch = "ms"

[[datasets.columns]]
name = "metres"
type = "integer"
field = "/end/metres"
required = false
"#;

/// Two trips, and a record whose time is not a time.
const FILE: &str = r#"{"version": 1, "data": {"trips": [
    {"trip": "a", "end": {"time": 1709208000000, "metres": 1200}},
    {"trip": "b", "end": {"time": "2024-02-29T12:05:00+02:00"}},
    {"trip": "c", "end": {"time": "yesterday"}}
]}}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let data_dir = directory.path().join("data");
    let file = directory.path().join("trips_2024.json");
    std::fs::write(&file, FILE)?;

    let settings = format!("data_dir = '{}'\n{SETTINGS}", data_dir.display());
    let settings = Settings::from_toml(&settings)?;
    let loaded = load(&settings, &[file], &Shutdown::default()).await?;
    println!("{} rows, {} rejects", loaded.rows, loaded.rejects);

    let database = Connection::open(data_dir.join("lemonade.db"))?;
    let mut query = database.prepare("SELECT id, trip, ended, metres FROM trips ORDER BY id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, trip, ended): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let metres: Option<i64> = row.get(3)?;
        // The id says where a row is from: the number of its file, and its place in the file.
        println!(
            "file {}, record {}: {trip} {ended} {metres:?}",
            id >> 32,
            id & 0xffff_ffff
        );
    }
    Ok(())
}
