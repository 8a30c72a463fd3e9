//! Microseconds since the epoch as a date and a time of day, UTC, and back: the form in which both
//! databases keep timestamps.
//!
//! Pure. Proleptic Gregorian calendar, no leap seconds, no time zones. It is here, and not a call
//! of a date library, because it runs once for every timestamp of every row.

const US_PER_SECOND: i64 = 1_000_000;
const US_PER_DAY: i64 = 86_400 * US_PER_SECOND;

/// Days from 0000-03-01, where the reckoning below begins, to 1970-01-01.
const DAYS_TO_EPOCH: i64 = 719_468;

/// Days of a whole Gregorian cycle of 400 years.
const DAYS_PER_ERA: i64 = 146_097;

/// A moment as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Civil {
    pub(super) year: i64,
    pub(super) month: u8,
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
    pub(super) micros: u32,
}

/// The day of a moment: days since the epoch, rounded down also before it.
pub(super) const fn day(time_us: i64) -> i64 {
    time_us.div_euclid(US_PER_DAY)
}

/// The date and time of a moment.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // each part is in its range
pub(super) const fn from_micros(time_us: i64) -> Civil {
    // Years are counted from March, so that the leap day is the last of its year.
    let days = day(time_us) + DAYS_TO_EPOCH;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };

    let micros = time_us.rem_euclid(US_PER_DAY);
    let seconds = micros / US_PER_SECOND;
    Civil {
        year,
        month: month as u8,
        day: day_of_month as u8,
        hour: (seconds / 3_600) as u8,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
        micros: (micros % US_PER_SECOND) as u32,
    }
}

/// The moment of a date and a time of day.
pub(super) const fn to_micros(civil: Civil) -> i64 {
    let year = civil.year - if civil.month <= 2 { 1 } else { 0 };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (civil.month as i64 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + civil.day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * DAYS_PER_ERA + day_of_era - DAYS_TO_EPOCH;
    let seconds = civil.hour as i64 * 3_600 + civil.minute as i64 * 60 + civil.second as i64;
    days * US_PER_DAY + seconds * US_PER_SECOND + civil.micros as i64
}

/// Appends `YYYY-MM-DD HH:MM:SS.ffffff`: what both databases read as a timestamp. Its order as text
/// is its order in time, for the years 1000 to 9999.
pub(super) fn write(time_us: i64, out: &mut Vec<u8>) {
    let at = from_micros(time_us);
    digits(at.year.unsigned_abs(), 4, out);
    for (separator, part) in [
        (b'-', at.month),
        (b'-', at.day),
        (b' ', at.hour),
        (b':', at.minute),
        (b':', at.second),
    ] {
        out.push(separator);
        digits(u64::from(part), 2, out);
    }
    out.push(b'.');
    digits(u64::from(at.micros), 6, out);
}

/// The same as a text of its own.
pub(super) fn text(time_us: i64) -> String {
    let mut out = Vec::with_capacity(26);
    write(time_us, &mut out);
    String::from_utf8(out).expect("digits and separators are ASCII")
}

/// Reads what [`write`] wrote.
pub(super) fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 26 {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<u32> {
        bytes[from..to].iter().try_fold(0_u32, |sum, digit| {
            digit
                .is_ascii_digit()
                .then(|| sum * 10 + u32::from(digit - b'0'))
        })
    };
    let part = |from: usize| number(from, from + 2).and_then(|part| u8::try_from(part).ok());
    Some(to_micros(Civil {
        year: i64::from(number(0, 4)?),
        month: part(5)?,
        day: part(8)?,
        hour: part(11)?,
        minute: part(14)?,
        second: part(17)?,
        micros: number(20, 26)?,
    }))
}

fn digits(number: u64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + u8::try_from(number / 10_u64.pow(place) % 10).expect("a digit"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1000-01-01T00:00:00Z and the last microsecond of 9999.
    const RANGE: std::ops::RangeInclusive<i64> = -30_610_224_000_000_000..=253_402_300_799_999_999;

    proptest! {
        #[test]
        fn a_moment_is_written_as_a_date_library_writes_it(time_us in RANGE) {
            let written = text(time_us);
            let library = jiff::Timestamp::from_microsecond(time_us.clamp(
                jiff::Timestamp::MIN.as_microsecond(), jiff::Timestamp::MAX.as_microsecond(),
            )).unwrap();
            if library.as_microsecond() == time_us {
                prop_assert_eq!(&written, &library.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string());
            }
            prop_assert_eq!(parse(&written), Some(time_us));
            prop_assert_eq!(to_micros(from_micros(time_us)), time_us);
        }
    }

    #[test]
    fn the_ends_of_the_calendar() {
        assert_eq!(text(*RANGE.end()), "9999-12-31 23:59:59.999999");
        assert_eq!(text(*RANGE.start()), "1000-01-01 00:00:00.000000");
        assert_eq!(text(-1), "1969-12-31 23:59:59.999999");
        assert_eq!(day(-1), -1);
        assert_eq!(text(1_709_164_800_000_000), "2024-02-29 00:00:00.000000");
        assert_eq!(parse("2024-02-29T00:00:00"), None);
    }
}
