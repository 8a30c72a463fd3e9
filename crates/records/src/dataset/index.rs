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
            let problem = if self.indexes[..at].contains(index) {
                Some("it is defined twice".to_owned())
            } else {
                columns_problem(self, index)
            };
            if let Some(problem) = problem {
                return Some(format!("the index [{name}]: {problem}"));
            }
        }
        None
    }
}

/// What makes an index over these columns impossible. `None` if nothing does.
pub(super) fn columns_problem(dataset: &Dataset, columns: &[String]) -> Option<String> {
    if columns.is_empty() || columns.len() > COLUMNS_MAX {
        return Some("an index has 1 to 16 columns".to_owned());
    }
    let mut bytes = 0;
    for (at, column) in columns.iter().enumerate() {
        let Some((_, found)) = dataset.column(column) else {
            return Some(format!("the dataset has no column `{column}`"));
        };
        if columns[..at].contains(column) {
            return Some(format!("it has `{column}` twice"));
        }
        bytes += match found.kind {
            ColumnType::Json | ColumnType::Binary => {
                return Some(format!("`{column}` is {}, which has no order", found.kind));
            }
            ColumnType::Text => u64::from(found.max_chars) * CHAR_BYTES,
            _ => 20,
        };
    }
    (bytes > BYTES_MAX).then(|| {
        "its texts are too long for an index, which holds 768 characters: lower `max_chars`"
            .to_owned()
    })
}
