//! Loads every file below a directory, and prints how many records became rows.
//!
//!     cargo run --example load_directory                 # a directory with one made file
//!     cargo run --example load_directory -- DIRECTORY    # yours, into ./lemonade-data
//!
//! The database is SQLite. To load into MySQL or MariaDB, set `database_url` in the options.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::error::Error;
use std::path::PathBuf;

use lemonade_task::{Options, Settings, Shutdown, load};

/// Two records that are valid, and one without its `status`.
const FILE: &str = r#"{"vehicle_status": [
    {"vehicle_id": "v1", "report_time": "2024-02-29T12:00:00Z", "status_source": "gps", "status": "driving"},
    {"vehicle_id": "v1", "report_time": "2024-02-29T12:05:00Z", "status_source": "gps"},
    {"vehicle_id": "v2", "report_time": "2024-02-29T12:00:00Z", "status_source": "gps", "status": "parked"}
]}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let made = tempfile::tempdir()?;
    let (directory, data_dir) = if let Some(directory) = std::env::args_os().nth(1) {
        (PathBuf::from(directory), PathBuf::from("lemonade-data"))
    } else {
        std::fs::write(made.path().join("vehicle_status_1.json"), FILE)?;
        (made.path().to_owned(), made.path().join("data"))
    };
    // Other options have their defaults. The environment is not read.
    let settings = Settings::from_options(Options {
        data_dir: Some(data_dir),
        ..Options::default()
    })?;

    // After the first Ctrl-C, frames in flight are finished; the second ends the process at once.
    // Run the program again to continue.
    let shutdown = Shutdown::on_signals(settings.drain_timeout)?;
    let loaded = load(&settings, &[directory], &shutdown).await?;

    println!("rows: {}, rejects: {}", loaded.rows, loaded.rejects);
    println!(
        "files stored now: {}, before: {}",
        loaded.files, loaded.duplicates
    );
    println!("files in quarantine: {}", loaded.quarantined);
    println!("database: {}", settings.database_url);
    Ok(())
}
