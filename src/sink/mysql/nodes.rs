//! The processes of the service in MySQL. They have a connection of their own, so that a beat never
//! waits for a long statement.

use std::time::Duration;

use async_trait::async_trait;

use crate::fault::Fault;
use crate::sink::nodes::{
    Beat, KEPT_FOR, NewNode, NodeEntry, NodeId, Nodes, REMOVED_MAX, SUMMARY, microseconds, time,
};

use super::MysqlSink;
use super::errors::Failure;
use super::session::Session;

/// A time at which each lease has lapsed.
const LONG_AGO: &str = "'1970-01-02'";

type Row = (String, u64, String, String, i64, i64, bool);

#[async_trait]
impl Nodes for MysqlSink {
    async fn join(&self, node: &NewNode) -> Result<NodeId, Fault> {
        let work = async |session: &mut Session| join(session, node).await;
        self.beats.on_session("joining the other nodes", work).await
    }

    async fn beat(&self, node: &NodeId, lapse: Option<Duration>) -> Result<Beat, Fault> {
        let work = async |session: &mut Session| beat(session, node, lapse).await;
        self.beats.on_session("beating in the ledger", work).await
    }

    async fn leave(&self, node: &NodeId) -> Result<(), Fault> {
        let work = async |session: &mut Session| leave(session, node).await;
        self.beats.on_session("leaving the other nodes", work).await
    }

    async fn nodes(&self, max: usize) -> Result<Vec<NodeEntry>, Fault> {
        let work = async |session: &mut Session| nodes(session, max).await;
        self.beats.on_session("reading the nodes", work).await
    }
}

async fn join(session: &mut Session, node: &NewNode) -> Result<NodeId, Failure> {
    session.begin().await?;
    let kept_us = microseconds(KEPT_FOR);
    session
        .run(&format!(
            "DELETE FROM ingest_nodes WHERE beat_at < UTC_TIMESTAMP(6) - INTERVAL {kept_us} MICROSECOND \
             ORDER BY node LIMIT {REMOVED_MAX}"
        ))
        .await?;
    session
        .run(&format!(
            "INSERT INTO ingest_leases (name, node, epoch, renewed_at) VALUES ('{SUMMARY}', '', 0, \
             {LONG_AGO}) ON DUPLICATE KEY UPDATE name = VALUES(name)"
        ))
        .await?;
    // The time as the first epoch: it grows also if the row of the name was removed.
    session
        .run_with(
            "INSERT INTO ingest_nodes (node, roles, version, epoch, started_at, beat_at) VALUES (?, ?, ?, \
             TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)), UTC_TIMESTAMP(6), \
             UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE roles = VALUES(roles), version = VALUES(version), \
             epoch = GREATEST(epoch + 1, VALUES(epoch)), started_at = VALUES(started_at), beat_at = \
             VALUES(beat_at)",
            (&node.name, &node.roles, &node.version),
        )
        .await?;
    // This transaction has locked the row.
    let epoch = "SELECT epoch FROM ingest_nodes WHERE node = ?";
    let epoch = session.rows_with::<u64>(epoch, (&node.name,)).await?;
    session.commit().await?;
    Ok(NodeId {
        name: node.name.clone(),
        epoch: epoch.first().copied().unwrap_or_default(),
    })
}

async fn beat(
    session: &mut Session,
    node: &NodeId,
    lapse: Option<Duration>,
) -> Result<Beat, Failure> {
    let NodeId { name, epoch } = node;
    let beat = "UPDATE ingest_nodes SET beat_at = UTC_TIMESTAMP(6) WHERE node = ? AND epoch = ?";
    let Some(lapse) = lapse else {
        let lives = session.run_with(beat, (name, epoch)).await? > 0;
        return Ok(if lives {
            Beat::Lives(false)
        } else {
            Beat::Replaced
        });
    };
    session.begin().await?;
    if session.run_with(beat, (name, epoch)).await? == 0 {
        session.rollback().await?;
        return Ok(Beat::Replaced);
    }
    // An earlier process of this name has ended, since its row is this one.
    let leads = session
        .run_with(
            "UPDATE ingest_leases SET node = ?, epoch = ?, renewed_at = UTC_TIMESTAMP(6) WHERE name = ? \
             AND (node = ? OR renewed_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND)",
            (name, epoch, SUMMARY, name, microseconds(lapse)),
        )
        .await?;
    session.commit().await?;
    Ok(Beat::Lives(leads > 0))
}

async fn leave(session: &mut Session, node: &NodeId) -> Result<(), Failure> {
    session.begin().await?;
    session
        .run_with(
            &format!(
                "UPDATE ingest_leases SET node = '', epoch = 0, renewed_at = {LONG_AGO} WHERE name = ? AND \
                 node = ? AND epoch = ?"
            ),
            (SUMMARY, &node.name, node.epoch),
        )
        .await?;
    session
        .run_with(
            "DELETE FROM ingest_nodes WHERE node = ? AND epoch = ?",
            (&node.name, node.epoch),
        )
        .await?;
    session.commit().await
}

async fn nodes(session: &mut Session, max: usize) -> Result<Vec<NodeEntry>, Failure> {
    let sql = format!(
        "SELECT n.node, n.epoch, n.roles, n.version, TIMESTAMPDIFF(MICROSECOND, n.started_at, \
         UTC_TIMESTAMP(6)), TIMESTAMPDIFF(MICROSECOND, n.beat_at, UTC_TIMESTAMP(6)), EXISTS (SELECT 1 \
         FROM ingest_leases l WHERE l.node = n.node AND l.epoch = n.epoch) FROM ingest_nodes n ORDER BY \
         n.beat_at DESC LIMIT {max}"
    );
    let rows = session.rows::<Row>(&sql).await?;
    let entry = |(name, epoch, roles, version, up, beat_age, leads)| NodeEntry {
        id: NodeId { name, epoch },
        roles,
        version,
        up: time(up),
        beat_age: time(beat_age),
        leads,
    };
    Ok(rows.into_iter().map(entry).collect())
}
