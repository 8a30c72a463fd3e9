//! Gathers records into chunks, each as large as the limits allow.

use super::plan::{Chunk, ChunkLimits, Layout, Plan, Unreadable, malformed};
use crate::syntax::trim;

/// The chunks of one run of records while it is scanned.
pub(super) struct Chunker<'a> {
    bytes: &'a [u8],
    limits: ChunkLimits,
    layout: Layout,
    chunks: Vec<Chunk>,
    /// Where the open chunk begins, including the whitespace before it.
    start: usize,
    /// Where the next record begins, including the whitespace before it.
    pub(super) record_start: usize,
    /// Where the last record ended, before its separator.
    record_end: usize,
    /// Ordinal of the first record of the open chunk. 64 bits, since more than 2^32 records are
    /// refused only at the end, by [`Records::plan`].
    first: u64,
    /// How many records have ended.
    pub(super) count: u64,
}

impl<'a> Chunker<'a> {
    pub(super) fn new(bytes: &'a [u8], start: usize, limits: ChunkLimits, layout: Layout) -> Self {
        Self {
            bytes,
            limits,
            layout,
            chunks: Vec::new(),
            start,
            record_start: start,
            record_end: start,
            first: 0,
            count: 0,
        }
    }

    /// A record ends at `end`; the next one begins at `next`, after the separator if there is one.
    #[inline]
    pub(super) fn end_record(&mut self, end: usize, next: usize) {
        if end - self.start > self.limits.bytes && self.count > self.first {
            self.close(self.record_end);
            self.start = self.record_start;
        }
        self.count += 1;
        self.record_end = end;
        self.record_start = next;
        if self.count - self.first >= u64::from(self.limits.records) {
            self.close(end);
            self.start = next;
        }
    }

    /// Ends the open chunk before the separator at `end`, if it holds records. The casts to 32 bits
    /// lose nothing: [`Records::plan`] refuses a file with more records.
    pub(super) fn close(&mut self, end: usize) {
        if self.count == self.first {
            return;
        }
        let mut place = trim(self.bytes, self.start..end);
        // The place of an empty record of an array is the end of its blanks. So a chunk that ends
        // with an empty record keeps the blanks: otherwise the place would depend on the limits of
        // chunks.
        if self.layout == Layout::Array && self.bytes[place.clone()].ends_with(b",") {
            place.end = end;
        }
        self.chunks.push(Chunk {
            start: place.start as u64,
            end: place.end as u64,
            first_ordinal: self.first as u32,
            records: (self.count - self.first) as u32,
            layout: self.layout,
            around: None,
        });
        self.first = self.count;
    }

    /// The plan, once the last chunk is closed.
    pub(super) fn plan(self) -> Result<Plan, Unreadable> {
        let bytes = self.bytes;
        self.finish().plan(bytes)
    }

    /// The records, once the last chunk is closed.
    pub(super) fn finish(self) -> Records {
        assert_eq!(self.first, self.count, "each record is in a chunk");
        Records {
            chunks: self.chunks,
            count: self.count,
        }
    }
}

/// The chunks of records that were found, in the order of the file.
#[derive(Default)]
pub(super) struct Records {
    pub(super) chunks: Vec<Chunk>,
    /// How many records the chunks have.
    pub(super) count: u64,
}

impl Records {
    /// The plan of these chunks; `bytes` is the file.
    ///
    /// # Errors
    /// [`Unreadable::Malformed`] if a file cannot hold so many records.
    pub(super) fn plan(self, bytes: &[u8]) -> Result<Plan, Unreadable> {
        let Self { chunks, count } = self;
        let records = u32::try_from(count).map_err(|_| {
            let detail = format!("{count} records: a file holds at most {}", u32::MAX);
            malformed(bytes.len(), detail)
        })?;
        Ok(Plan { records, chunks })
    }
}
