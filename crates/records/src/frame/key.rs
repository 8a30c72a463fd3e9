//! The checksum of a frame, and its key.

use std::fmt;

/// The checksum of a frame. Comparing two takes the same time whichever bytes differ.
pub(super) type Checksum = blake3::Hash;

/// The key of the checksums. A process without it cannot make a frame that is accepted. All processes
/// of a ledger have the same key.
#[derive(Clone, PartialEq, Eq)]
pub struct FrameKey([u8; Self::BYTES]);

impl FrameKey {
    /// Length of a key, in bytes.
    pub const BYTES: usize = blake3::KEY_LEN;

    /// A key of these bytes, which have to be random and secret.
    #[must_use]
    pub const fn new(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// A name for the ledger that has this key: 32 hexadecimal digits, from which nobody can compute
    /// the key.
    #[must_use]
    pub fn ledger(&self) -> String {
        let name = blake3::derive_key("lemonade-task: the name of a ledger", &self.0);
        blake3::Hash::from_bytes(name).to_hex()[..32].to_owned()
    }

    pub(super) fn checksum(&self, provenance: &str, rows: &[u8], rejects: &[u8]) -> Checksum {
        let mut hash = blake3::Hasher::new_keyed(&self.0);
        // The lengths, so that the checksum differs if bytes move from one part to another.
        for length in [provenance.len(), rows.len()] {
            hash.update(&(length as u64).to_le_bytes());
        }
        hash.update(provenance.as_bytes());
        hash.update(rows);
        hash.update(rejects);
        hash.finalize()
    }
}

impl fmt::Debug for FrameKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameKey").finish_non_exhaustive()
    }
}
