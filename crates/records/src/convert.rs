//! Texts to typed values, exactly: a conversion that would lose a digit fails.
//!
//! Pure functions of a text. Which of them a column uses, and for which values of JSON, is decided
//! in [`parse`](crate::parse). Times are in [`timestamp`](crate::timestamp) and
//! [`dates`](crate::dates).

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::syntax;

/// Most digits that an `i128` holds, whatever the digits are.
pub const DIGITS_MAX: u8 = 38;

/// Why a number is not the value of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// It has digits that the column would lose.
    Inexact,
    /// It is too large or too small.
    Range,
}

/// Whether a text is a number as JSON writes it.
#[must_use]
pub fn is_number(text: &str) -> bool {
    syntax::number(text.as_bytes(), 0) == Some(text.len())
}

/// A number of JSON times ten to the power of `scale`. `12.5` with a scale of 2 is 1250.
///
/// # Errors
/// The product is not an integer, or has more than [`DIGITS_MAX`] digits.
pub fn scaled(number: &str, scale: u8) -> Result<i128, Misfit> {
    let (mantissa, exponent) = number
        .find(['e', 'E'])
        .map_or((number, "0"), |at| (&number[..at], &number[at + 1..]));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || {
        whole
            .bytes()
            .chain(fraction.bytes())
            .filter(u8::is_ascii_digit)
    };
    let Some(zeros) = digits().rev().position(|digit| digit != b'0') else {
        return Ok(0);
    };
    // An exponent of more digits than an `i64` has is beyond every column.
    let exponent: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') {
        i64::MIN / 2
    } else {
        i64::MAX / 2
    });
    let places = |count: usize| i64::try_from(count).expect("a record has 16 MiB at most");
    let power = exponent + i64::from(scale) - places(fraction.len()) + places(zeros);
    let significant = digits()
        .take(digits().count() - zeros)
        .skip_while(|digit| *digit == b'0');
    let count = places(significant.clone().count());
    if power < 0 {
        return Err(Misfit::Inexact);
    }
    if count + power > i64::from(DIGITS_MAX) {
        return Err(Misfit::Range);
    }
    let value = significant.fold(0_i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    let value = value * 10_i128.pow(u32::try_from(power).expect("at most 38"));
    Ok(if number.starts_with('-') {
        -value
    } else {
        value
    })
}

/// A number of JSON as a decimal of `precision` digits, `scale` of them after the point, without its
/// point.
///
/// # Errors
/// It has more digits on one of the sides.
pub fn decimal(number: &str, precision: u8, scale: u8) -> Result<i128, Misfit> {
    let value = scaled(number, scale)?;
    if value.unsigned_abs() >= 10_u128.pow(precision.into()) {
        return Err(Misfit::Range);
    }
    Ok(value)
}

/// The text of a decimal: [`decimal`] reversed.
#[must_use]
pub fn decimal_text(value: i128, scale: u8) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let scale = usize::from(scale);
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{whole}{point}{fraction}")
}

/// The integer that is the value of a number of JSON: `10`, `10.0` and `1e1` are the same.
///
/// # Errors
/// It has a fraction, or does not fit the type.
pub fn integer<T: TryFrom<i128>>(number: &str) -> Result<T, Misfit> {
    T::try_from(scaled(number, 0)?).map_err(|_| Misfit::Range)
}

/// The float that is nearest to a number of JSON.
///
/// # Errors
/// It is not finite.
pub fn float(number: &str) -> Result<f64, Misfit> {
    let nearest: Option<f64> = number.parse().ok();
    nearest
        .filter(|float| float.is_finite())
        .ok_or(Misfit::Range)
}

/// The boolean of a text: `true`, `false`, `1` or `0`, in letters of any case.
#[must_use]
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The bytes of a text in base64, with the characters of RFC 4648 section 4 or 5, padded or not.
#[must_use]
pub fn base64(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
    const FOR_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);
    let engine = if text.contains(['-', '_']) {
        FOR_URLS
    } else {
        PLAIN
    };
    engine.decode(text).ok()
}

/// The bytes of a text of pairs of hexadecimal digits, in letters of any case.
#[must_use]
pub fn hex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok()
}

/// The text of bytes: [`hex()`] reversed, in small letters.
#[must_use]
pub fn hex_text(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Misfit::{Inexact, Range};
    use super::*;

    #[test]
    fn numbers_keep_each_digit_or_fail() {
        let cases = [
            ("0", 2, Ok(0)),
            ("-0.000", 0, Ok(0)),
            ("0e99999999999999999999", 0, Ok(0)),
            ("12.5", 2, Ok(1250)),
            ("-12.50", 1, Ok(-125)),
            ("1e3", 0, Ok(1000)),
            ("1000e-3", 0, Ok(1)),
            ("0.001e3", 0, Ok(1)),
            ("12.5", 0, Err(Inexact)),
            ("1e-1", 0, Err(Inexact)),
            ("1e-99999999999999999999", 5, Err(Inexact)),
            ("1e99999999999999999999", 0, Err(Range)),
            ("1e38", 0, Err(Range)),
            ("1e37", 1, Err(Range)),
            (
                "99999999999999999999999999999999999999",
                0,
                Ok(10_i128.pow(38) - 1),
            ),
            ("100000000000000000000000000000000000000", 0, Err(Range)),
        ];
        for (number, scale, expected) in cases {
            assert_eq!(scaled(number, scale), expected, "{number} scale {scale}");
        }
        assert_eq!(decimal("99.99", 4, 2), Ok(9999));
        assert_eq!(decimal("100", 4, 2), Err(Range));
        assert_eq!(decimal("1.999", 4, 2), Err(Inexact));
        assert_eq!(integer::<i64>("-9223372036854775808.0"), Ok(i64::MIN));
        assert_eq!(integer::<i64>("9223372036854775808"), Err(Range));
        assert_eq!(integer::<u64>("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(integer::<u64>("-1"), Err(Range));
        assert_eq!(float("1e400"), Err(Range));
    }

    #[test]
    fn texts_of_bytes() {
        assert_eq!(base64("aGk=").as_deref(), Some(b"hi".as_slice()));
        assert_eq!(base64("aGk").as_deref(), Some(b"hi".as_slice()));
        assert_eq!(base64("_-8").as_deref(), Some([0xff, 0xef].as_slice()));
        assert_eq!(base64("/+8=").as_deref(), Some([0xff, 0xef].as_slice()));
        assert_eq!(
            (base64("a"), base64("a b="), base64("_/8=")),
            (None, None, None)
        );
        assert_eq!(hex("00fFa1").as_deref(), Some([0, 0xff, 0xa1].as_slice()));
        assert_eq!((hex("0"), hex("0g")), (None, None));
    }

    proptest! {
        #[test]
        fn a_decimal_comes_back_from_its_text(value in any::<i64>(), scale in 0_u8..20) {
            let value = i128::from(value) * 7;
            prop_assert_eq!(decimal(&decimal_text(value, scale), 38, scale), Ok(value));
        }
    }
}
