//! The rule for entries of the ledger that have the content of a file: which of them are the file.
//! Pure, for both dialects.
//!
//! Values that a definition takes from the path belong to the identity, so equal contents may be
//! several files. After a change of the definition, other patterns take other values of the same
//! file, or none. Then the place decides whether an entry is the file.

use std::os::unix::ffi::OsStrExt as _;

use crate::batch::ContentHash;
use crate::dataset::PathValues;

use super::{NewFile, Taken};

/// What an entry with the content of a file is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    /// The same file.
    Same,
    /// The same file, whose values were taken by other patterns.
    Retaken,
    /// A file elsewhere, whose values were taken by other patterns.
    Elsewhere,
    /// Another file: the same patterns took other values.
    Other,
}

impl Likeness {
    /// Whether the entry is the file.
    pub(super) fn is_same_file(self) -> bool {
        matches!(self, Self::Same | Self::Retaken)
    }
}

/// An entry with the content of a file.
pub(super) struct Identified<'a> {
    pub(super) hash: ContentHash,
    /// `None` if it has no values.
    pub(super) values: Option<&'a PathValues>,
    pub(super) name: &'a str,
    pub(super) path: Option<&'a [u8]>,
}

/// What an entry with the content of `file` is to it.
pub(super) fn likeness(entry: &Identified<'_>, file: &NewFile) -> Likeness {
    let none = PathValues::default();
    let values = file.taken.as_ref().map_or(&none, |taken| &taken.values);
    if entry.hash == file.hash {
        Likeness::Same
    } else if entry.values.unwrap_or(&none).has_patterns_of(values) {
        Likeness::Other
    } else if is_at_place(entry, file) {
        Likeness::Retaken
    } else {
        Likeness::Elsewhere
    }
}

fn is_at_place(entry: &Identified<'_>, file: &NewFile) -> bool {
    let last = |name: &str| name.rsplit('/').next().map(str::to_owned);
    let path = file.path.as_ref().map(|path| path.as_os_str().as_bytes());
    match (entry.path, path) {
        (Some(one), Some(other)) => one == other,
        (None, None) => entry.name == file.name,
        // A file of inbound has gone to an archive, or the other way round.
        _ => last(entry.name) == last(&file.name),
    }
}

impl NewFile {
    /// The hash of the file's bytes.
    pub(super) fn content(&self) -> ContentHash {
        self.taken.as_ref().map_or(self.hash, |taken| taken.content)
    }
}

impl Taken {
    /// The values and the content of a file's entry. `None` if the entry has no values.
    pub(super) fn from_columns(content: Option<ContentHash>, values: Option<&str>) -> Option<Self> {
        Some(Self {
            content: content?,
            values: PathValues::from_text(values?)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Likeness::{Elsewhere, Other, Retaken, Same};
    use super::*;

    #[test]
    fn the_place_decides_only_if_other_patterns_took_the_values() {
        let day = |day: &str| PathValues::from_text(&format!(r#"{{"day={{}}": "{day}"}}"#));
        let hour = || PathValues::from_text(r#"{"hour={}": null}"#);
        let at = |path: &str| Some(path.to_owned());
        for (entry, entry_at, file, file_at, expected) in [
            (None, None, None, None, Same),
            (day("1"), at("/day=1/a"), day("1"), at("/x/day=1/b"), Same),
            (day("1"), None, day("2"), None, Other),
            (day("1"), at("/day=1/a"), day("2"), at("/day=2/a"), Other),
            (None, at("/day=1/a"), day("1"), at("/day=1/a"), Retaken),
            (None, at("/day=2/a"), day("1"), at("/day=1/a"), Elsewhere),
            (hour(), at("/day=1/a"), day("1"), at("/day=1/a"), Retaken),
            (day("1"), at("/day=1/a"), None, at("/day=1/a"), Retaken),
            (None, None, day("1"), at("/history/a"), Retaken),
            (None, None, day("1"), at("/history/b"), Elsewhere),
        ] {
            let content = [7; 16];
            let identity = |values: &Option<PathValues>| {
                values.as_ref().map_or(content, |it| it.identity(content))
            };
            let new_file = NewFile {
                hash: identity(&file),
                dataset: "trips".to_owned(),
                name: file_at
                    .as_deref()
                    .map_or("a", |it| &it[it.len() - 1..])
                    .to_owned(),
                path: file_at.clone().map(Into::into),
                bytes: 1,
                records: 1,
                mark: None,
                definition: None,
                taken: file.clone().map(|values| Taken { content, values }),
            };
            let found = Identified {
                hash: identity(&entry),
                values: entry.as_ref(),
                name: "a",
                path: entry_at.as_deref().map(str::as_bytes),
            };
            let (found, about) = (likeness(&found, &new_file), (entry_at, file_at));
            assert_eq!(found, expected, "{entry:?} {file:?} {about:?}");
        }
    }
}
