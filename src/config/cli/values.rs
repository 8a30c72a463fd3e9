//! Parsers of argument values, and their error messages.

use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use serde_json::value::RawValue;

use crate::batch::{RejectCode, row_id};
use crate::config::options::Period;
use crate::sample::{FileFormat, RecordType};
use crate::timestamp;

impl ValueEnum for RecordType {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::VehicleEvents, Self::VehicleStatus]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::VehicleEvents => "Events of vehicles",
            Self::VehicleStatus => "Reports of a vehicle's status",
        };
        Some(PossibleValue::new(self.dataset()).help(help))
    }
}

impl ValueEnum for FileFormat {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Document, Self::Array, Self::Ndjson]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, help) = match self {
            Self::Document => ("document", "An object that holds the array of records"),
            Self::Array => ("array", "A bare array"),
            Self::Ndjson => ("ndjson", "One record a line"),
        };
        Some(PossibleValue::new(name).help(help))
    }
}

/// Accepts the codes of rejects.
pub(super) fn reject_code() -> clap::builder::PossibleValuesParser {
    RejectCode::ALL.map(RejectCode::as_str).into()
}

/// Parses a day or a time (UTC) into microseconds since the epoch.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    timestamp::parse(text)
        .or_else(|| timestamp::parse(&format!("{text}T00:00:00Z")))
        .ok_or_else(|| "write a day like 2022-06-05, or 2022-06-05T21:02:34Z".to_owned())
}

/// Parses the id of a record: a number, or `FILE_NO:ORDINAL`.
pub(super) fn record_id(text: &str) -> Result<u64, String> {
    let parts = text
        .split_once(':')
        .map(|(file_no, ordinal)| (file_no.parse::<u32>(), ordinal.parse::<u32>()));
    let id = match parts {
        Some((Ok(file_no), Ok(ordinal))) => Some(row_id(file_no, ordinal)),
        Some(_) => None,
        None => text.parse::<u64>().ok(),
    };
    // A file number has 31 bits, and the first is 1.
    id.filter(|id| (row_id(1, 0)..1 << 63).contains(id))
        .ok_or_else(|| {
            let first = row_id(1, 0);
            format!("write the id of a row, or FILE_NO:ORDINAL; the first id of a file is {first}")
        })
}

/// Parses a time of at least a second. With less, workers would take frames from each other that
/// are about to be committed.
pub(super) fn a_second_at_least(text: &str) -> Result<Period, String> {
    let period: Period = text.parse()?;
    if period.0 < Duration::from_secs(1) {
        return Err("write a second or more".to_owned());
    }
    Ok(period)
}

/// A field of a record and the JSON text that it is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldValue {
    /// A name, or a JSON pointer.
    pub field: String,
    /// JSON, as it was given.
    pub value: String,
}

/// Parses `FIELD=VALUE`. A value that is not JSON is a string.
pub(super) fn field_value(text: &str) -> Result<FieldValue, String> {
    let (field, value) = text
        .split_once('=')
        .filter(|(field, _)| !field.is_empty())
        .ok_or("write FIELD=VALUE, such as status=unknown, n=7 or /data/0/n=null")?;
    let value = match serde_json::from_str::<&RawValue>(value.trim()) {
        Ok(json) => json.get().to_owned(),
        Err(_) => serde_json::Value::from(value).to_string(),
    };
    Ok(FieldValue {
        field: field.to_owned(),
        value,
    })
}

pub(super) fn ratio(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("write a number from 0 to 1".to_owned()),
    }
}

/// When messages have colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_number_or_its_parts() {
        assert_eq!(record_id("4294967298"), Ok((1 << 32) + 2));
        assert_eq!(record_id("1:2"), Ok((1 << 32) + 2));
        for none in [
            "",
            "1",
            "0:1",
            "1:",
            "a:b",
            "1:2:3",
            "18446744073709551615",
            "-1",
        ] {
            assert!(record_id(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_field_is_set_to_json_or_to_a_text() {
        for (given, field, value) in [
            ("status=ok", "status", "\"ok\""),
            ("status=a=b", "status", "\"a=b\""),
            ("status=", "status", "\"\""),
            ("n=12345678901234567890.10", "n", "12345678901234567890.10"),
            ("n= 1 ", "n", "1"),
            ("n=\"1\"", "n", "\"1\""),
            ("/a/0=null", "/a/0", "null"),
            ("j={\"k\":1,\"k\":2}", "j", "{\"k\":1,\"k\":2}"),
            ("t=2026-03-01T10:00:00Z", "t", "\"2026-03-01T10:00:00Z\""),
        ] {
            let expected = FieldValue {
                field: field.to_owned(),
                value: value.to_owned(),
            };
            assert_eq!(field_value(given), Ok(expected), "{given}");
        }
        for none in ["status", "=1", ""] {
            assert!(field_value(none).is_err(), "{none}");
        }
    }

    #[test]
    fn a_moment_is_a_day_or_a_time() {
        assert_eq!(moment("1970-01-02"), Ok(86_400_000_000));
        assert_eq!(moment("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert!(moment("yesterday").is_err());
    }
}
