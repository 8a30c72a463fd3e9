//! Parses chunks of an open file: reads their bytes, and the values outside of them.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::{Batch, SourceFile};
use crate::content::{Content, ContentError};
use crate::cut::{Chunk, Outside};
use crate::dataset::{Dataset, FileValues};
use crate::parse::{self, Parser};

/// Parses a chunk of `content`. `values` are those that columns take from the file besides its bytes;
/// `None` if no column takes one. Its bytes are copied to `buffer` if the file is not in memory.
///
/// # Errors
/// The file was changed since it was opened, or cannot be read.
pub(crate) fn parse(
    parser: &mut Parser,
    dataset: &Arc<Dataset>,
    file: SourceFile,
    chunk: &Chunk,
    (content, values): (&Content, Option<&Arc<FileValues>>),
    buffer: &mut Vec<u8>,
) -> Result<Batch, ContentError> {
    let outside = outside(chunk, content)?.of_file(values.cloned());
    let parse = |bytes: &[u8]| parser.parse(dataset, file, chunk, bytes, &outside);
    let range = chunk.start..chunk.end;
    if parse::is_one_too_large(chunk) {
        // The reject keeps only the beginning, so the record is not read into memory.
        return content.inspect(range, parse);
    }
    content.read(range, buffer).map(parse)
}

/// The values outside of a chunk of `content`, without those of the file.
///
/// # Errors
/// As [`parse`].
pub(crate) fn outside(chunk: &Chunk, content: &Content) -> Result<Outside<'static>, ContentError> {
    chunk.outside(|range: Range<u64>| {
        let mut buffer = Vec::new();
        let text = content.read(range, &mut buffer)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    })
}
