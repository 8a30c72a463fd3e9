//! The pure part of lemonade-task: what a record is, and how bytes become rows.
//!
//! [`dataset`] defines a kind of record. [`cut`] finds the records of a document, [`parse`] turns a
//! run of them into a [`batch`] of rows and rejects, and [`frame`] writes a batch as bytes and reads
//! it back. [`coverage`] counts which ordinals are stored, [`timestamp`] reads times.
//!
//! No I/O, no clock, no thread, no async runtime: the dependencies of this crate hold none of them.
//! The modules are listed in reading order, which is also the import order: a module imports only
//! from those above it.

mod syntax;
pub mod dataset;
pub mod timestamp;
pub mod batch;
pub mod coverage;
pub mod cut;
pub mod parse;
pub mod frame;
