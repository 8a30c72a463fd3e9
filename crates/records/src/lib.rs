//! The pure part of lemonade-task: what a record is, and how bytes become rows.
//!
//! [`dataset`] defines a kind of record. [`cut`] finds the records of a file, [`parse`] turns a run
//! of them into a [`batch`] of rows and rejects, and [`frame`] writes a batch as bytes and reads it
//! back. [`propose`] finds a definition for samples, [`edit`] changes the text of a record, and
//! [`coverage`] holds sets of ordinals. [`timestamp`] and [`dates`] parse and print times,
//! [`zone`] has the days of a time zone, [`convert`] parses other values.
//!
//! This crate does no I/O, reads no clock, starts no thread and has no async runtime among its
//! dependencies. The modules are listed in reading order, which is also the import order: a module
//! imports only modules above it.

mod syntax;
pub mod timestamp;
pub mod dates;
pub mod zone;
pub mod convert;
pub mod dataset;
pub mod batch;
pub mod coverage;
pub mod cut;
pub mod edit;
pub mod parse;
pub mod propose;
pub mod frame;
