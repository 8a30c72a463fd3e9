//! Batches that a table refuses now, whatever their rows hold: they are left out of the commit, and
//! their files wait.

use std::collections::BTreeSet;

use crate::batch::Batch;
use crate::sink::cells::Rows;
use crate::sink::mysql::errors::{Class, Failure, TableFault};
use crate::sink::mysql::session::Session;
use crate::sink::table::quoted;
use crate::sink::{Committed, WaitingFile};

/// Most characters of a reason that the ledger holds. Messages of servers have a few hundred.
const REASON_CHARS_MAX: usize = 1_000;

/// Unknown database, column and table; a number of values that is not that of the columns.
const MISSING: [u16; 4] = [1049, 1054, 1146, 1136];

/// Leaves a batch out, and writes into the ledger why its file waits.
pub(super) async fn leave_out(
    session: &mut Session,
    batch: &Batch,
    fault: TableFault,
    failure: &Failure,
) -> Result<Committed, Failure> {
    let table = &batch.dataset.table;
    let next_step = next_step(session, table, fault).await?;
    let reason = format!("the table `{table}` refuses its rows: {failure}; {next_step}");
    let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
    let file = batch.file();
    let sql =
        "UPDATE ingest_files SET reason = ? WHERE file_no = ? AND hash = ? AND state = 'pending'";
    let params = (&reason, file.file_no, file.hash.as_slice());
    session.run_with(sql, params).await?;
    Ok(Committed {
        waiting: vec![WaitingFile { file, reason }],
        ..Committed::default()
    })
}

/// Whether a table is full because the disk is, as with the storage engine `InnoDB`. All tables are
/// full then, so the commit is repeated.
pub(super) async fn is_disk_full(
    session: &mut Session,
    batches: &[Batch],
) -> Result<bool, Failure> {
    let sql = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND \
               TABLE_NAME = ? AND ENGINE = 'InnoDB'";
    let tables: BTreeSet<&str> = batches.iter().map(|batch| &*batch.dataset.table).collect();
    for table in tables {
        let found: Vec<u64> = session.rows_with(sql, (table,)).await?;
        if found != [0] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// This failure of a statement with rows, classified: if the table takes the columns of the
/// statement, the server reports another object, which a trigger of the table names.
pub(super) async fn of_rows(session: &mut Session, rows: &Rows<'_>, failure: Failure) -> Failure {
    let (Class::Fatal(_), Some(code)) = (failure.class(), failure.code()) else {
        return failure;
    };
    let schema = rows.dataset.schema();
    let columns = quoted(schema.fields().iter().map(|field| field.name().as_str()));
    let table = &rows.dataset.table;
    let mut probe = format!("SELECT {columns} FROM `{table}` LIMIT 0");
    // An INSERT of no rows runs no trigger. But it opens the tables of the triggers, so it cannot
    // find out which table is missing.
    if !MISSING.contains(&code) {
        probe = format!("INSERT INTO `{table}` ({columns}) {probe}");
    }
    match session.run(&probe).await {
        Ok(_) => Failure::Dependent(Box::new(failure)),
        Err(_) => failure,
    }
}

/// The next step for the operator.
async fn next_step(
    session: &mut Session,
    table: &str,
    fault: TableFault,
) -> Result<String, Failure> {
    Ok(match fault {
        TableFault::NoPartition => no_partition(session, table).await?,
        TableFault::Full => {
            format!("make room in `{table}`, or raise its limit (MAX_ROWS, max_heap_table_size)")
        }
        TableFault::ReadOnly => format!("make `{table}` writable"),
        TableFault::Damaged => format!("repair `{table}`, or restore it"),
        TableFault::NoTablespace => format!("restore the tablespace of `{table}`"),
        TableFault::Dependent => format!("correct what `{table}` depends on: its trigger or view"),
        TableFault::Remote => format!("start the server behind `{table}`"),
    })
}

/// A partition without an upper bound takes all values above the last one. For a partition by a
/// list, the engine cannot know which values belong together.
async fn no_partition(session: &mut Session, table: &str) -> Result<String, Failure> {
    let sql = "SELECT PARTITION_METHOD, PARTITION_EXPRESSION FROM information_schema.PARTITIONS WHERE \
               TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND PARTITION_METHOD IS NOT NULL LIMIT 1";
    let found: Vec<(String, String)> = session.rows_with(sql, (table,)).await?;
    let columns = match found.first() {
        Some((method, _)) if method == "RANGE" => 1,
        Some((method, columns)) if method == "RANGE COLUMNS" => columns.split(',').count(),
        _ => return Ok(format!("add a partition for its values to `{table}`")),
    };
    let sql = "SELECT LOWER(PARTITION_NAME) FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = \
               DATABASE() AND TABLE_NAME = ? AND PARTITION_NAME IS NOT NULL";
    let taken: Vec<String> = session.rows_with(sql, (table,)).await?;
    let mut name = "p_later".to_owned();
    let mut number = 2;
    while taken.contains(&name) {
        name = format!("p_later{number}");
        number += 1;
    }
    Ok(format!(
        "add a partition for its values, for example ALTER TABLE `{table}` ADD PARTITION (PARTITION \
         {name} VALUES LESS THAN ({}))",
        vec!["MAXVALUE"; columns].join(", ")
    ))
}
