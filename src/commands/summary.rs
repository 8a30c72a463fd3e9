//! `summary`: the daily summary, brought up to date or made again.

use tokio_util::sync::CancellationToken;

use super::{Outcome, open_sink, say};
use crate::config::Settings;
use crate::config::cli::SummaryArgs;
use crate::retry::GivenUp;
use crate::summary::{self, Accumulator};

/// Refreshes the summaries of all datasets from the settled files.
pub(super) async fn execute(settings: &Settings, args: &SummaryArgs) -> anyhow::Result<Outcome> {
    let sink = open_sink(settings).await?;
    sink.migrate(&settings.datasets).await?;
    let stop = CancellationToken::new();
    let refreshed = if args.rebuild {
        summary::rebuild(&sink, &settings.datasets, &stop).await
    } else {
        let nothing = Accumulator::default();
        summary::refresh(&sink, &settings.datasets, &nothing, &stop).await
    };
    match refreshed {
        Ok(done) => {
            let (files, rows) = (done.files, done.rows_read);
            say(&format!(
                "summary: up to date; {files} new files, {rows} rows read\n"
            ))?;
            Ok(Outcome::Complete)
        }
        Err(GivenUp::Stopped) => Ok(Outcome::Stopped),
        Err(GivenUp::Fatal(fault)) => Err(fault.into()),
    }
}
