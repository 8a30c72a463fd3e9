//! `migrate`: creates the tables or brings them up to date.

use crate::config::cli::MigrateArgs;
use crate::config::{Settings, redacted};

use super::{Outcome, open_database, print};

/// Runs the command: migrates the database, or prints the statements that create a new one.
pub(super) async fn execute(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<Outcome> {
    let database = open_database(settings).await?;
    if args.print {
        let statements = database.schema(&settings.datasets).await?;
        print(&(statements.join(";\n\n") + ";\n"))?;
        return Ok(Outcome::Complete);
    }
    if args.keep_rows {
        database.migrate_keeping_rows(&settings.datasets).await?;
    } else {
        database.migrate(&settings.datasets).await?;
    }
    let tables: Vec<_> = settings
        .datasets
        .iter()
        .flat_map(|dataset| {
            let summary = dataset
                .summary
                .as_ref()
                .map(|summary| summary.table.as_str());
            [Some(dataset.table.as_str()), summary]
        })
        .flatten()
        .collect();
    print(&format!(
        "{}: up to date: {}\n",
        redacted(&settings.database_url),
        tables.join(", ")
    ))?;
    Ok(Outcome::Complete)
}
