//! The place of the problem in a rejected record, for messages.
//!
//! Reads the text of rejects, and nothing of good records.

use super::record::{DEPTH_MAX, FIELD_CHARS_MAX};
use crate::batch::RejectCode;
use crate::dataset::{Dataset, segments};
use crate::syntax::{self, Stop, skip_blank};

/// The byte within a record where its problem is, from 0. `None` if the problem has no place (a
/// missing field, a record that is too large), or if `raw` ends before it.
///
/// `raw` is the record's text as its reject keeps it; `code` and `field` are those of the reject.
/// With `dataset`, the field is found by the column's pointer; without, by the column's name.
#[must_use]
pub fn place_of_fault(
    dataset: Option<&Dataset>,
    raw: &[u8],
    code: RejectCode,
    field: Option<&str>,
) -> Option<usize> {
    match code {
        RejectCode::InvalidJson | RejectCode::TooDeep => broken_at(raw, code),
        RejectCode::DuplicateField => member(raw, &key_of(dataset, raw, field?)?, 1),
        RejectCode::WrongType
        | RejectCode::TextTooLong
        | RejectCode::InvalidTimestamp
        | RejectCode::NumberRange
        | RejectCode::InvalidBinary
        | RejectCode::UnknownField => member(raw, &key_of(dataset, raw, field?)?, 0),
        _ => None,
    }
}

/// The key of the member in which a record stops being JSON, or nests too deep. `None` if that is
/// not within a member.
pub(super) fn broken_member(record: &[u8], code: RejectCode) -> Option<String> {
    let place = broken_at(record, code)?;
    let mut found = None;
    // All members before the place of the problem have ended, except the one that holds it.
    each_member(record, |key, value| {
        if value <= place {
            found = Some(key.to_owned());
        }
        true
    });
    let ended = found.is_some() && !is_within_last_member(record, place);
    let name = found.filter(|_| !ended)?;
    Some(name.chars().take(FIELD_CHARS_MAX).collect())
}

/// The key of the member that fills a field: the first segment of the column's first pointer that
/// leads to a member of the record, or the field's name if no column has this name. `None` if the
/// column's value is outside of the record.
fn key_of(dataset: Option<&Dataset>, raw: &[u8], field: &str) -> Option<String> {
    let column = dataset.and_then(|dataset| dataset.column(field));
    let Some((_, column)) = column else {
        return Some(field.to_owned());
    };
    let keys = column.fields().iter().filter_map(|it| segments(it).next());
    let mut keys = keys.filter(|key| member(raw, key, 0).is_some());
    keys.next()
}

/// The place where a record stops being JSON, or where it exceeds [`DEPTH_MAX`] levels.
fn broken_at(record: &[u8], code: RejectCode) -> Option<usize> {
    if code == RejectCode::TooDeep {
        return too_deep_at(record);
    }
    let start = skip_blank(record, 0);
    let stop = syntax::value(record, start).map(|end| Stop::At(skip_blank(record, end)));
    let grammar = match stop {
        Ok(Stop::At(end)) if end == record.len() => None,
        Ok(stop) | Err(stop) => Some(stop.place(record)),
    };
    let text = std::str::from_utf8(record)
        .err()
        .map(|error| error.valid_up_to());
    [grammar, text].into_iter().flatten().min()
}

fn too_deep_at(record: &[u8]) -> Option<usize> {
    let (mut at, mut levels) = (0, 0_usize);
    while at < record.len() {
        match record[at] {
            b'"' => {
                at = syntax::string(record, at).ok()?;
                continue;
            }
            b'{' | b'[' => levels += 1,
            b'}' | b']' => levels = levels.saturating_sub(1),
            _ => {}
        }
        if levels > DEPTH_MAX {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// The place of the value of the member with this key, after `skipped` others with the same key.
fn member(record: &[u8], name: &str, mut skipped: usize) -> Option<usize> {
    let mut found = None;
    each_member(record, |key, value| {
        if key == name && skipped == 0 {
            found = Some(value);
        } else if key == name {
            skipped -= 1;
        }
        found.is_none()
    });
    found
}

/// Calls `visit` with each member's unescaped key and the place of its value. Stops if `visit`
/// returns false, or where the record stops being JSON.
fn each_member(record: &[u8], mut visit: impl FnMut(&str, usize) -> bool) {
    let mut at = skip_blank(record, 0);
    if record.get(at) == Some(&b'[') {
        return each_element(record, at, visit);
    }
    let mut separator = b'{';
    while record.get(at) == Some(&separator) {
        let key = skip_blank(record, at + 1);
        let Ok(key_end) = syntax::string(record, key) else {
            return;
        };
        let colon = skip_blank(record, key_end);
        let Ok(name) = serde_json::from_slice::<String>(&record[key..key_end]) else {
            return;
        };
        if record.get(colon) != Some(&b':') {
            return;
        }
        let value = skip_blank(record, colon + 1);
        if !visit(&name, value) {
            return;
        }
        let Ok(end) = syntax::value(record, value) else {
            return;
        };
        at = skip_blank(record, end);
        separator = b',';
    }
}

/// As [`each_member`], for a record that is an array, whose `[` is at `at`. The key of an element is
/// its index.
fn each_element(record: &[u8], mut at: usize, mut visit: impl FnMut(&str, usize) -> bool) {
    let mut separator = b'[';
    for index in 0_usize.. {
        if record.get(at) != Some(&separator) {
            return;
        }
        let value = skip_blank(record, at + 1);
        if !visit(&index.to_string(), value) {
            return;
        }
        let Ok(end) = syntax::value(record, value) else {
            return;
        };
        at = skip_blank(record, end);
        separator = b',';
    }
}

/// Whether a place is within the value of the last member whose key can be read.
fn is_within_last_member(record: &[u8], place: usize) -> bool {
    let mut last = None;
    each_member(record, |_, value| {
        last = Some(value);
        true
    });
    last.is_some_and(|value| match syntax::value(record, value) {
        Ok(end) => place < end,
        Err(_) => place >= value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_a_place() {
        use RejectCode::*;
        let levels = format!("{{\"a\":1,\"j\":{}", "[".repeat(DEPTH_MAX));
        for (raw, code, field, place) in [
            ("{\"a\":1,\"b\":tru}", InvalidJson, None, Some(11)),
            ("{\"a\":1,,}", InvalidJson, None, Some(7)),
            ("{\"a\":1", InvalidJson, None, Some(6)),
            ("tru", InvalidJson, None, Some(3)),
            ("", InvalidJson, None, Some(0)),
            ("{\"a\":1} x", InvalidJson, None, Some(8)),
            (levels.as_str(), TooDeep, None, Some(levels.len() - 1)),
            ("[1]", NotAnObject, None, None),
            ("{\"a\":1, \"n\": \"x\"}", WrongType, Some("n"), Some(13)),
            ("{\"\\u006e\":1e400}", NumberRange, Some("n"), Some(10)),
            ("{\"n\":1,\"n\": 2}", DuplicateField, Some("n"), Some(12)),
            ("{\"a\":1}", MissingField, Some("n"), None),
            ("{\"a\":1", WrongType, Some("n"), None),
        ] {
            assert_eq!(
                place_of_fault(None, raw.as_bytes(), code, field),
                place,
                "{raw}"
            );
        }
        let bad_text = place_of_fault(None, b"{\"a\":\"\xff\"}", InvalidJson, None);
        assert_eq!(bad_text, Some(6));
    }

    #[test]
    fn the_member_that_is_not_json_is_named() {
        for (raw, name) in [
            ("{\"a\":1,\"b\":tru}", Some("b")),
            ("{\"a\":[1,{\"x\":01}],\"b\":2}", Some("a")),
            ("{\"a\":1,,}", None),
            ("{\"a\":1,\"b\" 2}", None),
            ("{\"a\":NaN", Some("a")),
            ("[1, tru]", Some("1")),
            ("x", None),
        ] {
            let found = broken_member(raw.as_bytes(), RejectCode::InvalidJson);
            assert_eq!(found.as_deref(), name, "{raw}");
        }
    }
}
