//! Edits the text of a record: sets or removes one member and keeps every other byte, and finds
//! numbers that a program has rounded.
//!
//! Works on text, since a JSON value in memory loses parts of the text: the digits of a number, the
//! order of members, and repeated members.

mod numbers;

use std::fmt::Write as _;
use std::ops::Range;

pub use numbers::{Rounded, rounded};

use crate::syntax::{self, skip_blank};

/// Why a member cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The record is not one JSON value.
    #[error("the record is not JSON (at byte {0}), so no field of it can be set")]
    NotJson(usize),
    /// The value that should hold the member is a scalar.
    #[error("`{0}` is neither an object nor an array, so nothing in it can be set")]
    NotAContainer(String),
    /// An array has no such element.
    #[error("`{0}` is an array of {1} elements, which has no element `{2}`")]
    NoElement(String, usize, String),
    /// The elements after a removed one would get other indexes.
    #[error("`{0}` is an element of an array, which cannot be removed: set it to null instead")]
    IsElement(String),
}

/// A member of an object, or an element of an array, as places in the text.
struct Member {
    /// The key with its quotes. Empty for an element.
    key: Range<usize>,
    value: Range<usize>,
}

/// The text of a record in which the member at `path` is `value`, which must be JSON. Every other
/// byte stays. A missing member is added at the end of its object, and missing objects on the path
/// are added as well; an object also replaces a `null` on the path. The element after the last one is
/// added to an array. If the object has the member more than once, only one remains.
///
/// # Errors
/// [`EditError`].
pub fn set(record: &str, path: &[String], value: &str) -> Result<String, EditError> {
    let bytes = record.as_bytes();
    let Range { start, end } = value_of(bytes)?;
    let mut at = start;
    for (depth, segment) in path.iter().enumerate() {
        if depth > 0 && bytes[at] == b'n' {
            let place = at..syntax::value(bytes, at).unwrap_or(end);
            return Ok(replace(record, place, &nested(&path[depth..], value), &[]));
        }
        if !matches!(bytes[at], b'{' | b'[') {
            return Err(EditError::NotAContainer(pointer(&path[..depth])));
        }
        let members = members(bytes, at);
        if bytes[at] == b'[' {
            let index: Option<usize> = segment.parse().ok();
            if index == Some(members.len()) {
                let place = members.last().map_or(at + 1, |last| last.value.end);
                let comma = if members.is_empty() { "" } else { "," };
                let text = comma.to_owned() + &nested(&path[depth + 1..], value);
                return Ok(replace(record, place..place, &text, &[]));
            }
            let Some(element) = index.and_then(|at| members.get(at)) else {
                let parent = pointer(&path[..depth]);
                let segment = segment.clone();
                return Err(EditError::NoElement(parent, members.len(), segment));
            };
            at = element.value.start;
            continue;
        }
        let is_named = |member: &&Member| key(record, &member.key) == *segment;
        let mut named = members.iter().filter(is_named);
        let Some(first) = named.next() else {
            let place = members.last().map_or(at + 1, |last| last.value.end);
            let comma = if members.is_empty() { "" } else { "," };
            return Ok(insert(record, place, comma, &path[depth..], value));
        };
        if depth + 1 == path.len() {
            let others: Vec<Range<usize>> =
                named.map(|member| with_separator(bytes, member)).collect();
            return Ok(replace(record, first.value.clone(), value, &others));
        }
        at = first.value.start;
    }
    let end = syntax::value(bytes, at).unwrap_or(end);
    Ok(replace(record, at..end, value, &[]))
}

/// The text of a record without the member at `path`, however often its object has it. Every other
/// byte stays, but for the commas beside it. The record stays as it is if it has no such member.
///
/// # Errors
/// [`EditError`].
pub fn remove(record: &str, path: &[String]) -> Result<String, EditError> {
    let bytes = record.as_bytes();
    let mut at = value_of(bytes)?.start;
    for (depth, segment) in path.iter().enumerate() {
        let is_last = depth + 1 == path.len();
        let members = match bytes[at] {
            b'{' | b'[' => members(bytes, at),
            _ => break,
        };
        if bytes[at] == b'[' {
            let element = segment.parse().ok().and_then(|at: usize| members.get(at));
            match element {
                Some(_) if is_last => return Err(EditError::IsElement(pointer(path))),
                Some(element) => at = element.value.start,
                None => break,
            }
            continue;
        }
        let is_named = |member: &Member| key(record, &member.key) == *segment;
        match members.iter().find(|member| is_named(member)) {
            Some(_) if is_last => return Ok(without(record, &members, is_named)),
            Some(first) => at = first.value.start,
            None => break,
        }
    }
    Ok(record.to_owned())
}

/// The record without those of these members, which are all of an object, that `is_removed` selects.
fn without(record: &str, members: &[Member], is_removed: impl Fn(&Member) -> bool) -> String {
    let bytes = record.as_bytes();
    let mut text = String::new();
    let (mut from, mut has_kept) = (0, false);
    for (at, member) in members.iter().enumerate() {
        if !is_removed(member) {
            has_kept = true;
            continue;
        }
        let gap = match members.get(at + 1) {
            // The comma before it goes with it, or else the one after it.
            _ if has_kept => with_separator(bytes, member),
            Some(next) => member.key.start..next.key.start,
            None => member.key.start..member.value.end,
        };
        text += &record[from..gap.start];
        from = gap.end;
    }
    text + &record[from..]
}

/// The place of the record's value.
fn value_of(bytes: &[u8]) -> Result<Range<usize>, EditError> {
    let start = skip_blank(bytes, 0);
    let end = syntax::value(bytes, start).map_err(|stop| EditError::NotJson(stop.place(bytes)))?;
    let after = skip_blank(bytes, end);
    if after < bytes.len() {
        return Err(EditError::NotJson(after));
    }
    Ok(start..end)
}

/// The JSON pointer (RFC 6901) of the value that holds the byte at a place. The record must be
/// JSON.
#[must_use]
pub fn pointer_at(record: &str, place: usize) -> String {
    let bytes = record.as_bytes();
    let mut path = Vec::new();
    let mut at = skip_blank(bytes, 0);
    while matches!(bytes.get(at), Some(b'{' | b'[')) {
        let members = members(bytes, at);
        let holds = |member: &Member| member.key.contains(&place) || member.value.contains(&place);
        let Some(index) = members.iter().position(holds) else {
            break;
        };
        let member = &members[index];
        path.push(if member.key.is_empty() {
            index.to_string()
        } else {
            key(record, &member.key)
        });
        at = member.value.start;
    }
    pointer(&path)
}

/// A JSON pointer (RFC 6901).
fn pointer(path: &[String]) -> String {
    path.iter().fold(String::new(), |mut text, segment| {
        let segment = segment.replace('~', "~0").replace('/', "~1");
        write!(text, "/{segment}").expect("writing to a String cannot fail");
        text
    })
}

/// The members of the object, or the elements of the array, that begins at `at`. The text must be
/// JSON.
fn members(bytes: &[u8], at: usize) -> Vec<Member> {
    let mut found = Vec::new();
    let is_object = bytes[at] == b'{';
    let mut next = skip_blank(bytes, at + 1);
    while !matches!(bytes.get(next), Some(b'}' | b']') | None) {
        let key = if is_object {
            next..syntax::string(bytes, next).unwrap_or(bytes.len())
        } else {
            next..next
        };
        let start = if is_object {
            skip_blank(bytes, skip_blank(bytes, key.end) + 1)
        } else {
            next
        };
        let end = syntax::value(bytes, start).unwrap_or(bytes.len());
        found.push(Member {
            key,
            value: start..end,
        });
        next = skip_blank(bytes, end);
        if bytes.get(next) == Some(&b',') {
            next = skip_blank(bytes, next + 1);
        }
    }
    found
}

fn key(record: &str, quoted: &Range<usize>) -> String {
    serde_json::from_str(&record[quoted.clone()]).unwrap_or_default()
}

/// The place of a member with the comma before it. The member must not be the first.
fn with_separator(bytes: &[u8], member: &Member) -> Range<usize> {
    let before = &bytes[..member.key.start];
    let comma = before.iter().rposition(|byte| *byte == b',');
    comma.unwrap_or(member.key.start)..member.value.end
}

/// The record with a new member at a place, after the text `comma`. The first segment of `path` is
/// its key, and each other segment is an object around the value.
fn insert(record: &str, place: usize, comma: &str, path: &[String], value: &str) -> String {
    let member = quoted(&path[0]) + ":" + &nested(&path[1..], value);
    replace(record, place..place, &(comma.to_owned() + &member), &[])
}

/// The value in an object for each segment of `path`.
fn nested(path: &[String], value: &str) -> String {
    let mut objects = String::new();
    for segment in path {
        objects.push('{');
        objects += &quoted(segment);
        objects.push(':');
    }
    objects + value + &"}".repeat(path.len())
}

fn quoted(segment: &str) -> String {
    serde_json::to_string(segment).expect("a text can be quoted")
}

/// The record with another value at a place, and without the later places `removed`.
fn replace(record: &str, place: Range<usize>, value: &str, removed: &[Range<usize>]) -> String {
    let mut text = record[..place.start].to_owned() + value;
    let mut from = place.end;
    for range in removed {
        text += &record[from..range.start];
        from = range.end;
    }
    text + &record[from..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::segments;

    fn edited(record: &str, pointer: &str, value: &str) -> Result<String, String> {
        let path: Vec<String> = segments(pointer).collect();
        set(record, &path, value).map_err(|error| error.to_string())
    }

    #[test]
    fn one_member_is_set_and_every_other_byte_stays() {
        for (record, pointer, value, expected) in [
            ("{}", "/a", "1", "{\"a\":1}"),
            ("{ }", "/a", "1", "{\"a\":1 }"),
            (" {\"a\" : 1.0 }\n", "/a", "2", " {\"a\" : 2 }\n"),
            (
                "{\"b\":1e2,\"d\":{\"k\":1,\"k\":2}}",
                "/a",
                "\"x\"",
                "{\"b\":1e2,\"d\":{\"k\":1,\"k\":2},\"a\":\"x\"}",
            ),
            (
                "{\"b\": [1 , 2]\n}",
                "/a",
                "[]",
                "{\"b\": [1 , 2],\"a\":[]\n}",
            ),
            ("{\"b\": [1 , 2]}", "/b/1", "{}", "{\"b\": [1 , {}]}"),
            (
                "{\"b\":{\"c\":1}}",
                "/b/d",
                "2",
                "{\"b\":{\"c\":1,\"d\":2}}",
            ),
            (
                "{\"x\":1}",
                "/b/c/d",
                "2",
                "{\"x\":1,\"b\":{\"c\":{\"d\":2}}}",
            ),
            // Keys are compared after unescaping. A pointer has its own escapes.
            ("{\"\\u0061\":1}", "/a", "2", "{\"\\u0061\":2}"),
            ("{}", "/a~1b~0\"", "2", "{\"a/b~\\\"\":2}"),
            // Of a member that occurs several times, one remains.
            (
                "{\"a\":1, \"b\":2 , \"a\":3,\"c\":4,\"a\":5}",
                "/a",
                "6",
                "{\"a\":6, \"b\":2 ,\"c\":4}",
            ),
            ("[1]", "", "{}", "{}"),
            (
                "{\"a\":null,\"b\":1e2}",
                "/a/c",
                "1",
                "{\"a\":{\"c\":1},\"b\":1e2}",
            ),
            (
                "{\"a\": null }",
                "/a/c/d",
                "1",
                "{\"a\": {\"c\":{\"d\":1}} }",
            ),
            ("{\"a\":[1]}", "/a/1", "2", "{\"a\":[1,2]}"),
            ("{\"a\":[ ]}", "/a/0", "2", "{\"a\":[2 ]}"),
            ("{\"a\":[1 ]}", "/a/1/b", "2", "{\"a\":[1,{\"b\":2} ]}"),
            ("{\"a\":[null]}", "/a/0/b", "2", "{\"a\":[{\"b\":2}]}"),
        ] {
            assert_eq!(
                edited(record, pointer, value).as_deref(),
                Ok(expected),
                "{record}"
            );
        }
    }

    #[test]
    fn a_member_that_cannot_be_set_is_reported() {
        for (record, pointer, said) in [
            ("{\"a\":tru}", "/a", "not JSON (at byte 5)"),
            ("{} {}", "/a", "not JSON (at byte 3)"),
            ("", "/a", "not JSON (at byte 0)"),
            ("{\"a\":1}", "/a/b", "`/a` is neither"),
            ("7", "/a", "`` is neither"),
            ("null", "/a", "`` is neither"),
            ("{\"a\":[1]}", "/a/2", "`/a` is an array of 1 elements"),
            ("{\"a\":[1]}", "/a/b", "no element `b`"),
        ] {
            let error = edited(record, pointer, "1").unwrap_err();
            assert!(error.contains(said), "{record}: {error}");
        }
    }

    #[test]
    fn a_member_is_removed_and_every_other_byte_stays() {
        let removed = |record: &str, pointer: &str| {
            let path: Vec<String> = segments(pointer).collect();
            remove(record, &path).map_err(|error| error.to_string())
        };
        for (record, pointer, expected) in [
            ("{}", "/a", "{}"),
            ("7", "/a", "7"),
            ("{\"a\":1}", "/a", "{}"),
            (" { \"a\" : 1 } ", "/a", " {  } "),
            ("{\"a\":1, \"b\":1e2}", "/a", "{\"b\":1e2}"),
            ("{\"a\":1 , \"b\":2 ,\"c\":3}", "/b", "{\"a\":1  ,\"c\":3}"),
            ("{\"a\":1,\"b\":2}", "/b", "{\"a\":1}"),
            // However often the object has it.
            ("{\"a\":1,\"a\":2}", "/a", "{}"),
            ("{\"a\":1,\"a\":2, \"b\":3,\"a\":4}", "/a", "{\"b\":3}"),
            ("{\"b\":[{\"a\":1}]}", "/b/0/a", "{\"b\":[{}]}"),
            (
                "{\"b\":{\"\\u0061\":1,\"c\":[]}}",
                "/b/a",
                "{\"b\":{\"c\":[]}}",
            ),
            ("{\"b\":[1]}", "/b/1", "{\"b\":[1]}"),
            ("{\"b\":1}", "/b/c", "{\"b\":1}"),
        ] {
            assert_eq!(
                removed(record, pointer).as_deref(),
                Ok(expected),
                "{record}"
            );
        }
        for (record, pointer, said) in [
            ("{\"b\":[1]}", "/b/0", "`/b/0` is an element"),
            ("{} x", "/a", "not JSON (at byte 3)"),
        ] {
            let error = removed(record, pointer).unwrap_err();
            assert!(error.contains(said), "{record}: {error}");
        }
    }

    #[test]
    fn a_place_has_a_pointer() {
        let record = "{\"a\": {\"b/c\":[0, {\"d\": 12}]}, \"e\":3}";
        for (text, pointer) in [("12", "/a/b~1c/1/d"), ("0", "/a/b~1c/0"), ("3", "/e")] {
            let place = record.find(text).unwrap();
            assert_eq!(pointer_at(record, place), pointer);
        }
        assert_eq!(pointer_at("12", 0), "");
    }
}
