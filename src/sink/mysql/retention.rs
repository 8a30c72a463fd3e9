//! Keeps the partitions of a table: makes them ahead, and takes out those whose rows are no longer
//! kept, in steps. The process may be killed after each step.
//!
//! How a partition is taken out, so that each of its rows is counted, while commits go on:
//! 1. The ledger gets the bound and the name of the partition.
//! 2. EXCHANGE PARTITION swaps the partition with an empty table, which no commit knows. No row is
//!    copied. Rows that arrive late for the partition go into it as before.
//! 3. One transaction counts the rows of each file into the ledger, and removes the name.
//! 4. The table with the rows is dropped.
//! 5. The partitions of the time before the bound become one, with the rows that arrived late. They
//!    are taken out in the same way, at the next call.
//!
//! A partition is never dropped: a row that arrives between the count and the drop would be lost.

use jiff::civil::DateTime;

use crate::batch::row_id;
use crate::dataset::{Dataset, Datasets};
use crate::sink::partitions::{Ahead, Partition, Partitions, literal, merged, now};
use crate::sink::retention::{Kept, ROWS_MOVED_MAX, RetiredPartition};

use super::errors::{Class, Failure};
use super::indexes::is_galera;
use super::retired::{Taken, bound, side};
use super::session::Session;

/// How many seconds a statement waits for others that use the table. Others queue behind it, so it is
/// short; the next call tries again.
const LOCK_SECONDS: u32 = 3;

/// The server's error if a partition cannot be exchanged since columns were added to its table without
/// a rebuild.
const DIFFERENT: u16 = 1731;

const REBUILD: &str = "MySQL exchanges no partition of a table to which columns were added without a \
    rebuild: run ALTER TABLE … FORCE for it, during which it can be read and written";

const OTHERWISE: &str =
    "run `task_runner migrate`, which prints the statement that partitions the table";

/// See [`Retention::keep_partitions`](crate::sink::Retention::keep_partitions).
pub(super) async fn keep(
    session: &mut Session,
    dataset: &Dataset,
    dry_run: bool,
) -> Result<Kept, Failure> {
    let Some(partitions) = Partitions::of(dataset) else {
        return Ok(Kept::default());
    };
    let Some(lock) = take_lock(session).await? else {
        return Ok(Kept {
            elsewhere: true,
            ..Kept::default()
        });
    };
    let outcome = locked(session, dataset, &partitions, dry_run).await;
    free(session, &lock, outcome).await
}

/// See [`Retention::end_removals`](crate::sink::Retention::end_removals).
pub(super) async fn end_removals(
    session: &mut Session,
    datasets: &Datasets,
) -> Result<Vec<(String, Kept)>, Failure> {
    let all = "SELECT table_name FROM ingest_retentions ORDER BY table_name";
    let mut tables = session.rows::<String>(all).await?;
    let of = |table: &str| datasets.iter().find(|it| it.table == table);
    tables.retain(|table| of(table).is_none_or(|it| it.partition_by.is_none()));
    if tables.is_empty() || is_galera(session).await? {
        return Ok(Vec::new());
    }
    let Some(lock) = take_lock(session).await? else {
        return Ok(Vec::new());
    };
    let ended = async {
        let mut ended = Vec::new();
        for table in tables {
            let (mut kept, dataset) = (Kept::default(), of(&table).map(AsRef::as_ref));
            go_on(session, &table, dataset, &[], &mut kept).await?;
            ended.push((table, kept));
        }
        ended.retain(|(_, kept)| *kept != Kept::default());
        Ok(ended)
    };
    let ended = ended.await;
    free(session, &lock, ended).await
}

/// Takes the lock of the process that takes out partitions. `None` if another process has it.
async fn take_lock(session: &mut Session) -> Result<Option<String>, Failure> {
    let database: Option<String> = session.one("SELECT DATABASE()").await?;
    let hash = blake3::hash(database.unwrap_or_default().as_bytes()).to_hex();
    let lock = format!("lemonade-retain-{}", &hash[..32]);
    let sql = format!("SELECT GET_LOCK('{lock}', 0)");
    if session.one::<Option<i64>>(&sql).await? != Some(1) {
        return Ok(None);
    }
    let sql = format!("SET SESSION lock_wait_timeout = {LOCK_SECONDS}");
    session.run(&sql).await.map(|_| Some(lock))
}

/// Frees the lock. If this fails, the session is closed, which frees it as well.
async fn free<T>(
    session: &mut Session,
    lock: &str,
    outcome: Result<T, Failure>,
) -> Result<T, Failure> {
    if outcome.is_err() {
        session.rollback().await?;
    }
    let freed = session.run(&format!("DO RELEASE_LOCK('{lock}')")).await;
    let done = outcome?;
    freed.map(|_| done)
}

async fn locked(
    session: &mut Session,
    dataset: &Dataset,
    partitions: &Partitions,
    dry_run: bool,
) -> Result<Kept, Failure> {
    let table = &dataset.table;
    let mut kept = Kept::default();
    if !session.has_table(table).await? {
        return Ok(kept);
    }
    let now = time(session).await?;
    // First, so that rows have their partitions whatever becomes of the older ones.
    ahead(session, table, partitions, now, dry_run, &mut kept).await?;
    let existing = existing(session, table).await?;
    let due = partitions.due(&existing, now);
    if is_galera(session).await? {
        for partition in &due {
            if rows_in(session, table, &partition.name, 1).await? > 0 {
                return Err(on_galera(table));
            }
        }
        return Ok(kept);
    }
    // One partition is taken out at a time.
    let mut is_free = dry_run || go_on(session, table, Some(dataset), &due, &mut kept).await?;
    for partition in &due {
        let name = &partition.name;
        if !is_free {
            break;
        }
        if rows_in(session, table, name, 1).await? == 0 {
            continue;
        }
        let of = format!("`{table}` PARTITION (`{name}`)");
        if is_unsummarised(session, Some(dataset), &of).await? {
            kept.waiting.push(name.clone());
        } else if dry_run {
            let sql = format!("SELECT COUNT(*) FROM `{table}` PARTITION (`{name}`)");
            kept.retired.push(RetiredPartition {
                name: name.clone(),
                rows: session.count_all(&sql).await?,
            });
        } else {
            begin(session, table, partitions, partition).await?;
            is_free = go_on(session, table, Some(dataset), &due, &mut kept).await?;
        }
    }
    // These rows arrived late. With more of them, commits would wait for the copy; the next call takes
    // them out first.
    let mut late = 0;
    for partition in &due {
        late += rows_in(session, table, &partition.name, ROWS_MOVED_MAX + 1).await?;
    }
    let may_merge = kept.waiting.is_empty() && late <= ROWS_MOVED_MAX && !dry_run;
    if let Some(clause) = merged(&due).filter(|_| may_merge) {
        let sql = format!("ALTER TABLE `{table}` {clause}");
        session.run_build(&sql).await?;
    }
    Ok(kept)
}

/// Two nodes would take out one partition at the same time: the lock is that of a node.
fn on_galera(table: &str) -> Failure {
    Failure::Found {
        next_step: "leave `retain` out, or count the rows of a partition and drop it by hand",
        problem: format!("no rows of `{table}` are retired on a node of a Galera cluster"),
    }
}

/// The time by the clock that is behind: that of the server, or that of this process. A clock that is
/// ahead removes no row.
async fn time(session: &mut Session) -> Result<DateTime, Failure> {
    let text: String = session
        .one("SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y-%m-%d %H:%i:%s')")
        .await?;
    let theirs: Option<DateTime> = text.parse().ok();
    Ok(theirs.map_or_else(now, |theirs| theirs.min(now())))
}

/// The partitions of a table, in its order.
async fn existing(session: &mut Session, table: &str) -> Result<Vec<Partition>, Failure> {
    let sql = "SELECT DISTINCT PARTITION_NAME, PARTITION_DESCRIPTION, PARTITION_ORDINAL_POSITION FROM \
               information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND \
               PARTITION_METHOD = 'RANGE COLUMNS' ORDER BY PARTITION_ORDINAL_POSITION";
    let found = session
        .rows_with::<(String, String, u64)>(sql, (table,))
        .await?;
    let parsed: Option<Vec<Partition>> = found
        .into_iter()
        .map(|(name, description, _)| Partition::parse(name, &description))
        .collect();
    parsed
        .filter(|all| !all.is_empty())
        .ok_or_else(|| Failure::Found {
            next_step: OTHERWISE,
            problem: format!("the table `{table}` has no partitions by time"),
        })
}

/// Makes the partitions that are missing.
async fn ahead(
    session: &mut Session,
    table: &str,
    partitions: &Partitions,
    now: DateTime,
    dry_run: bool,
    kept: &mut Kept,
) -> Result<(), Failure> {
    let existing = existing(session, table).await?;
    if let Some(last) = existing.iter().find(|it| it.below.is_none()) {
        kept.in_last = rows_in(session, table, &last.name, ROWS_MOVED_MAX + 1).await?;
    }
    let clause = match partitions.ahead(&existing, now) {
        Ahead::Make(clause) => clause,
        Ahead::Nothing => return Ok(()),
        Ahead::Full => {
            kept.is_full = true;
            return Ok(());
        }
    };
    if kept.in_last > ROWS_MOVED_MAX {
        kept.is_crowded = true;
        return Ok(());
    }
    if !dry_run {
        let sql = format!("ALTER TABLE `{table}` {clause}");
        session.run_build(&sql).await?;
        if let Some(last) = existing.iter().find(|it| it.below.is_none()) {
            kept.in_last = rows_in(session, table, &last.name, ROWS_MOVED_MAX + 1).await?;
        }
    }
    kept.made = Some(clause);
    Ok(())
}

/// The number of rows of a partition, counted up to `max`.
async fn rows_in(
    session: &mut Session,
    table: &str,
    partition: &str,
    max: u64,
) -> Result<u64, Failure> {
    let sql = format!(
        "SELECT COUNT(*) FROM (SELECT 1 FROM `{table}` PARTITION (`{partition}`) LIMIT {max}) r"
    );
    session.one(&sql).await
}

/// Whether rows are of a file that is not in the summary of its dataset yet. The rows are those of a
/// table or partition, as SQL. Waits for a summary that is being emptied.
///
/// Without the dataset, which another process may have in its settings, a dataset of which files were in
/// a summary has one.
async fn is_unsummarised(
    session: &mut Session,
    dataset: Option<&Dataset>,
    of: &str,
) -> Result<bool, Failure> {
    if dataset.is_some_and(|it| it.summary.is_none()) {
        return Ok(false);
    }
    let of_dataset = match dataset {
        Some(_) => "= ?",
        None => "IN (SELECT s.dataset FROM ingest_files s WHERE s.summarised <> 0) AND '' = ?",
    };
    let sql = format!(
        "SELECT 1 FROM ingest_files f WHERE f.dataset {of_dataset} AND (f.state = 'pending' OR (f.state = \
         'settled' AND f.summarised <> 1)) AND EXISTS (SELECT 1 FROM {of} r WHERE r.`id` BETWEEN \
         f.file_no << 32 AND (f.file_no << 32 | 4294967295)) LIMIT 1 LOCK IN SHARE MODE"
    );
    let name = dataset.map_or("", |it| it.name.as_str());
    let found = session.rows_with::<u64>(&sql, (name,)).await?;
    Ok(!found.is_empty())
}

/// Writes into the ledger that the rows of a partition are being taken out. From now on, each commit
/// compares its records with the table.
async fn begin(
    session: &mut Session,
    table: &str,
    partitions: &Partitions,
    partition: &Partition,
) -> Result<(), Failure> {
    let (column, name) = (&partitions.column, &partition.name);
    let below = partition.below.map(literal).unwrap_or_default();
    let sql = "INSERT INTO ingest_retentions (table_name, time_column, rows_before, taken, side, \
               last_file) VALUES (?, ?, ?, ?, 1, 0) ON DUPLICATE KEY UPDATE rows_before = \
               IF(time_column = VALUES(time_column), GREATEST(rows_before, VALUES(rows_before)), \
               VALUES(rows_before)), time_column = VALUES(time_column), taken = VALUES(taken), side = \
               side + 1";
    let params = (table, column, below, name);
    session.run_with(sql, params).await.map(drop)
}

/// Takes out the partition that the ledger names, from whatever step. Returns whether none is being
/// taken out any more.
///
/// A partition that is still in the table and is no longer due stays: `retain` is longer now or left
/// out, or the table has another name.
async fn go_on(
    session: &mut Session,
    table: &str,
    dataset: Option<&Dataset>,
    due: &[&Partition],
    kept: &mut Kept,
) -> Result<bool, Failure> {
    let Some(bound) = bound(session, table).await? else {
        return Ok(true);
    };
    let Some(Taken { partition, side }) = bound.taken else {
        drop_last(session, table).await?;
        return Ok(true);
    };
    if !session.has_table(&side).await? || is_empty(session, &side).await? {
        if due.iter().all(|it| it.name != partition) {
            stay(session, table, &side).await?;
            return Ok(true);
        }
        if let Err(failure) = exchange(session, table, &partition, &side).await {
            // The server has refused it, so that the rows are where they were.
            if failure.code().is_some() && failure.class() != Class::Reconnect {
                stay(session, table, &side).await?;
            }
            return Err(refused(failure, table));
        }
    }
    // Transactions that began before the exchange have ended. Files that are new from now on have no
    // row that was taken.
    let sql = format!(
        "UPDATE ingest_retentions SET last_file = (SELECT COALESCE(MAX(file_no), 0) FROM ingest_files) \
         WHERE table_name = '{table}'"
    );
    session.run(&sql).await?;
    let Some(rows) = count(session, table, &side, dataset).await? else {
        kept.waiting.push(partition);
        return Ok(false);
    };
    drop_last(session, table).await?;
    kept.retired.push(RetiredPartition {
        name: partition,
        rows,
    });
    Ok(true)
}

/// Swaps a partition with an empty table.
async fn exchange(
    session: &mut Session,
    table: &str,
    partition: &str,
    side: &str,
) -> Result<(), Failure> {
    for sql in [
        format!("DROP TABLE IF EXISTS `{side}`"),
        format!("CREATE TABLE `{side}` LIKE `{table}`"),
        format!("ALTER TABLE `{side}` REMOVE PARTITIONING"),
        format!("ALTER TABLE `{table}` EXCHANGE PARTITION `{partition}` WITH TABLE `{side}`"),
    ] {
        session.run_build(&sql).await?;
    }
    Ok(())
}

/// The failure of an exchange, with its own next step if a repetition would fail as well.
fn refused(failure: Failure, table: &str) -> Failure {
    if failure.code() == Some(DIFFERENT) {
        return Failure::Found {
            next_step: REBUILD,
            problem: format!("the partitions of `{table}` cannot be taken out: {failure}"),
        };
    }
    failure
}

/// Ends the removal of a partition that the server refused.
async fn stay(session: &mut Session, table: &str, side: &str) -> Result<(), Failure> {
    if session.has_table(side).await? && !is_empty(session, side).await? {
        return Ok(());
    }
    session.run(&give_back(table)).await?;
    session
        .run(&format!("DROP TABLE IF EXISTS `{side}`"))
        .await
        .map(drop)
}

fn give_back(table: &str) -> String {
    format!("UPDATE ingest_retentions SET taken = NULL WHERE table_name = '{table}'")
}

/// Counts the rows of a table that was swapped, and the records that they supersede, into the ledger.
/// Returns the number of rows. `None` if some are of a file that is not in the summary yet: a commit
/// may have added rows just before the swap. The summary reads them from this table.
async fn count(
    session: &mut Session,
    table: &str,
    side: &str,
    dataset: Option<&Dataset>,
) -> Result<Option<u64>, Failure> {
    let (first, last) = (row_id(1, 0), i64::MAX);
    let counted = |of: &str| {
        format!(
            "INSERT INTO ingest_retired (file_no, records, retired_at) SELECT g.file_no, g.n, \
             UTC_TIMESTAMP(6) FROM ({of}) g JOIN ingest_files f ON f.file_no = g.file_no ON DUPLICATE KEY \
             UPDATE records = ingest_retired.records + VALUES(records), retired_at = VALUES(retired_at)"
        )
    };
    let of_rows = format!(
        "SELECT `id` >> 32 AS file_no, COUNT(*) AS n FROM `{side}` WHERE `id` BETWEEN {first} AND {last} \
         GROUP BY `id` >> 32"
    );
    let superseded = format!(
        "SELECT s.file_no AS file_no, COUNT(*) AS n FROM ingest_superseded s JOIN `{side}` w ON w.`id` = \
         s.winner GROUP BY s.file_no"
    );
    let of_side = format!("`{side}`");
    if is_unsummarised(session, dataset, &of_side).await? {
        return Ok(None);
    }
    let rows = session
        .count_all(&format!("SELECT COUNT(*) FROM `{side}`"))
        .await?;
    session.begin().await?;
    // Rows are counted once, whoever else goes on with this partition.
    let named = format!("{} AND taken IS NOT NULL", give_back(table));
    if session.run(&named).await? != 1 {
        session.rollback().await?;
        return Ok(Some(0));
    }
    // Again, since a rebuild of the summary may have begun.
    if is_unsummarised(session, dataset, &of_side).await? {
        session.rollback().await?;
        return Ok(None);
    }
    for sql in [
        counted(&of_rows),
        counted(&superseded),
        format!("DELETE s FROM ingest_superseded s JOIN `{side}` w ON w.`id` = s.winner"),
    ] {
        session.run_build(&sql).await?;
    }
    session.commit().await?;
    Ok(Some(rows))
}

/// Drops the table that the last partition was taken to, if it exists. Its rows are counted.
async fn drop_last(session: &mut Session, table: &str) -> Result<(), Failure> {
    let sql = format!("SELECT side FROM ingest_retentions WHERE table_name = '{table}'");
    let number: u32 = session.one(&sql).await?;
    let side = side(table, number);
    if session.has_table(&side).await? {
        let sql = format!("DROP TABLE IF EXISTS `{side}`");
        session.run_build(&sql).await?;
    }
    Ok(())
}

async fn is_empty(session: &mut Session, table: &str) -> Result<bool, Failure> {
    let sql = format!("SELECT 1 FROM `{table}` LIMIT 1");
    Ok(session.rows::<u64>(&sql).await?.is_empty())
}
