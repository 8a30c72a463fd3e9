//! The check of the lease of the summary within the transaction of its holder.

use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::sink::NodeId;
use crate::sink::nodes::SUMMARY;

use super::errors::Failure;

/// Whether this process has the lease of the summary. The transaction of the caller has the lock for
/// writing.
pub(super) fn still_leads(db: &Transaction<'_>, leader: &NodeId) -> Result<bool, Failure> {
    let mut find =
        db.prepare_cached("SELECT 1 FROM ingest_leases WHERE name = ? AND node = ? AND epoch = ?")?;
    let found = find.query_row(params![SUMMARY, leader.name, leader.epoch], |_| Ok(()));
    Ok(found.optional()?.is_some())
}
