//! The fingerprint of a definition, and its text for the ledger.
//!
//! Two definitions with the same fingerprint make the same rows of a file. The text is JSON with
//! all defaults filled in. [`Dataset::from_definition`] creates the dataset from it.

use std::fmt;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::key::KeyRules;
use super::{Column, Dataset, Datasets, Format, InvalidDataset, OnUnknownField};

/// Version of the rules by which a file is cut into records. Raise it with every change by which an
/// ordinal may belong to another record.
const CUT_RULES: u32 = 1;

/// Version of the rules by which a record becomes a row. Raise it with every change by which a
/// record may become another row, or a reject instead of a row.
const CONVERSION_RULES: u32 = 1;

/// A hash of all parts of a definition that change ordinals or rows.
///
/// The other parts, `files`, `also` (but of a sequence), `indexes`, `summary`, the partitions and the
/// limits of a file, are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Fingerprint {
    /// The hash of the parts that decide the ordinals of records: `format` and `records`.
    ordinals: [u8; 8],
    /// The hash of the parts that decide the row of a record, and its table: `table`, `columns`,
    /// `on_unknown_field`, `key`.
    columns: [u8; 8],
}

#[derive(Serialize)]
struct Ordinals<'a> {
    rules: u32,
    format: Format,
    records: &'a str,
    /// Only where `*` leads to each child: for an earlier release, it was a key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    each: bool,
    /// Only where a value of a sequence is not a record itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    only_arrays: bool,
}

#[derive(Serialize)]
struct Rows<'a> {
    rules: u32,
    table: &'a str,
    columns: &'a [Column],
    on_unknown_field: OnUnknownField,
    /// Only where it decides what a value becomes: the definitions of earlier releases are strict
    /// without a mark.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lenient: bool,
    /// Only where a record may be an array: for an earlier release, it was a reject.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    by_position: bool,
    /// Only with a key, which earlier releases do not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<KeyRules<'a>>,
}

impl Fingerprint {
    pub(super) fn of(dataset: &Dataset) -> Self {
        let ordinals = Ordinals {
            rules: CUT_RULES,
            format: dataset.format,
            records: dataset.pointer(),
            each: dataset.has_each(),
            only_arrays: dataset.takes_only_arrays(),
        };
        let columns = Rows {
            rules: CONVERSION_RULES,
            table: &dataset.table,
            columns: &dataset.columns,
            on_unknown_field: dataset.on_unknown_field,
            by_position: dataset.is_by_position(),
            key: dataset.key_rules(),
            lenient: !dataset.is_strict() && dataset.columns.iter().any(Column::is_typed),
        };
        Self {
            ordinals: hash(&ordinals),
            columns: hash(&columns),
        }
    }

    /// The fingerprint as the ledger and the header of a frame hold it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.ordinals);
        bytes[8..].copy_from_slice(&self.columns);
        bytes
    }

    /// The fingerprint from these bytes; the way back from [`Fingerprint::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (mut ordinals, mut columns) = ([0; 8], [0; 8]);
        ordinals.copy_from_slice(&bytes[..8]);
        columns.copy_from_slice(&bytes[8..]);
        Self { ordinals, columns }
    }

    /// Whether both definitions cut a file into the same records.
    #[must_use]
    pub fn has_ordinals_of(self, other: Self) -> bool {
        self.ordinals == other.ordinals
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.to_bytes()))
    }
}

fn hash(value: &impl Serialize) -> [u8; 8] {
    let text = serde_json::to_vec(value).expect("a definition has only text keys");
    xxh3_64(&text).to_be_bytes()
}

impl Dataset {
    /// The definition as JSON, with all defaults filled in.
    #[must_use]
    pub fn definition(&self) -> String {
        serde_json::to_string(self).expect("a definition has only text keys")
    }

    /// The dataset of a [`Dataset::definition`]. A definition of an earlier release does not say
    /// whether it is strict, and is.
    ///
    /// # Errors
    /// The text is not a definition that this release knows.
    pub fn from_definition(text: &str) -> Result<std::sync::Arc<Self>, InvalidDataset> {
        let mut dataset: Self = serde_json::from_str(text).map_err(|error| InvalidDataset {
            dataset: String::new(),
            column: None,
            problem: error.to_string(),
        })?;
        dataset.strict.get_or_insert(true);
        let name = dataset.name.clone();
        let datasets = Datasets::new(vec![dataset])?;
        Ok(datasets.by_name(&name).expect("it was given").clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(toml: &str) -> Dataset {
        let text = format!("name = \"trips\"\n{toml}");
        let dataset: Dataset = toml::from_str(&text).unwrap();
        let datasets = Datasets::new(vec![dataset]).unwrap();
        Dataset::clone(datasets.by_name("trips").unwrap())
    }

    const COLUMN: &str = "[[columns]]\nname = \"km\"\ntype = \"float\"\n";

    /// Ledgers hold the fingerprint: if its computation changes, every stored file seems to have
    /// been loaded by another definition.
    #[test]
    fn the_fingerprints_of_the_built_in_datasets_stay_as_they_are() {
        let datasets = Datasets::new(Vec::new()).unwrap();
        let all: Vec<String> = datasets
            .iter()
            .map(|dataset| format!("{} {}", dataset.name, dataset.fingerprint))
            .collect();
        let expected = [
            "vehicle_events 50f2bc2ec1fe8d7d0aec46ce8917437d",
            "vehicle_status 7f09098aaf6a01760340d5295912e479",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn it_changes_with_what_ordinals_and_columns_mean_and_with_nothing_else() {
        let plain = dataset(COLUMN).fingerprint;
        for same in [
            format!("files = \"other\"\n{COLUMN}"),
            format!("also = true\n{COLUMN}"),
            format!("indexes = [[\"km\"]]\n{COLUMN}"),
            format!(
                "max_reject_ratio = 0.05\nmin_records = 10\nexpected_every = \"24h\"\n{COLUMN}"
            ),
            format!("table = \"trips\"\nrecords = \"/trips\"\nformat = \"auto\"\n{COLUMN}"),
            format!("{COLUMN}field = \"/km\"\nrequired = true\nmax_chars = 255\n"),
        ] {
            assert_eq!(dataset(&same).fingerprint, plain, "{same}");
        }
        for ordinals in [
            format!("records = \"/data\"\n{COLUMN}"),
            format!("records = \"\"\n{COLUMN}"),
            format!("format = \"lines\"\n{COLUMN}"),
            format!("format = \"sequence\"\n{COLUMN}"),
        ] {
            let other = dataset(&ordinals).fingerprint;
            assert!(!other.has_ordinals_of(plain), "{ordinals}");
            assert_eq!(other.columns, plain.columns, "{ordinals}");
        }
        for columns in [
            format!("table = \"other\"\n{COLUMN}"),
            format!("on_unknown_field = \"reject\"\n{COLUMN}"),
            format!("{COLUMN}field = \"/miles\"\n"),
            format!("key = [\"km\"]\n{}", COLUMN.replace("float", "integer")),
            format!("{COLUMN}required = false\n"),
            COLUMN.replace("float", "text"),
            format!("{}max_chars = 9\n", COLUMN.replace("float", "text")),
            format!("{}epoch = \"s\"\n", COLUMN.replace("float", "timestamp")),
            format!("{COLUMN}{}", COLUMN.replace("km", "miles")),
        ] {
            let other = dataset(&columns).fingerprint;
            assert!(other.has_ordinals_of(plain), "{columns}");
            assert_ne!(other, plain, "{columns}");
        }
    }

    #[test]
    fn a_dataset_is_made_again_from_its_text() {
        let mut all: Vec<_> = Datasets::new(Vec::new()).unwrap().iter().cloned().collect();
        all.push(dataset(&format!("records = \"\"\nformat = \"lines\"\n{COLUMN}")).into());
        assert!(
            all.iter()
                .all(|dataset| !dataset.definition().contains("also"))
        );
        all.push(dataset(&format!("also = true\n{COLUMN}")).into());
        for dataset in all {
            let again = Dataset::from_definition(&dataset.definition()).unwrap();
            assert_eq!(*again, *dataset);
            let bytes = dataset.fingerprint.to_bytes();
            assert_eq!(Fingerprint::from_bytes(bytes), dataset.fingerprint);
        }
        assert!(Dataset::from_definition("{}").is_err());
    }

    /// A ledger may be read by an earlier release, which does not know them.
    #[test]
    fn the_text_for_the_ledger_has_no_limits_partitions_and_views() {
        let column = COLUMN.replace("float", "timestamp");
        for more in [
            "max_reject_ratio = 1\nmin_records = 10\nexpected_every = \"24h\"\n",
            "settled_view = \"done\"\n",
            "partition_by = \"km\"\npartition_every = \"day\"\nretain = \"400 days\"\n",
        ] {
            let limited = dataset(&format!("{more}{column}"));
            let plain = dataset(&column);
            assert_ne!(limited, plain);
            assert_eq!(limited.fingerprint, plain.fingerprint);
            assert_eq!(limited.definition(), plain.definition());
        }
    }

    /// Of a definition that does not mention `strict`, the release that wrote it was strict.
    #[test]
    fn a_definition_of_an_earlier_release_is_strict() {
        let mut now = dataset(COLUMN);
        assert!(!now.is_strict());
        let text = now.definition();
        assert_eq!(*Dataset::from_definition(&text).unwrap(), now);
        let earlier = text.replace(r#","strict":false"#, "");
        assert_ne!(earlier, text);
        let earlier = Dataset::from_definition(&earlier).unwrap();
        assert!(earlier.is_strict() && earlier.fingerprint != now.fingerprint);
        now.strict = Some(true);
        assert_eq!(Fingerprint::of(&now), earlier.fingerprint);
        let strict = dataset("strict = true\n[[columns]]\nname = \"t\"\ntype = \"text\"\n");
        let lenient = dataset("[[columns]]\nname = \"t\"\ntype = \"text\"\n");
        assert_eq!(strict.fingerprint, lenient.fingerprint);
    }
}
