//! Tries an ALTER TABLE on a copy of the table without rows, before it is offered to the operator.
//!
//! The copy has the table's columns, indexes, storage engine and options, so the server refuses the
//! statement for the copy if it would refuse it for the table, except because of rows or foreign
//! keys, which have queries of their own.

use super::errors::{Class, Failure};
use super::misfit::joined;
use super::session::Session;

/// The name of the copy. All processes use the same, so that each removes the copy of one that was
/// killed.
const COPY: &str = "ingest_trial";

/// Whether an ALTER TABLE with these clauses runs. `None` if this account or server makes no copy of
/// the table, or if another process has changed the copy meanwhile.
pub(super) async fn runs(
    session: &mut Session,
    table: &str,
    clauses: &[String],
) -> Result<Option<bool>, Failure> {
    // Before the copy is made: an account that cannot remove it must not make it.
    for sql in [
        format!("DROP TABLE IF EXISTS `{COPY}`"),
        format!("CREATE TABLE `{COPY}` LIKE `{table}`"),
    ] {
        match session.run(&sql).await {
            Err(failure) if failure.class() == Class::Reconnect => return Err(failure),
            Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
    let sql = format!("ALTER TABLE `{COPY}` {}", joined(clauses));
    let tried = session.run(&sql).await;
    clean_up(session).await?;
    match tried {
        Ok(_) => Ok(Some(true)),
        Err(failure) if failure.class() == Class::Reconnect => Err(failure),
        // No right to alter tables; the copy was removed by another process.
        Err(failure) if matches!(failure.code(), Some(1044 | 1142 | 1146)) => Ok(None),
        Err(_) => Ok(Some(false)),
    }
}

/// Removes the copy that a killed process has left, if there is one.
pub(super) async fn clean_up(session: &mut Session) -> Result<(), Failure> {
    if session.has_table(COPY).await?
        && let Err(failure) = session.run(&format!("DROP TABLE IF EXISTS `{COPY}`")).await
    {
        tracing::warn!(%failure, "the table {COPY}, which is a copy without rows, stays: remove it");
    }
    Ok(())
}
