//! Loads files of JSON records into MySQL or SQLite, through Redis Streams or an in-process queue.
//!
//! Every record of every file becomes exactly one row, or one reject with a reason, even if a
//! process or a server dies in between. The primary key makes this possible:
//! `id = file_no << 32 | ordinal`, where `file_no` identifies the content of a file and `ordinal`
//! the position of a record in it. Writing a row twice is a duplicate key, and a duplicate key
//! means that the row is stored already.
//!
//! # As a library
//!
//! [`load()`] loads files once, with [`Settings`] that read neither environment nor files:
//!
//! ```
//! use lemonade_task::{Options, Settings, Shutdown, load};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! std::fs::write(
//!     directory.path().join("vehicle_status.json"),
//!     r#"{"vehicle_status": [{"vehicle_id": "v1", "report_time": "2024-02-29T12:00:00Z",
//!         "status_source": "gps", "status": "driving"}]}"#,
//! )?;
//! let settings = Settings::from_options(Options {
//!     data_dir: Some(directory.path().join("data")),
//!     ..Options::default()
//! })?;
//! let files = [directory.path().to_owned()];
//! let loaded = load(&settings, &files, &Shutdown::default()).await?;
//! assert_eq!((loaded.rows, loaded.rejects), (1, 0));
//! # Ok(())
//! # }
//! ```
//!
//! `examples/` has two complete programs. The items at the top of this page are the interface for
//! programs, and follow semantic versioning. The modules serve the command `task_runner`, its tests
//! and its benches, and may change with every version.
//!
//! # Modules
//!
//! The modules are listed in reading order, which is also the import order: a module imports only
//! modules above it. The pure modules are a separate crate, `lemonade-records` in `crates/records`.
//! This crate has, in this order, the modules for the outside, the stages, and the assembly.

// Pure: records, and how bytes become rows.
pub use lemonade_records::{
    batch, convert, coverage, cut, dataset, dates, edit, frame, parse, propose, timestamp, zone,
};

// The outside: memory, files, queue, database, metrics.
pub mod version;
pub mod allocator;
pub mod contained;
pub mod fault;
pub mod finding;
pub mod telemetry;
pub mod retry;
pub mod shutdown;
mod tls;
mod hosts;
pub mod reread;
pub mod otlp;
mod directory;
pub mod content;
mod chunks;
pub mod inbox;
pub mod broker;
pub mod sink;

// Stages.
pub mod pace;
pub mod summary;
pub mod worker;
pub mod ingest;
pub mod status;
pub mod console;
pub mod http;

// Assembly.
pub mod sample;
pub mod config;
mod spare;
mod restore;
pub mod runner;
pub mod load;
pub mod commands;

// The interface for programs.
pub use config::{ConfigError, Options, Settings};
pub use load::{LoadError, Loaded, load};
pub use shutdown::Shutdown;
