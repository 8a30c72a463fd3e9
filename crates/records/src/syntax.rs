//! The grammar of JSON (RFC 8259) over bytes: blanks, strings, numbers, whole values.
//!
//! Knows no records and no datasets. [`cut`](crate::cut) checks the text outside of records by it,
//! and [`parse`](crate::parse) reads plain records by it. Callers check UTF-8, since some of them
//! have checked their bytes before.

use std::ops::Range;

use wide::u8x16;

/// Most levels of nesting that [`value`] passes. Its stack takes one byte for each level, so a file
/// of opening brackets costs at most 1 MiB.
const LEVELS_MAX: usize = 1 << 20;

/// Why the text is not a JSON value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The text ends before the value ends. With more text it can become a value.
    End,
    /// The byte at this place cannot follow the bytes before it.
    At(usize),
}

impl Stop {
    /// The place at which the value stops; `bytes` is the text.
    pub(crate) fn place(self, bytes: &[u8]) -> usize {
        match self {
            Self::At(at) => at,
            Self::End => bytes.len(),
        }
    }
}

/// Whether a byte is whitespace in JSON.
pub(crate) const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The place of the first byte from `at` on that is not blank, or the end. Compares one byte at a
/// time, since most gaps have one blank or none.
#[inline]
pub(crate) fn skip_blank(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|byte| is_blank(*byte)) {
        at += 1;
    }
    at
}

/// A range without the whitespace at its ends.
#[inline]
pub(crate) fn trim(bytes: &[u8], mut range: Range<usize>) -> Range<usize> {
    while range.start < range.end && is_blank(bytes[range.start]) {
        range.start += 1;
    }
    while range.start < range.end && is_blank(bytes[range.end - 1]) {
        range.end -= 1;
    }
    range
}

/// The place after `byte`. `None` if another byte is at `at`.
#[inline]
pub(crate) fn after(bytes: &[u8], at: usize, byte: u8) -> Option<usize> {
    (bytes.get(at) == Some(&byte)).then_some(at + 1)
}

/// The place of the first byte from `at` on that is special in a string: a quote, a backslash, or a
/// control character, which a string cannot hold. `None` if no special byte follows.
#[inline]
pub(crate) fn special(bytes: &[u8], mut at: usize) -> Option<usize> {
    const WIDTH: usize = 16;
    let control = u8x16::splat(0x1f);
    while let Some(part) = bytes.get(at..)?.first_chunk::<WIDTH>() {
        let part = u8x16::new(*part);
        let hits = part.simd_eq(u8x16::splat(b'"'))
            | part.simd_eq(u8x16::splat(b'\\'))
            | part.min(control).simd_eq(part);
        let hits = hits.to_bitmask();
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize);
        }
        at += WIDTH;
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    Some(at + bytes[at..].iter().position(is_special)?)
}

/// The place after the number at `at`. `None` if no number of JSON begins there.
#[inline]
pub(crate) fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = |at: usize| {
        let rest = &bytes[at.min(bytes.len())..];
        rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let first = at + usize::from(bytes.get(at) == Some(&b'-'));
    let whole = digits(first);
    if whole == 0 || whole > 1 && bytes[first] == b'0' {
        return None;
    }
    let mut end = first + whole;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent == 0 {
            return None;
        }
        end += 1 + sign + exponent;
    }
    Some(end)
}

/// Whether the text of a number is an integer: without fraction and exponent.
pub(crate) fn is_integer(number: &str) -> bool {
    !number
        .bytes()
        .any(|byte| matches!(byte, b'.' | b'e' | b'E'))
}

/// The place after the string whose opening quote is at `at`.
///
/// # Errors
/// The place of a byte that is not an opening quote, of a control character, or of the backslash of
/// an invalid escape. Half of a surrogate pair is an invalid escape.
pub(crate) fn string(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    let mut at = match bytes.get(at) {
        Some(b'"') => at + 1,
        Some(_) => return Err(Stop::At(at)),
        None => return Err(Stop::End),
    };
    loop {
        at = special(bytes, at).ok_or(Stop::End)?;
        match (bytes[at], bytes.get(at + 1)) {
            (b'"', _) => return Ok(at + 1),
            (b'\\', None) => return Err(Stop::End),
            (b'\\', Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            (b'\\', Some(b'u')) => {
                at = match unit(bytes, at)? {
                    0xdc00..=0xdfff => return Err(Stop::At(at)),
                    0xd800..=0xdbff => match (bytes.get(at + 6), bytes.get(at + 7)) {
                        (None, _) | (Some(b'\\'), None) => return Err(Stop::End),
                        (Some(b'\\'), Some(b'u')) => match unit(bytes, at + 6)? {
                            0xdc00..=0xdfff => at + 12,
                            _ => return Err(Stop::At(at)),
                        },
                        _ => return Err(Stop::At(at)),
                    },
                    _ => at + 6,
                }
            }
            _ => return Err(Stop::At(at)),
        }
    }
}

/// The UTF-16 unit of the escape `\uXXXX` whose backslash is at `at`.
fn unit(bytes: &[u8], at: usize) -> Result<u32, Stop> {
    let mut unit = 0;
    for place in at + 2..at + 6 {
        let digit = bytes.get(place).ok_or(Stop::End)?;
        let digit = char::from(*digit).to_digit(16).ok_or(Stop::At(at))?;
        unit = unit << 4 | digit;
    }
    Ok(unit)
}

/// The place after the value that begins at `at`.
///
/// # Errors
/// The place where the text stops being JSON, or [`Stop::End`] if the text ends within the value. A
/// number at the end of the text counts as whole. More than [`LEVELS_MAX`] levels are refused.
pub(crate) fn value(bytes: &[u8], at: usize) -> Result<usize, Stop> {
    // The closing bracket of each open container.
    let mut open = Vec::new();
    let mut at = at;
    loop {
        // A value begins at `at`.
        let byte = *bytes.get(at).ok_or(Stop::End)?;
        let mut end = match byte {
            b'{' | b'[' => {
                if open.len() == LEVELS_MAX {
                    return Err(Stop::At(at));
                }
                open.push(byte + 2);
                at = skip_blank(bytes, at + 1);
                let closes = bytes.get(at) == open.last();
                if !closes {
                    at = begin_element(bytes, at, byte + 2)?;
                    continue;
                }
                open.pop();
                at + 1
            }
            b'"' => string(bytes, at)?,
            b't' => word(bytes, at, b"true")?,
            b'f' => word(bytes, at, b"false")?,
            b'n' => word(bytes, at, b"null")?,
            _ => number(bytes, at).ok_or_else(|| number_stop(bytes, at))?,
        };
        // The value has ended at `end`. Close each container that ends with it.
        loop {
            let Some(close) = open.last() else {
                return Ok(end);
            };
            end = skip_blank(bytes, end);
            match bytes.get(end) {
                None => return Err(Stop::End),
                Some(b',') => {
                    at = begin_element(bytes, skip_blank(bytes, end + 1), *close)?;
                    break;
                }
                Some(byte) if byte == close => {
                    open.pop();
                    end += 1;
                }
                Some(_) => return Err(Stop::At(end)),
            }
        }
    }
}

/// The place of the value of the element that begins at `at`. In an object, its key comes first.
fn begin_element(bytes: &[u8], at: usize, close: u8) -> Result<usize, Stop> {
    if close == b']' {
        return Ok(at);
    }
    let colon = skip_blank(bytes, string(bytes, at)?);
    match bytes.get(colon) {
        Some(b':') => Ok(skip_blank(bytes, colon + 1)),
        Some(_) => Err(Stop::At(colon)),
        None => Err(Stop::End),
    }
}

fn word(bytes: &[u8], at: usize, word: &[u8]) -> Result<usize, Stop> {
    let rest = &bytes[at..];
    if rest.starts_with(word) {
        Ok(at + word.len())
    } else if word.starts_with(rest) {
        Err(Stop::End)
    } else {
        Err(Stop::At(at))
    }
}

/// Why no number begins at `at`: the text ends within a number, or it is not a number.
fn number_stop(bytes: &[u8], at: usize) -> Stop {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let ends = bytes[at..].iter().all(is_part);
    // With one more digit, `-`, `1.` and `1e+` are numbers.
    let with_digit = [&bytes[at..bytes.len().min(at + 32)], b"0"].concat();
    if ends && bytes.len() - at <= 32 && number(&with_digit, 0) == Some(with_digit.len()) {
        Stop::End
    } else {
        Stop::At(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_at_its_last_byte() {
        for text in [
            "1",
            "-0.5e+3",
            "1E5",
            "true",
            "null",
            "\"a\\\"b\\u00e9\\ud83d\\ude00\"",
            "[]",
            "{}",
            "[ 1 , [ ] ]",
            "{ \"a\" : { \"b\" : [ \"]\" , 2 ] } }",
            "123456789012345678901234567890",
            "1e400",
        ] {
            assert!(serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok());
            for rest in ["", " ", ",", "]"] {
                let document = format!(" {text}{rest}");
                assert_eq!(
                    value(document.as_bytes(), 1),
                    Ok(1 + text.len()),
                    "{document}"
                );
            }
        }
    }

    #[test]
    fn a_truncated_value_needs_more_text() {
        let whole = r#"{"a": [tru, "x\u00e9\ud83d\ude00\\", -1.5e-3, {"b": null}]}"#;
        let whole = whole.replace("tru,", "true,");
        // All values are within brackets, so that a number at the end of the text is not whole.
        for end in 0..whole.len() {
            assert_eq!(
                value(&whole.as_bytes()[..end], 0),
                Err(Stop::End),
                "{}",
                &whole[..end]
            );
        }
        assert_eq!(value(whole.as_bytes(), 0), Ok(whole.len()));
    }

    #[test]
    fn the_place_where_text_stops_being_json_is_returned() {
        for (text, at) in [
            ("[1,]", 3),
            ("[,1]", 1),
            ("[1 2]", 3),
            ("{\"a\":1,}", 7),
            ("{\"a\" 1}", 5),
            ("{a:1}", 1),
            ("{1:1}", 1),
            ("[01]", 1),
            ("[1.]", 1),
            ("[-]", 1),
            ("[1e]", 1),
            ("[tru]", 1),
            ("[NaN]", 1),
            ("[+1]", 1),
            ("[\"\\x\"]", 2),
            ("[\"\\ud800\"]", 2),
            ("[\"\\udc00\"]", 2),
            ("[\"\\ud800\\u0041\"]", 2),
            ("[\"\\u12g4\"]", 2),
            ("[\"a\nb\"]", 3),
            ("[1}", 2),
            ("{\"a\":1]", 6),
            ("}", 0),
        ] {
            assert_eq!(value(text.as_bytes(), 0), Err(Stop::At(at)), "{text}");
        }
    }
}
