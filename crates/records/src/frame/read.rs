//! Reads one batch from an Arrow IPC stream that any program may have written.
//!
//! Arrow's reader checks the values of a batch, but trusts the offsets and lengths in the stream:
//! it panics if a buffer lies beyond the end of its message. A panic ends the process, and after
//! the restart the next process receives the same frame. So this module checks all offsets, counts
//! and sizes before Arrow's reader gets them, and passes it only the types of the expected schema.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::read_record_batch;
use arrow_ipc::{Message, root_as_message};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use bytes::Bytes;

/// The bytes at the beginning of each message, before the length of its head.
pub(super) const CONTINUATION: [u8; 4] = [0xff; 4];

/// Most bytes that LZ4 inflates from one byte. A stream that states more is refused before memory
/// is allocated for it.
const INFLATED_RATIO_MAX: u64 = 255;

/// Why a stream holds no batch.
#[derive(Debug)]
pub(super) enum StreamError {
    /// The encoder cannot have written it.
    Damaged(String),
    /// It has another schema than expected.
    OtherShape,
}

impl From<ArrowError> for StreamError {
    fn from(error: ArrowError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The only batch of a stream with this schema. The batch shares the stream's memory for each
/// buffer that is not compressed.
pub(super) fn decode(stream: &Bytes, schema: &SchemaRef) -> Result<RecordBatch, StreamError> {
    let mut rest = Buffer::from(stream.clone());
    let (head, _) = next_message(&mut rest)?.ok_or_else(|| damaged("a stream has no schema"))?;
    let stated = message(&head)?.header_as_schema();
    let stated = stated.ok_or_else(|| damaged("a stream does not begin with its schema"))?;
    if try_fb_to_schema(stated)?.fields() != schema.fields() {
        return Err(StreamError::OtherShape);
    }
    let (head, body) = next_message(&mut rest)?.ok_or_else(|| damaged("a stream has no batch"))?;
    let said = message(&head)?;
    let batch = said.header_as_record_batch();
    let batch = batch.ok_or_else(|| damaged("a stream's second message is not a batch"))?;
    check(&batch, schema, &body)?;
    if next_message(&mut rest)?.is_some() || !rest.is_empty() {
        return Err(damaged("a stream has bytes after its batch"));
    }
    let none = HashMap::new();
    let (schema, version) = (schema.clone(), said.version());
    Ok(read_record_batch(
        &body, batch, schema, &none, None, &version,
    )?)
}

/// The head and the body of the next message. `None` at the end of the stream.
fn next_message(rest: &mut Buffer) -> Result<Option<(Buffer, Buffer)>, StreamError> {
    let cut_short = || damaged("a stream ends too early");
    let mut take = |bytes: usize| {
        if bytes > rest.len() {
            return Err(cut_short());
        }
        let taken = rest.slice_with_length(0, bytes);
        rest.advance(bytes);
        Ok(taken)
    };
    if take(4)?.as_slice() != CONTINUATION {
        return Err(damaged("a message does not begin with its mark"));
    }
    let length = take(4)?;
    let length = length.as_slice().try_into().map_err(|_| cut_short())?;
    let length = u32::from_le_bytes(length);
    if length == 0 {
        return Ok(None);
    }
    let head = take(length as usize)?;
    let body = usize::try_from(message(&head)?.bodyLength()).map_err(|_| cut_short())?;
    Ok(Some((head, take(body)?)))
}

fn message(head: &Buffer) -> Result<Message<'_>, StreamError> {
    root_as_message(head).map_err(|error| damaged(&error.to_string()))
}

/// Checks that the buffers of a batch lie within its body, and that each column has as many values
/// as the batch has rows. No column is nested.
fn check(
    batch: &arrow_ipc::RecordBatch<'_>,
    schema: &SchemaRef,
    body: &[u8],
) -> Result<(), StreamError> {
    let rows = batch.length();
    if u32::try_from(rows).is_err() {
        return Err(damaged("a batch has an impossible number of rows"));
    }
    for node in batch.nodes().into_iter().flatten() {
        if node.length() != rows || !(0..=rows).contains(&node.null_count()) {
            return Err(damaged("a column does not have one value for each row"));
        }
    }
    let mut inflated = 0_u64;
    let mut buffers = batch.buffers().into_iter().flatten();
    for field in schema.fields() {
        let widths = match field.data_type() {
            DataType::Utf8 | DataType::Binary => &[1, size_of::<i32>(), 1][..],
            fixed => &[1, fixed.primitive_width().unwrap_or(1)],
        };
        for width in widths {
            let buffer = buffers.next();
            let bytes = buffer.and_then(|buffer| place(buffer, body));
            let bytes = bytes.ok_or_else(|| damaged("a column lies beyond its message"))?;
            let size = match (batch.compression(), bytes.first_chunk()) {
                (Some(_), Some(prefix)) => match u64::try_from(i64::from_le_bytes(*prefix)) {
                    Ok(size) => {
                        inflated = inflated.saturating_add(size);
                        size
                    }
                    // A length of -1: the buffer is not compressed.
                    Err(_) => bytes.len() as u64 - 8,
                },
                _ => bytes.len() as u64,
            };
            // Arrow asserts that the length of some buffers is a multiple of their values' width.
            if size % *width as u64 != 0 {
                return Err(damaged("a column ends within a value"));
            }
        }
    }
    if inflated > INFLATED_RATIO_MAX * body.len() as u64 {
        return Err(damaged(
            "a batch states a size that its bytes cannot inflate to",
        ));
    }
    Ok(())
}

/// The bytes of a buffer, if they lie within the body.
fn place<'a>(buffer: &arrow_ipc::Buffer, body: &'a [u8]) -> Option<&'a [u8]> {
    let at = usize::try_from(buffer.offset()).ok()?;
    let length = usize::try_from(buffer.length()).ok()?;
    body.get(at..at.checked_add(length)?)
}

fn damaged(what: &str) -> StreamError {
    StreamError::Damaged(what.to_owned())
}
