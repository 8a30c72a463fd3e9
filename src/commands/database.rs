//! Opens the database of the settings for commands, and has the queries that several of them use.

use std::sync::Arc;

use anyhow::anyhow;

use super::exit::NoInput;
use crate::config::Settings;
use crate::fault::Fault;
use crate::inbox;
use crate::sink::{self, Database, LedgerFile, Migration, Operators, SinkOptions};

const NO_DATABASE: &str = "there is no database yet: load a file first, or name another database with \
    DATABASE_URL or --data-dir";

/// Connects to the database of the settings.
pub(super) async fn open_database(settings: &Settings) -> Result<Arc<dyn Database>, Fault> {
    // A command sends one query at a time.
    let options = SinkOptions {
        connections: 1,
        ..settings.sink_options()
    };
    sink::open(&settings.database_url, &options).await
}

/// Connects to the database of the settings. Fails if it is a SQLite file that does not exist: if
/// it were created, a wrong path would give an empty list.
pub(super) async fn open_existing(settings: &Settings) -> anyhow::Result<Arc<dyn Database>> {
    if let Some(path) = settings.sqlite_path().filter(|path| !path.exists()) {
        return Err(anyhow::Error::new(NoInput(path.display().to_string())).context(NO_DATABASE));
    }
    Ok(open_database(settings).await?)
}

/// Connects to the database of the settings, as [`open_existing`] does, and migrates its tables.
pub(super) async fn open_for_operators(settings: &Settings) -> anyhow::Result<Arc<dyn Database>> {
    let database = open_existing(settings).await?;
    database.migrate(&settings.datasets).await?;
    Ok(database)
}

/// Connects to the database of the settings for a repair. Migrates only the ledger: a complete
/// migration refuses a table that lost its rows, and a repair restores them. Files that a killed
/// process has hidden in the middle of a move get their names back, so that the repair finds them.
pub(super) async fn open_for_repairs(settings: &Settings) -> anyhow::Result<Arc<dyn Database>> {
    if let Some(path) = settings.sqlite_path().filter(|path| !path.exists()) {
        return Err(anyhow::Error::new(NoInput(path.display().to_string())).context(NO_DATABASE));
    }
    let database = sink::open(&settings.database_url, &settings.sink_options()).await?;
    let ledger_only = Migration {
        ledger_only: true,
        ..Migration::default()
    };
    database.migrate_as(&settings.datasets, ledger_only).await?;
    inbox::clear_up_all(&settings.dirs, settings.inbound_recursive);
    Ok(database)
}

/// The ledger entry of a file. `None` if the ledger does not have it.
pub(super) async fn ledger_file(
    operators: &dyn Operators,
    file_no: u32,
) -> Result<Option<LedgerFile>, Fault> {
    let only = file_no..file_no.saturating_add(1);
    Ok(operators.files(only, None, 1).await?.pop())
}

/// The ledger entry of a file that the user named. An error if the ledger does not have it.
pub(super) async fn wanted_file(
    operators: &dyn Operators,
    file_no: u32,
) -> anyhow::Result<LedgerFile> {
    let found = ledger_file(operators, file_no).await?;
    found.ok_or_else(|| anyhow!("the ledger has no file {file_no}; see `task_runner files list`"))
}
