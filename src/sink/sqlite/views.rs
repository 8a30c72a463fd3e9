//! The views of definitions.

use rusqlite::{OptionalExtension as _, Transaction};

use crate::dataset::Datasets;
use crate::sink::view::views;

use super::errors::Failure;

/// Creates the views that do not exist. With `again`, those that exist are made again.
pub(super) fn make_views(
    db: &Transaction<'_>,
    datasets: &Datasets,
    again: bool,
) -> Result<(), Failure> {
    for view in views(datasets) {
        let sql = "SELECT 1 FROM sqlite_master WHERE type = 'view' AND name = ? COLLATE NOCASE";
        let exists = db
            .query_row(sql, [view.name], |_| Ok(()))
            .optional()?
            .is_some();
        if exists && again {
            db.execute_batch(&format!("DROP VIEW `{}`", view.name))?;
        }
        if !exists || again {
            db.execute_batch(&view.create())?;
        }
    }
    Ok(())
}
