//! What is expected of the files of a dataset, apart from their records: limits beyond which a file
//! is held, and how often a file comes. No part of what a record means, so the ledger keeps none of
//! it.

use std::fmt;
use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

/// Parts of a whole.
const WHOLE: u64 = 1_000_000;

/// A part of a whole from 0 to 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Ratio(u32);

impl Ratio {
    /// The largest number that is at most this part of `all`.
    #[must_use]
    pub fn of(self, all: u32) -> u64 {
        u64::from(all) * u64::from(self.0) / WHOLE
    }
}

impl TryFrom<f64> for Ratio {
    type Error = String;

    fn try_from(ratio: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&ratio) {
            Ok(Self((ratio * WHOLE as f64).round() as u32))
        } else {
            Err(format!(
                "{ratio} is not a ratio: write a number from 0 to 1, such as 0.05"
            ))
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (f64::from(self.0) / WHOLE as f64).fmt(f)
    }
}

/// A length of time, written like `30m` or `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Every(Duration);

impl Every {
    /// The length.
    #[must_use]
    pub fn length(self) -> Duration {
        self.0
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let length: Option<SignedDuration> = text.parse().ok();
        length
            .and_then(|length| Duration::try_from(length).ok())
            .filter(|length| !length.is_zero())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is not a time: write one such as \"30m\" or \"24h\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_from_0_to_1_and_its_part_is_rounded_down() {
        for (ratio, all, part) in [
            (0.0, u32::MAX, 0),
            (1.0, u32::MAX, u64::from(u32::MAX)),
            (0.05, 19, 0),
            (0.05, 20, 1),
            (0.05, 39, 1),
            (0.29, 100, 29),
            (0.000_001, 1_000_000, 1),
        ] {
            let it = Ratio::try_from(ratio).unwrap();
            assert_eq!(it.of(all), part, "{ratio} of {all}");
            assert_eq!(it.to_string(), ratio.to_string());
        }
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let message = Ratio::try_from(wrong).unwrap_err();
            assert!(message.contains("from 0 to 1"), "{message}");
        }
    }

    #[test]
    fn a_length_is_written_with_its_unit() {
        for (text, seconds) in [("30m", 1_800), ("24h", 86_400), ("1h 30m", 5_400)] {
            let every = Every::try_from(text.to_owned()).unwrap();
            assert_eq!(every.length().as_secs(), seconds, "{text}");
        }
        for wrong in ["", "0s", "-1h", "24", "often"] {
            let message = Every::try_from(wrong.to_owned()).unwrap_err();
            assert!(message.contains(&format!("`{wrong}`")), "{message}");
        }
    }
}
