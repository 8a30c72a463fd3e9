//! A container that was read: its members, and the bytes of each.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::member::{Member, Refusal, indexes};
use super::{tar, zip};
use crate::content::as_read::AsRead;
use crate::content::body::{Body, READ_BYTES_MAX, identity};
use crate::content::error::ContentError;
use crate::content::format::{NotRead, Packing};
use crate::content::inflate::InflateError;
use crate::content::opened::{Content, Found, Packed, of_body};
use crate::content::options::ContentOptions;

/// Bytes of a member that are copied at a time.
const PIECE_BYTES: u64 = 256 * 1024;

/// A container that was read and listed.
#[derive(Debug)]
pub struct Container {
    packing: Packing,
    as_read: AsRead,
    body: Arc<Body>,
    members: Vec<Member>,
    /// The index of each member, by its name.
    indexes: HashMap<OsString, usize>,
}

impl Container {
    /// Lists the members of a container.
    ///
    /// # Errors
    /// [`ContentError`]. A container is refused as a whole before a member of it is read: the reason
    /// names the first member that is not read as a file.
    pub(in crate::content) fn of(
        packed: Packed,
        options: &ContentOptions,
    ) -> Result<Self, ContentError> {
        let Packed {
            packing,
            hash,
            sample,
            body,
        } = packed;
        let refused = |refusal| match refusal {
            Refusal::Damaged(what) => ContentError::Corrupt {
                hash,
                detail: format!("{} is damaged or cut short: {what}", packing.subject()),
            },
            Refusal::Unsupported(what) => ContentError::NotPacked {
                hash,
                detail: format!("{} is not read: {what}", packing.subject()),
            },
        };
        let (body, members) = match packing {
            Packing::Tar => {
                let members = body.inspect(tar::list)?.map_err(refused)?;
                (body.in_room(options)?, members)
            }
            Packing::Zip => {
                let unpacked = body.inspect(|bytes| zip::unpack(bytes, options))?;
                unpacked.map_err(|error| match error {
                    zip::Error::Refused(refusal) => refused(refusal),
                    zip::Error::Inflate(error) => InflateError::about(error, hash),
                })?
            }
        };
        let as_read = AsRead::new(hash, hash, sample);
        let indexes = indexes(&members).map_err(refused)?;
        Ok(Self {
            packing,
            as_read,
            body: Arc::new(body),
            members,
            indexes,
        })
    }

    /// The state of the container as it was read.
    #[must_use]
    pub fn as_read(&self) -> AsRead {
        self.as_read
    }

    /// Whether its bytes are in memory, for a test.
    #[cfg(test)]
    pub(super) fn is_in_memory(&self) -> bool {
        matches!(*self.body, Body::InRoom { .. })
    }

    /// The kind of container.
    #[must_use]
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// The members, in their order in the container.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The index of the member with this name. `None` if there is none.
    pub(super) fn index(&self, name: &OsStr) -> Option<usize> {
        self.indexes.get(name).copied()
    }

    /// Opens the member with this index, as [`open_and`](crate::content::open_and) opens a file. Its identity
    /// is the hash of its own bytes; its state on the disk is that of the container.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn open_and<T: Send>(
        &self,
        member: usize,
        options: &ContentOptions,
        inspect: impl FnOnce(&[u8]) -> T + Send,
    ) -> Result<(Content, T), ContentError> {
        let member = &self.members[member];
        let body = if member.bytes() <= READ_BYTES_MAX {
            let mut buffer = Vec::new();
            let read = self.body.read(member.place.clone(), &mut buffer)?;
            Body::Memory(read.to_vec())
        } else {
            Body::Member(self.body.clone(), member.place.clone())
        };
        if let Some(damage) = &member.damage {
            return Err(ContentError::Corrupt {
                hash: body.inspect(identity)?,
                detail: damage.clone(),
            });
        }
        match of_body(body, self.as_read.sample(), options, inspect)? {
            Found::File(content, inspected) => Ok((content, inspected)),
            Found::Packed(packed) => Err(ContentError::NotRead {
                hash: packed.hash,
                format: NotRead::Nested(packed.packing),
            }),
        }
    }

    /// Passes the bytes of a member, as they are in the container, to `take` in pieces.
    ///
    /// # Errors
    /// [`ContentError`], or the error of `take`.
    pub fn copy(
        &self,
        member: usize,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ContentError> {
        let Range { mut start, end } = self.members[member].place.clone();
        let mut buffer = Vec::new();
        while start < end {
            let piece = start..end.min(start + PIECE_BYTES);
            start = piece.end;
            take(self.body.read(piece, &mut buffer)?)?;
        }
        Ok(())
    }
}
