//! `health`: reports by exit code whether the running service is ready, for health checks of
//! containers.

use anyhow::anyhow;
use serde_json::{Value, json};

use super::output::JSON_VERSION;
use super::{Outcome, http_client, print};
use crate::config::Settings;
use crate::config::cli::HealthArgs;

/// Runs the command.
///
/// # Errors
/// The service is not ready (with the reason), or does not answer. With `--json`, these are printed
/// and an outcome with the same exit code.
pub(super) async fn execute(settings: &Settings, args: &HealthArgs) -> anyhow::Result<Outcome> {
    let health = ask(settings).await;
    let is_ready = health.not_ready.is_none();
    if args.json {
        let object = json!({
            "version": JSON_VERSION, "addr": settings.http_addr, "answers": health.answers,
            "ready": is_ready, "reason": health.reason
        });
        print(&format!("{object}\n"))?;
    }
    match health.not_ready {
        None => Ok(Outcome::Complete),
        Some(_) if args.json => Ok(Outcome::Failed),
        Some(error) => Err(error),
    }
}

/// What a service says of itself.
struct Health {
    /// Whether a service answers at the address.
    answers: bool,
    /// `None` if the service of the settings is ready.
    not_ready: Option<anyhow::Error>,
    /// Why it is not ready, as the service itself says it.
    reason: Value,
}

impl Health {
    fn unknown(answers: bool, error: anyhow::Error) -> Self {
        Self {
            answers,
            reason: format!("{error:#}").into(),
            not_ready: Some(error),
        }
    }
}

async fn ask(settings: &Settings) -> Health {
    let Some(addr) = settings.http_addr else {
        let off = "HTTP is off: set --http-addr to the address of the service";
        return Health::unknown(false, anyhow!(off));
    };
    let (code, body) = match http_client::page(addr, "/readyz").await {
        Ok(answer) => answer,
        Err(error) => {
            let why = format!(
                "no service answers at {addr}: {error}; start `task_runner`, or set --http-addr to \
                 the address of the service"
            );
            return Health::unknown(false, anyhow!(why));
        }
    };
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let work = answer["work"].as_str().unwrap_or_default();
    if let Err(other) = http_client::check_work(addr, work, settings) {
        return Health::unknown(true, other);
    }
    let not_ready =
        (code != 200).then(|| anyhow!("the service at {addr} is not ready: {}", body.trim()));
    Health {
        answers: true,
        not_ready,
        reason: answer["reason"].clone(),
    }
}
