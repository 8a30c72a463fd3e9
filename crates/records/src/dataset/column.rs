//! One column of a dataset: its type, the field that fills it, and what becomes of a value that the
//! type does not accept.

use std::borrow::Cow;
use std::fmt;

use arrow_schema::{DataType, TimeUnit};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{ID_COLUMN, RESCUE_COLUMN, of_path};
use crate::convert;
use crate::dates::{self, Part};
use crate::timestamp::{self, EpochUnit};

/// Most characters of a text: as many bytes as a record may have.
const CHARS_MAX: u32 = 16 * 1024 * 1024;

/// Most digits of a decimal after the point, in MySQL.
const SCALE_MAX: u8 = 30;

/// One column of a dataset and the field that fills it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The field, as a JSON pointer into the record; or a list of pointers, of which the first that
    /// leads to a value other than null is taken. Default: `/` and the name.
    #[serde(default)]
    pub field: Pointers,
    /// A field of the envelope around the record, as a JSON pointer from the beginning of the
    /// document. Its `*` are those of `records`, and stand for the same elements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<String>,
    /// The key or index of an element on the way to the record, as the beginning of `records` up to
    /// the `*` that leads to it; or `records` and `/*`, for the index of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value of the column in each row, as the text that a field could have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A part of the file's path, as a pattern for whole segments of the path: the part for which
    /// `{}` stands (`day={}`, `trips_{}_*.json`). The part belongs to the file's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the engine knows of the file: `loaded_at`, when the ledger got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileFact>,
    /// The type of the column.
    #[serde(rename = "type")]
    pub kind: ColumnType,
    /// Most characters (Unicode scalar values) of a text; a longer text is a reject. At most
    /// 16,777,216.
    #[serde(default = "default_chars_max")]
    pub max_chars: u32,
    /// Whether a record without this field (or with `null`) is a reject. A column that is not
    /// required holds NULL instead, or its `default`.
    #[serde(default = "default_required")]
    pub required: bool,
    /// The value of the column if the field is missing or null, as the text that the field could
    /// have. For a `json` column: JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The unit of a number in a `timestamp` column, or `days` for a `date` column. Default: a
    /// number is a reject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochUnit>,
    /// Patterns of `strftime`, for texts of a `timestamp`, `date` or `time` column that have
    /// another form than RFC 3339. The first that fits is used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<String>,
    /// How a text holds the bytes of a `binary` column. Default: `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// What becomes of a record whose value the column does not accept. Default: `reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
}

/// The fields of a record that a column may take its value from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a JSON pointer, or a list of JSON pointers"
)]
pub enum Pointers {
    /// One JSON pointer. Empty if the column takes its value from elsewhere.
    One(String),
    /// Several JSON pointers: the first that leads to a value is taken.
    Several(Vec<String>),
}

impl Default for Pointers {
    fn default() -> Self {
        Self::One(String::new())
    }
}

const fn default_chars_max() -> u32 {
    255
}

const fn default_required() -> bool {
    true
}

/// The type of a column, and the JSON values that it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum ColumnType {
    /// Text of at most `max_chars` characters. Accepts numbers and booleans as written.
    Text,
    /// A 64-bit signed integer.
    Integer,
    /// A 64-bit unsigned integer.
    Unsigned,
    /// A 64-bit floating point number. Accepts integers.
    Float,
    /// An exact number of at most `precision` digits, `scale` of them after the point.
    Decimal {
        /// 1 to 38.
        precision: u8,
        /// 0 to 30, and at most `precision`.
        scale: u8,
    },
    /// `true` or `false`.
    Boolean,
    /// A time: RFC 3339 text, a text that fits a pattern of `formats`, or a number if the column
    /// has an `epoch`. Stored in UTC with microseconds.
    Timestamp,
    /// A calendar day: `YYYY-MM-DD`, or a text that fits a pattern.
    Date,
    /// A time of day with microseconds: `HH:MM`, `HH:MM:SS` with or without a fraction, or a text
    /// that fits a pattern.
    Time,
    /// Bytes, from a text in the column's `encoding`.
    Binary,
    /// Any JSON value, stored with the text that the file has.
    Json,
}

/// How a text holds bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Base64 of RFC 4648, in one of its two alphabets, padded or not.
    #[default]
    Base64,
    /// Two hexadecimal digits for each byte.
    Hex,
}

/// What the engine knows of a file, the same for all of its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFact {
    /// When the ledger got the file.
    LoadedAt,
}

/// What becomes of a record whose value a column does not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The record is a reject.
    #[default]
    Reject,
    /// The column is NULL, and `_rescued` has the value.
    Null,
}

impl Column {
    /// A required column that takes the field of its name.
    pub(crate) fn new(name: &str, kind: ColumnType) -> Self {
        Self {
            name: name.to_owned(),
            field: Pointers::default(),
            envelope: None,
            key: None,
            value: None,
            path: None,
            file: None,
            kind,
            max_chars: default_chars_max(),
            required: true,
            default: None,
            epoch: None,
            formats: Vec::new(),
            encoding: None,
            on_error: None,
        }
    }

    /// Whether a row may have NULL in the column.
    #[must_use]
    pub fn is_nullable(&self) -> bool {
        !self.required && self.default.is_none() && self.value.is_none()
    }

    /// Whether `strict` of the dataset changes which values the column accepts.
    pub(super) fn is_typed(&self) -> bool {
        match self.kind {
            ColumnType::Text | ColumnType::Json => false,
            ColumnType::Timestamp => self.epoch.is_some(),
            _ => true,
        }
    }

    /// The fields of a record that the column may take its value from, as JSON pointers. The first
    /// that leads to a value is taken. None if the value comes from elsewhere.
    #[must_use]
    pub fn fields(&self) -> &[String] {
        match &self.field {
            Pointers::One(pointer) if pointer.is_empty() => &[],
            Pointers::One(pointer) => std::slice::from_ref(pointer),
            Pointers::Several(pointers) => pointers,
        }
    }

    /// Where the value of the column is, for messages.
    #[must_use]
    pub fn source(&self) -> String {
        match self {
            Self {
                envelope: Some(pointer),
                ..
            } => format!("{pointer} of the envelope"),
            Self {
                key: Some(pointer), ..
            } => format!("the key of {pointer}"),
            Self { value: Some(_), .. } => "its definition".to_owned(),
            Self {
                path: Some(pattern),
                ..
            } => format!("{pattern} of the path"),
            Self {
                file: Some(FileFact::LoadedAt),
                ..
            } => "the time of loading".to_owned(),
            _ => self.fields().join(" or "),
        }
    }

    /// The settings that say where the value is, each with whether it is given.
    fn sources(&self) -> [(&'static str, bool); 6] {
        [
            ("field", self.field != Pointers::default()),
            ("envelope", self.envelope.is_some()),
            ("key", self.key.is_some()),
            ("value", self.value.is_some()),
            ("path", self.path.is_some()),
            ("file", self.file.is_some()),
        ]
    }

    /// Fills in the field of a column that names no source of its value.
    pub(super) fn fill_field(&mut self) {
        if self.sources().iter().all(|(_, is_given)| !is_given) {
            self.field = Pointers::One(format!("/{}", self.name));
        }
    }

    /// What is wrong with the source of the value. `None` if nothing is.
    fn source_problem(&self) -> Option<String> {
        let sources = self.sources();
        let mut given = sources.iter().filter(|(_, is_given)| *is_given);
        if let (Some((one, _)), Some((other, _))) = (given.next(), given.next()) {
            return Some(format!("`{one}` and `{other}` exclude each other"));
        }
        if self.field == Pointers::Several(Vec::new()) {
            return Some("`field = []` names no field".to_owned());
        }
        for (at, pointer) in self.fields().iter().enumerate() {
            if !pointer.starts_with('/') {
                return Some(format!("`field = \"{pointer}\"` must begin with `/`"));
            }
            if self.fields()[..at].contains(pointer) {
                return Some(format!("`field` has \"{pointer}\" twice"));
            }
        }
        if self.value.is_some() && (self.default.is_some() || self.on_error.is_some()) {
            return Some("`value` needs no `default` and no `on_error`".to_owned());
        }
        self.of_file_problem()
    }

    /// What is wrong with a value that is taken from the file. `None` if nothing is.
    fn of_file_problem(&self) -> Option<String> {
        if self.file.is_some() {
            let is_plain = self.required && self.default.is_none() && self.on_error.is_none();
            return (self.kind != ColumnType::Timestamp || !is_plain).then(|| {
                "`file = \"loaded_at\"` needs the type timestamp, and no `required`, `default` or \
                 `on_error`: each file has this time"
                    .to_owned()
            });
        }
        let pattern = self.path.as_ref()?;
        if self.kind == ColumnType::Json {
            return Some("a part of the path is no JSON: use the type text".to_owned());
        }
        of_path::problem(pattern)
    }

    /// What is wrong with the definition. `None` if nothing is.
    pub(super) fn problem(&self) -> Option<String> {
        let reserved = [ID_COLUMN, RESCUE_COLUMN];
        if reserved
            .iter()
            .any(|name| self.name.eq_ignore_ascii_case(name))
        {
            return Some("the name is reserved".to_owned());
        }
        if let Some(problem) = self.source_problem() {
            return Some(problem);
        }
        if !(1..=CHARS_MAX).contains(&self.max_chars) {
            return Some(format!("`max_chars` must be 1 to {CHARS_MAX}"));
        }
        if self.on_error == Some(OnError::Null) && (self.required || self.default.is_some()) {
            return Some(
                "`on_error = \"null\"` needs `required = false`, and no `default`".to_owned(),
            );
        }
        if self.encoding.is_some() && self.kind != ColumnType::Binary {
            return Some("only a binary column can have an `encoding`".to_owned());
        }
        match (self.kind, self.epoch) {
            (_, None) | (ColumnType::Timestamp, _) | (ColumnType::Date, Some(EpochUnit::Days)) => {}
            (ColumnType::Date, Some(_)) => {
                return Some("`epoch` of a date column must be \"days\"".to_owned());
            }
            _ => return Some("only a timestamp or date column can have an `epoch`".to_owned()),
        }
        self.formats_problem().or_else(|| self.default_problem())
    }

    fn formats_problem(&self) -> Option<String> {
        let part = match self.kind {
            ColumnType::Timestamp => Part::Timestamp,
            ColumnType::Date => Part::Date,
            ColumnType::Time => Part::Time,
            _ if self.formats.is_empty() => return None,
            _ => {
                return Some("only a timestamp, date or time column can have `formats`".to_owned());
            }
        };
        self.formats.iter().find_map(|pattern| {
            let error = dates::check(pattern, part).err()?;
            Some(format!("the format `{pattern}` cannot be used: {error}"))
        })
    }

    fn default_problem(&self) -> Option<String> {
        let (setting, text) = match (&self.value, &self.default) {
            (Some(value), _) => ("value", value.as_str()),
            (None, default) => ("default", default.as_deref()?),
        };
        if self.value.is_none() && self.required && self.kind != ColumnType::Json {
            return Some("a `default` needs `required = false`".to_owned());
        }
        let is_number = || convert::is_number(text);
        let fits = match self.kind {
            ColumnType::Text => text.chars().count() <= self.max_chars as usize,
            ColumnType::Json => serde_json::from_str::<serde_json::Value>(text).is_ok(),
            ColumnType::Integer => is_number() && convert::integer::<i64>(text).is_ok(),
            ColumnType::Unsigned => is_number() && convert::integer::<u64>(text).is_ok(),
            ColumnType::Float => is_number() && convert::float(text).is_ok(),
            ColumnType::Decimal { precision, scale } => {
                is_number() && convert::decimal(text, precision, scale).is_ok()
            }
            ColumnType::Boolean => convert::boolean(text).is_some(),
            ColumnType::Timestamp => self.timestamp(text).is_some(),
            ColumnType::Date => self.date(text).is_some(),
            ColumnType::Time => self.time(text).is_some(),
            ColumnType::Binary => self.bytes(text).is_some(),
        };
        let kind = self.kind;
        (!fits).then(|| match kind {
            ColumnType::Json => format!("`{setting} = '{text}'` is not JSON"),
            _ => format!("`{setting} = \"{text}\"` is no value of the type {kind}"),
        })
    }

    /// The timestamp of a text: RFC 3339, or the first pattern that fits.
    #[must_use]
    pub fn timestamp(&self, text: &str) -> Option<i64> {
        timestamp::parse(text).or_else(|| self.by_pattern(text, dates::timestamp_by))
    }

    /// The date of a text, in days since 1970-01-01.
    #[must_use]
    pub fn date(&self, text: &str) -> Option<i32> {
        dates::date(text).or_else(|| self.by_pattern(text, dates::date_by))
    }

    /// The time of day of a text, in microseconds since midnight.
    #[must_use]
    pub fn time(&self, text: &str) -> Option<i64> {
        dates::time(text).or_else(|| self.by_pattern(text, dates::time_by))
    }

    /// The bytes of a text.
    #[must_use]
    pub fn bytes(&self, text: &str) -> Option<Vec<u8>> {
        match self.encoding.unwrap_or_default() {
            Encoding::Base64 => convert::base64(text),
            Encoding::Hex => convert::hex(text),
        }
    }

    fn by_pattern<T>(&self, text: &str, read: impl Fn(&str, &str) -> Option<T>) -> Option<T> {
        self.formats.iter().find_map(|pattern| read(pattern, text))
    }
}

impl ColumnType {
    /// The types without parameters, by name.
    const PLAIN: [(&'static str, Self); 10] = [
        ("text", Self::Text),
        ("integer", Self::Integer),
        ("unsigned", Self::Unsigned),
        ("float", Self::Float),
        ("boolean", Self::Boolean),
        ("timestamp", Self::Timestamp),
        ("date", Self::Date),
        ("time", Self::Time),
        ("binary", Self::Binary),
        ("json", Self::Json),
    ];

    /// The Arrow type of the column.
    #[must_use]
    pub fn data_type(self) -> DataType {
        match self {
            Self::Text | Self::Json => DataType::Utf8,
            Self::Integer => DataType::Int64,
            Self::Unsigned => DataType::UInt64,
            Self::Float => DataType::Float64,
            Self::Decimal { precision, scale } => {
                DataType::Decimal128(precision, scale.try_into().expect("at most 30"))
            }
            Self::Boolean => DataType::Boolean,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Date => DataType::Date32,
            Self::Time => DataType::Time64(TimeUnit::Microsecond),
            Self::Binary => DataType::Binary,
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Decimal { precision, scale } = self {
            return write!(f, "decimal({precision},{scale})");
        }
        let plain = Self::PLAIN.iter().find(|(_, kind)| kind == self);
        f.write_str(plain.expect("each other type is in the list").0)
    }
}

impl From<ColumnType> for String {
    fn from(kind: ColumnType) -> Self {
        kind.to_string()
    }
}

impl TryFrom<String> for ColumnType {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some((_, kind)) = Self::PLAIN.iter().find(|(name, _)| *name == text) {
            return Ok(*kind);
        }
        let names: Vec<&str> = Self::PLAIN.iter().map(|(name, _)| *name).collect();
        let expected = || {
            format!(
                "`{text}` is not a type: expected one of {}, or decimal(P,S) with P of 1 to {} and \
                 S of 0 to {SCALE_MAX}, at most P",
                names.join(", "),
                convert::DIGITS_MAX,
            )
        };
        let parameters = text
            .strip_prefix("decimal(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|both| both.split_once(','));
        let number = |text: &str| text.trim().parse::<u8>().ok();
        let (precision, scale) = parameters
            .and_then(|(precision, scale)| Some((number(precision)?, number(scale)?)))
            .filter(|(precision, scale)| {
                (1..=convert::DIGITS_MAX).contains(precision) && *scale <= SCALE_MAX.min(*precision)
            })
            .ok_or_else(expected)?;
        Ok(Self::Decimal { precision, scale })
    }
}

impl JsonSchema for ColumnType {
    fn schema_name() -> Cow<'static, str> {
        "ColumnType".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<&str> = Self::PLAIN.iter().map(|(name, _)| *name).collect();
        let pattern = format!(r"^({}|decimal\( *\d+ *, *\d+ *\))$", names.join("|"));
        json_schema!({
            "type": "string",
            "description": "The type of a column.",
            "pattern": pattern,
        })
    }
}
