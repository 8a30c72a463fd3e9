//! `migrate`: creates the tables or brings them up to date, and builds missing indexes.

use tokio_util::sync::CancellationToken;

use crate::config::cli::MigrateArgs;
use crate::config::{Settings, redacted};
use crate::sink::Migration;

use crate::runner::{self, Built};
use crate::sink::KeptIndex;

use super::{Outcome, open_database, print};

/// Runs the command: migrates the database, or prints the statements that create a new one.
pub(super) async fn execute(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<Outcome> {
    let database = open_database(settings).await?;
    if args.print {
        let statements = database.schema(&settings.datasets).await?;
        print(&(statements.join(";\n\n") + ";\n"))?;
        return Ok(Outcome::Complete);
    }
    let asked = Migration {
        keep_rows: args.keep_rows,
        add: args.add,
        ..Migration::default()
    };
    database.migrate_as(&settings.datasets, asked).await?;
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
    match runner::build_missing(database.as_ref(), &CancellationToken::new()).await? {
        Built::All(built) => {
            for KeptIndex { table, name, .. } in built {
                print(&format!("built the index `{name}` of `{table}`\n"))?;
            }
        }
        Built::ByAnother => eprintln!("another process builds the indexes that it has deferred"),
        Built::Stopped => unreachable!("nothing stops it"),
    }
    print(&format!(
        "{}: up to date: {}\n",
        redacted(&settings.database_url),
        tables.join(", ")
    ))?;
    Ok(Outcome::Complete)
}
