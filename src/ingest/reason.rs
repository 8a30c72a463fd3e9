//! Why a file is quarantined.

use std::fmt;

use crate::cut::Unreadable;
use crate::dataset::{NoDataset, Ratio};
use crate::parse::PathProblem;
use crate::sink::LIMIT_CODES;

/// Why a file is quarantined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum QuarantineReason {
    /// No dataset takes a file with this name.
    NoDataset(NoDataset),
    /// The document does not close, or holds no records of the dataset.
    Unreadable(Unreadable),
    /// A part of the path that a column takes is missing, or no value of the column.
    PathValue(PathProblem),
    /// The compressed data is damaged, or inflates to more than the limit.
    Damaged(String),
    /// The file has a format that the engine does not read. Holds the format and the next step.
    UnsupportedFormat(String),
    /// The system cannot read the file. Holds the error.
    ReadFailed {
        error: String,
        /// The file's number in the ledger, if some of its records may be stored.
        file_no: Option<u32>,
    },
    /// The file changed after it was registered with this number. Some records of its former
    /// content may be stored.
    Changed { file_no: u32 },
    /// The file changed after all records of its former content were stored with these numbers, one
    /// for each dataset.
    ChangedAfterRead {
        file_nos: Vec<u32>,
        /// Whether it is a file of an archive, which is loaded from its place.
        in_place: bool,
    },
    /// The file is pending with this number, by another definition of its dataset.
    OtherDefinition { file_no: u32 },
    /// What is stored of the file with this number has to be removed before the file is loaded, and
    /// the database refuses that. Holds the problem and the next step.
    NotRemoved { file_no: u32, problem: String },
    /// The file was stored with this number, and some of its rows or rejects are missing from the
    /// database.
    NotStored { file_no: u32 },
    /// Records of its content were erased, and it still has them.
    Erased,
    /// More of its records would be rejects than `max_reject_ratio` of its dataset allows.
    TooManyRejects {
        /// The rejects that were found before the check ended.
        rejects: u64,
        records: u32,
        /// The limit of the dataset, and the rejects that the file may have by it.
        ratio: Ratio,
        most: u64,
        /// The most frequent cause.
        cause: String,
    },
    /// It has fewer records than `min_records` of its dataset.
    TooFewRecords { records: u32, least: u32 },
}

impl QuarantineReason {
    /// Every code.
    pub(super) const CODES: [&str; 14] = [
        "no_dataset",
        "incomplete",
        "malformed",
        "path_value",
        "damaged",
        "unsupported_format",
        "read_failed",
        "changed",
        "other_definition",
        "not_removed",
        "not_stored",
        "erased",
        LIMIT_CODES[0],
        LIMIT_CODES[1],
    ];

    /// The reason as one word for programs, the same in reasons, metrics, log and runbook.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::NoDataset(_) => "no_dataset",
            Self::Unreadable(Unreadable::Incomplete { .. }) => "incomplete",
            Self::Unreadable(Unreadable::Malformed { .. }) => "malformed",
            Self::PathValue(_) => "path_value",
            Self::Damaged(_) => "damaged",
            Self::UnsupportedFormat(_) => "unsupported_format",
            Self::ReadFailed { .. } => "read_failed",
            Self::Changed { .. } | Self::ChangedAfterRead { .. } => "changed",
            Self::OtherDefinition { .. } => "other_definition",
            Self::NotRemoved { .. } => "not_removed",
            Self::NotStored { .. } => "not_stored",
            Self::Erased => "erased",
            Self::TooManyRejects { .. } => LIMIT_CODES[0],
            Self::TooFewRecords { .. } => LIMIT_CODES[1],
        }
    }

    /// The code and the text, as the ledger and `NAME.reason` hold them.
    pub(super) fn with_code(&self) -> String {
        format!("{}: {self}", self.code())
    }
}

/// The next step for a file that is beyond a limit of its dataset.
const RELEASE: &str =
    "nothing of it is stored; `task_runner files release` with its number loads it as it is";

/// The next step for a file of an archive that has changed.
const REPLACED_IN_PLACE: &str = ": `task_runner load` with its path loads it as another file; run \
    `task_runner files forget` with that number first if the file now has these records as well";

/// The next step for a file that has changed.
const REPLACED: &str = ": `task_runner files retry` loads it as another file; run `task_runner files forget` \
    with that number first if the file now has these records as well";

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stored = |f: &mut fmt::Formatter<'_>, file_no: u32| {
            write!(
                f,
                "; records that were read before may be stored as file {file_no}"
            )
        };
        match self {
            Self::NoDataset(no_dataset) => no_dataset.fmt(f),
            Self::Unreadable(unreadable) => unreadable.fmt(f),
            Self::PathValue(problem) => problem.fmt(f),
            Self::Damaged(detail) | Self::UnsupportedFormat(detail) => f.write_str(detail),
            Self::ReadFailed { error, file_no } => {
                write!(f, "it cannot be read: {error}")?;
                file_no.map_or(Ok(()), |file_no| stored(f, file_no))
            }
            Self::Changed { file_no } => {
                f.write_str("it changed while it was read")?;
                stored(f, *file_no)?;
                f.write_str(REPLACED)
            }
            Self::ChangedAfterRead { file_nos, in_place } => {
                f.write_str("it changed after it was read")?;
                for (at, file_no) in file_nos.iter().enumerate() {
                    let before = if at == 0 {
                        "; what was read is stored as"
                    } else {
                        " and"
                    };
                    write!(f, "{before} file {file_no}")?;
                }
                f.write_str(if *in_place {
                    REPLACED_IN_PLACE
                } else {
                    REPLACED
                })
            }
            Self::OtherDefinition { file_no } => write!(
                f,
                "it was begun as file {file_no} by another definition of its dataset, or with another \
                 number of records (`task_runner files show {file_no}`), and some of it may be \
                 stored: `task_runner files retry` removes its stored records and loads it with the \
                 current definition"
            ),
            Self::NotRemoved { file_no, problem } => write!(
                f,
                "its former records, file {file_no}, have to be removed before it is loaded again: \
                 {problem}"
            ),
            Self::NotStored { file_no } => write!(
                f,
                "it was loaded as file {file_no}, and rows or rejects of that file are missing from the \
                 database (`task_runner verify --file {file_no}`): `task_runner files restore {file_no}` \
                 stores them again; if they were removed on purpose, `task_runner files acknowledge \
                 {file_no}` accepts that; then load it again (`task_runner files retry`)"
            ),
            Self::Erased => f.write_str(
                "it is a copy of a file of which records were erased, and still has them: its other records \
                 are stored, so remove it",
            ),
            Self::TooManyRejects {
                rejects,
                records,
                ratio,
                most,
                cause,
            } => write!(
                f,
                "at least {rejects} of its {records} records would be rejects, most of them {cause}, and \
                 `max_reject_ratio = {ratio}` allows {most}: `task_runner check` shows them; {RELEASE}"
            ),
            Self::TooFewRecords { records, least } => write!(
                f,
                "it has {records} records, and `min_records = {least}`: it may be cut short; {RELEASE}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dataset::Dataset;
    use crate::parse;

    #[test]
    fn every_reason_has_a_code_and_a_text_with_the_file_that_may_be_stored() {
        let read_failed = |file_no| QuarantineReason::ReadFailed {
            error: "EIO".to_owned(),
            file_no,
        };
        let incomplete = Unreadable::Incomplete {
            offset: 3,
            detail: "an array",
        };
        let malformed = Unreadable::Malformed {
            offset: 0,
            detail: "not JSON".to_owned(),
        };
        let none = NoDataset::None("a, b".to_owned());
        let definition = r#"{"name": "trips", "columns": [{"name": "day", "path": "day={}", "type":
            "date"}]}"#;
        let dataset = Dataset::from_definition(definition).unwrap();
        let path = Path::new("/a/day=x/trips.json");
        let values = dataset.path_values(path.as_os_str().as_encoded_bytes());
        let problem = parse::path_problem(&dataset, path, &values).unwrap();
        let mut codes = Vec::new();
        for (reason, text) in [
            (QuarantineReason::NoDataset(none), "none of a, b"),
            (QuarantineReason::Unreadable(incomplete), "byte 3"),
            (
                QuarantineReason::Unreadable(malformed),
                "not JSON (at byte 0)",
            ),
            (
                QuarantineReason::PathValue(problem),
                "in /a/day=x/trips.json it is `x` (invalid_timestamp)",
            ),
            (QuarantineReason::Damaged("a bomb".to_owned()), "a bomb"),
            (QuarantineReason::UnsupportedFormat("xz".to_owned()), "xz"),
            (
                read_failed(Some(7)),
                "EIO; records that were read before may be stored as file 7",
            ),
            (
                QuarantineReason::Changed { file_no: 7 },
                "may be stored as file 7",
            ),
            (
                QuarantineReason::OtherDefinition { file_no: 7 },
                "files show 7",
            ),
            (
                QuarantineReason::NotRemoved {
                    file_no: 7,
                    problem: "a trigger".to_owned(),
                },
                "file 7, have to be removed before it is loaded again: a trigger",
            ),
            (
                QuarantineReason::NotStored { file_no: 7 },
                "files restore 7",
            ),
            (QuarantineReason::Erased, "records were erased"),
            (
                QuarantineReason::TooManyRejects {
                    rejects: 6,
                    records: 100,
                    ratio: 0.05_f64.try_into().unwrap(),
                    most: 5,
                    cause: "`missing` in `a`".to_owned(),
                },
                "at least 6 of its 100 records would be rejects, most of them `missing` in `a`, and",
            ),
            (
                QuarantineReason::TooFewRecords {
                    records: 3,
                    least: 10,
                },
                "3 records, and `min_records = 10`: it may be cut short; ",
            ),
        ] {
            let whole = reason.with_code();
            assert!(
                whole.starts_with(reason.code()) && whole.contains(text),
                "{whole}"
            );
            codes.push(reason.code());
        }
        assert_eq!(codes, QuarantineReason::CODES);
        for (file_nos, text) in [
            (vec![], "it changed after it was read: "),
            (vec![7], "read; what was read is stored as file 7: "),
            (
                vec![7, 8],
                "read; what was read is stored as file 7 and file 8: ",
            ),
        ] {
            let whole = QuarantineReason::ChangedAfterRead {
                file_nos,
                in_place: false,
            }
            .with_code();
            assert!(whole.contains(text), "{whole}");
        }
        assert_eq!(read_failed(None).to_string(), "it cannot be read: EIO");
    }
}
