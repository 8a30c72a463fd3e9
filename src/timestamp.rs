//! Timestamps: text to microseconds since the epoch, UTC. (Stub.)
