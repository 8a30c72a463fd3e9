//! Secondary indexes that a load drops before it and builds after it: the contract, and the
//! estimate whether that is faster.
//!
//! An index whose pages do not fit into the buffer pool costs a read of the disk for most rows that
//! are inserted. Built afterwards, it is sorted first and written once.
//!
//! Exactly-once does not depend on these indexes: it rests on the primary key and on the ledger.
//! Unique keys are never dropped, since they reject rows.

use std::fmt;

use async_trait::async_trait;

use crate::dataset::Datasets;
use crate::fault::Fault;

/// Indexes leave the buffer pool when their entries take more than this share of it. The rest of the
/// pool has the pages of the rows.
const POOL_SHARE: f64 = 0.5;

/// The rows to come must be at least this part of the rows of the table: a build reads all of them.
/// An insert into an index that has left the pool costs about four times as much as a row of a
/// build.
const ROWS_TO_COME_SHARE: f64 = 0.5;

/// Bytes of JSON of a record, where the ledger has no files to compute it from.
const RECORD_BYTES: f64 = 250.0;

/// Fewest records of a dataset in the ledger for an average.
const RECORDS_MIN: u64 = 1_000;

/// The deferral of indexes. The defaults are those of a database that cannot defer them.
#[async_trait]
pub trait Indexes: Send + Sync {
    /// Takes charge of the deferred indexes: at most one process has it, until
    /// [`leave_indexes`](Self::leave_indexes) or its end. Forgets entries of indexes that exist.
    /// Does nothing if this process has it.
    async fn take_indexes(&self) -> Result<Charge, Fault> {
        Ok(Charge::Unsupported(
            "SQLite builds an index in one transaction, in which no other process can write",
        ))
    }

    /// Ends the charge of this process. Does nothing if it has none.
    async fn leave_indexes(&self) {}

    /// The tables of the datasets that have indexes which can be deferred.
    async fn deferrable(&self, _datasets: &Datasets) -> Result<Vec<IndexedTable>, Fault> {
        Ok(Vec::new())
    }

    /// Drops the indexes of a table that can be deferred. Keeps their definitions in the ledger
    /// first. This process must have the charge.
    ///
    /// Returns `Some` if the server refuses: then the indexes exist, and the text has its reason.
    async fn defer_indexes(&self, _table: &str) -> Result<Option<String>, Fault> {
        Ok(None)
    }

    /// The indexes whose definitions the ledger has: those that are missing, and those that were
    /// not dropped yet or are built again.
    async fn kept_indexes(&self) -> Result<Vec<KeptIndex>, Fault> {
        Ok(Vec::new())
    }

    /// Builds the missing indexes of a table, in one pass over its rows. Other processes can write
    /// to the table meanwhile, where the server supports that.
    ///
    /// After an error, the server may go on with the build. Another call waits for it.
    async fn build_indexes(&self, _table: &str) -> Result<(), Fault> {
        Ok(())
    }
}

/// Which process is in charge of deferred indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// This process.
    Taken,
    /// Another process, which builds them.
    Elsewhere,
    /// None: this database cannot defer indexes, for this reason.
    Unsupported(&'static str),
}

/// An index whose definition the ledger has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptIndex {
    /// The table.
    pub table: String,
    /// The name of the index.
    pub name: String,
    /// When it was to be dropped, in UTC.
    pub dropped_at: String,
    /// Whether the table does not have it now.
    pub is_missing: bool,
    /// Whether a process that runs is in charge of it.
    pub in_charge: bool,
}

impl fmt::Display for KeptIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.table)
    }
}

/// A table with indexes that can be deferred, and what is known about its size.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexedTable {
    /// The dataset.
    pub dataset: String,
    /// The table.
    pub table: String,
    /// The names of the indexes.
    pub indexes: Vec<String>,
    /// Bytes of the entries of a row in these indexes, estimated from their columns.
    pub entry_bytes: u64,
    /// Rows, by the statistics of the server or by the ledger, whichever has more.
    pub rows: u64,
    /// Records and bytes of the stored files of the dataset.
    pub stored: (u64, u64),
    /// Bytes of the server's buffer pool.
    pub pool_bytes: u64,
}

impl IndexedTable {
    /// About how many records files of this many bytes have. The bytes of compressed files are
    /// those of the inflated ones, estimated by the caller.
    #[must_use]
    pub fn records_in(&self, bytes: u64) -> u64 {
        let (records, stored_bytes) = self.stored;
        let per_record = if records >= RECORDS_MIN && stored_bytes > 0 {
            stored_bytes as f64 / records as f64
        } else {
            RECORD_BYTES
        };
        (bytes as f64 / per_record) as u64
    }

    /// Whether deferring is faster for this many rows to come: the indexes with all rows do not fit
    /// into the buffer pool, and the rows to come are not few beside those of the table.
    #[must_use]
    pub fn gains(&self, rows_to_come: u64) -> bool {
        let index_bytes = (self.rows + rows_to_come) as f64 * self.entry_bytes as f64;
        index_bytes > self.pool_bytes as f64 * POOL_SHARE
            && rows_to_come as f64 >= self.rows as f64 * ROWS_TO_COME_SHARE
    }

    /// Why [`gains`](Self::gains) is false.
    #[must_use]
    pub fn why_not(&self, rows_to_come: u64) -> String {
        let index_bytes = (self.rows + rows_to_come) * self.entry_bytes;
        let (there, pool) = (self.rows, self.pool_bytes >> 20);
        if index_bytes as f64 <= self.pool_bytes as f64 * POOL_SHARE {
            let index = index_bytes >> 20;
            format!("about {index} MiB of indexes fit into the buffer pool of {pool} MiB")
        } else {
            format!("about {rows_to_come} rows to come are few beside the {there} of the table")
        }
    }
}

/// An index of a CREATE TABLE statement that can be deferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Definition {
    pub(super) name: String,
    /// The index as in the statement, without a comma.
    pub(super) text: String,
    /// Its first column. `None` for an expression.
    pub(super) leading: Option<String>,
}

/// The non-unique B-tree indexes of the text of SHOW CREATE TABLE, in its order. Full-text, spatial
/// and vector indexes are not among them: while the server builds one, the table takes no writes.
pub(super) fn definitions(create_table: &str) -> Vec<Definition> {
    let indexes = items(create_table).into_iter().filter_map(|item| {
        let (name, rest) = identifier(item.strip_prefix("KEY ")?)?;
        let leading = rest.trim_start().strip_prefix('(').and_then(identifier);
        Some(Definition {
            name,
            text: item.to_owned(),
            leading: leading.map(|(leading, _)| leading),
        })
    });
    indexes.collect()
}

/// The items between the outer parentheses of CREATE TABLE: columns, keys, constraints.
fn items(create_table: &str) -> Vec<&str> {
    let mut items = Vec::new();
    let (mut depth, mut begin) = (0, 0);
    let mut quote = None;
    let mut bytes = create_table.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match (quote, byte) {
            // Strings have backslashes before special characters, names have none.
            (Some(b'\'' | b'"'), b'\\') => drop(bytes.next()),
            // A doubled quote ends one quoted text and begins the next one.
            (Some(open), byte) if byte == open => quote = None,
            (None, b'\'' | b'"' | b'`') => quote = Some(byte),
            (None, b'(') => {
                depth += 1;
                if depth == 1 {
                    begin = at + 1;
                }
            }
            (None, b',' | b')') if depth == 1 => {
                items.push(create_table[begin..at].trim());
                begin = at + 1;
                if byte == b')' {
                    break;
                }
            }
            (None, b')') => depth -= 1,
            _ => {}
        }
    }
    items
}

/// A name in backticks at the beginning of a text, and the text after it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text.strip_prefix('`')?;
    loop {
        let (part, after) = rest.split_once('`')?;
        name.push_str(part);
        match after.strip_prefix('`') {
            Some(after) => {
                name.push('`');
                rest = after;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_of_a_statement_are_found_with_their_exact_text() {
        let statement = "CREATE TABLE `a(b` (\n  `id` bigint unsigned NOT NULL,\n  `x``y` \
            varchar(9) DEFAULT 'KEY `no` (\\',' COMMENT 'a ''b'', (c',\n  `n` decimal(9,2),\n  \
            PRIMARY KEY (`id`),\n  UNIQUE KEY `u` (`n`),\n  KEY `k``1` (`x``y`(3) DESC,`n`) USING \
            BTREE COMMENT 'one, (two',\n  KEY `hidden` (`n`) /*!80000 INVISIBLE */,\n  KEY `f` \
            ((concat(`x``y`,_utf8mb4',)'))),\n  FULLTEXT KEY `t` (`x``y`),\n  SPATIAL KEY `s` \
            (`x``y`),\n  CONSTRAINT `fk` FOREIGN KEY (`n`) REFERENCES `o` (`n`),\n  CONSTRAINT `c` \
            CHECK (`n` > 0)\n) ENGINE=InnoDB COMMENT='KEY `no` (`n`)'\n/*!50100 PARTITION BY HASH \
            (`id`)\n(PARTITION p0, PARTITION p1) */";
        let found = definitions(statement);
        let found: Vec<_> = found
            .iter()
            .map(|index| (&*index.name, &*index.text, index.leading.as_deref()))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "k`1",
                    "KEY `k``1` (`x``y`(3) DESC,`n`) USING BTREE COMMENT 'one, (two'",
                    Some("x`y")
                ),
                (
                    "hidden",
                    "KEY `hidden` (`n`) /*!80000 INVISIBLE */",
                    Some("n")
                ),
                ("f", "KEY `f` ((concat(`x``y`,_utf8mb4',)')))", None),
            ]
        );
        for other in ["", "CREATE TABLE `t`", "CREATE VIEW `v` AS SELECT 1", "("] {
            assert_eq!(definitions(other), [], "{other}");
        }
    }

    #[test]
    fn deferring_pays_if_the_index_leaves_the_pool_and_the_rows_to_come_are_not_few() {
        let table = |rows, pool_mib: u64| IndexedTable {
            dataset: "d".to_owned(),
            table: "t".to_owned(),
            indexes: vec!["i".to_owned()],
            entry_bytes: 64,
            rows,
            stored: (0, 0),
            pool_bytes: pool_mib << 20,
        };
        for (there, to_come, pool_mib, gains) in [
            (0, 10_000_000, 256, true),
            (0, 1_000_000, 512, false),
            (0, 1_000_000, 64, true),
            (0, 0, 64, false),
            (100_000_000, 1_000_000, 256, false),
            (10_000_000, 10_000_000, 256, true),
            (10_000_000, 10_000_000, 8_192, false),
        ] {
            let table = table(there, pool_mib);
            assert_eq!(table.gains(to_come), gains, "{there} {to_come} {pool_mib}");
            if !gains {
                assert!(!table.why_not(to_come).is_empty());
            }
        }
        let text = table(0, 512).why_not(1_000_000);
        assert!(
            text.ends_with("61 MiB of indexes fit into the buffer pool of 512 MiB"),
            "{text}"
        );
        let text = table(100_000_000, 64).why_not(1_000);
        assert!(
            text.starts_with("about 1000 rows to come are few"),
            "{text}"
        );
    }

    #[test]
    fn records_are_estimated_from_the_stored_files_of_the_dataset() {
        let mut table = IndexedTable {
            dataset: String::new(),
            table: String::new(),
            indexes: Vec::new(),
            entry_bytes: 1,
            rows: 0,
            stored: (999, 1),
            pool_bytes: 1,
        };
        assert_eq!(table.records_in(250_000), 1_000);
        table.stored = (10_000, 1_000_000);
        assert_eq!(table.records_in(250_000), 2_500);
    }
}
