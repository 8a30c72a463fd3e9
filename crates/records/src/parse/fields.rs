//! Which columns a field of a record fills: the pointers of a dataset, resolved once.
//!
//! Knows nothing of values; [`walk`](super::walk) asks it for names.

use crate::dataset::{Dataset, segments};

/// The fields that the columns of a dataset take.
pub(super) struct Fields(Vec<Field>);

/// A member of the record that at least one column takes, as a whole or in part.
pub(super) struct Field {
    pub(super) key: String,
    /// The key as it stands in a record, in its quotes, if it can stand there as it is.
    quoted: Option<String>,
    /// The column that takes the value itself.
    pub(super) column: Option<usize>,
    /// The columns that take something from within it.
    pub(super) inner: Vec<Inner>,
}

/// A column that is filled from within a member.
pub(super) struct Inner {
    /// The way from the member on: keys of objects, or indices of arrays.
    pub(super) path: Vec<String>,
    pub(super) column: usize,
}

impl Fields {
    pub(super) fn new(dataset: &Dataset) -> Self {
        let mut fields: Vec<Field> = Vec::new();
        for (column, definition) in dataset.columns.iter().enumerate() {
            let mut path = segments(&definition.field);
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
                        inner: Vec::new(),
                    });
                    fields.len() - 1
                });
            if path.is_empty() {
                fields[at].column = Some(column);
            } else {
                fields[at].inner.push(Inner { path, column });
            }
        }
        Self(fields)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, at: usize) -> &Field {
        &self.0[at]
    }

    /// The bytes of the key of the field `expected`, quotes included, if that is what comes next.
    #[inline]
    pub(super) fn begins(&self, next: &[u8], expected: usize) -> Option<usize> {
        let quoted = self.0.get(expected)?.quoted.as_ref()?;
        let begins = next
            .get(..quoted.len())
            .is_some_and(|next| same(quoted.as_bytes(), next));
        begins.then_some(quoted.len())
    }

    /// The field of this name. Records of one file have their members in the same order, mostly
    /// that of the columns, so the field after the last one is tried first.
    #[inline]
    pub(super) fn find(&self, key: &str, expected: usize) -> Option<usize> {
        match self.0.get(expected) {
            Some(field) if same(field.key.as_bytes(), key.as_bytes()) => Some(expected),
            _ => self.0.iter().position(|field| field.key == key),
        }
    }
}

/// A key in quotes, unless JSON writes it in another way.
fn quoted(key: &str) -> Option<String> {
    let is_plain = !key
        .bytes()
        .any(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
    is_plain.then(|| format!("\"{key}\""))
}

/// Whether two keys are the same. Most have 8 to 32 bytes, which two overlapping words cover; a
/// call to `memcmp` for each member of each record would be a tenth of the whole walk.
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
