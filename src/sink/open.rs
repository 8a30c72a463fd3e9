//! The choice of the database, by its URL.

use std::sync::Arc;

use super::{
    Contents, Erasures, Indexes, Nodes, Operators, Retention, Schema, Sink, SinkOptions,
    SummaryStore, mysql, sqlite,
};
use crate::fault::{Fault, Origin};

/// Everything that the engine and its commands need from a database.
pub trait Database:
    Sink + SummaryStore + Schema + Operators + Contents + Erasures + Indexes + Retention + Nodes
{
}

impl<T> Database for T where
    T: Sink + SummaryStore + Schema + Operators + Contents + Erasures + Indexes + Retention + Nodes
{
}

/// Opens the database of a URL: `mysql://USER:PASSWORD@HOST:PORT/DATABASE` or `sqlite:PATH`.
/// `mariadb://` means the same as `mysql://`.
/// Creates no tables: that is [`Schema::migrate`].
///
/// # Errors
/// Fatal for any other URL, and if the server refuses the login. Transient if it cannot be reached.
pub async fn open(url: &str, options: &SinkOptions) -> Result<Arc<dyn Database>, Fault> {
    if url.starts_with("mysql://") || url.starts_with("mariadb://") {
        return Ok(Arc::new(mysql::MysqlSink::open(url, options).await?));
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        return Ok(Arc::new(sqlite::SqliteSink::open(path).await?));
    }
    // Only the scheme: the rest of a URL may contain a password.
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    let cause = format!("`{scheme}:` is not a scheme of a database");
    let doing = "reading the URL of the database";
    Err(Fault::fatal(Origin::Sink, doing, cause)
        .with_next_step("use `mysql://USER:PASSWORD@HOST:PORT/DATABASE` or `sqlite:PATH`"))
}
