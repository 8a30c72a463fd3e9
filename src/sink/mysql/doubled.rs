//! Ids that several rows of a table have: the primary key of a partitioned table has a further column.
//! One of the rows is that of the record, and the others belong to other programs.

use std::slice;

use mysql_async::Value;

use crate::batch::{Batch, RejectCode, provenance, row_id};
use crate::dataset::{Datasets, ID_COLUMN};
use crate::sink::cells::by_dataset;
use crate::sink::summary::not_taken;
use crate::sink::table::quoted;

use super::commit::differing;
use super::definitions::loaded_by;
use super::errors::Failure;
use super::schema::primary_key;
use super::session::Session;

/// Most ordinals that are returned at once.
const ORDINALS_MAX: u32 = 1_000;

/// See [`Contents::doubled`](crate::sink::Contents::doubled).
pub(super) async fn doubled(
    session: &mut Session,
    file_no: u32,
    datasets: &Datasets,
) -> Result<Vec<u32>, Failure> {
    let Some(dataset) = loaded_by(session, file_no, datasets).await? else {
        return Ok(Vec::new());
    };
    if !session.has_table(&dataset.table).await? {
        return Ok(Vec::new());
    }
    in_table(session, file_no, &dataset.table).await
}

/// The ordinals of a file whose ids several rows of this table have, and that are no rejects.
pub(super) async fn in_table(
    session: &mut Session,
    file_no: u32,
    table: &str,
) -> Result<Vec<u32>, Failure> {
    if primary_key(session, table).await? == [ID_COLUMN] {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT `id` FROM `{table}` WHERE `id` BETWEEN {} AND {}{} GROUP BY `id` HAVING COUNT(*) > 1 \
         ORDER BY `id` LIMIT {ORDINALS_MAX}",
        row_id(file_no, 0),
        row_id(file_no, u32::MAX),
        not_taken(),
    );
    let ids = session.rows::<u64>(&sql).await?;
    Ok(ids.into_iter().map(|id| provenance(id).1).collect())
}

/// See [`Contents::separate`](crate::sink::Contents::separate).
pub(super) async fn separate(session: &mut Session, record: &Batch) -> Result<bool, Failure> {
    let groups = by_dataset(slice::from_ref(record));
    let Some(rows) = groups.first() else {
        return Ok(false);
    };
    let table = &record.dataset.table;
    let (file_no, ordinal) = (record.span.file_no, record.span.first_ordinal);
    let key = primary_key(session, table).await?;
    let schema = record.dataset.schema();
    let columns = schema.fields().iter().map(|field| field.name().as_str());
    let columns = quoted(columns.chain(key.iter().map(String::as_str)));
    session.begin().await?;
    // Commits of this file wait, and then find the reject.
    let lock = format!("SELECT file_no FROM ingest_files WHERE file_no = {file_no} FOR UPDATE");
    session.rows::<u32>(&lock).await?;
    let id = row_id(file_no, ordinal);
    // Prepared, so that the server sends each value in its type.
    let sql = format!("SELECT {columns} FROM `{table}` WHERE `id` = ? FOR UPDATE");
    let stored = session.rows_with::<mysql_async::Row>(&sql, (id,)).await?;
    let is_own = |stored: &&mysql_async::Row| differing(rows.row(0), stored).next().is_none();
    let own = stored.iter().find(is_own).filter(|_| stored.len() > 1);
    let Some(own) = own else {
        session.rollback().await?;
        return Ok(false);
    };
    let values: Vec<Value> = (schema.fields().len()..own.len())
        .map(|at| own.as_ref(at).cloned().unwrap_or(Value::NULL))
        .collect();
    let equal: Vec<String> = key.iter().map(|column| format!("`{column}` = ?")).collect();
    let sql = format!(
        "DELETE FROM `{table}` WHERE {} LIMIT 1",
        equal.join(" AND ")
    );
    session.run_with(&sql, values).await?;
    let reject = rows.refused(0, RejectCode::IdTaken, None).reject;
    let sql = "INSERT INTO ingest_rejects (file_no, ordinal, code, byte_offset, raw, rejected_at) \
               VALUES (?, ?, ?, 0, ?, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE ordinal = \
               VALUES(ordinal)";
    let params = (file_no, ordinal, reject.code.as_str(), reject.raw);
    session.run_with(sql, params).await?;
    let sql = format!(
        "UPDATE ingest_files SET rejects = rejects + 1 WHERE file_no = {file_no} AND state = 'settled'"
    );
    session.run(&sql).await?;
    session.commit().await?;
    Ok(true)
}
