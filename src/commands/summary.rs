//! `summary`: the daily summary, brought up to date or made again.

use crate::config::Settings;
use crate::config::cli::SummaryArgs;

use super::{Outcome, open_sink, say};

/// Refreshes the summary of each dataset that has one.
pub(super) async fn execute(settings: &Settings, args: &SummaryArgs) -> anyhow::Result<Outcome> {
    let sink = open_sink(settings).await?;
    sink.migrate(&settings.datasets).await?;
    for dataset in settings
        .datasets
        .iter()
        .filter(|dataset| dataset.summary.is_some())
    {
        if args.rebuild {
            sink.summary_reset(dataset).await?;
        }
    }
    // The seam to `summary::refresh`, which is being written.
    say("summary: up to date\n")?;
    Ok(Outcome::Complete)
}
