//! The one integration binary: everything that needs more than one module, or a real server.
//!
//! `scripts/test` installs the servers and runs it; `scripts/test NAME` runs a part. A test whose
//! server is missing fails and names the command that installs it. No test is skipped or ignored.

#![allow(
    clippy::unwrap_used,
    reason = "a panic fails the test and names the line"
)]
#![allow(
    unreachable_pub,
    reason = "the binary has no API: `pub` says what the other modules of it may use"
)]

mod alerts;
mod broker;
mod chaos;
mod command_line;
mod comparing;
mod console;
mod dashboard;
mod elsewhere;
mod end_to_end;
mod erasures;
mod privileges;
mod operators;
mod otlp;
mod partitions;
mod page;
mod summaries;
mod supervision;
mod terminal;
mod files;
mod history;
mod ingest_nodes;
mod keys;
mod kubernetes;
mod lost_tables;
mod machine;
mod metrics;
mod namespaces;
mod nodes;
mod prometheus;
mod reference;
mod rejects;
mod replays;
mod removals;
mod repairs;
mod simulation;
mod sink;
mod support;
mod tidy;
mod tutorial;
mod upgrades;
