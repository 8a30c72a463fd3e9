//! A frame as an entry of a stream, and the replies that contain entries.
//!
//! Fields: `h` is the header, then `rows`, and `rejects` if there are any. Replies are those of
//! RESP2: nested arrays. Nothing here fails: an entry that is not a frame is [`None`], and the
//! caller deletes it. So is an entry whose checksum has another key: it was made by another
//! program, or for another ledger.

use bytes::Bytes;
use fred::types::Value;

use crate::frame::{Frame, FrameKey};

/// An entry's id and its frame. `None` if the entry was deleted or is not a frame.
pub(super) type Entry = (String, Option<Frame>);

/// The fields and values of a frame's entry.
pub(super) fn fields(frame: &Frame, key: &FrameKey) -> Vec<(&'static str, Value)> {
    let mut fields = vec![
        ("h", Value::from(frame.header(key))),
        ("rows", Value::Bytes(frame.rows.clone())),
    ];
    if !frame.rejects.is_empty() {
        fields.push(("rejects", Value::Bytes(frame.rejects.clone())));
    }
    fields
}

/// The entries of an XREADGROUP reply by key: `[[key, [entry, …]], …]`, or nil if there are none.
pub(super) fn by_key(reply: Value, key: Option<&FrameKey>) -> Vec<(String, Vec<Entry>)> {
    let Value::Array(streams) = reply else {
        return Vec::new();
    };
    streams
        .into_iter()
        .filter_map(|stream| {
            let [name, list] = pair(stream)?;
            Some((name.into_string()?, entries(list, key)))
        })
        .collect()
}

/// `[[id, [field, value, …]], …]`, as XRANGE replies and others hold it. Redis 6.2 returns nil for
/// a claimed entry that was deleted. It has no id, so it is skipped.
pub(super) fn entries(list: Value, key: Option<&FrameKey>) -> Vec<Entry> {
    let Value::Array(list) = list else {
        return Vec::new();
    };
    list.into_iter()
        .filter_map(|entry| {
            let [id, fields] = pair(entry)?;
            Some((id.into_string()?, frame(fields, key)))
        })
        .collect()
}

fn frame(fields: Value, key: Option<&FrameKey>) -> Option<Frame> {
    let Value::Array(fields) = fields else {
        return None;
    };
    let (mut header, mut rows, mut rejects) = (None, None, Bytes::new());
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let value = value.into_bytes()?;
        match name.as_bytes()? {
            b"h" => header = Some(value),
            b"rows" => rows = Some(value),
            b"rejects" => rejects = value,
            // A newer version may add fields.
            _ => {}
        }
    }
    Frame::from_parts(&header?, rows?, rejects, key).ok()
}

fn pair(value: Value) -> Option<[Value; 2]> {
    let Value::Array(parts) = value else {
        return None;
    };
    parts.try_into().ok()
}
