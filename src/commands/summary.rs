//! `summary`: refreshes or rebuilds the daily summary.

use std::sync::Arc;

use serde_json::json;

use super::output::JSON_VERSION;
use super::{Outcome, STOPPED_BEFORE, ending, note, open_database, print};
use crate::config::Settings;
use crate::config::cli::SummaryArgs;
use crate::fault::Fault;
use crate::retry::GivenUp;
use crate::sink::{Migration, SummaryStore};
use crate::summary::{self, Accumulator};

/// Runs the command.
pub(super) async fn execute(settings: &Settings, args: &SummaryArgs) -> anyhow::Result<Outcome> {
    let shutdown = ending::on_signals(settings.drain_timeout)?;
    let opening = async {
        let database = open_database(settings).await?;
        let asked = Migration {
            any_zone: args.rebuild,
            ..Migration::default()
        };
        database.migrate_as(&settings.datasets, asked).await?;
        Ok::<_, Fault>(database)
    };
    let Some(database) = shutdown.unless_draining(opening).await? else {
        note(STOPPED_BEFORE);
        return Ok(Outcome::Stopped);
    };
    let store: Arc<dyn SummaryStore> = database;
    let refreshed = if args.rebuild {
        summary::rebuild(&store, &settings.datasets, &shutdown.drain).await
    } else {
        summary::refresh(
            &Accumulator::new(store),
            &settings.datasets,
            None,
            &shutdown.drain,
        )
        .await
    };
    match refreshed {
        Ok(done) => {
            let (files, rows) = (done.files, done.rows_read);
            let said = if args.json {
                json!({"version": JSON_VERSION, "files": files, "rows_read": rows}).to_string()
            } else {
                format!("summary: up to date; {files} new files, {rows} rows read")
            };
            print(&format!("{said}\n"))?;
            Ok(Outcome::Complete)
        }
        Err(GivenUp::Stopped) => {
            note("stopped before the end; nothing is lost, run it again to continue");
            Ok(Outcome::Stopped)
        }
        Err(GivenUp::Fatal(fault)) => Err(fault.into()),
    }
}
