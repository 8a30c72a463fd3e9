//! Opens the database file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::directory;
use crate::fault::{Fault, Origin};

use super::errors::Failure;

/// How long a statement waits for another process that writes to the same file.
const BUSY_WAIT: Duration = Duration::from_secs(5);

/// Most prepared statements that the connection keeps: a few for the ledger, a few for each
/// dataset.
const STATEMENTS_KEPT: usize = 128;

/// The settings of the connection: a write-ahead log, so that readers (such as `sqlite3` in a
/// shell) do not block the writer; FULL, so that a commit survives a power cut; 16 MiB of cache.
const SETUP: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = \
                     -16384; PRAGMA temp_store = MEMORY;";

/// The connection to a database file, which is made if it does not exist.
pub(super) fn connect(path: &str) -> Result<Connection, Fault> {
    const DOING: &str = "opening the database file";
    let parent = Path::new(path)
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        directory::create_private(parent).map_err(|error| {
            let doing = format!(
                "creating the directory {} of the database",
                parent.display()
            );
            Fault::fatal(Origin::Sink, doing, error)
                .with_next_step("make the directory above it writable")
        })?;
    }
    make_private(path);
    let open = || -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_WAIT)?;
        connection.execute_batch(SETUP)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
        Ok(connection)
    };
    open().map_err(|error| Failure::from(error).into_fault(&format!("{DOING} {path}")))
}

/// Creates a database file that only this user can read. SQLite gives the files beside it, `-wal`
/// and `-shm`, the mode of the database file. If this fails, opening the file fails as well and
/// reports the error.
fn make_private(path: &str) {
    let _ = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
}
