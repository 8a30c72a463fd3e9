//! The values outside of records: where the cut has noted them, and their text.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::array;
use super::envelope;
use super::plan::{Around, Chunk, Layout, Place};
use super::sequence;
use crate::dataset::{Dataset, FileValues, Outer, Part, segments};

/// Most bytes of a value outside of a record. Each row of a frame holds the value again: with no
/// limit, a frame of 1 MiB could become gigabytes of rows.
pub const OUTSIDE_BYTES_MAX: u64 = 8 * 1024;

/// The values outside of a record that its columns take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outside<'a> {
    /// Those around the record in the file: one for each such column, in the order of the columns.
    /// Empty if no value is known.
    around: Vec<OuterValue<'a>>,
    /// Those of the file. `None` if no column takes one.
    file: Option<Arc<FileValues>>,
}

/// A value outside of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OuterValue<'a> {
    /// It is missing or null.
    Absent,
    /// The text of a value of JSON.
    Json(Cow<'a, str>),
    /// The index of an element.
    Index(u64),
    /// It has more than [`OUTSIDE_BYTES_MAX`].
    TooLarge,
}

impl<'a> Outside<'a> {
    /// These values with those of the file.
    #[must_use]
    pub fn of_file(self, file: Option<Arc<FileValues>>) -> Self {
        Self { file, ..self }
    }

    /// The value of the column with this index among those whose value is around the record.
    pub(crate) fn get(&self, at: usize) -> &OuterValue<'a> {
        self.around.get(at).unwrap_or(&OuterValue::Absent)
    }

    /// The values of the file.
    pub(crate) fn file(&self) -> Option<&FileValues> {
        self.file.as_deref()
    }

    fn into_owned(self) -> Outside<'static> {
        let owned = |value| match value {
            OuterValue::Json(text) => OuterValue::Json(Cow::Owned(text.into_owned())),
            OuterValue::Absent => OuterValue::Absent,
            OuterValue::Index(index) => OuterValue::Index(index),
            OuterValue::TooLarge => OuterValue::TooLarge,
        };
        Outside {
            around: self.around.into_iter().map(owned).collect(),
            file: self.file,
        }
    }

    /// The values with those that are in the chunk. `here` says where in `bytes` they are.
    fn with<'b>(&'b self, here: Option<&Around>, bytes: &'b [u8], columns: usize) -> Outside<'b> {
        let value = |at: usize| {
            let here = here.and_then(|here| here.0[at].as_ref());
            match (here, self.get(at)) {
                (None, OuterValue::Json(text)) => OuterValue::Json(Cow::Borrowed(text)),
                (None, other) => other.clone(),
                // The chunk may begin within its container.
                (Some(Place::Index(index)), OuterValue::Index(first)) => {
                    OuterValue::Index(first + index)
                }
                (Some(Place::Index(index)), _) => OuterValue::Index(*index),
                (Some(Place::Text(place)), _) if place.end - place.start > OUTSIDE_BYTES_MAX => {
                    OuterValue::TooLarge
                }
                (Some(Place::Text(place)), _) => {
                    let text = &bytes[place.start as usize..place.end as usize];
                    OuterValue::Json(String::from_utf8_lossy(text))
                }
            }
        };
        Outside {
            around: (0..columns).map(value).collect(),
            file: self.file.clone(),
        }
    }
}

impl Chunk {
    /// The values outside of the chunk, without those of the file. `read` returns the text of a range of the file, which has at
    /// most [`OUTSIDE_BYTES_MAX`].
    ///
    /// # Errors
    /// Those of `read`.
    pub fn outside<E>(
        &self,
        mut read: impl FnMut(Range<u64>) -> Result<String, E>,
    ) -> Result<Outside<'static>, E> {
        let around = self.around.iter().flat_map(|around| &around.0);
        let values = around.map(|place| match place {
            None => Ok(OuterValue::Absent),
            Some(Place::Index(index)) => Ok(OuterValue::Index(*index)),
            Some(Place::Text(place)) if place.end - place.start > OUTSIDE_BYTES_MAX => {
                Ok(OuterValue::TooLarge)
            }
            Some(Place::Text(place)) => Ok(OuterValue::Json(read(place.clone())?.into())),
        });
        Ok(Outside {
            around: values.collect::<Result<_, E>>()?,
            file: None,
        })
    }
}

/// Records of a chunk that have the same values outside of them.
pub(crate) struct Group<'a> {
    /// Which records of the chunk these are.
    pub(crate) records: Range<usize>,
    pub(crate) outside: Outside<'a>,
}

/// The place of each record in the bytes of a chunk, without the whitespace around it.
///
/// Returns as many places as the chunk has records. A record of an array may be empty (see the
/// rules of [the module](super)).
#[must_use]
pub fn records(bytes: &[u8], layout: Layout, dataset: &Dataset) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    each_array(bytes, layout, dataset, &[], |records, _| {
        found.extend(records);
    });
    found
}

/// As [`records`], with the values outside of the records. `outside` are those outside of the chunk.
pub(crate) fn groups<'a>(
    bytes: &'a [u8],
    layout: Layout,
    dataset: &Dataset,
    outers: &[Outer],
    outside: &'a Outside<'_>,
) -> (Vec<Range<usize>>, Vec<Group<'a>>) {
    let levels = segments(dataset.pointer()).count();
    let indices: Vec<usize> = (outers.iter().enumerate())
        .filter(|(_, outer)| outer.part == Part::Key && outer.level == levels)
        .map(|(at, _)| at)
        .collect();
    let (mut places, mut groups) = (Vec::new(), Vec::new());
    each_array(bytes, layout, dataset, outers, |records, here| {
        let outside = outside.with(here, bytes, outers.len());
        let first = places.len();
        places.extend(records);
        let all = first..places.len();
        // Each record has its own index.
        let step = if indices.is_empty() { all.len() } else { 1 };
        for start in all.clone().step_by(step.max(1)) {
            let mut outside = outside.clone();
            for at in &indices {
                if let OuterValue::Index(index) = &mut outside.around[*at] {
                    *index += (start - first) as u64;
                }
            }
            let records = start..(start + step).min(all.end);
            groups.push(Group { records, outside });
        }
    });
    (places, groups)
}

/// The values outside of the record with the number `record` in a chunk, from 0. `outside` are those
/// outside of the chunk.
#[must_use]
pub fn outside_of(
    bytes: &[u8],
    layout: Layout,
    dataset: &Dataset,
    outside: &Outside<'_>,
    record: usize,
) -> Outside<'static> {
    let (_, groups) = groups(bytes, layout, dataset, &dataset.outers(), outside);
    let group = groups
        .into_iter()
        .find(|group| group.records.contains(&record));
    group.map_or(Outside::default(), |group| group.outside.into_owned())
}

/// Calls `on_array` with the places of the records of each array in a chunk, and of each record
/// outside of an array, and where the values outside of them are in the chunk.
fn each_array(
    bytes: &[u8],
    layout: Layout,
    dataset: &Dataset,
    outers: &[Outer],
    mut on_array: impl FnMut(Vec<Range<usize>>, Option<&Around>),
) {
    let mut found = Vec::new();
    let pointer = dataset.pointer();
    match layout {
        Layout::Values => sequence::each_array(bytes, "", &[], false, on_array),
        Layout::Sequence => {
            let only_arrays = dataset.takes_only_arrays();
            sequence::each_array(bytes, pointer, outers, only_arrays, on_array);
        }
        Layout::Lines => {
            for line in super::scan::Lines::new(bytes, 0) {
                super::lines::for_each_record(bytes, line, |record| found.push(record));
            }
            on_array(found, None);
        }
        Layout::Array => {
            array::for_each_record(bytes, |record| found.push(record));
            on_array(found, None);
        }
        Layout::Elements(_) | Layout::Members(_) => {
            let arrays = envelope::arrays(bytes, pointer, outers, layout);
            debug_assert!(arrays.is_ok(), "the cut has walked these values");
            for chunk in arrays.into_iter().flat_map(|arrays| arrays.chunks) {
                on_array(array::records_of(bytes, &chunk), chunk.around.as_deref());
            }
        }
    }
}
