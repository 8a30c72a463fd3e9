//! What the texts of a field have in common: numbers, booleans, bytes, and the forms of time.

use super::numbers::Numbers;
use crate::{convert, dates, timestamp};

/// Most different sets of forms that are kept for a field. More of them mean that the texts have no
/// form in common.
const SETS_MAX: usize = 32;

/// Longest text, in bytes, that is tried as a time.
const TIME_BYTES_MAX: usize = 48;

/// Fewest characters of a text that counts as evidence for base64: shorter ones are often words.
const BASE64_CHARS_MIN: usize = 12;

/// Texts without a form are looked at as long as they are fewer than this, or than one in
/// [`FEW`]: the texts of most fields have none, and each of them would be tried by each form.
const FORMLESS_MIN: u64 = 16;

/// One value in so many is few.
pub(super) const FEW: u64 = 4;

/// Most characters that are kept of an example.
const EXAMPLE_CHARS: usize = 40;

/// Where a record is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The index of the sample.
    pub(super) file: usize,
    pub(super) ordinal: u64,
}

/// Texts that are not what the others are: how many, and the first of them with its place.
#[derive(Debug, Clone, Default)]
pub(super) struct Odd {
    pub(super) count: u64,
    pub(super) first: Option<(String, Place)>,
}

impl Odd {
    fn add(&mut self, text: &str, at: Place) {
        self.count += 1;
        let example = || (text.chars().take(EXAMPLE_CHARS).collect(), at);
        self.first.get_or_insert_with(example);
    }
}

/// What a text can be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A timestamp without a pattern.
    Timestamp,
    /// A date without a pattern.
    Date,
    /// A time of day without a pattern.
    Time,
    /// A timestamp by a pattern.
    TimestampBy(&'static str),
    /// A date by a pattern.
    DateBy(&'static str),
    /// A time of day by a pattern.
    TimeBy(&'static str),
}

/// The forms that are tried, those that are most likely first. Of two patterns that read the same
/// texts, the first one is proposed.
pub(super) const FORMS: [Form; 34] = [
    Form::Timestamp,
    Form::Date,
    Form::Time,
    Form::TimestampBy("%Y-%m-%d %H:%M:%S UTC"),
    Form::TimestampBy("%Y-%m-%d %H:%M:%S%.f UTC"),
    Form::TimestampBy("%Y-%m-%d %H:%M:%S %z"),
    Form::TimestampBy("%Y-%m-%d %H:%M:%S%.f %z"),
    Form::TimestampBy("%Y-%m-%dT%H:%M:%S,%f"),
    Form::TimestampBy("%Y-%m-%d %H:%M:%S,%f"),
    Form::TimestampBy("%Y-%m-%dT%H:%M"),
    Form::TimestampBy("%Y-%m-%dT%H:%MZ"),
    Form::TimestampBy("%Y-%m-%dT%H:%M%z"),
    Form::TimestampBy("%Y-%m-%d %H:%M"),
    Form::TimestampBy("%Y/%m/%d %H:%M:%S"),
    Form::TimestampBy("%d.%m.%Y %H:%M:%S"),
    Form::TimestampBy("%d.%m.%Y %H:%M"),
    Form::TimestampBy("%d/%m/%Y %H:%M:%S"),
    Form::TimestampBy("%d/%m/%Y %H:%M"),
    Form::TimestampBy("%m/%d/%Y %H:%M:%S"),
    Form::TimestampBy("%m/%d/%Y %H:%M"),
    Form::TimestampBy("%m/%d/%Y %I:%M:%S %p"),
    Form::TimestampBy("%d/%b/%Y:%H:%M:%S %z"),
    Form::TimestampBy("%a %b %d %H:%M:%S %z %Y"),
    Form::TimestampBy("%a, %d %b %Y %H:%M:%S %z"),
    Form::TimestampBy("%a, %d %b %Y %H:%M:%S GMT"),
    Form::TimestampBy("%Y%m%dT%H%M%SZ"),
    Form::TimestampBy("%Y%m%dT%H%M%S"),
    Form::TimestampBy("%Y-%m-%d"),
    Form::DateBy("%d.%m.%Y"),
    Form::DateBy("%d/%m/%Y"),
    Form::DateBy("%m/%d/%Y"),
    Form::DateBy("%Y/%m/%d"),
    Form::DateBy("%Y%m%d"),
    Form::TimeBy("%I:%M %p"),
];

/// What is known of the texts of a field.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub(super) struct Texts {
    pub(super) count: u64,
    pub(super) chars_min: u64,
    pub(super) chars_max: u64,
    /// How many of them are numbers of JSON, and what is known of these.
    pub(super) numbers: Numbers,
    pub(super) all_booleans: bool,
    pub(super) all_base64: bool,
    pub(super) all_hex: bool,
    /// Whether one of them has a letter or a sign that only base64 has, and not a plain word.
    any_base64_sign: bool,
    /// Each set of [`FORMS`] that some of the texts fit, as bits. Incomplete once `is_formless`.
    sets: Vec<u64>,
    /// Whether the texts have no form in common, so that they are not looked at any more.
    is_formless: bool,
    /// The texts that fit no form.
    pub(super) no_forms: Odd,
    /// The texts that are no numbers.
    pub(super) no_numbers: Odd,
    /// Whether a text is cut after the microsecond.
    pub(super) any_cut: bool,
}

impl Default for Texts {
    fn default() -> Self {
        Self {
            count: 0,
            chars_min: u64::MAX,
            chars_max: 0,
            numbers: Numbers::default(),
            all_booleans: true,
            all_base64: true,
            all_hex: true,
            any_base64_sign: false,
            sets: Vec::new(),
            is_formless: false,
            no_forms: Odd::default(),
            no_numbers: Odd::default(),
            any_cut: false,
        }
    }
}

impl Texts {
    /// Adds an unescaped text of the record at a place.
    pub(super) fn add(&mut self, text: &str, at: Place) {
        let chars = text.chars().count() as u64;
        self.chars_min = self.chars_min.min(chars);
        self.chars_max = self.chars_max.max(chars);
        if convert::is_number(text) {
            self.numbers.add(text);
        } else {
            self.no_numbers.add(text, at);
        }
        self.all_booleans =
            self.all_booleans && convert::boolean(text).is_some() && !convert::is_number(text);
        self.all_base64 = self.all_base64 && is_base64(text);
        self.all_hex = self.all_hex && !text.is_empty() && convert::hex(text).is_some();
        self.any_base64_sign |= text.ends_with('=') || text.contains(['+', '/']);
        self.count += 1;
        if !self.is_formless {
            self.add_forms(text, at);
        }
    }

    fn add_forms(&mut self, text: &str, at: Place) {
        let set = forms_of(text);
        if set == 0 {
            self.no_forms.add(text, at);
            let odd = self.no_forms.count;
            self.is_formless = odd >= FORMLESS_MIN && odd > self.count / FEW;
            return;
        }
        if self.sets.len() == SETS_MAX && !self.sets.contains(&set) {
            self.is_formless = true;
            return;
        }
        let digits = text.split(['.', ',']).nth(1).map_or(0, |fraction| {
            fraction.bytes().take_while(u8::is_ascii_digit).count()
        });
        self.any_cut |= digits > 6 && !fraction_is_zero_after_micros(text);
        if !self.sets.contains(&set) {
            self.sets.push(set);
        }
    }

    /// Whether the texts are bytes in base64 with good reason: a sign or a padding that no plain
    /// word has.
    pub(super) fn are_base64(&self) -> bool {
        self.count > 0 && self.all_base64 && self.any_base64_sign && !self.all_hex
    }

    /// The fewest of the given forms by which each text can be read, the likeliest first. `None` if
    /// a text has none of these forms.
    pub(super) fn forms(&self, is_given: impl Fn(Form) -> bool) -> Option<Vec<Form>> {
        let mut open = self.sets.clone();
        if open.is_empty() || !self.have_forms() {
            return None;
        }
        let mut chosen = Vec::new();
        while !open.is_empty() {
            let fits = |at: usize| open.iter().filter(|set| **set & (1 << at) != 0).count();
            let given = (0..FORMS.len()).filter(|at| is_given(FORMS[*at]));
            // Of equally good forms, `max_by_key` would return the last one.
            let best = given
                .rev()
                .max_by_key(|at| fits(*at))
                .filter(|at| fits(*at) > 0)?;
            open.retain(|set| set & (1 << best) == 0);
            chosen.push(best);
        }
        chosen.sort_unstable();
        Some(chosen.into_iter().map(|at| FORMS[at]).collect())
    }

    /// Whether each text also has this form.
    pub(super) fn all_have(&self, form: Form) -> bool {
        let at = FORMS.iter().position(|known| *known == form);
        let has = |set: &u64| at.is_some_and(|at| set & (1 << at) != 0);
        !self.sets.is_empty() && self.have_forms() && self.sets.iter().all(has)
    }

    /// Whether each text has a form.
    fn have_forms(&self) -> bool {
        !self.is_formless && self.no_forms.count == 0
    }

    /// These texts without those that are no numbers.
    pub(super) fn only_numbers(&self) -> Self {
        Self {
            sets: Vec::new(),
            ..self.only(self.numbers.count)
        }
    }

    /// These texts without those that fit no form.
    pub(super) fn only_forms(&self) -> Self {
        Self {
            no_forms: Odd::default(),
            ..self.only(self.count - self.no_forms.count)
        }
    }

    fn only(&self, count: u64) -> Self {
        Self {
            count,
            all_booleans: false,
            all_base64: false,
            all_hex: false,
            ..self.clone()
        }
    }
}

fn fraction_is_zero_after_micros(text: &str) -> bool {
    let fraction = text.split(['.', ',']).nth(1).unwrap_or_default();
    let digits = fraction.bytes().take_while(u8::is_ascii_digit);
    digits.skip(6).all(|digit| digit == b'0')
}

/// The forms that a text fits, as bits.
fn forms_of(text: &str) -> u64 {
    let could_be = text.len() <= TIME_BYTES_MAX && text.bytes().any(|byte| byte.is_ascii_digit());
    if !could_be {
        return 0;
    }
    let fits = |form: Form| match form {
        Form::Timestamp => timestamp::parse(text).is_some(),
        Form::Date => dates::date(text).is_some(),
        Form::Time => dates::time(text).is_some(),
        Form::TimestampBy(pattern) => dates::timestamp_by(pattern, text).is_some(),
        Form::DateBy(pattern) => dates::date_by(pattern, text).is_some(),
        Form::TimeBy(pattern) => dates::time_by(pattern, text).is_some(),
    };
    let fitting = FORMS.iter().enumerate().filter(|(_, form)| fits(**form));
    fitting.fold(0, |set, (at, _)| set | 1 << at)
}

/// Whether a text is bytes in padded base64, and the same text comes back from these bytes.
fn is_base64(text: &str) -> bool {
    let is_long = text.len() >= BASE64_CHARS_MIN;
    is_long && text.len().is_multiple_of(4) && convert::base64(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Texts {
        let mut found = Texts::default();
        for text in texts {
            found.add(text, Place::default());
        }
        found
    }

    fn is_timestamp(form: Form) -> bool {
        matches!(form, Form::Timestamp | Form::TimestampBy(_))
    }

    #[test]
    fn each_pattern_reads_what_it_writes() {
        for form in FORMS {
            let (pattern, part) = match form {
                Form::TimestampBy(pattern) => (pattern, dates::Part::Timestamp),
                Form::DateBy(pattern) => (pattern, dates::Part::Date),
                Form::TimeBy(pattern) => (pattern, dates::Part::Time),
                Form::Timestamp | Form::Date | Form::Time => continue,
            };
            assert_eq!(dates::check(pattern, part), Ok(()), "{pattern}");
        }
    }

    #[test]
    fn the_fewest_forms_that_read_each_text() {
        let by = Form::TimestampBy;
        for (texts, expected) in [
            (&["2026-03-01T13:14:15Z"][..], Some(vec![Form::Timestamp])),
            (
                &["2026-03-01 13:14:15 UTC", "2026-03-01 13:14:15.5 UTC"],
                Some(vec![by("%Y-%m-%d %H:%M:%S%.f UTC")]),
            ),
            (
                &["2026-03-01T13:14:15Z", "2026-03-01"],
                Some(vec![Form::Timestamp, by("%Y-%m-%d")]),
            ),
            (&["01/02/2026 10:00"], Some(vec![by("%d/%m/%Y %H:%M")])),
            (
                &["01/02/2026 10:00", "01/13/2026 10:00"],
                Some(vec![by("%m/%d/%Y %H:%M")]),
            ),
            (&["2026-03-01T13:14:15Z", "soon"], None),
            (&["soon", "2026-03-01T13:14:15Z"], None),
        ] {
            assert_eq!(of(texts).forms(is_timestamp), expected, "{texts:?}");
        }
    }

    #[test]
    fn base64_needs_more_than_letters() {
        assert!(of(&["aGVsbG8gd29ybGQ=", "AAECAwQFBgcICQoL"]).are_base64());
        for texts in [&["downloadable"][..], &["aGVsbG8gd29ybGQ=", "x"], &["aGk="]] {
            assert!(!of(texts).are_base64(), "{texts:?}");
        }
    }
}
