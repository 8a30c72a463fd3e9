//! Deferred indexes: their definitions are kept in the ledger, then they are dropped, and after the
//! load they are built from the kept definitions.
//!
//! Invariant: an index is dropped only by the session that has the lock of the charge, after its
//! definition was committed. So the next process that gets the lock finds each index either in the
//! table or in the ledger. A definition is the server's own text, from SHOW CREATE TABLE, so that
//! prefixes, orders, expressions, comments and visibility come back as they were.

use std::collections::HashSet;

use crate::dataset::Datasets;
use crate::sink::indexes::{Definition, IndexedTable, KeptIndex, definitions};
use crate::sink::table::quoted;

use super::errors::{Class, Failure};
use super::session::Session;

const TABLE: &str = "ingest_indexes";

/// How many seconds a process waits for the charge: the server takes a moment to notice that the
/// process which had it was killed.
const TAKE_SECONDS: u32 = 2;

/// How many seconds the drop waits for statements that use the table. Other statements queue behind
/// this wait, so it is short; after it, the load goes on with its indexes.
const DROP_LOCK_SECONDS: u32 = 10;

/// How many seconds a build waits for statements that use the table, at its beginning and its end.
/// Longer than for the drop, since a build that gives up at its end has to be repeated.
const BUILD_LOCK_SECONDS: u32 = 60;

/// Bytes that MySQL sorts at a time in a build, for all of its threads. An index of two million rows
/// takes 7.4 s with it, 8.7 s with the default of 1 MiB, and 7.9 s with 64 MiB. The default of four
/// threads stays: with two, it takes 9.0 s.
const SORT_BYTES: u64 = 16 << 20;

/// Bytes that an entry of an index takes beside its columns: the header, and the transaction of its
/// page.
const ENTRY_OVERHEAD_BYTES: u64 = 13;

/// Bytes of the row's id, which each entry ends with.
const ID_BYTES: u64 = 8;

/// Rights that are missing: the operator runs the same build with another account.
const DENIED: [u16; 4] = [1044, 1045, 1142, 1227];

const BY_HAND: &str = "correct the table, and run `task_runner migrate`; or build the index by hand as \
    its definition in `ingest_indexes` says; or delete its row there, if it is not needed";

/// Why this server cannot defer indexes. `None` if it can.
pub(super) async fn unsupported(session: &mut Session) -> Result<Option<&'static str>, Failure> {
    if session.server.is_other {
        return Ok(Some("only MySQL and MariaDB defer indexes"));
    }
    let is_node = is_galera(session).await?;
    Ok(is_node.then_some("a build on a node of a Galera cluster stops the writes of all nodes"))
}

/// Whether the server is a node of a Galera cluster. Locks by name belong to one node, and a change of
/// a table stops the writes of all.
pub(super) async fn is_galera(session: &mut Session) -> Result<bool, Failure> {
    let sql = "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'";
    let wsrep = session.rows::<(String, String)>(sql).await?;
    Ok(wsrep.iter().any(|(_, value)| value == "ON"))
}

/// The name of the lock of the charge of a database: as for migrations, a hash, since a lock
/// belongs to the server.
async fn lock(session: &mut Session) -> Result<String, Failure> {
    let database: Option<String> = session.one("SELECT DATABASE()").await?;
    let hash = blake3::hash(database.unwrap_or_default().as_bytes()).to_hex();
    Ok(format!("lemonade-indexes-{}", &hash[..32]))
}

/// Takes the lock of the charge, which the session has until it ends. Returns `false` if another
/// session has it.
pub(super) async fn take(session: &mut Session) -> Result<bool, Failure> {
    let lock = lock(session).await?;
    // The session is idle during the load. If the server ended it, the lock would be free.
    session.run("SET SESSION wait_timeout = 31536000").await?;
    let sql = format!("SELECT GET_LOCK('{lock}', {TAKE_SECONDS})");
    let got = session.rows::<Option<i64>>(&sql).await?;
    if got.first().copied().flatten() != Some(1) {
        return Ok(false);
    }
    for table in kept(session).await?.iter().map(|kept| &kept.table) {
        forget(session, table).await?;
    }
    Ok(true)
}

/// See [`Indexes::deferrable`](crate::sink::Indexes::deferrable).
pub(super) async fn deferrable(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<Vec<IndexedTable>, Failure> {
    let mut found = Vec::new();
    if !session.server.mariadb {
        // MySQL keeps statistics for a day.
        let sql = "SET SESSION information_schema_stats_expiry = 0";
        session.run(sql).await?;
    }
    let pool_bytes: u64 = session.one("SELECT @@innodb_buffer_pool_size").await?;
    for dataset in datasets.iter() {
        let (table, name) = (&dataset.table, &dataset.name);
        let indexes: Vec<String> = candidates(session, table)
            .await?
            .into_iter()
            .map(|index| index.name)
            .collect();
        if indexes.is_empty() {
            continue;
        }
        let sql = "SELECT CAST(COALESCE(SUM(records), 0) AS UNSIGNED), CAST(COALESCE(SUM(bytes), 0) AS \
                   UNSIGNED) FROM ingest_files WHERE dataset = ? AND state = 'settled' AND records > 0";
        let stored = session.rows_with::<(u64, u64)>(sql, (name,)).await?;
        let stored = stored.first().copied().unwrap_or_default();
        let sql = "SELECT CAST(COALESCE(MAX(TABLE_ROWS), 0) AS UNSIGNED) FROM \
                   information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
        let rows = session.rows_with::<u64>(sql, (table,)).await?;
        found.push(IndexedTable {
            dataset: name.clone(),
            table: table.clone(),
            entry_bytes: entry_bytes(session, table, &indexes).await?,
            indexes,
            rows: rows.first().copied().unwrap_or_default().max(stored.0),
            stored,
            pool_bytes,
        });
    }
    Ok(found)
}

/// Bytes of the entries of one row in these indexes: an estimate from the types of their columns.
async fn entry_bytes(
    session: &mut Session,
    table: &str,
    indexes: &[String],
) -> Result<u64, Failure> {
    let sql = "SELECT s.INDEX_NAME, CAST(SUM(CASE WHEN c.CHARACTER_OCTET_LENGTH IS NULL THEN 8 ELSE \
               LEAST(c.CHARACTER_OCTET_LENGTH, 16) END) AS UNSIGNED) FROM \
               information_schema.STATISTICS s LEFT JOIN information_schema.COLUMNS c ON \
               c.TABLE_SCHEMA = s.TABLE_SCHEMA AND c.TABLE_NAME = s.TABLE_NAME AND c.COLUMN_NAME = \
               s.COLUMN_NAME WHERE s.TABLE_SCHEMA = DATABASE() AND s.TABLE_NAME = ? GROUP BY \
               s.INDEX_NAME";
    let of_all = session.rows_with::<(String, u64)>(sql, (table,)).await?;
    let columns = of_all.iter().filter(|(name, _)| indexes.contains(name));
    let bytes = columns.map(|(_, bytes)| bytes + ID_BYTES + ENTRY_OVERHEAD_BYTES);
    // The pages of an index that grows in any order are two thirds full.
    Ok(bytes.sum::<u64>() * 3 / 2)
}

/// The indexes of a table that can be dropped. Empty if the table does not exist.
async fn candidates(session: &mut Session, table: &str) -> Result<Vec<Definition>, Failure> {
    if !session.has_table(table).await? {
        return Ok(Vec::new());
    }
    session.run("SET SESSION sql_quote_show_create = 1").await?;
    let sql = format!("SHOW CREATE TABLE {}", quoted([table]));
    let (_, statement): (String, String) = session.one(&sql).await?;
    let needed = needed(session, table).await?;
    let mut found = definitions(&statement);
    found.retain(|index| {
        let leading = index.leading.as_deref();
        !leading.is_some_and(|leading| needed.contains(&leading.to_lowercase()))
    });
    Ok(found)
}

/// The columns whose indexes the server needs: those of foreign keys from and to the table, and one
/// with `AUTO_INCREMENT`. An index that begins with one of them stays.
async fn needed(session: &mut Session, table: &str) -> Result<HashSet<String>, Failure> {
    let mut needed = HashSet::new();
    for sql in [
        "SELECT COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA = DATABASE() \
         AND TABLE_NAME = ? AND REFERENCED_TABLE_NAME IS NOT NULL",
        "SELECT REFERENCED_COLUMN_NAME FROM information_schema.KEY_COLUMN_USAGE WHERE \
         REFERENCED_TABLE_SCHEMA = DATABASE() AND REFERENCED_TABLE_NAME = ?",
        "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND \
         TABLE_NAME = ? AND EXTRA LIKE '%auto_increment%'",
    ] {
        let columns = session.rows_with::<String>(sql, (table,)).await?;
        needed.extend(columns.iter().map(|column| column.to_lowercase()));
    }
    Ok(needed)
}

/// See [`Indexes::defer_indexes`](crate::sink::Indexes::defer_indexes). The session has the lock of
/// the charge.
pub(super) async fn defer(session: &mut Session, table: &str) -> Result<Option<String>, Failure> {
    let indexes = candidates(session, table).await?;
    if indexes.is_empty() {
        return Ok(None);
    }
    for (position, index) in indexes.iter().enumerate() {
        // The index exists, so an older entry with its name is out of date.
        let sql = "INSERT INTO ingest_indexes (table_name, index_name, position, definition, \
                   dropped_at) VALUES (?, ?, ?, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE position \
                   = VALUES(position), definition = VALUES(definition), dropped_at = \
                   VALUES(dropped_at)";
        let params = (table, &index.name, position as u64, &index.text);
        session.run_with(sql, params).await?;
    }
    wait_for_table(session, DROP_LOCK_SECONDS).await?;
    let drops: Vec<String> = indexes
        .iter()
        .map(|index| format!("DROP KEY `{}`", index.name.replace('`', "``")))
        .collect();
    let sql = format!("ALTER TABLE {} {}", quoted([table]), drops.join(", "));
    match session.run_build(&sql).await {
        Ok(()) => Ok(None),
        Err(failure) if failure.code().is_none() => Err(failure),
        Err(failure) if matches!(failure.class(), Class::Reconnect) => Err(failure),
        Err(refusal) => {
            forget(session, table).await?;
            Ok(Some(refusal.to_string()))
        }
    }
}

/// See [`Indexes::kept_indexes`](crate::sink::Indexes::kept_indexes).
pub(super) async fn kept_indexes(session: &mut Session) -> Result<Vec<KeptIndex>, Failure> {
    if !session.has_table(TABLE).await? {
        return Ok(Vec::new());
    }
    let all = kept(session).await?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let lock = lock(session).await?;
    let sql = format!("SELECT IS_USED_LOCK('{lock}') IS NOT NULL");
    let in_charge: bool = session.one(&sql).await?;
    let mut found = Vec::new();
    for Kept {
        table,
        name,
        dropped_at,
        ..
    } in all
    {
        let existing = existing(session, &table).await?;
        found.push(KeptIndex {
            is_missing: !existing.contains(&name.to_lowercase()),
            table,
            name,
            dropped_at,
            in_charge,
        });
    }
    Ok(found)
}

/// See [`Indexes::build_indexes`](crate::sink::Indexes::build_indexes).
pub(super) async fn build(session: &mut Session, table: &str) -> Result<(), Failure> {
    // The second way is for a server whose log of concurrent writes is too small: the writers wait.
    // The third is for an index that cannot be built in place, such as one of some expressions.
    let mut ways = [", ALGORITHM = INPLACE, LOCK = SHARED", ""].into_iter();
    let mut way = ", ALGORITHM = INPLACE, LOCK = NONE";
    wait_for_table(session, BUILD_LOCK_SECONDS).await?;
    if !session.server.mariadb {
        let sql = format!("SET SESSION innodb_ddl_buffer_size = {SORT_BYTES}");
        if let Err(failure) = session.run(&sql).await {
            tracing::debug!(%failure, "the server builds indexes with its own settings");
        }
    }
    loop {
        let existing = existing(session, table).await?;
        let mut due = kept(session).await?;
        due.retain(|kept| kept.table == table && !existing.contains(&kept.name.to_lowercase()));
        if due.is_empty() {
            return forget(session, table).await;
        }
        let adds: Vec<String> = due
            .iter()
            .map(|kept| format!("ADD {}", kept.text))
            .collect();
        let sql = format!("ALTER TABLE {} {}{way}", quoted([table]), adds.join(", "));
        match session.run_build(&sql).await {
            Ok(()) => {}
            // A session of a killed process built it meanwhile.
            Err(failure) if failure.is_done_already() => {}
            Err(failure) => match ways.next() {
                Some(next) if is_way_refused(&failure) => {
                    tracing::info!(table, reason = %failure, "the index is built in another way");
                    way = next;
                }
                _ => return Err(refused(failure)),
            },
        }
    }
}

/// Whether the server refuses the way of a build (1845, 1846), or its log of concurrent writes is
/// full (1799).
fn is_way_refused(failure: &Failure) -> bool {
    matches!(failure.code(), Some(1799 | 1845 | 1846))
}

/// The failure of a build, with its own next step if a repetition would fail as well.
fn refused(failure: Failure) -> Failure {
    let denied = failure.code().is_some_and(|code| DENIED.contains(&code));
    match failure.class() {
        Class::Fatal(_) | Class::Data | Class::Duplicate if !denied => Failure::Found {
            next_step: BY_HAND,
            problem: failure.to_string(),
        },
        _ => failure,
    }
}

/// An entry of the ledger.
struct Kept {
    table: String,
    name: String,
    text: String,
    dropped_at: String,
}

/// All entries, in the order in which their indexes stood in their tables.
async fn kept(session: &mut Session) -> Result<Vec<Kept>, Failure> {
    type Found = (String, String, String, String);
    let sql = "SELECT table_name, index_name, definition, CAST(dropped_at AS CHAR) FROM ingest_indexes \
               ORDER BY table_name, position, index_name";
    let found = session.rows::<Found>(sql).await?;
    let kept = |(table, name, text, dropped_at)| Kept {
        table,
        name,
        text,
        dropped_at,
    };
    Ok(found.into_iter().map(kept).collect())
}

/// The names of the indexes that a table has, in lower case, since the server ignores case.
async fn existing(session: &mut Session, table: &str) -> Result<HashSet<String>, Failure> {
    let sql = "SELECT DISTINCT INDEX_NAME FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = \
               DATABASE() AND TABLE_NAME = ?";
    let names = session.rows_with::<String>(sql, (table,)).await?;
    Ok(names.iter().map(|name| name.to_lowercase()).collect())
}

/// Deletes the entries of a table whose indexes exist.
async fn forget(session: &mut Session, table: &str) -> Result<(), Failure> {
    let existing = existing(session, table).await?;
    for kept in kept(session).await? {
        if kept.table == table && existing.contains(&kept.name.to_lowercase()) {
            let sql = "DELETE FROM ingest_indexes WHERE table_name = ? AND index_name = ?";
            session.run_with(sql, (&kept.table, &kept.name)).await?;
        }
    }
    Ok(())
}

/// How long statements of the session wait for others that use the table.
async fn wait_for_table(session: &mut Session, seconds: u32) -> Result<(), Failure> {
    let sql = format!("SET SESSION lock_wait_timeout = {seconds}");
    session.run(&sql).await.map(drop)
}
