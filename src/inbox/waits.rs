//! Files of inbound that cannot be taken now: all are counted, and the first of them named.

use std::borrow::Cow;
use std::ffi::OsString;

/// Waiting files that are named, whatever waits: enough for people, who mend the cause and not each
/// file, and a few kilobytes for a status that is asked for every second.
const NAMED_MAX: usize = 100;

/// A file of inbound that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub name: OsString,
    /// What it waits for.
    pub why: Cow<'static, str>,
}

/// The files of inbound that wait.
#[derive(Debug, Clone, Default)]
pub struct Waits {
    /// How many.
    pub files: u64,
    /// The first hundred of them.
    pub named: Vec<Waiting>,
}

impl Waits {
    /// Adds a file, and says whether it is one of those that are named.
    pub fn add(&mut self, file: Waiting) -> bool {
        self.files += 1;
        let is_named = self.named.len() < NAMED_MAX;
        if is_named {
            self.named.push(file);
        }
        is_named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_are_named() {
        let mut waits = Waits::default();
        let files = 0..NAMED_MAX + 7;
        let named = files.filter(|number| {
            waits.add(Waiting {
                name: number.to_string().into(),
                why: "open".into(),
            })
        });
        assert_eq!(named.count(), NAMED_MAX);
        assert_eq!((waits.files, waits.named.len()), (107, NAMED_MAX));
        assert_eq!(waits.named[99].name, "99");
    }
}
