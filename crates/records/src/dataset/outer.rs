//! Columns whose value is outside of the record: a field of the envelope around it, or the key or
//! index of an element on the way to it.

use super::{Column, Dataset, EACH, Format, segments};

/// A column whose value is outside of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outer {
    /// The index of the column.
    pub(crate) column: usize,
    /// How many segments of `records` lead to the container that has the value.
    pub(crate) level: usize,
    pub(crate) part: Part,
}

/// What a column takes from a container around the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// The value to which these segments lead from the container.
    Field(Vec<String>),
    /// The key or the index of the container's child that leads to the record, or is it.
    Key,
}

impl Dataset {
    /// The columns whose value is outside of the record.
    pub(crate) fn outers(&self) -> Vec<Outer> {
        let outer = |(index, column)| outer(self, index, column).ok().flatten();
        self.columns.iter().enumerate().filter_map(outer).collect()
    }
}

impl Column {
    /// What is wrong with the place of its value outside of the record. `None` if nothing is.
    pub(super) fn outside_problem(&self, dataset: &Dataset) -> Option<String> {
        outer(dataset, 0, self).err()
    }
}

/// The place of a column's value outside of the record. `None` if it is not outside.
fn outer(dataset: &Dataset, index: usize, column: &Column) -> Result<Option<Outer>, String> {
    let (setting, pointer) = match (&column.envelope, &column.key) {
        (Some(pointer), None) => ("envelope", pointer),
        (None, Some(pointer)) => ("key", pointer),
        _ => return Ok(None),
    };
    let records = dataset.pointer();
    let fail = |problem: &str| {
        Err(format!(
            "`{setting} = \"{pointer}\"` {problem}, and `records` is \"{records}\""
        ))
    };
    if !pointer.starts_with('/') {
        return fail("must begin with `/`");
    }
    if records.is_empty() || dataset.format == Format::Lines {
        return fail("needs an envelope, but each value is a record");
    }
    let path: Vec<String> = segments(pointer).collect();
    let way: Vec<String> = segments(records).collect();
    if setting == "key" {
        let (last, before) = path.split_last().expect("it begins with `/`");
        let is_on_way =
            way.starts_with(before) && way.get(before.len()).is_none_or(|key| key == EACH);
        if last != EACH || !is_on_way {
            return fail(
                "must be the beginning of `records` up to one of its `*`, or `records` and `/*`",
            );
        }
        return Ok(Some(Outer {
            column: index,
            level: before.len(),
            part: Part::Key,
        }));
    }
    let level = path
        .iter()
        .zip(&way)
        .take_while(|(one, other)| one == other)
        .count();
    let rest = &path[level..];
    if rest.is_empty() || level == way.len() {
        return fail("leads to the records: a field of a record is a `field`");
    }
    if way[level] == EACH {
        return fail("must have `*` where `records` has it");
    }
    if rest.iter().any(|segment| segment == EACH) {
        return fail("may have `*` only where `records` has it");
    }
    Ok(Some(Outer {
        column: index,
        level,
        part: Part::Field(rest.to_vec()),
    }))
}
