//! How a file holds its records: one document or several values, and in which of its arrays.

use serde_json::value::RawValue;

use super::json::{self, Kind};
use crate::cut::skip_separators;
use crate::dataset::{Format, escaped};
use crate::syntax::{self, is_blank, skip_blank};

/// Most values of a file whose shape is examined. The first ones show it.
const VALUES_MAX: usize = 1_000;

/// Most levels of objects in which arrays of records are searched.
const LEVELS_MAX: usize = 6;

/// How a file holds its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// `document`, `lines` or `sequence`. `auto` if the file has no value.
    pub format: Format,
    /// The arrays of objects in the first value, the largest first.
    pub arrays: Vec<FoundArray>,
    /// Whether the first of `arrays` most likely holds the records: the value is an envelope.
    pub is_envelope: bool,
    /// Whether the first value is an array.
    pub is_array: bool,
}

/// An array of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundArray {
    /// Where it is, as a JSON pointer.
    pub pointer: String,
    /// How many objects it has.
    pub elements: u64,
    bytes: usize,
}

/// Why a file cannot be loaded by any definition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail} (at byte {offset})")]
pub struct NoRecords {
    offset: usize,
    detail: String,
}

impl Shape {
    /// The shape of a file.
    ///
    /// # Errors
    /// The file does not begin with a JSON value that is an object or an array of objects.
    pub fn of(bytes: &[u8]) -> Result<Self, NoRecords> {
        const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
        let bom = if bytes.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let start = skip_separators(bytes, bom);
        if start == bytes.len() {
            return Ok(Self {
                format: Format::Auto,
                arrays: Vec::new(),
                is_envelope: false,
                is_array: false,
            });
        }
        let fail = |offset, detail: &str| {
            Err(NoRecords {
                offset,
                detail: detail.to_owned(),
            })
        };
        let end = match syntax::value(bytes, start) {
            Ok(end) => end,
            Err(stop) => return fail(stop.place(bytes), "the first value is not JSON"),
        };
        let Ok(first) = std::str::from_utf8(&bytes[start..end]) else {
            return fail(start, "the first value is not UTF-8");
        };
        let format = if skip_blank(bytes, end) == bytes.len() && skip_blank(bytes, bom) == start {
            Format::Document
        } else if skip_blank(bytes, bom) == start && are_lines(bytes, start) {
            Format::Lines
        } else {
            Format::Sequence
        };
        let arrays = match Kind::of(bytes[start]) {
            Kind::Object => arrays_of(first),
            Kind::Array if first_element(first) == Some(Kind::Object) => Vec::new(),
            Kind::Array if first_element(first).is_none() => Vec::new(),
            Kind::Array => {
                return fail(
                    start,
                    "an array of records must hold objects: records that are arrays or \
                                    single values are not read",
                );
            }
            _ => return fail(start, "the first value is neither an object nor an array"),
        };
        let is_array = bytes[start] == b'[';
        let is_envelope = arrays.first().is_some_and(|array| match format {
            // As bytes of the whole: a record with a list in it has most of its bytes elsewhere.
            Format::Document => array.bytes * 2 >= first.len(),
            // A record on a line often has a list; an envelope has little beside its array.
            _ => array.bytes * 3 >= first.len() * 2 && member_count(first) <= 3,
        });
        // Lines that each hold an array or an envelope are a sequence: as lines, each would be one
        // record.
        let format = if format == Format::Lines && (is_array || is_envelope) {
            Format::Sequence
        } else {
            format
        };
        Ok(Self {
            format,
            arrays,
            is_envelope,
            is_array,
        })
    }
}

/// The keys of the first value of a file, if it is an object.
pub(super) fn first_keys(bytes: &[u8]) -> Vec<String> {
    let start = bytes
        .iter()
        .position(|byte| *byte == b'{')
        .unwrap_or(bytes.len());
    let mut keys = Vec::new();
    if let Ok(end) = syntax::value(bytes, start)
        && let Ok(object) = std::str::from_utf8(&bytes[start..end])
    {
        let visit = |key, _: &RawValue| {
            if !keys.contains(&key) {
                keys.push(key);
            }
        };
        // A key that cannot be read ends the list.
        let _ = json::members(object, visit);
    }
    keys
}

/// Whether each of the first values is alone on a line.
fn are_lines(bytes: &[u8], start: usize) -> bool {
    let mut at = start;
    for _ in 0..VALUES_MAX {
        let line_end = bytes[at..]
            .iter()
            .position(|byte| *byte == b'\n')
            .map_or(bytes.len(), |length| at + length);
        // A broken value on a line of its own harms no other line.
        if let Ok(end) = syntax::value(bytes, at)
            && (end > line_end || !bytes[end..line_end].iter().all(|byte| is_blank(*byte)))
        {
            return false;
        }
        at = skip_blank(bytes, line_end);
        if at == bytes.len() {
            break;
        }
        if !matches!(bytes[at], b'{' | b'[') {
            return false;
        }
    }
    true
}

fn first_element(array: &str) -> Option<Kind> {
    let inside = array[1..].trim_start();
    let first = inside.bytes().next().filter(|byte| *byte != b']')?;
    Some(Kind::of(first))
}

fn member_count(object: &str) -> usize {
    let mut count = 0;
    // The caller has checked the value.
    let _ = json::members(object, |_, _| count += 1);
    count
}

/// The arrays of objects in an object, not within other arrays, the largest first.
fn arrays_of(object: &str) -> Vec<FoundArray> {
    let mut found = Vec::new();
    find_arrays(object, "", LEVELS_MAX, &mut found);
    found.sort_by_key(|array| std::cmp::Reverse(array.bytes));
    found
}

fn find_arrays(object: &str, pointer: &str, levels: usize, found: &mut Vec<FoundArray>) {
    let visit = |key: String, value: &RawValue| {
        let pointer = format!("{pointer}/{}", escaped(&key));
        match Kind::of_raw(value) {
            Kind::Object if levels > 1 => find_arrays(value.get(), &pointer, levels - 1, found),
            Kind::Array => {
                if let Some(elements) = objects_of(value.get()) {
                    found.push(FoundArray {
                        pointer,
                        elements,
                        bytes: value.get().len(),
                    });
                }
            }
            _ => {}
        }
    };
    // The caller has checked the value. Half a surrogate pair in a key ends the search.
    let _ = json::members(object, visit);
}

/// How many elements an array has. `None` if it is empty, or one of them is not an object.
fn objects_of(array: &str) -> Option<u64> {
    let (mut objects, mut others) = (0, 0);
    let visit = |element: &RawValue| match Kind::of_raw(element) {
        Kind::Object => objects += 1,
        _ => others += 1,
    };
    json::elements(array, visit).ok()?;
    (others == 0 && objects > 0).then_some(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        use Format::{Auto, Document, Lines, Sequence};
        let long = r#"{"a":1,"list":[{"x":1},{"x":2}],"text":"as long as the list of objects, or longer"}"#;
        let item = r#"{"v":"as long as a record"}"#;
        let envelope = format!(r#"{{"n":1,"data":{{"rows/a":[{item},{item}]}}}}"#);
        let records = Some("/data/rows~1a");
        for (file, format, array) in [
            (String::new(), Auto, None),
            (" \n".to_owned(), Auto, None),
            (r#"[{"a":1}]"#.to_owned(), Document, None),
            ("[]".to_owned(), Document, None),
            (r#"{"a":1}"#.to_owned(), Document, None),
            (long.to_owned(), Document, None),
            (envelope.clone(), Document, records),
            (format!("{item}\n{item}\n"), Lines, None),
            (format!("{item}\r\n\n{{broken\n{item}"), Lines, None),
            (format!("{item}{item}"), Sequence, None),
            (format!("{item},\n{item}"), Sequence, None),
            (format!("\u{1e}{item}\n\u{1e}{item}\n"), Sequence, None),
            ("{\n\"a\":1\n}\n{\n\"a\":2\n}".to_owned(), Sequence, None),
            (format!("{envelope}\n{envelope}\n"), Sequence, records),
            (format!("[{item}]\n[{item}]\n"), Sequence, None),
            (format!("{long}\n{long}\n"), Lines, None),
        ] {
            let shape = Shape::of(file.as_bytes()).unwrap();
            let of_records = shape.arrays.first().filter(|_| shape.is_envelope);
            let pointer = of_records.map(|array| array.pointer.as_str());
            assert_eq!((shape.format, pointer), (format, array), "{file}");
        }
    }

    #[test]
    fn files_that_no_definition_loads() {
        for (file, expected) in [
            ("[[1,2]]", "must hold objects"),
            ("12", "neither an object nor an array"),
            ("{\"a\":tru}", "not JSON (at byte 5)"),
            ("{\"a\":\"\u{1}\"}", "not JSON (at byte 6)"),
        ] {
            let error = Shape::of(file.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{file}: {error}");
        }
    }
}
