//! Loads files of JSON records into MySQL or SQLite, through Redis Streams or an in-process queue.
//!
//! Every record of every file becomes exactly one row, or one reject with a reason, whatever
//! dies in between. The primary key makes it so: `id = file_no << 32 | ordinal`, where `file_no`
//! stands for the content of a file and `ordinal` for the place of a record in it. Writing a row
//! twice is a duplicate key, and a duplicate key means "already there".
//!
//! The modules are listed in reading order, which is also the import order: a module imports only
//! from those above it. The pure ones are a crate of their own, `lemonade-records` in
//! `crates/records`; here come the outside, then the stages, then assembly.

// What a record is, and how bytes become rows.
pub use lemonade_records::{batch, coverage, cut, dataset, frame, parse, timestamp};

// The outside: files, queue, database, metrics.
pub mod fault;
pub mod finding;
pub mod telemetry;
pub mod retry;
pub mod shutdown;
pub mod tls;
pub mod directory;
pub mod content;
pub mod inbox;
pub mod broker;
pub mod sink;

// Stages.
pub mod summary;
pub mod worker;
pub mod ingest;
pub mod status;
pub mod http;

// Assembly.
pub mod sample;
pub mod config;
pub mod runner;
pub mod commands;
