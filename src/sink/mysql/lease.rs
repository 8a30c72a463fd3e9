//! The check of the lease of the summary within the transaction of its holder.

use crate::sink::NodeId;
use crate::sink::nodes::SUMMARY;

use super::errors::Failure;
use super::session::Session;

/// Renews the lease of the summary as the last step of a transaction. `false` if another process has
/// it: then the caller rolls back.
///
/// It writes, although a locked read would do on one server: on Galera, only two writes of one row
/// conflict. As the last step, it holds the row for no longer than the commit takes. So a process
/// that is stopped within a transaction does not keep the others from the lease.
pub(super) async fn still_leads(session: &mut Session, leader: &NodeId) -> Result<bool, Failure> {
    let renewed = session
        .run_with(
            "UPDATE ingest_leases SET renewed_at = UTC_TIMESTAMP(6) WHERE name = ? AND node = ? AND \
             epoch = ?",
            (SUMMARY, &leader.name, leader.epoch),
        )
        .await?;
    Ok(renewed > 0)
}
