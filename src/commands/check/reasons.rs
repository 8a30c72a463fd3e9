//! The rejects of a check by reason: the dataset, the code and the field, each with a count and one
//! example.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use indexmap::IndexMap;
use serde_json::value::RawValue;

use crate::batch::{Reject, RejectCode};
use crate::commands::INFALLIBLE;
use crate::commands::output::{excerpt, field_suffix, on_one_line};
use crate::dataset::{Column, ColumnType, Dataset, Encoding, EpochUnit, escaped, segments};
use crate::parse;

/// Most reasons that are told apart. A field name of `unknown_field` comes from the data, so there
/// could be any number.
const REASONS_MAX: usize = 200;

/// Most characters that are shown of a value.
const VALUE_CHARS: usize = 60;

/// A dataset, a code, and the field.
type Reason = (String, RejectCode, Option<String>);

/// The rejects of all files, by reason, in the order in which the reasons first appeared.
#[derive(Debug, Default)]
pub(super) struct Reasons(IndexMap<Reason, Group>);

#[derive(Debug)]
struct Group {
    count: u64,
    /// The example: what was expected and what was found, the place, and the text of the record.
    example: String,
}

impl Reasons {
    /// Counts a reject of `file`.
    pub(super) fn add(&mut self, file: &str, dataset: &Dataset, reject: &Reject) {
        let mut reason = (dataset.name.clone(), reject.code, reject.field.clone());
        if self.0.len() >= REASONS_MAX && !self.0.contains_key(&reason) {
            reason.2 = None;
        }
        let group = self.0.entry(reason).or_insert_with(|| Group {
            count: 0,
            example: example(file, dataset, reject),
        });
        group.count += 1;
    }

    /// Prints the reasons, the most frequent first.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let mut groups: Vec<_> = self.0.iter().collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.count));
        for ((dataset, code, field), Group { count, example }) in groups {
            let plural = if *count == 1 { "" } else { "s" };
            let field = field_suffix(field.as_ref());
            let code = code.as_str();
            writeln!(
                out,
                "{count} reject{plural} of {dataset}: {code}{field}{example}"
            )?;
        }
        Ok(())
    }
}

fn example(file: &str, dataset: &Dataset, reject: &Reject) -> String {
    let Reject {
        ordinal,
        code,
        field,
        byte_offset,
        raw,
    } = reject;
    let mut text = String::new();
    let column = field.as_ref().and_then(|field| dataset.column(field));
    if let Some((_, column)) = column {
        let found = found(column, *code, raw);
        let hint = hint(dataset, column, *code, raw).unwrap_or_default();
        write!(text, ": expected {}, found {found}{hint}", expected(column)).expect(INFALLIBLE);
    }
    let place = parse::place_of_fault(Some(dataset), raw, *code, field.as_deref());
    let place = place.map_or(String::new(), |place| {
        format!(" at byte {place} of the record")
    });
    write!(
        text,
        "\n    {}: record {ordinal} of {} at byte {byte_offset}{place}\n    {}",
        file.escape_debug(),
        dataset.name,
        excerpt(raw)
    )
    .expect(INFALLIBLE);
    text
}

/// What a column accepts.
fn expected(column: &Column) -> String {
    let mut text = match column.kind {
        ColumnType::Text => format!("a text of at most {} characters", column.max_chars),
        ColumnType::Integer => "an integer of 64 bits".to_owned(),
        ColumnType::Unsigned => "an integer from 0 to 18446744073709551615".to_owned(),
        ColumnType::Float => "a number".to_owned(),
        ColumnType::Decimal { precision, scale } => {
            format!("a number of at most {precision} digits, {scale} of them after the point")
        }
        ColumnType::Boolean => "true or false".to_owned(),
        ColumnType::Timestamp => "a time of RFC 3339".to_owned(),
        ColumnType::Date => "a date such as 2026-03-01".to_owned(),
        ColumnType::Time => "a time of day such as 13:14:15".to_owned(),
        ColumnType::Binary => match column.encoding.unwrap_or_default() {
            Encoding::Base64 => "bytes in base64".to_owned(),
            Encoding::Hex => "bytes in hexadecimal digits".to_owned(),
        },
        ColumnType::Json => "a value".to_owned(),
    };
    for format in &column.formats {
        write!(text, " or `{format}`").expect(INFALLIBLE);
    }
    if let Some(unit) = column.epoch {
        write!(text, " or a number (epoch = \"{}\")", unit.as_str()).expect(INFALLIBLE);
    }
    text
}

/// What the definition could say instead, to append to what was found. `None` if nothing is likely.
fn hint(dataset: &Dataset, column: &Column, code: RejectCode, raw: &[u8]) -> Option<String> {
    if code == RejectCode::MissingField && !column.fields().is_empty() {
        // Of nested records, what a record lacks is often a field of its parent.
        let (parent, _) = dataset.pointer().rsplit_once("/*")?;
        return Some(format!(
            "; if a parent of the record has it: `envelope = \"{parent}/*/{}\"`",
            escaped(&column.name)
        ));
    }
    if column.kind != ColumnType::Timestamp {
        return None;
    }
    let value = value_of(column, std::str::from_utf8(raw).ok()?)?;
    let number: i64 = value.trim_matches('"').split('.').next()?.parse().ok()?;
    let unit = likely_unit(number).filter(|unit| column.epoch != Some(*unit))?;
    Some(format!(
        "; with `epoch = \"{}\"` it is a time of our days",
        unit.as_str()
    ))
}

/// The unit by which a number is a time between 2001 and 2100.
fn likely_unit(number: i64) -> Option<EpochUnit> {
    const SECONDS: std::ops::Range<i64> = 1_000_000_000..4_102_444_800;
    let units = [
        (EpochUnit::S, 1),
        (EpochUnit::Ms, 1_000),
        (EpochUnit::Us, 1_000_000),
        (EpochUnit::Ns, 1_000_000_000),
    ];
    let found = units
        .into_iter()
        .find(|(_, per_second)| SECONDS.contains(&(number / per_second)));
    found.map(|(unit, _)| unit)
}

/// The value that a column takes from the text of a record.
fn value_of<'a>(column: &Column, record: &'a str) -> Option<&'a str> {
    let mut fields = column.fields().iter();
    fields.find_map(|field| value_at(record, field))
}

/// The value that a record has for a column.
fn found(column: &Column, code: RejectCode, raw: &[u8]) -> String {
    let value = value_of(column, std::str::from_utf8(raw).unwrap_or_default());
    let Some(value) = value else {
        return match code {
            RejectCode::MissingField if column.fields().is_empty() => {
                format!("nothing at {}", column.source())
            }
            RejectCode::MissingField => "nothing".to_owned(),
            _ if column.fields().is_empty() => format!("another value at {}", column.source()),
            _ => "another value".to_owned(),
        };
    };
    let chars = value.chars().count();
    let shown: String = value.chars().take(VALUE_CHARS).collect();
    let shown = on_one_line(&shown);
    match code {
        RejectCode::TextTooLong => {
            let text = serde_json::from_str::<String>(value);
            let length = text.map_or(chars, |text| text.chars().count());
            format!("{length} characters: `{shown}…`")
        }
        _ if chars > VALUE_CHARS => format!("`{shown}…`"),
        _ => format!("`{shown}`"),
    }
}

/// The text of the value to which a pointer leads. `None` if it leads to none, or if the text of the
/// record is cut.
fn value_at<'a>(record: &'a str, pointer: &str) -> Option<&'a str> {
    let mut value = record;
    for segment in segments(pointer) {
        let next: Option<&RawValue> = if value.starts_with('[') {
            let elements: Vec<&RawValue> = serde_json::from_str(value).ok()?;
            elements.get(segment.parse::<usize>().ok()?).copied()
        } else {
            let members: HashMap<String, &RawValue> = serde_json::from_str(value).ok()?;
            members.get(&segment).copied()
        };
        value = next?.get();
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_pointer() {
        let record = r#"{"a":{"b":[1,{"c/d":"x"}]},"n":null}"#;
        for (pointer, value) in [
            ("/a/b/1/c~1d", Some("\"x\"")),
            ("/a/b", Some("[1,{\"c/d\":\"x\"}]")),
            ("/n", Some("null")),
            ("/a/x", None),
            ("/a/b/2", None),
        ] {
            assert_eq!(value_at(record, pointer), value, "{pointer}");
        }
        assert_eq!(value_at("{\"a\":1", "/a"), None);
    }
}
