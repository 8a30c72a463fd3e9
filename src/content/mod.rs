//! The bytes of a file: read, mapped or inflated, with their identity.
//!
//! A small file is read into memory. A large file is mapped while all of it is hashed and cut, and
//! then read chunk by chunk. A read lease makes writers of the file wait for a while. If the file
//! system gives no lease, the engine reads a private copy of the file. Each read checks afterwards
//! that the file has not changed since it was opened. A file that is truncated while it is mapped,
//! or a page that the device does not return, is an error and does not end the process (see
//! `mapping`).
//!
//! Compressed files are recognised by their magic bytes and inflated up to a limit. Large results go
//! to an unlinked file in the work directory, which stops at the disk floor. Memory does not grow
//! with the file.
//!
//! The only `unsafe` of the crate is in `regular` and `mapping`. This module knows nothing of
//! records, and moves no file.

mod as_read;
mod blank;
mod body;
mod compact;
mod container;
mod error;
mod format;
mod inflate;
mod mapping;
mod opened;
mod options;
mod regular;
mod room;
mod spill;
mod stored;

use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;

pub use as_read::AsRead;
pub use blank::{is_blank, write_blank};
pub use body::Hasher;
use body::read_or_hold;
pub use compact::{
    Compacted, compacted, identity_of_compacted, is_text, may_shrink, write_compacted,
    write_inflated,
};
pub use container::{Container, Keeping, Member, located};
pub use error::ContentError;
use format::Format;
pub use format::{BEGINNING_BYTES, Compression, NotRead, Packing};
pub use opened::Content;
use opened::{Found, of_body};
pub use options::ContentOptions;
pub use regular::{Sample, Stamp, Writers, free_bytes, mark, open_regular, state, writers};
pub(crate) use regular::{sample, stamp};
pub use room::{Room, Windows};

/// Opens a file and computes its identity.
///
/// # Errors
/// [`ContentError`].
pub fn open(path: &Path, options: &ContentOptions) -> Result<Content, ContentError> {
    open_and(path, options, |_| ()).map(|(content, ())| content)
}

/// Opens a file, computes its identity, and passes all of its inflated bytes to `inspect`. A large
/// file is inspected while it is hashed. The result of `inspect` is dropped if the file changed
/// meanwhile. The path may lead to a member of a container: see [`located`].
///
/// # Errors
/// [`ContentError`]; [`ContentError::NotRead`] if the file is a container.
pub fn open_and<T: Send>(
    path: &Path,
    options: &ContentOptions,
    inspect: impl FnOnce(&[u8]) -> T + Send,
) -> Result<(Content, T), ContentError> {
    match open_any(path, options, inspect)? {
        Opened::File(content, inspected) => Ok((content, inspected)),
        Opened::Container(container) => Err(ContentError::NotRead {
            hash: container.as_read().hash(),
            format: NotRead::Packed(container.packing()),
        }),
    }
}

/// A file that was opened: what is in it.
#[derive(Debug)]
pub enum Opened<T> {
    /// A file of records, and the result of its inspection.
    File(Content, T),
    /// A container, whose members are files of their own.
    Container(Arc<Container>),
}

/// As [`open_and`], but a container is opened as such.
///
/// # Errors
/// [`ContentError`].
pub fn open_any<T: Send>(
    path: &Path,
    options: &ContentOptions,
    inspect: impl FnOnce(&[u8]) -> T + Send,
) -> Result<Opened<T>, ContentError> {
    let (stored, sample) = match read_or_hold(path, options) {
        Err(ContentError::Io(error)) if error.kind() == ErrorKind::NotADirectory => {
            let (content, inspected) = container::open_member(path, options, inspect)?;
            return Ok(Opened::File(content, inspected));
        }
        held => held?,
    };
    match of_body(stored, sample, options, inspect)? {
        Found::File(content, inspected) => Ok(Opened::File(content, inspected)),
        Found::Packed(packed) => {
            let container = Container::of(packed, options)?;
            Ok(Opened::Container(Arc::new(container)))
        }
    }
}

/// The container at a path. `None` if the file is none. A file of plain text is not read.
///
/// # Errors
/// [`ContentError`].
pub fn container(
    path: &Path,
    options: &ContentOptions,
) -> Result<Option<Arc<Container>>, ContentError> {
    let (file, _) = open_regular(path)?;
    let mut beginning = Vec::new();
    file.take(BEGINNING_BYTES as u64)
        .read_to_end(&mut beginning)?;
    if !is_compressed(&beginning) {
        return Ok(None);
    }
    container::opened(path.to_owned(), options)
}

/// Whether the first bytes of a file show that it is not text: the file is compressed, or has a
/// format that the engine does not read. [`BEGINNING_BYTES`] bytes are enough.
#[must_use]
pub fn is_compressed(beginning: &[u8]) -> bool {
    Format::of(beginning) != Format::Plain
}

#[cfg(test)]
mod tests;
