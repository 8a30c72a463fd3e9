//! Which columns a member of a record fills: the pointers of a dataset, resolved once.
//!
//! Knows names and nothing of values.

use crate::dataset::{Dataset, segments};

/// The members of a record from which the columns of a dataset take values.
pub(super) struct Fields(Vec<Field>);

/// A member of the record from which at least one column takes its value, or a part of it.
pub(super) struct Field {
    pub(super) key: String,
    /// The key in quotes, as a record has it. `None` if JSON cannot write the key without an
    /// escape.
    quoted: Option<String>,
    /// The column that takes the member's whole value.
    pub(super) column: Option<usize>,
    /// The columns that take a part of the member's value.
    pub(super) inner: Vec<Inner>,
}

/// A column that takes a part of a member's value.
pub(super) struct Inner {
    /// The path from the member to the part: keys of objects, or indices of arrays.
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

    /// The length of the key of the field `expected`, with its quotes. `None` if `next` does not
    /// begin with this key.
    #[inline]
    pub(super) fn begins(&self, next: &[u8], expected: usize) -> Option<usize> {
        let quoted = self.0.get(expected)?.quoted.as_ref()?;
        let begins = next
            .get(..quoted.len())
            .is_some_and(|next| same(quoted.as_bytes(), next));
        begins.then_some(quoted.len())
    }

    /// The field with this key. Tries the field `expected` first, since the records of most files
    /// have their members in the order of the columns.
    #[inline]
    pub(super) fn find(&self, key: &str, expected: usize) -> Option<usize> {
        match self.0.get(expected) {
            Some(field) if same(field.key.as_bytes(), key.as_bytes()) => Some(expected),
            _ => self.0.iter().position(|field| field.key == key),
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
