//! The processes of the service in SQLite: several may share a file on one host.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rusqlite::{Transaction, params};

use crate::fault::Fault;
use crate::sink::nodes::{
    Beat, KEPT_FOR, NewNode, NodeEntry, NodeId, Nodes, REMOVED_MAX, SUMMARY, beat_age,
    microseconds, up,
};
use crate::timestamp;

use super::SqliteSink;
use super::errors::Failure;
use super::now::now_us;

#[async_trait]
impl Nodes for SqliteSink {
    async fn join(&self, node: &NewNode, lapse: Duration) -> Result<Option<NodeId>, Fault> {
        let node = node.clone();
        let join = move |db: &Transaction<'_>| join(db, &node, lapse);
        self.transact("joining the other nodes", join).await
    }

    async fn fence(&self, name: &str, lapse: Duration) -> Result<bool, Fault> {
        let name = name.to_owned();
        let fence = move |db: &Transaction<'_>| fence(db, &name, lapse);
        self.transact("ending the epoch of a dead node", fence)
            .await
    }

    async fn is_current(&self, node: &NodeId) -> Result<bool, Fault> {
        let node = node.clone();
        let find = move |db: &Transaction<'_>| {
            let mut find =
                db.prepare_cached("SELECT 1 FROM ingest_nodes WHERE node = ? AND epoch = ?")?;
            Ok(find.exists(params![node.name, node.epoch])?)
        };
        self.transact("reading the nodes", find).await
    }

    async fn beat(&self, node: &NodeId, lapse: Option<Duration>) -> Result<Beat, Fault> {
        let node = node.clone();
        self.transact("beating in the ledger", move |db| beat(db, &node, lapse))
            .await
    }

    async fn leave(&self, node: &NodeId) -> Result<(), Fault> {
        let node = node.clone();
        self.transact("leaving the other nodes", move |db| leave(db, &node))
            .await
    }

    async fn nodes(&self, max: usize) -> Result<Vec<NodeEntry>, Fault> {
        self.transact("reading the nodes", move |db| nodes(db, max))
            .await
    }

    /// The file has the clock of this host.
    async fn time(&self) -> Result<SystemTime, Fault> {
        Ok(SystemTime::now())
    }
}

/// The time this long ago, as the ledger writes it.
fn before(time: Duration) -> String {
    timestamp::text(now_us().saturating_sub(microseconds(time)).max(0))
}

/// The time this long from now, as the ledger writes it.
fn after(time: Duration) -> String {
    let us = now_us().saturating_add(microseconds(time));
    timestamp::text(us.min(timestamp::MAX))
}

/// Ends the epoch of a process that has not beaten for `lapse`. Its row still says since when.
fn fence(db: &Transaction<'_>, name: &str, lapse: Duration) -> Result<bool, Failure> {
    let mut end = db.prepare_cached(
        "UPDATE ingest_nodes SET epoch = epoch + 1 WHERE node = ? AND (beat_at < ? OR \
         beat_at > ?)",
    )?;
    if end.execute(params![name, before(lapse), after(lapse)])? > 0 {
        return Ok(true);
    }
    let mut find = db.prepare_cached("SELECT 1 FROM ingest_nodes WHERE node = ?")?;
    Ok(!find.exists([name])?)
}

fn join(db: &Transaction<'_>, node: &NewNode, lapse: Duration) -> Result<Option<NodeId>, Failure> {
    let living = "SELECT 1 FROM ingest_nodes WHERE node = ? AND beat_at >= ? AND epoch IS NOT ?";
    let living =
        db.prepare_cached(living)?
            .exists(params![node.name, before(lapse), node.former])?;
    if living {
        // A beat of the future is replaced by one of now.
        db.execute(
            "UPDATE ingest_nodes SET beat_at = ? WHERE node = ? AND beat_at > ?",
            params![before(Duration::ZERO), node.name, before(Duration::ZERO)],
        )?;
        return Ok(None);
    }
    db.execute(
        "DELETE FROM ingest_nodes WHERE node IN (SELECT node FROM ingest_nodes WHERE beat_at < ? LIMIT ?)",
        params![before(KEPT_FOR), REMOVED_MAX],
    )?;
    db.execute(
        "INSERT INTO ingest_leases (name, node, epoch, renewed_at) VALUES (?, '', 0, ?) ON CONFLICT \
         (name) DO NOTHING",
        params![SUMMARY, timestamp::text(0)],
    )?;
    let now_us = now_us();
    // The time as the first epoch: it grows also if the row of the name was removed.
    let epoch = db.query_row(
        "INSERT INTO ingest_nodes (node, roles, version, epoch, started_at, beat_at) VALUES (?1, ?2, ?3, \
         ?4, ?5, ?5) ON CONFLICT (node) DO UPDATE SET roles = excluded.roles, version = excluded.version, \
         epoch = MAX(epoch + 1, excluded.epoch), started_at = excluded.started_at, beat_at = \
         excluded.beat_at RETURNING epoch",
        params![node.name, node.roles, node.version, now_us, timestamp::text(now_us)],
        |row| row.get(0),
    )?;
    Ok(Some(NodeId {
        name: node.name.clone(),
        epoch,
    }))
}

fn beat(db: &Transaction<'_>, node: &NodeId, lapse: Option<Duration>) -> Result<Beat, Failure> {
    let now = before(Duration::ZERO);
    let lives = db.execute(
        "UPDATE ingest_nodes SET beat_at = ? WHERE node = ? AND epoch = ?",
        params![now, node.name, node.epoch],
    )?;
    if lives == 0 {
        return Ok(Beat::Replaced);
    }
    let Some(lapse) = lapse else {
        return Ok(Beat::Lives(false));
    };
    // An earlier process of this name has ended, since its row is this one.
    let leads = db.execute(
        "UPDATE ingest_leases SET node = ?1, epoch = ?2, renewed_at = ?3 WHERE name = ?4 AND (node = ?1 \
         OR renewed_at < ?5 OR renewed_at > ?6)",
        params![node.name, node.epoch, now, SUMMARY, before(lapse), after(lapse)],
    )?;
    Ok(Beat::Lives(leads > 0))
}

fn leave(db: &Transaction<'_>, node: &NodeId) -> Result<(), Failure> {
    db.execute(
        "UPDATE ingest_leases SET node = '', epoch = 0, renewed_at = ? WHERE name = ? AND node = ? AND \
         epoch = ?",
        params![timestamp::text(0), SUMMARY, node.name, node.epoch],
    )?;
    db.execute(
        "DELETE FROM ingest_nodes WHERE node = ? AND epoch = ?",
        params![node.name, node.epoch],
    )?;
    Ok(())
}

fn nodes(db: &Transaction<'_>, max: usize) -> Result<Vec<NodeEntry>, Failure> {
    let now_us = now_us();
    let since = |text: String| now_us - timestamp::parse(&text).unwrap_or(now_us);
    let mut find = db.prepare_cached(
        "SELECT n.node, n.epoch, n.roles, n.version, n.started_at, n.beat_at, EXISTS (SELECT 1 FROM \
         ingest_leases l WHERE l.node = n.node AND l.epoch = n.epoch) FROM ingest_nodes n ORDER BY \
         n.beat_at DESC LIMIT ?",
    )?;
    let found = find.query_map([max], |row| {
        Ok(NodeEntry {
            id: NodeId {
                name: row.get(0)?,
                epoch: row.get(1)?,
            },
            roles: row.get(2)?,
            version: row.get(3)?,
            up: up(since(row.get(4)?)),
            beat_age: beat_age(since(row.get(5)?)),
            leads: row.get(6)?,
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}
