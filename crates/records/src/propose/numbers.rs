//! What the numbers of a field have in common: the types that keep each of their digits, and the
//! units of time that they could have.

use crate::timestamp::{self, EpochUnit};
use crate::{convert, syntax};

/// The earliest time that counts as evidence for an epoch: 2000-01-01. A number of an earlier one
/// is more likely a count.
const EPOCH_MIN: i64 = 946_684_800_000_000;

/// The time before which an epoch counts as evidence: 2070-01-01.
const EPOCH_END: i64 = 3_155_760_000_000_000;

/// The units by which numbers are tried as times. The ranges of any two of them are apart.
pub(super) const UNITS: [EpochUnit; 4] =
    [EpochUnit::S, EpochUnit::Ms, EpochUnit::Us, EpochUnit::Ns];

/// What is known of the numbers of a field.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub(super) struct Numbers {
    pub(super) count: u64,
    /// Whether all of them are written without fraction and exponent.
    pub(super) all_plain: bool,
    /// Whether one of them has an exponent.
    pub(super) any_exponent: bool,
    pub(super) all_signed: bool,
    pub(super) all_unsigned: bool,
    /// Whether the nearest float of each of them is the number itself.
    pub(super) all_floats: bool,
    pub(super) any_zero: bool,
    pub(super) any_one: bool,
    /// Whether all of them are 0 or 1.
    pub(super) all_bits: bool,
    /// Most digits before the point, and after it.
    pub(super) whole_max: u64,
    pub(super) fraction_max: u64,
    /// Fewest and most digits after the point, as they are written.
    pub(super) written_min: u64,
    pub(super) written_max: u64,
    /// For each of [`UNITS`], whether all of them are times of 2000 to 2069.
    pub(super) epochs: [bool; UNITS.len()],
    /// Whether all of them are days of 2000 to 2069 since 1970-01-01.
    pub(super) days: bool,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            count: 0,
            all_plain: true,
            any_exponent: false,
            all_signed: true,
            all_unsigned: true,
            all_floats: true,
            any_zero: false,
            any_one: false,
            all_bits: true,
            whole_max: 0,
            fraction_max: 0,
            written_min: u64::MAX,
            written_max: 0,
            epochs: [true; UNITS.len()],
            days: true,
        }
    }
}

impl Numbers {
    /// Adds the text of a number of JSON.
    pub(super) fn add(&mut self, number: &str) {
        let digits = Digits::of(number);
        let is_plain = syntax::is_integer(number);
        let written = number.find('.').map_or(0, |point| {
            let fraction = number[point + 1..].bytes();
            fraction.take_while(u8::is_ascii_digit).count() as u64
        });
        self.count += 1;
        self.all_plain &= is_plain;
        self.any_exponent |= number.contains(['e', 'E']);
        self.all_signed &= convert::integer::<i64>(number).is_ok();
        self.all_unsigned &= convert::integer::<u64>(number).is_ok();
        self.all_floats &=
            convert::float(number).is_ok_and(|float| Digits::of(&format!("{float:e}")) == digits);
        self.any_zero |= number == "0";
        self.any_one |= number == "1";
        self.all_bits &= matches!(number, "0" | "1");
        self.whole_max = self.whole_max.max(digits.whole());
        self.fraction_max = self.fraction_max.max(digits.fraction());
        self.written_min = self.written_min.min(written);
        self.written_max = self.written_max.max(written);
        for (fits, unit) in self.epochs.iter_mut().zip(UNITS) {
            *fits = *fits && is_epoch(number, unit);
        }
        self.days = self.days && is_plain && is_epoch(number, EpochUnit::Days);
    }

    /// The knowledge of two sets of numbers together.
    pub(super) fn with(&self, other: &Self) -> Self {
        let mut epochs = self.epochs;
        for (fits, other) in epochs.iter_mut().zip(other.epochs) {
            *fits &= other;
        }
        Self {
            count: self.count + other.count,
            all_plain: self.all_plain && other.all_plain,
            any_exponent: self.any_exponent || other.any_exponent,
            all_signed: self.all_signed && other.all_signed,
            all_unsigned: self.all_unsigned && other.all_unsigned,
            all_floats: self.all_floats && other.all_floats,
            any_zero: self.any_zero || other.any_zero,
            any_one: self.any_one || other.any_one,
            all_bits: self.all_bits && other.all_bits,
            whole_max: self.whole_max.max(other.whole_max),
            fraction_max: self.fraction_max.max(other.fraction_max),
            written_min: self.written_min.min(other.written_min),
            written_max: self.written_max.max(other.written_max),
            epochs,
            days: self.days && other.days,
        }
    }

    /// The unit by which all of the numbers are times of 2000 to 2069.
    pub(super) fn epoch(&self) -> Option<EpochUnit> {
        let mut units = UNITS.into_iter().zip(self.epochs);
        units
            .find(|(_, fits)| *fits && self.count > 0)
            .map(|(unit, _)| unit)
    }
}

fn is_epoch(number: &str, unit: EpochUnit) -> bool {
    timestamp::from_epoch(number, unit).is_some_and(|at| (EPOCH_MIN..EPOCH_END).contains(&at))
}

fn places(count: usize) -> i64 {
    i64::try_from(count).expect("a record has 16 MiB at most")
}

/// The digits of a number without zeros at the ends, and its power of ten: the value is
/// `0.significant × 10^point`.
#[derive(Debug, PartialEq, Eq)]
struct Digits {
    is_negative: bool,
    significant: Vec<u8>,
    point: i64,
}

impl Digits {
    fn of(number: &str) -> Self {
        let (mantissa, exponent) = number
            .find(['e', 'E'])
            .map_or((number, "0"), |at| (&number[..at], &number[at + 1..]));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let whole = whole.trim_start_matches('-');
        let mut digits = [whole, fraction].concat().into_bytes();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        // An exponent of more digits than an `i64` has is beyond every column.
        let exponent: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') {
            i64::MIN / 2
        } else {
            i64::MAX / 2
        });
        let point = exponent + places(whole.len()) - places(zeros);
        Self {
            is_negative: number.starts_with('-'),
            point: if digits.is_empty() { 0 } else { point },
            significant: digits,
        }
    }

    /// How many digits a decimal needs before the point.
    fn whole(&self) -> u64 {
        self.point.max(0).unsigned_abs()
    }

    /// How many digits a decimal needs after the point.
    fn fraction(&self) -> u64 {
        places(self.significant.len())
            .saturating_sub(self.point)
            .max(0)
            .unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(numbers: &[&str]) -> Numbers {
        let mut found = Numbers::default();
        for number in numbers {
            found.add(number);
        }
        found
    }

    #[test]
    fn digits_before_and_after_the_point() {
        for (number, whole, fraction) in [
            ("0", 0, 0),
            ("-12.50", 2, 1),
            ("0.001", 0, 3),
            ("1e3", 4, 0),
            ("1.5e-3", 0, 4),
            ("100", 3, 0),
        ] {
            let digits = Digits::of(number);
            assert_eq!(
                (digits.whole(), digits.fraction()),
                (whole, fraction),
                "{number}"
            );
        }
    }

    #[test]
    fn a_float_that_would_lose_a_digit_is_noticed() {
        assert!(of(&["0.1", "1e22", "-2.5", "0", "100", "9007199254740992"]).all_floats);
        for number in ["0.10000000000000000001", "9007199254740993", "1e400"] {
            assert!(!of(&[number]).all_floats, "{number}");
        }
    }

    #[test]
    fn numbers_that_could_be_times() {
        for (numbers, unit) in [
            (&["1545084650", "1545084650.987"][..], Some(EpochUnit::S)),
            (&["1545084650987"], Some(EpochUnit::Ms)),
            (&["1545084650987654"], Some(EpochUnit::Us)),
            (&["1545084650987654321"], Some(EpochUnit::Ns)),
            (&["1545084650", "0"], None),
            (&["12"], None),
        ] {
            assert_eq!(of(numbers).epoch(), unit, "{numbers:?}");
        }
        assert!(of(&["19782"]).days && !of(&["7"]).days);
    }
}
