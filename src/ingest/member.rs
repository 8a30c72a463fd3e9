//! The members of a container. Each is an item with a number, a flight and an end of its own.
//!
//! The container has one end: after the last of its members, it moves once. A member that cannot be
//! loaded is copied to quarantine and does not keep the container from history. If a member is left
//! for later, so is the container. It is read again then as a whole: members that are stored are
//! recognised by their content, and those that had ended before are not counted again.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::mem;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::outcome::Outcome;
use crate::batch::ContentHash;
use crate::content::Container;
use crate::inbox::{self, Claimed};

/// Most members in [`CountedMembers`]. Each takes a byte.
const COUNTED_MAX: usize = 1 << 20;

/// The members of containers that were left for later, by the hash of the container: whether each
/// has ended otherwise than for later. A container that waits is read again every few minutes, and
/// metrics and log would show a bad member as many. This process alone knows them, and containers
/// that were removed from inbound stay here. With more than [`COUNTED_MAX`] members, those of further
/// containers are counted again.
#[derive(Debug, Default)]
pub(super) struct CountedMembers(Mutex<HashMap<ContentHash, Vec<bool>>>);

impl CountedMembers {
    /// Takes the members of a container out. None is counted if the container was not left before.
    fn take(&self, container: &Container) -> Vec<bool> {
        let known = self.0.lock().remove(&container.as_read().hash());
        known.unwrap_or_else(|| vec![false; container.members().len()])
    }

    fn keep(&self, container: &Container, counted: Vec<bool>) {
        let mut known = self.0.lock();
        let all: usize = known.values().map(Vec::len).sum();
        if all + counted.len() <= COUNTED_MAX {
            known.insert(container.as_read().hash(), counted);
        }
    }
}

/// A member of a container.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) container: Arc<Container>,
    /// Its index in the container.
    pub(super) index: usize,
    /// This member's share of the bytes of the container. The shares of all members add up to it.
    pub(super) bytes: u64,
    /// The file that is the container.
    pub(super) file: Arc<Claimed>,
    /// Whether it ended, and was counted, when its container was read before and left for later.
    pub(super) is_counted: bool,
    ends: Arc<Mutex<Ends>>,
}

/// The ends of the members of a container.
#[derive(Debug)]
struct Ends {
    /// How many members have not ended.
    open: usize,
    /// The outcome of the container if no other member ends.
    outcome: Outcome,
    /// Whether each member was counted, by its index in the container.
    counted: Vec<bool>,
}

/// The members of a container, each as a file of its own.
pub(super) struct Members {
    pub(super) members: Vec<(Claimed, Member)>,
    /// The names of members that are passed over.
    pub(super) passed_over: Vec<OsString>,
}

impl Members {
    /// The members of `container`, which is `file`. Those whose last segment of the name
    /// `is_passed_over` are left out.
    ///
    /// # Errors
    /// The ledger cannot hold the name of a member, or no member is left. Holds the reason.
    pub(super) fn of(
        container: &Arc<Container>,
        file: &Claimed,
        is_passed_over: impl Fn(&OsStr) -> bool,
        counted: &CountedMembers,
    ) -> Result<Self, String> {
        let (mut listed, mut passed_over) = (Vec::new(), Vec::new());
        for (index, member) in container.members().iter().enumerate() {
            let mut segments = Path::new(&member.name).iter();
            if segments.any(&is_passed_over) {
                passed_over.push(member.name.clone());
                continue;
            }
            let name = Path::new(&file.name).join(&member.name);
            if name.to_str().and_then(inbox::exact_name).is_none() {
                return Err(format!(
                    "the name of its member `{}` is not UTF-8, or too long for the ledger beside \
                     the name of the archive: pack it again under another name",
                    member.name.to_string_lossy().escape_debug()
                ));
            }
            listed.push((index, name.into_os_string(), member));
        }
        let all: u64 = listed.iter().map(|(.., member)| member.bytes()).sum();
        let share = |bytes: u64| {
            let share = u128::from(file.bytes) * u128::from(bytes) / u128::from(all.max(1));
            u64::try_from(share).expect("at most the bytes of the container")
        };
        let counted = counted.take(container);
        let ends = Arc::new(Mutex::new(Ends {
            open: listed.len(),
            outcome: Outcome::Settled,
            counted: counted.clone(),
        }));
        let whole = Arc::new(file.clone());
        let mut before = 0;
        let as_file = |(index, name, member): (usize, OsString, &crate::content::Member)| {
            let after = before + member.bytes();
            let bytes = share(after) - share(before);
            before = after;
            let claimed = Claimed {
                name,
                path: file.path.join(&member.name),
                bytes: member.bytes(),
                ..file.clone()
            };
            let member = Member {
                container: container.clone(),
                index,
                bytes,
                file: whole.clone(),
                is_counted: counted[index],
                ends: ends.clone(),
            };
            (claimed, member)
        };
        let members: Vec<_> = listed.into_iter().map(as_file).collect();
        if members.is_empty() {
            let passed_over = passed_over.len();
            return Err(format!(
                "all of its {passed_over} members are passed over, since their names are hidden, \
                 temporary or those of markers: pack it again under other names"
            ));
        }
        Ok(Self {
            members,
            passed_over,
        })
    }
}

impl Member {
    /// Notes the end of this member. Returns the outcome of the container if this was its last one.
    pub(super) fn end(&self, outcome: &Outcome, counted: &CountedMembers) -> Option<Outcome> {
        let mut ends = self.ends.lock();
        ends.open -= 1;
        match outcome {
            Outcome::Left(_) if ends.outcome == Outcome::Settled => ends.outcome = outcome.clone(),
            Outcome::Left(_) => {}
            _ => ends.counted[self.index] = true,
        }
        if ends.open > 0 {
            return None;
        }
        if ends.outcome != Outcome::Settled {
            counted.keep(&self.container, mem::take(&mut ends.counted));
        }
        Some(ends.outcome.clone())
    }
}
