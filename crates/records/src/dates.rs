//! Dates, times of day, and the patterns by which a dataset reads texts that are not RFC 3339.
//!
//! Pure, without a clock. The unit of a date is a day since 1970-01-01; that of a time of day is a
//! microsecond since midnight. Patterns have the directives of `strftime`, as jiff reads them.

use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::Offset;

use crate::timestamp::{self, SECONDS_LEN};

/// A date with a time, and an offset of zero, as each pattern must be able to write it.
const SAMPLE: &str = "2024-02-29T13:14:15.123456Z";

/// The date of `YYYY-MM-DD`, in days since 1970-01-01. `None` if the text has another form, the
/// calendar lacks the date, or the year is not 1000 to 9999.
#[must_use]
pub fn date(text: &str) -> Option<i32> {
    let mut whole = *b"0000-00-00T00:00:00";
    let date: &[u8; 10] = text.as_bytes().try_into().ok()?;
    whole[..10].copy_from_slice(date);
    Some(timestamp::day(timestamp::parse(
        std::str::from_utf8(&whole).ok()?,
    )?))
}

/// The time of `HH:MM:SS`, with a fraction or without one, or of `HH:MM`, in microseconds since
/// midnight. Digits after the microsecond are cut. `None` if the text has another form.
#[must_use]
pub fn time(text: &str) -> Option<i64> {
    let mut whole = *b"1970-01-01T00:00:00";
    let text = text.as_bytes();
    let (clock, fraction) = match text.len() {
        5 => (text, &[][..]),
        _ => text.split_at_checked(8)?,
    };
    whole[11..11 + clock.len()].copy_from_slice(clock);
    timestamp::without_offset(&whole, fraction)
}

/// The text of a date, `YYYY-MM-DD`.
///
/// # Panics
/// If the year is not 1000 to 9999.
#[must_use]
pub fn date_text(days: i32) -> String {
    let mut text = timestamp::text(i64::from(days) * timestamp::MICROS_A_DAY);
    text.truncate(10);
    text
}

/// The text of a time of day, `HH:MM:SS.ffffff`.
///
/// # Panics
/// If the time is not less than a day.
#[must_use]
pub fn time_text(micros: i64) -> String {
    timestamp::text(micros)[11..].to_owned()
}

/// The timestamp that a text has by a pattern. Without an offset in the pattern, the time is UTC;
/// without a time, it is midnight. `None` if the text does not fit.
#[must_use]
pub fn timestamp_by(pattern: &str, text: &str) -> Option<i64> {
    let parsed = strtime::parse(pattern, text).ok()?;
    let timestamp = match parsed.offset() {
        Some(_) => parsed.to_timestamp().ok()?,
        None => Offset::UTC.to_timestamp(parsed.to_datetime().ok()?).ok()?,
    };
    timestamp::in_range(i64::try_from(timestamp.as_nanosecond().div_euclid(1_000)).ok()?)
}

/// The date that a text has by a pattern. `None` if the text does not fit.
#[must_use]
pub fn date_by(pattern: &str, text: &str) -> Option<i32> {
    let date = strtime::parse(pattern, text).ok()?.to_date().ok()?;
    self::date(&date.to_string())
}

/// The time of day that a text has by a pattern. `None` if the text does not fit.
#[must_use]
pub fn time_by(pattern: &str, text: &str) -> Option<i64> {
    let parsed = strtime::parse(pattern, text).ok()?;
    parsed.hour()?;
    self::time(&parsed.to_time().ok()?.to_string())
}

/// What a pattern gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A date with a time.
    Timestamp,
    /// A date.
    Date,
    /// A time of day.
    Time,
}

/// Checks that a pattern reads the part of a time that it writes.
///
/// # Errors
/// Why it does not, as text.
pub fn check(pattern: &str, part: Part) -> Result<(), String> {
    let sample: jiff::Timestamp = SAMPLE.parse().expect("it is a timestamp");
    let text = BrokenDownTime::from(sample)
        .to_string(pattern)
        .map_err(|error| error.to_string())?;
    strtime::parse(pattern, &text).map_err(|error| error.to_string())?;
    let (reads, what) = match part {
        Part::Timestamp => (timestamp_by(pattern, &text).is_some(), "a date"),
        Part::Date => (date_by(pattern, &text).is_some(), "a date"),
        Part::Time => (time_by(pattern, &text).is_some(), "a time of day"),
    };
    if reads {
        Ok(())
    } else {
        Err(format!("it does not give {what}"))
    }
}

const _: () = assert!(SECONDS_LEN == 19, "the texts above have this length");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_of_day() {
        let dates = [
            ("1970-01-01", Some(0)),
            ("2024-02-29", Some(19_782)),
            ("1969-12-31", Some(-1)),
            ("2023-02-29", None),
            ("2024-2-9", None),
            ("2024-02", None),
            ("0999-01-01", None),
            ("2024-02-29T00:00:00", None),
        ];
        for (text, expected) in dates {
            assert_eq!(date(text), expected, "{text}");
            assert!(expected.is_none_or(|days| date_text(days) == text));
        }
        let times = [
            ("00:00:00", Some(0)),
            ("23:59:59.9999999", Some(86_399_999_999)),
            ("13:14", Some(47_640_000_000)),
            ("13:14:15.5", Some(47_655_500_000)),
            ("24:00:00", None),
            ("12:00:60", None),
            ("1:00", None),
            ("12:00:00Z", None),
            ("12:00:00.", None),
            ("é2:00:00", None),
        ];
        for (text, expected) in times {
            assert_eq!(time(text), expected, "{text}");
        }
        assert_eq!(time_text(47_655_500_000), "13:14:15.500000");
    }

    #[test]
    fn patterns() {
        let cases = [
            (
                "%Y-%m-%d %H:%M:%S UTC",
                "1970-01-01 00:00:01 UTC",
                Some(1_000_000),
            ),
            (
                "%d/%b/%Y:%H:%M:%S %z",
                "01/Jan/1970:02:00:00 +0200",
                Some(0),
            ),
            (
                "%Y-%m-%dT%H:%M:%S,%f",
                "1970-01-01T00:00:00,123456789",
                Some(123_456),
            ),
            ("%Y-%m-%dT%H:%M", "1970-01-01T00:01", Some(60_000_000)),
            ("%Y-%m-%d", "1970-01-02", Some(86_400_000_000)),
            (
                "%a %b %d %H:%M:%S %z %Y",
                "Thu Jan 01 00:00:00 +0000 1970",
                Some(0),
            ),
            ("%Y-%m-%d", "1970-02-30", None),
            ("%Y-%m-%d", "1970-01-01 ", None),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(timestamp_by(pattern, text), expected, "{pattern} {text}");
            assert_eq!(check(pattern, Part::Timestamp), Ok(()), "{pattern}");
        }
        assert_eq!(date_by("%d.%m.%Y", "29.02.2024"), Some(19_782));
        assert_eq!(time_by("%I:%M %p", "01:14 PM"), Some(47_640_000_000));
        assert!(check("%H:%M", Part::Timestamp).is_err());
        assert!(check("%Y-%m-%d", Part::Time).is_err());
        assert!(check("%m", Part::Date).is_err());
        assert!(check("%Y-%é", Part::Date).is_err());
    }
}
