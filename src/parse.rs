//! Turns a chunk into a batch: typed columns and rejects. (Stub: contract only.)
use crate::batch::Batch;
use crate::cut::{Chunk, Layout};
use crate::dataset::Dataset;
use std::sync::Arc;

/// A parser with its reusable buffers: one a thread.
#[derive(Debug, Default)]
pub struct Parser {}

impl Parser {
    /// Parses the bytes of a chunk (`bytes` is the file's `chunk.start..chunk.end`). Never fails:
    /// what is no row is a reject.
    pub fn parse(
        &mut self,
        _dataset: &Arc<Dataset>,
        _file_no: u32,
        _layout: Layout,
        _chunk: Chunk,
        _bytes: &[u8],
    ) -> Batch {
        todo!()
    }
}
