//! `run`: the service.

use std::sync::Arc;

use super::Outcome;
use crate::config::Settings;
use crate::config::cli::RunArgs;
use crate::http::Http;
use crate::retry::{GivenUp, until_ok};
use crate::runner::{self, Stop};
use crate::telemetry;

/// Runs the command: until a signal.
///
/// # Errors
/// A fatal fault, or an address that HTTP cannot have.
pub(super) async fn execute(settings: Settings, _args: RunArgs) -> anyhow::Result<Outcome> {
    let metrics = telemetry::install();
    telemetry::begin_at_zero(&settings.datasets);
    let http = match settings.http_addr {
        Some(addr) => Some(Http::bind(addr).await?),
        None => None,
    };
    let stop = Stop::on_signals(settings.drain_timeout)?;
    let opened = until_ok(
        "connecting",
        &stop.quiet,
        |_| {},
        || async {
            let engine = runner::open(&settings, None, true).await?;
            engine.sink.migrate(&engine.datasets).await?;
            Ok(engine)
        },
    );
    let engine = match opened.await {
        Ok(engine) => engine,
        Err(GivenUp::Stopped) => return Ok(Outcome::Complete),
        Err(GivenUp::Fatal(fault)) => return Err(fault.into()),
    };
    tracing::info!(inbound = ?settings.dirs.inbound, "ready");
    let page = async {
        match http {
            Some(http) => {
                http.serve(metrics, Arc::new(engine.clone()), stop.quiet.clone())
                    .await
            }
            None => Ok(()),
        }
    };
    tokio::try_join!(async { anyhow::Ok(page.await?) }, async {
        Ok(engine.serve(&stop).await?)
    })?;
    tracing::info!("stopped; nothing is lost, the next start goes on");
    Ok(Outcome::Complete)
}
