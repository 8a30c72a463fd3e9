//! Whose queue this is: the key `PREFIX:owner` names the ledger whose engines use the prefix.
//!
//! The key is a stream with one entry of a fixed id, so the server lets only the first of several
//! claims in, and an account needs no further right. If the key is lost with everything else in
//! Redis, the next claim of a running engine makes it again.

use std::sync::atomic::Ordering::Relaxed;

use fred::error::Error;
use fred::interfaces::{KeysInterface, StreamsInterface};
use fred::types::Value;

use super::queue::Queue;
use super::verdict::{Verdict, classify, fault};
use crate::broker::Claim;
use crate::fault::{Fault, Origin};
use crate::finding::Finding;

/// The id of the only entry. A second entry with this id is refused.
const ID: &str = "1-1";

/// The beginning of the server's error for an id that is not above the last one.
const TAKEN: &str = "ERR The ID specified in XADD is equal or smaller";

impl Queue {
    /// Claims the prefix again if the connection is new: it may lead to a server without the claim.
    pub(super) async fn claim_if_reconnected(&self) -> Result<(), Fault> {
        if self.link.connections() == self.claimed.load(Relaxed) {
            return Ok(());
        }
        self.claim().await
    }

    /// Claims the prefix for the ledger of this process, if it has one.
    ///
    /// # Errors
    /// Fatal if the prefix is of another ledger. Those of the connection.
    pub(super) async fn claim(&self) -> Result<(), Fault> {
        let Some(claim) = &self.options.claim else {
            return Ok(());
        };
        let connections = self.link.connections();
        let doing = self.claiming();
        let owner = match self.owner_or(claim).await {
            Ok(owner) => owner,
            Err(error) if classify(&error) == Verdict::Full => {
                // Publishing waits as well. The next connection claims it.
                tracing::warn!("redis is out of memory: {doing} has to wait");
                return Ok(());
            }
            Err(error) => return Err(fault(&doing, error)),
        };
        if owner.ledger == claim.ledger {
            self.claimed.store(connections, Relaxed);
            return Ok(());
        }
        Err(self.refusal(&owner, claim))
    }

    /// Whose the prefix is, and whether a start with the ledger of `ours` is refused.
    pub(super) async fn inspect_owner(&self, ours: Option<&Claim>) -> Result<Finding, Error> {
        let owner = match self.owner().await {
            Ok(owner) => owner,
            Err(error) if classify(&error) == Verdict::Unusable => None,
            Err(error) => return Err(error),
        };
        Ok(match (owner, ours) {
            (Some(owner), Some(ours)) if owner.ledger != ours.ledger => {
                Finding::refused(self.refusal(&owner, ours))
            }
            (owner, _) => {
                let of_ledger =
                    |owner: Claim| format!("the ledger in {}", owner.database.escape_debug());
                let owner = owner.map_or("no ledger yet".to_owned(), of_ledger);
                let prefix = &self.options.namespace;
                Finding::ok(format!("redis_prefix `{prefix}` is of {owner}"))
            }
        })
    }

    fn claiming(&self) -> String {
        format!("claiming the redis_prefix `{}`", self.options.namespace)
    }

    /// The fault of a claim while the prefix is of another ledger.
    fn refusal(&self, owner: &Claim, claim: &Claim) -> Fault {
        let (theirs, ours) = (owner.database.escape_debug(), &claim.database);
        let cause = if owner.database == claim.database {
            format!("it is of another ledger in a database of the same name, {ours}")
        } else {
            format!("it is of the ledger in {theirs}, and this one is in {ours}")
        };
        let next_step = format!(
            "give this database a redis_prefix of its own; if the other ledger is no longer used, \
             since its database was deleted or made again, run `redis-cli -c DEL {}` on this Redis \
             and start again",
            self.owner_key()
        );
        Fault::fatal(Origin::Broker, self.claiming(), cause).with_next_step(next_step)
    }

    fn owner_key(&self) -> String {
        format!("{}:owner", self.options.namespace)
    }

    /// The claim in Redis, which is this one if there was none.
    async fn owner_or(&self, claim: &Claim) -> Result<Claim, Error> {
        loop {
            match self.owner().await {
                Ok(Some(owner)) => return Ok(owner),
                Ok(None) => {}
                Err(error) if classify(&error) == Verdict::Unusable => self.delete_owner().await?,
                Err(error) => return Err(error),
            }
            let client = self.link.client().await?;
            let fields = vec![("ledger", &*claim.ledger), ("database", &*claim.database)];
            let key = self.owner_key();
            let added = client.xadd::<Value, _, _, _, _>(key, false, None::<()>, ID, fields);
            match self.link.ask(&client, added).await {
                Ok(_) => return Ok(claim.clone()),
                // Another process was faster, or the entry was deleted without its stream.
                Err(error) if error.details().starts_with(TAKEN) => {
                    if self.owner().await?.is_none() {
                        self.delete_owner().await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The claim in Redis. `None` if there is none, or one that cannot be read.
    pub(super) async fn owner(&self) -> Result<Option<Claim>, Error> {
        let client = self.link.client().await?;
        let entries = client.xrange::<Value, _, _, _>(self.owner_key(), "-", "+", Some(1));
        Ok(read(&self.link.ask(&client, entries).await?))
    }

    async fn delete_owner(&self) -> Result<(), Error> {
        let client = self.link.client().await?;
        let deleted = client.del::<(), _>(self.owner_key());
        self.link.ask(&client, deleted).await
    }
}

/// A claim from `[[id, [field, value, …]]]`.
fn read(entries: &Value) -> Option<Claim> {
    let Value::Array(entries) = entries else {
        return None;
    };
    let Value::Array(entry) = entries.first()? else {
        return None;
    };
    let fields = entry.get(1)?;
    let text = |name| super::orphans::field(fields, name)?.as_string();
    Some(Claim {
        ledger: text("ledger")?,
        database: text("database")?,
    })
}
