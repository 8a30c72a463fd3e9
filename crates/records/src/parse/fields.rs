//! Which columns a member of a record fills: the pointers of a dataset, resolved once.
//!
//! Knows names and nothing of values.

use crate::dataset::{Column, Dataset, index, segments};

/// The members of a record from which the columns of a dataset take values.
pub(super) struct Fields {
    all: Vec<Field>,
    /// The columns that take the first of several fields, each with the paths to them.
    several: Vec<(usize, Vec<Vec<String>>)>,
    /// The field of each element of a record that is an array.
    by_index: Vec<Option<usize>>,
}

/// A member of the record from which at least one column takes its value, or a part of it.
pub(super) struct Field {
    pub(super) key: String,
    /// The key in quotes, as a record has it. `None` if JSON cannot write the key without an
    /// escape.
    pub(super) quoted: Option<String>,
    /// The column that takes the member's whole value.
    pub(super) column: Option<usize>,
    /// Which of the column's pointers leads to the member, from 0.
    pub(super) rank: usize,
    /// Whether one column takes the member, and no other.
    pub(super) is_plain: bool,
    /// The columns that take a part of the member's value.
    pub(super) inner: Vec<Inner>,
}

/// A column that takes a part of a member's value.
pub(super) struct Inner {
    /// The path from the member to the part: keys of objects, or indices of arrays.
    pub(super) path: Vec<String>,
    pub(super) column: usize,
    /// Which of the column's pointers leads to the part, from 0.
    pub(super) rank: usize,
}

impl Fields {
    pub(super) fn new(dataset: &Dataset) -> Self {
        let mut fields: Vec<Field> = Vec::new();
        let mut several = Vec::new();
        let columns = dataset.columns.iter().map(Column::fields).enumerate();
        for (column, pointers) in columns.clone().filter(|(_, pointers)| pointers.len() > 1) {
            let paths = pointers.iter().map(|pointer| segments(pointer).collect());
            several.push((column, paths.collect()));
        }
        let all = columns.flat_map(|(column, pointers)| {
            let pointers = pointers.iter().enumerate();
            pointers.map(move |(rank, pointer)| (column, rank, pointer))
        });
        for (column, rank, pointer) in all {
            let mut path = segments(pointer);
            let key = path.next().expect("a checked pointer begins with `/`");
            let path: Vec<String> = path.collect();
            let at = fields
                .iter()
                .position(|field| field.key == key)
                .unwrap_or_else(|| {
                    fields.push(Field {
                        quoted: quoted(&key),
                        key,
                        column: None,
                        rank: 0,
                        is_plain: true,
                        inner: Vec::new(),
                    });
                    fields.len() - 1
                });
            let field = &mut fields[at];
            let is_one = dataset.columns[column].fields().len() == 1;
            field.is_plain &= path.is_empty() && is_one;
            if path.is_empty() {
                (field.column, field.rank) = (Some(column), rank);
            } else {
                field.inner.push(Inner { path, column, rank });
            }
        }
        let mut by_index = Vec::new();
        for (at, field) in fields.iter().enumerate() {
            if let Some(index) = index(&field.key) {
                by_index.resize(by_index.len().max(index + 1), None);
                by_index[index] = Some(at);
            }
        }
        Self {
            all: fields,
            several,
            by_index,
        }
    }

    /// The field of the element with this index in a record that is an array. `None` if no column
    /// takes it or a part of it.
    #[inline]
    pub(super) fn at_index(&self, index: usize) -> Option<&Field> {
        let field = self.by_index.get(index).copied().flatten()?;
        Some(&self.all[field])
    }

    /// The columns that take the first of several fields, each with the paths to them.
    pub(super) fn several(&self) -> impl Iterator<Item = (usize, &[Vec<String>])> {
        self.several
            .iter()
            .map(|(column, paths)| (*column, &paths[..]))
    }

    /// The number of columns up to the last one that takes the first of several fields.
    pub(super) fn columns_with_several(&self) -> usize {
        self.several.last().map_or(0, |(column, _)| column + 1)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, at: usize) -> &Field {
        &self.all[at]
    }

    /// The length of the key of the field `expected`, with its quotes. `None` if `next` does not
    /// begin with this key.
    #[inline]
    pub(super) fn begins(&self, next: &[u8], expected: usize) -> Option<usize> {
        let quoted = self.all.get(expected)?.quoted.as_ref()?;
        let begins = next
            .get(..quoted.len())
            .is_some_and(|next| same(quoted.as_bytes(), next));
        begins.then_some(quoted.len())
    }

    /// The field with this key. Tries the field `expected` first, since the records of most files
    /// have their members in the order of the columns.
    #[inline]
    pub(super) fn find(&self, key: &str, expected: usize) -> Option<usize> {
        match self.all.get(expected) {
            Some(field) if same(field.key.as_bytes(), key.as_bytes()) => Some(expected),
            _ => self.all.iter().position(|field| field.key == key),
        }
    }
}

/// A key in quotes. `None` if JSON must escape a character of it.
fn quoted(key: &str) -> Option<String> {
    let is_plain = !key
        .bytes()
        .any(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
    is_plain.then(|| format!("\"{key}\""))
}

/// Whether two keys are equal. Most keys have 8 to 32 bytes, which two overlapping words cover. A
/// call to `memcmp` for each member of each record would take a tenth of the time of the walk.
#[inline]
fn same(one: &[u8], other: &[u8]) -> bool {
    #[inline]
    fn by_ends<const N: usize>(one: &[u8], other: &[u8]) -> bool {
        one.first_chunk::<N>() == other.first_chunk() && one.last_chunk::<N>() == other.last_chunk()
    }
    one.len() == other.len()
        && match one.len() {
            8..=16 => by_ends::<8>(one, other),
            17..=32 => by_ends::<16>(one, other),
            _ => one == other,
        }
}
