//! The counts of the stored records of a file, and where a record is stored.

/// The counts of the stored records of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Audit {
    /// The number of the file.
    pub file_no: u32,
    /// Rows with an id of this file.
    pub rows: u64,
    /// Rejects of this file.
    pub rejects: u64,
    /// Purged rejects that did not become rejects again.
    pub purged: u64,
    /// Records that the row of another record with the same key supersedes.
    pub superseded: u64,
    /// Records that were erased.
    pub erased: u64,
    /// Records whose rows are no longer kept: they were removed with their partition.
    pub retired: u64,
    /// Records that are more than one of these: row, reject, purged reject, superseded or erased record.
    pub doubled: u64,
    /// The largest ordinal of these records.
    pub last_ordinal: Option<u32>,
    /// Ledger entries. A settled file must have none.
    pub entries: u64,
}

impl Audit {
    /// How many records of the file are a row, a reject, a purged reject, superseded, erased or retired.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let others = self.purged + self.superseded + self.erased + self.retired;
        self.rows + self.rejects + others - self.doubled
    }

    /// An ordinal beyond the end of a file with this many records. Another program wrote its row, which
    /// counts as a record, so that one may be missing whatever the sum is.
    #[must_use]
    pub fn beyond(&self, records: u32) -> Option<u32> {
        self.last_ordinal.filter(|last| *last >= records)
    }
}

/// Where a record is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The record is a row of its dataset's table.
    Row,
    /// The record is a reject.
    Reject,
    /// The record was a reject that has been purged.
    Purged,
    /// The row with this id has the key of the record, and the record has none.
    Superseded(u64),
    /// The row of the record is no longer kept: it was removed with its partition.
    Retired,
    /// The record was erased.
    Erased,
    /// The record is not stored yet, or was lost.
    Absent,
}
