//! A batch in transport: encoded as Arrow IPC streams. (Stub: contract only.)
use crate::batch::{Batch, Span};
use crate::dataset::Datasets;
use bytes::Bytes;
use std::sync::Arc;

/// How the buffers of a frame are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all: for a queue in this process.
    Plain,
    /// LZ4, where a frame is large enough to gain by it: for a queue over a network.
    Lz4,
}

/// A batch and its rejects, encoded: one entry of a stream; the unit of transport and redelivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The dataset's name.
    pub dataset: Arc<str>,
    /// Which records these are.
    pub span: Span,
    /// The rows: an Arrow IPC stream, its schema included.
    pub rows: Bytes,
    /// The rejects: an Arrow IPC stream; empty where there are none.
    pub rejects: Bytes,
}

/// Why a frame cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Its bytes are damaged, or not a frame.
    #[error("the frame is damaged: {0}")]
    Damaged(String),
    /// It is of a dataset that this process does not know, or knows in another shape.
    #[error("the frame does not fit dataset `{0}` as it is defined here")]
    Dataset(String),
}

impl Frame {
    /// What it weighs in a queue, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.rows.len() + self.rejects.len()
    }

    /// The header that goes beside the two payloads in a queue over a network: dataset, span and
    /// checksum of the payloads, as text.
    #[must_use]
    pub fn header(&self) -> String {
        todo!()
    }

    /// The frame of a header and its payloads.
    ///
    /// # Errors
    /// [`FrameError::Damaged`] where the header is none or the checksum differs.
    pub fn from_parts(_header: &[u8], _rows: Bytes, _rejects: Bytes) -> Result<Self, FrameError> {
        todo!()
    }
}

/// Encodes a batch.
#[must_use]
pub fn encode(_batch: &Batch, _codec: Codec) -> Frame {
    todo!()
}

/// Decodes a frame.
///
/// # Errors
/// [`FrameError`].
pub fn decode(_frame: &Frame, _datasets: &Datasets) -> Result<Batch, FrameError> {
    todo!()
}
