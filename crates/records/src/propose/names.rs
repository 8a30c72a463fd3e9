//! Names for columns and datasets, made of the names in the samples.

use crate::dataset::{ID_COLUMN, IDENTIFIER_CHARS_MAX, RESCUE_COLUMN};

/// The name of the column for a field: the keys on the way to it, with `_` between them. Keys such
/// as `$date`, which name a type in exports of `MongoDB`, are left out. Differs from the names in `taken`.
pub(super) fn of_column(path: &[String], taken: &[String]) -> String {
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let named: Vec<&str> = keys
        .iter()
        .copied()
        .filter(|key| !key.starts_with('$'))
        .collect();
    let keys = if named.is_empty() { keys } else { named };
    let mut name = identifier(&keys.join("_"));
    // `id` is the engine's own column.
    if [ID_COLUMN, RESCUE_COLUMN]
        .iter()
        .any(|own| own.eq_ignore_ascii_case(&name))
    {
        name = format!("record_{}", name.trim_start_matches('_'));
    }
    let is_taken = |name: &str| taken.iter().any(|other| other.eq_ignore_ascii_case(name));
    let mut count = 1;
    let mut found = name.clone();
    while is_taken(&found) {
        count += 1;
        let suffix = format!("_{count}");
        let cut = name.len().min(IDENTIFIER_CHARS_MAX - suffix.len());
        found = format!("{}{suffix}", &name[..cut]);
    }
    found
}

/// Ends of file names that say how the file is written.
const EXTENSIONS: [&str; 13] = [
    ".gz",
    ".zst",
    ".bz2",
    ".xz",
    ".lz4",
    ".sz",
    ".json",
    ".ndjson",
    ".jsonl",
    ".geojson",
    ".geojsonl",
    ".log",
    ".txt",
];

/// The name of a dataset for files of these names, and the text by which it takes them: what all of
/// them begin with, without dates, numbers and other parts that change from file to file. `None` if
/// they begin with nothing in common.
#[must_use]
pub fn of_dataset(files: &[String]) -> Option<(String, String)> {
    let mut common = files.first()?.as_str();
    while let Some(rest) = EXTENSIONS.iter().find_map(|end| common.strip_suffix(end)) {
        common = rest;
    }
    for file in files {
        let same = common
            .char_indices()
            .zip(file.chars())
            .take_while(|((_, a), b)| a == b);
        let length = same
            .map(|((at, a), _)| at + a.len_utf8())
            .last()
            .unwrap_or(0);
        common = &common[..length];
    }
    // The words of the name, with their places. The first word may have a digit in it.
    let is_of_word = |c: char| c.is_ascii_alphanumeric();
    let mut words = Vec::new();
    let mut at = 0;
    for word in common.split(|c| !is_of_word(c)) {
        words.push(at..at + word.len());
        at += word.len()
            + common[at + word.len()..]
                .chars()
                .next()
                .map_or(0, char::len_utf8);
    }
    let begins = |word: &str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_alphabetic());
    let first = words
        .iter()
        .position(|word| begins(&common[word.clone()]))?;
    let rest = words[first + 1..]
        .iter()
        .take_while(|word| is_plain(&common[(*word).clone()]));
    let last = rest
        .filter(|word| !word.is_empty())
        .last()
        .unwrap_or(&words[first]);
    let text = &common[words[first].start..last.end];
    Some((identifier(text).to_ascii_lowercase(), text.to_owned()))
}

/// The text with every character replaced that a name cannot have.
fn identifier(text: &str) -> String {
    let of_name = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut name: String = text.chars().map(of_name).collect();
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        name.insert(0, '_');
    }
    name.truncate(IDENTIFIER_CHARS_MAX);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named_by_their_keys() {
        let long = "x".repeat(80);
        for (path, name) in [
            (&["vehicleId"][..], "vehicleId"),
            (&["location", "lat"], "location_lat"),
            (&["when", "$date"], "when"),
            (&["$oid"], "_oid"),
            (&["id"], "record_id"),
            (&["ID"], "record_ID"),
            (&["_rescued"], "record_rescued"),
            (&["_id", "$oid"], "_id"),
            (&["2nd-value é"], "_2nd_value__"),
            (&[""], "_"),
            (&[long.as_str()], &long[..64]),
        ] {
            let path: Vec<String> = path.iter().map(ToString::to_string).collect();
            assert_eq!(of_column(&path, &[]), name, "{path:?}");
        }
        let taken = ["A_b".to_owned(), "x".repeat(64)];
        assert_eq!(
            of_column(&["a".to_owned(), "b".to_owned()], &taken),
            "a_b_2"
        );
        let other = of_column(&[long], &taken);
        assert!(other.ends_with("x_2") && other.len() == 64, "{other}");
    }

    #[test]
    fn datasets_are_named_by_what_their_files_have_in_common() {
        for (files, name) in [
            (&["trips.json"][..], Some(("trips", "trips"))),
            (
                &["trips_2026-03-01.json.gz", "trips_2026-03-02.json.gz"],
                Some(("trips", "trips")),
            ),
            (&["trips-eu_1.ndjson"], Some(("trips_eu", "trips-eu"))),
            (&["PT1H.json"], Some(("pt1h", "PT1H"))),
            (&["cdc.orders.ndjson"], Some(("cdc_orders", "cdc.orders"))),
            (
                &["0001_CloudTrail_eu-1_20260301T13Z_Aa1.json"],
                Some(("cloudtrail_eu", "CloudTrail_eu")),
            ),
            (
                &["topics+rides+0+0000.json"],
                Some(("topics_rides", "topics+rides")),
            ),
            (&["é_trips__x.json"], Some(("trips__x", "trips__x"))),
            (&["a1.json", "b1.json"], None),
            (&["2026-03-01.json"], None),
        ] {
            let files: Vec<String> = files.iter().map(ToString::to_string).collect();
            let name = name.map(|(name, text)| (name.to_owned(), text.to_owned()));
            assert_eq!(of_dataset(&files), name, "{files:?}");
        }
    }
}
