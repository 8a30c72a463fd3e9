//! The parts of a file that holds the records of several datasets.
//!
//! Each part has its own number in the ledger, its own flight and its own end. The file has one
//! end: after the last of its parts, it moves once.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;

use super::outcome::Outcome;
use crate::dataset::Dataset;

/// A part of a file: its records of one dataset.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// The ends of all parts of the file, in the order of the parts. `None` before its end.
    ends: Arc<Mutex<Vec<Option<PartEnd>>>>,
    /// The place of this part in `ends`.
    index: usize,
    /// This part's share of the bytes of the file. The shares of all parts add up to the file.
    pub(super) bytes: u64,
}

/// How a part ended.
#[derive(Debug, Clone)]
pub(super) struct PartEnd {
    /// The number of the part in the ledger. `None` if it has none.
    pub(super) file_no: Option<u32>,
    /// `None` if the part ended before its dataset was known.
    pub(super) dataset: Option<Arc<Dataset>>,
    pub(super) outcome: Outcome,
}

impl Part {
    /// Divides a file of `bytes` bytes into parts with these numbers of records. The bytes are
    /// shared in proportion to the records.
    pub(super) fn divide(bytes: u64, records: &[u32]) -> Vec<Self> {
        let ends = Arc::new(Mutex::new(vec![None; records.len()]));
        let all: u64 = records.iter().copied().map(u64::from).sum();
        let bytes_of = |records: u64| {
            let bytes = u128::from(bytes) * u128::from(records) / u128::from(all.max(1));
            u64::try_from(bytes).expect("at most the bytes of the file")
        };
        let mut before = 0;
        let part = |(index, records): (usize, &u32)| {
            let after = before + u64::from(*records);
            let bytes = bytes_of(after) - bytes_of(before);
            before = after;
            Self {
                ends: ends.clone(),
                index,
                bytes,
            }
        };
        records.iter().enumerate().map(part).collect()
    }

    /// Notes the end of this part. Returns the end of the file if this was its last part.
    pub(super) fn end(&self, end: PartEnd) -> Option<PartEnd> {
        let mut ends = self.ends.lock();
        ends[self.index] = Some(end);
        let ends: Option<Vec<&PartEnd>> = ends.iter().map(Option::as_ref).collect();
        Some(merged(&ends?))
    }

    /// The numbers of those parts of the file that have ended, in the order of the parts.
    pub(super) fn file_nos(&self) -> Vec<u32> {
        let ends = self.ends.lock();
        let ended = ends.iter().flatten();
        ended.filter_map(|end| end.file_no).collect()
    }
}

/// The end of a file whose parts have these ends: that of its first part with the outcome of the
/// highest rank. The reason of a quarantine has a line for each part.
fn merged(ends: &[&PartEnd]) -> PartEnd {
    // Of equal ranks, `max_by_key` returns the last one.
    let parts = (0..ends.len()).rev();
    let first = parts.max_by_key(|at| ends[*at].outcome.rank());
    let first = first.expect("a file has parts");
    let mut merged = PartEnd::clone(ends[first]);
    if let Outcome::Quarantined(_, reason) = &mut merged.outcome {
        let mut text = String::from(&**reason);
        for (_, end) in ends.iter().enumerate().filter(|(at, _)| *at != first) {
            write!(text, "\n{}", line(end)).expect("writing to a string does not fail");
        }
        *reason = text.into();
    }
    merged
}

/// What became of a part, for the reason of the quarantine of its file.
fn line(end: &PartEnd) -> String {
    let dataset = end.dataset.as_ref().map_or("", |dataset| &dataset.name);
    let file_no = end
        .file_no
        .map_or(String::new(), |no| format!(" as file {no}"));
    match &end.outcome {
        Outcome::Quarantined(_, reason) => reason.to_string(),
        Outcome::Left(reason) => format!("its records of `{dataset}` wait: {reason}"),
        Outcome::Settled | Outcome::Duplicate => {
            format!("its records of `{dataset}` are stored{file_no}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Datasets;
    use crate::inbox::WaitReason;

    fn end(file_no: u32, outcome: Outcome) -> PartEnd {
        let datasets = Datasets::new(Vec::new()).unwrap();
        let name = ["vehicle_events", "vehicle_status"][file_no as usize % 2];
        PartEnd {
            file_no: Some(file_no),
            dataset: datasets.by_name(name).cloned(),
            outcome,
        }
    }

    fn quarantined(code: &'static str) -> Outcome {
        Outcome::Quarantined(code, format!("{code}: a reason").into())
    }

    /// The file ends once, with its last part, and its end does not depend on the order.
    #[test]
    fn a_file_ends_with_its_last_part_by_the_outcome_of_the_highest_rank() {
        let waits = || Outcome::Left(WaitReason::Incomplete);
        let changed = || quarantined("changed");
        for (outcomes, number, expected) in [
            (
                [Outcome::Duplicate, Outcome::Duplicate],
                4,
                Outcome::Duplicate,
            ),
            ([Outcome::Duplicate, Outcome::Settled], 5, Outcome::Settled),
            ([Outcome::Settled, Outcome::Settled], 4, Outcome::Settled),
            ([Outcome::Settled, waits()], 5, waits()),
            (
                [changed(), waits()],
                4,
                Outcome::Quarantined(
                    "changed",
                    "changed: a reason\nits records of `vehicle_status` wait: the document is not \
                     complete yet"
                        .into(),
                ),
            ),
            (
                [Outcome::Duplicate, changed()],
                5,
                Outcome::Quarantined(
                    "changed",
                    "changed: a reason\nits records of `vehicle_events` are stored as file 4"
                        .into(),
                ),
            ),
            (
                [quarantined("read_failed"), changed()],
                4,
                Outcome::Quarantined(
                    "read_failed",
                    "read_failed: a reason\nchanged: a reason".into(),
                ),
            ),
        ] {
            for order in [[0, 1], [1, 0]] {
                let parts = Part::divide(10, &[1, 1]);
                let end_of = |at: usize| {
                    let outcome = outcomes[at].clone();
                    parts[at].end(end(4 + u32::try_from(at).unwrap(), outcome))
                };
                assert!(end_of(order[0]).is_none(), "{outcomes:?}");
                let last = end_of(order[1]).unwrap();
                assert_eq!(last.outcome, expected, "{outcomes:?}");
                assert_eq!(last.file_no, Some(number), "{outcomes:?}");
                assert_eq!(parts[0].file_nos(), [4, 5]);
            }
        }
    }

    #[test]
    fn the_shares_of_all_parts_add_up_to_the_file() {
        for (bytes, records, shares) in [
            (10, vec![1, 1], vec![5, 5]),
            (10, vec![1, 1, 1], vec![3, 3, 4]),
            (10, vec![0, 3], vec![0, 10]),
            (
                u64::MAX,
                vec![u32::MAX, u32::MAX],
                vec![u64::MAX / 2, u64::MAX / 2 + 1],
            ),
        ] {
            let parts = Part::divide(bytes, &records);
            let found: Vec<u64> = parts.iter().map(|part| part.bytes).collect();
            assert_eq!(found, shares, "{bytes} bytes, {records:?} records");
        }
    }
}
