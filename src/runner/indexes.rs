//! Deferred indexes of a run: a load drops them before it begins and builds them after its end. Any
//! later process builds those that a process left missing.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::nodes::LEAVE_WAIT;
use crate::config::cli::DeferIndexes;
use crate::fault::Fault;
use crate::retry::{GivenUp, until_ok};
use crate::sink::{Charge, Database, IndexedTable, KeptIndex};

const DEFERRING: &str = "deferring indexes";
const BUILDING: &str = "building indexes";

/// Pause between two attempts of a service to take charge of missing indexes that another process
/// is to build. If that process dies, they are missing for this time more.
const CHARGE_INTERVAL: Duration = Duration::from_secs(30);

/// What to do about missing indexes.
pub const BUILD_MISSING: &str = "`task_runner migrate` builds them, as does the next load";

impl Engine {
    /// Drops the indexes that a load defers. `coming` has the bytes of the files of each dataset.
    ///
    /// # Errors
    /// A fatal fault.
    pub(super) async fn defer_indexes(
        &self,
        when: DeferIndexes,
        coming: &HashMap<String, u64>,
        stop: &CancellationToken,
    ) -> Result<(), Fault> {
        let Some(database) = self.database.as_deref() else {
            return Ok(());
        };
        if when == DeferIndexes::Never {
            return Ok(());
        }
        let take = || database.take_indexes();
        match stopped(until_ok(DEFERRING, stop, |_| {}, take).await)? {
            Some(Charge::Taken) => {}
            Some(Charge::Elsewhere) => {
                tracing::info!("another process has deferred indexes, and builds them at its end");
                return Ok(());
            }
            Some(Charge::Unsupported(reason)) => {
                tracing::warn!(reason, "--defer-indexes has no effect");
                return Ok(());
            }
            None => return Ok(()),
        }
        let tables = || database.deferrable(&self.datasets);
        let tables = stopped(until_ok(DEFERRING, stop, |_| {}, tables).await)?;
        for table in tables.unwrap_or_default() {
            if !is_worth_it(when, &table, coming) {
                continue;
            }
            let defer = async || {
                // A lost connection has lost the charge, too.
                if database.take_indexes().await? == Charge::Taken {
                    return database.defer_indexes(&table.table).await;
                }
                Ok(Some("another process has taken them over".to_owned()))
            };
            let IndexedTable { table, indexes, .. } = &table;
            match stopped(until_ok(DEFERRING, stop, |_| {}, defer).await)? {
                Some(None) => tracing::info!(
                    table,
                    indexes = indexes.join(", "),
                    "dropped, and built again at the end of the load"
                ),
                Some(Some(reason)) => {
                    tracing::warn!(
                        table,
                        reason,
                        "its indexes stay, since they cannot be dropped"
                    );
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Builds the indexes that this process or an earlier one has dropped.
    ///
    /// # Errors
    /// A fatal fault. Later calls continue.
    pub(super) async fn build_indexes(&self, stop: &CancellationToken) -> Result<(), Fault> {
        match self.database.as_deref() {
            Some(database) => build_missing(database, stop).await.map(drop),
            None => Ok(()),
        }
    }

    /// Builds missing indexes while the service works. Returns once none is missing, or a build
    /// fails for good; status names the missing ones.
    pub(super) async fn keep_indexes(&self, stop: &CancellationToken) {
        let Some(database) = self.database.as_deref() else {
            return;
        };
        loop {
            match build_missing(database, stop).await {
                Ok(Built::ByAnother) => {}
                Ok(_) => return,
                Err(fault) => {
                    tracing::warn!(%fault, "indexes are missing; {BUILD_MISSING}");
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(CHARGE_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Logs which indexes a load leaves missing because it ends early.
    pub(super) async fn report_missing_indexes(&self) {
        let Some(database) = self.database.as_deref() else {
            return;
        };
        // If the database does not answer, that is why the load ends.
        let asked = timeout(LEAVE_WAIT, database.kept_indexes()).await;
        let Ok(Ok(mut missing)) = asked else {
            return;
        };
        missing.retain(|index| index.is_missing);
        for (table, indexes) in by_table(&missing) {
            tracing::warn!(table, indexes, "are missing; {BUILD_MISSING}");
        }
    }

    /// A sentence about a load that would have gained by deferring indexes. `None` if it would not.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn deferral_hint(&self, rows: u64) -> Result<Option<String>, Fault> {
        let Some(database) = self.database.as_ref().filter(|_| rows > 0) else {
            return Ok(None);
        };
        let mut tables = database.deferrable(&self.datasets).await?;
        // The rows of the load are in the table now.
        for table in &mut tables {
            table.rows = table.rows.saturating_sub(rows);
        }
        tables.retain(|table| table.gains(rows));
        Ok(tables.first().map(|table| {
            format!(
                "the indexes of `{}` do not fit into the buffer pool of the database; `load \
                 --defer-indexes` drops them and builds them after the load, which is faster",
                table.table
            )
        }))
    }
}

/// What a call of [`build_missing`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Built {
    /// None is missing any more. Holds those that were built.
    All(Vec<KeptIndex>),
    /// Another process is in charge of the missing ones, and builds them.
    ByAnother,
    /// The process was stopped first.
    Stopped,
}

/// Builds the missing indexes, several tables at a time. Tries again while the database does not
/// answer.
///
/// # Errors
/// A fatal fault: the server refuses a build.
pub async fn build_missing(
    database: &dyn Database,
    stop: &CancellationToken,
) -> Result<Built, Fault> {
    let find = || database.kept_indexes();
    let Some(mut missing) = stopped(until_ok(BUILDING, stop, |_| {}, find).await)? else {
        return Ok(Built::Stopped);
    };
    let take = || database.take_indexes();
    if !missing.is_empty() {
        match stopped(until_ok(BUILDING, stop, |_| {}, take).await)? {
            Some(Charge::Taken) => {}
            Some(_) => {
                tracing::info!("another process builds the missing indexes");
                return Ok(Built::ByAnother);
            }
            None => return Ok(Built::Stopped),
        }
    }
    missing.retain(|index| index.is_missing);
    let tables = by_table(&missing);
    let builds = tables.iter().map(async |(table, indexes)| {
        tracing::info!(table, indexes, "builds indexes");
        let began = Instant::now();
        let work = || database.build_indexes(table);
        let done = stopped(until_ok(BUILDING, stop, |_| {}, work).await)?;
        let seconds = began.elapsed().as_secs_f64();
        if done.is_some() {
            tracing::info!(table, indexes, seconds, "built");
        } else {
            tracing::warn!(
                table,
                indexes,
                "the server goes on building them; `task_runner doctor` reports when that is over"
            );
        }
        Ok::<_, Fault>(done)
    });
    let ended = try_join_all(builds).await;
    database.leave_indexes().await;
    let is_whole = ended?.iter().all(Option::is_some);
    Ok(if is_whole {
        Built::All(missing)
    } else {
        Built::Stopped
    })
}

/// The value, or `None` if the process was stopped first.
fn stopped<T>(outcome: Result<T, GivenUp>) -> Result<Option<T>, Fault> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(GivenUp::Stopped) => Ok(None),
        Err(GivenUp::Fatal(fault)) => Err(fault),
    }
}

/// Whether the indexes of a table are deferred. If not, logs why.
fn is_worth_it(when: DeferIndexes, table: &IndexedTable, coming: &HashMap<String, u64>) -> bool {
    let bytes = coming.get(&table.dataset).copied().unwrap_or_default();
    let rows = table.records_in(bytes);
    if bytes == 0 || (when == DeferIndexes::Auto && !table.gains(rows)) {
        let reason = match bytes {
            0 => "no file to load is of its dataset".to_owned(),
            _ => table.why_not(rows) + "; --defer-indexes=always defers them nevertheless",
        };
        tracing::info!(table = table.table, reason, "its indexes stay");
        return false;
    }
    true
}

/// The names of the indexes of each table, as a list in text.
fn by_table(missing: &[KeptIndex]) -> BTreeMap<&str, String> {
    let mut tables: BTreeMap<&str, String> = BTreeMap::new();
    for index in missing {
        let names = tables.entry(&index.table).or_default();
        if !names.is_empty() {
            names.push_str(", ");
        }
        names.push_str(&index.name);
    }
    tables
}
