//! The processes of the service in MySQL. They have a connection of their own, so that a beat never
//! waits for a long statement.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::fault::Fault;
use crate::sink::nodes::{
    Beat, KEPT_FOR, NewNode, NodeEntry, NodeId, Nodes, REMOVED_MAX, SUMMARY, beat_age,
    microseconds, since_epoch, up,
};

use super::MysqlSink;
use super::errors::Failure;
use super::session::Session;

/// A time at which each lease has lapsed.
const LONG_AGO: &str = "'1970-01-02'";

/// The time in microseconds since the epoch.
const NOW: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";

type Row = (String, u64, String, String, i64, i64, bool);

#[async_trait]
impl Nodes for MysqlSink {
    async fn join(&self, node: &NewNode, lapse: Duration) -> Result<Option<NodeId>, Fault> {
        let work = async |session: &mut Session| join(session, node, lapse).await;
        self.beats.on_session("joining the other nodes", work).await
    }

    async fn fence(&self, name: &str, lapse: Duration) -> Result<bool, Fault> {
        let work = async |session: &mut Session| fence(session, name, lapse).await;
        let doing = "ending the epoch of a dead node";
        self.beats.on_session(doing, work).await
    }

    async fn is_current(&self, node: &NodeId) -> Result<bool, Fault> {
        let work = async |session: &mut Session| is_current(session, node).await;
        self.control.on_session("reading the nodes", work).await
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

    async fn time(&self) -> Result<SystemTime, Fault> {
        let work = async |session: &mut Session| session.one::<u64>(NOW).await;
        let now = self.control.on_session("reading the clock", work).await?;
        Ok(since_epoch(now))
    }
}

/// Ends the epoch of a process that has not beaten for `lapse`. Its row still says since when.
async fn fence(session: &mut Session, name: &str, lapse: Duration) -> Result<bool, Failure> {
    let end = "UPDATE ingest_nodes SET epoch = epoch + 1 WHERE node = ? AND (beat_at < \
               UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND OR beat_at > UTC_TIMESTAMP(6) + INTERVAL ? \
               MICROSECOND)";
    let lapse = microseconds(lapse);
    if session.run_with(end, (name, lapse, lapse)).await? > 0 {
        return Ok(true);
    }
    let find = "SELECT 1 FROM ingest_nodes WHERE node = ?";
    Ok(session.rows_with::<u8>(find, (name,)).await?.is_empty())
}

/// Takes the row of the name if it is as it was read. Without a transaction: nothing is held while this
/// process may be stopped.
async fn join(
    session: &mut Session,
    node: &NewNode,
    lapse: Duration,
) -> Result<Option<NodeId>, Failure> {
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
    let mut epoch: u64 = session.one(NOW).await?;
    let find = "SELECT epoch, beat_at >= UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND FROM ingest_nodes WHERE \
                node = ?";
    let known = session.rows_with::<(u64, bool)>(find, (microseconds(lapse), &node.name));
    let known = known.await?.first().copied();
    let NewNode {
        name,
        roles,
        version,
        former,
    } = node;
    if let Some((was, lives)) = known {
        if lives && Some(was) != *former {
            beat_now(session, name).await?;
            return Ok(None);
        }
        epoch = epoch.max(was + 1);
        let replace = "UPDATE ingest_nodes SET roles = ?, version = ?, epoch = ?, started_at = \
                       UTC_TIMESTAMP(6), beat_at = UTC_TIMESTAMP(6) WHERE node = ? AND epoch = ?";
        let params = (roles, version, epoch, name, was);
        session.run_with(replace, params).await?;
    } else {
        let enter = "INSERT INTO ingest_nodes (node, roles, version, epoch, started_at, beat_at) VALUES (?, \
                     ?, ?, ?, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE node = \
                     VALUES(node)";
        let params = (name, roles, version, epoch);
        session.run_with(enter, params).await?;
    }
    let id = NodeId {
        name: name.clone(),
        epoch,
    };
    Ok(is_current(session, &id).await?.then_some(id))
}

/// Replaces a beat of the future by one of now.
async fn beat_now(session: &mut Session, name: &str) -> Result<(), Failure> {
    let beat = "UPDATE ingest_nodes SET beat_at = UTC_TIMESTAMP(6) WHERE node = ? AND beat_at > \
                UTC_TIMESTAMP(6)";
    session.run_with(beat, (name,)).await.map(drop)
}

async fn is_current(session: &mut Session, node: &NodeId) -> Result<bool, Failure> {
    let find = "SELECT 1 FROM ingest_nodes WHERE node = ? AND epoch = ?";
    let found = session.rows_with::<u8>(find, (&node.name, node.epoch));
    Ok(!found.await?.is_empty())
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
    let lapse = microseconds(lapse);
    // An earlier process of this name has ended, since its row is this one.
    let leads = session
        .run_with(
            "UPDATE ingest_leases SET node = ?, epoch = ?, renewed_at = UTC_TIMESTAMP(6) WHERE \
             name = ? AND (node = ? OR renewed_at < UTC_TIMESTAMP(6) - INTERVAL ? MICROSECOND OR \
             renewed_at > UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND)",
            (name, epoch, SUMMARY, name, lapse, lapse),
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
    let entry = |(name, epoch, roles, version, up_us, beat_us, leads)| NodeEntry {
        id: NodeId { name, epoch },
        roles,
        version,
        up: up(up_us),
        beat_age: beat_age(beat_us),
        leads,
    };
    Ok(rows.into_iter().map(entry).collect())
}
