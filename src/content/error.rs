//! Why the bytes of a file cannot be read.

use std::io;

use super::format::NotRead;
use crate::batch::ContentHash;

/// Why the bytes of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The path is not a regular file (a link, a directory, a pipe).
    #[error("not a regular file")]
    NotRegular,
    /// A process has the file open for writing, or changed it while it was read. A later attempt
    /// may succeed.
    #[error("the file is still being written")]
    Busy,
    /// The file is compressed, and its data is damaged or inflates to more than the limit.
    #[error("{detail}")]
    Corrupt {
        /// The identity of the file.
        hash: ContentHash,
        /// The damage: a message for people.
        detail: String,
    },
    /// The file has a format that the engine does not read.
    #[error("{format}")]
    NotRead {
        /// The identity of the file.
        hash: ContentHash,
        /// The format of the file.
        format: NotRead,
    },
    /// The file is a container with a member that is not read as a file, or without a member.
    #[error("{detail}")]
    NotPacked {
        /// The identity of the container.
        hash: ContentHash,
        /// The member, why it is not read, and the next step.
        detail: String,
    },
    /// A system call failed. EIO if the device did not return all bytes and no process changed the
    /// file.
    #[error("{0}")]
    Io(#[from] io::Error),
}
