//! `health`: reports by exit code whether the running service is ready, for health checks of
//! containers.

use anyhow::{Context as _, bail};

use super::{Outcome, http_client};
use crate::config::Settings;

/// Runs the command.
///
/// # Errors
/// The service is not ready (with the reason), or does not answer.
pub(super) async fn execute(settings: &Settings) -> anyhow::Result<Outcome> {
    let Some(addr) = settings.http_addr else {
        bail!("HTTP is off: set --http-addr to the address of the service");
    };
    let answer = http_client::page(addr, "/readyz").await;
    let (code, body) = answer.with_context(|| format!("no service answers at {addr}"))?;
    let answer: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
    http_client::check_work(addr, answer["work"].as_str().unwrap_or_default(), settings)?;
    if code != 200 {
        bail!("the service at {addr} is not ready: {}", body.trim());
    }
    Ok(Outcome::Complete)
}
