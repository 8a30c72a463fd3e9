//! `health`: reports by exit code whether the running service is ready, for health checks of
//! containers.

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::output::JSON_VERSION;
use super::{Outcome, http_client, print};
use crate::config::Settings;
use crate::config::cli::HealthArgs;

/// Runs the command.
///
/// # Errors
/// The service is not ready (with the reason), or does not answer. With `--json`, these two are
/// printed and an outcome with the same exit code.
pub(super) async fn execute(settings: &Settings, args: &HealthArgs) -> anyhow::Result<Outcome> {
    let Some(addr) = settings.http_addr else {
        bail!("HTTP is off: set --http-addr to the address of the service");
    };
    let answer = http_client::page(addr, "/readyz").await;
    let answer = answer.with_context(|| format!("no service answers at {addr}"));
    let answer = match answer {
        Err(error) if args.json => {
            let reason = format!("{error:#}");
            let health = json!({
                "version": JSON_VERSION, "addr": addr.to_string(), "answers": false, "ready": false,
                "reason": reason
            });
            print(&format!("{health}\n"))?;
            return Ok(Outcome::Failed);
        }
        answer => answer,
    };
    let (code, body) = answer?;
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    http_client::check_work(addr, answer["work"].as_str().unwrap_or_default(), settings)?;
    let ready = code == 200;
    if args.json {
        let health = json!({
            "version": JSON_VERSION, "addr": addr.to_string(), "answers": true, "ready": ready,
            "reason": answer["reason"]
        });
        print(&format!("{health}\n"))?;
        return Ok(if ready {
            Outcome::Complete
        } else {
            Outcome::Failed
        });
    }
    if !ready {
        bail!("the service at {addr} is not ready: {}", body.trim());
    }
    Ok(Outcome::Complete)
}
