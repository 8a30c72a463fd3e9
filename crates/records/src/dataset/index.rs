//! The secondary indexes of a dataset's table: what makes one impossible.

use super::{ColumnType, Dataset};

/// Most columns of an index, in MySQL.
const COLUMNS_MAX: usize = 16;

/// Most bytes of an entry of an index, in `InnoDB`.
const BYTES_MAX: u64 = 3_072;

/// Most bytes of a character in MySQL's utf8mb4.
const CHAR_BYTES: u64 = 4;

impl Dataset {
    /// What is wrong with the indexes. `None` if nothing is.
    pub(super) fn index_problem(&self) -> Option<String> {
        for (at, index) in self.indexes.iter().enumerate() {
            let name = index.join(", ");
            let wrong = |problem: &str| Some(format!("the index [{name}]: {problem}"));
            if index.is_empty() || index.len() > COLUMNS_MAX {
                return wrong("an index has 1 to 16 columns");
            }
            if self.indexes[..at].contains(index) {
                return wrong("it is defined twice");
            }
            let mut bytes = 0;
            for (at, column) in index.iter().enumerate() {
                let Some((_, found)) = self.column(column) else {
                    return wrong(&format!("the dataset has no column `{column}`"));
                };
                if index[..at].contains(column) {
                    return wrong(&format!("it has `{column}` twice"));
                }
                bytes += match found.kind {
                    ColumnType::Json | ColumnType::Binary => {
                        return wrong(&format!("`{column}` is {}, which has no order", found.kind));
                    }
                    ColumnType::Text => u64::from(found.max_chars) * CHAR_BYTES,
                    _ => 20,
                };
            }
            if bytes > BYTES_MAX {
                return wrong(
                    "its texts are too long for an index, which holds 768 characters: lower `max_chars`",
                );
            }
        }
        None
    }
}
