//! How the buffers of a frame are compressed.

/// How the buffers of a frame are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all: for a queue in this process.
    Plain,
    /// LZ4, if a frame is large enough to gain by it, for those of its buffers that shrink: for a
    /// queue over a network.
    Lz4,
}
