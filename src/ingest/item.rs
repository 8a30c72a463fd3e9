//! A file on its way through ingest, and the outcome of reading it.

use std::iter;
use std::sync::Arc;

use tokio::time::Instant;

use super::member::Member;
use super::part::Part;
use super::reason::QuarantineReason;
use crate::batch::ContentHash;
use crate::content::{self, AsRead, Content};
use crate::cut::Plan;
use crate::dataset::{Dataset, FileValues, PathValues};
use crate::inbox::{Claimed, WaitReason};
use crate::sink::{NewFile, Taken};
use crate::telemetry::traces::Trail;

/// Longest file name in the ledger, in bytes: the width of the column `name`.
const NAME_BYTES_MAX: usize = 255;

/// A file to load. Once it is read, and if it holds the records of several datasets, it becomes
/// several items, one for each dataset.
#[derive(Debug, Clone)]
pub struct Item {
    /// The file.
    pub file: Claimed,
    /// The source of the file, which decides where it goes at its end.
    pub origin: ItemOrigin,
    /// When the file arrived in inbound. For a file of an archive: when intake took it. The time to
    /// load a file counts from here.
    pub found_at: Instant,
    /// The state of the file as it was read. `None` before it is read.
    pub as_read: Option<AsRead>,
    /// The member of a container that this item is. `None` if it is a file itself.
    pub(super) member: Option<Member>,
    /// Whether the file is a container, whose members are other items.
    pub(super) is_container: bool,
    /// The part of the file that this item is. `None` if it is the whole file.
    pub(super) part: Option<Part>,
    /// How many of its bytes the tally has counted.
    pub(super) bytes_done: u64,
    /// What its spans will say. `None` before it is read, and if no spans are kept.
    pub(super) trail: Option<Box<Trail>>,
}

/// The source of an item, which decides where its file goes at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemOrigin {
    /// Inbound. The file goes to history or quarantine.
    Mailbox,
    /// Work, where an earlier run left the file. It goes to history or quarantine. If the ledger
    /// covers all of it, the file counts as settled and not as a duplicate: the earlier run stored
    /// it and ended before it moved the file.
    Recovered,
    /// An archive. The file stays in its place.
    Archive,
}

impl Item {
    /// An item that was not read yet.
    pub(super) fn new(file: Claimed, origin: ItemOrigin, found_at: Instant) -> Self {
        Self {
            file,
            origin,
            found_at,
            as_read: None,
            member: None,
            is_container: false,
            part: None,
            bytes_done: 0,
            trail: None,
        }
    }

    /// The items of the members of this item, which is a container.
    pub(super) fn of_members(&self, members: Vec<(Claimed, Member)>) -> Vec<Self> {
        let item = |(file, member)| Self {
            member: Some(member),
            ..Self::new(file, self.origin, self.found_at)
        };
        members.into_iter().map(item).collect()
    }

    /// The container of this item at its end. `None` if the item is no member.
    pub(super) fn container(&self) -> Option<Self> {
        let member = self.member.as_ref()?;
        let file = Claimed::clone(&member.file);
        Some(Self {
            as_read: Some(member.container.as_read()),
            is_container: true,
            ..Self::new(file, self.origin, self.found_at)
        })
    }

    /// The bytes of the file, of the member in its container, or of the part of either. The bytes of
    /// a member are its share of the container on the disk.
    pub(super) fn bytes(&self) -> u64 {
        match (&self.part, &self.member) {
            (Some(part), _) => part.bytes,
            (None, Some(member)) => member.bytes,
            (None, None) => self.file.bytes,
        }
    }

    /// Whether this is a member that was counted when its container was read before.
    pub(super) fn is_counted(&self) -> bool {
        self.member.as_ref().is_some_and(|member| member.is_counted)
    }

    /// The bytes that the tally has not counted.
    pub(super) fn bytes_left(&self) -> u64 {
        self.bytes().saturating_sub(self.bytes_done)
    }

    /// The ledger entry of this file. A name of more than [`NAME_BYTES_MAX`] is cut at the boundary
    /// of a character.
    pub(super) fn new_file(
        &self,
        dataset: Option<&Dataset>,
        identity: &Identity,
        records: u32,
    ) -> NewFile {
        let mut name = self.file.name.to_string_lossy().into_owned();
        let end = (0..=NAME_BYTES_MAX.min(name.len()))
            .rev()
            .find(|&at| name.is_char_boundary(at));
        name.truncate(end.unwrap_or(0));
        // An absolute path cannot be made if the current directory was removed.
        let path = (self.origin == ItemOrigin::Archive)
            .then(|| std::path::absolute(&self.file.path).ok())
            .flatten();
        NewFile {
            hash: identity.hash,
            taken: identity.taken.clone(),
            dataset: dataset.map_or(String::new(), |dataset| dataset.name.clone()),
            definition: dataset.map(|dataset| dataset.fingerprint),
            name,
            path,
            bytes: self.file.bytes,
            records,
            mark: self.as_read.map(|as_read| content::mark(&as_read.sample())),
        }
    }
}

/// The identity of a file, or of its records of one dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The identity.
    pub(super) hash: ContentHash,
    /// What it consists of. `None` if it is the hash of the file's bytes.
    pub(super) taken: Option<Taken>,
}

impl Identity {
    /// The identity of a file whose bytes have the hash `content`.
    pub(super) fn new(content: ContentHash, values: PathValues) -> Self {
        Self {
            hash: values.identity(content),
            taken: (!values.is_empty()).then_some(Taken { content, values }),
        }
    }

    /// The hash of the file's bytes.
    pub(super) fn content(&self) -> ContentHash {
        self.taken.as_ref().map_or(self.hash, |taken| taken.content)
    }

    /// The values that the columns of `dataset` take from the file. `None` if they take none.
    pub(super) fn values(
        &self,
        dataset: &Dataset,
        registered_at_us: i64,
    ) -> Option<Arc<FileValues>> {
        let path = || self.taken.as_ref().map(|taken| taken.values.clone());
        dataset.takes_of_file().then(|| {
            Arc::new(FileValues {
                path: path().unwrap_or_default(),
                loaded_at_us: dataset.takes_time().then_some(registered_at_us),
            })
        })
    }
}

/// The outcome of reading a file.
pub(super) enum ReadOutcome {
    /// The file can be loaded.
    Ready(ReadyFile),
    /// The file goes to quarantine.
    Bad(BadFile),
    /// The file goes back to its source, and is read again later.
    Later { item: Item, reason: WaitReason },
    /// The file is a container. Its members are read instead of it.
    Members(Vec<Item>),
}

/// A file that was read, identified and cut.
pub(super) struct ReadyFile {
    pub(super) item: Item,
    pub(super) content: Arc<Content>,
    /// The datasets whose records the file holds, at least one, each with their places.
    pub(super) plans: Vec<(Arc<Dataset>, Identity, Plan)>,
    /// The datasets that take the file by its name and have nothing in it.
    pub(super) unmet: Vec<Arc<Dataset>>,
    /// The datasets with a limit that the file is beyond, by their place in `plans`.
    pub(super) beyond: Vec<(usize, QuarantineReason)>,
}

/// The records of one dataset in a file that was read: all of the file, or a part of it.
pub(super) struct ReadyPart {
    pub(super) item: Item,
    pub(super) dataset: Arc<Dataset>,
    pub(super) identity: Identity,
    pub(super) content: Arc<Content>,
    pub(super) plan: Arc<Plan>,
}

impl ReadyFile {
    /// One part for each dataset.
    pub(super) fn into_parts(self) -> impl Iterator<Item = ReadyPart> {
        let Self {
            item,
            content,
            plans,
            unmet: _,
            beyond: _,
        } = self;
        // Most files have one dataset, and cost no allocation here.
        let mut parts = Vec::new();
        if plans.len() > 1 {
            let records: Vec<u32> = plans.iter().map(|(.., plan)| plan.records).collect();
            parts = Part::divide(item.bytes(), &records);
        }
        let parts = parts.into_iter().map(Some).chain(iter::repeat(None));
        let items = iter::repeat_n(item, plans.len()).zip(parts);
        items
            .zip(plans)
            .map(move |((mut item, part), (dataset, identity, plan))| {
                item.part = part;
                if let Some(trail) = &mut item.trail {
                    trail.hash = Some(identity.hash);
                    trail.records = Some(plan.records);
                }
                ReadyPart {
                    item,
                    dataset,
                    identity,
                    content: content.clone(),
                    plan: Arc::new(plan),
                }
            })
    }
}

/// A file that goes to quarantine.
pub(super) struct BadFile {
    pub(super) item: Item,
    /// `None` if no dataset takes it.
    pub(super) dataset: Option<Arc<Dataset>>,
    /// The identity of the file. `None` if the ledger gets no entry of it.
    pub(super) identity: Option<Identity>,
    pub(super) reason: QuarantineReason,
}
