//! The chunks of a file that must be parsed, because the ledger lacks their records, and their
//! order.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::{ContentHash, SourceFile};
use crate::content::Content;
use crate::coverage;
use crate::cut::{Chunk, Plan};
use crate::dataset::{Dataset, FileValues};
use crate::worker::COMMIT_RECORDS;

/// Chunks of a file that must be parsed and published.
pub(super) struct Job {
    pub(super) file_no: u32,
    /// The identity of the file.
    pub(super) hash: ContentHash,
    /// What columns take from the file besides its bytes. `None` if they take nothing.
    pub(super) values: Option<Arc<FileValues>>,
    pub(super) dataset: Arc<Dataset>,
    pub(super) content: Arc<Content>,
    pub(super) chunks: Vec<Chunk>,
}

impl Job {
    /// The number and the identity of the file, for its frames.
    pub(super) fn source_file(&self) -> SourceFile {
        SourceFile {
            file_no: self.file_no,
            hash: self.hash,
        }
    }
}

/// The chunks of a plan with a record that the ledger lacks.
pub(super) fn missing_chunks(plan: &Plan, covered: &[Range<u64>]) -> Vec<Chunk> {
    let ordinals = |chunk: &Chunk| {
        let first = u64::from(chunk.first_ordinal);
        first..first + u64::from(chunk.records)
    };
    let missing = plan
        .chunks
        .iter()
        .filter(|chunk| !coverage::holds(covered, &ordinals(chunk)));
    missing.cloned().collect()
}

/// The chunks of a file in the order in which they are parsed: the file is divided into `strands`
/// parts, and each part in turn gives as many chunks as one transaction takes. So the workers
/// insert at distant places of the primary key, where connections wait less for each other.
pub(super) fn in_strands(chunks: &[Chunk], strands: usize) -> impl Iterator<Item = Chunk> {
    let strand = chunks.len().div_ceil(strands).max(1);
    let mut rests: Vec<&[Chunk]> = chunks.chunks(strand).collect();
    let mut order = Vec::with_capacity(chunks.len());
    while order.len() < chunks.len() {
        for rest in &mut rests {
            let mut records = 0;
            let more = rest.iter().take_while(|chunk| {
                records += u64::from(chunk.records);
                records <= u64::from(COMMIT_RECORDS)
            });
            let (now, later) = rest.split_at(more.count().max(1).min(rest.len()));
            order.extend_from_slice(now);
            *rest = later;
        }
    }
    order.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::Layout;

    fn chunks(count: u32, records: u32) -> Vec<Chunk> {
        let chunk = |at| Chunk {
            start: u64::from(at) * 100,
            end: u64::from(at + 1) * 100,
            first_ordinal: at * records,
            records,
            layout: Layout::Lines,
            around: None,
        };
        (0..count).map(chunk).collect()
    }

    #[test]
    fn strands_take_turns_by_transactions() {
        let order: Vec<u32> = in_strands(&chunks(14, COMMIT_RECORDS / 2), 3)
            .map(|chunk| chunk.start as u32 / 100)
            .collect();
        assert_eq!(order, [0, 1, 5, 6, 10, 11, 2, 3, 7, 8, 12, 13, 4, 9]);
    }

    #[test]
    fn strands_lose_no_chunk_and_keep_one_strand_in_order() {
        for count in [0, 1, 2, 5, 100] {
            for records in [1, COMMIT_RECORDS / 3, COMMIT_RECORDS, COMMIT_RECORDS + 1] {
                let chunks = chunks(count, records);
                assert!(in_strands(&chunks, 1).eq(chunks.iter().cloned()));
                for strands in [2, 3, 64] {
                    let mut order: Vec<Chunk> = in_strands(&chunks, strands).collect();
                    order.sort_by_key(|chunk| chunk.start);
                    assert_eq!(order, chunks, "{strands} strands of {records} records");
                }
            }
        }
    }
}
