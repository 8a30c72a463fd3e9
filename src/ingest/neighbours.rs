//! The way in which a load stores records of other files again.

use async_trait::async_trait;

use crate::fault::Fault;

/// Stores records again from the files that have them.
#[async_trait]
pub trait Neighbours: Send + Sync {
    /// Decides again about the records of a file that rows superseded which are gone: the best record
    /// of each key becomes the row. Does nothing for a file that is being removed. It may be repeated
    /// after any error. The inner error says why the file cannot be read.
    async fn restore(&self, file_no: u32) -> Result<Result<Again, String>, Fault>;
}

/// What was stored again of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Again {
    /// Rows.
    pub rows: u64,
    /// Records: rows, rejects and superseded ones.
    pub records: u64,
}
