//! How the buffers of a frame are compressed.

/// How the buffers of a frame are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// No compression: for a queue in this process.
    Plain,
    /// LZ4 for each buffer that shrinks, if the frame has enough rows: for a queue over a network.
    Lz4,
}
