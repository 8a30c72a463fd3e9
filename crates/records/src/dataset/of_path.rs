//! Values that all records of a file have in common because of the file: parts of its path, and the
//! time of its loading.
//!
//! A pattern of a path is compared with whole segments of it, the last ones first, and has one `{}`:
//! what `{}` stands for is the value. `*` stands for any other text within a segment. Each of them
//! takes as little as possible, and the last one of a segment the rest.

use std::collections::BTreeMap;

use super::Dataset;

/// What Hive and its followers write for a value that is NULL.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The mark of the value in a pattern.
const VALUE: &str = "{}";

/// The context of the hash that is a file's identity: other hashes of the same bytes differ.
const IDENTITY_CONTEXT: &str = "lemonade-task 2026 content and values of the path";

/// The values that a definition takes from the path of a file, by their patterns. `None` for a
/// pattern that the path does not fit. Empty if the definition takes none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathValues(BTreeMap<String, Option<String>>);

/// What the columns of a dataset take from a file besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileValues {
    /// The parts of its path.
    pub path: PathValues,
    /// When the ledger got the file, in microseconds since the epoch, UTC. `None` if no column
    /// takes it.
    pub loaded_at_us: Option<i64>,
}

impl PathValues {
    /// Whether the definition takes no value from the path.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value for a pattern. `None` if the path does not fit it.
    #[must_use]
    pub fn get(&self, pattern: &str) -> Option<&str> {
        self.0.get(pattern)?.as_deref()
    }

    /// Takes the values of `other` for the patterns that both have.
    pub fn update(&mut self, other: &Self) {
        for (pattern, value) in &mut self.0 {
            if let Some(other) = other.0.get(pattern) {
                value.clone_from(other);
            }
        }
    }

    /// Whether both have been taken by the same patterns.
    #[must_use]
    pub fn has_patterns_of(&self, other: &Self) -> bool {
        self.0.keys().eq(other.0.keys())
    }

    /// The values as the ledger holds them: a JSON object by pattern.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(&self.0).expect("a map of texts is JSON")
    }

    /// The values of a text; the way back from [`to_text`](Self::to_text). `None` if the text is no
    /// such object.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// The identity of a file with these values and the hash `content` of its bytes: `content` if
    /// there are no values.
    #[must_use]
    pub fn identity(&self, content: [u8; 16]) -> [u8; 16] {
        if self.is_empty() {
            return content;
        }
        let mut hasher = blake3::Hasher::new_derive_key(IDENTITY_CONTEXT);
        hasher.update(&content);
        hasher.update(self.to_text().as_bytes());
        let mut identity = [0; 16];
        identity.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        identity
    }
}

impl Dataset {
    /// Whether a column takes its value from the file besides its bytes.
    #[must_use]
    pub fn takes_of_file(&self) -> bool {
        self.takes_path() || self.takes_time()
    }

    /// Whether a column takes a part of the file's path.
    #[must_use]
    pub fn takes_path(&self) -> bool {
        self.columns.iter().any(|column| column.path.is_some())
    }

    /// Whether a column takes the time of loading.
    #[must_use]
    pub fn takes_time(&self) -> bool {
        self.columns.iter().any(|column| column.file.is_some())
    }

    /// The values that the columns take from a path, which may be a file's name alone.
    #[must_use]
    pub fn path_values(&self, path: &[u8]) -> PathValues {
        if !self.takes_path() {
            return PathValues::default();
        }
        let path = String::from_utf8_lossy(path);
        let patterns = self
            .columns
            .iter()
            .filter_map(|column| column.path.as_ref());
        let value = |pattern: &String| (pattern.clone(), value(pattern, &path));
        PathValues(patterns.map(value).collect())
    }
}

/// What is wrong with a pattern of a path. `None` if nothing is.
pub(super) fn problem(pattern: &str) -> Option<String> {
    let fail = |what: &str| Some(format!("`path = \"{pattern}\"` {what}"));
    if pattern.matches(VALUE).count() != 1 {
        return fail("must have `{}` once, for the part that is the value: `day={}`");
    }
    let plain = pattern.replace(VALUE, "*");
    if plain.contains(['{', '}']) {
        return fail("may have braces only as `{}`");
    }
    if plain.contains("**") {
        return fail("has nothing between `{}` or `*` and the next one");
    }
    if plain.split('/').any(str::is_empty) {
        return fail("has an empty segment: it is compared with whole segments of the path");
    }
    None
}

/// The value that a pattern takes from a path. `None` if the path does not fit it, or has the mark
/// of a value that is NULL.
fn value(pattern: &str, path: &str) -> Option<String> {
    let wanted: Vec<&str> = pattern.split('/').collect();
    let segments: Vec<&str> = path.split('/').filter(|it| !it.is_empty()).collect();
    let found = segments.windows(wanted.len()).rev().find_map(|segments| {
        let mut found = "";
        for (wanted, segment) in wanted.iter().zip(segments) {
            let value = fit(wanted, segment)?;
            found = if value.is_empty() { found } else { value };
        }
        Some(found)
    })?;
    // Directories of the form key=value are written with escapes.
    let is_escaped = wanted.iter().any(|it| it.ends_with("={}"));
    let found = if is_escaped {
        unescaped(found)
    } else {
        found.to_owned()
    };
    (found != HIVE_NULL).then_some(found)
}

/// The value that the pattern of a segment takes from a segment; empty if the pattern has none.
/// `None` if the segment does not fit it.
fn fit<'a>(pattern: &str, segment: &'a str) -> Option<&'a str> {
    let (literal, mut rest_of_pattern) = literal(pattern);
    let mut rest = segment.strip_prefix(literal)?;
    let mut value = "";
    while let Some(first) = rest_of_pattern.chars().next() {
        let is_value = first == '{';
        let after = if is_value { VALUE.len() } else { 1 };
        let (next, later) = self::literal(&rest_of_pattern[after..]);
        // A value has at least one character.
        let least = if is_value {
            rest.chars().next()?.len_utf8()
        } else {
            0
        };
        let end = if later.is_empty() {
            rest.strip_suffix(next)?.len()
        } else {
            least + rest[least..].find(next)?
        };
        if end < least {
            return None;
        }
        if is_value {
            value = &rest[..end];
        }
        rest = &rest[end + next.len()..];
        rest_of_pattern = later;
    }
    rest.is_empty().then_some(value)
}

/// The text of a pattern before its next `{}` or `*`, and the rest from there.
fn literal(pattern: &str) -> (&str, &str) {
    let end = pattern.find(['{', '*']).unwrap_or(pattern.len());
    pattern.split_at(end)
}

/// A text without the escapes `%3A`. It stays as it is if the bytes are no UTF-8.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let mut byte = [0];
        let is_escape = *first == b'%'
            && after.len() >= 2
            && hex::decode_to_slice(&after[..2], &mut byte).is_ok();
        if is_escape {
            bytes.push(byte[0]);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_its_value_from_whole_segments_the_last_ones_first() {
        for (pattern, path, expected) in [
            (
                "day={}",
                "/data/day=2026-11-01/hour=3/a.json",
                Some("2026-11-01"),
            ),
            ("hour={}", "/data/day=2026-11-01/hour=3/a.json", Some("3")),
            ("day={}", "/day=1/x/day=2/a.json", Some("2")),
            ("day={}", "/data/monday=1/a.json", None),
            ("day={}", "/data/day=/a.json", None),
            ("day={}", "/data/day=1", Some("1")),
            ("day={}", "a.json", None),
            (
                "t={}",
                "t=2026-11-01 10%3A00%3A00/a",
                Some("2026-11-01 10:00:00"),
            ),
            ("t={}", "t=100%/a", Some("100%")),
            ("t={}", "t=%FF/a", Some("%FF")),
            ("t={}", "t=__HIVE_DEFAULT_PARTITION__/a", None),
            ("t-{}", "t-a%20b/a", Some("a%20b")),
            ("{}", "/data/day=1/a.json", Some("a.json")),
            ("{}.json", "/data/a.b.json", Some("a.b")),
            ("{}.json", ".json", None),
            ("trips_{}_*.json", "trips_eu_2026.json", Some("eu")),
            ("trips_*_{}.json", "trips_eu_2026_1.json", Some("2026_1")),
            ("trips_{}.json", "eu_trips_1.json", None),
            ("{}/*/*.json", "/data/eu/2026/a.json", Some("eu")),
            ("{}/*.json", "/data/eu/2026/a.json", Some("2026")),
            ("orders/{}", "/orders/a/b", Some("a")),
            ("ä{}ä", "äöä", Some("ö")),
            ("ä{}ä", "ää", None),
            ("{}-*", "é-1-2", Some("é")),
        ] {
            assert_eq!(problem(pattern), None, "{pattern}");
            let found = value(pattern, path);
            assert_eq!(found.as_deref(), expected, "{pattern} of {path}");
        }
    }

    #[test]
    fn patterns_without_one_value_are_refused() {
        for (pattern, problem_has) in [
            ("", "`{}` once"),
            ("day=*", "`{}` once"),
            ("{}-{}", "`{}` once"),
            ("{day}{}", "braces"),
            ("a*{}", "nothing between"),
            ("{}**", "nothing between"),
            ("/day={}", "empty segment"),
            ("day={}/", "empty segment"),
        ] {
            let problem = problem(pattern).unwrap_or_default();
            assert!(problem.contains(problem_has), "{pattern}: {problem}");
        }
    }

    /// Ledgers hold identities and values: if their form changes, stored files seem to be new.
    #[test]
    fn identities_and_their_text_stay_as_they_are() {
        let values = |pairs: &[(&str, Option<&str>)]| {
            let owned = |(pattern, value): &(&str, Option<&str>)| {
                ((*pattern).to_owned(), value.map(str::to_owned))
            };
            PathValues(pairs.iter().map(owned).collect())
        };
        let content = [7; 16];
        assert_eq!(PathValues::default().identity(content), content);
        let one = values(&[("day={}", Some("1")), ("hour={}", None)]);
        assert_eq!(one.to_text(), r#"{"day={}":"1","hour={}":null}"#);
        assert_eq!(PathValues::from_text(&one.to_text()), Some(one.clone()));
        assert_eq!(PathValues::from_text("[]"), None);
        assert_eq!(
            hex::encode(one.identity(content)),
            "5c8fab4a4909e1ce9e628be42c31c3f5"
        );
        let others = [
            values(&[("day={}", Some("2")), ("hour={}", None)]),
            values(&[("day={}", None), ("hour={}", Some("1"))]),
            values(&[("day={}", Some("1"))]),
        ];
        for other in others {
            assert_ne!(other.identity(content), one.identity(content), "{other:?}");
        }
        assert_ne!(one.identity([8; 16]), one.identity(content));
    }
}
