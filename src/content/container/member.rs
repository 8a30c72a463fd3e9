//! The members of a container: which are read, and why a container is refused as a whole.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

/// Most members of a container. Each takes about a kilobyte until the container is settled.
const MEMBERS_MAX: usize = 65_536;

/// Most bytes of the name of a member: the ledger has no room for more, and 65,536 longer names would
/// take memory.
const NAME_BYTES_MAX: usize = 249;

/// Most segments of a name: a member that cannot be loaded is copied to quarantine under its name.
const SEGMENTS_MAX: usize = 16;

/// The next step if an archive is not all of its file.
pub(super) const IF_JOINED: &str = "if archives were joined, deliver each on its own";

/// A member of a container: a regular file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The member's path in the container, without `.` and `..`.
    pub name: OsString,
    /// Where its bytes are in the body of the container.
    pub(super) place: Range<u64>,
    /// Why its bytes are not all of the member. `None` if they are.
    pub(super) damage: Option<String>,
}

/// Why the members of a container are not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its structure is damaged or cut short.
    Damaged(String),
    /// It has a member that is not read as a file.
    Unsupported(String),
}

impl Member {
    /// The member's size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.place.end - self.place.start
    }
}

/// The name of a member, from the bytes in the container: a path below it.
pub(super) fn name_of(raw: &[u8]) -> Result<OsString, Refusal> {
    let refused = |what: &str| {
        let name = shown(OsStr::from_bytes(raw));
        Refusal::Unsupported(format!(
            "its member {name} {what}: pack it again without this member, or under another name"
        ))
    };
    if raw.contains(&0) {
        return Err(refused("has a zero byte in its name"));
    }
    if raw.len() > NAME_BYTES_MAX {
        let what = format!("has a name of more than {NAME_BYTES_MAX} bytes");
        return Err(refused(&what));
    }
    let mut name = PathBuf::new();
    for segment in Path::new(OsStr::from_bytes(raw)).components() {
        match segment {
            Component::Normal(segment) => name.push(segment),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => {
                return Err(refused("has an absolute path"));
            }
            Component::ParentDir => return Err(refused("leads out of its directory")),
        }
    }
    match name.components().count() {
        0 => Err(refused("has no name")),
        1..=SEGMENTS_MAX => Ok(name.into_os_string()),
        _ => Err(refused(&format!(
            "is more than {SEGMENTS_MAX} directories deep"
        ))),
    }
}

/// A refusal because of a member that is no file of plain bytes.
pub(super) fn refused(name: &OsStr, what: &str, next_step: &str) -> Refusal {
    Refusal::Unsupported(format!("its member {} is {what}: {next_step}", shown(name)))
}

/// The index of each member, by its name.
///
/// # Errors
/// Two members have one name, or there is no member.
pub(super) fn indexes(members: &[Member]) -> Result<HashMap<OsString, usize>, Refusal> {
    let mut indexes = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        if indexes.insert(member.name.clone(), index).is_some() {
            let name = shown(&member.name);
            let what = format!("it has the member {name} twice: pack it again with one of them");
            return Err(Refusal::Unsupported(what));
        }
    }
    if members.is_empty() {
        let what = "it holds no file: pack it again with its files".to_owned();
        return Err(Refusal::Unsupported(what));
    }
    Ok(indexes)
}

/// Checks that one more member is not too many.
pub(super) fn check_count(members: usize) -> Result<(), Refusal> {
    if members < MEMBERS_MAX {
        return Ok(());
    }
    let what = format!("it has more than {MEMBERS_MAX} members: split it");
    Err(Refusal::Unsupported(what))
}

pub(super) fn shown(name: &OsStr) -> String {
    format!("`{}`", name.to_string_lossy().escape_debug())
}
