//! The key of the checksums of frames, as the ledger keeps it.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

use crate::frame::FrameKey;

/// The table that holds the key.
pub(super) const SETTINGS: &str = "ingest_settings";

/// The name of the key in `ingest_settings`.
pub(super) const FRAME_KEY: &str = "frame_key";

/// The message if the value in the ledger is not a key.
pub(super) const NOT_A_KEY: &str =
    "the value `frame_key` of `ingest_settings` does not have 32 bytes";

/// The next step if the value in the ledger is not a key.
pub(super) const NO_KEY: &str = "delete the row `frame_key` of `ingest_settings`: the next start \
     makes a new key, and the frames in the queue are published again";

/// The bytes of a new key.
pub(super) fn new_key() -> io::Result<[u8; FrameKey::BYTES]> {
    let mut bytes = [0; FrameKey::BYTES];
    // Up to 256 bytes are returned as a whole.
    let filled = getrandom(&mut bytes, GetRandomFlags::empty())?;
    assert_eq!(filled, bytes.len(), "the system's random bytes");
    Ok(bytes)
}

/// The key in a value of the ledger. `None` if the value has another length.
pub(super) fn key_of(value: &[u8]) -> Option<FrameKey> {
    value.try_into().ok().map(FrameKey::new)
}
