//! Finds rounded numbers: most programs keep a number as a 64-bit float.

use std::collections::HashMap;
use std::ops::Range;

use crate::syntax;

/// A 64-bit float keeps at least this many decimal digits of any number.
const DIGITS_SAFE: usize = 15;

/// The first integer above which not every integer is a 64-bit float: 2^53.
const INTEGER_SAFE: f64 = 9_007_199_254_740_992.0;

/// A number of an edited record that equals a number of the original record after rounding to a
/// float.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rounded<'a> {
    /// The place of the number in the edited text.
    pub place: Range<usize>,
    /// The number in the edited text.
    pub found: &'a str,
    /// The number in the original record.
    pub expected: &'a str,
}

/// The numbers of `edited` that a program has rounded: each equals a number of the record `own`
/// after rounding to a 64-bit float, and `own` does not have the rounded number. If `own` has both,
/// the rounded number counts as often as it has replaced the other one. Numbers within strings
/// count as well.
///
/// `own` may be any text: in a broken record, the numbers that can be recognised are compared.
#[must_use]
pub fn rounded<'a>(own: &'a str, edited: &'a str) -> Vec<Rounded<'a>> {
    let mut bent = HashMap::new();
    for place in numbers(own) {
        let number = &own[place];
        if let Some(decimal) = Decimal::of(number) {
            let kept = kept_by_floats(number, &decimal).into_iter();
            let others = kept.filter(|kept| *kept != decimal);
            bent.extend(others.map(|kept| (kept, number)));
        }
    }
    if bent.is_empty() {
        return Vec::new();
    }
    let (before, after) = (counts(own), counts(edited));
    let count = |counts: &HashMap<Decimal, usize>, decimal: &Decimal| {
        counts.get(decimal).copied().unwrap_or_default()
    };
    // How many times each rounded number has replaced an original one.
    let mut replaced: HashMap<&Decimal, usize> = HashMap::new();
    for (kept, original) in &bent {
        let more = count(&after, kept).saturating_sub(count(&before, kept));
        let fewer = Decimal::of(original)
            .map(|original| count(&before, &original).saturating_sub(count(&after, &original)));
        let is_new = !before.contains_key(kept);
        let times = if is_new {
            more
        } else {
            more.min(fewer.unwrap_or_default())
        };
        replaced.insert(kept, times);
    }
    // The numbers at the end of the text count as the new ones.
    let mut rounded = Vec::new();
    for place in numbers(edited).collect::<Vec<_>>().into_iter().rev() {
        let found = &edited[place.clone()];
        let Some(decimal) = Decimal::of(found) else {
            continue;
        };
        let Some(left) = replaced.get_mut(&decimal).filter(|left| **left > 0) else {
            continue;
        };
        *left -= 1;
        let expected = bent[&decimal];
        rounded.push(Rounded {
            place,
            found,
            expected,
        });
    }
    rounded.reverse();
    rounded
}

/// How often each number is in a text.
fn counts(text: &str) -> HashMap<Decimal, usize> {
    let mut counts = HashMap::new();
    for decimal in numbers(text).filter_map(|place| Decimal::of(&text[place])) {
        *counts.entry(decimal).or_default() += 1;
    }
    counts
}

/// The numbers in a text, including numbers within strings, and except parts of longer words.
fn numbers(text: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let is_word =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-');
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            at += bytes[at..].iter().position(is_word)?;
            let word = bytes[at..].iter().position(|byte| !is_word(byte));
            let word = at..word.map_or(bytes.len(), |length| at + length);
            at = word.end;
            if syntax::number(bytes, word.start) == Some(word.end) {
                return Some(word);
            }
        }
    })
}

/// A number as its digits without zeros at either end, and a power of ten. Numbers with the same
/// value are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Decimal {
    is_negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// `None` if its exponent has more digits than 64 bits hold.
    fn of(number: &str) -> Option<Self> {
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let mut exponent: i64 = exponent.parse().ok()?;
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = whole.trim_start_matches('-');
        exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?;
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        exponent = exponent.checked_add(i64::try_from(all.len() - digits.len()).ok()?)?;
        let digits = digits.trim_start_matches('0');
        let is_zero = digits.is_empty();
        Some(Self {
            is_negative: number.starts_with('-') && !is_zero,
            digits: digits.to_owned(),
            exponent: if is_zero { 0 } else { exponent },
        })
    }
}

/// The numbers that programs write if they keep `number` as a 64-bit float. Programs write the
/// shortest text that parses as the same float, or 15 to 17 digits, or all digits of an integer.
/// For a number beyond the largest float, they write the largest float. Empty if a float keeps the
/// number exactly.
fn kept_by_floats(number: &str, decimal: &Decimal) -> Vec<Decimal> {
    let Ok(float) = number.parse::<f64>() else {
        return Vec::new();
    };
    let is_safe = decimal.digits.len() <= DIGITS_SAFE && float.is_finite();
    if is_safe && (float != 0.0 || decimal.digits.is_empty()) {
        return Vec::new();
    }
    let float = float.clamp(f64::MIN, f64::MAX);
    let mut texts = vec![
        format!("{float:e}"),
        format!("{float:.16e}"),
        format!("{float:.15e}"),
        format!("{float:.14e}"),
    ];
    if float.abs() >= INTEGER_SAFE {
        texts.push(format!("{float:.0}"));
    }
    texts.iter().filter_map(|text| Decimal::of(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number as several programs write it, and the original number.
    const BENT: [(&str, &str); 11] = [
        // jq 1.6, Python's float, all digits, and 15 of them.
        ("12345678901234567890", "12345678901234567000"),
        ("12345678901234567890", "1.2345678901234567e+19"),
        ("12345678901234567890", "12345678901234567168"),
        ("12345678901234567890", "1.23456789012346e+19"),
        ("-9007199254740993", "-9007199254740992"),
        ("12345678901234567.25", "12345678901234568"),
        ("0.12345678901234567890", "0.12345678901234568"),
        ("1e1000", "1.7976931348623157e+308"),
        ("-1e1000", "-1.7976931348623157e308"),
        ("1e-400", "0"),
        ("18446744073709551615", "18446744073709552000"),
    ];

    #[test]
    fn a_number_that_was_kept_as_a_float_is_found_with_what_it_was() {
        for (own, kept) in BENT {
            for (before, after) in [("{\"n\":", "}"), ("{\"n\": [\"", "\"]}")] {
                let own_text = format!("{before}{own}{after}");
                let edited = format!("{{\"m\":1,\"n\":{kept}}}");
                let found = rounded(&own_text, &edited);
                assert_eq!(found.len(), 1, "{own} {kept}");
                assert_eq!((found[0].found, found[0].expected), (kept, own));
                assert_eq!(&edited[found[0].place.clone()], kept);
                assert_eq!(rounded(&own_text, &own_text), [], "{own}");
            }
        }
        // A broken record, and one that is cut.
        let edited = "{\"n\":12345678901234567000}";
        for own in [
            "{\"n\":12345678901234567890,,}",
            "{\"n\":12345678901234567890,\"te",
        ] {
            assert_eq!(rounded(own, edited).len(), 1, "{own}");
        }
    }

    #[test]
    fn a_rounded_number_beside_its_rounded_value_is_found() {
        let (odd, even) = ("9007199254740993", "9007199254740992");
        for (own, edited, found) in [
            (format!("[{odd},{even}]"), format!("[{even},{even}]"), 1),
            (
                format!("[{odd},{odd},{even}]"),
                format!("[{even},{even},{even}]"),
                2,
            ),
            (format!("[{odd},{even}]"), format!("[{odd},{even}]"), 0),
            // The original number is still there, so the other one was added on purpose.
            (
                format!("[{odd},{even}]"),
                format!("[{odd},{even},{even}]"),
                0,
            ),
            // The original number was removed or replaced, and nothing was rounded.
            (format!("[{odd},{even}]"), format!("[{even}]"), 0),
            (format!("[{odd},{even}]"), format!("[7,{even}]"), 0),
        ] {
            assert_eq!(rounded(&own, &edited).len(), found, "{own} {edited}");
        }
    }

    #[test]
    fn a_number_of_the_same_value_and_one_that_was_changed_are_not_rounded() {
        for (own, edited) in [
            ("1.10", "1.1"),
            ("1e2", "100"),
            ("9007199254740992", "9.007199254740992e15"),
            ("12345678901234567890", "12345678901234567891"),
            ("12345678901234567890", "7"),
            ("12345678901234567890", "\"x12345678901234567000\""),
            ("12345678901234567890", "\"2026-12345678901234567000\""),
            ("0.1", "0.10000000000000001"),
            ("123456789012345", "123456789012346"),
            ("-0", "0"),
            ("0", "0.0"),
            ("1e99999999999999999999", "1"),
            ("007123456789012345678", "7123456789012346000"),
            // The record has both numbers.
            (
                "12345678901234567890,12345678901234567000",
                "12345678901234567000",
            ),
        ] {
            assert_eq!(rounded(own, edited), [], "{own} {edited}");
        }
    }
}
