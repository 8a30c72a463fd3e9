//! The records of files that were loaded, read again from the files: found, compared with the tables,
//! and stored again.
//!
//! A file of history or of an archive has the text of its records; the tables do not. The commands
//! for stored records use this module, and so does a load that removes the rows of a file.

mod contents;
mod missing;
mod source;

pub(crate) use contents::{Comparison, Wrong};
pub(crate) use missing::{Neighbours, Restored, missing, superseded};
pub(crate) use source::{InHistory, Source, Unavailable, in_history, options};
