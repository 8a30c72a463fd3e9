//! `migrate`: creates the tables or brings them up to date, and builds missing indexes.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::cli::MigrateArgs;
use crate::config::{Settings, redacted};
use crate::sink::Migration;

use crate::runner::{self, Built};
use crate::sink::KeptIndex;

use super::output::JSON_VERSION;
use super::{Outcome, open_database, print};

/// Runs the command: migrates the database, or prints the statements that create a new one.
pub(super) async fn execute(settings: &Settings, args: &MigrateArgs) -> anyhow::Result<Outcome> {
    let database = open_database(settings).await?;
    if args.print {
        let statements = database.schema(&settings.datasets).await?;
        if args.json {
            let statements = json!({"version": JSON_VERSION, "statements": statements});
            print(&format!("{statements}\n"))?;
        } else {
            print(&(statements.join(";\n\n") + ";\n"))?;
        }
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
    let built = runner::build_missing(database.as_ref(), &CancellationToken::new()).await?;
    let by_another = matches!(built, Built::ByAnother);
    let built = match built {
        Built::All(built) => built,
        Built::ByAnother => Vec::new(),
        Built::Stopped => unreachable!("nothing stops it"),
    };
    if by_another {
        eprintln!("another process builds the indexes that it has deferred");
    }
    let database = redacted(&settings.database_url);
    if args.json {
        let index = |index: &KeptIndex| json!({"table": index.table, "name": index.name});
        let built: Vec<Value> = built.iter().map(index).collect();
        let report = json!({
            "version": JSON_VERSION, "database": database, "tables": tables, "built_indexes": built,
            "indexes_built_by_another": by_another
        });
        print(&format!("{report}\n"))?;
        return Ok(Outcome::Complete);
    }
    for KeptIndex { table, name, .. } in built {
        print(&format!("built the index `{name}` of `{table}`\n"))?;
    }
    print(&format!("{database}: up to date: {}\n", tables.join(", ")))?;
    Ok(Outcome::Complete)
}
