//! `migrate`: the tables, created or brought up to date.

use crate::config::cli::MigrateArgs;
use crate::config::{Settings, redacted};

use super::{Outcome, open_sink, say};

/// Migrates the database of the settings, or prints what that would be.
pub(super) async fn execute(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<Outcome> {
    if args.print {
        say(&statements(settings)?)?;
        return Ok(Outcome::Complete);
    }
    open_sink(settings)
        .await?
        .migrate(&settings.datasets)
        .await?;
    let tables: Vec<_> = settings
        .datasets
        .iter()
        .map(|dataset| dataset.table.as_str())
        .collect();
    say(&format!(
        "{}: up to date: {}\n",
        redacted(&settings.database_url),
        tables.join(", ")
    ))?;
    Ok(Outcome::Complete)
}

/// The SQL of a fresh database.
fn statements(_settings: &Settings) -> anyhow::Result<String> {
    // The seam to the sink's schema, which is being written.
    anyhow::bail!("`migrate --print` is not in this build yet")
}
