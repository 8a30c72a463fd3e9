//! Frames that the server refuses, and the length of a stream whose key may be unusable.

use std::sync::Arc;

use fred::error::Error;
use fred::types::Value;

use super::streams::Stream;
use super::verdict::{Verdict, classify};
use crate::frame::Frame;

/// The frames of a publish that the server refused.
#[derive(Default)]
pub(super) struct Refused<'a> {
    /// Refused because the server is out of memory.
    pub(super) full: Vec<&'a Frame>,
    /// Refused because their key is not a stream, or its ids are used up.
    pub(super) unusable: Vec<(&'a Frame, Arc<Stream>)>,
}

/// The length of a stream. 0 if the key is not a stream: the next publisher replaces it.
pub(super) fn length_of(reply: Result<Value, Error>) -> Result<u64, Error> {
    match reply {
        Err(error) if classify(&error) == Verdict::Unusable => Ok(0),
        reply => Ok(reply?.as_u64().unwrap_or(0)),
    }
}
