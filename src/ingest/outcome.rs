//! How an item ends, and the directory that its file goes to.

use std::sync::Arc;

use crate::inbox::WaitReason;

/// How an item ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All records are stored: the file goes to history.
    Settled,
    /// The ledger had the content before: the file goes to history.
    Duplicate,
    /// The file cannot be loaded and goes to quarantine. Holds the code of the reason, and its
    /// text.
    Quarantined(&'static str, Arc<str>),
    /// The file is loaded later: it goes back to inbound. Holds the reason.
    Left(WaitReason),
}

/// The directory that a file goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    History,
    Quarantine,
    Inbound,
}

impl Outcome {
    /// The outcome of a file whose content the ledger had before. All files without records have the
    /// same content or mean the same, so none of them is reported as a copy of another.
    pub(super) fn of_copy(records: u32) -> Self {
        if records == 0 {
            Self::Settled
        } else {
            Self::Duplicate
        }
    }

    pub(super) fn destination(&self) -> Destination {
        match self {
            Self::Settled | Self::Duplicate => Destination::History,
            Self::Quarantined(..) => Destination::Quarantine,
            Self::Left(_) => Destination::Inbound,
        }
    }

    /// Which of the outcomes of several parts decides for their file: that of the highest rank.
    ///
    /// A file goes to history only if all of its parts may. A part in quarantine needs an operator,
    /// so its file does not go back to inbound, where it would be taken again.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Duplicate => 0,
            Self::Settled => 1,
            Self::Left(_) => 2,
            Self::Quarantined(..) => 3,
        }
    }
}
