//! The part of the seam that erases single records: their rows, rejects and texts, with a mark in the
//! ledger, and the bytes that stand for a file of which records were erased.
//!
//! Knows no files. The bytes in history are made blank by the command, which records their new hash
//! before it replaces the file, and removes the former one after it.

use async_trait::async_trait;

use crate::batch::ContentHash;
use crate::dataset::Datasets;
use crate::fault::Fault;

use super::Standing;

/// The operations that erase records. Contract and errors: see [`sink`](super).
#[async_trait]
pub trait Erasures: Send + Sync {
    /// Erases a record of a settled file, in one transaction: its row with its entry of the summary,
    /// its reject, the text of its replay, and what names the row that supersedes it. A mark stays. A
    /// frame that is delivered again does not bring the record back. A record that is erased already
    /// does not change.
    ///
    /// Fatal, with nothing changed, if the file is not settled, if its definition is not known, if
    /// several rows have the id, if the table does not let the row be removed, or while a partition of
    /// the table is being removed.
    async fn erase(&self, id: u64, datasets: &Datasets) -> Result<Erasure, Fault>;

    /// The ordinals of the erased records of a file, ascending.
    async fn erased(&self, file_no: u32) -> Result<Vec<u32>, Fault>;

    /// The numbers of the files whose bytes have this hash, ascending: one for each dataset and for each
    /// set of values of the path.
    async fn with_content(&self, content: ContentHash) -> Result<Vec<u32>, Fault>;

    /// Records that bytes with this hash stand for a content, beside those that do already.
    async fn begin_blank(&self, blank: Blank) -> Result<(), Fault>;

    /// Records that only these bytes stand for a content, and that the erased records of these files are
    /// blank in them.
    async fn end_blank(&self, blank: Blank, file_nos: &[u32]) -> Result<(), Fault>;
}

/// What was erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// What the record was.
    pub was: Standing,
    /// The records that its row superseded, by file: they are missing now.
    pub superseded: Vec<(u32, u64)>,
}

/// Bytes that stand for a content of which records were erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blank {
    /// The hash of the bytes as they were delivered.
    pub content: ContentHash,
    /// The hash of the bytes in which the records are blank.
    pub hash: ContentHash,
    /// How many they are.
    pub bytes: u64,
}

/// What the ledger knows of bytes that were read, because records of their file were erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownBytes {
    /// Hash and size of the bytes.
    pub blank: Blank,
    /// Whether a file with the content is settled.
    pub is_settled: bool,
}

/// The bytes of a file of which records were erased, or whose bytes another file shares of which some
/// were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErasedBytes {
    /// Hash and size of each bytes that stand for those that were delivered.
    pub stand_ins: Vec<(ContentHash, u64)>,
    /// Whether the erased records of the file are blank in history. `None` if it has none.
    pub is_blank: Option<bool>,
}

impl ErasedBytes {
    /// From the columns of [`columns`]: `HASH:BYTES,…`, and whether all erased records are blank.
    pub(super) fn from_columns(contents: Option<&str>, is_blank: Option<bool>) -> Self {
        let parsed = |pair: &str| {
            let (hash, bytes) = pair.split_once(':')?;
            let hash = u128::from_str_radix(hash, 16).ok()?.to_be_bytes();
            Some((hash, bytes.parse().ok()?))
        };
        let pairs = contents.unwrap_or_default().split(',');
        Self {
            stand_ins: pairs.filter_map(parsed).collect(),
            is_blank,
        }
    }

    /// The only bytes in which all erased records are blank. `None` if a record was erased and its bytes
    /// are not blank yet.
    #[must_use]
    pub fn blank(&self) -> Option<ContentHash> {
        match (self.is_blank, self.stand_ins.as_slice()) {
            (Some(true), [(hash, _)]) => Some(*hash),
            _ => None,
        }
    }
}

/// Two columns for a query of files, in the dialect whose expression for the text of a pair is `pair`,
/// with `ingest_files f LEFT JOIN ingest_identities i`.
pub(super) fn columns(pair: &str) -> String {
    format!(
        "(SELECT GROUP_CONCAT({pair}) FROM ingest_erased_contents c WHERE c.content = \
         COALESCE(i.content, f.hash)), (SELECT MIN(blanked_at IS NOT NULL) FROM ingest_erased z WHERE \
         z.file_no = f.file_no)"
    )
}

/// The query, for both dialects, for what the ledger knows of bytes. `list` has their hashes.
pub(super) fn known_bytes(list: &str) -> String {
    format!(
        "SELECT c.content, c.hash, c.bytes, EXISTS (SELECT 1 FROM ingest_files f LEFT JOIN \
         ingest_identities i ON i.hash = f.hash WHERE f.state = 'settled' AND COALESCE(i.content, f.hash) = \
         c.content) FROM (SELECT content, hash, bytes FROM ingest_erased_contents WHERE content IN ({list}) \
         UNION SELECT content, hash, bytes FROM ingest_erased_contents WHERE hash IN ({list})) c"
    )
}

/// The query, for both dialects, for [`Erasures::with_content`].
pub(super) fn with_content(hash: &str) -> String {
    format!(
        "SELECT file_no FROM ingest_files WHERE hash = {hash} UNION SELECT f.file_no FROM \
         ingest_identities i JOIN ingest_files f ON f.hash = i.hash WHERE i.content = {hash} ORDER BY 1"
    )
}

/// The query, for both dialects, for the ordinals of [`Erasures::erased`].
pub(super) fn erased(file_no: u32) -> String {
    format!("SELECT ordinal FROM ingest_erased WHERE file_no = {file_no} ORDER BY ordinal")
}

/// The query, for both dialects, for the records that a row supersedes, by file.
pub(super) fn superseded_by(id: u64) -> String {
    format!(
        "SELECT file_no, COUNT(*) FROM ingest_superseded WHERE winner = {id} GROUP BY file_no ORDER BY \
         file_no"
    )
}

/// A hash as a literal, the same in both dialects.
pub(super) fn literal(hash: ContentHash) -> String {
    format!("x'{:032x}'", u128::from_be_bytes(hash))
}

/// The next step if a file is not settled.
pub(super) const NOT_SETTLED: &str =
    "wait until it is loaded, or run `task_runner files forget`, and then erase the record";

/// The next step while a partition is being removed.
pub(super) const BEING_RETIRED: &str = "run this again when `task_runner retain` is done";

/// The problem of a file that is not settled.
pub(super) fn not_settled(file_no: u32) -> String {
    format!("file {file_no} is not settled, so its records may be stored again")
}

/// The problem while a partition of a table is being removed.
pub(super) fn being_retired(table: &str) -> String {
    format!("a partition of the table `{table}` is being removed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_content_in_which_all_is_blank_is_blank() {
        let hash = |byte| [byte; 16];
        let text = |byte: u8| format!("{:032X}:7", u128::from_be_bytes(hash(byte)));
        let both = format!("{},{}", text(1), text(0xab));
        for (contents, is_blank, stand_ins, blank) in [
            (None, None, vec![], None),
            (Some(text(1)), Some(true), vec![(hash(1), 7)], Some(hash(1))),
            (Some(text(1)), Some(false), vec![(hash(1), 7)], None),
            (Some(text(1)), None, vec![(hash(1), 7)], None),
            (
                Some(both),
                Some(true),
                vec![(hash(1), 7), (hash(0xab), 7)],
                None,
            ),
        ] {
            let erased = ErasedBytes::from_columns(contents.as_deref(), is_blank);
            assert_eq!(erased.stand_ins, stand_ins);
            assert_eq!(erased.blank(), blank, "{contents:?} {is_blank:?}");
        }
    }
}
