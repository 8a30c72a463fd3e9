//! The parts of a JSON value, each as the text that the file has.
//!
//! Reads one level at a time, so that numbers keep their digits and no tree is built.

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The kind of a JSON value, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Boolean,
    Number,
    Text,
    Array,
    Object,
}

impl Kind {
    /// The kind of the value that begins with this byte. The text is known to be JSON.
    pub(super) fn of(first: u8) -> Self {
        match first {
            b'n' => Self::Null,
            b't' | b'f' => Self::Boolean,
            b'"' => Self::Text,
            b'[' => Self::Array,
            b'{' => Self::Object,
            _ => Self::Number,
        }
    }

    pub(super) fn of_raw(raw: &RawValue) -> Self {
        Self::of(raw.get().as_bytes()[0])
    }
}

/// Calls `visit` with the key and the value of each member of an object.
///
/// # Errors
/// The text is not a JSON object.
pub(super) fn members(
    text: &str,
    visit: impl FnMut(String, &RawValue),
) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    serde::de::Deserializer::deserialize_map(&mut reader, Members(visit))?;
    reader.end()
}

/// Calls `visit` with each element of an array.
///
/// # Errors
/// The text is not a JSON array.
pub(super) fn elements(text: &str, visit: impl FnMut(&RawValue)) -> Result<(), serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    serde::de::Deserializer::deserialize_seq(&mut reader, Elements(visit))?;
    reader.end()
}

struct Members<F>(F);

impl<'de, F: FnMut(String, &RawValue)> Visitor<'de> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            (self.0)(key, value);
        }
        Ok(())
    }
}

struct Elements<F>(F);

impl<'de, F: FnMut(&RawValue)> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            (self.0)(element);
        }
        Ok(())
    }
}
