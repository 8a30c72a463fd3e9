//! What the server refuses of a publish, and the length of a stream that it may refuse to tell.

use fred::error::Error;
use fred::types::Value;

use super::verdict::{Verdict, classify};
use crate::frame::Frame;

/// Frames that the server did not take.
#[derive(Debug, Default)]
pub(super) struct Refused<'a> {
    /// For lack of memory.
    pub(super) full: Vec<&'a Frame>,
    /// Because their key takes no entry.
    pub(super) unusable: Vec<&'a Frame>,
}

/// The length of a stream. 0 for a key that is none: the next publisher replaces it.
pub(super) fn length_of(reply: Result<Value, Error>) -> Result<u64, Error> {
    match reply {
        Err(error) if classify(&error) == Verdict::Unusable => Ok(0),
        reply => Ok(reply?.as_u64().unwrap_or(0)),
    }
}
